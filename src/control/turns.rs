//! Whose turn it is where many want what takes long, a look-up or a login: few at once, fewer for one source, and whoever
//! has least goes first. So who wants much, or what takes longest, holds up itself and nobody else.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::policy::banned::Source;

#[derive(Debug, Clone, Copy)]
pub(in crate::control) struct Limits {
    /// Turns at once,
    pub(in crate::control) all: usize,
    /// and of one source.
    pub(in crate::control) one: usize,
    /// How many may wait for theirs,
    pub(in crate::control) all_waiting: usize,
    /// and of one source.
    pub(in crate::control) one_waiting: usize,
    /// How long; whoever asked has given up by then.
    pub(in crate::control) patience: Duration,
}

/// `None`: clients without an address, of unix sockets.
type Asker = Option<Source>;

pub(in crate::control) struct Turns {
    limits: Limits,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    waiting: usize,
    askers: HashMap<Asker, Share>,
}

#[derive(Default)]
struct Share {
    taken: usize,
    /// Those who have given up meanwhile among them.
    waiting: VecDeque<oneshot::Sender<Turn>>,
}

/// Dropping it gives it to the next.
pub(in crate::control) struct Turn {
    turns: Arc<Turns>,
    asker: Asker,
}

impl Turns {
    pub(in crate::control) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, taken: Mutex::default() })
    }

    /// Waits for a turn; `None` where too many do, or for too long.
    pub(in crate::control) async fn take(self: &Arc<Self>, asker: Asker) -> Option<Turn> {
        let mut turn = {
            let mut taken = self.taken();
            let taken = &mut *taken;
            let share = taken.askers.entry(asker).or_default();
            if taken.all < self.limits.all && share.taken < self.limits.one {
                taken.all += 1;
                share.taken += 1;
                return Some(self.turn(asker));
            }
            if share.waiting.len() >= self.limits.one_waiting || taken.waiting >= self.limits.all_waiting {
                taken.tidy(asker);
                return None;
            }
            let (sender, turn) = oneshot::channel();
            share.waiting.push_back(sender);
            taken.waiting += 1;
            turn
        };
        if let Ok(turn) = tokio::time::timeout(self.limits.patience, &mut turn).await {
            return turn.ok();
        }
        turn.close();
        self.taken().tidy(asker);
        turn.try_recv().ok()
    }

    fn turn(self: &Arc<Self>, asker: Asker) -> Turn {
        Turn { turns: Arc::clone(self), asker }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// Forgets those of an asker who wait no more.
    fn tidy(&mut self, asker: Asker) {
        let Some(share) = self.askers.get_mut(&asker) else { return };
        let before = share.waiting.len();
        share.waiting.retain(|waiting| !waiting.is_closed());
        self.waiting -= before - share.waiting.len();
        if share.taken == 0 && share.waiting.is_empty() {
            self.askers.remove(&asker);
        }
    }

    /// Gives one turn back, and takes it for whoever has least.
    fn pass_on(&mut self, asker: Asker, one: usize) -> Option<(Asker, oneshot::Sender<Turn>)> {
        self.all -= 1;
        if let Some(share) = self.askers.get_mut(&asker) {
            share.taken -= 1;
        }
        self.tidy(asker);
        let waits = self.askers.iter().filter(|(_, share)| share.taken < one && !share.waiting.is_empty());
        let next = waits.min_by_key(|(_, share)| share.taken).map(|(asker, _)| *asker)?;
        let share = self.askers.get_mut(&next)?;
        let waiting = share.waiting.pop_front()?;
        self.waiting -= 1;
        share.taken += 1;
        self.all += 1;
        Some((next, waiting))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let next = self.turns.taken().pass_on(self.asker, self.turns.limits.one);
        if let Some((asker, waiting)) = next {
            // Who has given up in this moment drops it, and so passes it on.
            let _ = waiting.send(self.turns.turn(asker));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const FEW: Limits = Limits { all: 4, one: 2, all_waiting: 6, one_waiting: 3, patience: Duration::from_millis(50) };

    fn asker(last: u8) -> Asker {
        Some(Source::of([192, 0, 2, last].into()))
    }

    fn begin(turns: &Arc<Turns>, last: u8) -> tokio::task::JoinHandle<Option<Turn>> {
        let turns = Arc::clone(turns);
        tokio::spawn(async move { turns.take(asker(last)).await })
    }

    #[tokio::test]
    async fn one_who_wants_much_leaves_room_for_others() {
        let turns = Turns::new(FEW);
        let greedy = [turns.take(asker(1)).await.unwrap(), turns.take(asker(1)).await.unwrap()];
        let waiting: Vec<_> = (0..3).map(|_| begin(&turns, 1)).collect();
        tokio::task::yield_now().await;
        assert!(turns.take(asker(1)).await.is_none(), "too many wait");
        assert!(turns.take(asker(2)).await.is_some(), "another need not");
        // What is given up waits no more, and takes nothing.
        for each in waiting {
            assert!(each.await.unwrap().is_none());
        }
        drop(greedy);
        let taken = turns.taken();
        assert_eq!((taken.all, taken.waiting, taken.askers.len()), (0, 0, 0));
    }

    #[tokio::test]
    async fn whoever_has_least_goes_first() {
        let turns = Turns::new(Limits { one: 3, patience: Duration::from_secs(60), ..FEW });
        let mut greedy = Vec::new();
        for _ in 0..3 {
            greedy.push(turns.take(asker(1)).await.unwrap());
        }
        let other = turns.take(asker(2)).await.unwrap();
        let again = begin(&turns, 1);
        tokio::task::yield_now().await;
        let newcomer = begin(&turns, 3);
        tokio::task::yield_now().await;
        greedy.pop();
        let turn = newcomer.await.unwrap();
        assert!(turn.is_some() && !again.is_finished());
        drop(other);
        let again = again.await.unwrap();
        assert!(again.is_some());
        // One who is not there any more when it is its turn passes it on.
        let (gone, next) = (begin(&turns, 4), begin(&turns, 1));
        tokio::task::yield_now().await;
        gone.abort();
        drop((greedy, turn, again));
        assert!(next.await.unwrap().is_some());
        let _ = gone.await;
        let taken = turns.taken();
        assert_eq!((taken.all, taken.waiting, taken.askers.len()), (0, 0, 0));
    }
}
