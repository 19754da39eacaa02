//! What TLS needs while arus runs: files that change, ticket keys that age, certificates that end.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::{Store, identity, self_signed};
use crate::config::plan::{Identity, KeyPair, TlsIn};
use crate::control::events::{Category, Events, Severity};
use crate::control::handle::Control;
use crate::control::watch::{Content, Watch};
use crate::shard::command::Snapshot;
use crate::tls::certificates::{Certificate, Facts};
use crate::tls::tickets::Tickets;

/// How often the age of ticket keys is looked at; a key lives so much longer than it should at most.
const ROUND: Duration = Duration::from_secs(10 * 60);
/// How often expiry is looked at.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Why the configuration may mean something new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::control) enum Changed {
    /// The configuration file has new content.
    Configuration,
    /// A file that it names has, and must be loaded with everything else.
    Files,
}

/// Why a changed pair cannot be used, by the paths of its certificates and its key.
pub(in crate::control) type Pending = HashMap<(PathBuf, PathBuf), String>;

/// Dropping it ends the care.
pub(in crate::control) struct Care {
    control: Control,
    changes: mpsc::Sender<Changed>,
    clock: JoinHandle<()>,
    files: Option<JoinHandle<()>>,
}

impl Drop for Care {
    fn drop(&mut self) {
        self.clock.abort();
        self.files.iter().for_each(JoinHandle::abort);
    }
}

impl Care {
    /// To be made inside the runtime. Changes that need a reload go to `changes`.
    pub(in crate::control) fn new(control: Control, changes: mpsc::Sender<Changed>) -> Self {
        Self { control: control.clone(), changes, clock: tokio::spawn(go_round(control)), files: None }
    }

    /// Watches the files of a snapshot, and no others from now on. `files` is how they were before they were loaded for
    /// it, so that no change falls between.
    pub(in crate::control) fn follow(&mut self, snapshot: &Arc<Snapshot>, files: &[Content]) {
        self.files.iter().for_each(JoinHandle::abort);
        // Every file was loaded just now. What it says of its end was logged then.
        self.control.pending().clear();
        let now = SystemTime::now();
        for (listener, terms) in snapshot.plan.listeners.iter().zip(&snapshot.tls) {
            for certificate in terms.iter().flat_map(|terms| terms.certificates.all()) {
                let _ = note_expiry(self.control.events(), &listener.name, &certificate.facts, now);
            }
        }
        let watch =
            || tokio::spawn(keep_up(self.control.clone(), Arc::clone(snapshot), files.to_vec(), self.changes.clone()));
        self.files = (!files.is_empty()).then(watch);
    }
}

async fn keep_up(control: Control, snapshot: Arc<Snapshot>, files: Vec<Content>, changes: mpsc::Sender<Changed>) {
    let mut watch = Watch::new(files);
    loop {
        let changed = watch.changed().await;
        let (control, snapshot) = (control.clone(), Arc::clone(&snapshot));
        let needs_reload = tokio::task::spawn_blocking(move || take_up(&control, &snapshot, &changed)).await;
        if needs_reload.is_ok_and(|needs| needs) && changes.send(Changed::Files).await.is_err() {
            return;
        }
    }
}

/// Puts the certificates of changed files into use. A pair that cannot be used leaves the one before. Tells whether
/// there are changed files that need more than that: authorities, and whatever is shown to backends.
pub(super) fn take_up(control: &Control, snapshot: &Snapshot, changed: &[PathBuf]) -> bool {
    let has_changed = |path: &Path| changed.iter().any(|changed| changed == path);
    let mut needs_reload = false;
    // Listeners may share a pair: it is loaded, and spoken of, once.
    let mut loaded = HashMap::new();
    for (listener, terms) in snapshot.plan.listeners.iter().zip(&snapshot.tls) {
        let (Some(tls), Some(terms)) = (&listener.tls, terms) else { continue };
        needs_reload |= tls.client_auth.ca().is_some_and(|ca| has_changed(&ca.path));
        let Identity::Files(pairs) = &tls.identity else { continue };
        let mut all = terms.certificates.all();
        let before = names(&all);
        let mut is_new = false;
        for (pair, place) in pairs.iter().zip(&mut all) {
            if (has_changed(&pair.certificates.path) || has_changed(&pair.key.path))
                && let Some(certificate) =
                    loaded.entry(paths(pair)).or_insert_with(|| load(control, &users(snapshot, pair), pair))
            {
                *place = certificate.clone();
                is_new = true;
            }
        }
        if is_new {
            let lost = lost(&before, &names(&all));
            terms.certificates.replace(all);
            if !lost.is_empty() {
                let (listener, names) = (&listener.name, lost.join(" "));
                tracing::warn!(%listener, names, "no certificate has these names any more");
            }
        }
    }
    needs_reload
        | snapshot.plan.acl.file.as_ref().is_some_and(|file| has_changed(&file.path))
        | snapshot.plan.upstreams.iter().filter_map(|upstream| upstream.tls.as_ref()).any(|tls| {
            let own = tls.certificate.iter().flat_map(|pair| [&pair.certificates, &pair.key]);
            tls.ca.iter().chain(own).any(|file| has_changed(&file.path))
        })
}

fn paths(pair: &KeyPair) -> (PathBuf, PathBuf) {
    (pair.certificates.path.clone(), pair.key.path.clone())
}

