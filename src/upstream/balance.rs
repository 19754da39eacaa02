//! Choosing a backend. Pure but for the atomics of `state`; allocates nothing per choice.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::atomic::Ordering;

use super::state::UpstreamState;
use crate::config::plan::{self, Balance};

/// Places in a round-robin sequence at most; heavier sets of weights are scaled down to it.
const SEQUENCE: usize = 8192;

/// What one shard needs to choose backends of one upstream.
#[derive(Debug)]
pub struct Picker {
    balance: Balance,
    primaries: Tier,
    backups: Tier,
}

/// Backends that are chosen among.
#[derive(Debug)]
struct Tier {
    members: Vec<Member>,
    /// Indices into `members`, each as often as its weight says, spread evenly.
    sequence: Vec<u16>,
}

#[derive(Debug)]
struct Member {
    /// In the plan's and the state's order.
    index: u16,
    weight: u16,
    hash: u64,
}

/// Result of [`Picker::choose`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// This backend, on which one connection is now counted.
    Backend(u16),
    /// Backends could be used, but each has all the connections it may have.
    Full,
    /// No backend can be used.
    None,
}

/// What a choice may depend on.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    pub source: Option<IpAddr>,
    /// Backends that failed this connection already.
    pub tried: &'a [u16],
    pub random: u64,
    /// [`crate::stats::clock_ms`].
    pub now_ms: u64,
}

impl Picker {
    #[must_use]
    pub fn new(upstream: &plan::Upstream) -> Self {
        let tier = |backup: bool| {
            let of_tier = upstream.backends.iter().enumerate().filter(|(_, backend)| backend.backup == backup);
            Tier::new(
                of_tier
                    .map(|(index, backend)| Member {
                        index: index as u16,
                        weight: backend.weight,
                        hash: stable_hash(&backend.address),
                    })
                    .collect(),
            )
        };
        Self { balance: upstream.balance, primaries: tier(false), backups: tier(true) }
    }

    /// Chooses a backend and takes one of its connections. Backups count only while no other backend can be used.
    /// Ejected backends are passed over unless all are ejected: then trying one beats refusing everybody.
    pub fn choose(&self, state: &UpstreamState, asker: &Asker<'_>) -> Choice {
        let turn = state.turn.fetch_add(1, Ordering::Relaxed) as usize;
        for ignore_ejection in [false, true] {
            for tier in [&self.primaries, &self.backups] {
                let usable = |member: &Member| {
                    let backend = &state.backends[usize::from(member.index)];
                    !asker.tried.contains(&member.index)
                        && (backend.is_usable(asker.now_ms) || (ignore_ejection && backend.is_usable(u64::MAX)))
                };
                match tier.choose(self.balance, state, asker, turn, usable) {
                    Choice::None => {}
                    choice => return choice,
                }
            }
        }
        Choice::None
    }
}

impl Tier {
    fn new(members: Vec<Member>) -> Self {
        let total: usize = members.iter().map(|member| usize::from(member.weight)).sum();
        let divisor = members.iter().fold(0, |divisor, member| gcd(divisor, usize::from(member.weight))).max(1);
        let scale = |weight: u16| match total / divisor {
            places if places <= SEQUENCE => usize::from(weight) / divisor,
            _ => (usize::from(weight) * SEQUENCE / total).max(1),
        };
        let weights: Vec<i64> = members.iter().map(|member| scale(member.weight) as i64).collect();
        Self { sequence: spread(&weights), members }
    }

