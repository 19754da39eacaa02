//! Who may go where: the rules of `[acl]`, compiled.
//!
//! BLOCK comes before ALLOW at any priority, then the higher priority, then the order of the file; the first rule that
//! holds decides, and where none does, `default`. A name and every address of it are judged by themselves and then
//! together ([`Decision::and_address`]): a BLOCK of either blocks, else an ALLOW of either allows. Reserved destinations (loopback,
//! link-local, this machine's own addresses...) are blocked unless an ALLOW names them other than by `*`.
//!
//! Deciding allocates nothing and counts nothing: live traffic, `arus explain`, the API's test and re-evaluation all ask
//! the same [`Acl::decide`]. What live traffic decides it counts with [`Acl::count`].

mod index;
mod own;
mod pattern;
mod reserved;
mod rule;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::host::{self, Host};
use crate::types::{Name, Protocol};
use index::{Asker, Bucket, Found, Labels, Prefixes, Rank};
pub use own::Own;
pub use pattern::Pattern;
pub use rule::{Action, Conditions, Destination, Rule};

/// Places that one rule is filed in; one with more users, sources or ports for its destinations is found by destination only.
const PLACES_PER_RULE: usize = 256;

/// What a client wants.
#[derive(Debug, Clone)]
pub struct Ask<'a> {
    /// `None`: nobody had to prove anything.
    pub user: Option<&'a str>,
    pub groups: &'a [Name],
    /// `None`: a client of a unix socket, which is in no network.
    pub source: Option<IpAddr>,
    pub host: Host<'a>,
    pub port: u16,
    pub protocol: Protocol,
    pub listener: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// By its rank; whether its destination is named, rather than everywhere.
    Rule(Rank, bool),
    Reserved,
    Default,
}

/// What comes of an ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    pub action: Action,
    why: Why,
}

impl Decision {
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.action == Action::Allow
    }

    /// What comes of a name that has this address, where `self` is what was decided of the name.
    #[must_use]
    pub fn and_address(self, address: Self) -> Self {
        match (self.why, address.why) {
            (Why::Rule(..), _) if self.action == Action::Block => self,
            // A name of the machine itself may be gone to where its address may.
            (_, Why::Reserved) => address,
            (_, Why::Rule(..)) if address.action == Action::Block => address,
            (Why::Rule(..), _) => self,
            (Why::Reserved | Why::Default, Why::Rule(..)) => address,
            (Why::Reserved, Why::Default) => self,
            (Why::Default, Why::Default) => address,
        }
    }
}

/// A rule, and how often it has decided.
#[derive(Debug)]
struct Entry {
    rule: Rule,
    label: Name,
    hits: Arc<AtomicU64>,
}

/// Compiled rules.
#[derive(Debug)]
pub struct Acl {
    default: Action,
    /// Decisions of live traffic by [`Action`], whatever made them; since the start.
    decided: Arc<[AtomicU64; Action::ALL.len()]>,
    /// In the order in which they count.
    entries: Vec<Entry>,
    /// The first rank of an ALLOW.
    first_allow: Rank,
    anywhere: Bucket,
    nets: Prefixes<Bucket>,
    names: HashMap<Box<str>, Bucket>,
    patterns: Labels,
    own: Own,
}

impl Acl {
    /// `before` gives the counts of the rules that it had, too.
    #[must_use]
    pub fn compile(default: Action, rules: &[Rule], own: Own, before: Option<&Self>) -> Self {
        let mut order: Vec<&Rule> = rules.iter().collect();
        order.sort_by_key(|rule| (rule.action, std::cmp::Reverse(rule.priority)));
        let mut counts: HashMap<(Action, i32, &Conditions), Vec<&Arc<AtomicU64>>> = HashMap::new();
        for entry in before.map_or(&[][..], |before| &before.entries).iter().rev() {
            counts.entry(identity(&entry.rule)).or_default().push(&entry.hits);
        }
        let first_allow = order.partition_point(|rule| rule.action == Action::Block) as Rank;
        let mut acl = Self {
            default,
            decided: before.map_or_else(Arc::default, |before| Arc::clone(&before.decided)),
            entries: Vec::with_capacity(order.len()),
            first_allow,
            anywhere: Bucket::default(),
            nets: Prefixes::default(),
            names: HashMap::new(),
            patterns: Labels::default(),
            own,
        };
        for (rank, rule) in (0..).zip(order) {
            acl.file(rank, &rule.conditions);
            let hits = counts.get_mut(&identity(rule)).and_then(Vec::pop).map_or_else(Arc::default, Arc::clone);
            acl.entries.push(Entry { rule: rule.clone(), label: rule.label(), hits });
        }
        acl
    }

