//! `[acl]`: where clients of SOCKS listeners may go.

use std::path::PathBuf;

use super::Place;
use crate::policy::acl::{Action, Rule};
use crate::types::Digest;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acl {
    /// What is done where no rule holds.
    pub default: Action,
    /// A file with more rules.
    pub file: Option<AclFile>,
    /// After a reload, live sessions that are now blocked are cut.
    pub reevaluate: bool,
    /// Those of the configuration, then those of the file.
    pub rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AclFile {
    /// Absolute.
    pub path: PathBuf,
    /// As the configuration says it, which is how messages call it.
    pub shown: String,
    pub at: Place,
    /// The text that its rules are from; `None` where it was not read.
    pub digest: Option<Digest>,
}
