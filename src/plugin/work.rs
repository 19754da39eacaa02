//! One stage's bytes: the input that its plugin sees, and where what it lets through and makes goes, in order.
//!
//! The functions of the host table (pass, drop, rewrite, reserve, commit) are methods here; each checks what it is given.
//! Output is, in order: `out`, then `open`, then the passed part of the input. A buffer of which everything was passed is
//! moved, not copied.

use std::cell::RefCell;
use std::rc::Rc;

use super::fault::Lie;
use super::ffi::{INPUT_MAX, RESERVE_MAX};
use crate::ring::{Buffer, Buffers, Chain};

/// A passed part up to this length is moved along over a gap; a longer one is copied out, once.
const SHORT: usize = 64;
/// A passed part up to this length is copied behind other output rather than sent as a piece of its own.
const SMALL: usize = 512;
/// Vectors that an instance keeps for bytes held back, and the largest: what may be held back and one piece, twice over.
const SPARES: usize = 32;
const SPARE_BYTES: usize = 160 * 1024;

/// Vectors for bytes held back, used again: an idle connection keeps none.
#[derive(Default)]
pub(super) struct Spares(RefCell<Vec<Vec<u8>>>);

impl Spares {
    fn take(&self) -> Vec<u8> {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    fn give_back(&self, mut vector: Vec<u8>) {
        let mut spares = self.0.borrow_mut();
        if spares.len() < SPARES && vector.capacity() <= SPARE_BYTES {
            vector.clear();
            spares.push(vector);
        }
    }
}

enum Input {
    None,
    Buffer(Buffer),
    /// Bytes that were held back, with what came behind them.
    Held(Vec<u8>),
}

impl Input {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::None => &[],
            Self::Buffer(buffer) => buffer.filled(),
            Self::Held(vector) => vector,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::None => &mut [],
            Self::Buffer(buffer) => buffer.filled_mut(),
            Self::Held(vector) => vector,
        }
    }
}

pub(super) struct Work {
    buffers: Buffers,
    spares: Rc<Spares>,
    input: Input,
    /// This part of the input was passed and is not in `out` yet.
    passed: std::ops::Range<usize>,
    /// Up to here the input is consumed; from here up to `visible` the plugin sees it.
    at: usize,
    visible: usize,
    /// Bytes from `at` on that the plugin has seen in an earlier call.
    seen: usize,
    /// Output that is being filled.
    open: Option<Buffer>,
    reserved: Option<usize>,
    /// Output, complete.
    pub(super) out: Chain,
    /// Bytes of output at which no more can be reserved.
    room: usize,
    /// A reservation had to be refused.
    lacked: bool,
    lie: Option<Lie>,
    consumed: usize,
    produced: usize,
}

/// What a data call has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) lacked: bool,
    pub(super) lie: Option<Lie>,
    pub(super) consumed: usize,
    pub(super) produced: usize,
    /// Input that the plugin saw and did not consume.
    pub(super) left: usize,
}

impl Work {
    pub(super) fn new(buffers: &Buffers, spares: &Rc<Spares>) -> Self {
        Self {
            buffers: buffers.clone(),
            spares: Rc::clone(spares),
            input: Input::None,
            passed: 0..0,
            at: 0,
            visible: 0,
            seen: 0,
            open: None,
            reserved: None,
            out: Chain::default(),
            room: 0,
            lacked: false,
            lie: None,
            consumed: 0,
            produced: 0,
        }
    }

    /// Shows the plugin more: up to [`INPUT_MAX`] bytes behind those that it has seen. False when there are none.
    pub(super) fn show_more(&mut self, inbox: &mut Chain) -> bool {
        let (begin, len) = (self.at + self.seen, self.input.bytes().len());
        if begin < len {
            self.visible = len.min(begin + INPUT_MAX);
            return true;
        }
        if inbox.is_empty() {
            return false;
        }
        if self.seen == 0 {
            let Some(buffer) = self.buffers.pop(inbox) else { return false };
            self.visible = buffer.filled().len().min(INPUT_MAX);
            self.input = Input::Buffer(buffer);
            (self.at, self.passed) = (0, 0..0);
            return true;
        }
        self.keep_apart();
        let Input::Held(held) = &mut self.input else { return false };
        let front = self.buffers.front(inbox);
        let len = front.len().min(INPUT_MAX);
        held.extend_from_slice(&front[..len]);
        self.buffers.advance(inbox, len);
        self.visible = held.len();
        true
    }

