//! The figures: which load each puts on, what it counts by, and the bars arus must meet.

use super::peers::Peer;

/// What the proxy's cost is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Request,
    Gib,
    Connection,
    Datagram,
    IdleConnection,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    /// us of CPU per request, connection or datagram, s of CPU per GiB.
    Cpu,
    P50,
    P99,
    /// KiB resident per idle connection.
    Resident,
}

/// What a measured value is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    Peer(Peer),
    BestSplicing,
    BestSocks,
    /// What arus costs more than this peer: no ratio, but the difference.
    Beyond(Peer),
    /// arus itself in another figure.
    Figure(&'static str),
    /// No peer: the value itself.
    Nothing,
}

/// arus's `metric` must be at most `at_most` times that `of` somebody.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bar {
    pub(crate) metric: Metric,
    pub(crate) of: Of,
    pub(crate) at_most: f64,
}

pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) load: &'static [&'static str],
    pub(crate) unit: Unit,
    /// Who takes part as what; nobody: everybody as they are, but those that only serve SOCKS. The first is the one that the bars are for.
    pub(crate) cast: &'static [(Peer, Peer)],
    pub(crate) bars: &'static [Bar],
}

const fn bar(metric: Metric, of: Of, at_most: f64) -> Bar {
    Bar { metric, of, at_most }
}

const HAPROXY: Of = Of::Peer(Peer::Haproxy);
const HAPROXY_BUSY: Of = Of::Peer(Peer::HaproxyBusy);
const HAPROXY_TLS: Of = Of::Peer(Peer::HaproxyTls);
const NGINX_TLS: Of = Of::Peer(Peer::NginxTls);
const FLOOR: Of = Of::Peer(Peer::Floor);

const AS_THEY_ARE: &[(Peer, Peer)] = &[];
const BUSY: &[(Peer, Peer)] =
    &[(Peer::Arus, Peer::ArusBusy), (Peer::Haproxy, Peer::HaproxyBusy), (Peer::Haproxy, Peer::Haproxy)];
const TLS: &[(Peer, Peer)] =
    &[(Peer::Arus, Peer::ArusTls), (Peer::Haproxy, Peer::HaproxyTls), (Peer::Nginx, Peer::NginxTls)];
/// Beside arus with a plugin, arus without one that copies as well: only then is the plugin all the difference.
const PASSING: &[(Peer, Peer)] = &[(Peer::Arus, Peer::ArusPassing), (Peer::Arus, Peer::ArusCopying)];
const DETACHING: &[(Peer, Peer)] = &[(Peer::Arus, Peer::ArusDetaching), (Peer::Arus, Peer::Arus)];
const PROXYING: &[(Peer, Peer)] = &[(Peer::Arus, Peer::ArusProxying), (Peer::Arus, Peer::Arus)];
/// Nobody else has a login that is worth its name: dante asks the system, microsocks keeps the password in clear.
const LOGIN: &[(Peer, Peer)] = &[(Peer::Arus, Peer::ArusLogin), (Peer::Arus, Peer::ArusSocks)];
const GUESTS: &[(Peer, Peer)] = &[(Peer::Arus, Peer::ArusLogin)];
const SOCKS: &[(Peer, Peer)] = &[
    (Peer::Arus, Peer::ArusSocks),
    (Peer::Dante, Peer::Dante),
    (Peer::Microsocks, Peer::Microsocks),
    (Peer::FastSocks, Peer::FastSocks),
];
const SOCKS_RELAY: &[(Peer, Peer)] = &[(Peer::Arus, Peer::ArusSocks), (Peer::Arus, Peer::Arus)];
const SOCKS_UDP: &[(Peer, Peer)] =
    &[(Peer::Arus, Peer::ArusSocks), (Peer::Dante, Peer::Dante), (Peer::FastSocks, Peer::FastSocks)];
const RECORDING: &[(Peer, Peer)] = &[(Peer::Arus, Peer::ArusRecording), (Peer::Arus, Peer::Arus)];
const FILTERING: &[(Peer, Peer)] = &[(Peer::Arus, Peer::ArusFilter)];

