//! Plugins over reloads: kept, replaced, refused; what is handed to the shards.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::super::fixture::plan;
use super::super::prepare::{self, InForce};
use super::*;
use crate::config::plan::OnFault;
use crate::shard::command::Handover;
use crate::types::PluginIndex;

const SHARDS: u16 = 2;

/// A directory with the source and the library of a plugin `p`.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        bench.compile("1");
        bench
    }

    fn library(&self) -> PathBuf {
        self.0.path().join("p.so")
    }

    /// Replaces the library in place: the same path and inode.
    fn compile(&self, version: &str) {
        let code = format!(
            "#include \"arus_plugin.h\"
             #include <string.h>
             static int32_t open(const arus_host *h, const char *c, size_t n, char *e, size_t m, void **p) {{
                 (void)h; (void)n; (void)p;
                 if (strcmp(c, \"bad\")) return ARUS_OK;
                 strncpy(e, \"this is bad\", m - 1);
                 return ARUS_ERROR;
             }}
             static int32_t data(void *a, void *b, arus_io *io) {{
                 (void)a; (void)b; arus_pass(io, io->input_len); return ARUS_OK;
             }}
             static const arus_plugin plugin = {{ ARUS_PLUGIN_HEAD, .name = \"p\", .version = \"{version}\",
                 .flags = ARUS_UP, .process_open = open, .data = data }};
             ARUS_PLUGIN(plugin)"
        );
        let (source, fresh) = (self.0.path().join("p.c"), self.0.path().join("fresh.so"));
        std::fs::write(&source, code).unwrap();
        let include = format!("-I{}/c_plugins", env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new("cc");
        command.args(["-std=c99", "-fPIC", "-shared", "-fvisibility=hidden", &include, "-o"]).arg(&fresh).arg(&source);
        assert!(command.status().unwrap().success());
        std::fs::write(self.library(), std::fs::read(&fresh).unwrap()).unwrap();
    }

    fn plan(&self, config: &str) -> Plan {
        let mut plan = plan(self.0.path()).with_listener("web", &["127.0.0.1:0"]);
        plan.listeners[0].plugins = vec![PluginIndex(0)];
        plan.plugins.push(Plugin {
            name: "p".into(),
            path: self.library(),
            config: config.into(),
            on_fault: OnFault::Close,
            max_call: Duration::from_millis(100),
            line: 7,
            path_at: Place { line: 8, column: 8 },
            config_at: Place { line: 9, column: 10 },
        });
        plan
    }
}

fn commit(plan: Plan, now: &InForce) -> (InForce, Vec<Handover>) {
    let (in_force, handovers, _) = prepare::prepare(plan, now, SHARDS).unwrap().commit(&HashMap::new());
    (in_force, handovers)
}

fn process(in_force: &InForce) -> Arc<Process> {
    Arc::clone(&in_force.snapshot().unwrap().plugins[0])
}

#[test]
fn what_has_not_changed_is_kept_and_what_has_is_opened_anew() {
    let bench = Bench::new();
    let (first, handovers) = commit(bench.plan("x"), &InForce::nothing(None));
    assert_eq!(handovers.len(), usize::from(SHARDS));
    for (shard, handover) in (0..).zip(&handovers) {
        let [Handed { id, opened: Some(opened) }] = &handover.plugins[..] else { panic!("{handover:?}") };
        assert_eq!((*id, opened.shard()), (process(&first).id, ShardId(shard)));
    }

    let (same, handovers) = commit(bench.plan("x"), &first);
    assert!(Arc::ptr_eq(&process(&first), &process(&same)));
    assert!(handovers.iter().all(|handover| handover.plugins[0].opened.is_none()));
    assert_eq!(process(&same).generation, Generation(1));

    let (other, handovers) = commit(bench.plan("y"), &same);
    assert_ne!(process(&first).id, process(&other).id);
    assert!(Arc::ptr_eq(&process(&first).library, &process(&other).library));
    assert!(Arc::ptr_eq(&process(&first).state, &process(&other).state), "counts go on");
    assert!(handovers.iter().all(|handover| handover.plugins[0].opened.is_some()));

    bench.compile("2");
    let (replaced, _) = commit(bench.plan("y"), &other);
    let plugins = |in_force: &InForce| in_force.snapshot().unwrap().plugins.clone();
    assert_eq!(changed_libraries(&plugins(&other), &plugins(&replaced)), ["plugin p: library changed"]);
    assert_eq!(changed_libraries(&plugins(&first), &plugins(&other)), [""; 0], "only its `config`");
    assert_eq!((process(&other).library.version(), process(&replaced).library.version()), ("1", "2"));
    let snapshot = |in_force: &InForce| Arc::clone(in_force.snapshot().unwrap());
    assert!(Arc::ptr_eq(&snapshot(&first).watches, &snapshot(&replaced).watches));
}

#[test]
fn a_plugin_that_fails_is_said_with_its_line_and_leaves_the_old_one() {
    let bench = Bench::new();
    let (in_force, _handovers) = commit(bench.plan("x"), &InForce::nothing(None));
    let refusal = |plan: Plan, line| {
        let problems = prepare::prepare(plan, &in_force, SHARDS).unwrap_err();
        assert_eq!((problems.len(), problems[0].line, problems[0].is_in_use), (1, line, false));
        problems[0].message.clone()
    };
    let path = bench.library();
    assert_eq!(refusal(bench.plan("bad"), 9), format!("plugin `p`: {}: this is bad", path.display()));
    std::fs::write(&path, "garbage").unwrap();
    assert!(refusal(bench.plan("x"), 8).ends_with("cannot be loaded: it is not a shared library (no ELF header)"));
    std::fs::remove_file(&path).unwrap();
    assert!(refusal(bench.plan("x"), 8).contains("cannot be read: No such file"));
    assert!(!process(&in_force).is_disabled());
    let findings = check(&bench.plan("x"), None, "f.toml");
    assert!(findings[0].to_string().starts_with("f.toml:8:8: plugin `p`: "), "{findings:?}");
}

#[test]
fn a_reload_enables_what_a_fault_has_disabled() {
    let bench = Bench::new();
    let (in_force, _handovers) = commit(bench.plan("x"), &InForce::nothing(None));
    process(&in_force).disable();
    drop(prepare::prepare(bench.plan("x"), &in_force, SHARDS).unwrap());
    assert!(process(&in_force).is_disabled(), "nothing is in force yet");
    let (after, _) = commit(bench.plan("x"), &in_force);
    assert!(Arc::ptr_eq(&process(&after), &process(&in_force)) && !process(&after).is_disabled());
}

#[test]
fn a_removed_plugin_ends_with_its_last_owner() {
    let bench = Bench::new();
    let (with, handovers) = commit(bench.plan("x"), &InForce::nothing(None));
    let weak = Arc::downgrade(&process(&with));
    let mut without = bench.plan("x");
    without.plugins.clear();
    without.listeners[0].plugins.clear();
    let (without, _) = commit(without, &with);
    assert!(without.snapshot().unwrap().plugins.is_empty());
    drop(with);
    assert!(weak.upgrade().is_some(), "the shards have it");
    drop(handovers);
    assert!(weak.upgrade().is_none());
}