    /// Whether the plugin sees all of the input that this stage has.
    pub(super) fn shows_all(&self) -> bool {
        self.visible == self.input.bytes().len()
    }

    /// Whether no input is left to be consumed.
    pub(super) fn is_spent(&self) -> bool {
        self.at == self.input.bytes().len()
    }

    /// Begins a data call. Reservations are refused once `room` bytes wait in `out`.
    pub(super) fn begin(&mut self, room: usize) -> (*const u8, usize) {
        self.room = room;
        self.reserved = None;
        (self.lacked, self.lie) = (false, None);
        (self.consumed, self.produced) = (0, 0);
        let at = self.at;
        let visible = &self.input.bytes_mut()[at..self.visible];
        (visible.as_ptr(), visible.len())
    }

    /// Ends it.
    pub(super) fn finish(&mut self) -> Outcome {
        self.reserved = None;
        let left = self.visible - self.at;
        self.seen = left;
        Outcome { lacked: self.lacked, lie: self.lie.take(), consumed: self.consumed, produced: self.produced, left }
    }

    /// A function was called with what it must not be called with.
    pub(super) fn fail(&mut self, lie: Lie) {
        self.reserved = None;
        self.lie.get_or_insert(lie);
    }

    /// Whether `n` more bytes of the input may be consumed.
    fn may_consume(&mut self, n: usize, verb: &'static str) -> bool {
        let left = self.visible - self.at;
        if self.lie.is_none() && n > left {
            self.fail(Lie::Consumed { verb, n, left });
        }
        self.lie.is_none()
    }

    pub(super) fn pass(&mut self, n: usize) {
        if self.may_consume(n, "pass") {
            self.take(n);
        }
    }

    pub(super) fn drop(&mut self, n: usize) {
        if self.may_consume(n, "drop") {
            self.at += n;
            self.consumed += n;
        }
    }

    pub(super) fn rewrite(&mut self, n: usize) -> *mut u8 {
        if !self.may_consume(n, "rewrite") {
            return std::ptr::null_mut();
        }
        self.take(n);
        let end = self.at;
        self.input.bytes_mut()[end - n..end].as_mut_ptr()
    }

    pub(super) fn reserve(&mut self, n: usize) -> *mut u8 {
        self.reserved = None;
        if n > RESERVE_MAX {
            self.fail(Lie::Reserved { n });
        }
        if self.lie.is_some() {
            return std::ptr::null_mut();
        }
        if self.waiting() >= self.room || !self.flush() || !self.open_with(n) {
            self.lacked = true;
            return std::ptr::null_mut();
        }
        self.reserved = Some(n);
        self.open.as_mut().map_or(std::ptr::null_mut(), |open| open.spare().as_mut_ptr())
    }

    pub(super) fn commit(&mut self, n: usize) {
        if self.lie.is_some() {
            return;
        }
        match (self.reserved.take(), &mut self.open) {
            (Some(reserved), Some(open)) if n <= reserved => {
                open.commit(n);
                self.produced += n;
            }
            (reserved, _) => self.fail(Lie::Committed { n, reserved }),
        }
    }

    /// Consumes `n` bytes, which are there, as passed.
    fn take(&mut self, n: usize) {
        self.reserved = None;
        let (at, passed) = (self.at, self.passed.clone());
        if passed.end < at && !passed.is_empty() {
            // Something was dropped between: close the gap, so that what was passed is one part.
            if passed.len() <= SHORT || !self.flush() {
                let passed = self.passed.clone();
                let start = at - passed.len();
                self.input.bytes_mut().copy_within(passed, start);
                self.passed = start..at;
            }
        }
        if self.passed.is_empty() {
            self.passed = at..at;
        }
        self.at += n;
        self.passed.end = self.at;
        self.consumed += n;
        self.produced += n;
    }

    /// Makes `open` a buffer with `n` bytes of room.
    pub(super) fn open_with(&mut self, n: usize) -> bool {
        if self.open.as_mut().is_some_and(|open| open.spare().len() >= n.max(1)) {
            return true;
        }
        self.close();
        self.open = self.buffers.take();
        self.open.is_some()
    }

    /// Bytes of input that the plugin has seen and not consumed.
    pub(super) fn held_back(&self) -> usize {
        self.seen
    }

    /// Bytes of output.
    pub(super) fn waiting(&self) -> usize {
        self.out.len() + self.open.as_ref().map_or(0, |open| open.filled().len())
    }