/// The listeners that show a pair.
fn users(snapshot: &Snapshot, pair: &KeyPair) -> String {
    let shows = |tls: &TlsIn| match &tls.identity {
        Identity::Files(pairs) => pairs.iter().any(|other| paths(other) == paths(pair)),
        Identity::SelfSigned(_) => false,
    };
    let users = snapshot.plan.listeners.iter().filter(|listener| listener.tls.as_ref().is_some_and(shows));
    users.map(|listener| &*listener.name).collect::<Vec<_>>().join(", ")
}

fn names(all: &[Certificate]) -> BTreeSet<String> {
    all.iter().flat_map(|certificate| certificate.facts.names.iter().cloned()).collect()
}

/// The names of `before` that nothing in `now` has, by a wildcard neither.
pub(super) fn lost(before: &BTreeSet<String>, now: &BTreeSet<String>) -> Vec<String> {
    let wildcard = |name: &str| name.split_once('.').is_some_and(|(_, rest)| now.contains(&format!("*.{rest}")));
    before.iter().filter(|name| !now.contains(*name) && !wildcard(name)).cloned().collect()
}

/// `listener`: the names of all that show the pair.
fn load(control: &Control, listener: &str, pair: &KeyPair) -> Option<Certificate> {
    let mut warnings = Vec::new();
    let loaded = identity::load(pair, &mut warnings);
    for warning in &warnings {
        tracing::warn!(listener, "{}", warning.message);
    }
    match loaded {
        Ok(certificate) => {
            let Facts { subject, names, not_after, .. } = &*certificate.facts;
            let names = names.join(" ");
            tracing::info!(listener, subject, names, not_after = identity::date(*not_after), "new certificate in use");
            control.pending().remove(&paths(pair));
            let details = json!({ "listener": listener, "subject": subject, "names": names, "not_after": identity::date(*not_after) });
            let message = format!("new certificate of {subject} in use");
            control.events().say(Severity::Info, Category::Certificate, message, details);
            let _ = note_expiry(control.events(), listener, &certificate.facts, SystemTime::now());
            Some(certificate)
        }
        Err(problems) => {
            let reasons: Vec<&str> = problems.iter().map(|problem| problem.message.as_str()).collect();
            control.pending().insert(paths(pair), reasons.join("; "));
            let details = json!({ "listener": listener, "errors": reasons });
            let message = "changed certificate not usable; the one before stays";
            control.events().say(Severity::Warning, Category::Certificate, message, details);
            for problem in &problems {
                tracing::warn!(
                    listener,
                    reason = problem.message,
                    "changed certificate not usable; the one before stays"
                );
            }
            None
        }
    }
}

async fn go_round(control: Control) {
    let mut round = interval_at(Instant::now() + ROUND, ROUND);
    // After a suspend once is enough.
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looked = Instant::now();
    loop {
        round.tick().await;
        let snapshot = Arc::clone(&control.view().snapshot);
        for terms in snapshot.tls.iter().flatten() {
            turn(&terms.tickets);
        }
        if looked.elapsed() >= DAY {
            looked = Instant::now();
            let events = control.events().clone();
            let look = move || look_at_expiry(&snapshot, SystemTime::now(), &events);
            let _ = tokio::task::spawn_blocking(look).await;
        }
    }
}

fn turn(tickets: &Tickets) {
    if tickets.is_due()
        && let Err(error) = tickets.rotate()
    {
        tracing::warn!(%error, "ticket keys could not be changed");
    }
}

/// Warns of certificates that end, and renews those that arus made itself.
pub(super) fn look_at_expiry(snapshot: &Snapshot, now: SystemTime, events: &Events) {
    for (listener, terms) in snapshot.plan.listeners.iter().zip(&snapshot.tls) {
        let (Some(tls), Some(terms)) = (&listener.tls, terms) else { continue };
        let all = terms.certificates.all();
        if let Identity::SelfSigned(names) = &tls.identity
            && all.iter().any(|own| self_signed::is_due(own, now))
        {
            match self_signed::obtain(Store::Kept(&snapshot.plan.engine.state_dir), names) {
                Ok(own) => {
                    tracing::info!(listener = %listener.name, "self-signed certificate renewed");
                    let details = json!({ "listener": *listener.name });
                    events.say(Severity::Info, Category::Certificate, "self-signed certificate renewed", details);
                    terms.certificates.replace(vec![own]);
                    continue;
                }
                Err(wrong) => tracing::warn!(listener = %listener.name, "self-signed certificate not renewed: {wrong}"),
            }
        }
        for certificate in &all {
            if let Some(warning) = note_expiry(events, &listener.name, &certificate.facts, now) {
                tracing::warn!(listener = %listener.name, "the listener {warning}");
            }
        }
    }
}

/// Makes an event of a certificate that ends soon, or has ended; gives the warning.
fn note_expiry(events: &Events, listener: &str, facts: &Facts, now: SystemTime) -> Option<String> {
    let warning = identity::expiry(facts, now)?;
    let message = format!("listener {listener} {warning}");
    let details =
        json!({ "listener": listener, "subject": facts.subject, "not_after": identity::date(facts.not_after) });
    events.say_seldom(&message, Severity::Warning, Category::Certificate, &*message, details);
    Some(warning)
}
