//! The part of the start that may need root: probe, bind, open, then give root up. No shard exists yet.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use super::admin::entrance::{self, Move};
use super::admin::token::{self, Generated};
use super::auth::pam;
use super::prepare::{InForce, Prepared, Problem, prepare};
use super::privilege::{self, Dropped, Identity};
use super::quotas;
use super::recorder::Sink;
use super::socket::{self, SocketFile};
use super::startup::{self, Ground};
use super::store;
use super::tls;
use crate::config::plan::{AccessLog, Plan, Store};
use crate::plugin::crash;

/// How long the last owner of an address may take to go.
const LAST_OWNER: Duration = Duration::from_secs(2);

/// Everything that was acquired.
pub(super) struct Launched {
    pub ground: Ground,
    pub prepared: Prepared,
    pub control_socket: UnixListener,
    pub socket_file: SocketFile,
    /// Where the demo backend listens.
    pub demo: Option<TcpListener>,
    pub access_log: Sink,
    /// The processes that ask PAM; they stay root.
    pub pam: Option<pam::Started>,
    /// Where the admin API listens for TCP.
    pub entrance: Move,
    pub token: Option<Generated>,
}

/// Why arus does not run, one line each.
#[derive(Debug)]
pub(super) struct Refused {
    pub lines: Vec<String>,
    /// What the configuration names is wrong, rather than this machine.
    pub is_configuration: bool,
}

impl From<Vec<String>> for Refused {
    fn from(lines: Vec<String>) -> Self {
        Self { lines, is_configuration: false }
    }
}

/// # Errors
/// Why arus cannot run here.
pub(super) fn launch(plan: Plan, config: Option<&Path>) -> Result<Launched, Refused> {
    let one = |line: String| vec![line];
    let ground = startup::probe(&plan)?;
    ground.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let identity = identity(&plan).map_err(one)?;
    let state_dir = plan.engine.state_dir.clone();
    let created = startup::make_state_dir(&state_dir).map_err(one)?;
    let (control_socket, socket_file) = socket::bind(&plan.admin.socket).map_err(one)?;
    let access_log = Sink::open(&plan.log.access).map_err(one)?;
    let demo = plan.demo.as_ref().map(|demo| {
        let bound =
            TcpListener::bind(demo.hello).and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
        bound.map_err(|error| format!("[demo] hello {} cannot be bound: {error}", demo.hello))
    });
    let demo = demo.transpose().map_err(one)?;
    let entrance = entrance::prepare(&plan, None).map_err(|problem| render(&[problem], config))?;
    let token = token::ensure(&plan).map_err(one)?;
    let mut owned = vec![plan.admin.socket.clone()];
    owned.extend(token.as_ref().map(|token| token.path.clone()));
    if created.0 {
        owned.push(state_dir.clone());
    }
    if let AccessLog::File(path) = &plan.log.access
        && path.is_file()
    {
        // Else it could not be opened again after a rotation.
        owned.push(path.clone());
    }
    let shards = u16::try_from(ground.cpus.len()).unwrap_or(u16::MAX);
    let prepared = prepare_first(&plan, config, shards).map_err(|problems| Refused {
        lines: render(&problems, config),
        is_configuration: problems.iter().any(|problem| problem.is_configuration),
    })?;
    render(prepared.warnings(), config).iter().for_each(|warning| tracing::warn!("{warning}"));
    owned.extend(tls::self_signed::paths(&plan));
    if let Store::Sqlite(path) = &plan.sessions.store {
        owned.extend(store::files(path).into_iter().filter(|file| file.is_file()));
    }
    owned.extend(Some(quotas::path(&state_dir)).filter(|path| path.is_file()));
    owned.extend(Some(state_dir.join(crash::FILE)).filter(|path| path.is_file()));
    let pam = plan.auth.needs_pam().then(pam::start).transpose();
    let pam = pam.map_err(|error| one(format!("the PAM processes cannot be started: {error}")))?;
    if pam.is_some() && !privilege::is_root() {
        tracing::warn!("PAM is asked without root: most modules can then check no other user than this one");
    }
    if let Some(identity) = identity {
        for path in &owned {
            identity.own(path).map_err(one)?;
        }
        if !identity.owns(&state_dir) {
            tracing::warn!(
                "state_dir {} belongs to another user than the one of [engine] user: chown it",
                state_dir.display()
            );
        }
        match privilege::drop_to(&identity).map_err(one)? {
            Dropped::KeepsLowPorts => {
                tracing::info!(user = identity.name(), "dropped root; CAP_NET_BIND_SERVICE is kept for reloads")
            }
            Dropped::KeepsNothing => {
                tracing::info!(user = identity.name(), "dropped root; a reload can bind no low ports")
            }
        }
        warn_unreadable(config.into_iter().chain(tls::files(&plan).map(|file| &*file.path)));
    }
    Ok(Launched { ground, prepared, control_socket, socket_file, demo, access_log, pam, entrance, token })
}

