//! What `[auth]` needs of this machine, and what in it is better done otherwise.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::pam;
use crate::config::plan::{Auth, Method, PamService, Place, Secret};
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
pub(in crate::control) fn warnings(auth: &Auth, config: Option<&Path>) -> Vec<Problem> {
    let plain = auth.users.iter().filter(|user| matches!(user.secret, Some(Secret::Plain(_))));
    let mut warnings: Vec<Problem> = plain
        .map(|user| {
            problem(user.at, "the password stands in clear here (put the `password_hash` that `arus hash-password` makes in its place)")
        })
        .collect();
    let mode = config.and_then(|path| path.metadata().ok()).map_or(0, |metadata| metadata.mode() & 0o777);
    if mode & OTHERS_READ != 0 && auth.users.iter().any(|user| user.secret.is_some()) {
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
pub fn check(auth: &Auth, config: Option<&Path>, file: &str) -> Vec<Finding> {
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
    let errors = problems(auth).into_iter().map(of(Severity::Error));
    let mut findings: Vec<Finding> =
        errors.chain(warnings(auth, config).into_iter().map(of(Severity::Warning))).collect();
    findings.sort_by_key(|finding| (finding.line, finding.column));
    findings
}
