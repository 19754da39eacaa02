//! How each proxy is configured and started in front of the backend.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;

use super::meter::Meter;
use super::peers::{Peer, Programs};
use super::process::{Place, Process};
use crate::load::{GUESTS, guest};
use crate::net;

const ARUS_TOML: &str = include_str!("../../peers/arus.toml");
const ARUS_SOCKS: &str = include_str!("../../peers/socks.toml");
const ARUS_LOGIN: &str = include_str!("../../peers/login.toml");
const ARUS_TLS: &str = include_str!("../../peers/tls.toml");
const ARUS_PLUGIN: &str = include_str!("../../peers/plugin.toml");
const HAPROXY_CFG: &str = include_str!("../../peers/haproxy.cfg");
const HAPROXY_TLS: &str = include_str!("../../peers/tls.cfg");
const DANTE_CONF: &str = include_str!("../../peers/dante.conf");
const NGINX_CONF: &str = include_str!("../../peers/nginx.conf");
const NGINX_TLS: &str = include_str!("../../peers/tls.conf");

const START_PATIENCE: Duration = Duration::from_secs(10);
/// Every place of the templates that only some peers fill in, and what is there for the others.
const OPTIONAL: [(&str, &str); 6] = [
    ("@BUSY_POLLING@", ""),
    ("@LISTENER@", ""),
    ("@UPSTREAM@", ""),
    ("@MORE@", ""),
    ("@ACCESS@", "off"),
    ("@STORE@", "off"),
];
/// The user and the password whose hash is in login.toml.
pub(crate) const LOGIN: &str = "bench:bench-password";
/// Sessions in SQLite and an access log, where all others have neither.
const RECORDING: [(&str, &str); 2] = [("@ACCESS@", "@DIR@/access.log"), ("@STORE@", "sqlite:@DIR@/sessions.db")];
/// With this, arus copies what it would splice.
const WITHOUT_SPLICE: (&str, &str) = ("ARUS_RING_WITHOUT", "splice");

/// A started proxy. It ends with this guard: the process first, then its cgroup and directory.
pub(crate) struct Running {
    pub(crate) process: Process,
    pub(crate) meter: Meter,
    pub(crate) at: Addresses,
    _dir: TempDir,
}

/// Where a proxy listens.
#[derive(Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) plain: SocketAddr,
    pub(crate) tls: Option<SocketAddr>,
}

impl Peer {
    /// Starts it in front of `backend` on CPU `cpu`, and waits until it serves.
    pub(crate) fn start(self, programs: &Programs, cpu: usize, backend: SocketAddr) -> Result<Running> {
        let dir = TempDir::with_prefix("arus-bench-")?;
        let start = Start { peer: self, cpu, backend, dir: dir.path(), meter: Meter::new(), programs };
        let (process, at) = match self {
            Self::Arus => start.arus(&[])?,
            Self::ArusBusy => start.arus(&[("@BUSY_POLLING@", "busy_poll = \"always\"")])?,
            Self::ArusCopying => start.arus(&[])?,
            Self::ArusPassing => start.arus_with_plugin(&programs.plugins()?.pass)?,
            Self::ArusDetaching => start.arus_with_plugin(&programs.plugins()?.detach)?,
            Self::ArusProxying => start.arus(&[("@UPSTREAM@", "send_proxy = \"v2\"")])?,
            Self::ArusTls => start.arus(&[("@MORE@", ARUS_TLS)])?,
            Self::ArusSocks => start.arus_as(ARUS_SOCKS, &[])?,
            Self::ArusLogin => start.arus_as(ARUS_SOCKS, &[("@MORE@", &with_guests(ARUS_LOGIN))])?,
            Self::ArusRecording => start.arus(&RECORDING)?,
            Self::ArusFilter => anyhow::bail!("arus plugin run is no proxy"),
            Self::Haproxy => start.haproxy(&[])?,
            Self::HaproxyBusy => start.haproxy(&[("@BUSY_POLLING@", "busy-polling")])?,
            Self::HaproxyTls => start.haproxy(&[("@MORE@", HAPROXY_TLS)])?,
            Self::Nginx => start.nginx(&[])?,
            Self::NginxTls => start.nginx(&[("@MORE@", NGINX_TLS)])?,
            Self::Floor => start.own("floor", true)?,
            Self::Splice => start.own("splice", true)?,
            Self::TokioCopy => start.own("tokio-copy", true)?,
            Self::Iocopy => start.iocopy()?,
            Self::Dante => start.dante()?,
            Self::Microsocks => start.microsocks()?,
            Self::FastSocks => start.own("fast-socks", false)?,
        };
        Ok(Running { process, meter: start.meter, at, _dir: dir })
    }

