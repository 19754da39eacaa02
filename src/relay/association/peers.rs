//! Whom a client has sent to: the only ones that may answer, and what was decided about them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;

use crate::limits;

/// The targets that a client has sent to last.
#[derive(Default)]
pub(super) struct Peers {
    known: HashMap<SocketAddr, Peer>,
    /// Counts uses.
    clock: u64,
}

struct Peer {
    /// The name by which the client knows it, if it said one.
    name: Option<Rc<str>>,
    /// The rules under which it was allowed.
    edition: u64,
    used: u64,
}

/// How an address stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It was not sent to, or that was forgotten.
    Unknown,
    /// It is allowed.
    Current,
    /// It was allowed by rules that have changed since, under this name.
    Stale(Option<Rc<str>>),
}

impl Peers {
    /// How an address stands as one to send to, named so.
    pub(super) fn standing(&self, target: SocketAddr, name: Option<&Rc<str>>, edition: u64) -> Standing {
        match self.known.get(&target) {
            // Rules see a name and an address that were said for the same peer as different things.
            Some(peer) if peer.name.as_ref() != name => Standing::Unknown,
            Some(peer) if peer.edition == edition => Standing::Current,
            Some(peer) => Standing::Stale(peer.name.clone()),
            None => Standing::Unknown,
        }
    }

    /// How an address stands as one that sends.
    pub(super) fn contacted(&mut self, from: SocketAddr, edition: u64) -> Standing {
        self.clock += 1;
        match self.known.get_mut(&from) {
            Some(peer) if peer.edition == edition => {
                peer.used = self.clock;
                Standing::Current
            }
            Some(peer) => Standing::Stale(peer.name.clone()),
            None => Standing::Unknown,
        }
    }

    /// Notes that the client sends to `target`, which is allowed. True where it was not known.
    pub(super) fn note(&mut self, target: SocketAddr, name: Option<&Rc<str>>, edition: u64) -> bool {
        self.clock += 1;
        let used = self.clock;
        if let Some(peer) = self.known.get_mut(&target) {
            if peer.name.as_ref() != name {
                peer.name = name.cloned();
            }
            (peer.edition, peer.used) = (edition, used);
            return false;
        }
        if self.known.len() >= limits::UDP_PEERS {
            self.forget_oldest();
        }
        self.known.insert(target, Peer { name: name.cloned(), edition, used });
        true
    }

    pub(super) fn forget(&mut self, target: SocketAddr) {
        self.known.remove(&target);
    }

    /// Forgets the eighth that was used longest ago: one look at all of them pays for many that come.
    fn forget_oldest(&mut self) {
        let mut uses: Vec<u64> = self.known.values().map(|peer| peer.used).collect();
        let count = (uses.len() / 8).max(1);
        let (_, &mut youngest, _) = uses.select_nth_unstable(count - 1);
        self.known.retain(|_, peer| peer.used > youngest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: usize) -> SocketAddr {
        (std::net::Ipv4Addr::from(0x0a00_0000 + number as u32), 53).into()
    }

    #[test]
    fn the_oldest_go_first_and_there_is_a_bound() {
        let mut peers = Peers::default();
        for number in 0..limits::UDP_PEERS {
            peers.note(address(number), None, 1);
        }
        // One that answers stays.
        assert_eq!(peers.contacted(address(0), 1), Standing::Current);
        for number in limits::UDP_PEERS..10 * limits::UDP_PEERS {
            peers.note(address(number), None, 1);
            assert!(peers.known.len() <= limits::UDP_PEERS);
            assert_eq!(peers.contacted(address(0), 1), Standing::Current);
        }
        assert_eq!(peers.contacted(address(1), 1), Standing::Unknown);
        assert_eq!(peers.contacted(address(10 * limits::UDP_PEERS - 1), 1), Standing::Current);
    }

    #[test]
    fn what_was_decided_under_other_rules_or_another_name_does_not_count() {
        let mut peers = Peers::default();
        let name: Rc<str> = Rc::from("host.example");
        peers.note(address(1), Some(&name), 1);
        assert_eq!(peers.standing(address(1), Some(&name), 1), Standing::Current);
        assert_eq!(peers.standing(address(1), None, 1), Standing::Unknown);
        assert_eq!(peers.standing(address(1), Some(&name), 2), Standing::Stale(Some(Rc::clone(&name))));
        assert_eq!(peers.contacted(address(1), 2), Standing::Stale(Some(name)));
        peers.forget(address(1));
        assert_eq!(peers.contacted(address(1), 2), Standing::Unknown);
    }
}
