//! One line of the access log, as JSON or as `key=value`.
//!
//! Whatever came from outside is escaped: no value can begin a line, or a field, of its own.

use std::fmt::{self, Write as _};
use std::io;
use std::time::Duration;

use serde::Serialize;
use serde::ser::Serializer;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter};
use smallvec::SmallVec;

use crate::config::plan::LogFormat;
use crate::stats::summary::Summary;
use crate::types::is_unprintable;

/// The fields, in their order. Those that a connection does not have are `null` in JSON and `-` in text.
#[derive(Debug, Serialize)]
struct Line<'s> {
    /// When the session began.
    time: Text,
    id: Text,
    listener: &'s str,
    source: Text,
    sni: Option<&'s str>,
    user: Option<&'s str>,
    target: Option<&'s str>,
    backend: Option<Text>,
    bytes_up: u64,
    bytes_down: u64,
    duration_ms: Millis,
    connect_ms: Option<Millis>,
    first_byte_ms: Option<Millis>,
    state: &'static str,
    stage: &'static str,
    blame: Option<&'static str>,
    reason: Option<&'static str>,
    rule: Option<&'s str>,
    alpn: Option<&'s str>,
    tls_version: Option<&'static str>,
    tls_cipher: Option<&'static str>,
}

/// A value that is written by its `Display`; a short one takes no memory of its own.
#[derive(Debug)]
struct Text(SmallVec<[u8; 48]>);

impl Text {
    fn of(value: impl fmt::Display) -> Self {
        let mut text = Self(SmallVec::new());
        // Writing to memory cannot fail.
        let _ = write!(text, "{value}");
        text
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        self.0.extend_from_slice(piece.as_bytes());
        Ok(())
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Milliseconds with three decimals.
#[derive(Debug, Clone, Copy)]
struct Millis(Duration);

impl Millis {
    fn value(self) -> f64 {
        self.0.as_micros() as f64 / 1000.0
    }
}

impl Serialize for Millis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.value())
    }
}

impl<'s> Line<'s> {
    fn of(summary: &'s Summary) -> Self {
        let tls = summary.tls.as_deref();
        Self {
            time: Text::of(humantime::format_rfc3339_millis(summary.start)),
            id: Text::of(summary.id),
            listener: &summary.listener,
            source: Text::of(summary.source),
            sni: tls.and_then(|tls| tls.sni.as_deref()),
            user: summary.user.as_deref(),
            target: summary.target.as_deref(),
            backend: summary.address().map(Text::of),
            bytes_up: summary.bytes_up,
            bytes_down: summary.bytes_down,
            duration_ms: Millis(summary.duration),
            connect_ms: summary.connect.map(Millis),
            first_byte_ms: summary.first_byte.map(Millis),
            state: summary.state.label(),
            stage: summary.stage.label(),
            blame: summary.blame.map(|blame| blame.label()),
            reason: summary.reason.map(|reason| reason.label()),
            rule: summary.rule.as_deref(),
            alpn: tls.and_then(|tls| tls.alpn.as_deref()),
            tls_version: tls.and_then(|tls| tls.version),
            tls_cipher: tls.and_then(|tls| tls.cipher),
        }
    }
}

/// Appends the line of `summary`, with its newline.
pub(super) fn append(out: &mut Vec<u8>, summary: &Summary, format: LogFormat) {
    let line = Line::of(summary);
    match format {
        LogFormat::Json => {
            let mut serializer = serde_json::Serializer::with_formatter(&mut *out, NoControls(CompactFormatter));
            // Writing to memory cannot fail, and every key is a string.
            let _ = line.serialize(&mut serializer);
        }
        LogFormat::Text => append_text(out, &line),
    }
    out.push(b'\n');
}

