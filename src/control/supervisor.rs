//! The one that starts everything, and then does one thing at a time: a signal, a request, a changed file, an event
//! of a shard.
//!
//! It runs on the main thread, in a tokio runtime of that one thread. Reloading is told in `reload`, stopping in `stop`.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, bounded, unbounded};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval_at};

use super::admin::Listeners;
use super::admin::entrance::Entrance;
use super::admin::secret::digest_of;
use super::answers::{failed, first_apply, ping};
use super::auth::Auth;
use super::ejected;
use super::errands;
use super::events::{Category, Severity};
use super::handle::{Control, Request, ShardView};
use super::hangs::HangWatch;
use super::health::Checks;
use super::hello;
use super::launch::{Launched, Refused, launch};
use super::plugins;
use super::prepare::InForce;
use super::quotas::{QuotaThread, Quotas};
use super::recorder::{self, Recorder};
use super::resolver::{self, Resolver};
use super::signals::{Signal, Signals};
use super::socket::SocketFile;
use super::startup::Ground;
use super::stats::StatsThread;
use super::store::Store;
use super::systemd;
use super::tls::{Care, Changed};
use super::watch::{Content, Watch};
use crate::config;
use crate::config::plan::{Engine, Log, Plan};
use crate::shard;
use crate::shard::command::{Commission, ERRANDS, Event, Mailbox};
use crate::stats::counters::ShardStats;
use crate::stats::summary::Summary;
use crate::types::ShardId;

/// Where configurations come from.
pub struct Source {
    pub(super) path: Option<PathBuf>,
    pub(super) load: Load,
    content: Option<Content>,
}

/// Reads and compiles the configuration, overrides of the command line included; else every error, one rendered line
/// each.
pub type Load = Arc<dyn Fn() -> Result<Loaded, Vec<String>> + Send + Sync>;

/// A configuration that could be put into force.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub plan: Plan,
    pub warnings: Vec<String>,
}

impl Source {
    /// To be made before the first load, so that no later change of the file is missed. `None`: the built-in example.
    #[must_use]
    pub fn new(path: Option<PathBuf>, load: Load) -> Self {
        let content = path.as_deref().map(Content::of);
        Self { path, load, content }
    }

    /// # Errors
    /// Every error of the configuration.
    pub fn load(&self) -> Result<Loaded, Vec<String>> {
        (self.load)()
    }

    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }
}

/// A task of the control plane that runs beside the supervisor.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Says what differs between two plans, a few words each.
pub type Diff = Box<dyn Fn(&Plan, &Plan) -> Vec<String>>;

/// What the supervisor does not do itself.
pub struct Hooks {
    /// Starts a shard.
    pub spawn: Box<dyn Fn(shard::Parts) -> io::Result<JoinHandle<()>>>,
    /// Serves the control socket, and the admin API's TCP listeners.
    pub serve: Box<dyn FnOnce(Control, tokio::net::UnixListener, Listeners) -> Task>,
    /// Runs the demo backend; the flag says whether a PROXY header is mandatory there.
    pub hello: Box<dyn FnOnce(tokio::net::TcpListener, bool) -> Task>,
    /// For the log line of a reload.
    pub diff: Diff,
    /// Puts the level and format of the program's own log into force.
    pub relog: Box<dyn Fn(&Log)>,
}

impl Default for Hooks {
    /// Real shards, and nothing beside them.
    fn default() -> Self {
        Self {
            spawn: Box::new(shard::spawn),
            serve: Box::new(|_, _, _| Box::pin(async {})),
            hello: Box::new(|_, _| Box::pin(async {})),
            diff: Box::new(config::diff::diff),
            relog: Box::new(|_| {}),
        }
    }
}

/// How long the start waits for host names in all.
const FIRST_NAMES: Duration = Duration::from_secs(1);
/// The exit code of a configuration that cannot be used, as `arus check` has it.
const BAD_CONFIGURATION: u8 = 2;
/// How often the shards' threads are looked at.
const ROLL_CALL: Duration = Duration::from_secs(1);

