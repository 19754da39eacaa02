//! Reading typed values out of a TOML tree whose every node knows its place. A value of the wrong type, an unknown key
//! and a key of another version are reported, and reading goes on.

use std::borrow::Cow;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Report, Span, Wrong, nearest, quote};
use super::units;

/// A string, borrowed from the file unless it has escapes.
pub(super) type Text<'a> = Spanned<Cow<'a, str>>;
/// A whole number.
pub(super) type Whole = Spanned<i64>;
pub(super) type Flag = Spanned<bool>;
pub(super) type Lasting = Spanned<Duration>;

/// Bytes, written with a unit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size(pub(super) u64);

/// A list that may also be one value without brackets.
#[derive(Debug)]
pub(super) struct List<T> {
    pub(super) span: Span,
    /// Without those that were wrong.
    pub(super) items: Vec<T>,
    /// Nothing stands between its brackets.
    pub(super) is_empty: bool,
}

/// A table apart from its values.
#[derive(Debug, Default)]
pub(super) struct Head {
    /// The table's header, or its braces.
    pub(super) span: Span,
    /// Keys whose values were wrong, and reported as such: they are not missing.
    wrong: Vec<&'static str>,
}

impl Head {
    /// Whether a key without a value is absent from the file.
    pub(super) fn lacks<T>(&self, value: Option<&T>, key: &str) -> bool {
        value.is_none() && !self.wrong.contains(&key)
    }
}

/// Something that can stand behind `key = `.
pub(super) trait Read<'a>: Sized {
    /// `None`: it was wrong, and was reported.
    fn read(value: Spanned<DeValue<'a>>, key: &str, report: &mut Report<'_>) -> Option<Self>;
}

/// The keys of one table: those of this version, and those that only later versions know.
#[derive(Debug)]
pub(super) struct Shape {
    /// The table as documentation and messages name it, such as `[engine]`; empty: the file itself.
    pub(super) title: &'static str,
    pub(super) keys: &'static [&'static str],
    pub(super) later: &'static [&'static str],
}

/// A table being read: what is left of it after everything known was taken is unknown.
pub(super) struct Table<'a> {
    shape: &'static Shape,
    rest: DeTable<'a>,
    head: Head,
}

impl<'a> Table<'a> {
    pub(super) fn open(
        value: Spanned<DeValue<'a>>,
        key: &str,
        shape: &'static Shape,
        report: &mut Report<'_>,
    ) -> Option<Self> {
        let span = value.span();
        match value.into_inner() {
            DeValue::Table(rest) => Some(Self { shape, rest, head: Head { span, wrong: Vec::new() } }),
            other => {
                let wrong = Wrong::new(format!("`{key}` must be a table, not {}", kind(&other)));
                report.error(&span, wrong.hint_if(example(shape.title).map(|example| format!("such as {example}"))));
                None
            }
        }
    }

    pub(super) fn take<T: Read<'a>>(&mut self, key: &'static str, report: &mut Report<'_>) -> Option<T> {
        let value = T::read(self.rest.remove(key)?, key, report);
        if value.is_none() {
            self.head.wrong.push(key);
        }
        value
    }

    /// Reports what nobody took.
    pub(super) fn close(self, report: &mut Report<'_>) -> Head {
        let Shape { title, keys, later } = self.shape;
        let place = if title.is_empty() { String::new() } else { format!(" in `{title}`") };
        for (key, value) in &self.rest {
            if report.is_full() {
                break;
            }
            let word: &str = key.get_ref();
            let wrong = if later.contains(&word) {
                let shown = match value.get_ref() {
                    DeValue::Table(_) if title.is_empty() => format!("[{word}]"),
                    DeValue::Array(_) if title.is_empty() => format!("[[{word}]]"),
                    _ => word.to_owned(),
                };
                Wrong::new(format!("`{shown}`{place} is not in this version of arus")).hint("remove it")
            } else {
                let what = if matches!(value.get_ref(), DeValue::Table(_)) { "table" } else { "key" };
                Wrong::new(format!("unknown {what} {}{place}", quote(word)))
                    .hint_if(nearest(word, keys.iter().copied()))
            };
            report.error(&key.span(), wrong);
        }
        self.head
    }
}

