//! Reloading: load and prepare beside the running configuration, then commit. Whatever fails before the commit changes
//! nothing; the commit cannot fail.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::oneshot;

use super::admin::entrance::Move;
use super::admin::secret::digest_of;
use super::admin::token::{self, Generated};
use super::answers::{answers, apply};
use super::auth::pam;
use super::events::{Category, Severity};
use super::handle::{Bound, ReloadRefused, Request, View};
use super::launch::render;
use super::plugins;
use super::prepare::{Prepared, prepare};
use super::privilege;
use super::supervisor::{Loaded, Supervisor};
use super::systemd;
use super::tls::Changed;
use crate::config::diff;
use crate::config::plan::Plan;
use crate::shard::command::BindId;
use crate::types::{Endpoint, Generation, Name};

type Answer = oneshot::Sender<Result<Generation, ReloadRefused>>;

/// How long a reload waits for host names that are new, in all.
const NEW_NAMES: Duration = Duration::from_secs(1);
/// Shards answer well within a tenth of a second.
const APPLY_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Because {
    /// A signal, a request, or a file that the configuration names: these are loaded again, too.
    Asked,
    /// The content of the configuration file.
    FileChanged,
}

impl Supervisor {
    /// Reloads, and tells whoever asked. All who ask before it begins get the same answer.
    pub(super) async fn reload(&mut self, first: Option<Answer>) {
        let mut askers: Vec<Answer> = first.into_iter().collect();
        while let Ok(request) = self.requests.try_recv() {
            match request {
                Request::Reload(answer) => askers.push(answer),
                Request::Drain => self.must_stop = true,
            }
        }
        let result = self.reload_because(Because::Asked).await;
        for asker in askers {
            let _ = asker.send(result.clone());
        }
    }

    /// Reloads because a file has new content.
    pub(super) async fn reload_changed(&mut self, changed: Changed) {
        let because = match changed {
            Changed::Configuration => Because::FileChanged,
            Changed::Files => Because::Asked,
        };
        let _ = self.reload_because(because).await;
    }

    async fn reload_because(&mut self, because: Because) -> Result<Generation, ReloadRefused> {
        systemd::reloading();
        let result = self.try_reload(because).await;
        if let Err(errors) = &result {
            for error in errors {
                tracing::error!("{error}");
            }
            let generation = self.control.view().snapshot.generation.0;
            tracing::error!(errors = errors.len(), generation, "reload refused; nothing has changed");
            let details = json!({ "generation": generation, "errors": errors });
            let message =
                format!("reload refused with {} error{}", errors.len(), if errors.len() == 1 { "" } else { "s" });
            self.control.events().say(Severity::Error, Category::Reload, message, details);
        }
        self.control.count_reload(result.is_ok());
        systemd::ready();
        result.map_err(|errors| ReloadRefused { errors })
    }

    async fn try_reload(&mut self, because: Because) -> Result<Generation, Vec<String>> {
        let begun = Instant::now();
        let before = self.control.view();
        let load = std::sync::Arc::clone(&self.source.load);
        let Loaded { mut plan, warnings } = off_thread(move || load()).await?;
        let fixed = diff::keep_fixed(&before.snapshot.plan, &mut plan);
        if !fixed.is_empty() {
            tracing::warn!("changed, but taken up only by a restart: {}", fixed.join(", "));
        }
        if because == Because::FileChanged && plan == before.snapshot.plan {
            tracing::debug!("the configuration file has changed, what it means has not");
            return Ok(before.snapshot.generation);
        }
        let pam = self.start_pam(&plan)?;
        let entrance = self.entrance.prepare(&plan).map_err(|problem| render(&[problem], self.source.path()))?;
        let token = token::ensure(&plan).map_err(|error| vec![error])?;
        let (in_force, shards) = (self.in_force.clone(), self.shards.len() as u16);
        let (config, file) = (self.source.path.clone(), self.source.path.clone());
        let prepared = off_thread(move || {
            prepare(plan, &in_force, shards).map_err(|problems| render(&problems, config.as_deref()))
        });
        let prepared = prepared.await?;
        let warnings = warnings.into_iter().chain(render(prepared.warnings(), file.as_deref()));
        self.resolver.follow(prepared.snapshot());
        self.resolver.settle(NEW_NAMES).await;
        warnings.for_each(|warning| tracing::warn!("{warning}"));
        self.auth.follow(&prepared.snapshot().plan.auth, pam);
        self.admit(&prepared.snapshot().plan, entrance, token);
        Ok(self.commit(prepared, &before.snapshot.plan, begun).await)
    }

