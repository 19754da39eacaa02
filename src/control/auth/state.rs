//! What the configuration in force says, made ready for look-ups.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::plan::{Auth, Secret, User};
use crate::policy::identity::Identity;
use crate::types::Name;

pub(super) struct State {
    pub(super) plan: Auth,
    users: HashMap<Name, usize>,
    /// Those that a stand-in is chosen from.
    pub(super) secrets: Vec<Arc<Secret>>,
    /// In the order of the plan's users.
    by_user: Vec<Option<Arc<Secret>>>,
}

impl State {
    pub(super) fn of(plan: &Auth) -> Self {
        let by_user: Vec<_> = plan.users.iter().map(|user| user.secret.clone().map(Arc::new)).collect();
        Self {
            users: plan.users.iter().enumerate().map(|(index, user)| (Name::clone(&user.name), index)).collect(),
            secrets: by_user.iter().flatten().cloned().collect(),
            by_user,
            plan: plan.clone(),
        }
    }

    pub(super) fn user(&self, name: &[u8]) -> Option<&User> {
        let index = self.users.get(std::str::from_utf8(name).ok()?)?;
        self.plan.users.get(*index)
    }

    pub(super) fn secret(&self, name: &[u8]) -> Option<&Arc<Secret>> {
        let index = self.users.get(std::str::from_utf8(name).ok()?)?;
        self.by_user.get(*index)?.as_ref()
    }
}

/// Of a client whose address alone was judged.
pub(super) fn nobody() -> Arc<Identity> {
    Arc::new(Identity { user: "".into(), groups: Arc::new([]) })
}
