//! PAM over SOCKS: the real binary, the system's libpam, services that are made here and removed again. Needs root and
//! libpam; what cannot be tested says so.

mod turns;

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::*;
use crate::ops::{has, is_root, open_to_all, text};

/// A service below /etc/pam.d, gone when dropped.
struct Service {
    name: String,
    /// What its modules run.
    scripts: tempfile::TempDir,
}

impl Service {
    /// `None`: not root, or no PAM.
    fn new(tag: &str, text: &str) -> Option<Self> {
        if !is_root() {
            return None;
        }
        if !Path::new("/etc/pam.d").is_dir() {
            eprintln!("skipped: libpam is not installed");
            return None;
        }
        let service =
            Self { name: format!("arus-e2e-{}-{tag}", std::process::id()), scripts: tempfile::tempdir().unwrap() };
        open_to_all(service.scripts.path());
        service.write(text);
        Some(service)
    }

    /// Modules that run shell scripts, which see PAM_USER and PAM_RHOST; the one of `auth` the password on stdin as well.
    fn exec(tag: &str, auth: &str, account: &str) -> Option<Self> {
        let service = Self::new(tag, "")?;
        let (auth, account) = (service.script("auth", auth), service.script("account", account));
        service.write(&format!(
            "auth required pam_exec.so quiet expose_authtok {auth}\naccount required pam_exec.so quiet {account}\n"
        ));
        Some(service)
    }

    fn script(&self, name: &str, text: &str) -> String {
        use std::os::unix::fs::PermissionsExt;
        let path = self.scripts.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.display().to_string()
    }

    fn write(&self, text: &str) {
        fs::write(self.file(), text).unwrap();
    }

    fn file(&self) -> PathBuf {
        Path::new("/etc/pam.d").join(&self.name)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.file());
    }
}

const IS_RIGHT: &str = "test \"$(tr -d '\\000')\" = right";
const ACL: &str = "[acl]\ndefault = \"allow\"\n[[acl.rule]]\naction = \"allow\"\ndestinations = [\"127.0.0.0/8\"]\n";

fn setup(auth: &str, acl: &str) -> Setup {
    Setup::new(format!(
        "[[listener]]\nname = \"socks\"\nlisten = \"127.0.0.1:0\"\nservice = \"socks5\"\n[auth]\n{auth}\n{acl}"
    ))
}

fn visit(arus: &Arus, from: &str) -> Stream {
    Stream::connect_from(from.parse::<IpAddr>().unwrap(), &arus.address("socks"))
}

/// Says who it is; the verdict, and the connection where it is good.
fn log_in(arus: &Arus, from: &str, user: &str, password: &str) -> Result<Stream, SocketAddr> {
    let mut client = visit(arus, from);
    client.write_all(&[5, 1, 2]);
    assert_eq!(client.read_exactly(2), [5, 2]);
    let mut message = vec![1, user.len() as u8];
    message.extend(user.as_bytes());
    message.push(password.len() as u8);
    message.extend(password.as_bytes());
    client.write_all(&message);
    match client.read_exactly(2)[..] {
        [1, 0] => Ok(client),
        _ => {
            assert_eq!(client.end(), End::Fin);
            Err(client.local())
        }
    }
}

/// The reason for which a login is refused.
fn refusal(arus: &Arus, from: &str, user: &str, password: &str) -> String {
    let Err(client) = log_in(arus, from, user, password) else { panic!("{user} was let in") };
    arus.session_of(client)["reason"].as_str().unwrap().to_owned()
}

/// The answer to CONNECT.
fn connect(client: &mut Stream, to: &Address) -> u8 {
    let SocketAddr::V4(to) = to.ip() else { panic!("{to}") };
    client.write_all(&[&[5, 1, 0, 1][..], &to.ip().octets(), &to.port().to_be_bytes()].concat());
    client.read_exactly(10)[1]
}

fn check(client: &mut Stream, to: &Address) {
    assert_eq!(connect(client, to), 0);
    client.send(1, 0, 5000);
    client.expect(1, 0, 5000);
}

