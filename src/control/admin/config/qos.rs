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
    const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, unit)| bytes > 0 && bytes % unit == 0) {
        Some((unit, of)) => format!("{}{unit}", bytes / of),
        None if bytes == 0 => "0".into(),
        None => format!("{bytes}B"),
    }
}
