//! The groups that the system has for a user: files, LDAP, SSSD, whatever NSS asks. May block.

use std::ffi::CString;
use std::sync::Arc;

use nix::unistd::{Group, User, getgrouplist};

use crate::limits;
use crate::types::Name;

/// `own` and those of the system, sorted, each once. A user that the system does not know has only `own`.
///
/// # Errors
/// When the system's database cannot be asked: whoever lacks a group may lack the rule that blocks it.
pub(super) fn with_system(user: &str, own: &[Name]) -> Result<Arc<[Name]>, String> {
    let mut groups = own.to_vec();
    if let Ok(name) = CString::new(user)
        && let Some(known) = User::from_name(user).map_err(|error| format!("user: {error}"))?
    {
        // The primary group is in the answer; no other is added that the system does not name.
        let ids = getgrouplist(&name, known.gid).map_err(|error| format!("groups: {error}"))?;
        for id in ids.into_iter().take(limits::GROUPS_PER_USER) {
            // An id without a name is of no use to a rule.
            let group = Group::from_gid(id).map_err(|error| format!("group {id}: {error}"))?;
            groups.extend(group.map(|group| Name::from(group.name)));
        }
    }
    groups.sort();
    groups.dedup();
    Ok(groups.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_system_is_asked_and_nothing_is_made_up() {
        let own: Vec<Name> = vec!["zoo".into(), "dev".into(), "dev".into()];
        assert_eq!(&*with_system("no-such-user-here", &own).unwrap(), ["dev".into(), "zoo".into()]);
        assert_eq!(&*with_system("a\0b", &own).unwrap(), ["dev".into(), "zoo".into()]);
        let nobody = with_system("nobody", &[]).unwrap();
        assert_eq!(&*nobody, ["nogroup".into()], "and not root");
        assert!(with_system("root", &[]).unwrap().contains(&"root".into()));
    }
}
