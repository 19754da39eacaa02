//! `[acl]`: rules are known by what they say, wherever they stand.

use super::{Table, joined};
use crate::config::plan::{Acl, AclFile};
use crate::policy::acl::{Conditions, Rule};

/// More rules than these are told by their number.
const LISTED: usize = 1000;

pub(super) fn acl(acl: &Acl) -> Table {
    let Acl { default, file, reevaluate, rules } = acl;
    let path = |AclFile { path, shown: _, at: _, digest: _ }: &AclFile| path.display().to_string();
    let table = Table::new("acl")
        .fact("default", default.word())
        .option("file", file.as_ref().map(path))
        .fact("reevaluate", reevaluate);
    match rules.len() <= LISTED {
        true => table.items(rules.iter().map(rule)),
        false => table.fact(
            "rules",
            format_args!("{} ({:08x})", rules.len(), super::secret(rules.iter().map(rule).collect::<Vec<_>>())),
        ),
    }
}

fn rule(rule: &Rule) -> String {
    let Rule { action, priority, description, conditions, file: _, line: _ } = rule;
    let Conditions { users, groups, sources, destinations, ports, protocols, listeners } = conditions;
    let mut words = format!("rule {} at {priority}", action.word());
    let ports = ports.as_ref().map(|ports| {
        let show = |range: &std::ops::RangeInclusive<u16>| match range.start() == range.end() {
            true => range.start().to_string(),
            false => format!("{}-{}", range.start(), range.end()),
        };
        ports.iter().map(show).collect::<Vec<_>>()
    });
    for (key, values) in [
        ("users", users.as_ref().map(|list| joined(list, " "))),
        ("groups", groups.as_ref().map(|list| joined(list, " "))),
        ("sources", sources.as_ref().map(|list| joined(list, " "))),
        ("destinations", destinations.as_ref().map(|list| joined(list, " "))),
        ("ports", ports.map(|list| joined(&list, " "))),
        ("protocols", protocols.as_ref().map(|list| joined(list, " "))),
        ("listeners", listeners.as_ref().map(|list| joined(list, " "))),
        ("description", description.as_ref().map(|text| format!("{text:?}"))),
    ] {
        words.extend(values.map(|values| format!(", {key} {values}")));
    }
    words
}
