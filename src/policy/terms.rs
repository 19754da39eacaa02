//! The limits of traffic and users, as `[qos]` says them. Everywhere 0 means: none.

use std::time::Duration;

use super::bucket::Rate;
use crate::types::Name;

/// A burst that is not given: what goes in this time.
const BURST_TIME_PART: u64 = 10;
/// And at least so many bytes.
const LEAST_BURST: u64 = 16 * 1024;

/// `[qos]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Qos {
    /// Bytes per second over everything.
    pub global: u64,
    /// What applies to users that are not in `users`.
    pub per_user: Limits,
    /// Bytes per second of one connection.
    pub per_connection: u64,
    pub connections_per_user: u32,
    /// Sorted by name; none occurs twice.
    pub users: Vec<User>,
}

/// A user with limits of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: Name,
    pub limits: Limits,
    pub quota: Option<Quota>,
}

/// Bytes per second of one user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Comes before what others share of `global`.
    pub guaranteed: u64,
    pub max: u64,
    /// Bytes that may go at once after a pause; at least one where there is a `max`.
    pub burst: u64,
}

/// Bytes within a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    pub bytes: u64,
    pub per: Period,
}

/// A period of the calendar, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    Hour,
    Day,
    Month,
}

impl Period {
    /// As the configuration says it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    /// Which one it is, `since_epoch` after 1970 began. Never 0.
    #[must_use]
    pub fn number(self, since_epoch: Duration) -> u64 {
        let hours = since_epoch.as_secs() / 3600;
        match self {
            Self::Hour => hours + 1,
            Self::Day => hours / 24 + 1,
            Self::Month => month(hours / 24) + 1,
        }
    }

    /// When the one that it is then will be over.
    #[must_use]
    pub fn end(self, since_epoch: Duration) -> Duration {
        let step = if self == Self::Hour { 3600 } else { 24 * 3600 };
        let mut end = (since_epoch.as_secs() / step + 1) * step;
        while self.number(Duration::from_secs(end)) == self.number(since_epoch) {
            end += step;
        }
        Duration::from_secs(end)
    }
}

/// Months since year 0, of a day since 1970 began (Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn month(days: u64) -> u64 {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Counted from March, so a year of this count ends with February.
    let from_march = (5 * day_of_year + 2) / 153;
    (era * 400 + year_of_era) * 12 + from_march + 2
}

impl Qos {
    /// Whether any rate is limited.
    #[must_use]
    pub fn limits_rates(&self) -> bool {
        let of_users = self.users.iter().any(|user| user.limits.max > 0);
        of_users || self.per_user.max > 0 || self.global > 0 || self.per_connection > 0
    }

    /// The limits of the user of this name.
    #[must_use]
    pub fn of(&self, user: &str) -> (Limits, Option<Quota>) {
        match self.users.binary_search_by(|known| (*known.name).cmp(user)) {
            Ok(index) => (self.users[index].limits, self.users[index].quota),
            Err(_) => (self.per_user, None),
        }
    }
}

/// The burst of a rate for which none is given: a tenth of a second, and at least 16 KiB.
#[must_use]
pub fn burst_of(per_second: u64) -> u64 {
    (per_second / BURST_TIME_PART).max(LEAST_BURST)
}

/// A rate with the burst that comes with it; `None` where there is no limit.
#[must_use]
pub fn rate_of(per_second: u64) -> Option<Rate> {
    (per_second > 0).then(|| Rate { per_second, burst: (per_second / BURST_TIME_PART).max(1024) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_follow_the_calendar() {
        let at = |days: u64| Period::Month.number(Duration::from_secs(days * 86_400));
        // 1970-01-31, -02-01, -02-28, -03-01; 2024-02-29 and -03-01; 2099-12-31 and 2100-01-01.
        assert_eq!(at(31) - at(30), 1);
        assert_eq!(at(58), at(31));
        assert_eq!(at(59) - at(58), 1);
        assert_eq!(at(19_783) - at(19_782), 1);
        assert_eq!(at(47_482) - at(47_481), 1);
        assert_eq!(at(47_482) - at(0), 130 * 12);
    }

    #[test]
    fn days_and_hours_change_at_midnight_and_on_the_hour() {
        let number = |period: Period, seconds| period.number(Duration::from_secs(seconds));
        assert_eq!(number(Period::Day, 86_399) + 1, number(Period::Day, 86_400));
        assert_eq!(number(Period::Hour, 3_599) + 1, number(Period::Hour, 3_600));
    }

    #[test]
    fn a_period_ends_where_the_next_begins() {
        let end = |period: Period, seconds| period.end(Duration::from_secs(seconds)).as_secs();
        assert_eq!((end(Period::Hour, 0), end(Period::Hour, 3_599), end(Period::Hour, 3_600)), (3_600, 3_600, 7_200));
        assert_eq!((end(Period::Day, 1), end(Period::Day, 86_400)), (86_400, 2 * 86_400));
        // January 1970, and February 2024.
        assert_eq!(end(Period::Month, 5), 31 * 86_400);
        assert_eq!(end(Period::Month, 19_754 * 86_400 + 7), 19_783 * 86_400);
    }
}
