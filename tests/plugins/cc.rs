//! Compiles plugins for tests. A source file is compiled once for each set of flags, into the target directory.

// Not every group of tests uses everything.
#![allow(dead_code)]

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The examples, each with configurations that are worth a test.
pub(crate) const EXAMPLES: &[(&str, &[&str])] = &[
    (
        "filter",
        &["upper", "lower", "rot13", "up:upper", "block:needle", "block:aabaabaaab", "down:block:abcabd", "block:e"],
    ),
    (
        "xor",
        &["k", "secret", "a key that is longer than one of the blocks in which xor.c goes about its work, by a little"],
    ),
    ("linecount", &["", "0", "1", "5000"]),
];

/// How `make build-plugin` compiles, and a little more.
pub(crate) const STRICT: &[&str] =
    &["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-pedantic", "-fPIC", "-shared", "-fvisibility=hidden"];

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The library of an example.
pub(crate) fn example(name: &str) -> PathBuf {
    library(&root().join(format!("c_plugins/{name}.c")), &[])
}

/// The plugin that does what its configuration says.
pub(crate) fn hostile() -> PathBuf {
    library(&root().join("tests/plugins/hostile.c"), &[])
}

/// The plugin that logs what it is told of connections.
pub(crate) fn facts() -> PathBuf {
    library(&root().join("tests/plugins/facts.c"), &[])
}

/// A plugin whose table is wrong in this way.
pub(crate) fn table(fault: &str) -> PathBuf {
    library(&root().join("tests/plugins/table.c"), &[&format!("-D{fault}")])
}

/// A library made from a source file; with another `-D`, another library.
pub(crate) fn library(source: &Path, flags: &[&str]) -> PathBuf {
    let mut words = vec!["cc"];
    words.extend(STRICT);
    words.extend(flags);
    compile(&words, &[source], ".so").unwrap_or_else(|output| panic!("{}", said(&output)))
}

/// Runs a compiler over some files, or finds what it made of the same ones before. Tests of several processes may do so
/// at once.
pub(crate) fn compile(words: &[&str], sources: &[&Path], suffix: &str) -> Result<PathBuf, Output> {
    let header = root().join("c_plugins/arus_plugin.h");
    let mut hash = DefaultHasher::new();
    words.hash(&mut hash);
    for file in sources.iter().copied().chain([header.as_path()]) {
        fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display())).hash(&mut hash);
    }
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugins");
    fs::create_dir_all(&directory).unwrap();
    let stem = sources.last().unwrap().file_stem().unwrap().to_string_lossy().into_owned();
    let made = directory.join(format!("{stem}-{:016x}{suffix}", hash.finish()));
    if !made.exists() {
        let own = tempfile::tempdir_in(&directory).unwrap();
        let fresh = own.path().join("made");
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg("-I").arg(header.parent().unwrap()).arg("-o").arg(&fresh).args(sources);
        let output = command.output().unwrap_or_else(|error| panic!("{}: {error}", words[0]));
        if !output.status.success() {
            return Err(output);
        }
        // arus takes no library that others may write to, whatever the umask here.
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&fresh, &made).unwrap();
    }
    Ok(made)
}

/// What a program printed.
pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
