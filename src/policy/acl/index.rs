//! Where the rules are found that may hold for an ask: by destination first, then by user, group, source or port. Each place
//! keeps its rules in the order in which they count, so that a search stops at what is worse than it has already.
//!
//! The keys are the configuration's, and nobody from outside adds any; so their hash need not be a keyed one.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::IpAddr;

use ipnet::IpNet;

use super::pattern::{Pattern, glob};

/// Position of a rule in the order in which rules count, from 0.
pub(super) type Rank = u32;

/// What of a rule's conditions is known to hold, as it was found by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    ByUser,
    ByGroup,
    BySource,
    ByPort,
    Otherwise,
}

/// FNV-1a's idea in steps of eight bytes.
#[derive(Default)]
pub(super) struct Quick(u64);

impl Hasher for Quick {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(value.into());
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(value.into());
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    }
}

type Map<K, V> = HashMap<K, V, BuildHasherDefault<Quick>>;

/// Values by network, of which several may hold an address.
#[derive(Debug)]
pub(super) struct Prefixes<T> {
    v4: Map<(u8, u32), T>,
    v6: Map<(u8, u128), T>,
    /// Lengths that occur.
    v4_lengths: Vec<u8>,
    v6_lengths: Vec<u8>,
}

impl<T> Default for Prefixes<T> {
    fn default() -> Self {
        Self { v4: Map::default(), v6: Map::default(), v4_lengths: Vec::new(), v6_lengths: Vec::new() }
    }
}

impl<T: Default> Prefixes<T> {
    pub(super) fn entry(&mut self, net: &IpNet) -> &mut T {
        let length = net.prefix_len();
        match net {
            IpNet::V4(net) => {
                note(&mut self.v4_lengths, length);
                self.v4.entry((length, net.network().to_bits())).or_default()
            }
            IpNet::V6(net) => {
                note(&mut self.v6_lengths, length);
                self.v6.entry((length, net.network().to_bits())).or_default()
            }
        }
    }

    pub(super) fn each<'s>(&'s self, ip: IpAddr, mut found: impl FnMut(u8, &'s T)) {
        match ip {
            IpAddr::V4(ip) => {
                for length in &self.v4_lengths {
                    let bits = ip.to_bits() & u32::MAX.checked_shl(32 - u32::from(*length)).unwrap_or(0);
                    self.v4.get(&(*length, bits)).into_iter().for_each(|value| found(*length, value));
                }
            }
            IpAddr::V6(ip) => {
                for length in &self.v6_lengths {
                    let bits = ip.to_bits() & u128::MAX.checked_shl(128 - u32::from(*length)).unwrap_or(0);
                    self.v6.get(&(*length, bits)).into_iter().for_each(|value| found(*length, value));
                }
            }
        }
    }
}

fn note(lengths: &mut Vec<u8>, length: u8) {
    if !lengths.contains(&length) {
        lengths.push(length);
    }
}

/// The rules of one destination.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    rest: Vec<Rank>,
    who: Option<Box<Who>>,
}

#[derive(Debug, Default)]
struct Who {
    users: Map<Box<[u8]>, Vec<Rank>>,
    /// In lower case.
    groups: Map<Box<[u8]>, Vec<Rank>>,
    sources: Prefixes<Vec<Rank>>,
    ports: Map<u16, Vec<Rank>>,
}

/// So many rules are looked through as fast as one is found by its port; and most destinations have no more.
const FEW: usize = 8;

/// Who asks, and for which port.
#[derive(Clone, Copy)]
pub(super) struct Asker<'a> {
    pub(super) user: Option<&'a [u8]>,
    pub(super) groups: &'a [crate::types::Name],
    pub(super) source: Option<IpAddr>,
    pub(super) port: u16,
}

impl Bucket {
    // Ranks come in ascending order, and a rule may come twice.
    pub(super) fn add(&mut self, rank: Rank) {
        push(&mut self.rest, rank);
    }

    pub(super) fn add_user(&mut self, user: &str, rank: Rank) {
        push(self.who.get_or_insert_default().users.entry(user.as_bytes().into()).or_default(), rank);
    }

