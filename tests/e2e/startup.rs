//! What keeps arus from starting, each told in one line; and starting with less than root, or less than it had.

use std::fmt::Write as _;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::Command;

use serde_json::Value;

use crate::harness::{Address, DEADLINE, Process, Setup, eventually};
use crate::ops::{
    addresses, as_nobody, ask, check_echo, configure, has, is_root, listener, open_to_all, reload, tagged, upstream,
};

/// Starts arus, which must fail with exit code 1; gives the lines of its log that are errors, which must say one thing.
fn refusal(setup: Setup) -> String {
    let mut arus = setup.launch();
    let status = arus.wait_exit(DEADLINE);
    let lines = arus.log.to_the_end();
    let all: String = lines.iter().fold(String::new(), |all, line| all + &format!("{line}\n"));
    assert_eq!(status.code(), Some(1), "{all}");
    assert!(!all.contains("panic"), "{all}");
    assert!(lines.iter().all(|line| line.is_object()), "something was written past the log:\n{all}");
    assert!(!lines.iter().any(|line| line["message"] == "ready"), "{all}");
    let errors: Vec<&Value> = lines.iter().filter(|line| line["level"] == "ERROR").collect();
    assert_eq!(errors.len(), 1, "{all}");
    let error = errors[0]["message"].as_str().unwrap();
    println!("{error}");
    assert!(!error.contains('\n'), "{error}");
    error.into()
}

fn simple() -> Setup {
    Setup::to("127.0.0.1:0", &["127.0.0.1:9".into()], "", "")
}

/// Lets the child of a fork have no io_uring: io_uring_setup(2) fails with `errno`, as under a container's seccomp
/// profile.
fn forbid_io_uring(errno: u32) -> io::Result<()> {
    use nix::libc::{
        BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP,
        SECCOMP_MODE_FILTER, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SYS_io_uring_setup, prctl, sock_filter, sock_fprog,
    };
    let step = |code: u32, jt, jf, k| sock_filter { code: code as u16, jt, jf, k };
    let mut filter = [
        step(BPF_LD | BPF_W | BPF_ABS, 0, 0, 0), // seccomp_data.nr
        step(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, SYS_io_uring_setup as u32),
        step(BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | errno),
        step(BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW),
    ];
    let program = sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: prctl(2) is async-signal-safe; these calls read the filter, which outlives them, and no other memory.
    #[allow(unsafe_code, clippy::multiple_unsafe_ops_per_block)]
    let done = unsafe {
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &raw const program) == 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[test]
fn forbidden_io_uring_is_one_line_that_says_what_to_do() {
    for errno in [nix::libc::EPERM, nix::libc::ENOSYS] {
        let hook = move |command: &mut Command| {
            // SAFETY: between fork and exec only prctl(2) is called, and nothing is allocated.
            #[allow(unsafe_code)]
            unsafe {
                command.pre_exec(move || forbid_io_uring(errno as u32))
            };
        };
        let error = refusal(simple().hook(hook));
        assert!(error.contains("io_uring"), "{error}");
        assert!(error.contains("seccomp") || error.contains("kernel"), "no word on what to do: {error}");
    }
}

#[test]
fn limits_that_are_too_low_are_one_line_that_says_what_to_do() {
    let error = refusal(simple().descriptors(100));
    assert!(error.contains("RLIMIT_NOFILE is 100") && error.contains("ulimit -n"), "{error}");
    // Only who may not raise it can be short of memory to lock.
    let Some(nobody) = as_nobody() else { return };
    let setup = simple().wrap(nobody).wrap(&["prlimit", "--memlock=65536:65536"]);
    open_to_all(setup.directory());
    let error = refusal(setup);
    assert!(error.contains("RLIMIT_MEMLOCK is 64 KiB") && error.contains("ulimit -l"), "{error}");
}

#[test]
fn few_descriptors_are_a_warning_and_the_soft_limit_is_raised() {
    let a = tagged("a");
    let hook = |command: &mut Command| {
        use nix::sys::resource::{Resource, setrlimit};
        let lower = || setrlimit(Resource::RLIMIT_NOFILE, 64, 1000).map_err(Into::into);
        // SAFETY: between fork and exec only setrlimit(2) is called, which is async-signal-safe.
        #[allow(unsafe_code)]
        unsafe {
            command.pre_exec(lower)
        };
    };
    let arus = Setup::one("127.0.0.1:0", &[&a]).hook(hook).start();
    assert_eq!(ask(&arus.address("web")).1, "a");
    let limit = arus.status()["limits"]["descriptors"].as_u64().unwrap();
    // As root it may have raised the hard limit, too.
    assert!(limit >= 1000, "{limit}");
    let warned =
        arus.log.lines().iter().any(|line| line["message"].as_str().unwrap().contains("RLIMIT_NOFILE is 1000"));
    assert!(warned || limit > 1000);
}

#[test]
fn an_address_in_use_is_told_with_its_place_in_the_file() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error = refusal(Setup::to(&address, &["127.0.0.1:9".into()], "", ""));
    assert!(error.contains("proxy.toml:") && error.contains(&format!("listener `web`: {address} cannot be bound")));
    assert!(error.contains("another process listens there"), "{error}");

    // A second arus must not share the port by SO_REUSEPORT.
    let a = tagged("a");
    let first = Setup::one("127.0.0.1:0", &[&a]).start();
    let address = first.address("web").to_string();
    let error = refusal(Setup::to(&address, &["127.0.0.1:9".into()], "", ""));
    assert!(error.contains("another process listens there"), "{error}");
    assert_eq!(ask(&first.address("web")).1, "a");
}

