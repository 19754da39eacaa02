//! `[auth]`: how clients of SOCKS listeners prove who they are.

use std::fmt;
use std::time::Duration;

use super::{PasswordHash, Place};
use crate::policy::identity::Attempt;
use crate::types::Name;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// At least one, none twice; the first that a client offers is used.
    pub methods: Vec<Method>,
    /// Where `methods` stands, or else the table.
    pub at: Place,
    /// Judges the client's address before the first byte of its dialogue.
    pub client_pam_service: Option<PamService>,
    pub pam_service: PamService,
    /// Adds the groups that the system has for a user.
    pub system_groups: bool,
    pub failures: Failures,
    pub users: Vec<User>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// Nobody has to prove anything.
    None,
    /// A password that the configuration knows.
    Password,
    /// A password that the system's PAM judges.
    Pam,
}

impl Method {
    pub const ALL: [Self; 3] = [Self::None, Self::Password, Self::Pam];

    /// As the configuration says it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Password => "password",
            Self::Pam => "pam",
        }
    }
}

/// A file in /etc/pam.d.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PamService {
    pub name: Name,
    pub at: Place,
}

/// When a source is banned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failures {
    /// 0: nobody ever is.
    pub limit: u32,
    pub window: Duration,
    pub ban: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: Name,
    /// `None`: known for its groups only; somebody else (PAM) checks its password.
    pub secret: Option<Secret>,
    pub groups: Vec<Name>,
    pub at: Place,
}

/// What a password is compared with. Debug shows nothing of it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Secret {
    Hash(PasswordHash),
    /// SHA-256 of a password that the file has in clear: it goes no further than the file.
    Plain([u8; 32]),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hash(_) => "Hash(..)",
            Self::Plain(_) => "Plain(..)",
        })
    }
}

impl Auth {
    /// The groups that the configuration gives a user.
    #[must_use]
    pub fn groups_of(&self, user: Option<&str>) -> &[Name] {
        let known = self.users.iter().find(|known| Some(&*known.name) == user);
        known.map_or(&[], |known| &known.groups)
    }

    /// Whether anything is to be asked of PAM.
    #[must_use]
    pub fn needs_pam(&self) -> bool {
        self.client_pam_service.is_some() || self.methods.contains(&Method::Pam)
    }

    /// Whether a client that offers no credentials may go on.
    #[must_use]
    pub fn admits_anybody(&self) -> bool {
        self.methods.contains(&Method::None)
    }

    /// Whether a client may send a user and a password.
    #[must_use]
    pub fn takes_passwords(&self) -> bool {
        self.methods.iter().any(|method| *method != Method::None)
    }

    /// What a login counts as where no method of its own has decided it.
    #[must_use]
    pub fn first_attempt(&self) -> Attempt {
        let first = self.methods.iter().find(|method| **method != Method::None);
        if first == Some(&Method::Pam) { Attempt::Pam } else { Attempt::Password }
    }
}
