//! Plans for the tests of the control plane.

use std::num::NonZeroU16;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::handle::{Bound, Control, Request, ShardView, View};
use super::states::States;
use super::store::Store;
use crate::config::plan::{
    AccessLog, Address, Admin, Auth, Backend, Balance, BusyPoll, Commands, Engine, Failures, Level, Listener, Log,
    LogFormat, Method, OnDown, PamService, Place, Plan, Resolve, SendProxy, Service, Sessions, Socks,
    Store as StoreKind, Telemetry, Timeouts, Upstream,
};
use crate::policy::acl::{Acl, Own};
use crate::shard::command::{BindId, Inbox, Mailbox, Snapshot};
use crate::stats::counters::ShardStats;
use crate::types::{Endpoint, Generation, ListenerIndex, ShardId, UpstreamIndex};

/// Two shards, no listener, no upstream; the state lies in `state_dir`.
pub(super) fn plan(state_dir: &Path) -> Plan {
    Plan {
        engine: Engine {
            shards: NonZeroU16::new(2),
            pin: false,
            buffer_size: 16 * 1024,
            buffers: 16,
            max_buffers: 64,
            busy_poll: BusyPoll::Off,
            max_connections: 100,
            drain_timeout: Duration::from_secs(5),
            user: None,
            state_dir: state_dir.to_path_buf(),
        },
        log: Log { level: Level::Info, format: LogFormat::Text, access: AccessLog::Off },
        admin: Admin {
            listen: None,
            socket: state_dir.join("control.sock"),
            dashboard: true,
            protect_metrics: false,
            hosts: Vec::new(),
            users: Vec::new(),
            tokens: Vec::new(),
        },
        auth: auth(),
        listeners: Vec::new(),
        upstreams: Vec::new(),
        plugins: Vec::new(),
        sessions: Sessions {
            store: StoreKind::Memory,
            batch_size: 1000,
            batch_interval: Duration::from_millis(100),
            retention: Duration::from_secs(3600),
            recent: 100,
        },
        telemetry: Telemetry { max_events: 100, retention: Duration::from_secs(3600) },
        demo: None,
        qos: crate::config::plan::Qos::default(),
        acl: crate::config::plan::Acl {
            default: crate::policy::acl::Action::Allow,
            file: None,
            reevaluate: true,
            rules: Vec::new(),
        },
        socks: Socks {
            commands: Commands { connect: true, bind: true, udp: true },
            bind_timeout: Duration::from_secs(5),
            udp_idle: Duration::from_secs(5),
            udp_max_associations_per_user: 2,
            advertise: None,
            socks4: false,
            upstream_proxy: None,
        },
    }
}

/// What `[auth]` is where the file has none.
pub(super) fn auth() -> Auth {
    let at = Place::default();
    Auth {
        methods: vec![Method::None],
        at,
        client_pam_service: None,
        pam_service: PamService { name: "arus".into(), at },
        system_groups: false,
        failures: Failures { limit: 5, window: Duration::from_secs(60), ban: Duration::from_secs(300) },
        users: Vec::new(),
    }
}

pub(super) fn endpoint(text: &str) -> Endpoint {
    match text.strip_prefix("unix:") {
        Some(path) => Endpoint::Unix(path.into()),
        None => Endpoint::Ip(text.parse().expect("an address")),
    }
}

impl Plan {
    pub(super) fn with_listener(mut self, name: &str, listen: &[&str]) -> Self {
        let line = self.listeners.len() as u32 + 1;
        self.listeners.push(Listener {
            index: ListenerIndex(self.listeners.len() as u16),
            name: name.into(),
            listen: listen.iter().map(|text| endpoint(text)).collect(),
            service: Service::Tcp,
            routes: Vec::new(),
            upstream: Some(UpstreamIndex(0)),
            plugins: Vec::new(),
            max_connections: None,
            max_connections_per_source: None,
            accept_rate: None,
            allow_sources: Vec::new(),
            accept_proxy: None,
            tls: None,
            peeks: false,
            backlog: 128,
            fast_open: false,
            timeouts: Timeouts {
                proxy_header: Duration::from_secs(5),
                tls_handshake: Duration::from_secs(5),
                negotiate: Duration::from_secs(5),
                connect: Duration::from_secs(5),
                idle: Duration::from_secs(60),
                half_closed: Duration::from_secs(60),
            },
            line,
        });
        self
    }

    pub(super) fn with_upstream(mut self, name: &str, backends: Vec<Address>) -> Self {
        let backend = |address| Backend { address, weight: 1, backup: false };
        self.upstreams.push(Upstream {
            index: UpstreamIndex(self.upstreams.len() as u16),
            name: name.into(),
            backends: backends.into_iter().map(backend).collect(),
            balance: Balance::RoundRobin,
            retries: 2,
            source_address: None,
            warm: None,
            max_connections_per_backend: None,
            queue: None,
            on_down: OnDown::Keep,
            health: None,
            outlier: None,
            resolve: Resolve { ttl_min: Duration::from_secs(1), ttl_max: Duration::from_secs(60) },
            send_proxy: SendProxy::Off,
            tls: None,
            line: 1,
        });
        self
    }
}

pub(super) fn at(text: &str) -> Address {
    Address::Endpoint(endpoint(text))
}

pub(super) fn host(name: &str, port: u16) -> Address {
    Address::Host { host: name.into(), port }
}

/// The far end of a shard's mailbox.
pub(super) struct FakeShard {
    pub inbox: Inbox,
    pub stats: Arc<ShardStats>,
}

/// A control of two shards that run `plan`, without sockets.
pub(super) fn control(plan: Plan) -> (Control, mpsc::Receiver<Request>, Vec<FakeShard>) {
    let binds = plan.listeners.iter().flat_map(|listener| {
        let bound = |address: &Endpoint| Bound { id: BindId(1), listener: listener.index, address: address.clone() };
        listener.listen.iter().map(bound)
    });
    let binds = binds.collect();
    let (mut views, mut shards) = (Vec::new(), Vec::new());
    for id in (0..2).map(ShardId) {
        let (mailbox, inbox) = Mailbox::new().expect("an eventfd");
        let stats = Arc::new(ShardStats::default());
        views.push(ShardView { id, cpu: None, mailbox, stats: Arc::clone(&stats) });
        shards.push(FakeShard { inbox, stats });
    }
    let view = View { snapshot: snapshot(plan), binds, draining: false };
    let (control, requests) = Control::new(None, views, view);
    let terms = &control.view().snapshot.plan.sessions;
    control.set_store(Store::start(terms, control.events().clone(), Vec::new()).expect("a thread"));
    (control, requests, shards)
}

/// The first snapshot of a plan, without sockets.
pub(super) fn snapshot(plan: Plan) -> Arc<Snapshot> {
    let mut states = States::new(None, 2, 0);
    Arc::new(Snapshot {
        acl: Arc::new(Acl::compile(plan.acl.default, &plan.acl.rules, Own::default(), None)),
        generation: Generation(1),
        listeners: plan.listeners.iter().map(|listener| states.listener(listener, &plan.engine)).collect(),
        upstreams: plan.upstreams.iter().map(|upstream| states.upstream(upstream)).collect(),
        tls: plan.listeners.iter().map(|_| None).collect(),
        upstream_tls: plan.upstreams.iter().map(|_| None).collect(),
        connections: states.connections(plan.engine.max_connections),
        associations: states.associations(),
        users: states.users(&plan.qos),
        plugins: Vec::new(),
        watches: Arc::new([]),
        plan,
    })
}
