//! Places on backends, and the queue for a full one.
//!
//! A connection's [`Place`] on its backend goes, when it ends, straight to the longest waiter of the same shard; where
//! there is none, other shards with waiters are told.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::task::{Poll, Waker};

use super::state::{BackendId, BackendState, UpstreamState};
use crate::ring::Ring;

/// The waiters of one shard.
pub struct Queues {
    ring: Ring,
    waiters: RefCell<VecDeque<Rc<Waiter>>>,
    /// Tells the other shards that a place has become free.
    tell: Box<dyn Fn(BackendId)>,
}

struct Waiter {
    upstream: Arc<UpstreamState>,
    granted: Cell<Option<Grant>>,
    waker: RefCell<Option<Waker>>,
}

/// What a waiter is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// A connection of this backend, already counted.
    Backend(u16),
    /// A place may have become free somewhere: choose again.
    Again,
}

/// One connection counted on a backend. Passed on or given back when dropped.
pub struct Place {
    queues: Rc<Queues>,
    upstream: Arc<UpstreamState>,
    index: u16,
}

impl Place {
    #[must_use]
    pub fn backend(&self) -> &Arc<BackendState> {
        &self.upstream.backends[usize::from(self.index)]
    }

    #[must_use]
    pub fn index(&self) -> u16 {
        self.index
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let backend = self.backend();
        // Nobody waits: by far the most common case.
        if self.upstream.waiting.used() > 0 && self.queues.hand_over(backend) {
            return;
        }
        backend.connections.give_back();
        // Who finds no place begins to wait and then looks once more: one of the two sees the other.
        fence(Ordering::SeqCst);
        if self.upstream.waiting.used() > 0 {
            (self.queues.tell)(backend.id);
        }
    }
}

impl Queues {
    pub fn new(ring: Ring, tell: impl Fn(BackendId) + 'static) -> Rc<Self> {
        Rc::new(Self { ring, waiters: RefCell::default(), tell: Box::new(tell) })
    }

    /// Takes charge of a connection that was counted by `Picker::choose`.
    #[must_use]
    pub fn place(self: &Rc<Self>, upstream: &Arc<UpstreamState>, index: u16) -> Place {
        Place { queues: Rc::clone(self), upstream: Arc::clone(upstream), index }
    }

    /// Waits until a backend of the upstream may have a place. `first` puts the waiter before the others: it has
    /// waited already. The caller limits the time.
    pub async fn wait(self: &Rc<Self>, upstream: &Arc<UpstreamState>, first: bool) -> Grant {
        let waiter =
            Rc::new(Waiter { upstream: Arc::clone(upstream), granted: Cell::new(None), waker: RefCell::default() });
        match first {
            true => self.waiters.borrow_mut().push_front(Rc::clone(&waiter)),
            false => self.waiters.borrow_mut().push_back(Rc::clone(&waiter)),
        }
        let waiting = Waiting { queues: self, waiter };
        poll_fn(|context| match waiting.waiter.granted.take() {
            Some(grant) => Poll::Ready(grant),
            None => {
                waiting.waiter.waker.replace(Some(context.waker().clone()));
                Poll::Pending
            }
        })
        .await
    }

    /// A backend may have a place: a connection on another shard has ended, or the backend came back into use.
    pub fn place_freed(&self, backend: BackendId) {
        let waiters = self.waiters.borrow();
        let waiter = waiters.iter().find(|waiter| {
            waiter.granted.get().is_none() && waiter.upstream.backends.iter().any(|known| known.id == backend)
        });
        if let Some(waiter) = waiter {
            self.grant(waiter, Grant::Again);
        }
    }

    /// Limits may have been raised: the first waiter of each upstream is to choose again.
    pub fn limits_changed(&self) {
        let waiters = self.waiters.borrow();
        for (index, waiter) in waiters.iter().enumerate() {
            let is_first = !waiters.iter().take(index).any(|other| Arc::ptr_eq(&other.upstream, &waiter.upstream));
            if is_first && waiter.granted.get().is_none() {
                self.grant(waiter, Grant::Again);
            }
        }
    }

    /// One waiter of the upstream is to choose again: because another found a place that way, and where there was one
    /// there may be more, or because it left without having tried.
    pub fn try_next(&self, upstream: &UpstreamState) {
        let waiters = self.waiters.borrow();
        let next =
            waiters.iter().find(|waiter| waiter.granted.get().is_none() && waiter.upstream.name == upstream.name);
        if let Some(next) = next {
            self.grant(next, Grant::Again);
        }
    }

    fn hand_over(&self, backend: &Arc<BackendState>) -> bool {
        // A backend that is going out of use, or over a lowered limit, takes nobody new.
        let over = backend.connections.used() > backend.connections.limit();
        if over || !backend.is_usable(crate::stats::clock_ms()) {
            return false;
        }
        let waiters = self.waiters.borrow();
        for waiter in waiters.iter().filter(|waiter| waiter.granted.get().is_none()) {
            if let Some(index) = waiter.upstream.backends.iter().position(|known| Arc::ptr_eq(known, backend)) {
                self.grant(waiter, Grant::Backend(index as u16));
                return true;
            }
        }
        false
    }

    fn grant(&self, waiter: &Waiter, grant: Grant) {
        waiter.granted.set(Some(grant));
        self.ring.note_activity();
        if let Some(waker) = waiter.waker.take() {
            waker.wake();
        }
    }
}

/// Leaves the queue when dropped, and passes on what was granted and not taken.
struct Waiting<'a> {
    queues: &'a Rc<Queues>,
    waiter: Rc<Waiter>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.queues.waiters.borrow_mut().retain(|waiter| !Rc::ptr_eq(waiter, &self.waiter));
        match self.waiter.granted.take() {
            Some(Grant::Backend(index)) => drop(self.queues.place(&self.waiter.upstream, index)),
            // The place that this waiter was told of is another's chance.
            Some(Grant::Again) => self.queues.try_next(&self.waiter.upstream),
            None => {}
        }
    }
}
