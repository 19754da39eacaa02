//! The plugins of a plan: loaded, opened, and opened for every shard, or kept where nothing about them has changed.
//!
//! A plugin is kept when its `[[plugin]]` table and the content of its file are what they were: then its processes and
//! instances go on, also for new connections. Otherwise it is opened beside the old one, which ends with its last
//! connection. Plugin files are not watched: whoever replaces one says so with `arus reload` or SIGHUP, when it is whole.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::prepare::Problem;
use crate::config::plan::{Place, Plan, Plugin};
use crate::config::{Finding, Severity};
use crate::plugin::counters::PluginState;
use crate::plugin::watch::Watch;
use crate::plugin::{Libraries, Library, Opened, Process, Terms, Trust, crash};
use crate::shard::command::{Handed, Snapshot};
use crate::types::{Generation, ShardId};

/// Of the whole process, as no library is ever unloaded.
static LIBRARIES: Mutex<Libraries> = Mutex::new(Libraries::new());

/// The plugins of a plan, opened.
#[derive(Debug)]
pub(super) struct Plugins {
    pub(super) processes: Vec<Arc<Process>>,
    pub(super) watches: Arc<[Arc<Watch>]>,
    /// For each shard.
    pub(super) handed: Vec<Vec<Handed>>,
}

/// Opens what `plan` needs beyond what is in force.
///
/// # Errors
/// Every plugin that cannot be loaded or opened; what was opened is closed again.
pub(super) fn prepare(
    plan: &Plan,
    in_force: Option<&Snapshot>,
    config: Option<&Path>,
    generation: Generation,
    shards: u16,
) -> Result<Plugins, Vec<Problem>> {
    let watches = match in_force {
        Some(snapshot) => Arc::clone(&snapshot.watches),
        None => (0..shards).map(|_| Arc::default()).collect(),
    };
    let mut plugins = Plugins { processes: Vec::new(), watches, handed: (0..shards).map(|_| Vec::new()).collect() };
    let mut problems = Vec::new();
    let running = in_force.map_or(&[][..], |snapshot| &snapshot.plugins);
    if !plan.plugins.is_empty() {
        watch_for_crashes(plan);
    }
    for plugin in &plan.plugins {
        if let Err(error) = plugins.add(plugin, running, config, generation, shards) {
            problems.push(error);
        }
    }
    if problems.is_empty() { Ok(plugins) } else { Err(problems) }
}

/// A crash file that cannot be made is no reason not to run.
fn watch_for_crashes(plan: &Plan) {
    let state_dir = Some(&*plan.engine.state_dir).filter(|directory| directory.is_dir());
    if let Err(error) = crash::install(state_dir) {
        let path = plan.engine.state_dir.join(crash::FILE);
        tracing::warn!(path = %path.display(), %error, "crashes of plugins will be told on stderr only");
    }
}

/// Loads, opens and closes the plugins of a plan, for `arus check`. `file` is what messages call the configuration.
#[must_use]
pub fn check(plan: &Plan, config: Option<&Path>, file: &str) -> Vec<Finding> {
    let problems = prepare(plan, None, config, Generation(1), 1).err().unwrap_or_default();
    let finding = |problem: Problem| Finding {
        file: file.into(),
        line: problem.line,
        column: problem.column,
        severity: Severity::Error,
        message: problem.message,
        hint: None,
    };
    problems.into_iter().map(finding).collect()
}

impl Plugins {
    fn add(
        &mut self,
        plugin: &Plugin,
        running: &[Arc<Process>],
        config: Option<&Path>,
        generation: Generation,
        shards: u16,
    ) -> Result<(), Problem> {
        let library = load(plugin, config).map_err(|error| problem(plugin, plugin.path_at, &error))?;
        // What a plugin finds wrong when it is opened is mostly its configuration.
        let refused = |error: String| problem(plugin, plugin.config_at, &error);
        let terms = terms(plugin);
        let before = running.iter().find(|process| process.terms.name == plugin.name);
        let is_kept = |process: &&Arc<Process>| process.terms == terms && Arc::ptr_eq(&process.library, &library);
        if let Some(kept) = before.filter(is_kept) {
            let handed = || Handed { id: kept.id, opened: None };
            self.handed.iter_mut().for_each(|shard| shard.push(handed()));
            self.processes.push(Arc::clone(kept));
            return Ok(());
        }
        let state = match before {
            Some(before) => Arc::clone(&before.state),
            None => Arc::new(PluginState::new(plugin.name.clone(), shards)),
        };
        let process = Process::open(terms, library, state, generation, shards).map_err(refused)?;
        for (shard, watch) in (0..shards).zip(self.watches.iter()) {
            let opened = Some(Opened::new(&process, ShardId(shard), watch).map_err(refused)?);
            self.handed[usize::from(shard)].push(Handed { id: process.id, opened });
        }
        self.processes.push(process);
        Ok(())
    }
}

fn load(plugin: &Plugin, config: Option<&Path>) -> Result<Arc<Library>, String> {
    let trust = config.map_or(Trust { owner: None, writers: None }, Trust::of_configuration);
    let mut libraries = LIBRARIES.lock().unwrap_or_else(PoisonError::into_inner);
    libraries.load(&plugin.name, &plugin.path, trust).map_err(|error| error.to_string())
}

fn terms(plugin: &Plugin) -> Terms {
    let Plugin { name, path, config, on_fault, max_call, line: _, path_at: _, config_at: _ } = plugin.clone();
    Terms { name, path, config, on_fault, max_call }
}

fn problem(plugin: &Plugin, at: Place, error: &str) -> Problem {
    let Plugin { name, path, .. } = plugin;
    Problem {
        line: at.line,
        column: at.column,
        message: format!("plugin `{name}`: {}: {error}", path.display()),
        is_in_use: false,
        is_configuration: true,
    }
}

/// What changed, as the log says it after a commit.
pub(super) fn announce(before: &[Arc<Process>], now: &[Arc<Process>]) {
    for process in now.iter().filter(|process| before.iter().all(|before| before.id != process.id)) {
        let Process { terms, library, generation, .. } = &**process;
        tracing::info!(
            plugin = %terms.name,
            path = %terms.path.display(),
            name = library.name(),
            version = library.version(),
            sha256 = %library.digest,
            generation = generation.0,
            "plugin loaded"
        );
    }
    for process in before.iter().filter(|process| now.iter().all(|now| now.id != process.id)) {
        let Process { terms, generation, .. } = &**process;
        tracing::info!(plugin = %terms.name, generation = generation.0, "plugin retired; live connections keep it");
    }
}

/// The plugins whose library is another one now, in the words of [`crate::config::diff`], which does not see files.
pub(super) fn changed_libraries(before: &[Arc<Process>], now: &[Arc<Process>]) -> Vec<String> {
    let is_changed = |process: &&Arc<Process>| {
        let before = before.iter().find(|before| before.terms.name == process.terms.name);
        before.is_some_and(|before| {
            before.terms.path == process.terms.path && before.library.digest != process.library.digest
        })
    };
    now.iter().filter(is_changed).map(|process| format!("plugin {}: library changed", process.terms.name)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "plugins_tests.rs"]
mod tests;