    fn choose(
        &self,
        balance: Balance,
        state: &UpstreamState,
        asker: &Asker<'_>,
        turn: usize,
        usable: impl Fn(&Member) -> bool,
    ) -> Choice {
        if self.members.is_empty() {
            return Choice::None;
        }
        let mut choice = Choice::None;
        let take = |member: &Member, choice: &mut Choice| {
            let taken = state.backends[usize::from(member.index)].connections.take();
            *choice = if taken { Choice::Backend(member.index) } else { Choice::Full };
            taken
        };
        let used = |member: &Member| state.backends[usize::from(member.index)].connections.used();
        // a/weight < b/weight, without dividing.
        let emptier = |a: &Member, b: &Member| {
            u64::from(used(a)) * u64::from(b.weight) < u64::from(used(b)) * u64::from(a.weight)
        };
        match balance {
            Balance::RoundRobin => {
                self.from(turn).any(|member| usable(member) && take(member, &mut choice));
            }
            Balance::LeastConnections => {
                // Beginning elsewhere each time spreads ties; a full backend is passed over for the next best.
                let members = || self.members.iter().cycle().skip(turn % self.members.len()).take(self.members.len());
                let best = members()
                    .filter(|member| usable(member))
                    .reduce(|best, member| if emptier(member, best) { member } else { best });
                if let Some(best) = best
                    && !take(best, &mut choice)
                {
                    members().any(|member| usable(member) && take(member, &mut choice));
                }
            }
            Balance::Random => {
                let mut drawn = self.from(asker.random as usize).filter(|member| usable(member));
                let first = drawn.next();
                let second = self
                    .from((asker.random >> 32) as usize)
                    .find(|member| usable(member) && first.is_none_or(|first| first.index != member.index));
                let best = match (first, second) {
                    (Some(first), Some(second)) if emptier(second, first) => Some(second),
                    _ => first,
                };
                if let Some(best) = best
                    && !take(best, &mut choice)
                {
                    self.members.iter().any(|member| usable(member) && take(member, &mut choice));
                }
            }
            Balance::SourceHash => {
                let source = stable_hash(&asker.source);
                // Rendezvous hashing: highest score wins, and the loss of a backend moves only its own sources.
                let best = self
                    .members
                    .iter()
                    .filter(|member| usable(member))
                    .map(|member| (member, member.score(source)))
                    .max_by(|(_, a), (_, b)| a.total_cmp(b));
                if let Some((best, _)) = best {
                    take(best, &mut choice);
                }
            }
        }
        choice
    }

    /// The members in the order of the sequence, from a place in it; each at least once.
    fn from(&self, start: usize) -> impl Iterator<Item = &Member> {
        let len = self.sequence.len();
        let start = start % len;
        (start..start + len).map(move |place| &self.members[usize::from(self.sequence[place % len])])
    }
}

