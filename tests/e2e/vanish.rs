//! A client that vanishes without FIN: its network goes down. Namespaces of our own, so that nothing outside changes.

use std::process::Command;

use nix::sched::{CloneFlags, unshare};

use crate::harness::*;

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_client_that_vanishes_is_ended_by_the_idle_deadline() {
    if !nix::unistd::Uid::effective().is_root() || Command::new("ip").arg("-V").output().is_err() {
        println!("skipped: it needs root and ip(8) for network namespaces");
        return;
    }
    // This thread's network from now on, and that of all it starts.
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
        println!("skipped: no network namespace can be made here: {error}");
        return;
    }
    ip("link set lo up");
    let echo = Backend::start(behaviour::echo);
    let source = Backend::start(behaviour::source(64 << 20));
    let arus = Setup::new(format!(
        "[timeouts]\nidle = \"2s\"\n[[upstream]]\nname = \"echo\"\nbackends = \"{}\"\n\
         [[upstream]]\nname = \"source\"\nbackends = \"{}\"\n\
         [[listener]]\nname = \"echo\"\nlisten = \"0.0.0.0:0\"\nupstream = \"echo\"\n\
         [[listener]]\nname = \"source\"\nlisten = \"0.0.0.0:0\"\nupstream = \"source\"\n",
        echo.address(),
        source.address()
    ))
    .start();
    let before = arus.descriptors();
    let ports = ["echo", "source"].map(|listener| arus.address(listener).ip().port());
    let (ready, is_ready) = std::sync::mpsc::channel();
    let (go_on, may_go_on) = std::sync::mpsc::channel::<()>();
    let client = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ready.send(nix::unistd::gettid()).unwrap();
        may_go_on.recv().unwrap();
        ip("address add 192.0.2.2/30 dev arus1");
        ip("link set arus1 up");
        let to = |port: u16| Address::parse(&format!("192.0.2.1:{port}"));
        // One that is idle, and one with an answer on its way.
        let mut quiet = Stream::connect(&to(ports[0]));
        quiet.send(1, 0, 1000);
        quiet.expect(1, 0, 1000);
        let mut busy = Stream::connect(&to(ports[1]));
        busy.expect(0, 0, 100_000);
        ip("link set arus1 down");
        ready.send(nix::unistd::gettid()).unwrap();
        may_go_on.recv().unwrap();
        drop((quiet, busy));
    });
    let thread = is_ready.recv_timeout(DEADLINE).unwrap();
    ip(&format!("link add arus0 type veth peer name arus1 netns {thread}"));
    ip("address add 192.0.2.1/30 dev arus0");
    ip("link set arus0 up");
    go_on.send(()).unwrap();
    is_ready.recv_timeout(DEADLINE).unwrap();
    let lines = arus.finished(2);
    for line in &lines {
        assert_eq!((&line["reason"], &line["blame"]), (&"idle_timeout".into(), &"client".into()), "{line}");
        assert!(line["duration_ms"].as_f64().unwrap() >= 1900.0, "{line}");
    }
    arus.wait_active(0);
    arus.wait_buffers_whole();
    arus.wait_descriptors(before);
    eventually("the backends' connections have ended", || (echo.live() + source.live() == 0).then_some(()));
    go_on.send(()).unwrap();
    client.join().unwrap();
}
