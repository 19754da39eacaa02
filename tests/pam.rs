//! PAM for real: services with pam_exec and pam_userdb's like, made here below /etc/pam.d and removed again. Needs root
//! and libpam; without them nothing is tested, and it says so.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use arus::control::auth::pam::{Answer, Pam, Question, start_as};

/// A service that runs shell scripts, gone when dropped.
struct Service {
    name: String,
    directory: tempfile::TempDir,
}

impl Service {
    /// `auth` sees the password on stdin; both see PAM_USER and PAM_RHOST. `None`: not root, or no PAM.
    fn new(name: &str, auth: &str, account: &str) -> Option<Self> {
        let is_root = nix::unistd::geteuid().is_root();
        let has_pam = Path::new("/etc/pam.d").is_dir();
        if !is_root || !has_pam {
            eprintln!("skipped: needs root and libpam-modules");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let name = format!("arus-test-{}-{name}", std::process::id());
        let script = |kind: &str, text: &str| {
            let path = directory.path().join(kind);
            fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let (auth, account) = (script("auth", auth), script("account", account));
        let text = format!(
            "auth required pam_exec.so quiet expose_authtok {}\naccount required pam_exec.so quiet {}\n",
            auth.display(),
            account.display()
        );
        let service = Self { name, directory };
        fs::write(service.file(), text).unwrap();
        Some(service)
    }

    fn file(&self) -> PathBuf {
        Path::new("/etc/pam.d").join(&self.name)
    }

    fn question(&self, user: &str, password: Option<&str>) -> Question {
        Question {
            service: self.name.clone(),
            user: user.into(),
            password: password.map(|password| password.as_bytes().to_vec().into()),
            remote: Some("192.0.2.7".into()),
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.file());
    }
}

fn pam(workers: usize, limit: Duration) -> Pam {
    Pam::new(start_as(Path::new(env!("CARGO_BIN_EXE_arus")), workers, limit).unwrap()).unwrap()
}

const LONG: Duration = Duration::from_secs(60);
/// The password comes with a NUL behind it.
const IS_RIGHT: &str = "test \"$(tr -d '\\000')\" = right";

#[tokio::test]
async fn passwords_accounts_and_the_address_are_asked_of_pam() {
    let account = "test \"$PAM_RHOST\" = 192.0.2.7 && test \"$PAM_USER\" != mallory";
    let Some(service) = Service::new("login", IS_RIGHT, account) else { return };
    let pam = pam(2, LONG);
    assert_eq!(pam.ask(service.question("alice", Some("right"))).await, Answer::Accepted("alice".into()));
    assert_eq!(pam.ask(service.question("alice", Some("wrong"))).await, Answer::Refused);
    assert_eq!(pam.ask(service.question("alice", Some(""))).await, Answer::Refused);
    assert_eq!(pam.ask(service.question("mallory", Some("right"))).await, Answer::Refused, "the account check");
    let elsewhere = Question { remote: Some("192.0.2.8".into()), ..service.question("alice", Some("right")) };
    assert_eq!(pam.ask(elsewhere).await, Answer::Refused, "PAM_RHOST is seen");
    assert_eq!(pam.ask(service.question("nobody", None)).await, Answer::Accepted("nobody".into()), "the address alone");
    assert_eq!(pam.ask(service.question("al\0ice", Some("right"))).await, Answer::Refused);
    assert_eq!(pam.ask(service.question("alice", Some("right\0"))).await, Answer::Refused);
}

#[tokio::test]
async fn a_module_that_hangs_costs_one_answer_and_its_worker_is_replaced() {
    let hang = "test \"$PAM_USER\" != slow && exit\nsleep 600 &\necho $$ $! > \"${0%/*}/pids\"\nwait";
    let Some(service) = Service::new("hang", hang, "true") else { return };
    let pam = pam(1, Duration::from_secs(2));
    let Answer::Unavailable(why) = pam.ask(service.question("slow", Some("x"))).await else { panic!("it answered") };
    assert!(why.contains("stuck"), "{why}");
    assert_eq!(pam.ask(service.question("quick", Some("x"))).await, Answer::Accepted("quick".into()));
    // Nor does it leave what it has started behind.
    let pids = fs::read_to_string(service.directory.path().join("pids")).unwrap();
    let is_alive = |pid: &str| fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    for pid in pids.split_whitespace() {
        let begun = std::time::Instant::now();
        while is_alive(pid) {
            assert!(begun.elapsed() < LONG, "{pid} of {pids} goes on");
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_worker_that_dies_is_replaced() {
    let Some(service) = Service::new("die", "test \"$PAM_USER\" != die || kill -9 $PPID", "true") else { return };
    let pam = pam(1, LONG);
    for _ in 0..3 {
        assert!(matches!(pam.ask(service.question("die", Some("x"))).await, Answer::Unavailable(_)));
        assert_eq!(pam.ask(service.question("live", Some("x"))).await, Answer::Accepted("live".into()));
    }
    assert!(service.directory.path().is_dir());
}
