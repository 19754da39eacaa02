//! What is wrong with a configuration, and where. Errors are collected, not thrown: whoever reads or compiles a value
//! reports what it finds and goes on with a default, so that one run shows everything.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::limits;

/// Bytes of the configuration text.
pub(super) type Span = Range<usize>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can, but perhaps does not do what its author expects.
    Warning,
}

/// One error or warning with its place. Shown as `FILE:LINE:COL: message (hint)`, warnings as
/// `FILE:LINE:COL: warning: message (hint)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub file: Arc<str>,
    /// From 1.
    pub line: u32,
    /// In characters, from 1.
    pub column: u32,
    pub severity: Severity,
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.severity {
            Severity::Error => "",
            Severity::Warning => "warning: ",
        };
        write!(f, "{}:{}:{}: {mark}{}", self.file, self.line, self.column, self.message)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, " ({hint})"))
    }
}

/// Why a configuration was refused: at least one error, and the warnings, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Errors {
    pub findings: Vec<Finding>,
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, finding) in self.findings.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            finding.fmt(f)?;
        }
        Ok(())
    }
}

impl Errors {
    /// An error of the file as a whole, such as that it cannot be read.
    pub(super) fn of_file(file: &str, message: String) -> Self {
        let finding = Finding { file: file.into(), line: 1, column: 1, severity: Severity::Error, message, hint: None };
        Self { findings: vec![finding] }
    }
}

/// What is wrong with a value, before it is known where the value stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl Wrong {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// As [`Wrong::hint`], where there may be none.
    pub(super) fn hint_if(self, hint: Option<String>) -> Self {
        Self { hint, ..self }
    }
}

impl From<String> for Wrong {
    fn from(message: String) -> Self {
        Self::new(message)
    }
}

impl From<&str> for Wrong {
    fn from(message: &str) -> Self {
        Self::new(message)
    }
}

/// Collects the findings of one text.
#[derive(Debug)]
pub(super) struct Report<'t> {
    file: Arc<str>,
    text: &'t str,
    /// Offset of each line's first byte.
    lines: Vec<usize>,
    errors: Vec<(usize, Finding)>,
    warnings: Vec<(usize, Finding)>,
}

impl<'t> Report<'t> {
    pub(super) fn new(file: &str, text: &'t str) -> Self {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { file: file.into(), text, lines, errors: Vec::new(), warnings: Vec::new() }
    }

    /// The name of the text.
    pub(super) fn file(&self) -> Arc<str> {
        Arc::clone(&self.file)
    }

    pub(super) fn error(&mut self, span: &Span, wrong: impl Into<Wrong>) {
        if !self.is_full() {
            let finding = self.finding(span, Severity::Error, wrong.into());
            self.errors.push(finding);
        }
    }

    pub(super) fn warning(&mut self, span: &Span, wrong: impl Into<Wrong>) {
        if self.warnings.len() < limits::FINDINGS {
            let finding = self.finding(span, Severity::Warning, wrong.into());
            self.warnings.push(finding);
        }
    }

    /// Hands a good value on; reports a bad one at its place.
    pub(super) fn accept<T>(&mut self, span: &Span, result: Result<T, Wrong>) -> Option<T> {
        result.map_err(|wrong| self.error(span, wrong)).ok()
    }

    /// Further errors are dropped: whoever would work for a hint need not.
    pub(super) fn is_full(&self) -> bool {
        self.errors.len() >= limits::FINDINGS
    }

    pub(super) fn has_errors(&self) -> bool {
        !self.errors.is_empty()
    }

    /// The line on which a span begins, from 1.
    pub(super) fn line(&self, span: &Span) -> u32 {
        self.place(span).0
    }

    /// Where a span begins.
    pub(super) fn at(&self, span: &Span) -> super::plan::Place {
        let (line, column) = self.place(span);
        super::plan::Place { line, column }
    }

