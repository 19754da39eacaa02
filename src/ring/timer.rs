//! A hierarchical timer wheel: six levels of 64 slots, ticks of one millisecond. Setting, moving and removing a timer
//! costs a few memory writes, whatever their number; a timer never fires early.

use std::task::{Context, Poll, Waker};

const LEVELS: usize = 6;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// Ticks that the wheel spans, some two years; later deadlines are looked at again then.
const SPAN: u64 = 1 << (SLOT_BITS * LEVELS as u32);
const NIL: u32 = u32::MAX;

/// A timer in the wheel. Whoever holds it must give it back with [`Wheel::remove`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Key(u32);

#[derive(Debug)]
pub(super) struct Wheel {
    /// The tick up to which everything has fired.
    now: u64,
    levels: [Level; LEVELS],
    timers: Vec<Timer>,
    /// Head of the list of unused entries of `timers`.
    free: u32,
}

#[derive(Debug)]
struct Level {
    /// Bit per slot that holds a timer.
    occupied: u64,
    heads: [u32; SLOTS],
}

#[derive(Debug)]
struct Timer {
    deadline: u64,
    previous: u32,
    next: u32,
    place: Place,
    waker: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Unused,
    Fired,
    At { level: u8, slot: u8 },
}

impl Wheel {
    pub(super) fn new() -> Self {
        const EMPTY: Level = Level { occupied: 0, heads: [NIL; SLOTS] };
        Self { now: 0, levels: [EMPTY; LEVELS], timers: Vec::new(), free: NIL }
    }

    /// Sets a timer for `deadline`, a tick. One that lies in the past fires at the next [`Wheel::advance`].
    pub(super) fn insert(&mut self, deadline: u64) -> Key {
        let timer = Timer { deadline, previous: NIL, next: NIL, place: Place::Unused, waker: None };
        let index = if self.free == NIL {
            self.timers.push(timer);
            (self.timers.len() - 1) as u32
        } else {
            let index = self.free;
            self.free = self.timers[index as usize].next;
            self.timers[index as usize] = timer;
            index
        };
        self.link(index);
        Key(index)
    }

    pub(super) fn remove(&mut self, key: &Key) {
        self.unlink(key.0);
        let timer = &mut self.timers[key.0 as usize];
        timer.place = Place::Unused;
        timer.waker = None;
        timer.next = self.free;
        self.free = key.0;
    }

    /// Moves a timer, whether it has fired or not.
    pub(super) fn reset(&mut self, key: &Key, deadline: u64) {
        self.unlink(key.0);
        self.timers[key.0 as usize].deadline = deadline;
        self.link(key.0);
    }

    pub(super) fn poll(&mut self, key: &Key, context: &Context<'_>) -> Poll<()> {
        let timer = &mut self.timers[key.0 as usize];
        if timer.place == Place::Fired {
            return Poll::Ready(());
        }
        if !timer.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            timer.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }

    /// The tick at which [`Wheel::advance`] has work to do next: a timer's deadline or, for one that is far away,
    /// a moment before it.
    pub(super) fn next(&self) -> Option<u64> {
        (0..LEVELS).find_map(|level| self.next_of(level)).map(|(deadline, _)| deadline)
    }

    /// Fires every timer whose deadline is at or before `now`.
    pub(super) fn advance(&mut self, now: u64) {
        while let Some((level, (tick, slot))) =
            (0..LEVELS).find_map(|level| self.next_of(level).map(|next| (level, next)))
            && tick <= now
        {
            self.now = self.now.max(tick);
            let mut index = std::mem::replace(&mut self.levels[level].heads[slot], NIL);
            self.levels[level].occupied &= !(1 << slot);
            while index != NIL {
                let timer = &mut self.timers[index as usize];
                let next = timer.next;
                timer.previous = NIL;
                timer.next = NIL;
                if timer.deadline <= tick {
                    timer.place = Place::Fired;
                    if let Some(waker) = timer.waker.take() {
                        waker.wake();
                    }
                } else {
                    self.link(index);
                }
                index = next;
            }
        }
        self.now = self.now.max(now);
    }

    /// The first occupied slot of a level, and the tick at which it begins.
    fn next_of(&self, level: usize) -> Option<(u64, usize)> {
        let occupied = self.levels[level].occupied;
        if occupied == 0 {
            return None;
        }
        let shift = SLOT_BITS * level as u32;
        let current = (self.now >> shift) as u32 % SLOTS as u32;
        let slot = (occupied.rotate_right(current).trailing_zeros() + current) % SLOTS as u32;
        let round = self.now >> (shift + SLOT_BITS) << (shift + SLOT_BITS);
        let begin = round + (u64::from(slot) << shift);
        // A slot behind the current one belongs to the next round.
        let begin = if slot < current { begin + (1 << (shift + SLOT_BITS)) } else { begin };
        Some((begin.max(self.now), slot as usize))
    }