#[test]
fn a_second_arus_with_the_same_state_is_refused_and_a_dead_ones_place_taken() {
    let a = tagged("a");
    let state = tempfile::tempdir().unwrap();
    let setup =
        || Setup::one("127.0.0.1:0", &[&a]).also(&format!("[admin]\nsocket = \"{}/s\"", state.path().display()));
    let mut first = setup().start();
    let error = refusal(setup());
    assert!(error.contains("another arus is running with this state"), "{error}");
    assert_eq!(ask(&first.address("web")).1, "a");
    let mode = state.path().join("s").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    first.signal(nix::sys::signal::Signal::SIGKILL);
    first.wait_exit(DEADLINE);
    assert!(state.path().join("s").exists(), "nobody tidied up");
    let next = setup().start();
    assert_eq!(ask(&next.address("web")).1, "a");
}

#[test]
fn more_shards_than_cpus_are_one_warning_and_all_serve() {
    let a = tagged("a");
    let arus = Setup::one("127.0.0.1:0", &[&a]).argument("--shards").argument("8").start();
    let web = arus.address("web");
    let cpus = std::thread::available_parallelism().unwrap().get();
    let warnings =
        arus.log.lines().iter().filter(|line| line["message"].as_str().unwrap().contains("shards share")).count();
    assert_eq!(warnings, usize::from(cpus < 8));
    let idle = || {
        let status = arus.status();
        let shards = status["shards"].as_array().unwrap().clone();
        assert_eq!(shards.len(), 8);
        shards.iter().filter(|shard| shard["accepted"] == 0).count()
    };
    eventually("every shard has served", || {
        (0..20).for_each(|_| check_echo(&mut ask(&web).0, 1));
        (idle() == 0).then_some(())
    });
}

#[test]
fn without_root_it_serves_the_ports_it_may_bind() {
    let Some(nobody) = as_nobody() else { return };
    let a = tagged("a");
    let setup = Setup::one("127.0.0.1:0", &[&a]).wrap(nobody);
    open_to_all(setup.directory());
    let arus = setup.start();
    assert_eq!(status_of(arus.process(), "Uid"), ["65534"; 4]);
    assert_eq!(ask(&arus.address("web")).1, "a");
    assert_eq!(reload(&arus), Ok(2));
    let socket = arus.control_socket().metadata().unwrap();
    assert_eq!((socket.uid(), socket.permissions().mode() & 0o777), (65534, 0o600));

    let low = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    if low.trim().parse::<u32>().unwrap() > 1 {
        let setup = Setup::to("127.0.0.1:1", &["127.0.0.1:9".into()], "", "").wrap(nobody);
        open_to_all(setup.directory());
        let error = refusal(setup);
        assert!(error.contains("ip_unprivileged_port_start"), "{error}");
    }
}