fn append_text(out: &mut Vec<u8>, line: &Line<'_>) {
    let mut text = String::with_capacity(400);
    let mut field = |key: &str, value: Option<&dyn fmt::Display>| {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(key);
        text.push('=');
        match value {
            Some(value) => push_value(&mut text, &value.to_string()),
            None => text.push('-'),
        }
    };
    let millis = |millis: Millis| format!("{:.3}", millis.value());
    field("time", Some(&line.time.as_str()));
    field("id", Some(&line.id.as_str()));
    field("listener", Some(&line.listener));
    field("source", Some(&line.source.as_str()));
    field("sni", line.sni.as_ref().map(|sni| sni as _));
    field("user", line.user.as_ref().map(|user| user as _));
    field("target", line.target.as_ref().map(|target| target as _));
    field("backend", line.backend.as_ref().map(Text::as_str).as_ref().map(|backend| backend as _));
    field("bytes_up", Some(&line.bytes_up));
    field("bytes_down", Some(&line.bytes_down));
    field("duration_ms", Some(&millis(line.duration_ms)));
    field("connect_ms", line.connect_ms.map(millis).as_ref().map(|value| value as _));
    field("first_byte_ms", line.first_byte_ms.map(millis).as_ref().map(|value| value as _));
    field("state", Some(&line.state));
    field("stage", Some(&line.stage));
    field("blame", line.blame.as_ref().map(|blame| blame as _));
    field("reason", line.reason.as_ref().map(|reason| reason as _));
    field("rule", line.rule.as_ref().map(|rule| rule as _));
    field("alpn", line.alpn.as_ref().map(|alpn| alpn as _));
    field("tls_version", line.tls_version.as_ref().map(|version| version as _));
    field("tls_cipher", line.tls_cipher.as_ref().map(|cipher| cipher as _));
    out.extend_from_slice(text.as_bytes());
}

/// Writes a value plainly where that cannot be misread, else quoted with escapes.
fn push_value(text: &mut String, value: &str) {
    let is_plain = |c: char| !is_unprintable(c) && !c.is_whitespace() && !matches!(c, '"' | '\\' | '=');
    if !value.is_empty() && value != "-" && value.chars().all(is_plain) {
        text.push_str(value);
        return;
    }
    text.push('"');
    for c in value.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            c if is_unprintable(c) => {
                let _ = write!(text, "\\u{{{:x}}}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    text.push('"');
}

/// JSON as serde_json writes it, with DEL, the C1 controls, line separators and changes of direction escaped too: they are legal in JSON,
/// and a terminal obeys them all the same.
struct NoControls(CompactFormatter);

impl Formatter for NoControls {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        // Nearly everything: looked through without decoding it.
        if rest.bytes().all(|byte| (b' '..0x7f).contains(&byte)) {
            return writer.write_all(rest.as_bytes());
        }
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| is_unprintable(*c)) {
            writer.write_all(&rest.as_bytes()[..at])?;
            write!(writer, "\\u{:04x}", u32::from(c))?;
            rest = &rest[at + c.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }

    fn write_char_escape<W: ?Sized + io::Write>(&mut self, writer: &mut W, escape: CharEscape) -> io::Result<()> {
        self.0.write_char_escape(writer, escape)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tests::summary;
    use super::*;

    fn rendered(listener: &str, format: LogFormat) -> String {
        let mut out = Vec::new();
        append(&mut out, &summary(listener), format);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_has_every_field_in_its_order() {
        assert_eq!(
            rendered("web", LogFormat::Text),
            "time=2024-05-06T07:08:09.123Z id=00000000-0000-0000-0000-00000000002a listener=web \
             source=[2001:db8::1]:40000 sni=- user=- target=- backend=192.0.2.1:80 bytes_up=12 bytes_down=345 \
             duration_ms=1500.000 connect_ms=0.250 first_byte_ms=- state=closed stage=relay blame=client \
             reason=reset rule=- alpn=- tls_version=- tls_cipher=-\n"
        );
    }

    #[test]
    fn json_is_one_object_with_null_for_what_is_absent() {
        let line = rendered("web", LogFormat::Json);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["connect_ms"], 0.25);
        assert_eq!(value["bytes_down"], 345);
        assert_eq!(value["backend"], "192.0.2.1:80");
        assert!(value["first_byte_ms"].is_null() && value.get("rule").is_some_and(serde_json::Value::is_null));
        let order = ["time", "id", "listener", "source", "sni", "user", "target", "backend", "bytes_up", "bytes_down"];
        let places: Vec<_> = order.iter().map(|key| line.find(&format!("\"{key}\":")).unwrap()).collect();
        assert!(places.is_sorted());
    }

    #[test]
    fn nothing_forges_a_line_or_a_field() {
        let evil = "a\nb\r state=x \"q\" \\ \u{1b}[2J \u{7f} \u{9b} \u{2028} \u{202e} é";
        for format in [LogFormat::Text, LogFormat::Json] {
            let line = rendered(evil, format);
            assert_eq!(line.matches('\n').count(), 1, "{line}");
            assert!(!line.trim_end().chars().any(is_unprintable), "{line:?}");
            assert!(line.contains('é'));
        }
        let value: serde_json::Value = serde_json::from_str(&rendered(evil, LogFormat::Json)).unwrap();
        assert_eq!(value["listener"], evil);
        assert!(rendered("a b", LogFormat::Text).contains("listener=\"a b\" source="));
        assert!(rendered("-", LogFormat::Text).contains("listener=\"-\" source="));
    }
}
