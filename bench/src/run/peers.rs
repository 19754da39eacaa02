//! The proxies that are compared: how each is found, configured, started and told apart.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde_json::Value;
use tempfile::TempDir;

use super::meter::Meter;
use super::process::Process;
use crate::net;

const HAPROXY_CFG: &str = include_str!("../../peers/haproxy.cfg");
const NGINX_CONF: &str = include_str!("../../peers/nginx.conf");
const ARUS_TOML: &str = include_str!("../../peers/arus.toml");
const IOCOPY_GO: &str = include_str!("../../peers/iocopy.go");

const START_PATIENCE: Duration = Duration::from_secs(10);
/// Where Debian keeps what is not in everybody's PATH.
const MORE_PATH: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];
const NGINX_MODULES: [&str; 2] = ["/usr/lib/nginx/modules", "/usr/lib64/nginx/modules"];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Peer {
    Arus,
    /// arus with `busy_poll = "always"`
    ArusBusy,
    Haproxy,
    /// HAProxy with `busy-polling`
    HaproxyBusy,
    Nginx,
    /// The featureless io_uring relay
    Floor,
    /// The splicing epoll relay
    Splice,
    /// Go's io.Copy
    Iocopy,
    /// tokio's copy_bidirectional with 64 KiB buffers
    TokioCopy,
}

/// Where the programs are that are not part of this one.
pub(crate) struct Programs {
    pub(crate) arus: PathBuf,
    pub(crate) haproxy: Option<PathBuf>,
    pub(crate) nginx: Option<PathBuf>,
    nginx_modules: Option<PathBuf>,
    iocopy: Option<PathBuf>,
    /// Holds what had to be built.
    _built: TempDir,
}

/// A started proxy. It ends with this guard: the process first, then its cgroup and directory.
pub(crate) struct Running {
    pub(crate) process: Process,
    pub(crate) meter: Meter,
    pub(crate) address: SocketAddr,
    _dir: TempDir,
}

impl Peer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Arus => "arus",
            Self::ArusBusy => "arus, busy polling",
            Self::Haproxy => "HAProxy",
            Self::HaproxyBusy => "HAProxy, busy-polling",
            Self::Nginx => "nginx stream",
            Self::Floor => "floor",
            Self::Splice => "splice relay",
            Self::Iocopy => "Go io.Copy",
            Self::TokioCopy => "tokio copy",
        }
    }

    /// Whether it moves bulk without copying it.
    pub(crate) fn splices(self) -> bool {
        matches!(self, Self::Splice | Self::Iocopy)
    }

    /// Why it cannot run here, if so.
    pub(crate) fn missing(self, programs: &Programs) -> Option<String> {
        match self {
            Self::Arus | Self::ArusBusy => (!programs.arus.is_file())
                .then(|| format!("{} is not there: build arus or give --arus", programs.arus.display())),
            Self::Haproxy | Self::HaproxyBusy => {
                programs.haproxy.is_none().then(|| "haproxy is not installed".to_owned())
            }
            Self::Nginx => (programs.nginx.is_none() || programs.nginx_modules.is_none())
                .then(|| "nginx with its stream module is not installed".to_owned()),
            Self::Iocopy => programs.iocopy.is_none().then(|| "no Go to build it".to_owned()),
            Self::TokioCopy => {
                (!cfg!(feature = "tokio-peer")).then(|| "arus-bench was built without feature tokio-peer".to_owned())
            }
            Self::Floor | Self::Splice => None,
        }
    }

    /// Starts it in front of `backend` on CPU `cpu`, and waits until it serves.
    pub(crate) fn start(self, programs: &Programs, cpu: usize, backend: SocketAddr) -> Result<Running> {
        let dir = TempDir::with_prefix("arus-bench-")?;
        let start = Start { peer: self, cpu, backend, dir: dir.path(), meter: Meter::new() };
        let missing = "was found before";
        let (process, address) = match self {
            Self::Arus => start.arus(&programs.arus, "")?,
            Self::ArusBusy => start.arus(&programs.arus, "busy_poll = \"always\"")?,
            Self::Haproxy => start.haproxy(programs.haproxy.as_deref().context(missing)?, "")?,
            Self::HaproxyBusy => start.haproxy(programs.haproxy.as_deref().context(missing)?, "busy-polling")?,
            Self::Nginx => start.nginx(
                programs.nginx.as_deref().context(missing)?,
                programs.nginx_modules.as_deref().context(missing)?,
            )?,
            Self::Floor => start.own("floor")?,
            Self::Splice => start.own("splice")?,
            Self::TokioCopy => start.own("tokio-copy")?,
            Self::Iocopy => start.iocopy(programs.iocopy.as_deref().context(missing)?)?,
        };
        Ok(Running { process, meter: start.meter, address, _dir: dir })
    }
}

/// What all the ways to start a proxy need.
struct Start<'a> {
    peer: Peer,
    cpu: usize,
    backend: SocketAddr,
    dir: &'a Path,
    meter: Meter,
}