    /// Moves `open` into `out`.
    pub(super) fn close(&mut self) {
        if let Some(open) = self.open.take() {
            self.buffers.push(&mut self.out, open);
        }
    }

    /// Brings what was passed out of the input; false where buffers lack, and the rest stays.
    fn flush(&mut self) -> bool {
        let fits = |open: &mut Buffer| open.spare().len() >= self.passed.len();
        let is_small = self.passed.len() <= SMALL && self.open.as_mut().is_some_and(fits);
        if let Input::Buffer(buffer) = &self.input
            && self.passed.end == buffer.filled().len()
            && !self.passed.is_empty()
            && !is_small
        {
            // Nothing is behind it: the buffer itself goes.
            self.close();
            if let Input::Buffer(mut buffer) = std::mem::replace(&mut self.input, Input::None) {
                buffer.advance(self.passed.start);
                self.buffers.push(&mut self.out, buffer);
            }
            (self.at, self.visible, self.seen, self.passed) = (0, 0, 0, 0..0);
            return true;
        }
        while !self.passed.is_empty() {
            if !self.open_with(1) {
                return false;
            }
            let Some(open) = &mut self.open else { return false };
            self.passed.start += open.extend(&self.input.bytes()[self.passed.clone()]);
        }
        true
    }

    /// Between calls: brings what was passed out of the input, and keeps what was not consumed. False where buffers lack.
    pub(super) fn settle(&mut self) -> bool {
        let is_spent = self.is_spent();
        if let Input::Buffer(buffer) = &mut self.input
            && is_spent
        {
            // What was dropped at the end does not make a copy.
            buffer.truncate(self.passed.end);
            (self.at, self.visible) = (self.passed.end, self.passed.end);
        }
        let splits = !is_spent && !self.passed.is_empty();
        if let Input::Buffer(buffer) = &mut self.input
            && splits
        {
            let left = buffer.filled().len() - self.at;
            if left <= self.passed.len() || !self.flush() {
                self.split_off_rest();
                return true;
            }
        }
        let is_out = self.flush();
        if is_out {
            self.forget_consumed();
        }
        is_out
    }

    /// As [`Work::settle`], and what is left keeps no buffer of the shard from others.
    pub(super) fn rest(&mut self) -> bool {
        let is_out = self.settle();
        if is_out {
            self.keep_apart();
        }
        is_out
    }

    /// Consumes all input, whether or not the plugin saw it, as passed.
    pub(super) fn pass_rest(&mut self) {
        self.visible = self.input.bytes().len();
        self.take(self.visible - self.at);
        self.seen = 0;
    }

    /// Drops all input that was not consumed.
    pub(super) fn drop_rest(&mut self) {
        self.at = self.input.bytes().len();
        (self.visible, self.seen) = (self.at, 0);
    }

    /// The rest of a buffer goes into a vector, and the buffer, cut to what was passed, goes out.
    fn split_off_rest(&mut self) {
        self.close();
        let Input::Buffer(mut buffer) = std::mem::replace(&mut self.input, Input::None) else { return };
        let mut held = self.spares.take();
        held.extend_from_slice(&buffer.filled()[self.at..]);
        buffer.truncate(self.passed.end);
        buffer.advance(self.passed.start);
        self.buffers.push(&mut self.out, buffer);
        self.input = Input::Held(held);
        self.visible -= self.at;
        (self.at, self.passed) = (0, 0..0);
    }

    /// Moves what is left of a buffer into a vector.
    fn keep_apart(&mut self) {
        if matches!(self.input, Input::Buffer(_)) {
            self.split_off_rest();
        }
    }

    /// Forgets the part of the input that was consumed, nothing of which is still to go out.
    fn forget_consumed(&mut self) {
        let at = std::mem::take(&mut self.at);
        self.visible -= at;
        self.passed = 0..0;
        match &mut self.input {
            Input::None => {}
            Input::Buffer(buffer) => buffer.advance(at),
            Input::Held(held) => drop(held.drain(..at)),
        }
        if self.input.bytes().is_empty() {
            (self.visible, self.seen) = (0, 0);
            if let Input::Held(held) = std::mem::replace(&mut self.input, Input::None) {
                self.spares.give_back(held);
            }
        }
    }
}

/// The connection has ended: what is in chains goes back to the pool; buffers do so by themselves.
impl Drop for Work {
    fn drop(&mut self) {
        self.buffers.release(std::mem::take(&mut self.out));
        if let Input::Held(held) = std::mem::replace(&mut self.input, Input::None) {
            self.spares.give_back(held);
        }
    }
}
