//! The heart of the ring: submission, reaping, and what a completion does to its operation.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use super::buffer::Buffers;
use super::buffers::Pool;
use super::datagram::Mail;
use super::descriptor::Pins;
use super::missed::Doubts;
use super::operation::Vector;
use super::pipe::Pipes;
use super::slots::{ALARM, IGNORED, Operation, Owned, Slots, Token};
use super::timer::Wheel;
use super::{Features, Options};

/// Entries of the submission queue. More in one turn are submitted in between.
const SUBMISSIONS: u32 = 1024;
/// Completions taken per turn; the rest waits for the next, so that no turn grows without bound.
const COMPLETIONS_PER_TURN: usize = 512;
/// Buffer group of the shard's one pool.
const GROUP: u16 = 0;

/// State of one ring. All of it is used by one thread; no `RefCell` here is borrowed while other code runs.
pub(super) struct Core {
    // Never dropped before the operations are gone: see `Drop`.
    pub(super) uring: ManuallyDrop<RefCell<IoUring>>,
    pub(super) slots: ManuallyDrop<RefCell<Slots>>,
    pub(super) pool: ManuallyDrop<Buffers>,
    /// What datagrams need, once there is a socket for them.
    pub(super) mail: ManuallyDrop<RefCell<Option<Mail>>>,
    pub(super) wheel: RefCell<Wheel>,
    /// Spare memory of vectored sends, each where the kernel was told it is.
    #[expect(clippy::vec_box, reason = "a vector in flight must not move")]
    pub(super) vectors: RefCell<Vec<Box<Vector>>>,
    pub(super) pipes: RefCell<Pipes>,
    pub(super) pins: Pins,
    /// Receives that found no buffer, oldest first.
    pub(super) starved: RefCell<VecDeque<Token>>,
    pub(super) doubts: Doubts,
    reaped: RefCell<Vec<cqueue::Entry>>,
    /// The tick for which the kernel's one timer is set.
    alarm: Cell<Option<u64>>,
    alarm_after: Cell<types::Timespec>,
    pub(super) features: Features,
    epoch: Instant,
    now: Cell<Duration>,
    /// Counts whatever tasks do with the ring; the driver sleeps only when nothing was done.
    activity: Cell<u64>,
    /// Operations that the kernel has.
    in_flight: Cell<u32>,
    pub(super) counters: Counters,
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) completions: Cell<u64>,
    pub(super) enobufs: Cell<u64>,
    pub(super) overflows: Cell<u64>,
}

/// How long [`Core::enter`] may wait for a completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    No,
    Forever,
}

impl Core {
    pub(super) fn new(options: &Options, features: Features) -> io::Result<Rc<Self>> {
        let uring = setup(SUBMISSIONS.min(options.completions), options.completions)?;
        let mut pool = Pool::new(options.buffer_size, options.buffers, options.max_buffers, GROUP)?;
        let (address, entries, group) = pool.registration();
        // SAFETY: the ring's memory belongs to `pool`, which `Drop` keeps for as long as the kernel may look at it.
        unsafe { uring.submitter().register_buf_ring_with_flags(address, entries, group, 0) }?;
        pool.grow();
        let pins = Pins::new(&uring);
        Ok(Rc::new(Self {
            pins,
            uring: ManuallyDrop::new(RefCell::new(uring)),
            slots: ManuallyDrop::default(),
            pool: ManuallyDrop::new(Buffers::new(pool)),
            mail: ManuallyDrop::default(),
            wheel: RefCell::new(Wheel::new()),
            vectors: RefCell::default(),
            pipes: RefCell::default(),
            starved: RefCell::default(),
            doubts: Doubts::default(),
            reaped: RefCell::new(Vec::with_capacity(COMPLETIONS_PER_TURN)),
            alarm: Cell::default(),
            alarm_after: Cell::default(),
            features,
            epoch: Instant::now(),
            now: Cell::default(),
            activity: Cell::default(),
            in_flight: Cell::default(),
            counters: Counters::default(),
        }))
    }

    /// Time since the ring was made, as of this turn.
    pub(super) fn now(&self) -> Duration {
        self.now.get()
    }

    pub(super) fn epoch(&self) -> Instant {
        self.epoch
    }

    pub(super) fn update_clock(&self) {
        self.now.set(self.epoch.elapsed());
    }

    pub(super) fn note_activity(&self) {
        self.activity.set(self.activity.get().wrapping_add(1));
    }