impl Start<'_> {
    fn process(&self, program: &Path, args: &[&str]) -> Result<Process> {
        Process::start(self.peer.name(), self.cpu, self.meter.cgroup(), program, args)
    }

    /// Fills in a template; returns the path of the result.
    fn configuration(&self, name: &str, template: &str, listen: &str, more: &[(&str, &str)]) -> Result<String> {
        let mut text = template
            .replace("@LISTEN@", listen)
            .replace("@BACKEND@", &self.backend.to_string())
            .replace("@DIR@", &self.dir.to_string_lossy());
        for (key, value) in more {
            text = text.replace(key, value);
        }
        let path = self.dir.join(name);
        fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    }

    fn arus(&self, program: &Path, busy_polling: &str) -> Result<(Process, SocketAddr)> {
        let more = [("@BUSY_POLLING@", busy_polling)];
        let config = self.configuration("proxy.toml", ARUS_TOML, "127.0.0.1:0", &more)?;
        let args = ["run", "-c", &config, "--shards", "1", "--log-format", "json"];
        let mut process = self.process(program, &args)?;
        let address = process.wait_for(START_PATIENCE, |line| {
            let record: Value = serde_json::from_str(line).ok()?;
            let is_listening = string_field(&record, "message")? == "listening";
            let address = string_field(&record, "address")?;
            is_listening.then(|| address.parse().ok()).flatten()
        })?;
        process.wait_for(START_PATIENCE, |line| {
            let record: Value = serde_json::from_str(line).ok()?;
            (string_field(&record, "message")? == "ready").then_some(())
        })?;
        Ok((process, address))
    }

    fn haproxy(&self, program: &Path, busy_polling: &str) -> Result<(Process, SocketAddr)> {
        let address = net::free_port()?;
        let more = [("@BUSY_POLLING@", busy_polling)];
        let config = self.configuration("haproxy.cfg", HAPROXY_CFG, &address.to_string(), &more)?;
        let mut process = self.process(program, &["-db", "-f", &config])?;
        process.wait_accepting(address)?;
        Ok((process, address))
    }

    fn nginx(&self, program: &Path, modules: &Path) -> Result<(Process, SocketAddr)> {
        let address = net::free_port()?;
        let modules = modules.to_string_lossy();
        let more = [("@MODULES@", modules.as_ref())];
        let config = self.configuration("nginx.conf", NGINX_CONF, &address.to_string(), &more)?;
        let mut process = self.process(program, &["-c", &config])?;
        process.wait_accepting(address)?;
        Ok((process, address))
    }

    fn own(&self, subcommand: &str) -> Result<(Process, SocketAddr)> {
        let upstream = self.backend.to_string();
        let args = [subcommand, "--listen", "127.0.0.1:0", "--upstream", &upstream];
        let mut process = self.process(&std::env::current_exe()?, &args)?;
        let address = process.wait_listening()?;
        Ok((process, address))
    }

    fn iocopy(&self, program: &Path) -> Result<(Process, SocketAddr)> {
        let mut process = self.process(program, &["127.0.0.1:0", &self.backend.to_string()])?;
        let address = process.wait_listening()?;
        Ok((process, address))
    }
}

impl Programs {
    pub(crate) fn find(arus: Option<&Path>) -> Result<Self> {
        let built = TempDir::with_prefix("arus-bench-")?;
        let beside = std::env::current_exe()?.with_file_name("arus");
        Ok(Self {
            arus: arus.map_or(beside, Path::to_owned),
            haproxy: in_path("haproxy"),
            nginx: in_path("nginx"),
            nginx_modules: NGINX_MODULES
                .map(PathBuf::from)
                .into_iter()
                .find(|dir| dir.join("ngx_stream_module.so").exists()),
            iocopy: in_path("go").and_then(|go| build_iocopy(&go, built.path()).ok()),
            _built: built,
        })
    }

    /// What each program says of itself, for the report.
    pub(crate) fn version(&self, peer: Peer) -> String {
        match peer {
            Peer::Arus | Peer::ArusBusy => first_line(&self.arus, "--version"),
            Peer::Haproxy | Peer::HaproxyBusy => {
                self.haproxy.as_deref().map_or_else(String::new, |path| first_line(path, "-v"))
            }
            Peer::Nginx => self.nginx.as_deref().map_or_else(String::new, |path| first_line(path, "-v")),
            Peer::Iocopy => in_path("go").map_or_else(String::new, |go| first_line(&go, "version")),
            Peer::Floor => "bare io_uring loop, 256 x 16 KiB buffers (this program)".to_owned(),
            Peer::Splice => "epoll and splice(2), 1 MiB pipes (this program)".to_owned(),
            Peer::TokioCopy => "copy_bidirectional, 64 KiB buffers (this program)".to_owned(),
        }
    }
}

/// A string member of a JSON log record, wherever the logger nests it.
fn string_field<'a>(record: &'a Value, name: &str) -> Option<&'a str> {
    let members = record.as_object()?;
    match members.get(name) {
        Some(Value::String(text)) => Some(text),
        _ => members.values().find_map(|value| string_field(value, name)),
    }
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(MORE_PATH.map(PathBuf::from));
    dirs.map(|dir| dir.join(program)).find(|file| file.is_file())
}

fn build_iocopy(go: &Path, dir: &Path) -> Result<PathBuf> {
    let source = dir.join("iocopy.go");
    let program = dir.join("iocopy");
    fs::write(&source, IOCOPY_GO)?;
    let mut build = Command::new(go);
    build.arg("build").arg("-o").arg(&program).arg(&source);
    build.env("GOCACHE", dir.join("cache")).env("GO111MODULE", "off");
    ensure!(build.status()?.success(), "go build failed");
    Ok(program)
}

/// The first line that a program prints, on stdout or, as nginx does, on stderr.
fn first_line(program: &Path, flag: &str) -> String {
    let Ok(output) = Command::new(program).arg(flag).output() else {
        return String::new();
    };
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned()
}
