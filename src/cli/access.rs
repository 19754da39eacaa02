//! What `[acl]` says of where a client asks to go, by what decides for live traffic.

use std::fmt;

use serde::Serialize;

use crate::config::plan::{Listener, Plan};
use crate::net;
use crate::policy::acl::{Acl, Ask, Own};
use crate::policy::host::Host;
use crate::types::{Endpoint, Name, Protocol};

use super::explain::Args;

/// The decision. The field names are those of the JSON output.
#[derive(Debug, Serialize)]
pub(super) struct Access {
    user: Option<String>,
    groups: Vec<String>,
    target: String,
    #[serde(skip)]
    is_name: bool,
    protocol: &'static str,
    /// allow or block
    pub(super) decision: &'static str,
    /// The rule that decided; `None`: none did.
    rule: Option<String>,
    rule_at: Option<String>,
    /// Why, where no rule did.
    because: Option<&'static str>,
}

/// # Errors
/// When `to` is no target.
pub(super) fn access(plan: &Plan, listener: &Listener, to: &str, args: &Args) -> Result<Access, String> {
    let (host, port) = to.rsplit_once(':').ok_or_else(|| format!("--to {to}: HOST:PORT is wanted"))?;
    let port = port.parse().map_err(|_| format!("--to {to}: {port} is no port"))?;
    let host = Host::parse(host.as_bytes()).map_err(|malformed| format!("--to {to}: {malformed}"))?;
    let configured = plan.auth.groups_of(args.user.as_deref());
    let groups: Vec<Name> = match args.group.is_empty() {
        true => configured.to_vec(),
        false => args.group.iter().map(|group| group.as_str().into()).collect(),
    };
    let own = plan.listeners.iter().flat_map(|listener| &listener.listen).filter_map(|endpoint| match endpoint {
        Endpoint::Ip(address) => Some(*address),
        Endpoint::Unix(_) => None,
    });
    let own = own
        .chain(plan.admin.listen.as_ref().map(|listen| listen.address))
        .chain(plan.demo.as_ref().map(|demo| demo.hello));
    let addresses = net::own_addresses().map_err(|error| format!("the addresses of this machine: {error}"))?;
    let own = Own::new(addresses, own);
    let acl = Acl::compile(plan.acl.default, &plan.acl.rules, own, None);
    let protocol = if args.protocol == "udp" { Protocol::Udp } else { Protocol::Tcp };
    let target = match &host {
        Host::Ip(ip) => std::net::SocketAddr::new(*ip, port).to_string(),
        Host::Name(name) => format!("{name}:{port}"),
    };
    let is_name = matches!(host, Host::Name(_));
    let decision = acl.decide(&Ask {
        user: args.user.as_deref(),
        groups: &groups,
        source: args.source.map(|source| source.to_canonical()),
        host,
        port,
        protocol,
        listener: &listener.name,
    });
    let rule = acl.rule(&decision);
    Ok(Access {
        user: args.user.clone(),
        groups: groups.iter().map(ToString::to_string).collect(),
        target,
        is_name,
        protocol: protocol.label(),
        decision: decision.action.word(),
        rule: rule.and_then(|rule| rule.description.as_deref()).map(Into::into),
        rule_at: rule.map(crate::policy::acl::Rule::at),
        because: Acl::words(&decision),
    })
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups = if self.groups.is_empty() { String::new() } else { format!(" ({})", self.groups.join(", ")) };
        writeln!(f, "user       {}{}", self.user.as_deref().unwrap_or("none").escape_debug(), groups.escape_debug())?;
        writeln!(f, "target     {}, {}", self.target, self.protocol)?;
        if self.is_name {
            writeln!(
                f,
                "           (the name itself; a client's addresses of it are judged too, ask for them one by one)"
            )?;
        }
        match (&self.rule_at, self.because) {
            (Some(at), _) => {
                let description = self.rule.as_deref().map(|rule| format!(" {}", rule.escape_debug()));
                writeln!(f, "acl        {} by{} ({at})", self.decision, description.unwrap_or_else(|| " rule".into()))
            }
            (None, because) => writeln!(f, "acl        {} ({})", self.decision, because.unwrap_or_default()),
        }
    }
}