    /// The value with the warnings where nothing is wrong, else everything that was found; in the order of the file.
    /// A value may be `None` only if an error says why.
    pub(super) fn finish<T>(mut self, value: Option<T>) -> Result<(T, Vec<Finding>), Errors> {
        let failed = self.has_errors();
        if self.is_full() {
            let end = self.text.len()..self.text.len();
            let finding = self.finding(&end, Severity::Error, "further errors are not shown".into());
            self.errors.push(finding);
        }
        let mut findings = self.errors;
        findings.append(&mut self.warnings);
        findings.sort_by_key(|(at, _)| *at);
        let findings = findings.into_iter().map(|(_, finding)| finding).collect();
        match value {
            Some(value) if !failed => Ok((value, findings)),
            Some(_) | None => Err(Errors { findings }),
        }
    }

    fn finding(&self, span: &Span, severity: Severity, wrong: Wrong) -> (usize, Finding) {
        let (line, column) = self.place(span);
        let Wrong { message, hint } = wrong;
        (span.start, Finding { file: Arc::clone(&self.file), line, column, severity, message, hint })
    }

    fn place(&self, span: &Span) -> (u32, u32) {
        let at = span.start.min(self.text.len());
        let line = self.lines.partition_point(|start| *start <= at).max(1);
        let start = self.lines[line - 1];
        let column = self.text.get(start..at).map_or(at - start, |before| before.chars().count()) + 1;
        (u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX))
    }
}

/// Characters of a value that a message repeats.
const QUOTED_CHARS: usize = 60;

/// A piece of the configuration as messages show it: control characters escaped, and cut when it is long.
pub(super) fn quote(text: &str) -> String {
    let mut quoted: String = text.chars().take(QUOTED_CHARS).flat_map(char::escape_debug).collect();
    if text.chars().nth(QUOTED_CHARS).is_some() {
        quoted.push_str("...");
    }
    format!("`{quoted}`")
}

/// The hint for a word that is not among `known`: the nearest of them, or else all of them where they are few.
#[must_use]
pub fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str> + Clone) -> Option<String> {
    /// Below this likeness (1: equal) a guess is more likely to mislead than to help.
    const LIKENESS: f64 = 0.5;
    /// More than these are no hint any more.
    const LISTED: usize = 24;
    if word.len() <= limits::NAME_BYTES {
        let likeness = |candidate| strsim::normalized_damerau_levenshtein(&word.to_lowercase(), candidate);
        let scored = known.clone().into_iter().map(|candidate| (likeness(candidate), candidate));
        let best = scored.filter(|(score, _)| *score >= LIKENESS).max_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((_, candidate)) = best {
            return Some(format!("did you mean `{candidate}`?"));
        }
    }
    let all: Vec<&str> = known.into_iter().take(LISTED + 1).collect();
    (1..=LISTED).contains(&all.len()).then(|| format!("known: {}", all.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_characters_from_one() {
        let report = Report::new("f", "a\nöäb\n");
        assert_eq!(report.place(&(0..1)), (1, 1));
        assert_eq!(report.place(&(6..7)), (2, 3));
        assert_eq!(report.place(&(8..8)), (3, 1), "the end of the text");
        assert_eq!(report.place(&(900..901)), (3, 1), "behind the end");
        assert_eq!(Report::new("f", "").place(&(0..0)), (1, 1));
    }

    #[test]
    fn quotes_are_bounded_and_printable() {
        assert_eq!(quote("a\u{1b}[31m\n"), "`a\\u{1b}[31m\\n`");
        assert!(quote(&"x".repeat(1_000_000)).len() < 100);
    }

    #[test]
    fn the_nearest_word_is_offered_and_nonsense_is_not() {
        assert_eq!(nearest("hallo", ["hello", "db"]).as_deref(), Some("did you mean `hello`?"));
        assert_eq!(
            nearest("max_conns", ["max_connections", "max_buffers"]).as_deref(),
            Some("did you mean `max_connections`?")
        );
        assert_eq!(nearest("zzz", ["hello", "db"]).as_deref(), Some("known: hello, db"));
        assert_eq!(nearest("zzz", []), None);
        assert_eq!(nearest("zzz", ["qqqqqq"; 100]), None);
    }
}