impl Member {
    /// Score of a backend for a source: weighted rendezvous hashing, `-weight / ln(h)` with `h` even in (0, 1).
    fn score(&self, source: u64) -> f64 {
        let mut mixed = source ^ self.hash;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let even = ((mixed >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        -f64::from(self.weight) / even.ln()
    }
}

/// Smooth weighted round robin (as nginx): each step every weight is added to its account and the fullest pays all.
fn spread(weights: &[i64]) -> Vec<u16> {
    let total: i64 = weights.iter().sum();
    let mut accounts = vec![0i64; weights.len()];
    (0..total)
        .map(|_| {
            let mut best = 0;
            for (index, weight) in weights.iter().enumerate() {
                accounts[index] += weight;
                if accounts[index] > accounts[best] {
                    best = index;
                }
            }
            accounts[best] -= total;
            best as u16
        })
        .collect()
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The same in every process and on every shard: std's SipHash with its fixed keys.
fn stable_hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::plan::{Address, Backend, OnDown, Resolve, SendProxy, Upstream};
    use crate::policy::budget::Budget;
    use crate::types::{Endpoint, UpstreamIndex};
    use crate::upstream::state::{BackendId, BackendState, Health};
    use std::collections::HashMap;
    use std::sync::Arc;
    use std::time::Duration;

    fn upstream(balance: Balance, backends: &[(u16, bool)], limit: u32) -> (Upstream, UpstreamState) {
        let backends: Vec<Backend> = backends
            .iter()
            .enumerate()
            .map(|(port, (weight, backup))| Backend {
                address: Address::Endpoint(Endpoint::Ip(([127, 0, 0, 1], 1000 + port as u16).into())),
                weight: *weight,
                backup: *backup,
            })
            .collect();
        let states = backends.iter().enumerate().map(|(id, backend)| {
            Arc::new(BackendState::new(BackendId(id as u32), "u".into(), backend.address.clone(), limit, 1))
        });
        let state = UpstreamState {
            name: "u".into(),
            backends: states.collect(),
            turn: Default::default(),
            waiting: Arc::new(Budget::new(0)),
        };
        let second = Duration::from_secs(1);
        let plan = Upstream {
            index: UpstreamIndex(0),
            name: "u".into(),
            backends,
            balance,
            retries: 2,
            source_address: None,
            warm: None,
            max_connections_per_backend: None,
            queue: None,
            on_down: OnDown::Keep,
            health: None,
            outlier: None,
            resolve: Resolve { ttl_min: second, ttl_max: second },
            send_proxy: SendProxy::Off,
            tls: None,
            line: 1,
        };
        (plan, state)
    }

    fn asker(n: u32) -> Asker<'static> {
        let random = u64::from(n).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Asker { source: Some(IpAddr::from(n.to_be_bytes())), tried: &[], random, now_ms: 5000 }
    }

    fn count(picker: &Picker, state: &UpstreamState, n: u32) -> HashMap<u16, u32> {
        let mut counts = HashMap::new();
        for i in 0..n {
            let Choice::Backend(index) = picker.choose(state, &asker(i)) else { panic!("no backend") };
            *counts.entry(index).or_default() += 1;
        }
        counts
    }

    #[test]
    fn round_robin_keeps_to_the_weights_exactly_and_spreads_them() {
        let (plan, state) = upstream(Balance::RoundRobin, &[(5, false), (1, false), (1, false), (9, true)], 1000);
        let picker = Picker::new(&plan);
        let order: Vec<_> = (0..7).map(|i| picker.choose(&state, &asker(i))).collect();
        assert_eq!(order[..3], [Choice::Backend(0), Choice::Backend(0), Choice::Backend(1)]);
        assert_eq!(count(&picker, &state, 70), HashMap::from([(0, 50), (1, 10), (2, 10)]));
    }

    #[test]
    fn passes_over_what_cannot_be_used_and_falls_back_to_backups() {
        for balance in [Balance::RoundRobin, Balance::LeastConnections, Balance::Random, Balance::SourceHash] {
            let (plan, state) = upstream(balance, &[(1, false), (1, false), (1, true)], 1000);
            let picker = Picker::new(&plan);
            state.backends[0].set_health(Health::Down);
            assert_eq!(count(&picker, &state, 20), HashMap::from([(1, 20)]), "{balance:?}");
            state.backends[1].set_drained(true);
            assert_eq!(count(&picker, &state, 20), HashMap::from([(2, 20)]), "{balance:?}");
            state.backends[2].set_health(Health::Down);
            assert_eq!(picker.choose(&state, &asker(1)), Choice::None, "{balance:?}");
        }
    }

    #[test]
    fn a_full_backend_is_passed_over_and_all_full_is_told() {
        for balance in [Balance::RoundRobin, Balance::LeastConnections, Balance::Random] {
            let (plan, state) = upstream(balance, &[(1, false), (3, false), (1, true)], 4);
            let picker = Picker::new(&plan);
            assert_eq!(count(&picker, &state, 8), HashMap::from([(0, 4), (1, 4)]), "{balance:?}");
            assert_eq!(picker.choose(&state, &asker(9)), Choice::Full, "{balance:?}");
        }
    }

    #[test]
    fn least_connections_levels() {
        let (plan, state) = upstream(Balance::LeastConnections, &[(1, false), (2, false)], 1000);
        let picker = Picker::new(&plan);
        (0..10).for_each(|_| assert!(state.backends[0].connections.take()));
        assert_eq!(count(&picker, &state, 20), HashMap::from([(1, 20)]));
    }

    #[test]
    fn source_hash_is_even_and_moves_only_the_sources_of_a_lost_backend() {
        let (plan, state) = upstream(Balance::SourceHash, &[(1, false), (1, false), (2, false)], u32::MAX);
        let picker = Picker::new(&plan);
        let choose = |n| match picker.choose(&state, &asker(n)) {
            Choice::Backend(index) => index,
            other => panic!("{other:?}"),
        };
        let before: Vec<u16> = (0..4000).map(choose).collect();
        let share = |index| before.iter().filter(|chosen| **chosen == index).count();
        assert!((800..1200).contains(&share(0)) && (1800..2200).contains(&share(2)), "{} {}", share(0), share(2));
        state.backends[1].set_health(Health::Down);
        for (n, was) in before.iter().enumerate() {
            let now = choose(n as u32);
            assert!(now == *was || *was == 1);
        }
    }

    #[test]
    fn ejection_counts_unless_all_are_ejected() {
        let (plan, state) = upstream(Balance::RoundRobin, &[(1, false), (1, false)], 1000);
        let picker = Picker::new(&plan);
        let outlier = Some(plan::Outlier { failures: 2, eject: Duration::from_secs(10) });
        assert!(!state.backends[0].connect_failed(5000, outlier));
        assert!(state.backends[0].connect_failed(5000, outlier));
        assert_eq!(count(&picker, &state, 10), HashMap::from([(1, 10)]));
        assert!(!state.backends[0].is_ejected(15_000));
        state.backends[1].connect_failed(5000, outlier);
        state.backends[1].connect_failed(5000, outlier);
        assert_eq!(count(&picker, &state, 10), HashMap::from([(0, 5), (1, 5)]));
    }

    #[test]
    fn extreme_weights_stay_bounded() {
        let many: Vec<(u16, bool)> = (0..1024).map(|i| (if i % 2 == 0 { 256 } else { 255 }, false)).collect();
        let (plan, _) = upstream(Balance::RoundRobin, &many, 1);
        assert!(Picker::new(&plan).primaries.sequence.len() <= SEQUENCE + 1024);
    }
}