    pub(super) fn activity(&self) -> u64 {
        self.activity.get()
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    /// Hands an operation to the kernel at the next [`Core::enter`].
    ///
    /// # Safety
    /// Memory and descriptor that the entry names stay valid until the final completion of `token`: they are owned by
    /// its slot (or are the pool's).
    pub(super) unsafe fn push(&self, entry: squeue::Entry, token: Token) {
        self.in_flight.set(self.in_flight.get() + 1);
        // SAFETY: passed on to the caller.
        unsafe { self.push_entry(&entry.user_data(token.user_data())) };
    }

    /// # Safety
    /// As [`Core::push`].
    unsafe fn push_entry(&self, entry: &squeue::Entry) {
        self.note_activity();
        loop {
            let mut uring = self.uring.borrow_mut();
            // SAFETY: passed on to the caller.
            if unsafe { uring.submission().push(entry) }.is_ok() {
                return;
            }
            // The queue is full: hand over what is there. Completions that this brings are reaped in their turn.
            if let Err(error) = uring.submit() {
                // EBUSY and EAGAIN mean that completions must be reaped first; anything else would repeat for ever.
                let retry = matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN | libc::EINTR));
                assert!(retry, "io_uring_enter: {error}");
                drop(uring);
                self.reap();
            }
        }
    }

    /// Asks the kernel to end an operation early. It still completes, if need be with ECANCELED.
    pub(super) fn cancel(&self, token: Token) {
        let entry = opcode::AsyncCancel::new(token.user_data()).build();
        let entry = entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(IGNORED);
        // SAFETY: a cancel names no memory.
        unsafe { self.push_entry(&entry) };
    }

    /// Sees to it that the thread wakes at `tick`, which lies `after` from now, or earlier. A timer that stays in the
    /// kernel costs a wait nothing; deadlines are mostly far away and seldom the next.
    pub(super) fn set_alarm(&self, tick: u64, after: Duration) {
        let set = self.alarm.get();
        if set.is_some_and(|set| set <= tick) {
            return;
        }
        self.alarm.set(Some(tick));
        self.alarm_after.set(types::Timespec::from(after));
        let entry = match set {
            None => opcode::Timeout::new(self.alarm_after.as_ptr()).build().user_data(ALARM),
            // One that has fired meanwhile has its completion on the way, and is set anew then.
            Some(_) => opcode::TimeoutUpdate::new(ALARM, self.alarm_after.as_ptr())
                .build()
                .flags(squeue::Flags::SKIP_SUCCESS)
                .user_data(IGNORED),
        };
        // SAFETY: the kernel copies the time when it takes the entry, at the next `enter`; it lies in the `Rc` of this core.
        unsafe { self.push_entry(&entry) };
    }

    /// Submits what was pushed, and waits. Returns whether there is anything to reap.
    pub(super) fn enter(&self, wait: Wait) -> io::Result<bool> {
        let mut uring = self.uring.borrow_mut();
        let result = match wait {
            // `want` of 0 runs deferred work only where the kernel says that there is some.
            Wait::No => uring.submit(),
            Wait::Forever => uring.submit_and_wait(1),
        };
        match result {
            Ok(_) => {}
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => {}
                _ => return Err(error),
            },
        }
        let mut completions = uring.completion();
        completions.sync();
        Ok(!completions.is_empty())
    }

    /// Whether completions or deferred work are there, without a system call.
    pub(super) fn is_ready(&self) -> bool {
        let mut uring = self.uring.borrow_mut();
        uring.submission().taskrun() || !uring.completion().is_empty()
    }

    /// Takes completions and wakes whom they concern. Returns how many there were.
    pub(super) fn reap(&self) -> usize {
        let mut reaped = self.reaped.take();
        {
            let mut uring = self.uring.borrow_mut();
            let overflows = u64::from(uring.completion().overflow());
            self.counters.overflows.set(overflows);
            reaped.extend(uring.completion().take(COMPLETIONS_PER_TURN));
        }
        for completion in &reaped {
            self.complete(completion);
        }
        let count = reaped.len();
        self.counters.completions.set(self.counters.completions.get() + count as u64);
        reaped.clear();
        self.reaped.replace(reaped);
        self.feed_starved();
        self.feed_intakes();
        count
    }

    fn complete(&self, completion: &cqueue::Entry) {
        match completion.user_data() {
            IGNORED => return,
            ALARM => return self.alarm.set(None),
            _ => {}
        }
        let token = Token::from_user_data(completion.user_data());
        let (result, flags) = (completion.result(), completion.flags());
        let last = !cqueue::more(flags);
        if last {
            self.in_flight.set(self.in_flight.get() - 1);
        }
        let mut slots = self.slots.borrow_mut();
        let waker = match slots.get(token) {
            Some(Operation::Single(single)) => {
                single.result = Some(result);
                if single.orphan {
                    let Operation::Single(single) = slots.remove(token) else { unreachable!("just matched") };
                    drop(slots);
                    self.reclaim(single.owned);
                    return;
                }
                // A send that is done needs its buffers no more, whoever looks at it and when.
                let partner = single.partner;
                if single.owned.is_sent_by(result) {
                    let owned = std::mem::replace(&mut single.owned, Owned::Nothing);
                    self.reclaim(owned);
                    single.waker.take()
                } else {
                    single.waker.take().or_else(|| match slots.get(partner) {
                        Some(Operation::Receive(receive)) => receive.waker.clone(),
                        _ => None,
                    })
                }
            }
            Some(Operation::Receive(receive)) => {
                let mut pool = self.pool.borrow_mut();
                if let (1.., Some(first)) = (result, cqueue::buffer_select(flags)) {
                    let received = pool.taken(first, result as u32);
                    pool.append(&mut receive.chain, received);
                    if !last {
                        self.doubts.note(token, receive, self.now.get());
                    }
                }
                if last {
                    receive.armed = false;
                    receive.pausing = false;
                    match -result {
                        // A result above 0 without F_MORE: the cap was reached, or the CQ was full.
                        ..0 | libc::ECANCELED => {}
                        libc::ENOBUFS => {
                            self.counters.enobufs.set(self.counters.enobufs.get() + 1);
                            if !receive.orphan {
                                receive.starved = true;
                                self.starved.borrow_mut().push_back(token);
                            }
                        }
                        _ => receive.ended = Some(result),
                    }
                }
                if receive.orphan {
                    pool.release(std::mem::take(&mut receive.chain));
                    if last {
                        drop(pool);
                        slots.remove(token);
                    }
                    return;
                }
                if let Some(waker) = &receive.waker {
                    waker.wake_by_ref();
                }
                None
            }
            Some(Operation::Accept(accept)) => {
                if result >= 0 {
                    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
                    let accepted = unsafe { OwnedFd::from_raw_fd(result) };
                    if !accept.orphan {
                        accept.accepted.push_back(accepted);
                    }
                } else if result != -libc::ECANCELED {
                    accept.error = Some(result);
                }
                if last {
                    accept.armed = false;
                    if accept.orphan {
                        slots.remove(token);
                        return;
                    }
                }
                if let Some(waker) = &accept.waker {
                    waker.wake_by_ref();
                }
                None
            }
            Some(Operation::Intake(_)) => {
                self.complete_intake(&mut slots, token, completion);
                None
            }
            Some(Operation::Letter(_)) => {
                self.complete_letter(&mut slots, token, result);
                None
            }
            Some(Operation::Vacant { .. }) | None => {
                debug_assert!(false, "completion of an operation that is gone");
                None
            }
        };
        drop(slots);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Gives back what a finished operation owned.
    pub(super) fn reclaim(&self, owned: Owned) {
        match owned {
            Owned::Buffer(chain) => self.pool.borrow_mut().release(chain),
            Owned::Vector(chain, vector) => {
                self.pool.borrow_mut().release(chain);
                self.spare(vector);
            }
            Owned::Nothing | Owned::Address { .. } | Owned::Bytes(_) | Owned::Word { .. } => {}
        }
    }

    pub(super) fn spare(&self, vector: Box<Vector>) {
        let mut vectors = self.vectors.borrow_mut();
        if vectors.len() < 64 {
            vectors.push(vector);
        }
    }

    /// Registers the buffer ring of a pool.
    ///
    /// # Safety
    /// The pool lives until the ring is gone.
    pub(super) unsafe fn provide(&self, pool: &Pool) -> io::Result<()> {
        let (address, entries, group) = pool.registration();
        // SAFETY: passed on to the caller.
        unsafe { self.uring.borrow().submitter().register_buf_ring_with_flags(address, entries, group, 0) }
    }

    /// Puts a descriptor, or -1 for none, into the ring's file table (IORING_REGISTER_FILES_UPDATE).
    pub(super) fn update_file_table(&self, index: u32, fd: RawFd) -> io::Result<()> {
        self.uring.borrow().submitter().register_files_update(index, &[fd]).map(drop)
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        if self.in_flight.get() > 0 {
            // The kernel ends operations of a closed ring at its leisure and may still write to buffers: the memory
            // stays. This happens only when a shard ends in disorder, as the process does then.
            return;
        }
        // SAFETY: nothing uses the ring after this; the kernel holds no operation and so none of our memory.
        unsafe { ManuallyDrop::drop(&mut self.uring) };
        // SAFETY: as above.
        unsafe { ManuallyDrop::drop(&mut self.slots) };
        // SAFETY: as above; the buffer ring went with the ring.
        unsafe { ManuallyDrop::drop(&mut self.pool) };
        // SAFETY: as above.
        unsafe { ManuallyDrop::drop(&mut self.mail) };
    }
}

/// Makes a ring for the calling thread alone (SINGLE_ISSUER, kernel 6.0), whose completions come only when asked for
/// (DEFER_TASKRUN, 6.1).
pub(super) fn setup(submissions: u32, completions: u32) -> io::Result<IoUring> {
    let base = || {
        let mut builder = IoUring::builder();
        builder
            .dontfork()
            .setup_clamp()
            .setup_cqsize(completions)
            .setup_submit_all()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag();
        builder
    };
    // NO_SQARRAY came with kernel 6.6.
    base().setup_no_sqarray().build(submissions).or_else(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => base().build(submissions),
        _ => Err(error),
    })
}
