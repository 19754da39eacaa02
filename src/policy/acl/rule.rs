//! One rule, as the configuration says it.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use ipnet::IpNet;

use super::pattern::Pattern;
use crate::types::{Name, Protocol};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// Comes before any ALLOW.
    Block,
    Allow,
}

impl Action {
    pub const ALL: [Self; 2] = [Self::Block, Self::Allow];

    /// As the configuration says it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Allow => "allow",
        }
    }
}

/// Where a rule lets go to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Destination {
    /// `*`: everywhere.
    Any,
    Net(IpNet),
    /// In its one form: lower case, no trailing dot.
    Name(Name),
    Pattern(Pattern),
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Net(net) if net.prefix_len() == net.max_prefix_len() => net.addr().fmt(f),
            Self::Net(net) => net.fmt(f),
            Self::Name(name) => f.write_str(name),
            Self::Pattern(pattern) => pattern.fmt(f),
        }
    }
}

/// A rule holds where each of its conditions does; `None`: no condition.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Conditions {
    pub users: Option<Vec<Name>>,
    /// In lower case: groups are told apart without regard to it.
    pub groups: Option<Vec<Name>>,
    pub sources: Option<Vec<IpNet>>,
    pub destinations: Option<Vec<Destination>>,
    pub ports: Option<Vec<RangeInclusive<u16>>>,
    pub protocols: Option<Vec<Protocol>>,
    pub listeners: Option<Vec<Name>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub action: Action,
    /// Higher first, among rules with the same action.
    pub priority: i32,
    pub description: Option<Name>,
    pub conditions: Conditions,
    /// The file that it stands in, as messages call it, and the line there, from 1.
    pub file: Arc<str>,
    pub line: u32,
}

impl Rule {
    /// What logs and sessions call it.
    #[must_use]
    pub fn label(&self) -> Name {
        match &self.description {
            Some(description) => Name::clone(description),
            None => self.at().into(),
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn at(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }
}
