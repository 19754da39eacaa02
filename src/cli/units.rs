//! Numbers as people read them: at most four significant characters and a unit.

use std::time::Duration;

/// `0 B`, `999 B`, `1.5 KiB`, `23 MiB`.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value < 9.95 { format!("{value:.1} {}", UNITS[unit]) } else { format!("{value:.0} {}", UNITS[unit]) }
}

pub(super) fn bytes_per_second(rate: f64) -> String {
    format!("{}/s", bytes(rate as u64))
}

/// `0`, `999`, `1.2k`, `35M`.
pub(super) fn count(count: u64) -> String {
    const UNITS: [&str; 5] = ["k", "M", "G", "T", "P"];
    if count < 10_000 {
        return count.to_string();
    }
    let mut value = count as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if value < 9.95 { format!("{value:.1}{}", UNITS[unit]) } else { format!("{value:.0}{}", UNITS[unit]) }
}

/// Events per second: `0/s`, `1.2k/s`.
pub(super) fn rate(rate: f64) -> String {
    format!("{}/s", count(rate.round() as u64))
}

/// `85 us`, `1.2 ms`, `3.4 s`, `5 m`.
pub(super) fn micros(us: u64) -> String {
    let short = |value: f64, unit: &str| {
        if value < 9.95 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
    };
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => short(us as f64 / 1e3, "ms"),
        1_000_000..120_000_000 => short(us as f64 / 1e6, "s"),
        _ => format!("{} m", us / 60_000_000),
    }
}

/// `12s`, `3m 5s`, `2h 4m`, `9d 1h`: the two largest units.
pub(super) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// A share of 1 as `12%`.
pub(super) fn percent(share: f64) -> String {
    format!("{:.0}%", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let cases = [
            (bytes(0), "0 B"),
            (bytes(999), "999 B"),
            (bytes(1000), "1.0 KiB"),
            (bytes(16 * 1024), "16 KiB"),
            (bytes(1023 * 1024), "1.0 MiB"),
            (bytes(u64::MAX), "16 EiB"),
            (count(9_999), "9999"),
            (count(12_345), "12k"),
            (count(999_999), "1.0M"),
            (micros(999), "999 us"),
            (micros(1_250), "1.2 ms"),
            (micros(61_000_000), "61 s"),
            (micros(3_600_000_000), "60 m"),
            (span(Duration::from_secs(59)), "59s"),
            (span(Duration::from_secs(3_725)), "1h 2m"),
            (span(Duration::from_secs(90_000)), "1d 1h"),
            (percent(0.256), "26%"),
        ];
        for (text, wanted) in cases {
            assert_eq!(text, wanted);
        }
    }
}