#[test]
fn passwords_accounts_and_addresses_are_asked_of_pam_and_root_is_given_up_meanwhile() {
    let account = "test \"$PAM_RHOST\" = 127.0.0.1 && test \"$PAM_USER\" != mallory";
    let Some(service) = Service::exec("login", IS_RIGHT, account) else { return };
    let backend = Backend::start(behaviour::echo);
    let auth = format!("methods = [\"pam\"]\npam_service = \"{}\"\nfailures = {{ limit = 0 }}", service.name);
    for user in [None, Some("user = \"nobody\"")] {
        let setup = setup(&auth, ACL);
        open_to_all(setup.directory());
        let arus = user.into_iter().fold(setup, Setup::engine).start();
        let mut client = log_in(&arus, "127.0.0.1", "alice", "right").unwrap();
        let from = client.local();
        check(&mut client, backend.address());
        drop(client);
        assert_eq!(arus.session_of(from)["user"], "alice");
        assert_eq!(refusal(&arus, "127.0.0.1", "alice", "wrong"), "auth_failed");
        assert_eq!(refusal(&arus, "127.0.0.1", "alice", ""), "auth_failed");
        assert_eq!(refusal(&arus, "127.0.0.1", "mallory", "right"), "auth_failed", "the account check");
        assert_eq!(
            refusal(&arus, "127.0.0.2", "alice", "right"),
            "auth_failed",
            "the address, though it is remembered"
        );
        assert!(log_in(&arus, "127.0.0.1", "alice", "right").is_ok());
    }
}

#[test]
fn addresses_are_judged_before_the_first_word() {
    let account = "test \"$PAM_USER\" = nobody && test \"$PAM_RHOST\" != 127.0.0.2";
    let Some(service) = Service::exec("address", "false", account) else { return };
    let backend = Backend::start(behaviour::echo);
    let auth = format!("client_pam_service = \"{}\"\nfailures = {{ limit = 0 }}", service.name);
    let arus = setup(&auth, ACL).start();
    for _ in 0..3 {
        let mut client = visit(&arus, "127.0.0.1");
        client.write_all(&[5, 1, 0]);
        assert_eq!(client.read_exactly(2), [5, 0]);
        check(&mut client, backend.address());
        let mut client = visit(&arus, "127.0.0.2");
        // It has not said anything, and hears nothing.
        assert_eq!(client.end(), End::Fin);
        let line = arus.session_of(client.local());
        let facts = ["state", "reason", "stage", "blame"].map(|key| line[key].as_str().unwrap());
        assert_eq!(facts, ["rejected", "auth_failed", "negotiate", "policy"], "{line}");
    }
}

#[test]
fn pam_that_cannot_say_is_no_failure_of_the_client() {
    let broken = "auth required pam_no_such_module.so\naccount required pam_permit.so\n";
    let Some(service) = Service::new("broken", broken) else { return };
    let auth = format!("methods = [\"pam\"]\npam_service = \"{}\"\nfailures = {{ limit = 2 }}", service.name);
    let arus = setup(&auth, ACL).start();
    for _ in 0..5 {
        assert_eq!(refusal(&arus, "127.0.0.1", "alice", "right"), "auth_unavailable");
    }
    let right = service.script("right", IS_RIGHT);
    service.write(&format!("auth required pam_exec.so quiet expose_authtok {right}\naccount required pam_permit.so\n"));
    assert!(log_in(&arus, "127.0.0.1", "alice", "right").is_ok(), "nobody is banned for it");
    // Which is another matter where PAM has said no.
    for _ in 0..2 {
        assert_eq!(refusal(&arus, "127.0.0.1", "alice", "wrong"), "auth_failed");
    }
    assert_eq!(refusal(&arus, "127.0.0.1", "alice", "right"), "banned");
}

#[test]
fn either_method_lets_a_user_in_where_both_are_given() {
    let Some(service) = Service::exec("both", IS_RIGHT, "true") else { return };
    let auth = format!(
        "methods = [\"password\", \"pam\"]\npam_service = \"{}\"\nfailures = {{ limit = 0 }}\n\
         [[auth.user]]\nname = \"alice\"\npassword = \"own\"\n",
        service.name
    );
    let arus = setup(&auth, ACL).start();
    for (user, password, is_right) in [
        ("alice", "own", true),
        ("alice", "right", true),
        ("bob", "right", true),
        ("bob", "own", false),
        ("alice", "wrong", false),
    ] {
        assert_eq!(log_in(&arus, "127.0.0.1", user, password).is_ok(), is_right, "{user} {password}");
    }
}

#[test]
fn a_client_that_goes_before_pam_has_said_anything_is_known_to_have_gone() {
    let Some(service) = Service::exec("slow", "exec sleep 600", "exec sleep 600") else { return };
    for (auth, is_address) in [("methods = [\"pam\"]\npam_service", false), ("client_pam_service", true)] {
        let arus = setup(&format!("{auth} = \"{}\"", service.name), ACL).start();
        for resets in [false, true] {
            let mut client = visit(&arus, "127.0.0.1");
            let from = client.local();
            if !is_address {
                client.write_all(&[5, 1, 2]);
                assert_eq!(client.read_exactly(2), [5, 2]);
                client.write_all(&[1, 1, b'a', 1, b'b']);
            }
            eventually("it has come", || (arus.active() == 1).then_some(()));
            if resets {
                client.reset();
            } else {
                drop(client);
            }
            // PAM itself is given up after ten seconds only, and then it is "auth_unavailable".
            let line = arus.session_of(from);
            let facts = ["state", "reason", "stage", "blame"].map(|key| line[key].as_str().unwrap());
            assert_eq!(
                facts,
                ["failed", if resets { "reset" } else { "client_gone" }, "negotiate", "client"],
                "{line}"
            );
        }
    }
}

