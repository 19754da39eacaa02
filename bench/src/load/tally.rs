//! What a load thread counts, and the report made of all of them.

use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Latencies above this count as this.
const LONGEST: Duration = Duration::from_secs(60);

/// Counts of one thread, or the sum of several.
pub(crate) struct Tally {
    latency_ns: Histogram<u64>,
    pub(crate) bytes: u64,
    /// Handshakes that a flood got an answer to.
    pub(crate) flooded: u64,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
}

/// The JSON line on stdout.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) shape: String,
    pub(crate) seconds: f64,
    pub(crate) requests: u64,
    pub(crate) requests_per_s: f64,
    pub(crate) bytes: u64,
    pub(crate) gbit_per_s: f64,
    pub(crate) flooded_per_s: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
}

impl Tally {
    pub(crate) fn new() -> Self {
        let latency_ns =
            Histogram::new_with_bounds(1, LONGEST.as_nanos() as u64, 3).expect("the bounds are constants that fit");
        Self { latency_ns, bytes: 0, flooded: 0, errors: 0, first_error: None }
    }

    pub(crate) fn request(&mut self, took: Duration) {
        self.latency_ns.saturating_record(took.as_nanos() as u64);
    }

    pub(crate) fn fail(&mut self, why: impl Into<String>) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| why.into());
    }

    pub(crate) fn add(&mut self, other: &Self) -> Result<()> {
        self.latency_ns.add(&other.latency_ns)?;
        self.bytes += other.bytes;
        self.flooded += other.flooded;
        self.errors += other.errors;
        if self.first_error.is_none() {
            self.first_error.clone_from(&other.first_error);
        }
        Ok(())
    }

    pub(crate) fn report(&self, shape: &str, seconds: f64) -> Report {
        let requests = self.latency_ns.len();
        let us = |quantile: f64| self.latency_ns.value_at_quantile(quantile) as f64 / 1e3;
        Report {
            shape: shape.to_owned(),
            seconds,
            requests,
            requests_per_s: requests as f64 / seconds,
            bytes: self.bytes,
            gbit_per_s: self.bytes as f64 * 8.0 / 1e9 / seconds,
            flooded_per_s: self.flooded as f64 / seconds,
            p50_us: us(0.5),
            p99_us: us(0.99),
            p999_us: us(0.999),
            max_us: self.latency_ns.max() as f64 / 1e3,
            errors: self.errors,
            first_error: self.first_error.clone(),
        }
    }
}
