//! Signals, and what a supervisor such as systemd is told.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::{Arus, DEADLINE, End, Setup, Stream, eventually};
use crate::ops::{ask, check_echo, configure, listener, reload, tagged, upstream};

fn simple(backend: &crate::harness::Backend) -> Setup {
    Setup::new(upstream("app", &[backend], "") + &listener("web", "127.0.0.1:0", "app", ""))
}

/// The socket that sd_notify(3) writes to.
struct Supervisor(UnixDatagram);

impl Supervisor {
    fn new(path: &std::path::Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Self(socket)
    }

    fn next(&self) -> String {
        let mut message = [0; 4096];
        let count = self.0.recv(&mut message).expect("a message to the supervisor");
        String::from_utf8_lossy(&message[..count]).into_owned()
    }

    /// The next message but those of the watchdog.
    fn next_state(&self) -> String {
        loop {
            let message = self.next();
            if message.trim() != "WATCHDOG=1" {
                return message;
            }
        }
    }
}

#[test]
fn a_supervisor_hears_of_ready_reloading_watchdog_and_stopping() {
    let a = tagged("a");
    let setup = simple(&a);
    let path = setup.directory().join("notify.sock");
    let supervisor = Supervisor::new(&path);
    let mut arus = setup.env("NOTIFY_SOCKET", path.to_str().unwrap()).env("WATCHDOG_USEC", "200000").start();
    assert_eq!(supervisor.next_state().trim(), "READY=1");
    for _ in 0..3 {
        assert_eq!(supervisor.next().trim(), "WATCHDOG=1");
    }
    let expect_reload = || {
        let reloading = supervisor.next_state();
        let mut lines = reloading.lines();
        assert_eq!(lines.next(), Some("RELOADING=1"), "{reloading}");
        let time = lines.next().and_then(|line| line.strip_prefix("MONOTONIC_USEC=")).expect("the time");
        assert!(time.parse::<u64>().is_ok_and(|time| time > 0), "{reloading}");
        assert_eq!(supervisor.next_state().trim(), "READY=1");
    };
    arus.signal(Signal::SIGHUP);
    expect_reload();
    // A refused one ends as well.
    configure(&arus, "nonsense");
    reload(&arus).unwrap_err();
    expect_reload();
    arus.signal(Signal::SIGTERM);
    while supervisor.next_state().trim() != "STOPPING=1" {}
    assert_eq!(arus.wait_exit(DEADLINE).code(), Some(0));
}

#[test]
fn a_watchdog_that_is_not_for_this_process_is_left_alone() {
    let a = tagged("a");
    let setup = simple(&a);
    let path = setup.directory().join("notify.sock");
    let supervisor = Supervisor::new(&path);
    let setup =
        setup.env("NOTIFY_SOCKET", path.to_str().unwrap()).env("WATCHDOG_USEC", "1000").env("WATCHDOG_PID", "1");
    let arus = setup.start();
    assert_eq!(supervisor.next().trim(), "READY=1");
    arus.signal(Signal::SIGHUP);
    assert!(supervisor.next().starts_with("RELOADING=1"));
}

#[test]
fn terminate_drains_and_a_second_one_does_not_wait() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let a = tagged("a");
        let mut arus = simple(&a).engine("drain_timeout = \"1h\"").start();
        let web = arus.address("web");
        let (mut live, _) = ask(&web);
        arus.signal(signal);
        arus.log.message("stopping");
        eventually("nobody listens", || Stream::try_connect(&web).is_err().then_some(()));
        // As from make, which hands on what its whole process group got: still the first one.
        arus.signal(signal);
        std::thread::sleep(Duration::from_millis(300));
        check_echo(&mut live, 1);
        assert!(arus.is_running());
        arus.signal(signal);
        arus.wait_exit(DEADLINE);
        assert!(matches!(live.discard(), (0, End::Fin | End::Reset)));
        arus.log.message("told to stop a second time");
    }
}

