//! The proxies that are compared, and ways to set them up: how each is found and told apart.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use rustix::process::geteuid;
use tempfile::TempDir;

use super::made::{Certificate, Plugins};

const IOCOPY_GO: &str = include_str!("../../peers/iocopy.go");

/// Where Debian keeps what is not in everybody's PATH.
const MORE_PATH: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];
const NGINX_MODULES: [&str; 2] = ["/usr/lib/nginx/modules", "/usr/lib64/nginx/modules"];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Peer {
    Arus,
    /// arus with `busy_poll = "always"`
    ArusBusy,
    /// arus that never splices
    #[value(skip)]
    ArusCopying,
    /// The same, with a plugin that passes everything
    #[value(skip)]
    ArusPassing,
    /// arus with a plugin that leaves at the first bytes
    #[value(skip)]
    ArusDetaching,
    /// arus with `send_proxy = "v2"`
    #[value(skip)]
    ArusProxying,
    /// arus that terminates TLS
    #[value(skip)]
    ArusTls,
    /// `arus plugin run`
    #[value(skip)]
    ArusFilter,
    /// arus as a SOCKS server
    #[value(skip)]
    ArusSocks,
    /// The same, with user and password
    #[value(skip)]
    ArusLogin,
    /// arus that records sessions in SQLite and writes an access log
    #[value(skip)]
    ArusRecording,
    Haproxy,
    /// HAProxy with `busy-polling`
    HaproxyBusy,
    #[value(skip)]
    HaproxyTls,
    Nginx,
    #[value(skip)]
    NginxTls,
    /// The featureless io_uring relay
    Floor,
    /// The splicing epoll relay
    Splice,
    /// Go's io.Copy
    Iocopy,
    /// tokio's copy_bidirectional with 64 KiB buffers
    TokioCopy,
    /// dante's SOCKS server
    Dante,
    /// microsocks, a small SOCKS server
    Microsocks,
    /// A SOCKS server by the fast-socks5 library, on tokio
    FastSocks,
}

/// Where the programs are that are not part of this one.
pub(crate) struct Programs {
    pub(crate) arus: PathBuf,
    pub(crate) haproxy: Option<PathBuf>,
    pub(crate) nginx: Option<PathBuf>,
    pub(crate) nginx_modules: Option<PathBuf>,
    pub(crate) iocopy: Option<PathBuf>,
    pub(crate) dante: Option<PathBuf>,
    pub(crate) microsocks: Option<PathBuf>,
    pub(crate) certificate: Certificate,
    plugins: Option<Plugins>,
    /// Holds what had to be built.
    _built: TempDir,
}

