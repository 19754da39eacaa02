//! Latency histograms: each shard records into its own, plainly; the stats thread asks for them and merges.

use hdrhistogram::Histogram;
use std::time::Duration;

/// The stages that are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Accepted to the end of the PROXY header.
    ProxyHeader,
    /// A client's handshake, or its ClientHello where that is only looked at.
    Tls,
    /// The SOCKS dialogue, up to its request.
    Negotiate,
    /// A name that a client asked for.
    Resolve,
    /// Dial begun to upstream connected.
    Connect,
    /// Upstream connected to its first byte.
    FirstByte,
    /// Accepted to closed.
    Session,
}

impl Measure {
    pub const ALL: [Self; 7] =
        [Self::ProxyHeader, Self::Tls, Self::Negotiate, Self::Resolve, Self::Connect, Self::FirstByte, Self::Session];

    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::ProxyHeader => "proxy_header",
            Self::Tls => "tls",
            Self::Negotiate => "negotiate",
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::FirstByte => "first_byte",
            Self::Session => "session",
        }
    }
}

/// Microseconds, 1 us to 30 days, two significant digits; one histogram per [`Measure`].
#[derive(Debug, Clone)]
pub struct Latencies([Histogram<u64>; Measure::ALL.len()]);

const HIGHEST_US: u64 = 30 * 24 * 3600 * 1_000_000;

impl Default for Latencies {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, HIGHEST_US, 2).expect("the bounds are valid");
        Self(std::array::from_fn(|_| histogram.clone()))
    }
}

impl Latencies {
    pub fn record(&mut self, measure: Measure, value: Duration) {
        self.0[measure as usize].saturating_record((value.as_micros() as u64).clamp(1, HIGHEST_US));
    }

    /// Hands out what was recorded since the last call.
    pub fn take(&mut self) -> Self {
        let taken = self.clone();
        self.0.iter_mut().for_each(Histogram::reset);
        taken
    }

    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            mine.add(theirs).expect("all histograms have the same bounds");
        }
    }

    #[must_use]
    pub fn get(&self, measure: Measure) -> &Histogram<u64> {
        &self.0[measure as usize]
    }
}
