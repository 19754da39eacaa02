//! What came of it: samples, medians, ratios, bars, and the report as Markdown.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::figures::{Bar, FIGURES, Figure, Metric, Of, Unit};
use super::meter::{Memory, Meter};
use super::peers::{Peer, Programs};
use crate::load::Report;

const BEGIN: &str = "<!-- bench:begin -->";
const END: &str = "<!-- bench:end -->";
const GIB: f64 = (1_u64 << 30) as f64;

/// One measurement of one proxy, or the medians of several.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// us per request, connection or datagram, s per GiB.
    cpu: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    requests_per_s: f64,
    gbit_per_s: f64,
    flooded_per_s: f64,
    rss_kib: f64,
    pss_kib: f64,
}

impl Sample {
    pub(crate) fn new(unit: Unit, load: &Report, cpu: Duration, before: Memory, after: Memory) -> Self {
        let units = match unit {
            Unit::Gib => load.bytes as f64 / GIB,
            Unit::Request | Unit::Connection | Unit::Datagram | Unit::IdleConnection => load.requests as f64 * 1e-6,
        };
        let each = |before: u64, after: u64| (after as f64 - before as f64) / load.requests.max(1) as f64;
        Self {
            cpu: cpu.as_secs_f64() / units,
            p50_us: load.p50_us,
            p99_us: load.p99_us,
            p999_us: load.p999_us,
            requests_per_s: load.requests_per_s,
            gbit_per_s: load.gbit_per_s,
            flooded_per_s: load.flooded_per_s,
            rss_kib: each(before.rss_kib, after.rss_kib),
            pss_kib: each(before.pss_kib, after.pss_kib),
        }
    }

    fn median(samples: &[Self]) -> Option<Self> {
        let of = |field: fn(&Self) -> f64| median(samples.iter().map(field).collect());
        Some(Self {
            cpu: of(|sample| sample.cpu)?,
            p50_us: of(|sample| sample.p50_us)?,
            p99_us: of(|sample| sample.p99_us)?,
            p999_us: of(|sample| sample.p999_us)?,
            requests_per_s: of(|sample| sample.requests_per_s)?,
            gbit_per_s: of(|sample| sample.gbit_per_s)?,
            flooded_per_s: of(|sample| sample.flooded_per_s)?,
            rss_kib: of(|sample| sample.rss_kib)?,
            pss_kib: of(|sample| sample.pss_kib)?,
        })
    }

    fn metric(&self, metric: Metric) -> f64 {
        match metric {
            Metric::Cpu => self.cpu,
            Metric::P50 => self.p50_us,
            Metric::P99 => self.p99_us,
            Metric::Resident => self.rss_kib,
        }
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CPU {:.3}, p50 {:.1} us, p99 {:.1} us, ", self.cpu, self.p50_us, self.p99_us)?;
        write!(f, "{:.0}/s, {:.2} Gbit/s, ", self.requests_per_s, self.gbit_per_s)?;
        if self.flooded_per_s > 0.0 {
            write!(f, "{:.0} flooded/s, ", self.flooded_per_s)?;
        }
        write!(f, "{:.2} KiB RSS", self.rss_kib)
    }
}

/// Everything measured, in the order it was.
#[derive(Default)]
pub(crate) struct Results {
    rows: Vec<Row>,
}

/// One proxy in one figure.
struct Row {
    figure: &'static Figure,
    peer: Peer,
    samples: Vec<Sample>,
    failures: Vec<String>,
}

impl Row {
    fn median(&self) -> Option<Sample> {
        Sample::median(&self.samples)
    }

    /// Half the distance between the least and the largest CPU, in percent of the median.
    fn cpu_spread(&self) -> f64 {
        let cpus = || self.samples.iter().map(|sample| sample.cpu);
        let distance = cpus().fold(f64::MIN, f64::max) - cpus().fold(f64::MAX, f64::min);
        self.median().map_or(0.0, |median| 50.0 * distance / median.cpu)
    }
}

impl Results {
    pub(crate) fn add(&mut self, figure: &'static Figure, peer: Peer, sample: Result<Sample, String>) {
        let is_it = |row: &&mut Row| row.figure.name == figure.name && row.peer == peer;
        if self.rows.iter_mut().find(is_it).is_none() {
            self.rows.push(Row { figure, peer, samples: vec![], failures: vec![] });
        }
        if let Some(row) = self.rows.iter_mut().find(is_it) {
            match sample {
                Ok(sample) => row.samples.push(sample),
                Err(why) => row.failures.push(why),
            }
        }
    }

