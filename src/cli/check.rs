//! `arus check`: every error and warning of a configuration at once.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use crate::config::{self, Environment, Errors, Finding, Loaded, Severity, Source};
use crate::control::{auth, plugins, tls};

/// Of a configuration that cannot be used; the same for a bad command line.
pub(super) const BAD_CONFIGURATION: u8 = 2;

/// `path`: the file of `--config`. Exits with 0, or 2 if the configuration cannot be used.
#[must_use]
pub fn run(path: Option<&Path>) -> ExitCode {
    let source = config::locate(path);
    if source == Source::Example {
        let _ = writeln!(std::io::stderr(), "there is no {}: checking the built-in example", config::DEFAULT_PATH);
    }
    let Some(Loaded { plan, warnings, .. }) = load(&source) else {
        let unseen =
            "the files that it names (certificates, keys, plugins) were not looked at, because of these errors";
        let _ = writeln!(std::io::stderr(), "{source}: {unseen}");
        return ExitCode::from(BAD_CONFIGURATION);
    };
    let name = source.to_string();
    let mut findings = tls::check(&plan, &name);
    findings.extend(auth::check(&plan, source.path(), &name));
    findings.extend(plugins::check(&plan, source.path(), &name));
    print(&findings);
    if findings.iter().any(|finding| finding.severity == Severity::Error) {
        return ExitCode::from(BAD_CONFIGURATION);
    }
    let (listeners, upstreams) = (plan.listeners.len(), plan.upstreams.len());
    let plugins = plan.plugins.len();
    let count = |number, what| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
    let _ = writeln!(
        std::io::stdout(),
        "{source}: ok, {}, {}, {}{}",
        count(listeners, "listener"),
        count(upstreams, "upstream"),
        if plugins > 0 { count(plugins, "plugin") + ", " } else { String::new() },
        count(warnings.len() + findings.len(), "warning")
    );
    ExitCode::SUCCESS
}

/// Loads a configuration and prints what was found in it to stderr; `None` if it cannot be used.
pub(super) fn load(source: &Source) -> Option<Loaded> {
    let loaded = config::load(source, &Environment::detect());
    let findings = match &loaded {
        Ok(Loaded { warnings, .. }) => warnings,
        Err(Errors { findings }) => findings,
    };
    print(findings);
    loaded.ok()
}

fn print(findings: &[Finding]) {
    let mut stderr = std::io::stderr().lock();
    for finding in findings {
        let _ = writeln!(stderr, "{finding}");
    }
}
