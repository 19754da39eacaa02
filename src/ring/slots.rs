//! The table of operations in flight. A slot owns everything that its operation needs (descriptor, buffers, addresses)
//! until the operation's final completion; whoever awaits it may go away earlier.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::task::{Context, Waker};

use socket2::SockAddr;

use super::chain::Chain;
use super::datagram::Intake;
use super::descriptor::Descriptor;
use super::letter::Posted;
use super::operation::Vector;
use super::receive::{Ask, First};

const NIL: u32 = u32::MAX;

/// Names an operation to the kernel: the slot and how often it was used before, so that a late completion cannot be
/// taken for another operation's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) index: u32,
    generation: u32,
}

impl Token {
    /// No slot has it.
    pub(super) const NONE: Self = Self { index: NIL, generation: 0 };

    pub(super) fn user_data(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    pub(super) fn from_user_data(user_data: u64) -> Self {
        Self { index: user_data as u32, generation: (user_data >> 32) as u32 }
    }
}

/// User data of operations whose completion nobody looks at (cancels). No token has the index.
pub(super) const IGNORED: u64 = u64::MAX;
/// User data of the ring's one timer.
pub(super) const ALARM: u64 = u64::MAX - 1;

pub(super) enum Operation {
    Vacant { next: u32 },
    Single(Single),
    Receive(ReceiveState),
    Accept(AcceptState),
    Intake(Box<Intake>),
    Letter(Posted),
}

/// An operation with one completion.
pub(super) struct Single {
    pub(super) waker: Option<Waker>,
    /// The completion's result, once it is there.
    pub(super) result: Option<i32>,
    /// Nobody awaits it any more: the completion frees the slot.
    pub(super) orphan: bool,
    /// A receive of the same task, which is woken where nobody waits for a send that is not sent in full.
    pub(super) partner: Token,
    pub(super) owned: Owned,
    /// Kept open while the operation is in flight.
    pub(super) _descriptor: Descriptor,
}

/// What the kernel reads or writes during an operation.
pub(super) enum Owned {
    Nothing,
    Address { _address: Box<SockAddr> },
    Bytes(Box<[u8]>),
    Word { _word: Box<u64> },
    Buffer(Chain),
    Vector(Chain, Box<Vector>),
}

impl Owned {
    /// Whether it is a send's, and `result` says that all of it was sent.
    pub(super) fn is_sent_by(&self, result: i32) -> bool {
        match self {
            Self::Buffer(chain) | Self::Vector(chain, _) => usize::try_from(result) == Ok(chain.len()),
            Self::Nothing | Self::Address { .. } | Self::Bytes(_) | Self::Word { .. } => false,
        }
    }
}

/// A receive into the shared buffers.
pub(super) struct ReceiveState {
    pub(super) waker: Option<Waker>,
    pub(super) descriptor: Descriptor,
    /// Received and not yet taken.
    pub(super) chain: Chain,
    /// What was asked for last.
    pub(super) ask: Ask,
    /// What the next arming does first.
    pub(super) first: First,
    /// Never stays armed.
    pub(super) single_shot: bool,
    pub(super) armed: bool,
    /// A cancel is on its way.
    pub(super) pausing: bool,
    /// Waits for buffers to come back.
    pub(super) starved: bool,
    /// Found no buffer, and the pool may not grow; to be told.
    pub(super) hopeless: bool,
    pub(super) orphan: bool,
    /// Its end may have been missed: see [`super::missed`].
    pub(super) in_doubt: bool,
    /// More has come since the doubt was noted.
    pub(super) is_fresh: bool,
    /// Looks that found it reset while it was held back.
    pub(super) looks_at_reset: u8,
    /// 0 at the end of the stream, else a negative errno.
    pub(super) ended: Option<i32>,
}

/// A multishot accept.
pub(super) struct AcceptState {
    pub(super) waker: Option<Waker>,
    pub(super) descriptor: Descriptor,
    pub(super) accepted: VecDeque<OwnedFd>,
    pub(super) armed: bool,
    pub(super) orphan: bool,
    /// A negative errno that has not been reported yet.
    pub(super) error: Option<i32>,
}

struct Slot {
    generation: u32,
    operation: Operation,
}

#[derive(Default)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Option<u32>,
    pub(super) live: u32,
}

