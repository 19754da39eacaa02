//! arus as a process: configuration in, log and control socket out, and its end.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::{Address, Backend, DEADLINE, Log, Process, within};

type Hook = Box<dyn FnOnce(&mut Command) + Send + Sync>;

/// How to start an arus.
pub(crate) struct Setup {
    directory: TempDir,
    shards: u16,
    engine: String,
    body: String,
    log: String,
    admin: String,
    wrap: Vec<String>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    descriptors: Option<u64>,
    hook: Option<Hook>,
}

impl Setup {
    /// `body` is the configuration but `[engine]`, `[log]` and `[admin]`. `{dir}` in it becomes the temporary
    /// directory.
    pub(crate) fn new(body: impl Into<String>) -> Self {
        let directory = tempfile::Builder::new().prefix("arus-e2e-").tempdir().unwrap();
        let body = body.into().replace("{dir}", directory.path().to_str().unwrap());
        Self {
            directory,
            shards: 2,
            engine: String::new(),
            body,
            log: "format = \"json\"".into(),
            admin: "listen = 'off'".into(),
            wrap: Vec::new(),
            arguments: Vec::new(),
            environment: Vec::new(),
            descriptors: None,
            hook: None,
        }
    }

    /// A listener `web` before an upstream `app` of these backends.
    pub(crate) fn one(listen: &str, backends: &[&Backend]) -> Self {
        let backends: Vec<String> = backends.iter().map(|backend| backend.address().to_string()).collect();
        Self::to(listen, &backends, "", "")
    }

    /// As [`Setup::one`], with further keys for the listener and the upstream.
    pub(crate) fn to(listen: &str, backends: &[String], listener: &str, upstream: &str) -> Self {
        Self::new(format!(
            "[[upstream]]\nname = \"app\"\nbackends = {backends:?}\n{upstream}\n\
             [[listener]]\nname = \"web\"\nlisten = \"{listen}\"\nupstream = \"app\"\n{listener}\n"
        ))
    }

    pub(crate) fn shards(mut self, shards: u16) -> Self {
        self.shards = shards;
        self
    }

    /// A line of `[engine]`.
    pub(crate) fn engine(mut self, line: &str) -> Self {
        let _ = writeln!(self.engine, "{line}");
        self
    }

    /// Text before everything else, as a `[timeouts]` table.
    pub(crate) fn also(mut self, text: &str) -> Self {
        self.body = format!("{text}\n{}", self.body);
        self
    }

    pub(crate) fn env(mut self, key: &str, value: &str) -> Self {
        self.environment.push((key.into(), value.into()));
        self
    }

    /// The content of `[log]` instead of `format = "json"`. `{dir}` in it becomes the temporary directory.
    pub(crate) fn log(mut self, table: &str) -> Self {
        self.log = table.replace("{dir}", self.directory().to_str().unwrap());
        self
    }

    /// The content of `[admin]` instead of `listen = 'off'`.
    pub(crate) fn admin(mut self, table: &str) -> Self {
        self.admin = table.into();
        self
    }

    /// A program that is started instead, and starts the rest of its command line: `setpriv` and the like.
    pub(crate) fn wrap(mut self, words: &[&str]) -> Self {
        self.wrap.extend(words.iter().map(|word| word.to_string()));
        self
    }

    /// A further word of the command line.
    pub(crate) fn argument(mut self, word: &str) -> Self {
        self.arguments.push(word.into());
        self
    }

    /// Does something to the command before it is started.
    pub(crate) fn hook(mut self, hook: impl FnOnce(&mut Command) + Send + Sync + 'static) -> Self {
        self.hook = Some(Box::new(hook));
        self
    }

