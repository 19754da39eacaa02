//! The C side of plugins, without arus: the header in every dialect, and the examples under the sanitizers with a host
//! that is played by `tests/plugins/driver.c`.
#![allow(clippy::unwrap_used)]

#[path = "plugins/cc.rs"]
mod cc;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cc::{EXAMPLES, compile, root, said};

const SANITIZERS: &[&str] =
    &["cc", "-std=c99", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"];

/// A plugin and the driver in one program, under the sanitizers.
fn driver(plugin: &Path) -> PathBuf {
    let driver = root().join("tests/plugins/driver.c");
    compile(SANITIZERS, &[&driver, plugin], "-driver").unwrap_or_else(|output| panic!("{}", said(&output)))
}

/// Whether programs can be built with the sanitizers, and run. Says so loudly if not.
fn has_sanitizers() -> bool {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("probe.c");
    fs::write(&source, "int main(void) { return 0; }\n").unwrap();
    let why = match compile(SANITIZERS, &[&source], "-sanitized") {
        Ok(program) => match Command::new(program).output().unwrap() {
            output if output.status.success() => return true,
            output => said(&output),
        },
        Err(output) => said(&output),
    };
    eprintln!("SKIPPED: plugins are not tested under AddressSanitizer: {why}");
    false
}

fn run(driver: &Path, arguments: &[&str]) -> Output {
    Command::new(driver).args(arguments).output().unwrap()
}

#[test]
fn the_header_and_the_examples_compile_in_every_dialect_without_a_warning() {
    let mut compiled = 0;
    for (name, _) in EXAMPLES {
        let source = root().join(format!("c_plugins/{name}.c"));
        for dialect in ["-std=c99", "-std=c11", "-std=gnu17"] {
            let mut words = vec!["cc", dialect];
            words.extend(&cc::STRICT[1..]);
            words.extend(["-Wshadow", "-Wstrict-prototypes", "-Wmissing-prototypes", "-Wpointer-arith"]);
            compile(&words, &[&source], ".so").unwrap_or_else(|output| panic!("{name}: {}", said(&output)));
            compiled += 1;
        }
    }
    assert!(compiled >= 9);
}

/// The table in order before C++20, by name from then on.
#[test]
fn a_plugin_can_be_written_in_cxx() {
    let directory = tempfile::tempdir().unwrap();
    let body = "#include \"arus_plugin.h\"\n\
        static int32_t see(void *, void *, arus_io *io) {\n\
            arus_pass(io, io->input_len);\n\
            return ARUS_HAS(io->host, clock) ? ARUS_OK : ARUS_ERROR;\n\
        }\n";
    let in_order = "static const arus_plugin plugin = {\n\
        ARUS_PLUGIN_HEAD, \"cxx\", \"1.0\", ARUS_UP | ARUS_DOWN, 0, 0, 0,\n\
        nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, see,\n};\nARUS_PLUGIN(plugin)\n";
    let by_name = "static const arus_plugin plugin = {\n\
        ARUS_PLUGIN_HEAD, .name = \"cxx\", .version = \"1.0\", .flags = ARUS_UP | ARUS_DOWN, .connection_size = 0,\n\
        .holdback_max = 0, .reserved = 0, .process_open = nullptr, .process_close = nullptr, .shard_open = nullptr,\n\
        .shard_close = nullptr, .connection_open = nullptr, .connection_close = nullptr, .data = see,\n};\n\
        ARUS_PLUGIN(plugin)\n";
    let source = directory.path().join("cxx.cc");
    for (dialect, table) in [("-std=c++11", in_order), ("-std=c++17", in_order), ("-std=c++20", by_name)] {
        fs::write(&source, format!("{body}{table}")).unwrap();
        let mut words = vec!["c++", dialect];
        words.extend(&cc::STRICT[1..]);
        let library = compile(&words, &[&source], ".so").unwrap_or_else(|output| panic!("{}", said(&output)));
        let symbols = said(&Command::new("nm").args(["-D", "--defined-only"]).arg(library).output().unwrap());
        assert!(symbols.contains(" T arus_plugin_v1\n"), "not mangled: {symbols}");
    }
}

#[test]
fn examples_give_the_same_however_the_bytes_are_cut_and_the_sanitizers_find_nothing() {
    if !has_sanitizers() {
        return;
    }
    let seed = std::env::var("SEED").unwrap_or_else(|_| "20261120".into());
    let mut runs = 0;
    for (name, configurations) in EXAMPLES {
        let driver = driver(&root().join(format!("c_plugins/{name}.c")));
        for config in *configurations {
            let output = run(&driver, &[config, &seed, "60"]);
            assert!(output.status.success(), "{name} with {config:?}: {}", said(&output));
            assert_eq!(said(&output), "ok: 60 rounds\n");
            runs += 1;
        }
    }
    assert!(runs >= 12);
}

/// Plugins that hold back, grow, shrink, add to the end; and proof that the driver sees what is wrong.
#[test]
fn the_driver_takes_what_is_allowed_and_nothing_else() {
    if !has_sanitizers() {
        return;
    }
    let driver = driver(&root().join("tests/plugins/hostile.c"));
    for good in
        ["pass", "grow", "shrink", "halve", "trailer:40000", "reverse", "detach:3000", "scratch", "open-counters"]
    {
        let output = run(&driver, &[good, "7", "10"]);
        assert!(output.status.success(), "{good}: {}", said(&output));
    }
    for (bad, says) in [
        ("pass-too-much", "more than is left"),
        ("commit-too-much", "commit of 11 bytes of 10"),
        ("commit-after-pass", "without a reserve"),
        ("reserve-gigabytes", "reserve of 4294967296"),
        ("leave-a-rest", "OK with a rest"),
        ("hold-everything", "a rest of"),
        ("never-progress", "never progresses"),
        ("pretend-progress", "never progresses"),
        ("answer:99", "answered 99"),
        ("foreign-io", "not of this call"),
        ("mark-pieces", "in one piece"),
        ("crash", "AddressSanitizer"),
        ("open-error-empty", "process_open"),
    ] {
        let output = run(&driver, &[bad, "7", "10"]);
        assert!(!output.status.success() && said(&output).contains(says), "{bad}: {}", said(&output));
    }
}

/// The blocks of C in the documentation that are whole functions, each with a table.
fn recipes() -> Vec<String> {
    let text = fs::read_to_string(root().join("docs/PLUGINS.md")).unwrap();
    let blocks = text.split("```c\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let whole = blocks.filter(|block| block.contains("static int32_t "));
    let complete = |block: &str| {
        let member = |name: &str| match block.contains(&format!(" {name}(")) {
            true => format!("    .{name} = {name},\n"),
            false => String::new(),
        };
        let pass = "static int32_t data(void *shard, void *scratch, arus_io *io) {\n    (void)shard; (void)scratch;\n    \
                    arus_pass(io, io->input_len);\n    return ARUS_OK;\n}\n";
        format!(
            "#include \"arus_plugin.h\"\n#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n{block}{}\
             static const arus_plugin plugin = {{\n    ARUS_PLUGIN_HEAD,\n    .name = \"recipe\",\n    .version = \"1\",\n    \
             .flags = ARUS_UP | ARUS_DOWN,\n    .connection_size = 64,\n    .holdback_max = 1023,\n{}{}{}    .data = \
             data,\n}};\nARUS_PLUGIN(plugin)\n",
            if block.contains(" data(") { "" } else { pass },
            member("connection_open"),
            member("shard_open"),
            member("shard_close"),
        )
    };
    whole.map(complete).collect()
}

#[test]
fn the_recipes_of_the_documentation_compile_and_hold_under_any_cut() {
    let directory = tempfile::tempdir().unwrap();
    let recipes = recipes();
    assert!(recipes.len() >= 7, "only {} were found", recipes.len());
    let has_sanitizers = has_sanitizers();
    for (number, recipe) in recipes.iter().enumerate() {
        let source = directory.path().join(format!("recipe_{number}.c"));
        fs::write(&source, recipe).unwrap();
        cc::library(&source, &[]);
        if has_sanitizers {
            let output = run(&driver(&source), &["DELETE ", "3", "40"]);
            assert!(output.status.success(), "{}\n{recipe}", said(&output));
        }
    }
}

#[test]
fn the_reference_names_every_word_of_the_header() {
    let header = fs::read_to_string(root().join("c_plugins/arus_plugin.h")).unwrap();
    let reference = fs::read_to_string(root().join("docs/PLUGINS.md")).unwrap();
    let inner = [
        "ARUS_PLUGIN_H",
        "ARUS_PLUGIN_MAGIC",
        "ARUS_EXTERN_C",
        "ARUS_ASSERT",
        "ARUS_AT",
        "ARUS_SIZE",
        "ARUS_ABI_MINOR",
    ];
    let words = header.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let mut words: Vec<&str> = words.filter(|word| word.starts_with("ARUS_") && !word.ends_with('_')).collect();
    words.extend(header.lines().filter_map(|line| {
        let name = line.strip_prefix("static inline ")?.split('(').next()?.rsplit([' ', '*']).next()?;
        name.starts_with("arus_").then_some(name)
    }));
    words.sort_unstable();
    words.dedup();
    assert!(words.len() > 50 && words.contains(&"arus_pass"), "{words:?}");
    let is_named = |word: &&str| {
        let attribute = word.strip_prefix("ARUS_ATTRIBUTE_").map(|rest| format!("`{rest}`"));
        reference.contains(*word) || attribute.is_some_and(|attribute| reference.contains(&attribute))
    };
    let missing: Vec<_> = words.into_iter().filter(|word| !inner.contains(word) && !is_named(word)).collect();
    assert!(missing.is_empty(), "not in docs/PLUGINS.md: {missing:?}");
}

#[test]
fn a_skeleton_compiles_does_nothing_and_overwrites_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().to_str().unwrap();
    let write =
        |arguments: &[&str]| Command::new(root().join("scripts/new-plugin.sh")).args(arguments).output().unwrap();
    let written = write(&["my_first2", place]);
    assert!(written.status.success(), "{}", said(&written));
    let source = directory.path().join("my_first2.c");
    assert_eq!(said(&written).trim(), source.to_str().unwrap());
    let text = fs::read_to_string(&source).unwrap();
    assert!(text.contains(&format!("arus plugin check {place}/my_first2.so")), "{text}");
    cc::library(&source, &[]);

    fs::write(&source, "mine").unwrap();
    let again = write(&["my_first2", place]);
    assert_eq!(again.status.code(), Some(1), "{}", said(&again));
    for bad in ["", "../up", "a b", "9lives", "Upper", "a.c", "-h", "naïve", &"a".repeat(41)] {
        let refused = write(&[bad, place]);
        // `-h` is a question.
        assert_eq!(refused.status.success(), bad == "-h", "{bad}: {}", said(&refused));
    }
    assert_eq!(write(&["good", "/nowhere/at/all"]).status.code(), Some(1));
    assert_eq!(write(&[]).status.code(), Some(2));
    let left: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!((left, fs::read_to_string(&source).unwrap().as_str()), (vec!["my_first2.c".into()], "mine"));
}
