//! The figures: which load each puts on, what it counts by, and the bars arus must meet.

use super::peers::Peer;

/// What the proxy's cost is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Request,
    Gib,
    Connection,
    IdleConnection,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    /// us of CPU per request or connection, s of CPU per GiB.
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
    pub(crate) bars: &'static [Bar],
}

const fn bar(metric: Metric, of: Of, at_most: f64) -> Bar {
    Bar { metric, of, at_most }
}

const HAPROXY: Of = Of::Peer(Peer::Haproxy);
const HAPROXY_BUSY: Of = Of::Peer(Peer::HaproxyBusy);
const FLOOR: Of = Of::Peer(Peer::Floor);

pub(crate) const FIGURES: [Figure; 10] = [
    Figure {
        name: "rr64",
        title: "64 keep-alive connections, 36 B requests, 1,091 B answers",
        load: &["rr", "--connections", "64"],
        unit: Unit::Request,
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
        bars: &[bar(Metric::Cpu, HAPROXY, 0.92), bar(Metric::Cpu, FLOOR, 1.05)],
    },
    Figure {
        name: "rr1",
        title: "1 keep-alive connection, 36 B requests, 1,091 B answers",
        load: &["rr", "--connections", "1"],
        unit: Unit::Request,
        bars: &[bar(Metric::P50, HAPROXY, 1.0), bar(Metric::P99, HAPROXY, 1.0)],
    },
    Figure {
        name: "low",
        title: "open loop, 2,000 requests/s over 16 connections",
        load: &["rr", "--connections", "16", "--rate", "2000"],
        unit: Unit::Request,
        bars: &[bar(Metric::P50, HAPROXY, 1.0), bar(Metric::P99, HAPROXY, 1.0)],
    },
    Figure {
        name: "rr1-busy",
        title: "1 keep-alive connection, the proxy busy-polling",
        load: &["rr", "--connections", "1"],
        unit: Unit::Request,
        bars: &[bar(Metric::P50, HAPROXY_BUSY, 1.0), bar(Metric::P50, HAPROXY, 0.45)],
    },
    Figure {
        name: "bulk8",
        title: "8 one-way streams, backend to client",
        load: &["bulk", "--streams", "8"],
        unit: Unit::Gib,
        bars: &[bar(Metric::Cpu, HAPROXY, 0.42), bar(Metric::Cpu, Of::BestSplicing, 1.0)],
    },
    Figure {
        name: "bulk1",
        title: "1 one-way stream, backend to client",
        load: &["bulk", "--streams", "1"],
        unit: Unit::Gib,
        bars: &[bar(Metric::Cpu, HAPROXY, 0.45), bar(Metric::Cpu, Of::BestSplicing, 1.0)],
    },
    Figure {
        name: "conn",
        title: "new connections: accept, dial, 64 B exchange, close; 16 in flight",
        load: &["conn", "--in-flight", "16"],
        unit: Unit::Connection,
        bars: &[bar(Metric::Cpu, HAPROXY, 0.98)],
    },
    Figure {
        name: "mixed",
        title: "16 request connections while 8 streams paced to 8 Gbit/s together run",
        load: &["mixed", "--connections", "16", "--streams", "8", "--pace-gbit", "8"],
        unit: Unit::Request,
        bars: &[bar(Metric::P50, HAPROXY, 0.5), bar(Metric::P99, HAPROXY, 1.0)],
    },
    Figure {
        name: "idle7000",
        title: "7,000 idle connections",
        load: &["idle", "--connections", "7000"],
        unit: Unit::IdleConnection,
        bars: &[bar(Metric::Resident, Of::Nothing, 2.0)],
    },
];

impl Figure {
    /// Whose turn it is in this figure, of those asked for.
    pub(crate) fn contenders(&self, asked: &[Peer]) -> Vec<Peer> {
        if self.name != "rr1-busy" {
            return asked.to_vec();
        }
        let busy = asked.iter().flat_map(|peer| match peer {
            Peer::Arus => vec![Peer::ArusBusy],
            Peer::Haproxy => vec![Peer::HaproxyBusy, Peer::Haproxy],
            _ => vec![],
        });
        busy.collect()
    }
}

impl Unit {
    pub(crate) fn cpu_column(self) -> &'static str {
        match self {
            Self::Request => "CPU us/request",
            Self::Gib => "CPU s/GiB",
            Self::Connection => "CPU us/connection",
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