    pub(crate) fn markdown(&self, programs: &Programs, peers: &[Peer], network: &str) -> Result<String> {
        let mut text = header(programs, peers, network)?;
        if self.rows.iter().any(|row| row.figure.is_subject(row.peer)) {
            text += &self.bars();
        }
        for figure in &FIGURES {
            text += &self.table(figure);
        }
        Ok(text)
    }

    fn of_figure<'a>(&'a self, figure: &'a Figure) -> impl Iterator<Item = &'a Row> {
        self.rows.iter().filter(|row| row.figure.name == figure.name)
    }

    fn arus(&self, figure: &Figure) -> Option<Sample> {
        self.of_figure(figure).find(|row| figure.is_subject(row.peer))?.median()
    }

    fn bars(&self) -> String {
        let mut text = "\n### What it must reach\n\n".to_owned();
        text += "| figure | what | arus | compared with | ratio | bar | |\n";
        text += "|---|---|--:|--:|--:|--:|---|\n";
        for figure in &FIGURES {
            for bar in figure.bars {
                if let Some(arus) = self.arus(figure) {
                    text += &self.bar_line(figure, bar, &arus);
                }
            }
        }
        text
    }

    fn bar_line(&self, figure: &Figure, bar: &Bar, arus: &Sample) -> String {
        let metric = bar.metric;
        let value = arus.metric(metric);
        let median_of = |row: &Row| Some(row.median()?.metric(metric));
        let (whom, other) = match bar.of {
            Of::Nothing => (String::new(), Some(1.0)),
            Of::Peer(peer) => {
                let mut rows = self.of_figure(figure).filter(|row| row.peer == peer);
                (format!(" / {}", peer.name()), rows.next().and_then(median_of))
            }
            Of::Figure(name) => {
                let other = FIGURES.iter().find(|figure| figure.name == name);
                let value = other.and_then(|figure| self.arus(figure)).map(|arus| arus.metric(metric));
                (format!(" / arus in {name}"), value)
            }
            Of::Beyond(peer) => {
                let mut rows = self.of_figure(figure).filter(|row| row.peer == peer);
                (format!(" beyond {}", peer.name()), rows.next().and_then(median_of))
            }
            Of::BestSocks => {
                let serving = self.of_figure(figure).filter(|row| row.peer.is_socks_server());
                (" / best SOCKS peer".to_owned(), serving.filter_map(median_of).reduce(f64::min))
            }
            Of::BestSplicing => {
                let splicing = self.of_figure(figure).filter(|row| row.peer.splices());
                (" / best splicing peer".to_owned(), splicing.filter_map(median_of).reduce(f64::min))
            }
        };
        let what = format!("{}{whom}", metric.name());
        let (name, at_most) = (figure.name, bar.at_most);
        let Some(other) = other else {
            return format!("| {name} | {what} | {value:.3} | not measured | | <= {at_most} | |\n");
        };
        let ratio = if matches!(bar.of, Of::Beyond(_)) { value - other } else { value / other };
        let verdict = if ratio <= at_most { "PASS" } else { "**MISS**" };
        let other = if bar.of == Of::Nothing { String::new() } else { format!("{other:.3}") };
        format!("| {name} | {what} | {value:.3} | {other} | {ratio:.3} | <= {at_most} | {verdict} |\n")
    }

    /// The table of one figure; the last columns are arus's value divided by the row's.
    fn table(&self, figure: &Figure) -> String {
        if self.of_figure(figure).next().is_none() {
            return String::new();
        }
        let columns = columns(figure);
        let metrics = ratio_metrics(figure.unit);
        let mut text = format!("\n### {}: {}\n\n| |", figure.name, figure.title);
        for (title, _) in &columns {
            text += &format!(" {title} |");
        }
        for metric in metrics {
            text += &format!(" arus / it: {} |", metric.name());
        }
        text += "\n|---|";
        text += &"--:|".repeat(columns.len() + metrics.len());
        text += "\n";
        for row in self.of_figure(figure) {
            text += &format!("| {} |", row.peer.name());
            if let Some(median) = row.median() {
                for (_, cell) in &columns {
                    text += &format!(" {} |", cell(row, &median));
                }
                for &metric in metrics {
                    let ratio = self.arus(figure).map(|arus| arus.metric(metric) / median.metric(metric));
                    text += &ratio.map_or_else(|| " |".to_owned(), |ratio| format!(" {ratio:.2} |"));
                }
            }
            if let Some(failure) = row.failures.last() {
                text += &format!(" failed {} times: {failure} |", row.failures.len());
            }
            text += "\n";
        }
        text
    }
}

