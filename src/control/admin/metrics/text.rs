//! The two formats that Prometheus reads: its own text format 0.0.4 and OpenMetrics 1.0.
//!
//! prometheus-client writes only the second, and wants to own what it counts; here all numbers are read from the
//! shards' own atomics when they are asked for.

use std::fmt::{Display, Write};

use super::buckets::Spread;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    OpenMetrics,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    const fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

impl Format {
    /// The one that the `Accept` header likes more; text where it says nothing of either.
    pub(super) fn of(accept: &str) -> Self {
        let quality = |wanted: &str| {
            let ranges = accept.split(',').map(|range| range.trim().to_ascii_lowercase());
            let fitting = ranges.filter(|range| range.split(';').next().is_some_and(|kind| kind.trim() == wanted));
            let quality = |range: String| {
                let parameter = range.split(';').find_map(|part| part.trim().strip_prefix("q=")?.parse::<f32>().ok());
                parameter.unwrap_or(1.0)
            };
            fitting.map(quality).fold(None, |best: Option<f32>, next| Some(best.map_or(next, |best| best.max(next))))
        };
        match quality("application/openmetrics-text") {
            Some(wanted) if wanted > 0.0 && quality("text/plain").is_none_or(|text| wanted >= text) => {
                Self::OpenMetrics
            }
            _ => Self::Text,
        }
    }

    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What is being written.
#[derive(Debug)]
pub(super) struct Page {
    format: Format,
    text: String,
}

/// The samples of one name.
#[derive(Debug)]
pub(super) struct Family<'p> {
    page: &'p mut Page,
    name: &'static str,
}

/// Names and values of a sample's labels.
pub(super) type Labels<'l> = &'l [(&'l str, &'l str)];

impl Page {
    pub(super) fn new(format: Format) -> Self {
        Self { format, text: String::with_capacity(32 * 1024) }
    }

    /// Begins a name: all its samples follow. Names of counters end in `_total`.
    pub(super) fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> Family<'_> {
        let shown = match (self.format, kind) {
            (Format::OpenMetrics, Kind::Counter) => name.strip_suffix("_total").unwrap_or(name),
            _ => name,
        };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let _ = writeln!(self.text, "# HELP {shown} {help}\n# TYPE {shown} {}", kind.word());
        Family { page: self, name }
    }

    pub(super) fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

impl Family<'_> {
    pub(super) fn sample(&mut self, labels: Labels<'_>, value: impl Display) -> &mut Self {
        self.line("", labels, None, value);
        self
    }

    pub(super) fn histogram(&mut self, labels: Labels<'_>, spread: &Spread) -> &mut Self {
        let mut below = 0;
        for (bound, count) in spread.bounds.iter().zip(&spread.counts) {
            below += count;
            self.line("_bucket", labels, Some(&format!("{bound:?}")), below);
        }
        let all: u64 = spread.counts.iter().sum();
        self.line("_bucket", labels, Some("+Inf"), all);
        self.line("_sum", labels, None, spread.sum);
        self.line("_count", labels, None, all);
        self
    }

    fn line(&mut self, suffix: &str, labels: Labels<'_>, le: Option<&str>, value: impl Display) {
        let text = &mut self.page.text;
        let _ = write!(text, "{}{suffix}", self.name);
        let mut open = '{';
        for (name, value) in labels.iter().copied().chain(le.map(|le| ("le", le))) {
            let _ = write!(text, "{open}{name}=\"");
            open = ',';
            for character in value.chars() {
                match character {
                    '\\' => text.push_str("\\\\"),
                    '"' => text.push_str("\\\""),
                    '\n' => text.push_str("\\n"),
                    other => text.push(other),
                }
            }
            text.push('"');
        }
        if open == ',' {
            text.push('}');
        }
        let _ = writeln!(text, " {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(format: Format) -> String {
        let mut page = Page::new(format);
        page.family("a_total", Kind::Counter, "Line\none.").sample(&[("l", "q\"b\\n\n")], 5);
        let spread = Spread { bounds: &[0.5, 1.0], counts: vec![2, 0, 1], sum: 3.25 };
        page.family("b_seconds", Kind::Histogram, "B.").histogram(&[("s", "x")], &spread);
        page.family("c", Kind::Gauge, "Nothing.");
        page.finish()
    }

    #[test]
    fn both_formats_are_as_prometheus_reads_them() {
        let rest = "b_seconds_bucket{s=\"x\",le=\"0.5\"} 2\nb_seconds_bucket{s=\"x\",le=\"1.0\"} 2\n\
                    b_seconds_bucket{s=\"x\",le=\"+Inf\"} 3\nb_seconds_sum{s=\"x\"} 3.25\nb_seconds_count{s=\"x\"} 3\n\
                    # HELP c Nothing.\n# TYPE c gauge\n";
        let sample = "a_total{l=\"q\\\"b\\\\n\\n\"} 5\n# HELP b_seconds B.\n# TYPE b_seconds histogram\n";
        let text = format!("# HELP a_total Line\\none.\n# TYPE a_total counter\n{sample}{rest}");
        assert_eq!(page(Format::Text), text);
        let open = format!("# HELP a Line\\none.\n# TYPE a counter\n{sample}{rest}# EOF\n");
        assert_eq!(page(Format::OpenMetrics), open);
    }

    #[test]
    fn the_format_is_what_is_accepted() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Format::of(prometheus), Format::OpenMetrics);
        for text in ["", "*/*", "text/html", "text/plain, application/openmetrics-text;q=0.5", "q=,;;,"] {
            assert_eq!(Format::of(text), Format::Text, "{text}");
        }
    }
}
