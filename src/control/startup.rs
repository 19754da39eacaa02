//! What this machine and this process's limits allow, asked once before anything is started.
//!
//! Every problem is one line that says what is wrong and what to do. Those that leave no way to run are errors; the
//! rest are warnings, and arus goes on with less.

use std::path::Path;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config::plan::Plan;
use crate::limits;
use crate::ring::{self, Features};

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ground {
    pub features: Features,
    /// The CPU of each shard, by shard; `None`: not pinned.
    pub cpus: Vec<Option<usize>>,
    pub warnings: Vec<String>,
}

/// The least RLIMIT_MEMLOCK that glommio starts an executor with.
const MEMLOCK_BYTES: u64 = 512 * 1024;
/// Descriptors of a session: one to the client and one to the backend.
const DESCRIPTORS_PER_SESSION: u64 = 2;
/// Descriptors of a shard besides its sessions and listeners: two rings of glommio's, one of ours, eventfds, a spare.
const DESCRIPTORS_PER_SHARD: u64 = 16;
/// Descriptors of control: logs, sockets, watches, health checks and lookups in flight.
const DESCRIPTORS_OF_CONTROL: u64 = 256;
/// With fewer sessions than this there is no point in running.
const FEWEST_SESSIONS: u64 = 16;

/// Probes the kernel and raises the limits of this process.
///
/// # Errors
/// Every problem that leaves no way to run, one line each.
pub(super) fn probe(plan: &Plan) -> Result<Ground, Vec<String>> {
    let mut warnings = Vec::new();
    let mut errors = Vec::new();
    let features = ring::probe().map_err(|unusable| errors.push(unusable.0)).ok();
    if let Some(error) = memlock_problem(raise(Resource::RLIMIT_MEMLOCK, MEMLOCK_BYTES)) {
        errors.push(error);
    }
    let cpus = place(plan, &usable_cpus(), &mut warnings);
    let need = Descriptors::of(plan, cpus.len());
    match need.judge(raise(Resource::RLIMIT_NOFILE, need.all())) {
        Verdict::Enough => {}
        Verdict::Warning(warning) => warnings.push(warning),
        Verdict::Error(error) => errors.push(error),
    }
    let somaxconn = std::fs::read_to_string("/proc/sys/net/core/somaxconn").ok();
    if let Some(somaxconn) = somaxconn.and_then(|text| text.trim().parse().ok()) {
        warnings.extend(backlog_warning(plan, somaxconn));
    }
    match features {
        Some(features) if errors.is_empty() => Ok(Ground { features, cpus, warnings }),
        _ => Err(errors),
    }
}

/// Raises a soft limit to the hard one, and both to `wanted` where this process may; returns what is in force then.
fn raise(resource: Resource, wanted: u64) -> u64 {
    let Ok((soft, hard)) = getrlimit(resource) else { return u64::MAX };
    if hard < wanted && setrlimit(resource, wanted, wanted).is_ok() {
        return wanted;
    }
    if soft < hard && setrlimit(resource, hard, hard).is_ok() { hard } else { soft }
}

fn memlock_problem(limit: u64) -> Option<String> {
    (limit < MEMLOCK_BYTES).then(|| {
        format!(
            "RLIMIT_MEMLOCK is {} KiB and io_uring needs {} KiB: raise it (`ulimit -l 512`, systemd \
             LimitMEMLOCK=infinity, docker --ulimit memlock=-1)",
            limit / 1024,
            MEMLOCK_BYTES / 1024
        )
    })
}

/// Descriptors that a plan can come to need.
#[derive(Debug, Clone, Copy)]
struct Descriptors {
    sessions: u64,
    others: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Enough,
    Warning(String),
    Error(String),
}

impl Descriptors {
    fn of(plan: &Plan, shards: usize) -> Self {
        let addresses: usize = plan.listeners.iter().map(|listener| listener.listen.len()).sum();
        let shards = shards as u64;
        Self {
            sessions: u64::from(plan.engine.max_connections),
            others: DESCRIPTORS_OF_CONTROL + shards * (DESCRIPTORS_PER_SHARD + addresses as u64),
        }
    }

    fn all(self) -> u64 {
        self.sessions * DESCRIPTORS_PER_SESSION + self.others
    }

    fn judge(self, limit: u64) -> Verdict {
        if limit >= self.all() {
            return Verdict::Enough;
        }
        let all = self.all();
        let sessions = limit.saturating_sub(self.others) / DESCRIPTORS_PER_SESSION;
        let advice = format!("raise it (`ulimit -n {all}`, systemd LimitNOFILE={all})");
        if sessions < FEWEST_SESSIONS {
            return Verdict::Error(format!(
                "RLIMIT_NOFILE is {limit}, and shards and listeners alone need {}: {advice}",
                self.others
            ));
        }
        Verdict::Warning(format!(
            "RLIMIT_NOFILE is {limit}: enough for {sessions} of max_connections = {}; {advice} or lower \
             max_connections",
            self.sessions
        ))
    }
}