    pub(super) fn add_group(&mut self, group: &str, rank: Rank) {
        push(self.who.get_or_insert_default().groups.entry(group.as_bytes().into()).or_default(), rank);
    }

    pub(super) fn add_source(&mut self, net: &IpNet, rank: Rank) {
        push(self.who.get_or_insert_default().sources.entry(net), rank);
    }

    /// Whether further rules should be found by their ports.
    pub(super) fn has_many(&self) -> bool {
        self.rest.len() >= FEW
    }

    pub(super) fn add_port(&mut self, port: u16, rank: Rank) {
        push(self.who.get_or_insert_default().ports.entry(port).or_default(), rank);
    }

    /// Every list in which a rule for this asker can be.
    pub(super) fn each<'s>(&'s self, asker: Asker<'_>, mut found: impl FnMut(&'s [Rank], Found)) {
        found(&self.rest, Found::Otherwise);
        let Some(who) = &self.who else { return };
        if let Some(ranks) = asker.user.and_then(|user| who.users.get(user)) {
            found(ranks, Found::ByUser);
        }
        if !who.groups.is_empty() {
            for group in asker.groups {
                // No group of the configuration is longer.
                let mut folded = [0; 256];
                let Some(folded) = folded.get_mut(..group.len()) else { continue };
                folded.copy_from_slice(group.as_bytes());
                folded.make_ascii_lowercase();
                if let Some(ranks) = who.groups.get(&*folded) {
                    found(ranks, Found::ByGroup);
                }
            }
        }
        if let Some(source) = asker.source {
            who.sources.each(source, |_, ranks| found(ranks, Found::BySource));
        }
        if let Some(ranks) = who.ports.get(&asker.port) {
            found(ranks, Found::ByPort);
        }
    }
}

fn push(ranks: &mut Vec<Rank>, rank: Rank) {
    if ranks.last() != Some(&rank) {
        ranks.push(rank);
    }
}

/// What stands behind the `*` of a label, and what the labels before it are.
type Partial = (Box<[u8]>, Labels);

/// Patterns, label by label from the right.
#[derive(Debug, Default)]
pub(super) struct Labels {
    literal: Map<Box<[u8]>, Labels>,
    /// `*` alone.
    star: Option<Box<Labels>>,
    /// By what stands before the first `*`.
    partial: Map<Box<[u8]>, Vec<Partial>>,
    /// Lengths of the keys of `partial`.
    lengths: Vec<u8>,
    bucket: Bucket,
}

impl Labels {
    pub(super) fn entry(&mut self, pattern: &Pattern) -> &mut Bucket {
        let mut node = self;
        for label in pattern.as_str().rsplit('.').map(str::as_bytes) {
            node = match label.iter().position(|byte| *byte == b'*') {
                None => node.literal.entry(label.into()).or_default(),
                Some(0) if label.len() == 1 => node.star.get_or_insert_default(),
                Some(star) => {
                    note(&mut node.lengths, star as u8);
                    let list = node.partial.entry(label[..star].into()).or_default();
                    let at = list.iter().position(|(glob, _)| **glob == *label).unwrap_or_else(|| {
                        list.push((label.into(), Self::default()));
                        list.len() - 1
                    });
                    &mut list[at].1
                }
            };
        }
        &mut node.bucket
    }

    pub(super) fn each<'s>(&'s self, name: &str, found: &mut dyn FnMut(&'s Bucket)) {
        let (rest, label) = match name.rsplit_once('.') {
            Some((rest, label)) => (Some(rest), label.as_bytes()),
            None => (None, name.as_bytes()),
        };
        let mut follow = |node: &'s Self| match rest {
            Some(rest) => node.each(rest, found),
            None => found(&node.bucket),
        };
        self.literal.get(label).into_iter().for_each(&mut follow);
        self.star.as_deref().into_iter().for_each(&mut follow);
        for length in &self.lengths {
            let Some(list) = label.get(..usize::from(*length)).and_then(|begin| self.partial.get(begin)) else {
                continue;
            };
            list.iter().filter(|(pattern, _)| glob(pattern, label)).for_each(|(_, node)| follow(node));
        }
    }
}
