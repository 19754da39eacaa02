//! C plugins on live connections: what becomes of the bytes, of faults, of crashes, and of libraries that are replaced.

#[path = "../../plugins/cc.rs"]
pub(crate) mod cc;

mod bounded;
mod bytes;
mod crash;
mod faults;
mod open;
mod replace;

use std::fs;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};

use serde_json::Value;

use crate::harness::*;
use crate::ops::listener;

/// A `[[plugin]]` with further keys.
fn plugin(name: &str, library: &Path, config: &str, keys: &str) -> String {
    let library = library.display();
    format!("[[plugin]]\nname = {name:?}\npath = \"{library}\"\nconfig = {config:?}\n{keys}\n")
}

/// A `[[plugin]]` that is the hostile one.
pub(crate) fn hostile(name: &str, config: &str, keys: &str) -> String {
    plugin(name, &cc::hostile(), config, keys)
}

/// A listener on a port of its own in front of `app`, through plugins.
pub(crate) fn through(name: &str, plugins: &[&str]) -> String {
    listener(name, "127.0.0.1:0", "app", &format!("plugins = {plugins:?}"))
}

/// `app` is this backend; then plugins and listeners.
fn arus(backend: &Backend, rest: &str) -> Arus {
    Setup::new(body(backend, rest)).start()
}

fn body(backend: &Backend, rest: &str) -> String {
    crate::ops::upstream("app", &[backend], "") + rest
}

/// A backend that keeps what comes until FIN or RST, hands it out with how it ended, and answers nothing.
fn collector() -> (Backend, Receiver<(Vec<u8>, End)>) {
    answering(b"")
}

/// A backend that says `answer` and FIN once it has heard FIN, and hands out what it heard.
fn answering(answer: &'static [u8]) -> (Backend, Receiver<(Vec<u8>, End)>) {
    let (heard, hears) = channel();
    let backend = Backend::start(move |mut stream: Stream, _| {
        let all = read_to_end(&mut stream);
        let _ = stream.try_write_all(answer);
        let _ = heard.send(all);
    });
    (backend, hears)
}

/// What comes, and how it ends.
fn read_to_end(stream: &mut Stream) -> (Vec<u8>, End) {
    let (mut all, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
    loop {
        match stream.read_some(&mut buffer) {
            Ok(0) => return (all, End::Fin),
            Ok(count) => all.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("no end after {} bytes", all.len()),
            Err(_) => return (all, End::Reset),
        }
    }
}

/// Sends everything and FIN from a thread of its own, and reads to the end: an echo may be larger than what buffers hold.
fn exchange(address: &Address, bytes: Vec<u8>) -> (Vec<u8>, End) {
    let mut stream = Stream::connect(address);
    let mut writer = stream.try_clone();
    let sender = std::thread::spawn(move || {
        let _ = writer.try_write_all(&bytes);
        let _ = writer.0.shutdown(std::net::Shutdown::Write);
    });
    let all = read_to_end(&mut stream);
    sender.join().unwrap();
    all
}

/// What `arus status` says of a plugin.
fn status(arus: &Arus, name: &str) -> Value {
    let status = arus.status();
    let plugins = status["plugins"].as_array().unwrap_or_else(|| panic!("no plugins in {status:#}"));
    let plugin = plugins.iter().find(|plugin| plugin["name"] == name);
    plugin.unwrap_or_else(|| panic!("no {name} in {plugins:#?}")).clone()
}

fn count(arus: &Arus, name: &str, key: &str) -> u64 {
    let status = status(arus, name);
    status[key].as_u64().unwrap_or_else(|| panic!("no number {key} in {status:#}"))
}

/// Waits for a line of the log, after `from` others, in which all these words stand.
pub(crate) fn line_with(arus: &Arus, from: usize, words: &[&str]) -> Value {
    let has_all = |line: &&Value| {
        let text = line.to_string();
        words.iter().all(|word| text.contains(word))
    };
    arus.log.wait(DEADLINE, &format!("a line with {words:?}"), |lines| lines[from..].iter().find(has_all).cloned())
}

/// Puts a library where a configuration expects it, as a deployment would: whole, under another name, then moved.
fn install(library: &Path, place: &Path) {
    let beside = place.with_extension("new");
    fs::copy(library, &beside).unwrap();
    fs::rename(&beside, place).unwrap();
}