    fn file(&mut self, rank: Rank, conditions: &Conditions) {
        let everywhere = [Destination::Any];
        let destinations = conditions.destinations.as_deref().unwrap_or(&everywhere);
        let Conditions { users, groups, sources, ports, .. } = conditions;
        let fits = |length: usize| length * destinations.len() <= PLACES_PER_RULE;
        for destination in destinations {
            let bucket = match destination {
                Destination::Any => &mut self.anywhere,
                Destination::Net(net) => self.nets.entry(net),
                Destination::Name(name) => self.names.entry(name.as_ref().into()).or_default(),
                Destination::Pattern(pattern) => self.patterns.entry(pattern),
            };
            match (users, groups, sources) {
                (Some(users), _, _) if fits(users.len()) => users.iter().for_each(|user| bucket.add_user(user, rank)),
                (_, Some(groups), _) if fits(groups.len()) => {
                    groups.iter().for_each(|group| bucket.add_group(group, rank));
                }
                (_, _, Some(nets)) if fits(nets.len()) => nets.iter().for_each(|net| bucket.add_source(net, rank)),
                _ => match ports {
                    Some(ports) if bucket.has_many() && fits(ports.iter().map(ExactSizeIterator::len).sum()) => {
                        ports.iter().cloned().flatten().for_each(|port| bucket.add_port(port, rank));
                    }
                    _ => bucket.add(rank),
                },
            }
        }
    }

    /// Judges a name, or an address. An address that an IPv6 one leads to by a translator is judged too.
    #[must_use]
    pub fn decide(&self, ask: &Ask<'_>) -> Decision {
        match &ask.host {
            Host::Name(name) => self.of_name(ask, name),
            Host::Ip(ip) => {
                let ip = host::canonical(*ip);
                let decision = self.of_address(ask, ip);
                let Some(embedded) = host::embedded(ip).filter(|_| decision.is_allowed()) else { return decision };
                let embedded = self.of_address(ask, embedded.into());
                match embedded.why {
                    Why::Reserved => embedded,
                    Why::Rule(..) if embedded.action == Action::Block => embedded,
                    Why::Rule(..) | Why::Default => decision,
                }
            }
        }
    }

    fn of_name(&self, ask: &Ask<'_>, name: &str) -> Decision {
        let mut search = Search::new(self, ask);
        search.bucket(&self.anywhere, false);
        if let Some(bucket) = self.names.get(name) {
            search.bucket(bucket, true);
        }
        self.patterns.each(name, &mut |bucket| search.bucket(bucket, true));
        self.conclude(&search, reserved::is_reserved_name(name))
    }

    fn of_address(&self, ask: &Ask<'_>, ip: IpAddr) -> Decision {
        let mut search = Search::new(self, ask);
        search.bucket(&self.anywhere, false);
        // The whole of a family names nothing, as `*` does not.
        self.nets.each(ip, |length, bucket| search.bucket(bucket, length > 0));
        self.conclude(&search, reserved::is_reserved(ip) || self.own.has(ip, ask.port))
    }

    fn conclude(&self, search: &Search<'_>, is_reserved: bool) -> Decision {
        let best = search.named.min(search.everywhere);
        if best < self.first_allow {
            return Decision { action: Action::Block, why: Why::Rule(best, search.named == best) };
        }
        let allowed = if is_reserved { search.named } else { best };
        if allowed != NONE {
            return Decision { action: Action::Allow, why: Why::Rule(allowed, search.named == allowed) };
        }
        match is_reserved {
            true => Decision { action: Action::Block, why: Why::Reserved },
            false => Decision { action: self.default, why: Why::Default },
        }
    }

    /// The rule that decided; `None`: none did.
    #[must_use]
    pub fn rule(&self, decision: &Decision) -> Option<&Rule> {
        match decision.why {
            Why::Rule(rank, _) => self.entries.get(rank as usize).map(|entry| &entry.rule),
            Why::Reserved | Why::Default => None,
        }
    }

