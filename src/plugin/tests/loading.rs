//! What is loaded, what is refused, and that replacing a file is loading another one.

use super::*;

struct Directory(tempfile::TempDir);

impl Directory {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A plugin whose table is what `table` says, in C.
    fn with_table(&self, table: &str) -> Result<Arc<Library>, LoadError> {
        self.load(&format!("#include \"arus_plugin.h\"\n{COMMON}\n{table}\n"))
    }

    fn load(&self, code: &str) -> Result<Arc<Library>, LoadError> {
        let source = self.file("table.c");
        std::fs::write(&source, code).unwrap();
        let path = self.file("table.so");
        compile(&source, &["-Wno-unused-function"], &path);
        LIBRARIES.lock().unwrap().load("table", &path, TRUST)
    }

    fn refusal_of(&self, code: &str) -> String {
        self.load(code).expect_err(code).to_string()
    }

    fn refusal(&self, table: &str) -> String {
        self.with_table(table).expect_err(table).to_string()
    }
}

const COMMON: &str = "
static int32_t data(void *a, void *b, arus_io *io) { (void)a; (void)b; arus_pass(io, io->input_len); return ARUS_OK; }
";

fn table(fields: &str) -> String {
    format!(
        "static const arus_plugin plugin = {{ .magic = ARUS_PLUGIN_MAGIC, .abi_major = 1, .size = sizeof(arus_plugin),
         .name = \"t\", .version = \"2\", .flags = ARUS_UP, .data = data, {fields} }};
         ARUS_PLUGIN(plugin)"
    )
}

#[test]
fn a_good_table_is_taken_and_may_be_newer() {
    let directory = Directory::new();
    let library = directory.with_table(&table(".holdback_max = 65536,")).unwrap();
    assert_eq!((library.name(), library.version(), library.abi()), ("t", "2", (1, 0)));
    assert!(library.sees_up() && !library.sees_down());
    assert_eq!((library.connection_size(), library.holdback_max()), (0, 65536));
    // A newer minor version has a longer table.
    let newer = "static const struct { arus_plugin table; void *more[4]; } plugin = { { .magic = ARUS_PLUGIN_MAGIC,
        .abi_major = 1, .abi_minor = 9, .size = sizeof(arus_plugin) + 32, .name = \"t\", .version = \"3\", .flags = ARUS_DOWN,
        .data = data }, {0} };
        ARUS_PLUGIN(plugin.table)";
    assert_eq!(directory.with_table(newer).unwrap().abi(), (1, 9));
}

#[test]
fn every_bad_table_is_refused_with_its_reason() {
    let directory = Directory::new();
    let long = "x".repeat(65);
    for (fields, reason) in [
        (".magic = 7,", "does not begin with ARUS_PLUGIN_MAGIC"),
        (".abi_major = 2, .abi_minor = 3,", "version 2.3 of the plugin interface, and this arus has 1.0"),
        (".size = 96,", "a table of 96 bytes, where version 1.0 has 104"),
        (".size = 1 << 30,", "ends outside of the library"),
        (".name = 0,", "has no name"),
        (".name = \"\",", "a name that is not printable"),
        (".version = \"\\x1b[31m\",", "a version that is not printable"),
        (&format!(".version = \"{long}\","), "a version that does not end within 64 bytes"),
        (".name = (const char *)1,", "a name that does not end"),
        (".flags = 0,", "neither direction"),
        (".flags = 5,", "flags that this arus does not know: 0x4"),
        (".connection_size = 65537,", "a connection_size of 65537, more than 65536"),
        (".holdback_max = 0x80000000,", "a holdback_max of 2147483648, more than 65536"),
        (".data = 0,", "has no data function"),
        (".data = (void *)0x1000,", "a data that is not a function of this file"),
        (".process_open = (void *)&plugin,", "a process_open that is not a function of this file"),
        (".connection_close = (void *)-1,", "a connection_close that is not a function of this file"),
    ] {
        let refusal = directory.refusal(&format!("static const arus_plugin plugin;\n{}", table(fields)));
        assert!(refusal.contains(reason), "{fields}: {refusal}");
    }
}

#[test]
fn what_is_no_plugin_is_refused() {
    let directory = Directory::new();
    let other = |code: &str| directory.refusal(code);
    assert!(other("int x = 1;").contains("does not export arus_plugin_v1"));
    assert!(other("const arus_plugin *arus_plugin_v1(void) { return 0; }").contains("inside of the library"));
    assert!(other("const arus_plugin *arus_plugin_v1(void) { return (void *)3; }").contains("inside of the library"));
    assert!(
        other("#include <stdlib.h>\nconst arus_plugin *arus_plugin_v1(void) { return malloc(500); }")
            .contains("inside of the library")
    );
    let variable = "__attribute__((visibility(\"default\"))) int arus_plugin_v1 = 5;";
    assert!(directory.refusal_of(variable).contains("does not export"));
    assert!(other("extern void missing_symbol(void); void f(void) { missing_symbol(); }").contains("missing_symbol"));
    let text = directory.file("text.so");
    std::fs::write(&text, "not a library").unwrap();
    let refusal = LIBRARIES.lock().unwrap().load("t", &text, TRUST).unwrap_err().to_string();
    assert!(refusal.starts_with("cannot be loaded: ") && !refusal.contains("/proc/self"), "{refusal}");
    std::fs::write(&text, "").unwrap();
    assert!(LIBRARIES.lock().unwrap().load("t", &text, TRUST).is_err());
}

#[test]
fn the_same_content_is_loaded_once_and_other_content_beside_it() {
    let directory = Directory::new();
    let (one, two) = (directory.file("one.so"), directory.file("two.so"));
    compile(&script(), &["-DVERSION=1"], &one);
    let source = directory.file("other.c");
    std::fs::write(&source, format!("#include \"arus_plugin.h\"\n{COMMON}\n{}", table(""))).unwrap();
    let mut libraries = Libraries::default();
    let first = libraries.load("p", &one, TRUST).unwrap();
    std::fs::copy(&one, &two).unwrap();
    assert!(Arc::ptr_eq(&first, &libraries.load("q", &two, TRUST).unwrap()));
    // In place: the same path and inode.
    let other = directory.file("other.so");
    compile(&source, &[], &other);
    std::fs::write(&one, std::fs::read(&other).unwrap()).unwrap();
    let second = libraries.load("p", &one, TRUST).unwrap();
    assert_eq!((first.name(), second.name()), ("script", "t"));
    assert_ne!(first.digest, second.digest);
    // The first one still runs, from its copy.
    let state = Arc::new(PluginState::new("p".into(), 1));
    let process = Process::open(terms("upper", OnFault::Close), first, state, Generation(1), 1).unwrap();
    let buffers = Buffers::detached(8).unwrap();
    let (mut up, _down) = Streams::open(&buffers, &[instance_of(&process)], &facts()).unwrap().unwrap();
    assert_eq!(run_all(&buffers, &mut up, &[b"abc"]), (b"ABC".to_vec(), Turn::Ended));
}

#[test]
fn what_process_open_says_is_told_in_one_printable_line() {
    let said = |config: &str| process_with(terms(config, OnFault::Close)).unwrap_err();
    assert_eq!(said("open-error"), "no such\\nmode");
    assert_eq!(said("open-long-error"), "x".repeat(512));
    assert_eq!(said("open-rubbish"), "process_open gave the unknown answer 77");
    assert_eq!(said(&"y".repeat(100)), "process_open answered ERROR and said nothing");
}