    fn is_tls(self) -> bool {
        matches!(self, Self::ArusTls | Self::HaproxyTls | Self::NginxTls)
    }

    fn environment(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::ArusCopying | Self::ArusPassing => &[WITHOUT_SPLICE],
            _ => &[],
        }
    }
}

/// What all the ways to start a proxy need.
struct Start<'a> {
    peer: Peer,
    cpu: usize,
    backend: SocketAddr,
    dir: &'a Path,
    meter: Meter,
    programs: &'a Programs,
}

impl Start<'_> {
    fn process(&self, program: &Path, args: &[&str]) -> Result<Process> {
        let place = Place { cpu: self.cpu, cgroup: self.meter.cgroup(), environment: self.peer.environment() };
        Process::start(self.peer.name(), place, program, args)
    }

    /// Fills in a template: `more` first, as it may have places of its own. Returns the path of the result.
    fn configuration(&self, name: &str, template: &str, more: &[(&str, &str)], at: Addresses) -> Result<String> {
        let mut text = template.to_owned();
        for (place, value) in more {
            text = text.replace(place, value);
        }
        for (place, otherwise) in OPTIONAL {
            text = text.replace(place, otherwise);
        }
        let certificate = &self.programs.certificate;
        let (cert, key) = (certificate.cert.to_string_lossy(), certificate.key.to_string_lossy());
        let tls = at.tls.map(|address| address.to_string()).unwrap_or_default();
        text = text
            .replace("@LISTEN@", &at.plain.to_string())
            .replace("@TLS_LISTEN@", &tls)
            .replace("@BACKEND@", &self.backend.to_string())
            .replace("@DIR@", &self.dir.to_string_lossy())
            .replace("@CERT@", &cert)
            .replace("@KEY@", &key)
            .replace("@BUNDLE@", &certificate.bundle.to_string_lossy());
        let path = self.dir.join(name);
        fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    }

    fn arus_with_plugin(&self, plugin: &Path) -> Result<(Process, Addresses)> {
        let plugin = ARUS_PLUGIN.replace("@PLUGIN@", &plugin.to_string_lossy());
        self.arus(&[("@LISTENER@", "plugins = [\"pass\"]"), ("@MORE@", &plugin)])
    }

    fn arus(&self, more: &[(&str, &str)]) -> Result<(Process, Addresses)> {
        self.arus_as(ARUS_TOML, more)
    }

    fn arus_as(&self, template: &str, more: &[(&str, &str)]) -> Result<(Process, Addresses)> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = self.configuration("proxy.toml", template, more, Addresses { plain: any, tls: Some(any) })?;
        let args = ["run", "-c", &config, "--shards", "1", "--log-format", "json"];
        let mut process = self.process(&self.programs.arus, &args)?;
        // Listeners are told of in the order of the configuration.
        let plain = listening(&mut process, "bench")?;
        let tls = self.peer.is_tls().then(|| listening(&mut process, "tls")).transpose()?;
        process.wait_for(START_PATIENCE, |line| {
            let record: Value = serde_json::from_str(line).ok()?;
            (string_field(&record, "message")? == "ready").then_some(())
        })?;
        Ok((process, Addresses { plain, tls }))
    }

    fn haproxy(&self, more: &[(&str, &str)]) -> Result<(Process, Addresses)> {
        let program = self.programs.haproxy.as_deref().context("HAProxy was found before")?;
        let at = self.free_ports()?;
        let config = self.configuration("haproxy.cfg", HAPROXY_CFG, more, at)?;
        let process = self.process(program, &["-db", "-f", &config])?;
        accepting(process, at)
    }

    fn nginx(&self, more: &[(&str, &str)]) -> Result<(Process, Addresses)> {
        let program = self.programs.nginx.as_deref().context("nginx was found before")?;
        let modules = self.programs.nginx_modules.as_deref().context("nginx's modules were found before")?;
        let at = self.free_ports()?;
        let modules = modules.to_string_lossy();
        let more = [more, &[("@MODULES@", modules.as_ref())]].concat();
        let config = self.configuration("nginx.conf", NGINX_CONF, &more, at)?;
        let process = self.process(program, &["-c", &config])?;
        accepting(process, at)
    }

    /// For peers that cannot say which port they got.
    fn free_ports(&self) -> Result<Addresses> {
        let plain = net::free_port()?;
        let tls = self.peer.is_tls().then(net::free_port).transpose()?;
        Ok(Addresses { plain, tls })
    }

    fn dante(&self) -> Result<(Process, Addresses)> {
        let program = self.programs.dante.as_deref().context("dante was found before")?;
        let at = self.free_ports()?;
        let (ip, port) = (at.plain.ip().to_string(), at.plain.port().to_string());
        let config = self.configuration("dante.conf", DANTE_CONF, &[("@IP@", &ip), ("@PORT@", &port)], at)?;
        let pid_file = self.dir.join("dante.pid");
        let process = self.process(program, &["-f", &config, "-p", &pid_file.to_string_lossy()])?;
        accepting(process, at)
    }

    fn microsocks(&self) -> Result<(Process, Addresses)> {
        let program = self.programs.microsocks.as_deref().context("microsocks was found before")?;
        let at = self.free_ports()?;
        let (ip, port) = (at.plain.ip().to_string(), at.plain.port().to_string());
        accepting(self.process(program, &["-i", &ip, "-p", &port])?, at)
    }

    /// A server of this program; a relay is told where it leads.
    fn own(&self, subcommand: &str, relays: bool) -> Result<(Process, Addresses)> {
        let upstream = self.backend.to_string();
        let mut args = vec![subcommand, "--listen", "127.0.0.1:0"];
        if relays {
            args.extend(["--upstream", &upstream]);
        }
        let mut process = self.process(&std::env::current_exe()?, &args)?;
        let plain = process.wait_listening()?;
        Ok((process, Addresses { plain, tls: None }))
    }

    fn iocopy(&self) -> Result<(Process, Addresses)> {
        let program = self.programs.iocopy.as_deref().context("it was built before")?;
        let mut process = self.process(program, &["127.0.0.1:0", &self.backend.to_string()])?;
        let plain = process.wait_listening()?;
        Ok((process, Addresses { plain, tls: None }))
    }
}