    /// Starts the PAM processes where this plan is the first to need them. They must be root, as arus was at its start.
    fn start_pam(&self, plan: &Plan) -> Result<Option<pam::Started>, Vec<String>> {
        if !self.auth.lacks_pam(&plan.auth) {
            return Ok(None);
        }
        if let Some(user) = plan.engine.user.as_ref().filter(|_| !privilege::is_root()) {
            let file = self.source.path.as_deref().map_or_else(String::new, |path| format!("{}:", path.display()));
            let at = plan.auth.at;
            let what = "[auth] needs PAM now, which must be started before root is given up";
            return Err(vec![format!("{file}{}:{}: {what} to `{user}` (restart arus)", at.line, at.column)]);
        }
        pam::start().map(Some).map_err(|error| vec![format!("the PAM processes cannot be started: {error}")])
    }

    /// Puts into force where the admin API listens, and the token that arus makes for itself. What a plan says of users
    /// and tokens is looked up in the snapshot.
    fn admit(&mut self, plan: &Plan, entrance: Move, token: Option<Generated>) {
        if let Err(error) = self.entrance.commit(plan, entrance) {
            tracing::error!(%error, "the admin API cannot listen");
        }
        self.entrance.announce(token.as_ref().filter(|token| token.is_new));
        self.control.set_generated_token(token.map(|token| digest_of(&token.token)));
    }

    async fn commit(&mut self, prepared: Prepared, before: &Plan, begun: Instant) -> Generation {
        let snapshot = std::sync::Arc::clone(prepared.snapshot());
        // Nothing is awaited between reading the addresses and sending them: none can be overtaken by older ones.
        let (in_force, handovers, moved) = prepared.commit(&self.resolver.known().addresses());
        let asked = apply(&self.shards, handovers);
        if let Err(error) = answers(asked, APPLY_LIMIT).await {
            // It has the snapshot in its mailbox. One that has ended is found by the roll call.
            tracing::error!("{error} to the new configuration");
        }
        self.in_force = in_force;
        let view_before = self.control.view();
        self.control.set_view(self.in_force.view(&snapshot, false));
        say_moved(&view_before, &self.control.view());
        plugins::announce(&view_before.snapshot.plugins, &snapshot.plugins);
        self.checks.follow(&snapshot);
        self.care.follow(&snapshot, self.in_force.tls_files());
        self.recorder.reopen(&snapshot.plan.log, before.log != snapshot.plan.log);
        (self.relog)(&snapshot.plan.log);
        let mut changes = (self.diff)(before, &snapshot.plan);
        changes.extend(plugins::changed_libraries(&view_before.snapshot.plugins, &snapshot.plugins));
        let details = json!({ "generation": snapshot.generation.0, "changes": changes });
        self.control.events().say(Severity::Info, Category::Reload, "configuration reloaded", details);
        self.control.events().follow(snapshot.plan.telemetry);
        if let Some(store) = self.control.store() {
            store.follow(&snapshot.plan.sessions);
        }
        let changes = changes.join("; ");
        let took_ms = (begun.elapsed().as_secs_f64() * 10_000.0).round() / 10.0;
        let generation = snapshot.generation.0;
        tracing::info!(
            generation,
            took_ms,
            addresses_new = moved.new,
            addresses_kept = moved.kept,
            addresses_retired = moved.retired,
            changes,
            "reloaded"
        );
        snapshot.generation
    }
}

/// Says where arus listens that it did not, and where it does no more.
fn say_moved(before: &View, after: &View) {
    // An address may have moved to another listener.
    fn binds(view: &View) -> impl Iterator<Item = (BindId, &Name, &Endpoint)> {
        let name = |bound: &Bound| &view.snapshot.plan.listeners[usize::from(bound.listener.0)].name;
        view.binds.iter().map(move |bound| (bound.id, name(bound), &bound.address))
    }
    let old: HashSet<_> = binds(before).collect();
    let new: HashSet<_> = binds(after).collect();
    for (_, listener, address) in binds(before).filter(|bind| !new.contains(bind)) {
        tracing::info!(%listener, %address, "listening no more");
    }
    for (_, listener, address) in binds(after).filter(|bind| !old.contains(bind)) {
        tracing::info!(%listener, %address, "listening");
    }
}

/// Runs what may block.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Vec<String>> + Send + 'static,
) -> Result<T, Vec<String>> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(vec![error.to_string()]))
}
