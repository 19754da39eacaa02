//! The part of the start that may need root: probe, bind, open, then give root up. No thread exists yet.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;

use super::prepare::{InForce, Prepared, Problem, prepare};
use super::privilege::{self, Dropped, Identity};
use super::recorder::Sink;
use super::socket::{self, SocketFile};
use super::startup::{self, Ground};
use crate::config::plan::{AccessLog, Plan};

/// Everything that was acquired.
pub(super) struct Launched {
    pub ground: Ground,
    pub prepared: Prepared,
    pub control_socket: UnixListener,
    pub socket_file: SocketFile,
    /// Where the demo backend listens.
    pub demo: Option<TcpListener>,
    pub access_log: Sink,
}

/// # Errors
/// Why arus cannot run here, one line each.
pub(super) fn launch(plan: Plan, config: Option<&Path>) -> Result<Launched, Vec<String>> {
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
    let mut owned = vec![plan.admin.socket.clone()];
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
    let prepared = prepare(plan, &InForce::default(), shards).map_err(|problems| render(&problems, config))?;
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
        warn_unreadable(config);
    }
    Ok(Launched { ground, prepared, control_socket, socket_file, demo, access_log })
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

fn warn_unreadable(config: Option<&Path>) {
    if let Some((path, Err(error))) = config.map(|path| (path, std::fs::File::open(path))) {
        tracing::warn!(path = %path.display(), %error, "the configuration cannot be read any more: reloads will fail");
    }
}

/// Problems as `arus check` prints errors.
pub(super) fn render(problems: &[Problem], config: Option<&Path>) -> Vec<String> {
    let file = config.map_or_else(|| "built-in example".into(), |path| path.display().to_string());
    problems.iter().map(|problem| format!("{file}:{}:1: {}", problem.line, problem.message)).collect()
}