    /// RLIMIT_NOFILE, soft and hard.
    pub(crate) fn descriptors(mut self, limit: u64) -> Self {
        self.descriptors = Some(limit);
        self
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn text(&self) -> String {
        let (shards, state) = (self.shards, self.directory().join("state"));
        // Some tests have their own.
        let admin = if self.body.contains("[admin]") { String::new() } else { format!("[admin]\n{}\n", self.admin) };
        format!(
            "[engine]\nshards = {shards}\npin = false\nstate_dir = \"{}\"\n{}\n[log]\n{}\n{}{}\n",
            state.display(),
            self.engine,
            self.log,
            admin,
            self.body
        )
    }

    /// Starts it and waits until it is ready.
    pub(crate) fn start(self) -> Arus {
        let arus = self.launch();
        let lines = || arus.log.lines().iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
        assert!(arus.log.try_ready(), "arus does not get ready:\n{}", lines());
        arus
    }

    /// Starts it.
    pub(crate) fn launch(mut self) -> Arus {
        let config = self.directory().join("proxy.toml");
        std::fs::write(&config, self.text()).unwrap();
        let words = self.wrap.iter().map(String::as_str).chain([env!("CARGO_BIN_EXE_arus")]);
        let words: Vec<&str> = words.collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg("run").arg("--config").arg(&config).args(&self.arguments);
        command.envs(self.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        if let Some(limit) = self.descriptors {
            use std::os::unix::process::CommandExt;
            let lower = move || setrlimit(Resource::RLIMIT_NOFILE, limit, limit).map_err(Into::into);
            // SAFETY: between fork and exec only setrlimit(2) is called, which is async-signal-safe.
            #[allow(unsafe_code)]
            unsafe {
                command.pre_exec(lower)
            };
        }
        if let Some(hook) = self.hook.take() {
            hook(&mut command);
        }
        let mut child = command.spawn().unwrap_or_else(|error| panic!("start arus: {error}"));
        let log = Log::follow(child.stderr.take().unwrap());
        Arus { child, log, setup: self, config, ended: None }
    }
}

/// A running arus; killed when dropped.
pub(crate) struct Arus {
    child: Child,
    pub(crate) log: Log,
    setup: Setup,
    config: PathBuf,
    ended: Option<ExitStatus>,
}

impl Arus {
    /// The first address of a listener.
    pub(crate) fn address(&self, listener: &str) -> Address {
        self.addresses(listener).into_iter().next().unwrap_or_else(|| panic!("{listener} listens nowhere"))
    }

    /// The addresses of a listener, as it said at the start.
    pub(crate) fn addresses(&self, listener: &str) -> Vec<Address> {
        let lines = self.log.lines();
        let own = lines.iter().filter(|line| line["message"] == "listening" && line["listener"] == listener);
        own.map(|line| Address::parse(line["address"].as_str().unwrap())).collect()
    }

    pub(crate) fn directory(&self) -> &Path {
        self.setup.directory()
    }

    /// The configuration file.
    pub(crate) fn config(&self) -> &Path {
        &self.config
    }

    pub(crate) fn process(&self) -> Process {
        Process(self.child.id())
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Waits until the access log has `count` lines.
    pub(crate) fn finished(&self, count: usize) -> Vec<Value> {
        self.log.finished(count)
    }

    /// Waits for the line of the access log for the client with this address.
    pub(crate) fn session_of(&self, client: impl ToString) -> Value {
        self.session_where(client, |_| true)
    }

    /// The same where there are many listeners: connections to two of them may have the same port.
    pub(crate) fn session_at(&self, listener: &str, client: impl ToString) -> Value {
        self.session_where(client, |line| line["listener"] == listener)
    }

    fn session_where(&self, client: impl ToString, holds: impl Fn(&Value) -> bool) -> Value {
        let client = Value::from(client.to_string());
        let is_its = |line: &&Value| line.get("bytes_up").is_some() && line["source"] == client && holds(line);
        self.log.wait(DEADLINE, &format!("the line of {client}"), |lines| lines.iter().find(is_its).cloned())
    }

    pub(crate) fn control_socket(&self) -> PathBuf {
        self.directory().join("state/control.sock")
    }

    /// A request over the control socket; gives code and body.
    pub(crate) fn request(&self, method: &str, path: &str) -> (u16, Value) {
        let mut stream = UnixStream::connect(self.control_socket()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nhost: arus\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        (code, serde_json::from_str(body).unwrap_or_else(|_| panic!("not JSON, or in chunks: {answer}")))
    }

    pub(crate) fn status(&self) -> Value {
        self.request("GET", "/api/v1/status").1
    }

    /// The live sessions.
    pub(crate) fn sessions(&self) -> Vec<Value> {
        let (code, page) = self.request("GET", "/api/v1/sessions?state=active&page_size=10000");
        assert_eq!(code, 200, "{page}");
        page["data"].as_array().unwrap().clone()
    }

    /// Live sessions in all.
    pub(crate) fn active(&self) -> u64 {
        self.status()["totals"]["active"].as_u64().unwrap()
    }

    /// Waits until `active` sessions live.
    pub(crate) fn wait_active(&self, active: u64) {
        super::eventually(&format!("{active} live sessions"), || (self.active() == active).then_some(()));
    }

    /// The sum of a number over all shards.
    pub(crate) fn shard_sum(&self, pointer: &str) -> u64 {
        let status = self.status();
        let shards = status["shards"].as_array().unwrap().iter();
        shards.map(|shard| shard.pointer(pointer).and_then(Value::as_u64).expect("a number")).sum()
    }

    /// Open descriptors, once everything that begins after `ready` has begun.
    pub(crate) fn descriptors(&self) -> usize {
        super::eventually("the configuration is watched", || self.process().has_inotify().then_some(()));
        self.process().descriptors()
    }

    /// Waits until it has no more than so many descriptors; the control socket's connections may need some for a while.
    pub(crate) fn wait_descriptors(&self, most: usize) {
        let mut seen = 0;
        let deadline = std::time::Instant::now() + DEADLINE;
        while std::time::Instant::now() < deadline {
            seen = self.process().descriptors();
            if seen <= most {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{seen} descriptors, and {most} at the beginning: {:?}", self.process().tcp_states());
    }

    /// Waits until it holds no more than so many TCP connections, in whatever state.
    pub(crate) fn wait_connections(&self, most: usize) {
        super::eventually("its connections have ended", || {
            let states = self.process().tcp_states();
            (states.iter().filter(|state| *state != "LISTEN").count() <= most).then_some(())
        });
    }

    /// Waits until every buffer is back in its pool.
    pub(crate) fn wait_buffers_whole(&self) {
        let deadline = std::time::Instant::now() + DEADLINE;
        while self.shard_sum("/buffers/free") != self.shard_sum("/buffers/total") {
            assert!(std::time::Instant::now() < deadline, "not all buffers are free: {:#}", self.status()["shards"]);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Refused connections of a listener, by reason.
    pub(crate) fn rejected(&self, listener: &str) -> HashMap<String, u64> {
        let status = self.status();
        let listener = status["listeners"].as_array().unwrap().iter().find(|each| each["name"] == listener);
        let rejected = listener.expect("the listener")["rejected"].as_object().unwrap().clone();
        rejected.into_iter().map(|(reason, count)| (reason, count.as_u64().unwrap())).collect()
    }

    /// Runs `arus` with arguments against this one's control socket; gives what it printed and whether it succeeded.
    pub(crate) fn command(&self, arguments: &[&str]) -> (String, bool) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_arus"));
        command.args(arguments).arg("--socket").arg(self.control_socket());
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        (text.into_owned(), output.status.success())
    }

    /// Another process in the same place, with the same configuration and state, once this one has ended.
    pub(crate) fn again(mut self) -> Self {
        self.wait_exit(DEADLINE);
        let spare = Setup::new("");
        std::mem::replace(&mut self.setup, spare).start()
    }

    /// Waits until the process has ended.
    pub(crate) fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        if let Some(status) = self.ended {
            return status;
        }
        let status = within(limit, "arus ends", || self.child.try_wait().unwrap());
        self.ended = Some(status);
        status
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.ended.is_none() && self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Arus {
    fn drop(&mut self) {
        if self.ended.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            let lines = self.log.lines();
            let tail: Vec<String> = lines.iter().rev().take(30).rev().map(Value::to_string).collect();
            eprintln!("--- last lines of arus {}\n{}\n---", self.child.id(), tail.join("\n"));
        }
    }
}
