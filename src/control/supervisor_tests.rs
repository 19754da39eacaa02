//! The supervisor with shards that are threads which only answer.

use super::*;
use crate::control::fixture::plan;
use crate::control::handle::ReloadRefused;
use crate::shard::command::Command;
use std::collections::HashMap;
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::mpsc as std_mpsc;
use tempfile::TempDir;

/// Answers commands as a shard does, and listens on its sockets without accepting.
fn fake_shard(parts: shard::Parts) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().spawn(move || {
        let mut sockets = HashMap::new();
        for command in &parts.inbox.commands {
            match command {
                Command::Apply(handover, reply) => {
                    let named: Vec<_> = handover.binds.iter().map(|bind| bind.id).collect();
                    sockets.retain(|id, _| named.contains(id));
                    sockets.extend(handover.binds.into_iter().filter_map(|bind| Some((bind.id, bind.socket?))));
                    reply.send(parts.id);
                }
                Command::Kill(_, reply) => reply.send(false),
                Command::Latencies(reply) => reply.send(Default::default()),
                Command::Sessions(reply) => reply.send(Vec::new()),
                Command::SomeSessions { reply, .. } => reply.send((Vec::new(), None)),
                Command::Done(..) => {}
                Command::Drain(_, reply) => {
                    reply.send(parts.id);
                    return;
                }
                Command::Addresses(..) | Command::BackendDown(_) | Command::SlotFreed(_) | Command::Look(..) => {}
            }
        }
    })
}

/// An arus on a thread of its own.
struct Running {
    directory: TempDir,
    next: Arc<Mutex<Result<Plan, Vec<String>>>>,
    control: Control,
    thread: JoinHandle<Result<(), Vec<String>>>,
}

