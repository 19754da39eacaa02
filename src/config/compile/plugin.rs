//! `[[plugin]]`, and the lists of listeners that name them.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Duration;

use super::super::address;
use super::super::error::{Report, Span, Wrong, nearest, quote};
use super::super::plan::{OnFault, Plugin};
use super::super::raw;
use super::super::read::{List, Text};
use super::bounds::lasting;
use super::{required, unique_name, word};
use crate::limits;
use crate::types::{Name, PluginIndex};

const MAX_CALL: Duration = Duration::from_millis(100);

/// The plugins by name, and which of them are used.
#[derive(Debug, Default)]
pub(super) struct Plugins {
    /// With the lines of their names.
    taken: HashMap<Name, u32>,
    /// In the order of their names, so that hints come out the same every time.
    known: BTreeMap<Name, Known>,
}

#[derive(Debug)]
struct Known {
    index: PluginIndex,
    span: Span,
    used: bool,
}

pub(super) fn plugin(
    raw: &raw::Plugin<'_>,
    index: PluginIndex,
    plugins: &mut Plugins,
    base: &Path,
    report: &mut Report<'_>,
) -> Plugin {
    let name = unique_name(raw.name.as_ref(), &raw.head, &mut plugins.taken, report);
    if let Some(name) = &name {
        plugins.known.insert(Name::clone(name), Known { index, span: raw.head.span.clone(), used: false });
    }
    let path = required(raw.path.as_ref(), "path", &raw.head, report);
    let path_at = raw.path.as_ref().map_or_else(|| report.at(&raw.head.span), |text| report.at(&text.span()));
    Plugin {
        name: name.unwrap_or_default(),
        path: path
            .and_then(|text| report.accept(&text.span(), address::path(text.get_ref(), base)))
            .unwrap_or_default(),
        config: raw.config.as_ref().and_then(|text| config(text, report)).unwrap_or_default(),
        on_fault: word(
            raw.on_fault.as_ref(),
            "on_fault",
            &OnFault::ALL.map(|on_fault| (on_fault.word(), on_fault)),
            OnFault::Close,
            report,
        ),
        max_call: lasting(raw.max_call.as_ref(), "max_call", limits::TIMEOUT..=limits::DURATION, report)
            .unwrap_or(MAX_CALL),
        line: report.line(&raw.head.span),
        path_at,
        config_at: raw.config.as_ref().map_or(path_at, |text| report.at(&text.span())),
    }
}

fn config(text: &Text<'_>, report: &mut Report<'_>) -> Option<String> {
    let (config, most) = (text.get_ref(), limits::PLUGIN_CONFIG_BYTES);
    if config.contains('\0') {
        report.error(&text.span(), Wrong::new("`config` has a NUL character").hint("it is a text of C"));
        return None;
    }
    if config.len() > most {
        let wrong = Wrong::new(format!("`config` has more than {most} bytes"));
        report.error(&text.span(), wrong.hint("let it name a file"));
        return None;
    }
    Some(config.clone().into_owned())
}

impl Plugins {
    /// The plugins that a listener names, in its order.
    pub(super) fn find(&mut self, list: &List<Text<'_>>, report: &mut Report<'_>) -> Vec<PluginIndex> {
        if list.items.len() > limits::PLUGINS_PER_LISTENER {
            report.error(&list.span, format!("more than {} plugins in one listener", limits::PLUGINS_PER_LISTENER));
            return Vec::new();
        }
        let mut found = Vec::with_capacity(list.items.len());
        for text in &list.items {
            let Some(index) = self.find_one(text, report) else { continue };
            if found.contains(&index) {
                let wrong = Wrong::new(format!("the plugin {} is in this list already", quote(text.get_ref())));
                report.error(&text.span(), wrong.hint("a second `[[plugin]]` may have the same path"));
                continue;
            }
            found.push(index);
        }
        found
    }

    fn find_one(&mut self, text: &Text<'_>, report: &mut Report<'_>) -> Option<PluginIndex> {
        let word: &str = text.get_ref();
        if let Some(known) = self.known.get_mut(word) {
            known.used = true;
            return Some(known.index);
        }
        if !report.is_full() {
            let hint = nearest(word, self.known.keys().map(|name| &**name));
            report.error(&text.span(), Wrong::new(format!("there is no plugin {}", quote(word))).hint_if(hint));
        }
        None
    }

    pub(super) fn warn_unused(&self, report: &mut Report<'_>) {
        for (name, known) in self.known.iter().filter(|(_, known)| !known.used) {
            report.warning(&known.span, format!("nothing uses the plugin `{name}`"));
        }
    }
}