/// The kernel closes the listening sockets of a process that was killed some time after it has ended, as io_uring still
/// holds them; who starts arus again must not fail for that.
fn prepare_first(plan: &Plan, config: Option<&Path>, shards: u16) -> Result<Prepared, Vec<Problem>> {
    let deadline = Instant::now() + LAST_OWNER;
    loop {
        match prepare(plan.clone(), &InForce::nothing(config), shards) {
            Err(problems) if problems.iter().all(|problem| problem.is_in_use) && Instant::now() < deadline => {
                std::thread::sleep(LAST_OWNER / 40);
            }
            result => return result,
        }
    }
}

/// Who to become; `None`: stay who we are.
fn identity(plan: &Plan) -> Result<Option<Identity>, String> {
    let Some(name) = &plan.engine.user else { return Ok(None) };
    let identity = Identity::of(name)?;
    if privilege::is_root() {
        return Ok(Some(identity));
    }
    if !identity.is_current() {
        tracing::warn!("[engine] user = \"{name}\" has no effect: only root can become another user");
    }
    Ok(None)
}

fn warn_unreadable<'p>(files: impl Iterator<Item = &'p Path>) {
    for path in files {
        if let Err(error) = std::fs::File::open(path) {
            tracing::warn!(path = %path.display(), %error, "this file cannot be read any more: reloads will fail");
        }
    }
}

/// Problems as `arus check` prints errors.
pub(super) fn render(problems: &[Problem], config: Option<&Path>) -> Vec<String> {
    let file = config.map_or_else(|| "built-in example".into(), |path| path.display().to_string());
    problems.iter().map(|problem| format!("{file}:{}:{}: {}", problem.line, problem.column, problem.message)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::plan::{AdminListen, Place};
    use crate::control::fixture::plan;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::process::Command;

    #[test]
    fn every_problem_with_a_listener_is_said_with_its_line() {
        let directory = tempfile::tempdir().unwrap();
        let plan = plan(directory.path()).with_listener("a", &["192.0.2.77:80"]).with_listener("b", &["192.0.2.77:81"]);
        let Err(refused) = launch(plan, Some(Path::new("/etc/arus/proxy.toml"))) else { panic!("it started") };
        let Refused { lines, is_configuration: false } = refused else { panic!("{refused:?}") };
        assert_eq!(lines.len(), 2);
        assert!(
            lines[1].starts_with("/etc/arus/proxy.toml:2:1: listener `b`: 192.0.2.77:81 cannot be bound"),
            "{lines:?}"
        );
        assert!(!directory.path().join("control.sock").exists());
    }

    /// Root is given up for good, so it happens in a process of its own.
    #[test]
    fn binds_as_root_and_runs_as_the_user() {
        if !privilege::is_root() {
            return;
        }
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "control::launch::tests::in_a_child", "--ignored", "--nocapture", "--test-threads=1"])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    #[test]
    #[ignore = "run in a process of its own by binds_as_root_and_runs_as_the_user"]
    fn in_a_child() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let state_dir = directory.path().join("state");
        let access = directory.path().join("access.log");
        let mut plan = plan(&state_dir).with_listener("web", &["127.0.0.1:0"]);
        plan.engine.user = Some("nobody".into());
        let at = Place { line: 1, column: 1 };
        plan.admin.listen = Some(AdminListen { address: "127.0.0.1:0".parse().unwrap(), is_given: true, at });
        plan.log.access = AccessLog::File(access.clone());
        let launched = launch(plan.clone(), None).unwrap();
        assert!(!privilege::is_root());
        let nobody = Identity::of("nobody").unwrap();
        assert!(nobody.is_current() && nobody.owns(&state_dir) && nobody.owns(&access));
        let socket = std::fs::symlink_metadata(state_dir.join("control.sock")).unwrap();
        assert_eq!((socket.mode() & 0o777, state_dir.metadata().unwrap().mode() & 0o777), (0o600, 0o700));
        assert_eq!(socket.uid(), state_dir.metadata().unwrap().uid());
        // The token of the admin API can be read at a reload.
        assert!(nobody.owns(&state_dir.join("admin.token")));
        assert!(token::ensure(&plan).unwrap().is_some_and(|token| !token.is_new));
        // The log can be opened again, and a second arus is still found out.
        assert!(Sink::open(&plan.log.access).is_ok());
        assert!(socket::bind(&plan.admin.socket).unwrap_err().starts_with("another arus"));
        drop(launched);
        assert!(!state_dir.join("control.sock").exists());
    }
}
