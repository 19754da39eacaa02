//! `/metrics`: every counter for Prometheus. docs/OPERATIONS.md has a table of the names, and a test compares them.
//!
//! All of it is read from atomics and from what control holds anyway; the shards are not asked. Labels come from the
//! configuration and from closed sets of words, so their number is bounded; users are the most active ones and `other`.

mod buckets;
mod flows;
mod process;
mod text;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};

use super::door::{Door, Shown};
use crate::control::auth::Auth;
use crate::control::handle::Control;
use crate::control::{logging, recorder, users};
use crate::policy::acl::Action;
use crate::policy::identity::Attempt;
use crate::stats::totals::{Reloads, Totals};
use text::{Format, Kind, Page};

/// What was built; see build.rs.
const COMMIT: &str = env!("ARUS_COMMIT");

/// Everything that is counted, as text for Prometheus, or as OpenMetrics where `Accept` asks for it. Needs no credential
/// unless `[admin] protect_metrics` says so.
#[utoipa::path(get, path = "/metrics", tag = "status", security((), ("token" = []), ("cookie" = [])), responses(
    (status = 200, description = "The metrics", body = String, content_type = "text/plain; version=0.0.4; charset=utf-8"),
))]
pub(super) async fn show(
    State(control): State<Control>,
    State(door): State<Arc<Door>>,
    headers: HeaderMap,
) -> Response {
    let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>();
    let format = Format::of(&accept.join(","));
    ([(header::CONTENT_TYPE, format.content_type())], text(&control, &door, format)).into_response()
}

fn text(control: &Control, door: &Door, format: Format) -> String {
    let mut page = Page::new(format);
    let totals = control.totals();
    let labels = [("version", env!("CARGO_PKG_VERSION")), ("commit", COMMIT)];
    page.family("arus_build_info", Kind::Gauge, "What runs; always 1.").sample(&labels, 1);
    configuration(&mut page, &totals);
    flows::listeners(&mut page, &totals.listeners);
    flows::datagrams(&mut page, &totals.listeners);
    flows::stages(&mut page, &control.latencies());
    flows::upstreams(&mut page, &totals.upstreams);
    flows::shards(&mut page, &totals.shards);
    flows::plugins(&mut page, &control.view().snapshot.plugins);
    flows::certificates(&mut page, &control.view().snapshot);
    policy(&mut page, control);
    users(&mut page);
    losses(&mut page, &totals, control.sessions_dropped());
    admin(&mut page, door);
    process::write(&mut page, control.started());
    page.finish()
}

fn configuration(page: &mut Page, totals: &Totals) {
    let Reloads { ok, failed } = totals.reloads;
    page.family("arus_reloads_total", Kind::Counter, "Reloads of the configuration, by result.")
        .sample(&[("result", "ok")], ok)
        .sample(&[("result", "refused")], failed);
    page.family("arus_config_generation", Kind::Gauge, "The configuration in force, counted from 1.")
        .sample(&[], totals.generation);
    page.family("arus_draining", Kind::Gauge, "1 while arus takes no new connections and waits for the last to end.")
        .sample(&[], u8::from(totals.draining));
    page.family("arus_max_connections", Kind::Gauge, "How many connections the process takes.")
        .sample(&[], totals.max_connections);
}

/// Counted by the parts of arus that decide.
fn policy(page: &mut Page, control: &Control) {
    let (acl, auth) = (&control.view().snapshot.acl, control.auth());
    let mut decisions =
        page.family("arus_acl_decisions_total", Kind::Counter, "Decisions of the access rules, by action.");
    for action in Action::ALL {
        decisions.sample(&[("action", action.word())], acl.decided(action));
    }
    let recalled = Attempt::ALL.map(|attempt| control.logins_recalled(attempt));
    let mut attempts = page.family(
        "arus_auth_attempts_total",
        Kind::Counter,
        "Attempts of SOCKS clients to log in, by method and result.",
    );
    for (method, result, count) in auth.into_iter().flat_map(|auth| auth.counters().all(recalled)) {
        attempts.sample(&[("method", method), ("result", result)], count);
    }
    let mut of_shards = page.family(
        "arus_auth_recalled_total",
        Kind::Counter,
        "Logins among these that a shard remembered, so that nobody else was asked.",
    );
    for attempt in Attempt::ALL {
        of_shards.sample(&[("method", attempt.label())], recalled[attempt as usize]);
    }
    page.family("arus_pam_restarts_total", Kind::Counter, "How often the processes that ask PAM were started again.")
        .sample(&[], auth.map_or(0, Auth::pam_restarts));
}

fn users(page: &mut Page) {
    let users = users::counted();
    let mut sessions = page.family(
        "arus_user_sessions_total",
        Kind::Counter,
        "Finished sessions of the most active users; those of all others together are `other`.",
    );
    for user in &users {
        sessions.sample(&[("user", &user.name)], user.sessions);
    }
    let mut bytes = page.family(
        "arus_user_bytes_total",
        Kind::Counter,
        "Payload bytes of the finished sessions of the most active users; of all others together as `other`.",
    );
    for user in &users {
        bytes.sample(&[("user", &user.name), ("direction", "up")], user.bytes_up);
        bytes.sample(&[("user", &user.name), ("direction", "down")], user.bytes_down);
    }
}

/// What could not be written down.
fn losses(page: &mut Page, totals: &Totals, unrecorded: u64) {
    let dropped: u64 = totals.shards.iter().map(|shard| shard.summaries_dropped).sum();
    for (name, help, count) in [
        (
            "arus_summaries_dropped_total",
            "Finished sessions that neither the access log nor the store heard of.",
            dropped,
        ),
        ("arus_sessions_store_dropped_total", "Session records that the store could not write.", unrecorded),
        (
            "arus_access_log_unwritten_total",
            "Lines of the access log that could not be written.",
            recorder::unwritten_lines(),
        ),
        ("arus_log_dropped_total", "Lines of the log that could not be written in time.", logging::dropped_lines()),
    ] {
        page.family(name, Kind::Counter, help).sample(&[], count);
    }
}

fn admin(page: &mut Page, door: &Door) {
    let mut family = page.family(
        "arus_admin_credentials_total",
        Kind::Counter,
        "Credentials shown to the admin API, by kind and by what came of them; `limited`: after too many failures.",
    );
    for (kind, Shown { accepted, refused, limited }) in [("login", &door.login_results), ("token", &door.token_results)]
    {
        for (result, count) in [("accepted", accepted), ("refused", refused), ("limited", limited)] {
            family.sample(&[("kind", kind), ("result", result)], count.load(Ordering::Relaxed));
        }
    }
}

#[cfg(test)]
mod tests;
