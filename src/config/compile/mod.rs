//! Raw to plan: what the file means. Pure; every error is reported at its place, and a default stands in for what is
//! wrong, so that the rest is looked at too.

pub(super) mod acl;
mod admin;
mod auth;
mod bounds;
mod engine;
mod hash;
mod listener;
mod plugin;
mod proxy;
mod qos;
mod sessions;
mod socks;
mod tls;
mod upstream;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::Environment;
use super::error::{Report, Span, Wrong, nearest, quote};
use super::plan::Plan;
use super::raw;
use super::read::{Head, Text};
use crate::limits;
use crate::types::{Endpoint, ListenerIndex, Name, PluginIndex, UpstreamIndex};

/// The plan is complete only if nothing was reported.
pub(super) fn compile(raw: &raw::File<'_>, base: &Path, environment: &Environment, report: &mut Report<'_>) -> Plan {
    let engine = engine::engine(raw.engine.as_ref(), base, environment, report);
    let log = engine::log(raw.log.as_ref(), base, report);
    let admin = admin::admin(raw.admin.as_ref(), &engine.state_dir, report);
    let sessions = sessions::sessions(raw.sessions.as_ref(), &engine.state_dir, report);
    let telemetry = sessions::telemetry(raw.telemetry.as_ref(), report);
    let auth = auth::auth(raw.auth.as_ref(), report);
    let demo = engine::demo(raw.demo.as_ref(), report);
    let socks = socks::socks(raw.socks.as_ref(), report);
    let qos = qos::qos(raw.qos.as_ref(), report);
    let timeouts = engine::timeouts(raw.timeouts.as_ref(), report);

    let raw_upstreams = raw.upstream.as_deref().unwrap_or_default();
    let raw_upstreams = within(raw_upstreams, limits::UPSTREAMS, "[[upstream]]", |raw| &raw.head.span, report);
    let raw_listeners = raw.listener.as_deref().unwrap_or_default();
    let raw_listeners = within(raw_listeners, limits::LISTENERS, "[[listener]]", |raw| &raw.head.span, report);
    let mut names = Upstreams::default();
    let upstreams = raw_upstreams
        .iter()
        .zip(0..)
        .map(|(raw, index)| upstream::upstream(raw, UpstreamIndex(index), &mut names, base, report))
        .collect();

    let raw_plugins = raw.plugin.as_deref().unwrap_or_default();
    let raw_plugins = within(raw_plugins, limits::PLUGINS, "[[plugin]]", |raw| &raw.head.span, report);
    let mut plugin_names = plugin::Plugins::default();
    let plugins = raw_plugins
        .iter()
        .zip(0..)
        .map(|(raw, index)| plugin::plugin(raw, PluginIndex(index), &mut plugin_names, base, report))
        .collect();

    let mut scope = listener::Scope {
        base,
        timeouts,
        upstreams: names,
        plugins: plugin_names,
        names: HashMap::new(),
        bound: HashMap::new(),
    };
    if let Some(hello) = raw.demo.as_ref().and_then(|demo| demo.hello.as_ref())
        && let Some(demo) = &demo
    {
        scope.bind(Endpoint::Ip(demo.hello), &hello.span(), "`[demo]`", report);
    }
    let listeners = raw_listeners
        .iter()
        .zip(0..)
        .map(|(raw, index)| listener::listener(raw, ListenerIndex(index), &mut scope, report))
        .collect();
    if raw_listeners.is_empty() && !report.has_errors() {
        report
            .error(&(0..0), Wrong::new("there is no listener").hint("add a `[[listener]]`; see `arus example-config`"));
    }
    let known: Vec<Name> =
        raw_listeners.iter().filter_map(|raw| Some(raw.name.as_ref()?.get_ref().as_ref().into())).collect();
    let acl = acl::acl(raw.acl.as_ref(), base, &known, report);
    scope.upstreams.warn_unused(report);
    scope.plugins.warn_unused(report);
    Plan { engine, log, admin, listeners, upstreams, plugins, demo, socks, auth, acl, qos, sessions, telemetry }
}

/// Refuses a list of tables that is too long, at the first one too many; hands on those that may be.
fn within<'r, T>(
    items: &'r [T],
    most: usize,
    title: &str,
    span: impl Fn(&T) -> &Span,
    report: &mut Report<'_>,
) -> &'r [T] {
    if let Some(item) = items.get(most) {
        report.error(span(item), format!("more than {most} `{title}`"));
    }
    items.get(..most).unwrap_or(items)
}

/// A key that must be there.
fn required<'r, T>(value: Option<&'r T>, key: &str, table: &Head, report: &mut Report<'_>) -> Option<&'r T> {
    if table.lacks(value, key) {
        report.error(&table.span, format!("`{key}` is missing"));
    }
    value
}

/// A string out of a closed set.
fn word<T: Copy>(value: Option<&Text<'_>>, key: &str, words: &[(&str, T)], default: T, report: &mut Report<'_>) -> T {
    let Some(text) = value else { return default };
    if let Some((_, meaning)) = words.iter().find(|(word, _)| word == text.get_ref()) {
        return *meaning;
    }
    let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let one_of = format!("one of {}", known.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", "));
    // Of a short word, such as `v3`, any other is near.
    let near =
        nearest(text.get_ref(), known.iter().copied()).filter(|hint| hint.ends_with('?') && text.get_ref().len() > 3);
    let hint = near.map_or_else(|| one_of.clone(), |near| format!("{near} {one_of}"));
    report.error(&text.span(), Wrong::new(format!("`{key}` cannot be {}", quote(text.get_ref()))).hint(hint));
    default
}

/// Reads the name of a table and refuses one that another table of its kind has.
fn unique_name(
    value: Option<&Text<'_>>,
    table: &Head,
    taken: &mut HashMap<Name, u32>,
    report: &mut Report<'_>,
) -> Option<Name> {
    let text = required(value, "name", table, report)?;
    report.accept(&text.span(), super::units::name(text.get_ref()))?;
    let name: Name = text.get_ref().as_ref().into();
    if let Some(line) = taken.get(&name) {
        report.error(&text.span(), format!("the name `{name}` is used on line {line} already"));
        return None;
    }
    taken.insert(Name::clone(&name), report.line(&text.span()));
    Some(name)
}

/// The upstreams by name, and which of them are used.
#[derive(Debug, Default)]
struct Upstreams {
    /// With the lines of their names.
    taken: HashMap<Name, u32>,
    /// In the order of their names, so that hints come out the same every time.
    known: BTreeMap<Name, Known>,
}

#[derive(Debug)]
struct Known {
    index: UpstreamIndex,
    span: Span,
    used: bool,
}

impl Upstreams {
    /// The upstream that a listener or route names.
    fn find(&mut self, text: &Text<'_>, report: &mut Report<'_>) -> Option<UpstreamIndex> {
        let word: &str = text.get_ref();
        if let Some(known) = self.known.get_mut(word) {
            known.used = true;
            return Some(known.index);
        }
        if !report.is_full() {
            let hint = nearest(word, self.known.keys().map(|name| &**name));
            report.error(&text.span(), Wrong::new(format!("there is no upstream {}", quote(word))).hint_if(hint));
        }
        None
    }

    fn warn_unused(&self, report: &mut Report<'_>) {
        for (name, known) in self.known.iter().filter(|(_, known)| !known.used) {
            report.warning(&known.span, format!("nothing uses the upstream `{name}`"));
        }
    }
}