/// The CPUs that this process may use: its affinity mask, cut to the CPU quota of its control group.
fn usable_cpus() -> Vec<usize> {
    let mut cpus: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
    if let Ok(quota) = std::thread::available_parallelism() {
        cpus.truncate(quota.get());
    }
    cpus
}

/// Spreads the shards over the CPUs.
fn place(plan: &Plan, cpus: &[usize], warnings: &mut Vec<String>) -> Vec<Option<usize>> {
    let most = usize::from(limits::SHARDS);
    let shards = plan.engine.shards.map_or(cpus.len().max(1), |shards| usize::from(shards.get())).min(most);
    if !cpus.is_empty() && shards > cpus.len() {
        let plural = if cpus.len() == 1 { "" } else { "s" };
        warnings.push(format!(
            "{shards} shards share {} CPU{plural}: one shard per CPU (shards = \"auto\") is faster",
            cpus.len()
        ));
    }
    let cpu = |shard: usize| if plan.engine.pin { cpus.iter().cycle().nth(shard).copied() } else { None };
    (0..shards).map(cpu).collect()
}

/// The kernel cuts every backlog to somaxconn without a word.
fn backlog_warning(plan: &Plan, somaxconn: u32) -> Option<String> {
    let backlog = plan.listeners.iter().map(|listener| listener.backlog).max()?;
    (backlog > somaxconn).then(|| {
        format!(
            "net.core.somaxconn is {somaxconn} and cuts the backlog of {backlog}: \
             `sysctl -w net.core.somaxconn={backlog}`"
        )
    })
}

/// Makes the directory of arus's state, for its user only.
///
/// # Errors
/// One line, when it cannot be made.
pub(super) fn make_state_dir(path: &Path) -> Result<Created, String> {
    use std::os::unix::fs::DirBuilderExt;
    if path.is_dir() {
        return Ok(Created(false));
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| {
        format!("state_dir {} cannot be made: {error} (set [engine] state_dir to a place that can)", path.display())
    })?;
    Ok(Created(true))
}

/// Whether the directory was made, rather than found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Created(pub bool);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::fixture::plan;
    use super::*;
    use std::num::NonZeroU16;

    #[test]
    fn more_shards_than_cpus_are_spread_with_one_warning() {
        let mut plan = plan(Path::new("/x"));
        plan.engine.shards = NonZeroU16::new(5);
        plan.engine.pin = true;
        let mut warnings = Vec::new();
        assert_eq!(place(&plan, &[2, 6], &mut warnings), [Some(2), Some(6), Some(2), Some(6), Some(2)]);
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].starts_with("5 shards share 2 CPUs"), "{warnings:?}");
    }

    #[test]
    fn auto_is_one_shard_per_cpu_and_at_least_one() {
        let mut plan = plan(Path::new("/x"));
        plan.engine.shards = None;
        let mut warnings = Vec::new();
        assert_eq!(place(&plan, &[0, 1, 2], &mut warnings), [None; 3]);
        plan.engine.pin = true;
        assert_eq!(place(&plan, &[0, 1, 2], &mut warnings), [Some(0), Some(1), Some(2)]);
        assert_eq!(place(&plan, &[], &mut warnings), [None]);
        assert!(warnings.is_empty());
    }

    #[test]
    fn descriptors_too_few_for_some_warn_and_for_all_refuse() {
        let plan = plan(Path::new("/x")).with_listener("a", &["127.0.0.1:0"]);
        let need = Descriptors::of(&plan, 2);
        assert_eq!(need.judge(need.all()), Verdict::Enough);
        let Verdict::Warning(line) = need.judge(need.all() - 100) else { unreachable!() };
        assert!(line.contains("enough for 50 of max_connections = 100"), "{line}");
        assert!(line.contains("ulimit -n") && !line.contains('\n'), "{line}");
        let Verdict::Error(line) = need.judge(need.others + 8) else { unreachable!() };
        assert!(line.contains("shards and listeners alone need"), "{line}");
    }

    #[test]
    fn limits_are_said_in_one_line_with_what_to_do() {
        assert_eq!(memlock_problem(u64::MAX), None);
        let line = memlock_problem(64 * 1024).unwrap();
        assert!(line.starts_with("RLIMIT_MEMLOCK is 64 KiB") && line.contains("ulimit -l"), "{line}");
        let plan = plan(Path::new("/x")).with_listener("a", &["127.0.0.1:0"]);
        assert_eq!(backlog_warning(&plan, 128), None);
        let line = backlog_warning(&plan, 16).unwrap();
        assert!(line.contains("sysctl -w net.core.somaxconn=128"), "{line}");
    }

    #[test]
    fn this_machine_is_good_enough() {
        let ground = probe(&plan(Path::new("/x"))).unwrap();
        assert_eq!(ground.cpus, [None, None]);
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(soft, hard);
    }

    #[test]
    fn a_state_dir_is_for_its_user_only() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b");
        assert_eq!(make_state_dir(&path), Ok(Created(true)));
        assert_eq!(make_state_dir(&path), Ok(Created(false)));
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert!(make_state_dir(Path::new("/proc/arus")).unwrap_err().starts_with("state_dir /proc/arus cannot"));
    }
}