pub(crate) const FIGURES: [Figure; 34] = [
    Figure {
        name: "rr64",
        title: "64 keep-alive connections, 36 B requests, 1,091 B answers",
        load: &["rr", "--connections", "64"],
        unit: Unit::Request,
        cast: AS_THEY_ARE,
        bars: &[
            bar(Metric::Cpu, HAPROXY, 0.92),
            bar(Metric::Cpu, FLOOR, 1.05),
            bar(Metric::P50, HAPROXY, 1.0),
            bar(Metric::P99, HAPROXY, 1.0),
        ],
    },
    Figure {
        name: "rr1000",
        title: "1,000 keep-alive connections, 36 B requests, 1,091 B answers",
        load: &["rr", "--connections", "1000"],
        unit: Unit::Request,
        cast: AS_THEY_ARE,
        bars: &[bar(Metric::Cpu, HAPROXY, 0.92), bar(Metric::Cpu, FLOOR, 1.05)],
    },
    Figure {
        name: "rr1",
        title: "1 keep-alive connection, 36 B requests, 1,091 B answers",
        load: &["rr", "--connections", "1"],
        unit: Unit::Request,
        cast: AS_THEY_ARE,
        bars: &[bar(Metric::P50, HAPROXY, 1.0), bar(Metric::P99, HAPROXY, 1.0)],
    },
    Figure {
        name: "low",
        title: "open loop, 2,000 requests/s over 16 connections",
        load: &["rr", "--connections", "16", "--rate", "2000"],
        unit: Unit::Request,
        cast: AS_THEY_ARE,
        bars: &[bar(Metric::P50, HAPROXY, 1.0), bar(Metric::P99, HAPROXY, 1.0)],
    },
    Figure {
        name: "rr1-busy",
        title: "1 keep-alive connection, the proxy busy-polling",
        load: &["rr", "--connections", "1"],
        unit: Unit::Request,
        cast: BUSY,
        bars: &[bar(Metric::P50, HAPROXY_BUSY, 1.0), bar(Metric::P50, HAPROXY, 0.45)],
    },
    Figure {
        name: "bulk8",
        title: "8 one-way streams, backend to client",
        load: &["bulk", "--streams", "8"],
        unit: Unit::Gib,
        cast: AS_THEY_ARE,
        bars: &[bar(Metric::Cpu, HAPROXY, 0.42), bar(Metric::Cpu, Of::BestSplicing, 1.0)],
    },
    Figure {
        name: "bulk1",
        title: "1 one-way stream, backend to client",
        load: &["bulk", "--streams", "1"],
        unit: Unit::Gib,
        cast: AS_THEY_ARE,
        bars: &[bar(Metric::Cpu, HAPROXY, 0.45), bar(Metric::Cpu, Of::BestSplicing, 1.0)],
    },
    Figure {
        name: "conn",
        title: "new connections: accept, dial, 64 B exchange, close; 16 in flight",
        load: &["conn", "--in-flight", "16"],
        unit: Unit::Connection,
        cast: AS_THEY_ARE,
        bars: &[bar(Metric::Cpu, HAPROXY, 0.98)],
    },
    Figure {
        name: "mixed",
        title: "16 request connections while 8 streams paced to 8 Gbit/s together run",
        load: &["mixed", "--connections", "16", "--streams", "8", "--pace-gbit", "8"],
        unit: Unit::Request,
        cast: AS_THEY_ARE,
        bars: &[bar(Metric::P50, HAPROXY, 0.5), bar(Metric::P99, HAPROXY, 1.0)],
    },
    Figure {
        name: "idle7000",
        title: "7,000 idle connections",
        load: &["idle", "--connections", "7000"],
        unit: Unit::IdleConnection,
        cast: AS_THEY_ARE,
        bars: &[bar(Metric::Resident, Of::Nothing, 2.0)],
    },
    Figure {
        name: "plugin-rr64",
        title: "64 keep-alive connections, 36 B requests, 1,091 B answers; a plugin that passes everything",
        load: &["rr", "--connections", "64"],
        unit: Unit::Request,
        cast: PASSING,
        bars: &[bar(Metric::Cpu, Of::Peer(Peer::ArusCopying), 1.10)],
    },
    Figure {
        name: "plugin-bulk",
        title: "8 one-way streams, backend to client; a plugin that passes everything",
        load: &["bulk", "--streams", "8"],
        unit: Unit::Gib,
        cast: PASSING,
        bars: &[bar(Metric::Cpu, Of::Peer(Peer::ArusCopying), 1.10)],
    },
    Figure {
        name: "plugin-detach",
        title: "8 one-way streams, backend to client; a plugin that leaves at the first bytes",
        load: &["bulk", "--streams", "8"],
        unit: Unit::Gib,
        cast: DETACHING,
        bars: &[bar(Metric::Cpu, Of::Peer(Peer::Arus), 1.02)],
    },
    Figure {
        name: "plugin-filter",
        title: "c_plugins/filter.c as `upper` by `arus plugin run`, zeros from memory to /dev/null; 0.333 s/GiB is 3 GiB/s",
        load: &[],
        unit: Unit::Gib,
        cast: FILTERING,
        bars: &[bar(Metric::Cpu, Of::Nothing, 0.333)],
    },
    Figure {
        name: "proxy-out",
        title: "new connections as in conn; with `send_proxy = \"v2\"`, and without",
        load: &["conn", "--in-flight", "16"],
        unit: Unit::Connection,
        cast: PROXYING,
        bars: &[bar(Metric::Cpu, Of::Peer(Peer::Arus), 1.02)],
    },
    Figure {
        name: "tls-handshake",
        title: "full handshake, 64 B exchange, close; 16 in flight",
        load: &["conn", "--in-flight", "16"],
        unit: Unit::Connection,
        cast: TLS,
        bars: &[bar(Metric::Cpu, HAPROXY_TLS, 0.55), bar(Metric::Cpu, NGINX_TLS, 1.0)],
    },
    Figure {
        name: "tls-resume",
        title: "handshake with a ticket, 64 B exchange, close; 16 in flight",
        load: &["conn", "--in-flight", "16", "--resume"],
        unit: Unit::Connection,
        cast: TLS,
        bars: &[bar(Metric::Cpu, HAPROXY_TLS, 0.8), bar(Metric::Cpu, NGINX_TLS, 1.0)],
    },
    Figure {
        name: "tls-bulk-down",
        title: "1 one-way stream, backend to client",
        load: &["bulk", "--streams", "1"],
        unit: Unit::Gib,
        cast: TLS,
        bars: &[bar(Metric::Cpu, HAPROXY_TLS, 0.5), bar(Metric::Cpu, NGINX_TLS, 1.0)],
    },
    Figure {
        name: "tls-bulk-up",
        title: "1 one-way stream, client to backend",
        load: &["bulk", "--streams", "1", "--direction", "up"],
        unit: Unit::Gib,
        cast: TLS,
        bars: &[bar(Metric::Cpu, HAPROXY_TLS, 0.5), bar(Metric::Cpu, NGINX_TLS, 1.0)],
    },
    Figure {
        name: "tls-rr64",
        title: "64 keep-alive connections, 36 B requests, 1,091 B answers",
        load: &["rr", "--connections", "64"],
        unit: Unit::Request,
        cast: TLS,
        bars: &[
            bar(Metric::Cpu, HAPROXY_TLS, 0.85),
            bar(Metric::Cpu, NGINX_TLS, 1.0),
            bar(Metric::P50, HAPROXY_TLS, 1.0),
            bar(Metric::P99, HAPROXY_TLS, 1.0),
        ],
    },
    Figure {
        name: "tls-idle",
        title: "2,000 idle connections",
        load: &["idle", "--connections", "2000"],
        unit: Unit::IdleConnection,
        cast: TLS,
        bars: &[bar(Metric::Resident, Of::Nothing, 12.0)],
    },
    Figure {
        name: "tls-calm",
        title: "open loop, 2,000 requests/s over 16 TLS connections",
        load: &["rr", "--connections", "16", "--rate", "2000"],
        unit: Unit::Request,
        cast: TLS,
        bars: &[bar(Metric::P99, HAPROXY_TLS, 1.0)],
    },
    Figure {
        name: "tls-flood",
        title: "the same during a flood of handshakes, 64 under way",
        load: &["flood", "--connections", "16", "--rate", "2000", "--in-flight", "64"],
        unit: Unit::Request,
        cast: TLS,
        bars: &[bar(Metric::P99, HAPROXY_TLS, 1.0), bar(Metric::P99, Of::Figure("tls-calm"), 3.0)],
    },
    Figure {
        name: "tls-calm-plain",
        title: "open loop, 2,000 requests/s over 16 plain connections of the same proxy",
        load: &["rr", "--connections", "16", "--rate", "2000", "--plain"],
        unit: Unit::Request,
        cast: TLS,
        bars: &[bar(Metric::P99, HAPROXY_TLS, 1.0)],
    },
    Figure {
        name: "tls-flood-plain",
        title: "the same during a flood of handshakes, 64 under way",
        load: &["flood", "--connections", "16", "--rate", "2000", "--in-flight", "64", "--plain"],
        unit: Unit::Request,
        cast: TLS,
        bars: &[bar(Metric::P99, HAPROXY_TLS, 1.0), bar(Metric::P99, Of::Figure("tls-calm-plain"), 3.0)],
    },
    Figure {
        name: "socks-conn",
        title: "SOCKS5 without authentication: connect, 64 B exchange, close; 16 in flight",
        load: &["conn", "--in-flight", "16"],
        unit: Unit::Connection,
        cast: SOCKS,
        bars: &[bar(Metric::Cpu, Of::BestSocks, 0.95)],
    },
    Figure {
        name: "socks-auth",
        title: "the same with user and password (argon2id, in the cache after the first login), and without",
        load: &["conn", "--in-flight", "16"],
        unit: Unit::Connection,
        cast: LOGIN,
        bars: &[bar(Metric::Cpu, Of::Beyond(Peer::ArusSocks), 20.0)],
    },
    Figure {
        name: "socks-calm",
        title: "open loop, 2,000 requests/s over 16 connections through SOCKS5",
        load: &["rr", "--connections", "16", "--rate", "2000"],
        unit: Unit::Request,
        cast: GUESTS,
        bars: &[],
    },
    Figure {
        name: "socks-logins",
        title: "the same while 100 users a second log in for the first time (argon2id)",
        load: &["logins", "--connections", "16", "--rate", "2000", "--logins", "100"],
        unit: Unit::Request,
        cast: GUESTS,
        bars: &[bar(Metric::P99, Of::Figure("socks-calm"), 1.2)],
    },
    Figure {
        name: "socks-rr64",
        title: "64 keep-alive connections, 36 B requests, 1,091 B answers; through SOCKS5, and forwarded",
        load: &["rr", "--connections", "64"],
        unit: Unit::Request,
        cast: SOCKS_RELAY,
        bars: &[bar(Metric::Cpu, Of::Peer(Peer::Arus), 1.03)],
    },
    Figure {
        name: "socks-bulk8",
        title: "8 one-way streams, backend to client; through SOCKS5, and forwarded",
        load: &["bulk", "--streams", "8"],
        unit: Unit::Gib,
        cast: SOCKS_RELAY,
        bars: &[bar(Metric::Cpu, Of::Peer(Peer::Arus), 1.03)],
    },
    Figure {
        name: "socks-udp",
        title: "64 B datagrams to an echo and back through one association, 32 under way; 0.667 is 1.5 times as many",
        load: &["udp", "--associations", "1", "--in-flight", "32"],
        unit: Unit::Datagram,
        cast: SOCKS_UDP,
        bars: &[bar(Metric::Cpu, Of::Peer(Peer::Dante), 0.667)],
    },
    Figure {
        name: "sessions-rr64",
        title: "rr64 with sessions in SQLite and an access log, and with neither",
        load: &["rr", "--connections", "64"],
        unit: Unit::Request,
        cast: RECORDING,
        bars: &[bar(Metric::Cpu, Of::Peer(Peer::Arus), 1.03)],
    },
    Figure {
        name: "sessions-conn",
        title: "conn with sessions in SQLite and an access log, and with neither",
        load: &["conn", "--in-flight", "16"],
        unit: Unit::Connection,
        cast: RECORDING,
        bars: &[bar(Metric::Cpu, Of::Peer(Peer::Arus), 1.10)],
    },
];

