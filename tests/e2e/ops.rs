//! What the tests of operations have in common: configurations that change, backends that say who they are, programs
//! that may be missing.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::Value;

use crate::harness::{Address, Arus, Backend, Stream, behaviour};

/// An `[[upstream]]` with further keys.
pub(crate) fn upstream(name: &str, backends: &[&Backend], keys: &str) -> String {
    let backends: Vec<String> = backends.iter().map(|backend| backend.address().to_string()).collect();
    format!("[[upstream]]\nname = \"{name}\"\nbackends = {backends:?}\n{keys}\n")
}

/// A `[[listener]]` with further keys.
pub(crate) fn listener(name: &str, listen: &str, upstream: &str, keys: &str) -> String {
    format!("[[listener]]\nname = \"{name}\"\nlisten = \"{listen}\"\nupstream = \"{upstream}\"\n{keys}\n")
}

/// The configuration file with another body: what stands before its first upstream or listener is kept.
pub(crate) fn with_body(arus: &Arus, body: &str) -> String {
    let text = std::fs::read_to_string(arus.config()).unwrap();
    let head = text.find("[[").unwrap_or(text.len());
    format!("{}{body}", &text[..head])
}

/// Writes a new body into the configuration file.
pub(crate) fn configure(arus: &Arus, body: &str) {
    std::fs::write(arus.config(), with_body(arus, body)).unwrap();
}

/// `arus reload`: the generation, or what it printed when it refused. Checks the exit code.
pub(crate) fn reload(arus: &Arus) -> Result<u64, String> {
    let output = arus_command(&["reload", "--socket", arus.control_socket().to_str().unwrap()]);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    match output.status.code() {
        Some(0) => Ok(out.trim().strip_prefix("generation ").expect("a generation").parse().unwrap()),
        Some(1) => Err(err),
        code => panic!("arus reload: {code:?}: {out}{err}"),
    }
}

pub(crate) fn arus_command(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_arus")).args(arguments).stdin(Stdio::null()).output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) fn generation(arus: &Arus) -> u64 {
    arus.status()["generation"].as_u64().unwrap()
}

/// Where a listener listens now.
pub(crate) fn addresses(arus: &Arus, listener: &str) -> Vec<Address> {
    let status = arus.status();
    let listeners = status["listeners"].as_array().unwrap();
    let listener = listeners.iter().find(|each| each["name"] == listener);
    let addresses = listener.map(|listener| listener["addresses"].as_array().unwrap().clone()).unwrap_or_default();
    addresses.iter().map(|address| Address::parse(address.as_str().unwrap())).collect()
}

/// One backend as `arus status` shows it.
pub(crate) fn backend_status(arus: &Arus, address: &Address) -> Value {
    let status = arus.status();
    let upstreams = status["upstreams"].as_array().unwrap().iter();
    let mut backends = upstreams.flat_map(|upstream| upstream["backends"].as_array().unwrap().clone());
    backends.find(|backend| backend["address"] == address.to_string()).unwrap_or_else(|| panic!("no {address}"))
}

/// Says `tag`, then echoes.
pub(crate) fn tagged(tag: &'static str) -> Backend {
    Backend::start(tag_and_echo(tag))
}

