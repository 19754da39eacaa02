//! Giving up root: `engine.user`.
//!
//! Done once, after everything that needs root was bound and opened, and before shards and control threads exist, so
//! that they are born without it; a thread that does exist (the log's) loses root with all its capabilities, as the
//! C library makes every thread change its user. CAP_NET_BIND_SERVICE is kept where the process has it, as a reload may have to bind a
//! low port; nothing else is, and no file that is executed can bring anything back (PR_SET_NO_NEW_PRIVS).

use std::ffi::CString;
use std::path::Path;

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;
use nix::unistd::{Uid, User, initgroups, setgid, setuid};

/// The user to become.
#[derive(Debug, Clone)]
pub(super) struct Identity(User);

impl Identity {
    /// Looks a user up by name.
    ///
    /// # Errors
    /// One line, when there is no such user.
    pub(super) fn of(name: &str) -> Result<Self, String> {
        match User::from_name(name) {
            Ok(Some(user)) => Ok(Self(user)),
            Ok(None) => Err(format!("[engine] user `{name}` does not exist (useradd --system {name})")),
            Err(error) => Err(format!("[engine] user `{name}` cannot be looked up: {error}")),
        }
    }

    /// Gives a file to this user.
    ///
    /// # Errors
    /// One line, when that is not allowed.
    pub(super) fn own(&self, path: &Path) -> Result<(), String> {
        std::os::unix::fs::chown(path, Some(self.0.uid.as_raw()), Some(self.0.gid.as_raw()))
            .map_err(|error| format!("{} cannot be given to user `{}`: {error}", path.display(), self.0.name))
    }

    pub(super) fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether this process is that user already.
    pub(super) fn is_current(&self) -> bool {
        Uid::effective() == self.0.uid
    }

    pub(super) fn owns(&self, path: &Path) -> bool {
        use std::os::unix::fs::MetadataExt;
        path.metadata().is_ok_and(|metadata| metadata.uid() == self.0.uid.as_raw())
    }
}

/// What is left after the drop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Dropped {
    /// Ports below 1024 can still be bound.
    KeepsLowPorts,
    /// Nothing.
    KeepsNothing,
}

/// Whether this process may become another user at all.
pub(super) fn is_root() -> bool {
    Uid::effective().is_root()
}

/// Becomes `identity` for good. To be called on the main thread, before those that may bind ports are made.
///
/// # Errors
/// One line. The process must end then: it may have given up only a part.
pub(super) fn drop_to(identity: &Identity) -> Result<Dropped, String> {
    let user = &identity.0;
    let said = |what: &'static str| move |error: nix::Error| format!("cannot drop to `{}`: {what}: {error}", user.name);
    let kept: CapsHashSet = caps::has_cap(None, CapSet::Permitted, Capability::CAP_NET_BIND_SERVICE)
        .is_ok_and(|has| has)
        .then_some(Capability::CAP_NET_BIND_SERVICE)
        .into_iter()
        .collect();

    shrink_bounding_set(&kept);
    prctl::set_keepcaps(!kept.is_empty()).map_err(said("PR_SET_KEEPCAPS"))?;
    let name = CString::new(user.name.as_str()).map_err(|_| "the user's name has a NUL in it".to_string())?;
    initgroups(&name, user.gid).map_err(said("setgroups"))?;
    setgid(user.gid).map_err(said("setgid"))?;
    setuid(user.uid).map_err(said("setuid"))?;
    let none = CapsHashSet::new();
    for (set, left) in [(CapSet::Effective, &kept), (CapSet::Permitted, &kept), (CapSet::Inheritable, &none)] {
        caps::set(None, set, left).map_err(|error| format!("cannot drop to `{}`: capset: {error}", user.name))?;
    }
    prctl::set_keepcaps(false).map_err(said("PR_SET_KEEPCAPS"))?;
    prctl::set_no_new_privs().map_err(said("PR_SET_NO_NEW_PRIVS"))?;

    if !user.uid.is_root() && setuid(Uid::from_raw(0)).is_ok() {
        return Err(format!("dropped to `{}`, but this process can become root again", user.name));
    }
    Ok(if kept.is_empty() { Dropped::KeepsNothing } else { Dropped::KeepsLowPorts })
}

/// Leaves only `kept` for whatever might be executed later. Needs CAP_SETPCAP, which a container's root may not have;
/// PR_SET_NO_NEW_PRIVS closes the same door.
fn shrink_bounding_set(kept: &CapsHashSet) {
    let bounding = caps::read(None, CapSet::Bounding).unwrap_or_default();
    for capability in bounding.difference(kept) {
        if let Err(error) = caps::drop(None, CapSet::Bounding, *capability) {
            tracing::debug!(%capability, %error, "the bounding set keeps a capability");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::process::Command;

    #[test]
    fn an_unknown_user_is_said_in_one_line() {
        let line = Identity::of("no-such-user-here").unwrap_err();
        assert!(line.contains("`no-such-user-here` does not exist") && !line.contains('\n'), "{line}");
    }

    /// Dropping is for good, so it happens in a process of its own.
    #[test]
    fn root_is_given_up_for_good() {
        if !is_root() {
            return;
        }
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "control::privilege::tests::in_a_child", "--ignored", "--nocapture", "--test-threads=1"])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("1 passed"), "{text}");
    }

    #[test]
    #[ignore = "run in a process of its own by root_is_given_up_for_good"]
    fn in_a_child() {
        let directory = tempfile::tempdir().unwrap();
        let nobody = Identity::of("nobody").unwrap();
        nobody.own(directory.path()).unwrap();
        assert!(nobody.owns(directory.path()));
        // libtest runs a test on a thread of its own: setuid reaches all threads, the capabilities only this one.
        let dropped = drop_to(&nobody).unwrap();
        assert!(!is_root());
        assert!(setuid(Uid::from_raw(0)).is_err());
        assert!(std::fs::File::open("/etc/shadow").is_err());
        if dropped == Dropped::KeepsLowPorts {
            let born_after =
                std::thread::spawn(|| (600..1024).any(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()));
            assert!(born_after.join().unwrap());
        }
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        assert!(status.contains("NoNewPrivs:\t1"), "{status}");
        assert!(status.contains("CapPrm:\t0000000000000400") || dropped == Dropped::KeepsNothing, "{status}");
        assert!(std::fs::write(directory.path().join("x"), "x").is_ok());
    }
}
