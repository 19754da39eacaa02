//! What a shard has control do for it, as it may block: it hands an errand over, and its task sleeps until the answer
//! comes by command.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crossbeam::channel::Sender;
use slab::Slab;

use super::command::{Answer, Commission, Errand, Ticket};
use crate::ring::Ring;
use crate::types::ShardId;

/// The errands of one shard that are under way.
pub(super) struct Errands {
    shard: ShardId,
    ring: Ring,
    control: Sender<Commission>,
    waiting: RefCell<Slab<Waiting>>,
    /// Counts errands, so that a late answer finds nobody.
    number: Cell<u32>,
}

struct Waiting {
    number: u32,
    answer: Option<Answer>,
    waker: Option<Waker>,
}

impl Errands {
    pub(super) fn new(shard: ShardId, ring: Ring, control: Sender<Commission>) -> Rc<Self> {
        Rc::new(Self { shard, ring, control, waiting: RefCell::default(), number: Cell::new(0) })
    }

    /// Hands an errand over; `None` where control has too many already. Whoever drops the future forgets the answer.
    pub(super) fn ask(self: &Rc<Self>, errand: Errand) -> Option<Asked> {
        let number = self.number.get().wrapping_add(1);
        self.number.set(number);
        let slot = self.waiting.borrow_mut().insert(Waiting { number, answer: None, waker: None });
        let asked = Asked { errands: Rc::clone(self), slot };
        let ticket = Ticket { slot: slot as u32, number };
        self.control.try_send(Commission { shard: self.shard, ticket, errand }).ok().map(|()| asked)
    }

    /// Gives an answer to whoever waits for it.
    pub(super) fn answer(&self, ticket: Ticket, answer: Answer) {
        let mut waiting = self.waiting.borrow_mut();
        let Some(waiting) = waiting.get_mut(ticket.slot as usize).filter(|found| found.number == ticket.number) else {
            return;
        };
        waiting.answer = Some(answer);
        if let Some(waker) = waiting.waker.take() {
            waker.wake();
            self.ring.note_activity();
        }
    }
}

/// An errand under way.
pub(super) struct Asked {
    errands: Rc<Errands>,
    slot: usize,
}

impl Future for Asked {
    type Output = Answer;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        let mut waiting = self.errands.waiting.borrow_mut();
        let waiting = &mut waiting[self.slot];
        match waiting.answer.take() {
            Some(answer) => Poll::Ready(answer),
            None => {
                waiting.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.errands.waiting.borrow_mut().remove(self.slot);
    }
}
