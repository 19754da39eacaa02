//! Rules that a test makes.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::task::Waker;

use super::*;

/// Rules, names and counts.
#[derive(Default)]
pub(super) struct World {
    pub(super) denied: RefCell<HashSet<String>>,
    pub(super) edition: Cell<u64>,
    pub(super) names: RefCell<HashMap<String, Vec<IpAddr>>>,
    /// Look-ups wait for as long as it is closed.
    pub(super) gate: Rc<Gate>,
    pub(super) lookups: Cell<u32>,
    pub(super) stops: Cell<bool>,
    pub(super) met: RefCell<Vec<String>>,
    pub(super) up: Cell<(i64, i64)>,
    pub(super) down: Cell<(i64, i64)>,
    pub(super) dropped: RefCell<HashMap<Dropped, u32>>,
    pub(super) ended: Cell<Option<Tally>>,
}

#[derive(Default)]
pub(super) struct Gate {
    pub(super) closed: Cell<bool>,
    pub(super) wakers: RefCell<Vec<Waker>>,
}

impl Gate {
    pub(super) fn open(&self) {
        self.closed.set(false);
        self.wakers.take().into_iter().for_each(Waker::wake);
    }
}

impl Terms for Rc<World> {
    type Lookup = std::pin::Pin<Box<dyn Future<Output = Vec<IpAddr>>>>;

    fn name<'a>(&self, host: &'a [u8]) -> Option<Named<'a>> {
        let text = std::str::from_utf8(host).ok().filter(|text| !text.contains('\0'))?;
        Some(text.parse().map_or(Named::Name(text.into()), Named::Ip))
    }

    fn allows(&self, place: &Place<'_>) -> bool {
        let denied = self.denied.borrow();
        let ip = place.ip.map(|ip| ip.to_string());
        !place.name.is_some_and(|name| denied.contains(name)) && !ip.is_some_and(|ip| denied.contains(&ip))
    }

    fn edition(&self) -> u64 {
        1 + self.edition.get()
    }

    fn look_up(&self, name: &str) -> Self::Lookup {
        self.lookups.set(self.lookups.get() + 1);
        let addresses = self.names.borrow().get(name).cloned().unwrap_or_default();
        let gate = Rc::clone(&self.gate);
        Box::pin(poll_fn(move |context| {
            if gate.closed.get() {
                gate.wakers.borrow_mut().push(context.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(addresses.clone())
        }))
    }

    fn sends_to(&self, place: &Place<'_>) {
        self.met.borrow_mut().push(format!("{}/{}", place.name.unwrap_or("-"), place.port));
    }

    fn paces(&self, _: Direction, _: usize) -> bool {
        !self.stops.get()
    }

    fn count(&self, direction: Direction, datagrams: i64, bytes: i64) {
        let cell = if direction == Direction::Up { &self.up } else { &self.down };
        let (some, their_bytes) = cell.get();
        cell.set((some + datagrams, their_bytes + bytes));
    }

    fn dropped(&self, why: Dropped) {
        *self.dropped.borrow_mut().entry(why).or_default() += 1;
    }
}

impl World {
    pub(super) fn drops(&self, why: Dropped) -> u32 {
        self.dropped.borrow().get(&why).copied().unwrap_or_default()
    }
}
