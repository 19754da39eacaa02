//! What the file says: every table and key that this version of arus knows, once, with its type. The texts borrow from
//! the file. What values mean, their defaults and their bounds are `compile`'s.
//!
//! The same list gives the parser its known keys, and the tests the keys that `docs/CONFIG.md` and `proxy.toml` must
//! show.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::Report;
use super::read::{Flag, Head, Lasting, List, Read, Shape, Size, Table, Text, Whole, wrong_type};

/// Declares the tables: a struct each, with a field for every key (`None`: absent or wrong), and [`SHAPES`].
macro_rules! tables {
    ($(
        $(#[$meta:meta])*
        $name:ident $(<$life:lifetime>)? $title:literal {
            $($key:ident: $type:ty,)*
            $(; later: $($later:ident),+)?
        }
    )*) => {
        $(
            $(#[$meta])*
            #[derive(Debug, Default)]
            pub(super) struct $name $(<$life>)? {
                #[allow(dead_code)] // every table has one, and not all have something to say of it
                pub(super) head: Head,
                $(pub(super) $key: Option<$type>,)*
            }

            impl $(<$life>)? $name $(<$life>)? {
                const SHAPE: Shape = Shape {
                    title: $title,
                    keys: &[$(stringify!($key)),*],
                    later: &[$($(stringify!($later)),+)?],
                };
            }

            impl<'a> Read<'a> for tables!(@with $name $($life)?) {
                fn read(value: Spanned<DeValue<'a>>, key: &str, report: &mut Report<'_>) -> Option<Self> {
                    let mut table = Table::open(value, key, &Self::SHAPE, report)?;
                    $(let $key = table.take(stringify!($key), report);)*
                    Some(Self { head: table.close(report), $($key,)* })
                }
            }
        )*

        /// Every table with its keys, in the order of the documentation.
        #[cfg(test)]
        pub(super) const SHAPES: &[Shape] = &[$($name::SHAPE),*];
    };
    (@with $name:ident) => { $name };
    (@with $name:ident $life:lifetime) => { $name<$life> };
}

tables! {
    File<'a> "" {
        engine: Engine<'a>,
        timeouts: Timeouts,
        log: Log<'a>,
        admin: Admin<'a>,
        auth: Auth<'a>,
        listener: Vec<Listener<'a>>,
        upstream: Vec<Upstream<'a>>,
        plugin: Vec<Plugin<'a>>,
        sessions: Sessions<'a>,
        telemetry: Telemetry,
        demo: Demo<'a>,
        socks: Socks<'a>,
        acl: Acl<'a>,
        qos: Qos<'a>,
    }

    Engine<'a> "[engine]" {
        shards: WholeOrText<'a>,
        pin: Flag,
        buffer_size: Spanned<Size>,
        buffers: Whole,
        max_buffers: Whole,
        busy_poll: Text<'a>,
        max_connections: Whole,
        drain_timeout: Lasting,
        user: Text<'a>,
        state_dir: Text<'a>,
    }

    Timeouts "[timeouts]" {
        proxy_header: Lasting,
        tls_handshake: Lasting,
        negotiate: Lasting,
        connect: Lasting,
        idle: Lasting,
        half_closed: Lasting,
    }

    Log<'a> "[log]" {
        level: Text<'a>,
        format: Text<'a>,
        access: Text<'a>,
    }

    Admin<'a> "[admin]" {
        listen: Text<'a>,
        socket: Text<'a>,
        dashboard: Flag,
        protect_metrics: Flag,
        hosts: List<Text<'a>>,
        users: List<AdminUser<'a>>,
        tokens: List<AdminToken<'a>>,
    }

    AdminUser<'a> "[[admin.users]]" {
        name: Text<'a>,
        password_hash: Text<'a>,
        scope: Text<'a>,
    }

    AdminToken<'a> "[[admin.tokens]]" {
        name: Text<'a>,
        hash: Text<'a>,
        scope: Text<'a>,
    }

    Auth<'a> "[auth]" {
        methods: List<Text<'a>>,
        client_pam_service: Text<'a>,
        pam_service: Text<'a>,
        system_groups: Flag,
        failures: Failures,
        user: Vec<AuthUser<'a>>,
    }

    Failures "[auth.failures]" {
        limit: Whole,
        window: Lasting,
        ban: Lasting,
    }

    AuthUser<'a> "[[auth.user]]" {
        name: Text<'a>,
        password_hash: Text<'a>,
        password: Text<'a>,
        groups: List<Text<'a>>,
    }

    Listener<'a> "[[listener]]" {
        name: Text<'a>,
        listen: List<Text<'a>>,
        service: Text<'a>,
        upstream: Text<'a>,
        max_connections: Whole,
        max_connections_per_source: Whole,
        accept_rate: Whole,
        allow_sources: List<Text<'a>>,
        accept_proxy: AcceptProxy<'a>,
        backlog: Whole,
        fast_open: Flag,
        timeouts: ListenerTimeouts,
        tls: TlsIn<'a>,
        plugins: List<Text<'a>>,
        route: Vec<Route<'a>>,
    }

    AcceptProxy<'a> "[listener.accept_proxy]" {
        mode: Text<'a>,
        trusted: List<Text<'a>>,
    }

    /// The same keys as [`Timeouts`], each of which overrides the file's.
    ListenerTimeouts "[listener.timeouts]" {
        proxy_header: Lasting,
        tls_handshake: Lasting,
        negotiate: Lasting,
        connect: Lasting,
        idle: Lasting,
        half_closed: Lasting,
    }

    TlsIn<'a> "[listener.tls]" {
        certificates: List<Certificate<'a>>,
        self_signed: List<Text<'a>>,
        unknown_sni: Text<'a>,
        alpn: List<Text<'a>>,
        min_version: Text<'a>,
        client_auth: ClientAuth<'a>,
    }

    Certificate<'a> "[[listener.tls.certificates]]" {
        cert: Text<'a>,
        key: Text<'a>,
    }

    ClientAuth<'a> "[listener.tls.client_auth]" {
        mode: Text<'a>,
        ca: Text<'a>,
    }

    Route<'a> "[[listener.route]]" {
        sni: List<Text<'a>>,
        alpn: List<Text<'a>>,
        source: List<Text<'a>>,
        upstream: Text<'a>,
    }

    Upstream<'a> "[[upstream]]" {
        name: Text<'a>,
        backends: List<Backend<'a>>,
        balance: Text<'a>,
        retries: Whole,
        source_address: Text<'a>,
        warm: Warm,
        max_connections_per_backend: Whole,
        queue: Queue,
        on_down: Text<'a>,
        health: Health<'a>,
        outlier: Outlier,
        resolve: Resolve,
        send_proxy: Text<'a>,
        proxy_tlvs: List<Text<'a>>,
        tls: TlsOut<'a>,
    }

    BackendTable<'a> "[[upstream.backends]]" {
        address: Text<'a>,
        weight: Whole,
        backup: Flag,
    }

    Warm "[upstream.warm]" {
        connections: Whole,
        idle: Lasting,
    }

    Queue "[upstream.queue]" {
        size: Whole,
        timeout: Lasting,
    }

    Health<'a> "[upstream.health]" {
        interval: Lasting,
        timeout: Lasting,
        rise: Whole,
        fall: Whole,
        send: Text<'a>,
        expect: Text<'a>,
    }

    Outlier "[upstream.outlier]" {
        failures: Whole,
        eject: Lasting,
    }

    Resolve "[upstream.resolve]" {
        ttl_min: Lasting,
        ttl_max: Lasting,
    }

    TlsOut<'a> "[upstream.tls]" {
        server_name: Text<'a>,
        ca: Text<'a>,
        cert: Text<'a>,
        key: Text<'a>,
        alpn: List<Text<'a>>,
        verify: Flag,
    }

    Plugin<'a> "[[plugin]]" {
        name: Text<'a>,
        path: Text<'a>,
        config: Text<'a>,
        on_fault: Text<'a>,
        max_call: Lasting,
    }

    Acl<'a> "[acl]" {
        default: Text<'a>,
        file: Text<'a>,
        reevaluate: Flag,
        rule: Vec<AclRule<'a>>,
    }

    AclRule<'a> "[[acl.rule]]" {
        action: Text<'a>,
        priority: Whole,
        description: Text<'a>,
        users: List<Text<'a>>,
        groups: List<Text<'a>>,
        sources: List<Text<'a>>,
        destinations: List<Text<'a>>,
        ports: List<WholeOrText<'a>>,
        protocols: List<Text<'a>>,
        listeners: List<Text<'a>>,
    }

    Sessions<'a> "[sessions]" {
        store: Text<'a>,
        batch_size: Whole,
        batch_interval: Lasting,
        retention: Lasting,
        recent: Whole,
    }

    Telemetry "[telemetry]" {
        max_events: Whole,
        retention: Lasting,
    }

    Socks<'a> "[socks]" {
        commands: List<Text<'a>>,
        bind_timeout: Lasting,
        udp_idle: Lasting,
        udp_max_associations_per_user: Whole,
        advertise: Text<'a>,
        socks4: Flag,
        upstream_proxy: Text<'a>,
    }

    Qos<'a> "[qos]" {
        global: Spanned<Size>,
        per_user: PerUser,
        per_connection: Spanned<Size>,
        connections_per_user: Whole,
        users: List<QosUser<'a>>,
    }

    PerUser "[qos.per_user]" {
        guaranteed: Spanned<Size>,
        max: Spanned<Size>,
        burst: Spanned<Size>,
    }

    QosUser<'a> "[[qos.users]]" {
        name: Text<'a>,
        guaranteed: Spanned<Size>,
        max: Spanned<Size>,
        burst: Spanned<Size>,
        quota: Quota<'a>,
    }

    Quota<'a> "[qos.users.quota]" {
        bytes: Spanned<Size>,
        per: Text<'a>,
    }

    Demo<'a> "[demo]" {
        hello: Text<'a>,
        accept_proxy: Flag,
    }
}

