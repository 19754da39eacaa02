//! `[qos]` as it is shown.

use serde_json::{Value, json};

use crate::config::plan::Qos;
use crate::policy::terms::{Limits, Quota, User};

pub(super) fn qos(qos: &Qos) -> Value {
    let Qos { global, per_user, per_connection, connections_per_user, users } = qos;
    let user = |User { name, limits, quota }: &User| {
        let mut shown = self::limits(limits);
        shown["name"] = json!(&**name);
        if let Some(Quota { bytes, per }) = quota {
            shown["quota"] = json!({ "bytes": size(*bytes), "per": per.word() });
        }
        shown
    };
    json!({
        "global": size(*global),
        "per_user": limits(per_user),
        "per_connection": size(*per_connection),
        "connections_per_user": connections_per_user,
        "users": users.iter().map(user).collect::<Vec<_>>(),
    })
}

fn limits(limits: &Limits) -> Value {
    let Limits { guaranteed, max, burst } = limits;
    json!({ "guaranteed": size(*guaranteed), "max": size(*max), "burst": size(*burst) })
}

/// As the file says it, exactly.
fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 9] = [
        ("TiB", 1 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
        ("TB", 1_000_000_000_000),
        ("GB", 1_000_000_000),
        ("MB", 1_000_000),
        ("KB", 1_000),
        ("B", 1),
    ];
    // That with the smallest number is most likely how it was written.
    let exact = UNITS.iter().filter(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit));
    exact.min_by_key(|(_, unit)| bytes / unit).map_or("0".into(), |(name, unit)| format!("{}{name}", bytes / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_as_they_were_written() {
        for text in ["0", "128KiB", "12MiB", "1MB", "100GB", "2GiB", "1500B", "3KB"] {
            let bytes = text.parse::<bytesize::ByteSize>().map_or(u64::MAX, |size| size.as_u64());
            assert_eq!(size(bytes), text);
        }
    }
}