/// What to write in place of a value, where a table is expected and people write something else.
fn example(title: &str) -> Option<&'static str> {
    Some(match title {
        "[listener.tls]" => r#"`tls = { certificates = [{ cert = "a.pem", key = "a.key" }] }`"#,
        "[[listener.tls.certificates]]" => r#"`{ cert = "a.pem", key = "a.key" }`"#,
        "[listener.tls.client_auth]" => r#"`client_auth = { mode = "require", ca = "clients.pem" }`"#,
        "[listener.accept_proxy]" => r#"`accept_proxy = { mode = "require", trusted = ["10.0.0.0/8"] }`"#,
        "[[admin.users]]" => r#"`{ name = "admin", password_hash = "$argon2id$..." }`"#,
        "[[admin.tokens]]" => r#"`{ name = "prometheus", hash = "sha256:...", scope = "read" }`"#,
        "[upstream.tls]" => r#"`tls = { server_name = "db.internal" }`, or `tls = {}`"#,
        _ => return None,
    })
}

/// The name of a value's type, as messages say it.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

pub(super) fn wrong_type<T>(
    span: &Span,
    key: &str,
    wanted: &str,
    found: &DeValue<'_>,
    report: &mut Report<'_>,
) -> Option<T> {
    report.error(span, format!("`{key}` must be {wanted}, not {}", kind(found)));
    None
}

impl<'a> Read<'a> for Text<'a> {
    fn read(value: Spanned<DeValue<'a>>, key: &str, report: &mut Report<'_>) -> Option<Self> {
        let span = value.span();
        match value.into_inner() {
            DeValue::String(text) => Some(Spanned::new(span, text)),
            other => {
                let wrong = Wrong::new(format!("`{key}` must be a string, not {}", kind(&other)));
                let hint = (key == "send_proxy").then(|| r#"such as "v2""#.into());
                report.error(&span, wrong.hint_if(hint));
                None
            }
        }
    }
}

impl<'a> Read<'a> for Whole {
    fn read(value: Spanned<DeValue<'a>>, key: &str, report: &mut Report<'_>) -> Option<Self> {
        let span = value.span();
        match value.into_inner() {
            DeValue::Integer(number) => {
                let parsed = i64::from_str_radix(number.as_str(), number.radix());
                let whole = parsed.map_err(|_| Wrong::new(format!("`{key}` does not fit into 64 bits")));
                report.accept(&span, whole).map(|whole| Spanned::new(span, whole))
            }
            other => wrong_type(&span, key, "a whole number", &other, report),
        }
    }
}

impl<'a> Read<'a> for Flag {
    fn read(value: Spanned<DeValue<'a>>, key: &str, report: &mut Report<'_>) -> Option<Self> {
        match value.get_ref() {
            DeValue::Boolean(flag) => Some(Spanned::new(value.span(), *flag)),
            other => wrong_type(&value.span(), key, "true or false", other, report),
        }
    }
}

impl<'a> Read<'a> for Lasting {
    fn read(value: Spanned<DeValue<'a>>, key: &str, report: &mut Report<'_>) -> Option<Self> {
        match value.get_ref() {
            DeValue::String(text) => {
                report.accept(&value.span(), units::duration(text)).map(|lasting| Spanned::new(value.span(), lasting))
            }
            other => wrong_type(&value.span(), key, r#"a duration such as "5s""#, other, report),
        }
    }
}

impl<'a> Read<'a> for Spanned<Size> {
    fn read(value: Spanned<DeValue<'a>>, key: &str, report: &mut Report<'_>) -> Option<Self> {
        match value.get_ref() {
            DeValue::String(text) => {
                report.accept(&value.span(), units::size(text)).map(|bytes| Spanned::new(value.span(), Size(bytes)))
            }
            other => wrong_type(&value.span(), key, r#"a size such as "16KiB""#, other, report),
        }
    }
}

impl<'a, T: Read<'a>> Read<'a> for List<T> {
    fn read(value: Spanned<DeValue<'a>>, key: &str, report: &mut Report<'_>) -> Option<Self> {
        let span = value.span();
        if !value.get_ref().is_array() {
            return Some(Self { span, items: vec![T::read(value, key, report)?], is_empty: false });
        }
        let DeValue::Array(array) = value.into_inner() else { return None };
        let is_empty = array.is_empty();
        let items = array.into_iter().filter_map(|item| T::read(item, key, report)).collect();
        Some(Self { span, items, is_empty })
    }
}

/// The tables of `[[name]]`.
impl<'a, T: Read<'a>> Read<'a> for Vec<T> {
    fn read(value: Spanned<DeValue<'a>>, key: &str, report: &mut Report<'_>) -> Option<Self> {
        let span = value.span();
        match value.into_inner() {
            DeValue::Array(array) => Some(array.into_iter().filter_map(|item| T::read(item, key, report)).collect()),
            DeValue::Table(_) => {
                report.error(
                    &span,
                    Wrong::new(format!("`{key}` is a list of tables"))
                        .hint(format!("write its header with two brackets: `[[{key}]]`")),
                );
                None
            }
            other => wrong_type(&span, key, "a list of tables", &other, report),
        }
    }
}