impl<'a> File<'a> {
    pub(super) fn from_document(document: Spanned<DeTable<'a>>, report: &mut Report<'_>) -> Self {
        let value = Spanned::new(document.span(), DeValue::Table(document.into_inner()));
        Self::read(value, "", report).unwrap_or_default()
    }
}

/// The file that `[acl]` names.
#[derive(Debug, Default)]
pub(super) struct AclRules<'a> {
    pub(super) rule: Option<Vec<AclRule<'a>>>,
}

impl<'a> AclRules<'a> {
    const SHAPE: Shape = Shape { title: "", keys: &["rule"], later: &[] };

    pub(super) fn from_document(document: Spanned<DeTable<'a>>, report: &mut Report<'_>) -> Self {
        let value = Spanned::new(document.span(), DeValue::Table(document.into_inner()));
        let Some(mut table) = Table::open(value, "", &Self::SHAPE, report) else { return Self::default() };
        let rule = table.take("rule", report);
        let _ = table.close(report);
        Self { rule }
    }
}

/// `shards = 4` or `shards = "auto"`.
#[derive(Debug)]
pub(super) enum WholeOrText<'a> {
    Whole(Whole),
    Text(Text<'a>),
}

impl<'a> Read<'a> for WholeOrText<'a> {
    fn read(value: Spanned<DeValue<'a>>, key: &str, report: &mut Report<'_>) -> Option<Self> {
        match value.get_ref() {
            DeValue::Integer(_) => Whole::read(value, key, report).map(Self::Whole),
            DeValue::String(_) => Text::read(value, key, report).map(Self::Text),
            other => wrong_type(&value.span(), key, "a whole number or a string", other, report),
        }
    }
}

/// An item of `backends`: an address alone, or a table.
#[derive(Debug)]
pub(super) enum Backend<'a> {
    Address(Text<'a>),
    Table(BackendTable<'a>),
}

impl<'a> Read<'a> for Backend<'a> {
    fn read(value: Spanned<DeValue<'a>>, key: &str, report: &mut Report<'_>) -> Option<Self> {
        match value.get_ref() {
            DeValue::String(_) => Text::read(value, key, report).map(Self::Address),
            DeValue::Table(_) => BackendTable::read(value, key, report).map(Self::Table),
            other => wrong_type(&value.span(), key, "an address or a table", other, report),
        }
    }
}
