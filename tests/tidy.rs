//! The shape of the code, checked: layers, sizes, where unsafe may be, what the data plane may not use, scripts.
//!
//! The rules are text searches over a source that rustfmt has laid out. They are meant to catch what happens in good
//! faith; each failure names the line and what to do.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Bottom up: a module may use itself and those before it. A line is a module of the crate, or a part of one that
/// stands apart from it; the longest name that fits a path decides.
const LAYERS: &[&str] = &[
    "types",
    "limits",
    "codec",
    "policy",
    "config::plan", // what the data plane sees of the configuration
    "upstream::state",
    "stats",
    "net",
    "config",
    "ring",
    "tls",
    "plugin",
    "upstream",
    "relay",
    "shard::command", // what control and shards tell each other
    "shard",
    "control",
    "cli",
];

/// Modules on the path of a connection: nothing here may block or belong to another runtime.
const DATA_PLANE: &[&str] = &["codec", "net", "plugin", "policy", "relay", "ring", "shard", "stats", "tls", "upstream"];
const FORBIDDEN_ON_DATA_PLANE: &[(&str, &str)] = &[
    ("Mutex", "a lock can stop a shard: use what the shard owns, an atomic, or a channel"),
    ("RwLock", "a lock can stop a shard: use what the shard owns, an atomic, or a channel"),
    ("tokio", "tokio belongs to the control plane: send a command or a job there"),
];

/// Where unsafe code may be: files, or directories with a `/` at the end.
const UNSAFE_ALLOWED: &[&str] = &[
    "src/ring/",
    "src/net/",
    "src/control/privilege.rs",
    "src/control/auth/pam/ffi.rs",
    "src/control/store/mapping.rs",
    "src/plugin/ffi/",
];

const MAX_LINES: usize = 450;
/// Longer files, each with its bound and its reason.
const LONG_FILES: &[(&str, usize, &str)] = &[];

/// Put together here, so that this file does not find itself.
const UNFINISHED: &[&str] =
    &[concat!("todo", "!("), concat!("unimplemented", "!("), concat!("dbg", "!("), concat!("FIX", "ME")];

/// Lines above an `unsafe` block in which its SAFETY argument must begin.
const SAFETY_REACH: usize = 8;

struct Source {
    /// From the root of the repository, as `src/cli/mod.rs`.
    name: String,
    text: String,
}

impl Source {
    /// The module, as `cli::top::screen`; `None` for the roots of the crate.
    fn module(&self) -> Option<String> {
        let path = self.name.strip_prefix("src/")?.strip_suffix(".rs")?;
        let path = path.strip_suffix("/mod").unwrap_or(path);
        (path != "lib" && path != "main").then(|| path.replace('/', "::"))
    }

    /// Lines of code with their numbers, without comments. A `//` in a string only hides the rest of that line.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate();
        lines.map(|(index, line)| (index + 1, line.split_once("//").map_or(line, |(code, _)| code)))
    }

    /// Every path from the root of the crate that this module names, with its line: `crate::` and `super::` ones.
    fn paths(&self, module: &str) -> Vec<(usize, String)> {
        // Joined, because rustfmt breaks a long group over lines; offsets still tell the line.
        let code: String = self.code().map(|(_, line)| format!("{line}\n")).collect();
        let begins = |at: usize| !code[..at].ends_with(|c: char| c.is_alphanumeric() || "_$:".contains(c));
        let mut paths = Vec::new();
        for (at, word) in code.match_indices("crate::").filter(|(at, _)| begins(*at)) {
            paths.extend(spread(&code[at + word.len()..]).into_iter().map(|path| (at, path)));
        }
        let own: Vec<&str> = module.split("::").collect();
        for (at, _) in code.match_indices("super::").filter(|(at, _)| begins(*at)) {
            let rest = code[at..].trim_start_matches("super::");
            let steps = (code.len() - at - rest.len()) / "super::".len();
            // An import that is indented stands in a module within the file, as tests do.
            let line = code[..at].rsplit('\n').next().unwrap_or_default();
            let is_inner = line.starts_with(' ') && line.trim_start().starts_with("use ");
            let Some(kept) = (own.len() + usize::from(is_inner)).checked_sub(steps) else { continue };
            let prefix = own[..kept.min(own.len())].iter().map(|name| format!("{name}::")).collect::<String>();
            paths.extend(spread(rest).into_iter().map(|path| (at, format!("{prefix}{path}"))));
        }
        paths.into_iter().map(|(at, path)| (code[..at].matches('\n').count() + 1, path)).collect()
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn walk(directory: &Path, keep: &dyn Fn(&Path) -> bool, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            walk(&path, keep, found);
        } else if keep(&path) {
            found.push(path);
        }
    }
}

