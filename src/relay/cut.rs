//! What can be done to a relay from outside: end it, or ask it how things stand.

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};

use smallvec::SmallVec;

use super::sight::Sight;
use crate::types::{Blame, Reason};

/// Gets the answer. Off the data path, so that a `dyn` costs nobody anything.
pub(super) type Question = Box<dyn FnOnce(Sight)>;

/// Questions that may wait for one relay; who asks beyond that gets no answer.
const QUESTIONS: usize = 8;

/// A way to reach a session's task from outside.
#[derive(Default)]
pub struct Cut {
    why: Cell<Option<(Reason, Blame)>>,
    waker: RefCell<Option<Waker>>,
    // In a box, as nearly always there are none.
    questions: Cell<Option<Box<SmallVec<[Question; 1]>>>>,
}

impl Cut {
    /// Ends the relay; the first reason given stands. The caller notes activity on the ring.
    pub fn cut(&self, reason: Reason, blame: Blame) {
        if self.why.get().is_none() {
            self.why.set(Some((reason, blame)));
        }
        self.wake();
    }

    #[must_use]
    pub fn why(&self) -> Option<(Reason, Blame)> {
        self.why.get()
    }

    /// Puts a question to the session's task, which answers in its next turn; one that has no next turn drops it. The
    /// caller notes activity on the ring.
    pub fn ask(&self, question: Box<dyn FnOnce(Sight)>) {
        let mut questions = self.questions.take().unwrap_or_default();
        if questions.len() < QUESTIONS {
            questions.push(question);
        }
        self.questions.set(Some(questions));
        self.wake();
    }

    /// Answers what was asked since the last time.
    pub fn answer(&self, sight: impl FnOnce() -> Sight) {
        if let Some(questions) = self.questions.take() {
            let sight = sight();
            questions.into_iter().for_each(|question| question(sight));
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Ready once it was cut.
    pub fn poll(&self, context: &Context<'_>) -> Poll<(Reason, Blame)> {
        if let Some(why) = self.why.get() {
            return Poll::Ready(why);
        }
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
        Poll::Pending
    }
}
