//! `[auth]`: what is refused, what it means, and that secrets stay where they are.

use super::*;
use crate::config::diff::diff;
use crate::config::plan::{Method, Secret};

const GOOD: &str = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0$jMvgCnwh5YbNgPiRJNyKIQ";

fn errors(auth: &str) -> Vec<String> {
    let errors = read(&format!("{auth}\n{MINIMAL}")).unwrap_err();
    errors.findings.iter().map(ToString::to_string).collect()
}

#[test]
fn hashes_that_cannot_be_checked_are_errors_with_their_place() {
    let argon2 = |parameters: &str| GOOD.replace("m=19456,t=2,p=1", parameters);
    for (hash, what) in [
        ("secret", "begins with neither"),
        ("$argon2i$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0$jMvgCnwh5YbNgPiRJNyKIQ", "begins with neither"),
        ("$argon2id$v=19$m=19456,t=2,p=1", "no salt"),
        ("$argon2id$rubbish", "malformed"),
        (&argon2("m=4294967295,t=2,p=1"), "m is 4294967295"),
        (&argon2("m=19456,t=1000000,p=1"), "t is 1000000"),
        (&GOOD.replace("v=19", "v=16"), "version 19"),
        ("$2b$12$short", "53 characters"),
        ("$2b$12$ééééebbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb", "ASCII"),
        ("$2y$31$L6Bc/AlTQHyd9liGgGEZyOFLPHNgyxeEPfgYfBCVxJ7JIlwxyVU3u", "cost is 31"),
        ("$2x$12$L6Bc/AlTQHyd9liGgGEZyOFLPHNgyxeEPfgYfBCVxJ7JIlwxyVU3u", "are known"),
    ] {
        let found = errors(&format!("[[auth.user]]\nname = \"a\"\npassword_hash = '{hash}'"));
        assert_eq!(found.len(), 1, "{hash}: {found:?}");
        assert!(found[0].starts_with("f:3:17: `password_hash` cannot be used") && found[0].contains(what), "{found:?}");
        assert!(hash.len() < 12 || !found[0].contains(hash), "{found:?}");
        // There is one way to read them.
        let of_admin = errors(&format!("[admin]\nusers = [{{ name = \"a\", password_hash = '{hash}' }}]"));
        let words = |found: &str| found.split_once(": ").unwrap().1.to_owned();
        assert_eq!((of_admin.len(), words(&of_admin[0])), (1, words(&found[0])));
    }
    for hash in [GOOD, "$2y$12$L6Bc/AlTQHyd9liGgGEZyOFLPHNgyxeEPfgYfBCVxJ7JIlwxyVU3u"] {
        plan(&format!("[[auth.user]]\nname = \"a\"\npassword_hash = '{hash}'\n{MINIMAL}"));
        plan(&format!("[admin]\nusers = [{{ name = \"a\", password_hash = '{hash}' }}]\n{MINIMAL}"));
    }
}

#[test]
fn everything_wrong_comes_out_at_once() {
    let found = errors(
        "[auth]\nmethods = [\"password\", \"password\", \"pan\"]\npam_service = \"../shadow\"\n\
         client_pam_service = \"a b\"\nfailures = { limit = 101, window = \"0\" }\n\
         [[auth.user]]\nname = \"a\"\n[[auth.user]]\nname = \"a\"\npassword = \"\"\ngroups = [\"x\", \"x\"]\n\
         [[auth.user]]\nname = \"b\\n\"\npassword = \"p\"\npassword_hash = \"p\"",
    );
    for (line, what) in [
        ("2:24", "already"),
        ("2:36", "cannot have `pan`"),
        ("3:15", "`pam_service`"),
        ("4:22", "`client_pam_service`"),
        ("5:22", "`limit`"),
        ("5:36", "`window`"),
        ("6:1", "`password_hash` is missing"),
        ("9:8", "is on line 7 already"),
        ("10:12", "0 bytes"),
        ("11:16", "already"),
        ("13:8", "`name`"),
        ("14:12", "not both"),
    ] {
        assert!(
            found.iter().any(|found| found.starts_with(&format!("f:{line}: ")) && found.contains(what)),
            "{line} {what}: {found:#?}"
        );
    }
    assert_eq!(found.len(), 12, "{found:#?}");
    assert!(errors("[auth]\nmethods = []")[0].contains("`methods` is empty"));
}

#[test]
fn secrets_are_not_in_debug_nor_in_what_a_reload_says() {
    let text = |password: &str| {
        format!(
            "[auth]\nmethods = [\"pam\", \"password\"]\n[[auth.user]]\nname = \"a\"\npassword = \"{password}\"\n{MINIMAL}"
        )
    };
    let (old, new) = (plan(&text("geheim1")), plan(&text("geheim2")));
    assert_eq!(old.auth.methods, [Method::Pam, Method::Password]);
    assert!(old.auth.needs_pam() && !old.auth.admits_anybody());
    assert!(matches!(old.auth.users[0].secret, Some(Secret::Plain(_))));
    let said = format!("{:?} {:?}", diff(&old, &new), old);
    assert!(said.contains("auth: user a") && !said.contains("geheim"), "{said}");
    assert!(diff(&old, &old.clone()).is_empty());
}