/// The configuration of a login, and in it as many more users with the same password.
fn with_guests(login: &str) -> String {
    let (_, user) = login.split_once("[[auth.user]]").unwrap_or_default();
    let more =
        (0..GUESTS).map(|index| format!("[[auth.user]]{}", user.replace("\"bench\"", &format!("{:?}", guest(index)))));
    std::iter::once(login.to_owned()).chain(more).collect()
}

/// Waits for the address that arus' listener of this name got.
fn listening(process: &mut Process, listener: &str) -> Result<SocketAddr> {
    process.wait_for(START_PATIENCE, |line| {
        let record: Value = serde_json::from_str(line).ok()?;
        let is_it = string_field(&record, "message")? == "listening" && string_field(&record, "listener")? == listener;
        is_it.then(|| string_field(&record, "address")?.parse().ok()).flatten()
    })
}

fn accepting(mut process: Process, at: Addresses) -> Result<(Process, Addresses)> {
    for address in [at.plain].into_iter().chain(at.tls) {
        process.wait_accepting(address)?;
    }
    Ok((process, at))
}

/// A string member of a JSON log record, wherever the logger nests it.
fn string_field<'a>(record: &'a Value, name: &str) -> Option<&'a str> {
    let members = record.as_object()?;
    match members.get(name) {
        Some(Value::String(text)) => Some(text),
        _ => members.values().find_map(|value| string_field(value, name)),
    }
}
