//! `[qos]`.

use super::Table;
use crate::config::plan::Qos;
use crate::policy::terms::{Limits, Quota, User};

pub(super) fn qos(qos: &Qos) -> Table {
    let Qos { global, per_user, per_connection, connections_per_user, users } = qos;
    let mut table = Table::new("qos")
        .fact("global", global)
        .fact("per_user", in_words(per_user))
        .fact("per_connection", per_connection)
        .fact("connections_per_user", connections_per_user);
    for User { name, limits, quota } in users {
        let quota = quota.map(|Quota { bytes, per }| format!(", quota {bytes} per {}", per.word()));
        let what = in_words(limits) + &quota.unwrap_or_default();
        table = table.fact(format!("user {name}"), what);
    }
    table
}

fn in_words(limits: &Limits) -> String {
    let Limits { guaranteed, max, burst } = limits;
    format!("guaranteed {guaranteed}, max {max}, burst {burst}")
}
