//! The configuration as a whole: here the example and the documentation against the parser's own list of keys, hostile
//! texts, files; in `broken` every error that must come out; in `meaning` the plans that come out; in `tls` both for
//! TLS and the PROXY protocol.
#![allow(clippy::unwrap_used)]

mod acl;
mod auth;
mod broken;
mod meaning;
mod qos;
mod tls;

use std::collections::BTreeSet;
use std::path::Path;

use super::plan::Plan;
use super::raw::SHAPES;
use super::{EXAMPLE, Environment, Errors, Loaded, Source, load, parse};

const DOCUMENTATION: &str = include_str!("../../../docs/CONFIG.md");

fn environment() -> Environment {
    Environment { is_root: true, home: None, xdg_state_home: None, directory: "/etc/arus".into() }
}

fn read(text: &str) -> Result<Loaded, Errors> {
    parse(text, "f", Path::new("/etc/arus"), &environment())
}

fn plan(text: &str) -> Plan {
    read(text).unwrap_or_else(|errors| panic!("{errors}\n{text}")).plan
}

const MINIMAL: &str = "[[listener]]\nname = \"a\"\nlisten = \"127.0.0.1:1\"\nupstream = \"u\"\n\
                       [[upstream]]\nname = \"u\"\nbackends = [\"127.0.0.1:2\"]\n";

/// `proxy.toml` with every setting that is left out put in.
fn uncommented() -> String {
    let setting =
        |line: &'static str| line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| !c.is_whitespace()));
    EXAMPLE.lines().map(|line| setting(line).unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_works_and_shows_every_key() {
    assert_eq!(read(EXAMPLE).unwrap().warnings, []);
    let all = uncommented();
    assert_eq!(read(&all).unwrap_or_else(|errors| panic!("{errors}")).warnings, []);
    let tree: toml::Table = toml::from_str(&all).unwrap();
    let mut shown = BTreeSet::new();
    collect("", &toml::Value::Table(tree), &mut shown);
    let mut known = BTreeSet::new();
    for shape in SHAPES {
        let table = shape.title.trim_matches(['[', ']']);
        known.extend(shape.keys.iter().map(|key| format!("{table}.{key}").trim_start_matches('.').to_owned()));
    }
    assert!(known.len() > 60, "the list of keys has shrunk");
    let missing: Vec<_> = known.difference(&shown).collect();
    assert!(missing.is_empty(), "not in proxy.toml: {missing:?}");
}

/// The paths of all keys.
fn collect(path: &str, value: &toml::Value, keys: &mut BTreeSet<String>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                collect(&path, value, keys);
                keys.insert(path);
            }
        }
        toml::Value::Array(items) => items.iter().for_each(|item| collect(path, item, keys)),
        _ => {}
    }
}

#[test]
fn the_documentation_has_every_key_and_no_other() {
    for shape in SHAPES.iter().filter(|shape| !shape.title.is_empty()) {
        let heading = format!("## `{}`\n", shape.title);
        let (_, section) = DOCUMENTATION.split_once(&heading).unwrap_or_else(|| panic!("no section {heading}"));
        let section = section.split("\n## ").next().unwrap();
        let documented: Vec<&str> =
            section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(key, _)| key).collect();
        assert_eq!(documented, shape.keys, "the keys of {}", shape.title);
    }
}

#[test]
fn hostile_texts_never_panic() {
    let text = uncommented();
    for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
        let _ = read(&text[..end]);
    }
    // xorshift: the same changes every time.
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed >> 33).unwrap() % below
    };
    const LETTERS: &[u8] = b"[]{}=\"'\\\n\r\t #.,:-/0189_azAZ\0\x7f";
    let (mut refused, mut loaded) = (0, 0);
    for _ in 0..3000 {
        let mut bytes = text.clone().into_bytes();
        for _ in 0..=random(3) {
            let at = random(bytes.len());
            bytes[at] = LETTERS[random(LETTERS.len())];
        }
        let Ok(text) = String::from_utf8(bytes) else { continue };
        match read(&text) {
            Ok(_) => loaded += 1,
            Err(errors) => {
                refused += 1;
                assert!(!errors.findings.is_empty());
                assert!(errors.findings.iter().all(|finding| finding.line >= 1 && finding.column >= 1));
            }
        }
    }
    assert!(refused > 100 && loaded > 100, "{refused} refused, {loaded} loaded");
}

#[test]
fn files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("p.toml");
    let source = Source::File(path.clone());
    let shown = |source| load(source, &environment()).unwrap_err().to_string();
    assert!(shown(&source).starts_with(&format!("{}:1:1: cannot be read: No such file", path.display())));
    std::fs::write(&path, b"# \xc3\xa4\n# \xff").unwrap();
    assert_eq!(shown(&source), format!("{}:2:3: the file is not UTF-8 from here on", path.display()));
    std::fs::File::create(&path).unwrap().set_len(crate::limits::CONFIG_BYTES + 1).unwrap();
    assert_eq!(shown(&source), format!("{}:1:1: is larger than 16.0 MiB", path.display()));
    std::fs::write(&path, MINIMAL.replace("127.0.0.1:2", "unix:b.sock")).unwrap();
    let loaded = load(&source, &environment()).unwrap();
    let backend = loaded.plan.upstreams[0].backends[0].address.to_string();
    assert_eq!(backend, format!("unix:{}", directory.path().join("b.sock").display()));
    assert_eq!(load(&source, &environment()).unwrap().digest, loaded.digest);
    assert!(shown(&Source::File(directory.path().into())).contains("cannot be read"));
    assert!(load(&Source::Example, &environment()).is_ok());
}
