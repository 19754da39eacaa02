//! The file of further access rules that `[acl]` names: `[[rule]]` tables and nothing else. What is wrong in it is
//! reported with its own places.

use super::error::{Errors, Finding, Report};
use super::plan::{AclFile, Plan};
use super::{compile, document, raw, read_text};
use crate::policy::acl::Rule;
use crate::types::{Digest, Name};

/// What a file says.
struct Read {
    rules: Vec<Rule>,
    digest: Digest,
}

/// What a file says, and its warnings; or every error of it.
fn load(file: &AclFile, listeners: &[Name]) -> Result<(Read, Vec<Finding>), Errors> {
    let name = file.path.display().to_string();
    let text = read_text(&file.path, &name)?;
    let mut report = Report::new(&name, &text);
    let rules = document(&text, &mut report).map(|document| {
        let raw = raw::AclRules::from_document(document, &mut report);
        let rules = compile::acl::rules(raw.rule.as_deref().unwrap_or_default(), listeners, &mut report);
        Read { rules, digest: Digest::of(text.as_bytes()) }
    });
    report.finish(rules)
}

/// Adds to a plan the rules of the file that it names; its errors come out with those of the plan.
pub(super) fn add(
    compiled: Result<(Plan, Vec<Finding>), Errors>,
    file: Option<AclFile>,
    listeners: &[Name],
) -> Result<(Plan, Vec<Finding>), Errors> {
    let Some(file) = file else { return compiled };
    match (compiled, load(&file, listeners)) {
        (Ok((mut plan, mut findings)), Ok((Read { rules, digest }, more))) => {
            plan.acl.rules.extend(rules);
            plan.acl.file = Some(AclFile { digest: Some(digest), ..file });
            findings.extend(more);
            Ok((plan, findings))
        }
        (Ok((_, mut findings)), Err(errors)) => {
            findings.extend(errors.findings);
            Err(Errors { findings })
        }
        (Err(errors), Ok((_, more))) => Err(Errors { findings: errors.findings.into_iter().chain(more).collect() }),
        (Err(errors), Err(more)) => {
            Err(Errors { findings: errors.findings.into_iter().chain(more.findings).collect() })
        }
    }
}