/// The Rust files below some directories of the repository.
fn sources(directories: &[&str]) -> Vec<Source> {
    let mut paths = Vec::new();
    let is_rust = |path: &Path| path.extension().is_some_and(|extension| extension == "rs");
    for directory in directories {
        walk(&root().join(directory), &is_rust, &mut paths);
    }
    paths.sort();
    let read = |path: PathBuf| Source {
        name: path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned(),
        text: fs::read_to_string(&path).unwrap(),
    };
    paths.into_iter().map(read).collect()
}

/// The crate's own sources, of which there must be some.
fn crate_sources() -> Vec<Source> {
    let sources = sources(&["src"]);
    assert!(sources.len() > 20, "found only {} files in src: the walk is broken", sources.len());
    sources
}

fn report(problems: Vec<String>) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

/// Position in [`LAYERS`] of the longest name that begins `module`.
fn layer(module: &str) -> Option<usize> {
    let fits = |name: &str| module.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
    (0..LAYERS.len()).filter(|&layer| fits(LAYERS[layer])).max_by_key(|&layer| LAYERS[layer].len())
}

/// Every path from the root of the crate in a stretch of code that begins after `crate::`: groups are spread out.
fn spread(rest: &str) -> Vec<String> {
    let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(rest.len());
    let path = rest[..end].trim_end_matches(':');
    let Some(group) = rest[end..].strip_prefix('{').filter(|_| path.is_empty() || rest[..end].ends_with("::")) else {
        return vec![path.to_owned()];
    };
    let mut members = vec![String::new()];
    let mut depth = 0;
    for character in group.chars() {
        match character {
            '}' if depth == 0 => break,
            ',' if depth == 0 => members.push(String::new()),
            _ => {
                depth += i32::from(character == '{') - i32::from(character == '}');
                if let Some(member) = members.last_mut() {
                    member.push(character);
                }
            }
        }
    }
    let prefix = if path.is_empty() { String::new() } else { format!("{path}::") };
    let members = members.iter().map(|member| member.trim()).filter(|member| !member.is_empty());
    members.flat_map(spread).map(|member| format!("{prefix}{member}")).collect()
}

#[test]
fn groups_are_spread_out() {
    assert_eq!(spread("a::b::C;"), ["a::b::C"]);
    assert_eq!(spread("{a, b::{C, d::E}};"), ["a", "b::C", "b::d::E"]);
    assert_eq!(spread("a::{self, B};"), ["a::self", "a::B"]);
    assert_eq!(spread("a::b(x)"), ["a::b"]);
    assert_eq!(layer("shard::command::Command"), LAYERS.iter().position(|&name| name == "shard::command"));
    assert_eq!(layer("shard::session"), LAYERS.iter().position(|&name| name == "shard"));
    assert_eq!(layer("shardless"), None);
}

#[test]
fn relative_paths_are_followed() {
    let text = "use super::b;\npub use super::super::c::D;\nfn f() { crate::e::g() } // crate::no\n    use super::*;\n";
    let source = Source { name: "src/a/x.rs".into(), text: text.into() };
    let mut paths = source.paths("a::x");
    paths.sort();
    let paths: Vec<String> = paths.into_iter().map(|(line, path)| format!("{line} {path}")).collect();
    assert_eq!(paths, ["1 a::b", "2 c::D", "3 e::g", "4 a::x::"]);
}

#[test]
fn imports_go_only_downwards() {
    let mut problems = Vec::new();
    let mut checked = 0;
    for source in crate_sources() {
        let Some(module) = source.module() else { continue };
        let Some(own) = layer(&module) else {
            problems.push(format!("{}: module {module} has no place in LAYERS of tests/tidy.rs", source.name));
            continue;
        };
        for (line, path) in source.paths(&module) {
            checked += 1;
            // Macros of the crate and names of its root have no layer.
            let Some(used) = layer(&path).filter(|used| *used > own) else { continue };
            let (own, used) = (LAYERS[own], LAYERS[used]);
            problems.push(format!("{}:{line}: {own} may not use {used}, which is above it ({path})", source.name));
        }
    }
    assert!(checked > 50, "only {checked} imports were looked at: the search is broken");
    report(problems);
}

