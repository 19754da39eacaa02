//! `[auth]`: nothing is said of a secret but that it is another one.

use super::{Table, joined, secret};
use crate::config::plan::{Auth, Failures, PamService, User};
use crate::config::units::show_duration;

pub(super) fn auth(auth: &Auth) -> Table {
    let Auth { methods, at: _, client_pam_service, pam_service, system_groups, failures, users } = auth;
    let methods: Vec<&str> = methods.iter().map(|method| method.word()).collect();
    let Failures { limit, window, ban } = failures;
    let failures = format!("{limit} in {}, ban {}", show_duration(*window), show_duration(*ban));
    let name_of = |PamService { name, at: _ }: &PamService| name.to_string();
    let mut table = Table::new("auth")
        .fact("methods", format_args!("[{}]", methods.join(", ")))
        .option("client_pam_service", client_pam_service.as_ref().map(name_of))
        .fact("pam_service", name_of(pam_service))
        .fact("system_groups", system_groups)
        .fact("failures", failures);
    for User { name, secret: password, groups, at: _ } in users {
        let password = match password {
            Some(password) => format!("password ({:08x})", secret(password)),
            None => "no password".into(),
        };
        table = table.fact(format!("user {name}"), format_args!("groups [{}], {password}", joined(groups, ", ")));
    }
    table
}