    fn link(&mut self, index: u32) {
        let deadline = self.timers[index as usize].deadline.clamp(self.now + 1, self.now + SPAN - 1);
        let level = ((63 - (self.now ^ deadline | (SLOTS as u64 - 1)).leading_zeros()) / SLOT_BITS) as usize;
        let level = level.min(LEVELS - 1);
        let slot = (deadline >> (SLOT_BITS * level as u32)) as usize % SLOTS;
        let head = std::mem::replace(&mut self.levels[level].heads[slot], index);
        self.levels[level].occupied |= 1 << slot;
        if head != NIL {
            self.timers[head as usize].previous = index;
        }
        let timer = &mut self.timers[index as usize];
        timer.previous = NIL;
        timer.next = head;
        timer.place = Place::At { level: level as u8, slot: slot as u8 };
    }

    fn unlink(&mut self, index: u32) {
        let Timer { previous, next, place, .. } = self.timers[index as usize];
        let Place::At { level, slot } = place else { return };
        if next != NIL {
            self.timers[next as usize].previous = previous;
        }
        if previous == NIL {
            let level = &mut self.levels[level as usize];
            level.heads[slot as usize] = next;
            if next == NIL {
                level.occupied &= !(1 << slot);
            }
        } else {
            self.timers[previous as usize].next = next;
        }
        self.timers[index as usize].place = Place::Fired;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn fired(wheel: &mut Wheel, key: &Key) -> bool {
        wheel.poll(key, &Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn fires_at_its_tick_and_not_before() {
        for start in [0u64, 1, 63, 64, 4095, 4096, 1 << 20, (1 << 24) - 1] {
            for delay in [1u64, 2, 63, 64, 65, 100, 4095, 4096, 5000, 300_000, 1 << 25] {
                let mut wheel = Wheel::new();
                wheel.advance(start);
                let key = wheel.insert(start + delay);
                wheel.advance(start + delay - 1);
                assert!(!fired(&mut wheel, &key), "{start}+{delay} fired early");
                assert!(wheel.next().unwrap() <= start + delay);
                wheel.advance(start + delay);
                assert!(fired(&mut wheel, &key), "{start}+{delay} did not fire");
                assert_eq!(wheel.next(), None);
            }
        }
    }

    #[test]
    fn sleeping_from_one_next_to_the_other_misses_nothing() {
        let mut wheel = Wheel::new();
        let mut now = 77;
        wheel.advance(now);
        let key = wheel.insert(1_000_000);
        let mut steps = 0;
        while !fired(&mut wheel, &key) {
            let next = wheel.next().unwrap();
            assert!(next > now, "no progress at {now}");
            now = next;
            wheel.advance(now);
            steps += 1;
        }
        assert_eq!(now, 1_000_000);
        assert!(steps <= LEVELS + 1, "{steps} wake-ups for one timer");
    }

    /// Against a sorted map as the model; the seed is in the message of a failure.
    #[test]
    fn behaves_as_a_sorted_map() {
        for seed in 1u64..=20 {
            let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let mut draw = |bound: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % bound
            };
            let mut wheel = Wheel::new();
            let mut model: BTreeMap<usize, (Key, u64)> = BTreeMap::new();
            let mut now = draw(1 << 30);
            wheel.advance(now);
            for step in 0..3000usize {
                match draw(10) {
                    0..=4 => {
                        let bits = 1 + draw(22);
                        let deadline = now + 1 + draw(1 << bits);
                        let key = wheel.insert(deadline);
                        model.insert(step, (key, deadline));
                    }
                    5 => {
                        if let Some((_, (key, _))) = model.pop_first() {
                            wheel.remove(&key);
                        }
                    }
                    6 => {
                        if let Some(mut entry) = model.last_entry() {
                            let deadline = now + 1 + draw(100_000);
                            wheel.reset(&entry.get().0, deadline);
                            entry.get_mut().1 = deadline;
                        }
                    }
                    _ => {
                        let bits = draw(16);
                        now += draw(1 << bits);
                        wheel.advance(now);
                        let due: Vec<usize> =
                            model.iter().filter(|(_, (_, at))| *at <= now).map(|(step, _)| *step).collect();
                        for (step, (key, at)) in &model {
                            assert_eq!(fired(&mut wheel, key), *at <= now, "seed {seed} step {step}");
                        }
                        for step in due {
                            let (key, _) = model.remove(&step).unwrap();
                            wheel.remove(&key);
                        }
                    }
                }
                let first = model.values().map(|(_, at)| *at).min();
                assert!(wheel.next().is_none() == first.is_none(), "seed {seed}");
                assert!(wheel.next() <= first, "seed {seed}");
            }
        }
    }
}