#[test]
fn files_stay_small_and_say_what_they_are() {
    let mut problems = Vec::new();
    let all = sources(&["src", "tests", "bench/src", "bench/benches", "benches"]);
    assert!(all.len() > 20);
    for source in &all {
        let lines = source.text.lines().count();
        let bound = LONG_FILES.iter().find(|(name, ..)| *name == source.name).map_or(MAX_LINES, |(_, bound, _)| *bound);
        if lines > bound {
            problems.push(format!("{}: {lines} lines, {bound} allowed: one file tells one story", source.name));
        }
        if !source.text.starts_with("//!") {
            problems.push(format!("{}:1: begin with `//!` and what this file owns", source.name));
        }
        for word in UNFINISHED {
            for (line, _) in source.text.lines().enumerate().filter(|(_, line)| line.contains(word)) {
                problems.push(format!("{}:{}: {word} has no place in a commit", source.name, line + 1));
            }
        }
    }
    for (name, ..) in LONG_FILES {
        if !all.iter().any(|source| source.name == *name) {
            problems.push(format!("LONG_FILES names {name}, which does not exist"));
        }
    }
    report(problems);
}

#[test]
fn unsafe_stays_where_it_is_allowed_and_argues_its_case() {
    let mut problems = Vec::new();
    let mut blocks = 0;
    for source in crate_sources() {
        let is_allowed =
            |place: &&str| if place.ends_with('/') { source.name.starts_with(*place) } else { source.name == **place };
        let is_allowed = UNSAFE_ALLOWED.iter().any(is_allowed);
        let lines: Vec<&str> = source.text.lines().collect();
        for (line, code) in source.code() {
            let words: Vec<&str> = code.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
            if !words.contains(&"unsafe") {
                continue;
            }
            if !is_allowed {
                problems.push(format!(
                    "{}:{line}: unsafe code belongs into {}",
                    source.name,
                    UNSAFE_ALLOWED.join(", ")
                ));
            }
            let is_block = code.contains("unsafe {") || code.contains("unsafe impl");
            blocks += usize::from(is_block);
            let above = &lines[line.saturating_sub(1 + SAFETY_REACH)..line];
            if is_block && !above.iter().any(|line| line.contains("SAFETY:")) {
                problems
                    .push(format!("{}:{line}: say why this is sound, in a `// SAFETY:` comment above", source.name));
            }
        }
    }
    assert!(blocks > 0, "no unsafe block was found, though src/net has some: the search is broken");
    report(problems);
}

#[test]
fn the_data_plane_neither_locks_nor_borrows_a_runtime() {
    let mut problems = Vec::new();
    let mut files = 0;
    for source in crate_sources() {
        let module = source.module().unwrap_or_default();
        if !DATA_PLANE.contains(&module.split("::").next().unwrap_or_default()) {
            continue;
        }
        files += 1;
        // A test may play the part of a control thread.
        let tests = source.text.lines().position(|line| line.starts_with("#[cfg(test)]")).unwrap_or(usize::MAX);
        if module.ends_with("tests") {
            continue;
        }
        for (line, code) in source.code().take_while(|(line, _)| *line <= tests) {
            for (word, reason) in FORBIDDEN_ON_DATA_PLANE {
                if code.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|found| found == *word) {
                    problems.push(format!("{}:{line}: {word}: {reason}", source.name));
                }
            }
        }
    }
    assert!(files > 10, "only {files} files of the data plane were found: the walk is broken");
    report(problems);
}

#[test]
fn scripts_can_be_run() {
    let mut scripts = vec![root().join(".ci/run")];
    walk(&root().join("scripts"), &|path| path.extension().is_some_and(|extension| extension == "sh"), &mut scripts);
    let mut problems = Vec::new();
    for script in &scripts {
        let name = script.strip_prefix(root()).unwrap().display();
        let text = fs::read_to_string(script).unwrap_or_else(|error| panic!("{name}: {error}"));
        if fs::metadata(script).unwrap().permissions().mode() & 0o111 != 0o111 {
            problems.push(format!("{name}: is not executable (chmod +x)"));
        }
        if !text.starts_with("#!") {
            problems.push(format!("{name}:1: has no #! line"));
        }
        let checked = Command::new("bash").arg("-n").arg(script).output().unwrap();
        if !checked.status.success() {
            problems.push(format!("{name}: {}", String::from_utf8_lossy(&checked.stderr).trim()));
        }
    }
    report(problems);
}