    /// What logs and sessions call the reason for a decision: a rule by its description or place, or why it was none.
    #[must_use]
    pub fn label(&self, decision: &Decision) -> Option<Name> {
        match decision.why {
            Why::Rule(rank, _) => self.entries.get(rank as usize).map(|entry| Name::clone(&entry.label)),
            Why::Reserved | Why::Default => None,
        }
    }

    /// Why it was decided so, in words, where no rule did.
    #[must_use]
    pub fn words(decision: &Decision) -> Option<&'static str> {
        match decision.why {
            Why::Rule(..) => None,
            Why::Reserved => Some("reserved destination"),
            Why::Default => Some("default"),
        }
    }

    /// Counts a decision of live traffic.
    pub fn count(&self, decision: &Decision) {
        self.decided[decision.action as usize].fetch_add(1, Ordering::Relaxed);
        if let Why::Rule(rank, _) = decision.why
            && let Some(entry) = self.entries.get(rank as usize)
        {
            entry.hits.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Decisions of live traffic so far, those by default included.
    #[must_use]
    pub fn decided(&self, action: Action) -> u64 {
        self.decided[action as usize].load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn default_action(&self) -> Action {
        self.default
    }

    /// Every rule with its hits, in the order in which they count.
    pub fn rules(&self) -> impl Iterator<Item = (&Rule, u64)> {
        self.entries.iter().map(|entry| (&entry.rule, entry.hits.load(Ordering::Relaxed)))
    }
}

/// What makes two rules of two configurations the same one.
fn identity(rule: &Rule) -> (Action, i32, &Conditions) {
    (rule.action, rule.priority, &rule.conditions)
}

const NONE: Rank = Rank::MAX;

/// The best ranks so far.
struct Search<'a> {
    acl: &'a Acl,
    ask: &'a Ask<'a>,
    asker: Asker<'a>,
    /// Of rules with a destination that names what is asked for.
    named: Rank,
    everywhere: Rank,
}

impl<'a> Search<'a> {
    fn new(acl: &'a Acl, ask: &'a Ask<'a>) -> Self {
        let asker = Asker { user: ask.user.map(str::as_bytes), groups: ask.groups, source: ask.source, port: ask.port };
        Self { acl, ask, asker, named: NONE, everywhere: NONE }
    }

    fn bucket(&mut self, bucket: &Bucket, is_named: bool) {
        let mut best = if is_named { self.named } else { self.everywhere };
        // A BLOCK decides by itself, wherever it stands.
        let blocked = self.named.min(self.everywhere) < self.acl.first_allow;
        let limit = if blocked { self.named.min(self.everywhere) } else { NONE };
        let (acl, ask) = (self.acl, self.ask);
        bucket.each(self.asker, |ranks, found| {
            let worse = |rank: &&Rank| **rank < best && **rank < limit;
            let first = ranks
                .iter()
                .take_while(worse)
                .find(|rank| acl.entries[**rank as usize].rule.conditions.hold(ask, found));
            if let Some(rank) = first {
                best = *rank;
            }
        });
        *(if is_named { &mut self.named } else { &mut self.everywhere }) = best;
    }
}

impl Conditions {
    /// All but the destination.
    fn hold(&self, ask: &Ask<'_>, found: Found) -> bool {
        let Self { users, groups, sources, destinations: _, ports, protocols, listeners } = self;
        fn any<T>(list: Option<&Vec<T>>, is_it: impl FnMut(&T) -> bool) -> bool {
            list.is_none_or(|list| list.iter().any(is_it))
        }
        (found == Found::ByPort || any(ports.as_ref(), |ports| ports.contains(&ask.port)))
            && any(protocols.as_ref(), |protocol| *protocol == ask.protocol)
            && (found == Found::ByUser || any(users.as_ref(), |user| Some(&**user) == ask.user))
            && (found == Found::BySource
                || any(sources.as_ref(), |net| ask.source.is_some_and(|source| net.contains(&source))))
            && (found == Found::ByGroup
                || any(groups.as_ref(), |group| ask.groups.iter().any(|of| of.eq_ignore_ascii_case(group))))
            && any(listeners.as_ref(), |listener| **listener == *ask.listener)
    }
}