type Cell = fn(&Row, &Sample) -> String;

fn columns(figure: &Figure) -> Vec<(&'static str, Cell)> {
    let unit = figure.unit;
    if unit == Unit::IdleConnection {
        return vec![
            ("KiB RSS/connection", |_, median| format!("{:.2}", median.rss_kib)),
            ("KiB PSS/connection", |_, median| format!("{:.2}", median.pss_kib)),
        ];
    }
    let mut columns: Vec<(&str, Cell)> = vec![
        (unit.cpu_column(), |_, median| format!("{:.3}", median.cpu)),
        ("+-", |row, _| format!("{:.1} %", row.cpu_spread())),
    ];
    if unit == Unit::Gib || figure.name == "mixed" {
        columns.push(("Gbit/s", |_, median| format!("{:.2}", median.gbit_per_s)));
    }
    if figure.is_of_flood() {
        columns.push(("flood/s", |_, median| format!("{:.0}", median.flooded_per_s)));
    }
    if unit != Unit::Gib {
        columns.push(("per second", |_, median| format!("{:.0}", median.requests_per_s)));
        columns.push(("p50 us", |_, median| format!("{:.1}", median.p50_us)));
        columns.push(("p99 us", |_, median| format!("{:.1}", median.p99_us)));
        columns.push(("p99.9 us", |_, median| format!("{:.1}", median.p999_us)));
    }
    columns
}

fn ratio_metrics(unit: Unit) -> &'static [Metric] {
    match unit {
        Unit::Request | Unit::Connection | Unit::Datagram => &[Metric::Cpu, Metric::P50, Metric::P99],
        Unit::Gib => &[Metric::Cpu],
        Unit::IdleConnection => &[Metric::Resident],
    }
}

/// When, where, with what: a figure without these says nothing.
fn header(programs: &Programs, peers: &[Peer], network: &str) -> Result<String> {
    let date = Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]).output();
    let date = date.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let command: Vec<_> = std::env::args().skip(1).collect();
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let mut text = format!(
        "Written by `arus-bench {}` on {}. Medians; CPU is user and system time of the proxy's whole \
         process tree ({}); +- is half the range between rounds.\n\n\
         - machine: {}, {cpus} CPUs, {}; kernel {}; {network}\n",
        command.join(" "),
        date.unwrap_or_default(),
        Meter::new().source(),
        value_of(&cpuinfo, "model name"),
        value_of(&meminfo, "MemTotal"),
        kernel.trim(),
    );
    for &peer in peers {
        text += &format!("- {}: {}\n", peer.name(), programs.version(peer));
    }
    Ok(text)
}

fn value_of<'a>(text: &'a str, key: &str) -> &'a str {
    let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
    line.split_once(':').map_or("unknown", |(_, value)| value.trim())
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// Replaces what is between the markers of `path` and leaves the rest, which people write.
pub(crate) fn write_between_markers(path: &Path, report: &str) -> Result<()> {
    let old = fs::read_to_string(path).unwrap_or_else(|_| format!("# Benchmark results\n\n{BEGIN}\n{END}\n"));
    let new =
        between_markers(&old, report).with_context(|| format!("{} has no {BEGIN} and {END} lines", path.display()))?;
    ensure!(!new.is_empty(), "nothing to write");
    fs::write(path, new).with_context(|| format!("cannot write {}", path.display()))
}

fn between_markers(old: &str, report: &str) -> Option<String> {
    let (before, rest) = old.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{}\n{END}{after}", report.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
    }

    #[test]
    fn hand_written_sections_stay() {
        let old = format!("# A\n{BEGIN}\nold\n{END}\n## Conclusions\n");
        let new = between_markers(&old, "new\n");
        assert_eq!(new, Some(format!("# A\n{BEGIN}\nnew\n{END}\n## Conclusions\n")));
        assert_eq!(between_markers("no markers", "new"), None);
    }
}