/// Runs arus until it is told to stop. `first` is what `source` has loaded. To be called on the main thread, before
/// there is any other but the log's.
#[must_use]
pub fn run(source: Source, first: Loaded, hooks: Hooks) -> ExitCode {
    match supervise(source, first, hooks) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Refused { lines, is_configuration }) => {
            lines.iter().for_each(|line| tracing::error!("{line}"));
            if is_configuration { ExitCode::from(BAD_CONFIGURATION) } else { ExitCode::FAILURE }
        }
    }
}

/// # Errors
/// Why arus could not start, or could not go on.
pub(super) fn supervise(source: Source, first: Loaded, hooks: Hooks) -> Result<(), Refused> {
    first.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let launched = launch(first.plan, source.path())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_name("blocking")
        .build()
        .map_err(|error| vec![format!("no runtime: {error}")])?;
    let result = runtime.block_on(async { Supervisor::start(source, launched, hooks).await?.run().await });
    // Whatever still blocks (a lookup of files, a stuck shard's answer) must not keep the process from ending.
    runtime.shutdown_background();
    result.map_err(Refused::from)
}

pub(super) struct Supervisor {
    pub(super) source: Source,
    pub(super) diff: Diff,
    pub(super) relog: Box<dyn Fn(&Log)>,
    pub(super) control: Control,
    pub(super) in_force: InForce,
    pub(super) shards: Arc<[Mailbox]>,
    threads: Vec<JoinHandle<()>>,
    pub(super) resolver: Resolver,
    pub(super) checks: Checks,
    pub(super) care: Care,
    pub(super) auth: Auth,
    pub(super) entrance: Entrance,
    pub(super) recorder: Recorder,
    _stats: StatsThread,
    _hangs: HangWatch,
    _quotas: QuotaThread,
    _socket_file: SocketFile,
    pub(super) signals: Signals,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) events: mpsc::UnboundedReceiver<Event>,
    changes: mpsc::Receiver<Changed>,
    /// A drain was asked for while something else was done.
    pub(super) must_stop: bool,
    /// When the first signal to stop came.
    pub(super) signalled: Option<Instant>,
}

