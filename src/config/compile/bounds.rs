//! Numbers, sizes and durations between their bounds.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::Spanned;

use super::super::error::{Report, Wrong};
use super::super::read::{Lasting, Size, Whole};
use super::super::units::show_duration;

/// A whole number within `range`; `None` where there is none, or a wrong one.
pub(super) fn whole(
    value: Option<&Whole>,
    key: &str,
    range: RangeInclusive<u32>,
    report: &mut Report<'_>,
) -> Option<u32> {
    let value = value?;
    let number = u32::try_from(*value.get_ref()).ok().filter(|number| range.contains(number));
    if number.is_none() {
        let (least, most) = range.into_inner();
        let wrong = format!("`{key}` cannot be {}", value.get_ref());
        report.error(&value.span(), Wrong::new(wrong).hint(format!("{least} to {most}")));
    }
    number
}

/// As [`whole`], and a power of two.
pub(super) fn power_of_two(
    value: Option<&Whole>,
    key: &str,
    range: RangeInclusive<u32>,
    report: &mut Report<'_>,
) -> Option<u32> {
    let number = whole(value, key, range, report)?;
    if number.is_power_of_two() {
        return Some(number);
    }
    let span = value.map_or(0..0, Spanned::span);
    // The bounds are powers of two themselves, so the nearest one below lies within them.
    let below = 1 << number.ilog2();
    let wrong = format!("`{key}` must be a power of two, not {number}");
    report.error(&span, Wrong::new(wrong).hint(format!("such as {below}")));
    None
}

/// Bytes within `range`.
pub(super) fn bytes(
    value: Option<&Spanned<Size>>,
    key: &str,
    range: RangeInclusive<u32>,
    report: &mut Report<'_>,
) -> Option<u32> {
    let value = value?;
    let Size(bytes) = *value.get_ref();
    let number = u32::try_from(bytes).ok().filter(|number| range.contains(number));
    if number.is_none() {
        let (least, most) = range.into_inner();
        let wrong = format!("`{key}` cannot be {bytes} bytes");
        report.error(&value.span(), Wrong::new(wrong).hint(format!("{least} to {most} bytes")));
    }
    number
}

/// A duration within `range`.
pub(super) fn lasting(
    value: Option<&Lasting>,
    key: &str,
    range: RangeInclusive<Duration>,
    report: &mut Report<'_>,
) -> Option<Duration> {
    let value = value?;
    let duration = *value.get_ref();
    if range.contains(&duration) {
        return Some(duration);
    }
    let (least, most) = range.into_inner();
    let wrong = format!("`{key}` cannot be \"{}\"", show_duration(duration));
    let hint = format!("\"{}\" to \"{}\"", show_duration(least), show_duration(most));
    report.error(&value.span(), Wrong::new(wrong).hint(hint));
    None
}
