//! A snapshot as one shard uses it: with what the shard computes from it once.

use std::rc::Rc;
use std::sync::Arc;

use super::command::Snapshot;
use crate::config::plan::AccessLog;
use crate::upstream::balance::Picker;

/// One configuration in force on this shard. Connections keep the one they began with.
pub(super) struct Generation {
    pub(super) snapshot: Arc<Snapshot>,
    /// In the order of the plan's upstreams.
    pub(super) pickers: Vec<Picker>,
}

impl Generation {
    pub(super) fn new(snapshot: Arc<Snapshot>) -> Rc<Self> {
        let pickers = snapshot.plan.upstreams.iter().map(Picker::new).collect();
        Rc::new(Self { snapshot, pickers })
    }

    /// Whether anybody wants to know of finished sessions.
    pub(super) fn keeps_summaries(&self) -> bool {
        self.snapshot.plan.log.access != AccessLog::Off
    }
}
