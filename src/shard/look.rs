//! Looking at live sessions: each answers for itself, in its own task.

use std::time::Duration;

use crossbeam::channel::Sender;

use super::Shard;
use crate::relay::sight::Sight;
use crate::stats::summary::Summary;
use crate::types::SessionId;

impl Shard {
    /// `ids` are sorted.
    pub(super) fn look(&self, ids: &[SessionId], answers: &Sender<(SessionId, Sight)>) {
        for (_, live) in self.sessions.borrow().iter() {
            if ids.binary_search(&live.id).is_ok() {
                let (id, answers) = (live.id, answers.clone());
                // An association has no relay that could be asked.
                if let Some(sight) = live.sight(self.ring.now()) {
                    let _ = answers.try_send((id, sight));
                    continue;
                }
                live.cut.ask(Box::new(move |sight| {
                    let _ = answers.try_send((id, sight));
                }));
            }
        }
        self.ring.note_activity();
    }

    pub(super) fn some_sessions(&self, from: usize, most: usize, age: Duration) -> (Vec<Summary>, Option<usize>) {
        let (sessions, now) = (self.sessions.borrow(), self.ring.now());
        // Free places are quickly passed over, but not for nothing.
        let end = from.saturating_add(most).min(sessions.capacity());
        let old = (from..end).filter_map(|key| sessions.get(key)).filter(|live| live.age(now) >= age);
        (old.map(|live| live.summary(self)).collect(), (end < sessions.capacity()).then_some(end))
    }
}
