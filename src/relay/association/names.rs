//! Names that a client sends datagrams to: what they resolve to, and the datagrams that wait until that is known.

use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::limits;
use crate::types::Dropped;

/// How long the addresses of a name are used before it is looked up again. The resolver keeps to TTLs; this only spares
/// asking it for each datagram.
const KEPT: Duration = Duration::from_secs(5);
/// How long a name that has no address is not looked up again.
const KEPT_WITHOUT: Duration = Duration::from_secs(2);

pub(super) struct Names<L> {
    known: HashMap<Rc<str>, Entry>,
    lookups: Vec<(Rc<str>, L)>,
    /// Bytes and number of the datagrams that wait.
    waiting_bytes: usize,
    waiting: usize,
    /// Counts uses.
    clock: u64,
}

struct Entry {
    /// Rules, port and what they said of the name.
    verdict: (u64, u16, bool),
    state: State,
    used: u64,
}

enum State {
    LookingUp(Vec<(u16, Box<[u8]>)>),
    Known { addresses: Rc<[IpAddr]>, until: Duration },
}

/// What to do with a datagram for a name.
pub(super) enum Next {
    Denied,
    Known(Rc<str>, Rc<[IpAddr]>),
    /// It has to wait: [`Names::wait`].
    LookUp,
    /// Too many wait already.
    Full,
}

/// A name that was looked up, and what waited for it.
pub(super) struct Ready {
    pub(super) name: Rc<str>,
    pub(super) addresses: Rc<[IpAddr]>,
    pub(super) waiting: Vec<(u16, Box<[u8]>)>,
}

impl<L> Default for Names<L> {
    fn default() -> Self {
        Self { known: HashMap::new(), lookups: Vec::new(), waiting_bytes: 0, waiting: 0, clock: 0 }
    }
}

impl<L: Future<Output = Vec<IpAddr>> + Unpin> Names<L> {
    /// What is known of a name. `allows` is asked once for each edition of the rules and change of port.
    pub(super) fn find(
        &mut self,
        name: &str,
        port: u16,
        edition: u64,
        now: Duration,
        allows: impl FnOnce() -> bool,
    ) -> Next {
        self.clock += 1;
        let Some((key, _)) = self.known.get_key_value(name) else {
            return if allows() { Next::LookUp } else { Next::Denied };
        };
        let key = Rc::clone(key);
        let Some(entry) = self.known.get_mut(name) else { return Next::Full };
        entry.used = self.clock;
        if (entry.verdict.0, entry.verdict.1) != (edition, port) {
            entry.verdict = (edition, port, allows());
        }
        if !entry.verdict.2 {
            return Next::Denied;
        }
        match &entry.state {
            State::Known { addresses, until } if now < *until => Next::Known(key, Rc::clone(addresses)),
            State::Known { .. } | State::LookingUp(_) => Next::LookUp,
        }
    }

    /// Keeps a datagram until its name is looked up, which begins now unless it has begun.
    pub(super) fn wait(
        &mut self,
        name: &str,
        port: u16,
        payload: &[u8],
        look_up: impl FnOnce() -> L,
    ) -> Result<(), Dropped> {
        let too_many =
            self.waiting >= limits::UDP_WAITING || self.waiting_bytes + payload.len() > limits::UDP_WAITING_BYTES;
        if too_many {
            return Err(Dropped::Waiting);
        }
        let is_begun = self.known.get(name).is_some_and(|entry| matches!(entry.state, State::LookingUp(_)));
        if !is_begun {
            if self.lookups.len() >= limits::UDP_LOOKUPS {
                return Err(Dropped::Waiting);
            }
            self.make_room(name);
            let key: Rc<str> = Rc::from(name);
            let (state, used) = (State::LookingUp(Vec::new()), self.clock);
            // No rules are of edition 0: the verdict is asked for again.
            self.known.insert(Rc::clone(&key), Entry { verdict: (0, 0, false), state, used });
            self.lookups.push((key, look_up()));
        }
        if let Some(Entry { state: State::LookingUp(waiting), .. }) = self.known.get_mut(name) {
            self.waiting += 1;
            self.waiting_bytes += payload.len();
            waiting.push((port, payload.into()));
        }
        Ok(())
    }

