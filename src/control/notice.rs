//! What the stats thread notices in the counters once a second and makes events of: limits that refuse, faults of
//! plugins, shards that are loaded unevenly.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;

use super::events::{Category, Events, Severity};
use super::handle::ShardView;
use crate::shard::command::Snapshot;
use crate::stats::totals::Totals;
use crate::types::Name;

/// One shard works this much more than the others do on the average, and this much of its time, for so many seconds.
const SKEW: f64 = 2.0;
const SKEWED_BUSY: f64 = 0.3;
const SKEW_SECONDS: u32 = 10;

#[derive(Debug, Default)]
pub(super) struct Notice {
    /// By listener and reason.
    rejected: HashMap<(String, &'static str), u64>,
    faults: HashMap<Name, u64>,
    skewed_seconds: u32,
    is_skewed: bool,
    /// By shard: turns, accepts that failed, panics.
    shards: HashMap<u16, [u64; 3]>,
    stuck: BTreeSet<u16>,
}

impl Notice {
    pub(super) fn look(&mut self, totals: &Totals, snapshot: &Snapshot, events: &Events) {
        for listener in &totals.listeners {
            for (reason, count) in &listener.rejected {
                let key = (listener.listener.clone(), *reason);
                let before = self.rejected.insert(key, *count).unwrap_or(0);
                let refused = count.saturating_sub(before);
                if refused > 0 {
                    let name = &listener.listener;
                    let message = format!("listener {name} refuses connections: {reason}");
                    let details = json!({ "listener": name, "reason": reason, "refused": refused, "total": count });
                    let key = format!("rejected {name} {reason}");
                    if events.say_seldom(&key, Severity::Warning, Category::Limit, message, details) {
                        tracing::warn!(listener = %name, reason, refused, "listener refuses connections");
                    }
                }
            }
        }
        for process in &snapshot.plugins {
            let name = &process.terms.name;
            let faults: u64 = process.state.shards.iter().map(|meter| meter.faults.load(Ordering::Relaxed)).sum();
            let before = self.faults.insert(name.clone(), faults).unwrap_or(0);
            if faults > before {
                let disabled = process.is_disabled();
                let message = format!("plugin {name} has failed{}", if disabled { ", and is disabled" } else { "" });
                let details =
                    json!({ "plugin": **name, "faults": faults - before, "total": faults, "disabled": disabled });
                let severity = if disabled { Severity::Error } else { Severity::Warning };
                events.say_seldom(&format!("plugin {name} {disabled}"), severity, Category::Plugin, message, details);
            }
        }
        self.look_at_skew(totals, events);
    }

    /// What no traffic tells of. Gives the shards that have been in the same turn since the last look.
    pub(super) fn look_at_shards(&mut self, shards: &[ShardView], events: &Events) -> BTreeSet<u16> {
        let mut stuck = BTreeSet::new();
        for ShardView { id, stats, .. } in shards {
            let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
            let (turns, refused, panics) = (read(&stats.turns), read(&stats.accept_errors), read(&stats.panics));
            let Some([before, refused_before, panics_before]) = self.shards.insert(id.0, [turns, refused, panics])
            else {
                continue;
            };
            if stats.is_in_turn.load(Ordering::Relaxed) && before == turns {
                stuck.insert(id.0);
            }
            let shard = id.0;
            let details = json!({ "shard": shard });
            if refused > refused_before {
                let message = format!("shard {shard} cannot accept for want of descriptors or memory, and waits");
                events.say_seldom(&message, Severity::Error, Category::Limit, &*message, details.clone());
            }
            if panics > panics_before {
                let message = format!("shard {shard} lost a connection by an error of arus's own; the log has it");
                events.say_seldom(&message, Severity::Error, Category::Shard, &*message, details);
            }
        }
        for shard in stuck.difference(&self.stuck) {
            let message = format!("shard {shard} is stuck: it has answered nobody for a second");
            if events.say_seldom(&message, Severity::Error, Category::Shard, &*message, json!({ "shard": shard })) {
                tracing::error!(shard, "shard is stuck: it has answered nobody for a second");
            }
        }
        for shard in self.stuck.difference(&stuck) {
            let message = format!("shard {shard} goes on");
            if events.say_seldom(&message, Severity::Info, Category::Shard, &*message, json!({ "shard": shard })) {
                tracing::info!(shard, "shard goes on");
            }
        }
        self.stuck.clone_from(&stuck);
        stuck
    }

