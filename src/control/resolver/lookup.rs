//! One lookup of a host name: /etc/hosts first, then DNS for both families at once.
//!
//! The files of the system are read again whenever they have changed.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hickory_resolver::config::{ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, Resolver, TokioResolver, system_conf};

use crate::control::watch::Stamp;

/// What one family has for a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::control) enum Family {
    /// Addresses, and how long they may be used; `None`: until the hosts file changes.
    Found(Vec<IpAddr>, Option<Duration>),
    /// The name has none: an answer too.
    Nothing,
    /// Nobody could say.
    Failed(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::control) struct Answer {
    pub v6: Family,
    pub v4: Family,
}

/// When one family has answered, how much longer the other may take.
const OTHER_FAMILY_PATIENCE: Duration = Duration::from_millis(500);

/// The system's ways to look a name up.
pub(in crate::control) struct System {
    hosts_path: PathBuf,
    servers: Servers,
    known: Mutex<Known>,
}

/// Who is asked.
pub(in crate::control) enum Servers {
    /// Those of this resolv.conf.
    ResolvConf(PathBuf),
    /// These.
    #[cfg(test)]
    Fixed(ResolverConfig),
}

/// What was last read from the files.
#[derive(Default)]
struct Known {
    hosts_stamp: Option<Stamp>,
    hosts: Hosts,
    servers_stamp: Option<Stamp>,
    /// `None`: not made yet, or not to be made from what the file says.
    resolver: Option<TokioResolver>,
    error: String,
}

impl System {
    pub(in crate::control) fn new(hosts_path: impl Into<PathBuf>, servers: Servers) -> Self {
        Self { hosts_path: hosts_path.into(), servers, known: Mutex::default() }
    }

    /// A name that ends in a dot is whole: no domain of resolv.conf's `search` is put behind it.
    pub(in crate::control) async fn look_up(&self, host: &str) -> Answer {
        // As the system's "files dns": a name in the hosts file is not asked of DNS, not even for the other family.
        if let Some(answer) = self.in_hosts(host.strip_suffix('.').unwrap_or(host)) {
            return answer;
        }
        let resolver = match self.resolver() {
            Ok(resolver) => resolver,
            Err(error) => return Answer { v6: Family::Failed(error.clone()), v4: Family::Failed(error) },
        };
        let v6 = family(&resolver, host, RecordType::AAAA);
        let v4 = family(&resolver, host, RecordType::A);
        tokio::pin!(v6, v4);
        let late = || Family::Failed("the answer is late".into());
        let patience = OTHER_FAMILY_PATIENCE;
        tokio::select! {
            v6 = &mut v6 => {
                let v4 = wait(v4, !matches!(v6, Family::Found(..)), patience).await.unwrap_or_else(late);
                Answer { v6, v4 }
            }
            v4 = &mut v4 => {
                let v6 = wait(v6, !matches!(v4, Family::Found(..)), patience).await.unwrap_or_else(late);
                Answer { v6, v4 }
            }
        }
    }

    fn in_hosts(&self, host: &str) -> Option<Answer> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = Stamp::of(&self.hosts_path);
        if known.hosts_stamp != stamp {
            known.hosts = Hosts::default();
            if let Err(error) = File::open(&self.hosts_path).and_then(|file| known.hosts.read_hosts_conf(file)) {
                tracing::debug!(path = %self.hosts_path.display(), %error, "the hosts file cannot be read");
            }
            known.hosts_stamp = stamp;
        }
        let name = Name::from_ascii(host).ok()?;
        let find = |record| {
            let lookup = known.hosts.lookup_static_host(&Query::query(name.clone(), record))?;
            let addresses: Vec<IpAddr> = lookup.answers().iter().filter_map(|record| record.data.ip_addr()).collect();
            (!addresses.is_empty()).then_some(Family::Found(addresses, None))
        };
        let (v6, v4) = (find(RecordType::AAAA), find(RecordType::A));
        if v6.is_some() || v4.is_some() {
            return Some(Answer { v6: v6.unwrap_or(Family::Nothing), v4: v4.unwrap_or(Family::Nothing) });
        }
        // RFC 6761 section 6.3: never asked of DNS.
        let is_localhost = host == "localhost" || host.ends_with(".localhost");
        let found = |address: IpAddr| Family::Found(vec![address], None);
        is_localhost.then(|| Answer { v6: found(Ipv6Addr::LOCALHOST.into()), v4: found(Ipv4Addr::LOCALHOST.into()) })
    }

    fn resolver(&self) -> Result<TokioResolver, String> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = match &self.servers {
            Servers::ResolvConf(path) => Stamp::of(path),
            #[cfg(test)]
            Servers::Fixed(_) => None,
        };
        if known.resolver.is_none() || known.servers_stamp != stamp {
            (known.resolver, known.error) =
                match self.servers.read().and_then(|(config, options)| build(config, options)) {
                    Ok(resolver) => (Some(resolver), String::new()),
                    Err(error) => (None, error),
                };
            known.servers_stamp = stamp;
        }
        known.resolver.clone().ok_or_else(|| known.error.clone())
    }
}

impl Servers {
    fn read(&self) -> Result<(ResolverConfig, ResolverOpts), String> {
        match self {
            Self::ResolvConf(path) => std::fs::read(path)
                .map_err(|error| error.to_string())
                .and_then(|text| system_conf::parse_resolv_conf(text).map_err(|error| error.to_string()))
                .map_err(|error| format!("{}: {error}", path.display())),
            #[cfg(test)]
            Self::Fixed(config) => Ok((config.clone(), ResolverOpts::default())),
        }
    }
}

fn build(config: ResolverConfig, mut options: ResolverOpts) -> Result<TokioResolver, String> {
    // TTLs are followed by the caller, within the bounds of the configuration.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    builder.build().map_err(|error| error.to_string())
}

async fn family(resolver: &TokioResolver, host: &str, record: RecordType) -> Family {
    match resolver.lookup(host, record).await {
        Ok(lookup) => {
            let found = lookup.answers().iter().filter_map(|record| Some((record.data.ip_addr()?, record.ttl)));
            let (addresses, ttls): (Vec<IpAddr>, Vec<u32>) = found.unzip();
            match ttls.into_iter().min() {
                Some(ttl) => Family::Found(addresses, Some(Duration::from_secs(u64::from(ttl)))),
                None => Family::Nothing,
            }
        }
        Err(error) if error.is_no_records_found() => Family::Nothing,
        Err(NetError::Timeout) => Family::Failed("no answer from the name servers".into()),
        Err(error) => Family::Failed(error.to_string()),
    }
}

/// Waits to the end if `is_needed`, else only for a while.
async fn wait<F: Future>(future: F, is_needed: bool, patience: Duration) -> Option<F::Output> {
    if is_needed { Some(future.await) } else { tokio::time::timeout(patience, future).await.ok() }
}
