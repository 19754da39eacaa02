//! The words by which sessions are asked for, and what they mean. Whatever is wrong is said in so many words.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;

use super::refusal::Refusal;
use super::sessions::PAGE_SIZE;
use crate::control::store::{Filter, Order, Place, Sort, Source};
use crate::types::State;

const PAGE: usize = 100;
/// No store has so many.
const LAST_PAGE: usize = 1_000_000_000;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    #[param(pattern = "^(active|closed|failed|rejected)?$")]
    state: Option<String>,
    user: Option<String>,
    source: Option<String>,
    destination: Option<String>,
    listener: Option<String>,
    since: Option<String>,
    #[param(value_type = Option<u64>, minimum = 1, maximum = 1000000000)]
    page: Option<String>,
    #[param(value_type = Option<u64>, minimum = 1, maximum = 10000)]
    page_size: Option<String>,
    #[param(pattern = "^(start|end|duration|bytes_up|bytes_down|bytes)?$")]
    sort: Option<String>,
    #[param(pattern = "^(asc|desc)?$")]
    order: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Question {
    pub(super) filter: Filter,
    pub(super) order: Order,
    /// From 1.
    pub(super) page: usize,
    pub(super) page_size: usize,
}

impl Wanted {
    /// Empty values are as absent ones: forms send them.
    pub(super) fn question(&self, now: SystemTime) -> Result<Question, Refusal> {
        let given = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
        let states = State::ALL.iter().map(|state| (state.label(), *state));
        let sorts = Sort::ALL.into_iter();
        let filter = Filter {
            state: word("state", &self.state, states)?,
            user: given(&self.user),
            listener: given(&self.listener),
            source: read(&self.source, Source::parse, || {
                "source is an address, with or without a port, a network such as 10.0.0.0/8, or unix".into()
            })?,
            destination: read(&self.destination, Place::parse, || {
                "destination is a host or an address, with or without a port, a network, or the begin of a host and *"
                    .into()
            })?,
            since: since(&self.since, now)?,
        };
        let directions = [("asc", false), ("desc", true)];
        let order = Order {
            by: word("sort", &self.sort, sorts)?.unwrap_or(Sort::Start),
            is_descending: word("order", &self.order, directions.into_iter())?.unwrap_or(true),
        };
        let number = |value: &Option<String>, default| {
            read(
                value,
                |text| text.parse::<usize>().ok().filter(|n| *n > 0),
                || format!("page is 1 to {LAST_PAGE}, and page_size is 1 to {PAGE_SIZE}"),
            )
            .map(|number| number.unwrap_or(default))
        };
        let (page, page_size) = (number(&self.page, 1)?, number(&self.page_size, PAGE)?);
        if page > LAST_PAGE || page_size > PAGE_SIZE {
            return Err(bad(format!("page is 1 to {LAST_PAGE}, and page_size is 1 to {PAGE_SIZE}")));
        }
        Ok(Question { filter, order, page, page_size })
    }
}

pub(super) fn bad(message: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, message)
}

pub(super) fn read<T>(
    value: &Option<String>,
    parse: impl Fn(&str) -> Option<T>,
    wrong: impl Fn() -> String,
) -> Result<Option<T>, Refusal> {
    match value.as_deref().filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => parse(text).map(Some).ok_or_else(|| bad(wrong())),
    }
}

/// One out of a closed set.
pub(super) fn word<T: Copy>(
    key: &str,
    value: &Option<String>,
    words: impl Iterator<Item = (&'static str, T)>,
) -> Result<Option<T>, Refusal> {
    let words: Vec<_> = words.collect();
    let find = |text: &str| words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning);
    let known = || words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
    read(value, find, || format!("{key} is one of {}", known()))
}

/// A time, or how long ago it was.
pub(super) fn since(value: &Option<String>, now: SystemTime) -> Result<Option<SystemTime>, Refusal> {
    let parse = |text: &str| {
        if let Ok(time) = humantime::parse_rfc3339_weak(text) {
            return Some(time);
        }
        if text.len() <= 12 && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return UNIX_EPOCH.checked_add(Duration::from_secs(text.parse().ok()?));
        }
        Some(now.checked_sub(duration(text)?).unwrap_or(UNIX_EPOCH))
    };
    read(value, parse, || {
        "since is a time such as 2026-01-31T12:00:00Z, Unix seconds, or how long ago, such as 15m".into()
    })
}

/// `5m`; bounded, as humantime panics on sums that just fit.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let longest = text.split(|c: char| !c.is_ascii_digit()).map(str::len).max().unwrap_or(0);
    if text.len() > 32 || longest > 9 {
        return None;
    }
    humantime::parse_duration(text).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn question(query: &str) -> Result<Question, Refusal> {
        let uri: axum::http::Uri = format!("/?{query}").parse().unwrap();
        let wanted = axum::extract::Query::<Wanted>::try_from_uri(&uri).map_err(|error| bad(error.body_text()))?;
        wanted.0.question(UNIX_EPOCH + Duration::from_secs(1_000_000))
    }

    #[test]
    fn words_have_their_meaning() {
        let default = question("").unwrap();
        assert_eq!((default.page, default.page_size, default.filter.clone()), (1, 100, Filter::default()));
        assert_eq!(default.order, Order { by: Sort::Start, is_descending: true });
        assert_eq!(question("state=&user=&sort=&page=").unwrap(), default);
        let all = "state=failed&user=alice&source=10.0.0.0/8&destination=Example.com:443&since=1h&sort=bytes&order=asc&page=2&page_size=7";
        let question = question(all).unwrap();
        assert_eq!(question.filter.state, Some(State::Failed));
        assert_eq!(question.filter.destination, Some(Place::Host("example.com".into(), Some(443))));
        assert_eq!(question.filter.since, Some(UNIX_EPOCH + Duration::from_secs(996_400)));
        assert_eq!(question.order, Order { by: Sort::Bytes, is_descending: false });
        assert_eq!((question.page, question.page_size), (2, 7));
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for query in [
            "state=open",
            "page=0",
            "page=-1",
            "page=x",
            "page_size=0",
            "page_size=10001",
            "sort=colour",
            "order=up",
            "since=yesterday",
            "since=99999999999999999999s",
            "source=host",
            "source=10.0.0.0/33",
            "destination=*",
            "destination=a*b*",
            "colour=red",
            "page=1&page=2",
        ] {
            assert!(question(query).is_err(), "{query}");
        }
    }
}