    pub(super) fn look_at_skew(&mut self, totals: &Totals, events: &Events) {
        let shards = &totals.shards;
        let Some(most) = shards.iter().max_by(|a, b| a.busy.total_cmp(&b.busy)) else { return };
        let others = shards.len().saturating_sub(1).max(1) as f64;
        let mean =
            shards.iter().filter(|shard| shard.shard != most.shard).map(|shard| shard.busy).sum::<f64>() / others;
        let is_skewed = shards.len() > 1 && most.busy > SKEW * mean && most.busy >= SKEWED_BUSY;
        self.skewed_seconds = if is_skewed { self.skewed_seconds.saturating_add(1) } else { 0 };
        if self.skewed_seconds >= SKEW_SECONDS && !self.is_skewed {
            self.is_skewed = true;
            let message = format!("shard {} has much more to do than the others", most.shard);
            let (shard, busy) = (most.shard, most.busy);
            tracing::warn!(shard, busy, others = mean, "shard has much more to do than the others");
            let details = json!({ "shard": shard, "busy": busy, "others": mean });
            events.say(Severity::Warning, Category::Shard, message, details);
        } else if self.is_skewed && !is_skewed {
            self.is_skewed = false;
            let message = "the shards have about as much to do again";
            tracing::info!(message);
            events.say(Severity::Info, Category::Shard, message, json!({}));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::fixture::{self, plan};
    use super::*;
    use crate::stats::counters::add;
    use crate::stats::totals::ShardTotals;
    use crate::types::Reason;
    use std::path::Path;

    #[test]
    fn limits_that_refuse_are_said_once_a_minute() {
        let (control, _requests, _shards) =
            fixture::control(plan(Path::new("/x")).with_listener("web", &["127.0.0.1:0"]));
        let snapshot = std::sync::Arc::clone(&control.view().snapshot);
        let mut notice = Notice::default();
        for _ in 0..3 {
            add(&snapshot.listeners[0].counters[0].rejected[Reason::AcceptRate as usize], 7);
            notice.look(&control.read_totals(), &snapshot, control.events());
        }
        let said = control.events().newest(10, |event| event.category == Category::Limit);
        assert_eq!(said.len(), 1);
        assert_eq!((&said[0].details["refused"], &said[0].details["reason"]), (&json!(7), &json!("accept_rate")));
    }

    #[test]
    fn a_shard_that_stays_loaded_is_said_once() {
        let (control, _requests, _shards) = fixture::control(plan(Path::new("/x")));
        let (mut notice, snapshot) = (Notice::default(), std::sync::Arc::clone(&control.view().snapshot));
        let totals = |busy: [f64; 4]| {
            let shard = |(shard, busy)| ShardTotals { shard, busy, ..ShardTotals::default() };
            Totals { shards: (0..).zip(busy).map(shard).collect(), ..Totals::default() }
        };
        let warnings = |event: &super::super::events::Event| event.severity == Severity::Warning;
        let said = |control: &super::super::handle::Control| control.events().newest(10, warnings).len();
        let mut look =
            |busy, seconds: u32| (0..seconds).for_each(|_| notice.look(&totals(busy), &snapshot, control.events()));
        look([0.9, 0.1, 0.1, 0.1], SKEW_SECONDS - 1);
        look([0.5, 0.5, 0.5, 0.5], 1);
        assert_eq!(said(&control), 0);
        look([0.9, 0.1, 0.1, 0.1], 3 * SKEW_SECONDS);
        assert_eq!(said(&control), 1);
        assert_eq!(control.events().newest(1, |_| true)[0].details["shard"], 0);
        look([0.02, 0.0, 0.0, 0.0], 3 * SKEW_SECONDS);
        assert_eq!(said(&control), 1, "a shard that has little to do is no trouble");
        let newest = control.events().newest(1, |_| true).remove(0);
        assert_eq!((newest.severity, &*newest.message), (Severity::Info, "the shards have about as much to do again"));
    }

    #[test]
    fn one_of_two_shards_may_be_loaded_unevenly() {
        let (control, _requests, _shards) = fixture::control(plan(Path::new("/x")));
        let mut notice = Notice::default();
        let shard = |(shard, busy)| ShardTotals { shard, busy, ..ShardTotals::default() };
        let mut look = |busy: [f64; 2]| {
            let totals = Totals { shards: (0..).zip(busy).map(shard).collect(), ..Totals::default() };
            (0..SKEW_SECONDS).for_each(|_| notice.look_at_skew(&totals, control.events()));
            control.events().newest(10, |_| true).len()
        };
        assert_eq!(look([0.6, 0.4]), 0);
        assert_eq!(look([0.3, 0.7]), 1);
    }

    #[test]
    fn a_shard_that_stays_in_one_turn_is_stuck_and_one_that_sleeps_is_not() {
        let (control, _requests, _shards) = fixture::control(plan(Path::new("/x")));
        let mut notice = Notice::default();
        let mut look = || Vec::from_iter(notice.look_at_shards(control.shards(), control.events()));
        let stats = &control.shards()[1].stats;
        look();
        assert_eq!(look(), [0; 0], "they sleep");
        stats.is_in_turn.store(true, Ordering::Relaxed);
        add(&stats.turns, 1);
        assert_eq!(look(), [0; 0], "it has had a turn since");
        assert_eq!((look(), look()), (vec![1], vec![1]));
        add(&stats.turns, 1);
        add(&stats.accept_errors, 1);
        assert_eq!(look(), [0; 0]);
        let said = control.events().newest(10, |_| true);
        let said: Vec<&str> = said.iter().map(|event| &*event.message).collect();
        assert_eq!(said.len(), 3, "{said:?}");
        assert!(
            said[0].contains("goes on") && said[1].contains("cannot accept") && said[2].contains("shard 1 is stuck")
        );
    }
}