impl Figure {
    /// Whose turn it is in this figure, of those asked for.
    pub(crate) fn contenders(&self, asked: &[Peer]) -> Vec<Peer> {
        if self.cast.is_empty() {
            return asked.iter().copied().filter(|peer| !peer.is_socks_server()).collect();
        }
        self.cast.iter().filter(|(peer, _)| asked.contains(peer)).map(|&(_, part)| part).collect()
    }

    /// Whether the bars are for this one.
    pub(crate) fn is_subject(&self, peer: Peer) -> bool {
        self.cast.first().map_or(matches!(peer, Peer::Arus | Peer::ArusBusy), |&(_, subject)| peer == subject)
    }

    pub(crate) fn is_of_flood(&self) -> bool {
        matches!(self.load.first(), Some(&"flood" | &"logins"))
    }
}

impl Unit {
    pub(crate) fn cpu_column(self) -> &'static str {
        match self {
            Self::Request => "CPU us/request",
            Self::Gib => "CPU s/GiB",
            Self::Connection => "CPU us/connection",
            Self::Datagram => "CPU us/datagram",
            Self::IdleConnection => "CPU us/connection",
        }
    }
}

impl Metric {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "CPU",
            Self::P50 => "p50",
            Self::P99 => "p99",
            Self::Resident => "KiB resident per connection",
        }
    }
}