fn start(
    change: impl FnOnce(Plan) -> Plan,
    spawn: impl Fn(shard::Parts) -> io::Result<JoinHandle<()>> + Send + 'static,
    with_file: bool,
) -> Result<Running, Vec<String>> {
    let directory = tempfile::tempdir().unwrap();
    let plan = change(plan(directory.path()));
    let next = Arc::new(Mutex::new(Ok(plan.clone())));
    let path = with_file.then(|| directory.path().join("proxy.toml"));
    if let Some(path) = &path {
        std::fs::write(path, "first").unwrap();
    }
    let (sender, control) = std_mpsc::channel();
    let loads = Arc::clone(&next);
    let thread = std::thread::spawn(move || {
        let load = move || loads.lock().unwrap().clone().map(|plan| Loaded { plan, warnings: Vec::new() });
        let serve = move |control: Control, listener: tokio::net::UnixListener, _: Listeners| -> Task {
            sender.send(control).unwrap();
            Box::pin(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    drop(stream);
                }
            })
        };
        let hooks = Hooks { spawn: Box::new(spawn), serve: Box::new(serve), ..Hooks::default() };
        supervise(Source::new(path, Arc::new(load)), Loaded { plan, warnings: Vec::new() }, hooks)
            .map_err(|refused| refused.lines)
    });
    match control.recv() {
        Ok(control) => Ok(Running { directory, next, control, thread }),
        Err(_) => Err(thread.join().unwrap().unwrap_err()),
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

impl Running {
    fn reload(&self, next: Result<Plan, Vec<String>>) -> Result<u64, ReloadRefused> {
        *self.next.lock().unwrap() = next;
        block_on(self.control.reload()).map(|generation| generation.0)
    }

    fn address(&self) -> String {
        self.control.view().binds[0].address.to_string()
    }

    fn stop(self) -> Result<(), Vec<String>> {
        block_on(self.control.drain());
        self.thread.join().unwrap()
    }
}

fn web(plan: Plan) -> Plan {
    plan.with_listener("web", &["127.0.0.1:0"])
}

#[test]
fn starts_reloads_and_stops() {
    let arus = start(web, fake_shard, false).unwrap();
    let address = arus.address();
    assert!(TcpStream::connect(&address).is_ok());
    let base = || plan(arus.directory.path());

    let two = web(base()).with_listener("more", &["127.0.0.1:0"]);
    assert_eq!(arus.reload(Ok(two)), Ok(2));
    assert_eq!(arus.address(), address, "port 0 stays the port it is");
    assert_eq!(arus.control.view().binds.len(), 2);

    let refused = arus.reload(Err(vec!["a".into(), "b".into()])).unwrap_err();
    assert_eq!(refused.errors, ["a", "b"]);
    let refused = arus.reload(Ok(web(base()).with_listener("bad", &["192.0.2.77:80"]))).unwrap_err();
    assert!(refused.errors[0].starts_with("built-in example:2:1: listener `bad`"), "{refused}");
    assert_eq!(arus.control.view().snapshot.generation.0, 2);
    assert_eq!(arus.control.view().binds.len(), 2);

    assert_eq!(arus.reload(Ok(base())), Ok(3));
    assert!(TcpStream::connect(&address).is_err(), "the shards have closed it, and control holds nothing");
    let reloads = arus.control.reloads();
    assert_eq!((reloads.ok, reloads.failed), (2, 2));
    let socket = arus.control.view().snapshot.plan.admin.socket.clone();
    assert!(socket.exists());
    let control = arus.control.clone();
    arus.stop().unwrap();
    assert!(!socket.exists());
    assert!(control.view().draining);
    assert_eq!(block_on(control.reload()).unwrap_err().errors, ["arus is stopping"]);
}

#[test]
fn a_burst_of_reloads_is_answered_whole() {
    let arus = start(web, fake_shard, false).unwrap();
    let generations = block_on(async {
        let mut reloads = tokio::task::JoinSet::new();
        for _ in 0..40 {
            let control = arus.control.clone();
            reloads.spawn(async move { control.reload().await.unwrap().0 });
        }
        reloads.join_all().await
    });
    assert_eq!(generations.len(), 40);
    assert!(generations.iter().max().unwrap() < &40, "{generations:?}");
    arus.stop().unwrap();
}

#[test]
fn a_changed_file_is_taken_up_and_an_equal_plan_is_not() {
    let arus = start(web, fake_shard, true).unwrap();
    let path = arus.directory.path().join("proxy.toml");
    std::fs::write(&path, "only a comment").unwrap();
    let mut changed = arus.next.lock().unwrap().clone().unwrap();
    while arus.control.reloads().ok == 0 {
        std::thread::yield_now();
    }
    assert_eq!(arus.control.view().snapshot.generation.0, 1);
    changed.engine.max_connections = 7;
    *arus.next.lock().unwrap() = Ok(changed);
    std::fs::write(&path, "something else").unwrap();
    while arus.control.reloads().ok == 1 {
        std::thread::yield_now();
    }
    assert_eq!(arus.control.view().snapshot.connections.limit(), 7);
    arus.stop().unwrap();
}

#[test]
fn a_second_arus_with_the_same_state_is_refused() {
    let arus = start(web, fake_shard, false).unwrap();
    let state_dir = arus.directory.path().to_path_buf();
    let socket = state_dir.join("control.sock");
    let twin = move |mut plan: Plan| {
        plan.engine.state_dir = state_dir;
        plan.admin.socket = socket;
        web(plan)
    };
    let Err(lines) = start(twin, fake_shard, false) else { panic!("it started") };
    assert!(lines[0].starts_with("another arus is running with this state"), "{lines:?}");
    arus.stop().unwrap();
}

#[test]
fn a_shard_that_cannot_start_is_one_line() {
    let broken = |parts: shard::Parts| {
        parts.events.send(Event::Failed(parts.id, "no ring".into())).unwrap();
        std::thread::Builder::new().spawn(move || drop(parts.inbox.commands.recv()))
    };
    let Err(lines) = start(web, broken, false) else { panic!("it started") };
    assert_eq!(lines.len(), 1);
    assert!(lines[0].starts_with("shard ") && lines[0].ends_with("has failed: no ring"), "{lines:?}");
}

#[test]
fn a_shard_that_ends_ends_the_process() {
    let (kill, killed) = crossbeam::channel::bounded::<()>(1);
    let mortal = move |parts: shard::Parts| {
        let killed = killed.clone();
        let inbox = parts.inbox.commands.clone();
        std::thread::Builder::new().spawn(move || {
            while let Ok(command) = inbox.recv() {
                if let Command::Apply(_, reply) = command {
                    reply.send(parts.id);
                    let _ = killed.recv();
                    return;
                }
            }
        })
    };
    let arus = start(web, mortal, false).unwrap();
    drop(kill);
    let lines = arus.thread.join().unwrap().unwrap_err();
    assert!(lines[0].contains("has ended"), "{lines:?}");
}

/// What the process of `in_a_child` tells systemd, until it has told `wanted`.
fn told(socket: &std::os::unix::net::UnixDatagram, wanted: &str) -> String {
    let mut heard = String::new();
    let mut datagram = [0; 1024];
    while !heard.split('\n').any(|line| line == wanted) {
        let length = socket.recv(&mut datagram).unwrap_or_else(|error| panic!("{wanted}: {error}; heard {heard:?}"));
        heard.push_str(&String::from_utf8_lossy(&datagram[..length]));
        heard.push('\n');
    }
    heard
}

/// Signals and the environment belong to a whole process, so this one has its own.
#[test]
fn obeys_signals_and_keeps_systemd_informed() {
    let directory = tempfile::tempdir().unwrap();
    let notify = directory.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&notify).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "control::supervisor::tests::in_a_child", "--ignored", "--test-threads=1"])
        .env("NOTIFY_SOCKET", &notify)
        .env("WATCHDOG_USEC", "200000")
        .env_remove("WATCHDOG_PID")
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let pid = child.id().to_string();
    let signal = |name: &str| {
        assert!(std::process::Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    };
    told(&socket, "READY=1");
    told(&socket, "WATCHDOG=1");
    signal("HUP");
    let heard = told(&socket, "RELOADING=1");
    assert!(heard.contains("MONOTONIC_USEC="), "{heard}");
    told(&socket, "READY=1");
    told(&socket, "WATCHDOG=1");
    signal("TERM");
    told(&socket, "STOPPING=1");
    // Its shards never finish draining: only a second signal ends it so soon. What comes at once is the same one.
    signal("TERM");
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none());
    signal("INT");
    let begun = std::time::Instant::now();
    assert!(child.wait().unwrap().success());
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[test]
#[ignore = "run in a process of its own by obeys_signals_and_keeps_systemd_informed"]
fn in_a_child() {
    let stubborn = |parts: shard::Parts| {
        let (relay, inbox) = crossbeam::channel::unbounded();
        let receiver = parts.inbox.commands.clone();
        let mut parts = parts;
        parts.inbox.commands = inbox;
        let thread = fake_shard(parts)?;
        std::thread::Builder::new().spawn(move || {
            let mut unanswered = Vec::new();
            for command in receiver {
                match command {
                    Command::Drain(..) => unanswered.push(command),
                    command => drop(relay.send(command)),
                }
            }
            drop(thread);
        })
    };
    let slow = |mut plan: Plan| {
        plan.engine.drain_timeout = Duration::from_secs(60);
        web(plan)
    };
    let arus = start(slow, stubborn, false).unwrap();
    arus.thread.join().unwrap().unwrap();
}