/// Users and a group of the system that exist as long as the test.
struct Accounts {
    group: String,
    users: Vec<String>,
}

fn run(program: &str, words: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(words).output().unwrap();
    output.status.success().then_some(()).ok_or_else(|| format!("{program} {words:?}: {}", text(&output.stderr)))
}

/// Others may have the files of users locked for a moment.
fn change(program: &str, words: &[&str]) {
    eventually(&format!("{program} {words:?}"), || run(program, words).ok());
}

impl Accounts {
    /// The first user is in the group.
    fn new(names: &[&str], password: &str) -> Option<Self> {
        if !is_root() || !["useradd", "userdel", "groupadd", "chpasswd", "chage"].into_iter().all(has) {
            return None;
        }
        let id = std::process::id();
        let mut accounts = Self { group: format!("arus-g{id}"), users: Vec::new() };
        change("groupadd", &[&accounts.group]);
        for (index, name) in names.iter().enumerate() {
            let name = format!("arus-{name}{id}");
            let group = if index == 0 { &*accounts.group } else { "nogroup" };
            change("useradd", &["-M", "-N", "-g", "nogroup", "-G", group, "-s", "/usr/sbin/nologin", &name]);
            accounts.users.push(name.clone());
            change("sh", &["-c", "printf '%s:%s\\n' \"$1\" \"$2\" | chpasswd", "sh", &name, password]);
        }
        Some(accounts)
    }
}

impl Drop for Accounts {
    fn drop(&mut self) {
        for (program, name) in self.users.iter().map(|user| ("userdel", user)).chain([("groupdel", &self.group)]) {
            let deadline = std::time::Instant::now() + DEADLINE;
            while run(program, &[name]).is_err() && std::time::Instant::now() < deadline {
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
        }
    }
}

#[test]
fn users_of_the_system_log_in_and_have_its_groups() {
    let text = "auth required pam_unix.so\naccount required pam_unix.so\n";
    let Some(service) = Service::new("unix", text) else { return };
    let Some(accounts) = Accounts::new(&["in", "out", "old"], "se cret") else { return };
    let [member, other, old] = [0, 1, 2].map(|index| accounts.users[index].as_str());
    // Its password is right, but the account has expired.
    change("chage", &["-E", "0", old]);
    let backend = Backend::start(behaviour::echo);
    let auth = format!(
        "methods = [\"pam\"]\npam_service = \"{}\"\nsystem_groups = true\nfailures = {{ limit = 0 }}",
        service.name
    );
    let acl = format!(
        "[acl]\ndefault = \"block\"\n[[acl.rule]]\ndescription = \"members\"\naction = \"allow\"\n\
         groups = [\"{}\"]\ndestinations = [\"127.0.0.0/8\"]\n",
        accounts.group
    );
    let setup = setup(&auth, &acl).engine("user = \"nobody\"");
    open_to_all(setup.directory());
    let arus = setup.start();
    for _ in 0..2 {
        let mut client = log_in(&arus, "127.0.0.1", member, "se cret").unwrap();
        let from = client.local();
        check(&mut client, backend.address());
        drop(client);
        let line = arus.session_of(from);
        assert_eq!((&line["user"], &line["rule"]), (&member.into(), &"members".into()), "{line}");
        // Who is not in the group logs in as well, and may go nowhere.
        let mut client = log_in(&arus, "127.0.0.1", other, "se cret").unwrap();
        let from = client.local();
        assert_eq!(connect(&mut client, backend.address()), 2);
        drop(client);
        let line = arus.session_of(from);
        assert_eq!((&line["user"], &line["reason"]), (&other.into(), &"acl_blocked".into()), "{line}");
    }
    assert_eq!(refusal(&arus, "127.0.0.1", member, "secret"), "auth_failed");
    assert_eq!(refusal(&arus, "127.0.0.1", old, "se cret"), "auth_failed");
    assert_eq!(refusal(&arus, "127.0.0.1", "arus-no-such-user", "se cret"), "auth_failed");
}

/// For [`children`]: those that have ended, and were not waited for.
const DEAD: &str = "";

/// The processes that were started by `parent` with this word of their command line, as none has a name of its own.
fn children(parent: u32, word: &str) -> Vec<u32> {
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let is_child = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after = stat.rsplit_once(") ").map(|(_, after)| after.split(' ').collect::<Vec<_>>()).unwrap_or_default();
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        // One that nobody has waited for has no command line.
        let has_word = word == DEAD && after.first() == Some(&"Z")
            || line.split(|byte| *byte == 0).any(|own| own == word.as_bytes());
        has_word && after.get(1).is_some_and(|of| *of == parent.to_string())
    };
    pids.filter(is_child).collect()
}