impl Slots {
    pub(super) fn insert(&mut self, operation: Operation) -> Token {
        self.live += 1;
        let Some(index) = self.free else {
            let index = self.slots.len() as u32;
            assert!(index < NIL - 1, "more operations than a token can name");
            self.slots.push(Slot { generation: 0, operation });
            return Token { index, generation: 0 };
        };
        let slot = &mut self.slots[index as usize];
        let Operation::Vacant { next } = slot.operation else { unreachable!("the free list holds vacant slots") };
        self.free = (next != NIL).then_some(next);
        slot.operation = operation;
        Token { index, generation: slot.generation }
    }

    pub(super) fn get(&mut self, token: Token) -> Option<&mut Operation> {
        let slot = self.slots.get_mut(token.index as usize)?;
        (slot.generation == token.generation && !matches!(slot.operation, Operation::Vacant { .. }))
            .then_some(&mut slot.operation)
    }

    pub(super) fn single(&mut self, token: Token) -> &mut Single {
        match self.get(token) {
            Some(Operation::Single(single)) => single,
            _ => unreachable!("a single operation's slot lives until its owner or its completion frees it"),
        }
    }

    pub(super) fn receive(&mut self, token: Token) -> &mut ReceiveState {
        match self.get(token) {
            Some(Operation::Receive(receive)) => receive,
            _ => unreachable!("a receive's slot lives until its owner or its last completion frees it"),
        }
    }

    pub(super) fn accept(&mut self, token: Token) -> &mut AcceptState {
        match self.get(token) {
            Some(Operation::Accept(accept)) => accept,
            _ => unreachable!("an accept's slot lives until its owner or its last completion frees it"),
        }
    }

    pub(super) fn intake(&mut self, token: Token) -> &mut Intake {
        match self.get(token) {
            Some(Operation::Intake(intake)) => intake,
            _ => unreachable!("an intake's slot lives until its owner or its last completion frees it"),
        }
    }

    pub(super) fn remove(&mut self, token: Token) -> Operation {
        let slot = &mut self.slots[token.index as usize];
        debug_assert_eq!(slot.generation, token.generation);
        slot.generation = slot.generation.wrapping_add(1);
        self.live -= 1;
        let next = self.free.replace(token.index).unwrap_or(NIL);
        std::mem::replace(&mut slot.operation, Operation::Vacant { next })
    }
}

/// Remembers whom to wake, cloning only when it is somebody else than last time.
pub(super) fn register(waker: &mut Option<Waker>, context: &Context<'_>) {
    if !waker.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
        *waker = Some(context.waker().clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn a_late_completion_finds_nothing() {
        let core =
            crate::ring::Core::new(&crate::ring::tests::TINY, crate::ring::probe().expect("io_uring")).expect("a ring");
        let descriptor = crate::ring::File::new(&core, crate::net::eventfd().expect("eventfd"));
        let single = || {
            Operation::Single(Single {
                waker: None,
                result: None,
                orphan: false,
                partner: Token::NONE,
                owned: Owned::Nothing,
                _descriptor: Rc::clone(&descriptor),
            })
        };
        let mut slots = Slots::default();
        let first = slots.insert(single());
        slots.remove(first);
        let second = slots.insert(single());
        assert_eq!(first.index, second.index);
        assert!(slots.get(first).is_none());
        assert!(slots.get(second).is_some());
        assert_eq!(Token::from_user_data(second.user_data()), second);
        assert_eq!((slots.live, Rc::strong_count(&descriptor)), (1, 2));
    }

    #[test]
    fn a_slot_stays_small() {
        // Two per connection: resident memory per idle connection counts on it.
        assert!(size_of::<Slot>() <= 88, "{}", size_of::<Slot>());
    }
}