/// The values of a line of /proc/PID/status.
fn status_of(process: Process, key: &str) -> Vec<String> {
    let text = std::fs::read_to_string(format!("/proc/{}/status", process.0)).unwrap();
    let line =
        text.lines().find_map(|line| line.strip_prefix(&format!("{key}:"))).unwrap_or_else(|| panic!("no {key}"));
    line.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn root_is_given_up_for_good_and_a_reload_still_binds() {
    if !is_root() {
        return;
    }
    let a = tagged("a");
    let body = upstream("app", &[&a], "") + &listener("web", "127.0.0.1:0", "app", "");
    let setup = Setup::new(&body).engine("user = \"nobody\"");
    open_to_all(setup.directory());
    let arus = setup.start();
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    let (uid, gid) = (nobody.uid.to_string(), nobody.gid.to_string());
    let keeps_ports = arus.log.message("dropped root")["message"].as_str().unwrap().contains("CAP_NET_BIND_SERVICE");
    for task in std::fs::read_dir(format!("/proc/{}/task", arus.process().0)).unwrap() {
        let thread = Process(task.unwrap().file_name().to_str().unwrap().parse().unwrap());
        let name = std::fs::read_to_string(format!("/proc/{}/comm", thread.0)).unwrap();
        assert_eq!(status_of(thread, "Uid"), [uid.as_str(); 4], "{name}");
        assert_eq!(status_of(thread, "Gid"), [gid.as_str(); 4], "{name}");
        assert_eq!(status_of(thread, "Groups"), [gid.as_str()], "{name}");
        assert_eq!(status_of(thread, "NoNewPrivs"), ["1"], "{name}");
        let effective = u64::from_str_radix(&status_of(thread, "CapEff")[0], 16).unwrap();
        assert_eq!(effective & !(1 << 10), 0, "{name}: more than CAP_NET_BIND_SERVICE");
    }
    let socket = arus.control_socket().metadata().unwrap();
    assert_eq!((socket.uid(), socket.permissions().mode() & 0o777), (nobody.uid.as_raw(), 0o600));

    let mut more = body.clone() + &listener("new", "127.0.0.1:0", "app", "");
    if keeps_ports {
        let port = (600..1024).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap();
        let _ = write!(more, "{}", listener("low", &format!("127.0.0.1:{port}"), "app", ""));
    }
    configure(&arus, &more);
    reload(&arus).unwrap();
    assert_eq!(ask(&addresses(&arus, "new")[0]).1, "a");
    if keeps_ports {
        assert_eq!(ask(&addresses(&arus, "low")[0]).1, "a");
    }
    assert_eq!(ask(&arus.address("web")).1, "a");
    // Away and back, which binds again what root had bound.
    let web = arus.address("web").to_string();
    configure(&arus, &more.replace("name = \"web\"", "name = \"gone\"").replace("\"127.0.0.1:0\"", "\"127.0.0.2:0\""));
    reload(&arus).unwrap();
    configure(&arus, &(upstream("app", &[&a], "") + &listener("web", &web, "app", "")));
    eventually("the old address is free", || reload(&arus).ok());
    assert_eq!(ask(&Address::parse(&web)).1, "a");
}

#[test]
fn without_a_file_the_built_in_example_runs_and_says_so() {
    if !is_root() || !has("unshare") || !has("nsenter") || !has("curl") {
        return;
    }
    // Its ports are fixed, so it gets a network of its own; and a home where its state may lie.
    let Some(nobody) = as_nobody() else { return };
    let home = tempfile::tempdir().unwrap();
    open_to_all(home.path());
    let network = ["unshare", "--net", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"];
    let mut command = Command::new(network[0]);
    command.args(&network[1..]).args(nobody).arg(env!("CARGO_BIN_EXE_arus")).args(["--log-format", "json"]);
    command.current_dir(home.path()).env("HOME", home.path()).env_remove("XDG_STATE_HOME");
    let arus = crate::ops::Running::start(command);
    let said = arus.log.message("built-in example");
    assert!(said["message"].as_str().unwrap().contains("there is no ./proxy.toml"), "{said}");
    arus.log.message("ready");
    let before_ready = arus.log.lines().into_iter().take_while(|line| line["message"] != "ready").collect::<Vec<_>>();
    let is_demo = |line: &Value| line["message"] == "listening" && line["service"] == "hello";
    assert!(before_ready.iter().any(is_demo), "the demo backend listens before arus is ready: {before_ready:?}");
    let pid = arus.child.id().to_string();
    let mut curl = Command::new("nsenter");
    curl.args(["--net", "--target", &pid, "curl", "-sS", "http://127.0.0.1:8080/"]);
    let output = curl.output().unwrap();
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(answer.starts_with("hello client 127.0.0.1:") && answer.ends_with("\r\n"), "{output:?}");
    assert!(home.path().join(".local/state/arus/control.sock").exists());
}

#[test]
fn whatever_else_cannot_be_had_is_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let cases = [
        (
            simple().also("[admin]\nsocket = \"/nonexistent/x.sock\""),
            "control socket /nonexistent/x.sock cannot be made",
        ),
        (
            simple().log("format = \"json\"\naccess = \"/nonexistent/a.log\""),
            "access log /nonexistent/a.log cannot be opened",
        ),
        (simple().also(&format!("[demo]\nhello = \"{taken}\"")), "[demo] hello"),
        (Setup::to("unix:/nonexistent/x.sock", &["127.0.0.1:9".into()], "", ""), "its directory does not exist"),
        (Setup::to("192.0.2.77:80", &["127.0.0.1:9".into()], "", ""), "no interface of this machine has this address"),
    ];
    for (setup, part) in cases {
        let error = refusal(setup);
        assert!(error.contains(part), "no {part:?} in {error:?}");
    }
    if is_root() {
        let error = refusal(simple().engine("user = \"no-such-user\""));
        assert!(error.contains("user `no-such-user` does not exist"), "{error}");
    }
}

#[test]
fn a_socket_file_that_was_left_behind_is_taken_over_and_a_live_one_is_not() {
    let a = tagged("a");
    let directory = tempfile::tempdir().unwrap();
    let listen = format!("unix:{}/web.sock", directory.path().display());
    let setup = || Setup::one(&listen, &[&a]);
    let mut first = setup().start();
    let web = first.address("web");
    let error = refusal(setup());
    assert!(error.contains("listener `web`") && error.contains("cannot be bound"), "{error}");
    assert_eq!(ask(&web).1, "a", "the live one was not disturbed");
    first.signal(nix::sys::signal::Signal::SIGKILL);
    first.wait_exit(DEADLINE);
    assert!(directory.path().join("web.sock").exists());
    let mut second = setup().start();
    assert_eq!(ask(&web).1, "a");
    second.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(second.wait_exit(DEADLINE).code(), Some(0));
    assert!(!directory.path().join("web.sock").exists());
}

#[test]
fn killed_under_load_it_can_be_started_again_at_once() {
    let a = tagged("a");
    let mut arus = Setup::one("127.0.0.1:0", &[&a]).start();
    let web = arus.address("web");
    for _ in 0..3 {
        let live: Vec<_> = (0..200).map(|_| ask(&web)).collect();
        arus.signal(nix::sys::signal::Signal::SIGKILL);
        arus.wait_exit(DEADLINE);
        // Its listening sockets may still be there, as its rings are taken down after it has ended.
        arus = Setup::one(&web.to_string(), &[&a]).start();
        drop(live);
        assert_eq!(ask(&web).1, "a");
    }
}