impl Peer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Arus => "arus",
            Self::ArusBusy => "arus, busy polling",
            Self::ArusCopying => "arus without splice",
            Self::ArusPassing => "arus without splice, a plugin",
            Self::ArusDetaching => "arus, a plugin that leaves",
            Self::ArusProxying => "arus, PROXY v2 out",
            Self::ArusTls => "arus, TLS",
            Self::ArusFilter => "arus plugin run",
            Self::ArusSocks => "arus, SOCKS5",
            Self::ArusLogin => "arus, SOCKS5 with login",
            Self::ArusRecording => "arus, sessions and access log",
            Self::Haproxy => "HAProxy",
            Self::HaproxyBusy => "HAProxy, busy-polling",
            Self::HaproxyTls => "HAProxy, TLS",
            Self::Nginx => "nginx stream",
            Self::NginxTls => "nginx stream, TLS",
            Self::Floor => "floor",
            Self::Splice => "splice relay",
            Self::Iocopy => "Go io.Copy",
            Self::TokioCopy => "tokio copy",
            Self::Dante => "dante",
            Self::Microsocks => "microsocks",
            Self::FastSocks => "fast-socks5",
        }
    }

    /// Whether it serves SOCKS and nothing else; such a one takes part only where it is cast.
    pub(crate) fn is_socks_server(self) -> bool {
        matches!(self, Self::Dante | Self::Microsocks | Self::FastSocks)
    }

    /// Whether the load speaks SOCKS with it.
    pub(crate) fn speaks_socks(self) -> bool {
        self.is_socks_server() || matches!(self, Self::ArusSocks | Self::ArusLogin)
    }

    /// Whether it moves bulk without copying it.
    pub(crate) fn splices(self) -> bool {
        matches!(self, Self::Splice | Self::Iocopy)
    }

    /// Why it cannot run here, if so.
    pub(crate) fn missing(self, programs: &Programs) -> Option<String> {
        match self {
            Self::Arus
            | Self::ArusBusy
            | Self::ArusCopying
            | Self::ArusPassing
            | Self::ArusDetaching
            | Self::ArusProxying
            | Self::ArusTls
            | Self::ArusFilter
            | Self::ArusSocks
            | Self::ArusLogin
            | Self::ArusRecording => (!programs.arus.is_file())
                .then(|| format!("{} is not there: build arus or give --arus", programs.arus.display())),
            Self::Haproxy | Self::HaproxyBusy | Self::HaproxyTls => {
                programs.haproxy.is_none().then(|| "haproxy is not installed".to_owned())
            }
            Self::Nginx | Self::NginxTls => (programs.nginx.is_none() || programs.nginx_modules.is_none())
                .then(|| "nginx with its stream module is not installed".to_owned()),
            Self::Iocopy => programs.iocopy.is_none().then(|| "no Go to build it".to_owned()),
            Self::TokioCopy => {
                (!cfg!(feature = "tokio-peer")).then(|| "arus-bench was built without feature tokio-peer".to_owned())
            }
            Self::Dante if programs.dante.is_none() => Some("dante's server is not installed".to_owned()),
            // It switches users, and calls it an error where it may not.
            Self::Dante if !geteuid().is_root() => Some("dante's server needs root".to_owned()),
            Self::Microsocks => programs.microsocks.is_none().then(|| "microsocks is not installed".to_owned()),
            Self::FastSocks => {
                (!cfg!(feature = "socks-peer")).then(|| "arus-bench was built without feature socks-peer".to_owned())
            }
            Self::Dante | Self::Floor | Self::Splice => None,
        }
    }

    /// What the backend must know of it.
    pub(crate) fn backend_args(self) -> Option<&'static str> {
        (self == Self::ArusProxying).then_some("--proxy-header")
    }
}

impl Programs {
    pub(crate) fn find(arus: Option<&Path>) -> Result<Self> {
        let built = TempDir::with_prefix("arus-bench-")?;
        let plugins = in_path("cc").map(|cc| Plugins::build(&cc, built.path())).transpose()?;
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
            dante: in_path("danted").or_else(|| in_path("sockd")),
            microsocks: in_path("microsocks"),
            certificate: Certificate::make(built.path())?,
            plugins,
            _built: built,
        })
    }

    pub(crate) fn plugins(&self) -> Result<&Plugins> {
        self.plugins.as_ref().context("no C compiler (cc) to build the plugin")
    }

    /// What each program says of itself, for the report.
    pub(crate) fn version(&self, peer: Peer) -> String {
        match peer {
            Peer::Arus
            | Peer::ArusBusy
            | Peer::ArusCopying
            | Peer::ArusPassing
            | Peer::ArusDetaching
            | Peer::ArusProxying
            | Peer::ArusTls
            | Peer::ArusFilter
            | Peer::ArusSocks
            | Peer::ArusLogin
            | Peer::ArusRecording => first_line(&self.arus, "--version"),
            Peer::Haproxy | Peer::HaproxyBusy | Peer::HaproxyTls => {
                self.haproxy.as_deref().map_or_else(String::new, |path| first_line(path, "-v"))
            }
            Peer::Nginx | Peer::NginxTls => {
                self.nginx.as_deref().map_or_else(String::new, |path| first_line(path, "-v"))
            }
            Peer::Iocopy => in_path("go").map_or_else(String::new, |go| first_line(&go, "version")),
            Peer::Floor => "bare io_uring loop, 256 x 16 KiB buffers (this program)".to_owned(),
            Peer::Splice => "epoll and splice(2), 1 MiB pipes (this program)".to_owned(),
            Peer::TokioCopy => "copy_bidirectional, 64 KiB buffers (this program)".to_owned(),
            Peer::Dante => self.dante.as_deref().map_or_else(String::new, |path| first_line(path, "-v")),
            // It has no way to tell its version.
            Peer::Microsocks => "a thread for each connection".to_owned(),
            Peer::FastSocks => "fast-socks5 1.0 on one thread of tokio (this program)".to_owned(),
        }
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
