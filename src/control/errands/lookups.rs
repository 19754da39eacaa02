//! Names that clients ask for: looked up once for all who want the same at the same time, and remembered as long as the
//! answer says, within bounds.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::control::resolver::{Family, System, order};
use crate::control::turns::{Limits, Turns};
use crate::net;
use crate::policy::banned::Source;
use crate::types::Name;

/// Names that are remembered.
const NAMES: usize = 10_000;
/// Whoever asked has given up after ten seconds, if nothing else is configured.
const TURNS: Limits =
    Limits { all: 256, one: 64, all_waiting: 8192, one_waiting: 512, patience: Duration::from_secs(10) };
/// How long an answer may be used, whatever it says of itself.
const KEPT: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);
/// How long it is remembered that a name has no address, or that nobody could say.
const KEPT_NOTHING: Duration = Duration::from_secs(2);

type Addresses = Arc<[IpAddr]>;

pub(super) struct Lookups {
    system: System,
    names: Mutex<HashMap<Name, Entry>>,
    turns: Arc<Turns>,
}

enum Entry {
    Known { addresses: Addresses, until: Instant },
    Asked(watch::Receiver<Option<Addresses>>),
}

impl Lookups {
    pub(super) fn new(system: System) -> Self {
        Self { system, names: Mutex::default(), turns: Turns::new(TURNS) }
    }

    /// What is remembered of a name.
    pub(super) fn known(&self, host: &str) -> Option<Addresses> {
        match self.names().get(host) {
            Some(Entry::Known { addresses, until }) if *until > Instant::now() => Some(Arc::clone(addresses)),
            _ => None,
        }
    }

    /// The addresses of a name in the order in which to try them; none where it has none, or nobody could say. `source`
    /// is who wants to know.
    pub(super) async fn look_up(&self, host: Name, source: Option<Source>) -> Addresses {
        // Before anybody joins: else a name that waits for its turn would wait for those whom it is not the turn of.
        let Some(_turn) = self.turns.take(source).await else { return Addresses::default() };
        if let Some(addresses) = self.known(&host) {
            return addresses;
        }
        let answer = match self.join(&host) {
            Ok(mut asked) => {
                let answer = asked.wait_for(Option::is_some).await;
                return answer.ok().and_then(|answer| answer.clone()).unwrap_or_default();
            }
            Err(answer) => answer,
        };
        let flight = Flight { lookups: self, host };
        let (addresses, kept) = self.ask(&flight.host).await;
        flight.land(Arc::clone(&addresses), kept);
        let _ = answer.send(Some(Arc::clone(&addresses)));
        addresses
    }

    /// The answer that somebody else waits for already, or else where to put it.
    fn join(&self, host: &Name) -> Result<watch::Receiver<Option<Addresses>>, watch::Sender<Option<Addresses>>> {
        let mut names = self.names();
        if let Some(Entry::Asked(asked)) = names.get(host) {
            return Ok(asked.clone());
        }
        if names.len() >= NAMES {
            let now = Instant::now();
            names.retain(|_, entry| !matches!(entry, Entry::Known { until, .. } if *until <= now));
        }
        if names.len() >= NAMES {
            // Whatever is forgotten is only asked again.
            names.retain(|_, entry| matches!(entry, Entry::Asked(_)));
        }
        let (answer, asked) = watch::channel(None);
        names.insert(Name::clone(host), Entry::Asked(asked));
        Err(answer)
    }

    async fn ask(&self, host: &str) -> (Addresses, Duration) {
        let answer = self.system.look_up(host).await;
        let mut kept: Option<Duration> = None;
        let mut found = |family: Family| match family {
            Family::Found(addresses, valid) => {
                let valid = valid.unwrap_or(*KEPT.start()).clamp(*KEPT.start(), *KEPT.end());
                kept = Some(kept.map_or(valid, |kept| kept.min(valid)));
                addresses
            }
            Family::Nothing => Vec::new(),
            Family::Failed(error) => {
                tracing::debug!(host, error, "a name that a client asked for does not resolve");
                Vec::new()
            }
        };
        let (v6, v4) = (found(answer.v6), found(answer.v4));
        let addresses = order::order(&v6, &v4, net::is_routed);
        (addresses.into(), kept.unwrap_or(KEPT_NOTHING))
    }

    fn names(&self) -> std::sync::MutexGuard<'_, HashMap<Name, Entry>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A look-up under way. One that is given up half way leaves nobody waiting.
struct Flight<'l> {
    lookups: &'l Lookups,
    host: Name,
}

impl Flight<'_> {
    fn land(self, addresses: Addresses, kept: Duration) {
        let entry = Entry::Known { addresses, until: Instant::now() + kept };
        self.lookups.names().insert(Name::clone(&self.host), entry);
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let mut names = self.lookups.names();
        if matches!(names.get(&self.host), Some(Entry::Asked(_))) {
            names.remove(&self.host);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::control::resolver::Servers;

    fn lookups(hosts: &std::path::Path) -> Lookups {
        Lookups::new(System::new(hosts, Servers::ResolvConf("/nonexistent".into())))
    }

    #[tokio::test]
    async fn answers_are_shared_and_remembered() {
        let hosts = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(hosts.path(), "192.0.2.1 one.example\n2001:db8::1 one.example\n").unwrap();
        let lookups = Arc::new(lookups(hosts.path()));
        assert_eq!(lookups.known("one.example"), None);
        let (a, b) =
            tokio::join!(lookups.look_up("one.example".into(), None), lookups.look_up("one.example".into(), None));
        assert_eq!((a.len(), &a), (2, &b));
        assert_eq!(lookups.known("one.example"), Some(a));
        assert!(lookups.look_up("two.example".into(), None).await.is_empty());
        assert!(lookups.known("two.example").unwrap().is_empty(), "that it has none is remembered too");
    }

    #[tokio::test]
    async fn a_look_up_that_is_given_up_keeps_nobody_waiting() {
        let hosts = tempfile::NamedTempFile::new().unwrap();
        let lookups = lookups(hosts.path());
        let answer = lookups.join(&"x.example".into()).unwrap_err();
        let waits = lookups.join(&"x.example".into()).unwrap();
        drop((Flight { lookups: &lookups, host: "x.example".into() }, answer));
        assert!(waits.has_changed().is_err());
        assert!(lookups.join(&"x.example".into()).is_err(), "the next one asks anew");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let hosts = tempfile::NamedTempFile::new().unwrap();
        let lookups = lookups(hosts.path());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for number in 0..NAMES + 10 {
                lookups.look_up(format!("n{number}.localhost").as_str().into(), None).await;
            }
        });
        assert!(lookups.names().len() <= NAMES);
    }
}