/// A keeper with everybody that it has to have: its standby and its workers.
fn household(keeper: u32) -> (u32, Vec<u32>) {
    eventually("the keeper has its standby and its workers", || {
        let (standby, workers) = (children(keeper, "pam-keeper"), children(keeper, "pam-worker"));
        (standby.len() == 1 && workers.len() == 4).then(|| (standby[0], workers))
    })
}

fn kill(pid: u32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), signal).unwrap();
}

fn is_gone(pid: u32) -> bool {
    // Whoever has it as a child now may not have heard of its end.
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

/// The keeper is a child of the arus that has just been started, or of one that could start it again.
fn keeper_of(arus: &Arus) -> u32 {
    eventually("there is a keeper", || children(arus.process().0, "pam-keeper").pop())
}

/// Waits until arus has said `count` times that the processes were started again.
fn wait_restarts(arus: &Arus, count: usize) {
    let is_one = |line: &&serde_json::Value| {
        line["message"].as_str().is_some_and(|message| message.contains("another is there"))
    };
    let seen = |lines: &[serde_json::Value]| (lines.iter().filter(is_one).count() >= count).then_some(());
    arus.log.wait(DEADLINE, &format!("{count} restarts"), seen);
}

#[test]
fn a_keeper_that_is_killed_has_a_successor_even_when_root_was_given_up() {
    use nix::sys::signal::Signal::{SIGKILL, SIGSTOP};
    let Some(service) = Service::exec("keeper", IS_RIGHT, "true") else { return };
    let auth = format!("methods = [\"pam\"]\npam_service = \"{}\"\nfailures = {{ limit = 1 }}", service.name);
    for user in [None, Some("user = \"nobody\"")] {
        let setup = setup(&auth, ACL);
        open_to_all(setup.directory());
        let arus = user.into_iter().fold(setup, Setup::engine).start();
        let mut keeper = keeper_of(&arus);
        for round in 1..=3 {
            let (standby, workers) = household(keeper);
            kill(keeper, SIGKILL);
            wait_restarts(&arus, round);
            // One that is not remembered.
            assert!(log_in(&arus, "127.0.0.1", &format!("user{round}"), "right").is_ok(), "{round}");
            eventually("the workers of before are gone", || workers.iter().all(|pid| is_gone(*pid)).then_some(()));
            assert!(children(arus.process().0, DEAD).is_empty(), "the one before was waited for");
            keeper = standby;
        }
        // One that loses its standby starts another.
        let (standby, _) = household(keeper);
        kill(standby, SIGKILL);
        eventually("there is another standby", || children(keeper, "pam-keeper").pop().filter(|pid| *pid != standby));
        assert!(log_in(&arus, "127.0.0.1", "user4", "right").is_ok());
        let (_, events) = arus.request("GET", "/api/v1/events?category=auth");
        assert_eq!(events["data"][0]["severity"], "warning", "{events}");

        // Both at once: nobody but arus itself is left to start them again, and only as long as it is root.
        let (standby, _) = household(keeper);
        kill(keeper, SIGSTOP);
        kill(standby, SIGKILL);
        kill(keeper, SIGKILL);
        if user.is_none() {
            wait_restarts(&arus, 4);
            household(keeper_of(&arus));
            assert!(log_in(&arus, "127.0.0.1", "user5", "right").is_ok());
        } else {
            arus.log.message("logins by PAM fail until arus is started again");
            assert_eq!(refusal(&arus, "127.0.0.1", "user5", "right"), "auth_unavailable");
            assert_eq!(
                refusal(&arus, "127.0.0.1", "user5", "right"),
                "auth_unavailable",
                "and it is not banned for it"
            );
            let (_, events) = arus.request("GET", "/api/v1/events?category=auth");
            assert_eq!(events["data"][0]["severity"], "error", "{events}");
        }
    }
}

#[test]
fn nothing_is_left_of_the_processes_when_arus_is_gone() {
    let Some(service) = Service::exec("left", IS_RIGHT, "true") else { return };
    let auth = format!("methods = [\"pam\"]\npam_service = \"{}\"", service.name);
    let mut arus = setup(&auth, ACL).start();
    let keeper = keeper_of(&arus);
    let (standby, workers) = household(keeper);
    arus.signal(nix::sys::signal::Signal::SIGKILL);
    arus.wait_exit(DEADLINE);
    let all = [&[keeper, standby][..], &workers].concat();
    eventually("all of them have ended", || all.iter().all(|pid| is_gone(*pid)).then_some(()));
}
