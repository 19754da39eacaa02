//! Plugins that are compiled here, and a connection without sockets: what all tests of this layer use.
#![allow(clippy::unwrap_used)]

mod faults;
mod flow;
mod loading;
mod simulation;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use super::counters::PluginState;
use super::watch::Watch;
use super::*;
use crate::config::plan::OnFault;
use crate::ring::{Buffers, Chain};
use crate::types::{Client, Generation, SessionId, ShardId};

const TRUST: Trust = Trust { owner: None, writers: None };

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/plugin/tests/script.c")
}

/// Compiles `source` with more arguments for the compiler.
fn compile(source: &Path, arguments: &[&str], to: &Path) {
    let output = Command::new("cc")
        .args(["-std=gnu99", "-O1", "-Wall", "-Wextra", "-fPIC", "-shared", "-fvisibility=hidden"])
        .arg(format!("-I{}/c_plugins", env!("CARGO_MANIFEST_DIR")))
        .args(arguments)
        .arg("-o")
        .arg(to)
        .arg(source)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The scripted plugin, compiled and loaded once.
fn library() -> Arc<Library> {
    static LIBRARY: OnceLock<Arc<Library>> = OnceLock::new();
    let load = || {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("script.so");
        compile(&script(), &[], &path);
        LIBRARIES.lock().unwrap().load("script", &path, TRUST).unwrap()
    };
    Arc::clone(LIBRARY.get_or_init(load))
}

static LIBRARIES: Mutex<Libraries> = Mutex::new(Libraries::new());

fn terms(config: &str, on_fault: OnFault) -> Terms {
    let (name, path) = ("script".into(), PathBuf::from("script.so"));
    Terms { name, path, config: config.into(), on_fault, max_call: Duration::from_secs(3600) }
}

fn process_with(terms: Terms) -> Result<Arc<Process>, String> {
    let state = Arc::new(PluginState::new("script".into(), 1));
    Process::open(terms, library(), state, Generation(3), 1)
}

fn process(config: &str, on_fault: OnFault) -> Arc<Process> {
    process_with(terms(config, on_fault)).unwrap()
}

fn instance_of(process: &Arc<Process>) -> Rc<Instance> {
    Instance::new(Opened::new(process, ShardId(0), &Arc::new(Watch::default())).unwrap())
}

fn instance(config: &str) -> Rc<Instance> {
    instance_of(&process(config, OnFault::Close))
}

fn facts() -> Facts<'static> {
    let client = Client::Ip("192.0.2.7:51234".parse().unwrap());
    Facts {
        session: SessionId(5),
        generation: Generation(3),
        client,
        source: client,
        listener: "web",
        target: None,
        upstream: None,
        backend: None,
        sni: Some(&"example.com"),
        alpn: None,
        user: None,
    }
}

fn open(buffers: &Buffers, configs: &[&str]) -> (Line, Line) {
    let instances: Vec<_> = configs.iter().map(|config| instance(config)).collect();
    Streams::open(buffers, &instances, &facts()).unwrap().expect("somebody is interested")
}

/// Puts `bytes` behind what is in `chain`, in a buffer of its own.
fn give(buffers: &Buffers, chain: &mut Chain, bytes: &[u8]) {
    let mut buffer = buffers.take().unwrap();
    assert_eq!(buffer.extend(bytes), bytes.len());
    buffers.push(chain, buffer);
}

/// Takes all bytes out of `chain`.
fn drain(buffers: &Buffers, chain: &mut Chain) -> Vec<u8> {
    let mut bytes = Vec::new();
    buffers.copy_front(chain, usize::MAX, &mut bytes);
    buffers.release(std::mem::take(chain));
    bytes
}

/// Runs a whole stream through a line, cut as given, and drains as it goes.
fn run_all(buffers: &Buffers, line: &mut Line, pieces: &[&[u8]]) -> (Vec<u8>, Turn) {
    let (mut inbox, mut outbox, mut output) = (Chain::default(), Chain::default(), Vec::new());
    for index in 0..=pieces.len() {
        if let Some(piece) = pieces.get(index).filter(|piece| !piece.is_empty()) {
            give(buffers, &mut inbox, piece);
        }
        loop {
            let turn = line.run(&mut inbox, index == pieces.len(), &mut outbox, 40_000);
            output.extend(drain(buffers, &mut outbox));
            match turn {
                Turn::Full | Turn::Again => {}
                Turn::Wants => break,
                Turn::Detached => {
                    output.extend(drain(buffers, &mut inbox));
                    break;
                }
                turn => {
                    buffers.release(std::mem::take(&mut inbox));
                    return (output, turn);
                }
            }
        }
    }
    (output, Turn::Detached)
}