#[test]
fn terminate_waits_for_the_last_session_and_then_ends_with_0() {
    let a = tagged("a");
    let mut arus = simple(&a).engine("drain_timeout = \"1h\"").start();
    let (mut live, _) = ask(&arus.address("web"));
    arus.signal(Signal::SIGTERM);
    arus.log.message("stopping");
    assert_eq!(arus.request("GET", "/health").0, 503, "draining");
    let (said, ok) = arus.command(&["reload"]);
    assert!(!ok && said.contains("arus is stopping"), "{said}");
    check_echo(&mut live, 2);
    drop(live);
    assert_eq!(arus.wait_exit(DEADLINE).code(), Some(0));
    let lines = arus.log.to_the_end();
    assert!(lines.iter().any(|line| line["reason"] == "done"), "the last session is in the log");
    assert!(!arus.control_socket().exists());
}

/// Kubernetes' `preStop` runs `arus drain`, and SIGTERM follows at once.
#[test]
fn terminate_after_an_order_to_drain_still_drains() {
    let a = tagged("a");
    let mut arus = simple(&a).engine("drain_timeout = \"1h\"").start();
    let (mut live, _) = ask(&arus.address("web"));
    assert!(arus.command(&["drain"]).1);
    std::thread::sleep(Duration::from_millis(300));
    arus.signal(Signal::SIGTERM);
    std::thread::sleep(Duration::from_millis(300));
    check_echo(&mut live, 1);
    drop(live);
    assert_eq!(arus.wait_exit(DEADLINE).code(), Some(0));
}

#[test]
fn a_drain_that_takes_too_long_is_cut() {
    let a = tagged("a");
    let mut arus = simple(&a).engine("drain_timeout = \"300ms\"").start();
    let (mut live, _) = ask(&arus.address("web"));
    arus.command(&["drain"]);
    assert!(matches!(live.discard(), (0, End::Fin | End::Reset)));
    assert_eq!(arus.wait_exit(DEADLINE).code(), Some(0));
    assert!(arus.log.to_the_end().iter().any(|line| line["reason"] == "drained"));
}

fn lines(path: &std::path::Path) -> usize {
    std::fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

fn connect_and_leave(arus: &Arus, times: usize) {
    (0..times).for_each(|_| check_echo(&mut ask(&arus.address("web")).0, 1));
}

#[test]
fn hangup_opens_a_rotated_access_log_again_and_no_line_is_lost() {
    let a = tagged("a");
    let arus = simple(&a).log("format = \"json\"\naccess = \"{dir}/access.log\"").start();
    let (log, rotated) = (arus.directory().join("access.log"), arus.directory().join("access.log.1"));
    connect_and_leave(&arus, 5);
    eventually("five lines", || (lines(&log) == 5).then_some(()));
    std::fs::rename(&log, &rotated).unwrap();
    connect_and_leave(&arus, 2);
    eventually("they go on in the old file", || (lines(&rotated) == 7).then_some(()));
    arus.signal(Signal::SIGHUP);
    eventually("there is a new file", || log.exists().then_some(()));
    arus.log.message("reloaded");
    connect_and_leave(&arus, 3);
    eventually("new lines go there", || (lines(&rotated) + lines(&log) == 10).then_some(()));
    eventually("and stay there", || {
        connect_and_leave(&arus, 1);
        (lines(&log) > 0).then_some(())
    });
}

#[test]
fn a_storm_of_signals_is_survived() {
    let a = tagged("a");
    let arus = simple(&a).start();
    let (mut live, _) = ask(&arus.address("web"));
    for _ in 0..300 {
        arus.signal(Signal::SIGHUP);
        arus.signal(Signal::SIGPIPE);
        std::thread::sleep(Duration::from_micros(300));
    }
    check_echo(&mut live, 1);
    reload(&arus).unwrap();
    check_echo(&mut ask(&arus.address("web")).0, 2);
}