pub(crate) fn tag_and_echo(tag: &'static str) -> impl Fn(Stream, usize) + Send + Sync + 'static {
    move |mut stream, number| {
        if stream.try_write_all(format!("{tag}\n").as_bytes()).is_ok() {
            behaviour::echo(stream, number);
        }
    }
}

/// Reads what a [`tagged`] backend says first.
pub(crate) fn read_tag(stream: &mut Stream) -> String {
    let mut tag = String::new();
    loop {
        let byte = stream.read_exactly(1)[0];
        if byte == b'\n' {
            return tag;
        }
        tag.push(byte.into());
    }
}

/// A connection, and who answers it.
pub(crate) fn ask(address: &Address) -> (Stream, String) {
    let mut stream = Stream::connect(address);
    let tag = read_tag(&mut stream);
    (stream, tag)
}

/// Sends some bytes and checks that they come back.
pub(crate) fn check_echo(stream: &mut Stream, seed: u64) {
    stream.send(seed, 0, 5000);
    stream.expect(seed, 0, 5000);
}

/// Answers health checks (`PING`) as it is told, and echoes to everybody else after saying `tag`.
pub(crate) struct Patient {
    pub(crate) backend: Backend,
    well: Arc<AtomicBool>,
    good: Arc<AtomicUsize>,
    bad: Arc<AtomicUsize>,
}

impl Patient {
    pub(crate) fn start(tag: &'static str) -> Self {
        let well = Arc::new(AtomicBool::new(true));
        let (good, bad) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (is_well, passes, failures) = (Arc::clone(&well), Arc::clone(&good), Arc::clone(&bad));
        let serve = move |mut stream: Stream, number| {
            let mut begin = [0; 6];
            let count = stream.read_some(&mut begin).unwrap_or(0);
            if &begin[..count] != b"PING\r\n" {
                let _ = stream.try_write_all(format!("{tag}\n").as_bytes());
                return behaviour::echo(stream, number);
            }
            let is_well = is_well.load(Ordering::SeqCst);
            if is_well { &passes } else { &failures }.fetch_add(1, Ordering::SeqCst);
            let _ = stream.try_write_all(if is_well { b"I PONG\r\n" } else { b"ILL\r\n" });
        };
        Self { backend: Backend::start(serve), well, good, bad }
    }

    /// From now on checks pass or fail; both counts begin at 0.
    pub(crate) fn set_well(&self, well: bool) {
        self.well.store(well, Ordering::SeqCst);
        self.good.store(0, Ordering::SeqCst);
        self.bad.store(0, Ordering::SeqCst);
    }

    /// Checks that passed since.
    pub(crate) fn passed(&self) -> usize {
        self.good.load(Ordering::SeqCst)
    }

    /// Checks that failed since.
    pub(crate) fn failed(&self) -> usize {
        self.bad.load(Ordering::SeqCst)
    }
}

/// A connection to a [`Patient`], which wants to hear something first.
pub(crate) fn visit(address: &Address) -> (Stream, String) {
    let mut stream = Stream::connect(address);
    stream.write_all(b"x");
    let tag = read_tag(&mut stream);
    (stream, tag)
}

/// Whether a program is installed; says so if not. Debian keeps daemons where not everybody looks.
pub(crate) fn has(program: &str) -> bool {
    let places = ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/bin", "/usr/local/sbin"];
    let found = places.iter().any(|place| Path::new(place).join(program).exists());
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

/// Whether the test may do what only root may; says so if not.
pub(crate) fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: only root can do this");
    }
    is_root
}

/// The words that start a program as a user without any right, or `None` (said) where that cannot be.
pub(crate) fn as_nobody() -> Option<&'static [&'static str]> {
    const WORDS: &[&str] = &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"];
    if !is_root() || !has("setpriv") {
        return None;
    }
    let mut tried = Command::new(WORDS[0]);
    tried.args(&WORDS[1..]).args([env!("CARGO_BIN_EXE_arus"), "--version"]);
    if tried.output().is_ok_and(|output| output.status.success()) {
        return Some(WORDS);
    }
    eprintln!("skipped: nobody cannot execute {}", env!("CARGO_BIN_EXE_arus"));
    None
}

/// Lets everybody into a directory of the test.
pub(crate) fn open_to_all(directory: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o777)).unwrap();
}

/// A program with a log, killed when dropped; for command lines that are no [`crate::harness::Setup`]'s.
pub(crate) struct Running {
    pub(crate) child: std::process::Child,
    pub(crate) log: crate::harness::Log,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        let log = crate::harness::Log::follow(child.stderr.take().unwrap());
        Self { child, log }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