impl Supervisor {
    async fn start(mut source: Source, launched: Launched, hooks: Hooks) -> Result<Self, Vec<String>> {
        let one = |what: &'static str| move |error: io::Error| vec![format!("{what}: {error}")];
        let Launched {
            ground,
            prepared,
            control_socket,
            socket_file,
            demo,
            access_log,
            pam,
            entrance: first_entrance,
            token,
        } = launched;
        let signals = Signals::new().map_err(one("no signal handlers"))?;
        let plan = prepared.snapshot().plan.clone();
        let Crew { views, threads, events, summaries, commissions } =
            muster(&ground, &plan.engine, &hooks).map_err(one("no shards"))?;
        let shards: Arc<[Mailbox]> = views.iter().map(|view| view.mailbox.clone()).collect();
        let mut events = forward("events", events).map_err(one("no thread"))?;
        let commissions = forward("errands", commissions).map_err(one("no thread"))?;
        let auth = Auth::new(&plan.auth, pam).map_err(|line| vec![line])?;
        tokio::spawn(errands::run(commissions, Arc::clone(&shards), resolver::system(), auth.clone()));

        let mut resolver = Resolver::new(Arc::clone(&shards));
        resolver.follow(prepared.snapshot());
        resolver.settle(FIRST_NAMES).await;
        let (in_force, handovers, _) = prepared.commit(&resolver.known().addresses());
        let Some(snapshot) = in_force.snapshot().cloned() else { return Err(vec!["nothing is in force".into()]) };
        let mut quotas = Quotas::open(&plan.engine.state_dir);
        quotas.tend(&snapshot.users, &plan.qos);
        if let Err(error) = first_apply(&shards, handovers, &mut events).await {
            in_force.remove_socket_files();
            return Err(vec![error]);
        }

        let counters = views.iter().map(|view| Arc::clone(&view.stats)).collect();
        let (control, requests) = Control::new(source.path.clone(), views, in_force.view(&snapshot, false));
        let store = Store::start(&plan.sessions, control.events().clone(), shards.to_vec());
        let store = store.map_err(one("no thread for the session store"))?;
        let recorder = Recorder::spawn(summaries, access_log, plan.log.format, counters, Some(store.clone()))
            .map_err(one("no recorder thread"))?;
        store.settle_by(recorder.settler());
        control.set_store(store);
        control.set_auth(auth.clone());
        let stats = StatsThread::spawn(control.clone()).map_err(one("no stats thread"))?;
        let hangs = HangWatch::spawn(control.clone()).map_err(one("no plugin-watch thread"))?;
        let quotas = QuotaThread::spawn(control.clone(), quotas).map_err(one("no thread for quotas"))?;
        let mut checks = Checks::new(resolver.known().clone(), Arc::clone(&shards), control.events().clone());
        checks.follow(&snapshot);
        let listener = tokio::net::UnixListener::from_std(control_socket).map_err(one("control socket"))?;
        let (mut entrance, listeners) = Entrance::new();
        entrance.commit(&plan, first_entrance).map_err(one("admin API"))?;
        entrance.announce(token.as_ref());
        control.set_generated_token(token.map(|token| digest_of(&token.token)));
        tokio::spawn((hooks.serve)(control.clone(), listener, listeners));
        if let Some(demo) = demo {
            let listener = tokio::net::TcpListener::from_std(demo).map_err(one("demo backend"))?;
            hello::announce(&listener).map_err(one("demo backend"))?;
            let accept_proxy = plan.demo.as_ref().is_some_and(|demo| demo.accept_proxy);
            tokio::spawn((hooks.hello)(listener, accept_proxy));
        }
        // Changes that come while one is being dealt with count as one.
        let (changed, changes) = mpsc::channel(1);
        watch(source.content.take(), changed.clone());
        let mut care = Care::new(control.clone(), changed);
        care.follow(&snapshot, in_force.tls_files());
        let supervisor = Self {
            source,
            diff: hooks.diff,
            relog: hooks.relog,
            control,
            in_force,
            shards,
            threads,
            resolver,
            checks,
            care,
            auth,
            entrance,
            recorder,
            _stats: stats,
            _hangs: hangs,
            _quotas: quotas,
            _socket_file: socket_file,
            signals,
            requests,
            events,
            changes,
            must_stop: false,
            signalled: None,
        };
        supervisor.announce();
        Ok(supervisor)
    }

    /// Says where arus listens, and that it does.
    fn announce(&self) {
        let view = self.control.view();
        for bound in &view.binds {
            let listener = &view.snapshot.plan.listeners[usize::from(bound.listener.0)].name;
            tracing::info!(%listener, address = %bound.address, "listening");
        }
        plugins::announce(&[], &view.snapshot.plugins);
        let (pid, shards) = (std::process::id(), self.shards.len());
        let generation = view.snapshot.generation.0;
        tracing::info!(pid, shards, generation, "ready");
        let details = json!({ "pid": pid, "shards": shards, "version": env!("CARGO_PKG_VERSION") });
        self.control.events().say(Severity::Info, Category::Process, "arus has started", details);
        systemd::ready();
    }

