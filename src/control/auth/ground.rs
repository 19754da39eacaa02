//! What `[auth]` needs of this machine, and what in it is better done otherwise.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::pam;
use crate::config::plan::{Auth, Method, PamService, Place, Plan, Secret};
use crate::config::{Finding, Severity};
use crate::control::prepare::Problem;

/// Everybody on the machine may read it.
const OTHERS_READ: u32 = 0o004;

/// What the method `pam` and the address check lack: libpam, or the file of a service.
pub(in crate::control) fn problems(auth: &Auth) -> Vec<Problem> {
    let services = auth.methods.contains(&Method::Pam).then_some(&auth.pam_service);
    let services = services.into_iter().chain(&auth.client_pam_service);
    let problem = |PamService { name, at }: &PamService| {
        let (message, hint) = pam::missing(name)?;
        Some(problem(*at, format!("{message} ({hint})")))
    };
    services.filter_map(problem).collect()
}

/// Passwords in clear, and secrets that others may read.
pub(in crate::control) fn warnings(plan: &Plan, config: Option<&Path>) -> Vec<Problem> {
    let auth = &plan.auth;
    let plain = auth.users.iter().filter(|user| matches!(user.secret, Some(Secret::Plain(_))));
    let mut warnings: Vec<Problem> = plain
        .map(|user| {
            problem(user.at, "the password stands in clear here (put the `password_hash` that `arus hash-password` makes in its place)")
        })
        .collect();
    let mode = config.and_then(|path| path.metadata().ok()).map_or(0, |metadata| metadata.mode() & 0o777);
    let of_proxy = plan.socks.upstream_proxy.as_ref().and_then(|proxy| proxy.credentials.as_ref());
    if mode & OTHERS_READ != 0 && (of_proxy.is_some() || auth.users.iter().any(|user| user.secret.is_some())) {
        let what =
            format!("this file has passwords or their hashes, and mode {mode:o}: everybody may read it (chmod o-r)");
        warnings.push(problem(auth.at, what));
    }
    if auth.admits_anybody() && auth.takes_passwords() {
        let what = "`none` is among `methods`: whoever offers no password is let in without one";
        warnings.push(problem(auth.at, what));
    }
    warnings
}

fn problem(at: Place, message: impl Into<String>) -> Problem {
    let (line, column) = (at.line.max(1), at.column.max(1));
    Problem { line, column, message: message.into(), is_in_use: false, is_configuration: true }
}

/// What `arus check` says of it.
#[must_use]
pub fn check(plan: &Plan, config: Option<&Path>, file: &str) -> Vec<Finding> {
    let of = |severity| {
        move |problem: Problem| Finding {
            file: file.into(),
            line: problem.line,
            column: problem.column,
            severity,
            message: problem.message,
            hint: None,
        }
    };
    let errors = problems(&plan.auth).into_iter().map(of(Severity::Error));
    let mut findings: Vec<Finding> =
        errors.chain(warnings(plan, config).into_iter().map(of(Severity::Warning))).collect();
    findings.sort_by_key(|finding| (finding.line, finding.column));
    findings
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config;

    #[test]
    fn what_others_may_read_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("proxy.toml");
        let listener = "[[listener]]\nname = \"s\"\nlisten = \"127.0.0.1:0\"\nservice = \"socks5\"\n";
        let said = |socks: &str, mode: u32| {
            let text = format!("{listener}[socks]\n{socks}");
            fs::write(&file, &text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let environment =
                config::Environment { is_root: true, home: None, xdg_state_home: None, directory: "/".into() };
            let plan = config::parse(&text, "f", Path::new("/"), &environment).unwrap().plan;
            let warnings = warnings(&plan, Some(&file));
            warnings.iter().filter(|warning| warning.message.contains("everybody may read it")).count()
        };
        let secret = "upstream_proxy = \"socks5://me:secret@192.0.2.1:1080\"";
        assert_eq!([said(secret, 0o644), said(secret, 0o640)], [1, 0]);
        assert_eq!(said("upstream_proxy = \"socks5://192.0.2.1:1080\"", 0o644), 0);
    }
}
