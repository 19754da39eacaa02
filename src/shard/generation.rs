//! A snapshot as one shard uses it: with what the shard computes from it once.

use std::rc::Rc;
use std::sync::Arc;

use super::command::{Handed, Snapshot};
use crate::config::plan::{AccessLog, Store};
use crate::plugin::Instance;
use crate::types::PluginIndex;
use crate::upstream::balance::Picker;

/// One configuration in force on this shard. Connections keep the one they began with.
pub(super) struct Generation {
    pub(super) snapshot: Arc<Snapshot>,
    /// In the order of the plan's upstreams.
    pub(super) pickers: Vec<Picker>,
    /// In the order of the plan's plugins. They end with the last connection of the last generation that has them.
    instances: Vec<Rc<Instance>>,
    /// The plugins of each listener, client side first; in the order of the plan's listeners.
    pub(super) plugins: Vec<Rc<[Rc<Instance>]>>,
}

impl Generation {
    /// What `before` has and is kept is not in `handed`.
    pub(super) fn new(snapshot: Arc<Snapshot>, handed: Vec<Handed>, before: Option<&Self>) -> Rc<Self> {
        let pickers = snapshot.plan.upstreams.iter().map(Picker::new).collect();
        let kept = before.map_or(&[][..], |before| &before.instances);
        // Without one of its plugins a listener must not go on, as that may be a filter: better no shard than such a one.
        let instance = |Handed { id, opened }| match opened {
            Some(opened) => Instance::new(opened),
            None => {
                let kept = kept.iter().find(|instance| instance.process().id == id);
                Rc::clone(kept.expect("control leaves out only what it has handed to every shard before"))
            }
        };
        let instances: Vec<Rc<Instance>> = handed.into_iter().map(instance).collect();
        let of_index = |index: &PluginIndex| Rc::clone(&instances[usize::from(index.0)]);
        let listeners = snapshot.plan.listeners.iter();
        let plugins = listeners.map(|listener| listener.plugins.iter().map(of_index).collect()).collect();
        Rc::new(Self { snapshot, pickers, instances, plugins })
    }

    /// Whether anybody wants to know of finished sessions.
    pub(super) fn keeps_summaries(&self) -> bool {
        self.snapshot.plan.log.access != AccessLog::Off || self.snapshot.plan.sessions.store != Store::Off
    }
}