    /// One thing at a time, until it is time to stop.
    async fn run(mut self) -> Result<(), Vec<String>> {
        let begin = Instant::now();
        let mut roll_call = interval_at(begin + ROLL_CALL, ROLL_CALL);
        let watchdog = systemd::watchdog_interval();
        let pace = watchdog.unwrap_or(Duration::from_secs(3600));
        let mut watchdog_due = interval_at(begin, pace);
        while !self.must_stop {
            tokio::select! {
                signal = self.signals.next() => match signal {
                    Signal::Reload => self.reload(None).await,
                    Signal::Stop => {
                        self.must_stop = true;
                        self.signalled = Some(Instant::now());
                    }
                },
                Some(request) = self.requests.recv() => match request {
                    Request::Reload(answer) => self.reload(Some(answer)).await,
                    Request::Drain => self.must_stop = true,
                },
                Some(changed) = self.changes.recv() => self.reload_changed(changed).await,
                Some(event) = self.events.recv() => self.take_event(event)?,
                _ = roll_call.tick() => self.call_roll()?,
                _ = watchdog_due.tick(), if watchdog.is_some() => ping(&self.shards, pace),
            }
        }
        self.stop().await;
        Ok(())
    }

    /// # Errors
    /// When the process cannot go on.
    pub(super) fn take_event(&self, event: Event) -> Result<(), Vec<String>> {
        match event {
            Event::Failed(shard, why) => {
                self.in_force.remove_socket_files();
                Err(vec![failed(shard, &why)])
            }
            Event::Ejected(backend) => {
                ejected::note(&self.control, &self.shards, backend);
                Ok(())
            }
        }
    }

    /// A shard never ends by itself.
    fn call_roll(&mut self) -> Result<(), Vec<String>> {
        let Some(shard) = self.threads.iter().position(JoinHandle::is_finished) else { return Ok(()) };
        // It may have said why.
        while let Ok(event) = self.events.try_recv() {
            self.take_event(event)?;
        }
        self.take_event(Event::Failed(ShardId(shard as u16), "its thread has ended".into()))
    }
}

/// The shards, and what comes from them.
struct Crew {
    views: Vec<ShardView>,
    threads: Vec<JoinHandle<()>>,
    events: Receiver<Event>,
    summaries: Receiver<Summary>,
    commissions: Receiver<Commission>,
}

/// Starts the shards, without listeners.
fn muster(ground: &Ground, engine: &Engine, hooks: &Hooks) -> io::Result<Crew> {
    let (summary_sender, summaries) = bounded(recorder::CAPACITY);
    let (event_sender, events) = unbounded();
    let (errand_sender, commissions) = bounded(ERRANDS);
    let pairs: Vec<_> = ground.cpus.iter().map(|_| Mailbox::new()).collect::<io::Result<_>>()?;
    let (mailboxes, inboxes): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    let peers: Arc<[Mailbox]> = mailboxes.iter().cloned().collect();
    let (mut views, mut threads) = (Vec::new(), Vec::new());
    for (index, (inbox, mailbox)) in inboxes.into_iter().zip(mailboxes).enumerate() {
        let (id, cpu, stats) = (ShardId(index as u16), ground.cpus[index], Arc::new(ShardStats::default()));
        threads.push((hooks.spawn)(shard::Parts {
            id,
            cpu,
            engine: engine.clone(),
            features: ground.features,
            inbox,
            stats: Arc::clone(&stats),
            events: event_sender.clone(),
            summaries: summary_sender.clone(),
            peers: Arc::clone(&peers),
            errands: errand_sender.clone(),
        })?);
        views.push(ShardView { id, cpu, mailbox, stats });
    }
    Ok(Crew { views, threads, events, summaries, commissions })
}

/// Brings what the shards send into the runtime.
fn forward<T: Send + 'static>(name: &str, sent: Receiver<T>) -> io::Result<mpsc::UnboundedReceiver<T>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::Builder::new().name(name.into()).spawn(move || {
        for each in sent {
            if sender.send(each).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// Watches the configuration.
fn watch(content: Option<Content>, changes: mpsc::Sender<Changed>) {
    let Some(content) = content else { return };
    tokio::spawn(async move {
        let mut watch = Watch::new(vec![content]);
        loop {
            watch.changed().await;
            if changes.send(Changed::Configuration).await.is_err() {
                return;
            }
        }
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "supervisor_tests.rs"]
mod tests;