    /// The next name that was looked up.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, now: Duration) -> Poll<Ready> {
        for index in 0..self.lookups.len() {
            let Poll::Ready(addresses) = Pin::new(&mut self.lookups[index].1).poll(context) else { continue };
            let (name, _) = self.lookups.swap_remove(index);
            let addresses: Rc<[IpAddr]> = addresses.into();
            let until = now + if addresses.is_empty() { KEPT_WITHOUT } else { KEPT };
            let Some(entry) = self.known.get_mut(&name) else { continue };
            let state = std::mem::replace(&mut entry.state, State::Known { addresses: Rc::clone(&addresses), until });
            let State::LookingUp(waiting) = state else { continue };
            self.waiting -= waiting.len();
            self.waiting_bytes -= waiting.iter().map(|(_, payload)| payload.len()).sum::<usize>();
            return Poll::Ready(Ready { name, addresses, waiting });
        }
        Poll::Pending
    }

    /// Forgets the name that was used longest ago where there are many. Those that are being looked up stay, and are
    /// few.
    fn make_room(&mut self, name: &str) {
        if self.known.len() < limits::UDP_NAMES || self.known.contains_key(name) {
            return;
        }
        let settled = self.known.iter().filter(|(_, entry)| matches!(entry.state, State::Known { .. }));
        if let Some(oldest) = settled.min_by_key(|(_, entry)| entry.used).map(|(name, _)| Rc::clone(name)) {
            self.known.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{Pending, Ready as Done, pending, ready};
    use std::task::Waker;

    const NOW: Duration = Duration::from_secs(100);

    #[test]
    fn what_waits_is_bounded_in_number_bytes_and_lookups() {
        let mut names: Names<Pending<Vec<IpAddr>>> = Names::default();
        for number in 0..limits::UDP_LOOKUPS {
            assert!(names.wait(&format!("h{number}"), 1, &[], pending).is_ok());
        }
        assert_eq!(names.wait("one.more", 1, &[], pending), Err(Dropped::Waiting));
        while names.waiting < limits::UDP_WAITING {
            assert!(names.wait("h0", 1, &[], pending).is_ok());
        }
        assert_eq!(names.wait("h0", 1, &[], pending), Err(Dropped::Waiting));

        let mut names: Names<Pending<Vec<IpAddr>>> = Names::default();
        let large = vec![0; limits::UDP_WAITING_BYTES];
        assert!(names.wait("h", 1, &large, pending).is_ok());
        assert_eq!(names.wait("h", 1, &[1], pending), Err(Dropped::Waiting));
        assert_eq!(names.lookups.len(), 1);
    }

    #[test]
    fn names_are_kept_for_a_while_and_are_bounded() {
        let mut names: Names<Done<Vec<IpAddr>>> = Names::default();
        let context = &mut Context::from_waker(Waker::noop());
        let ip: IpAddr = "192.0.2.1".parse().expect("an address");
        for number in 0..3 * limits::UDP_NAMES {
            let name = format!("h{number}.example");
            assert!(matches!(names.find(&name, 9, 1, NOW, || true), Next::LookUp));
            assert!(names.wait(&name, 9, b"x", || ready(vec![ip])).is_ok());
            let Poll::Ready(done) = names.poll(context, NOW) else { panic!("it is ready") };
            assert_eq!((&*done.name, &*done.addresses, done.waiting.len()), (&*name, &[ip][..], 1));
            assert!(names.known.len() <= limits::UDP_NAMES);
            assert!(matches!(names.find(&name, 9, 1, NOW, || true), Next::Known(..)));
        }
        assert_eq!((names.waiting, names.waiting_bytes), (0, 0));
        let last = format!("h{}.example", 3 * limits::UDP_NAMES - 1);
        // Asked once for each edition and port.
        let known = |next| matches!(next, Next::Known(..));
        assert!(known(names.find(&last, 9, 1, NOW, || panic!("asked twice"))));
        assert!(matches!(names.find(&last, 9, 2, NOW, || false), Next::Denied));
        assert!(matches!(names.find(&last, 9, 2, NOW, || panic!("asked twice")), Next::Denied));
        assert!(known(names.find(&last, 10, 2, NOW, || true)));
        assert!(matches!(names.find(&last, 10, 2, NOW + KEPT, || true), Next::LookUp));
    }
}
