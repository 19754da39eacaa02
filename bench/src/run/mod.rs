//! `run`: the harness of `make bench`.
//!
//! One proxy on one core, load and backend on another. For each figure the proxies take turns,
//! several rounds long, each time with a fresh process; medians go into the report. This file owns
//! the order of things; what a proxy, a figure or a report is, its submodules know.

mod figures;
mod filter;
mod made;
mod meter;
mod peers;
pub(crate) mod process;
mod report;
mod start;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::load::Report;
use figures::{FIGURES, Figure, Unit};
use peers::{Peer, Programs};
use process::{INTERRUPTED, Place, Process, check_interrupted};
use report::{Results, Sample};

/// How long a load process may take beyond its own time.
const PATIENCE: Duration = Duration::from_secs(30);
/// A proxy's memory is read this long after its last connection was opened.
const SETTLE: Duration = Duration::from_millis(300);
const DEFAULT_OUT: &str = "bench/RESULTS.md";
const CONGESTION_CONTROL: &str = "/proc/sys/net/ipv4/tcp_congestion_control";
const OWN_NETWORK_SETTINGS: [(&str, &str); 3] = [
    ("/proc/sys/net/ipv4/ip_local_port_range", "10000 65000"),
    ("/proc/sys/net/ipv4/tcp_max_tw_buckets", "4096"),
    ("/proc/sys/net/core/somaxconn", "4096"),
];
const IN_OWN_NETWORK: &str = "ARUS_BENCH_IN_OWN_NETWORK";

#[derive(Args)]
pub(crate) struct RunArgs {
    /// Where to write the report; bench/RESULTS.md when all figures run, else only to stdout
    #[arg(long)]
    out: Option<PathBuf>,
    /// Only these figures, or groups of them: `tls` is every figure whose name begins with `tls-`
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Who takes part; by default arus and every peer found here
    #[arg(long, value_enum, value_delimiter = ',')]
    peers: Vec<Peer>,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long each measurement puts on load
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// TCP congestion control of every socket, as in `sysctl net.ipv4.tcp_congestion_control`; by
    /// default the machine's own (needs root)
    #[arg(long)]
    congestion: Option<String>,
    /// The arus program; by default the one beside this program
    #[arg(long)]
    arus: Option<PathBuf>,
    /// CPU of the proxy
    #[arg(long, default_value_t = 0)]
    proxy_cpu: usize,
    /// CPU of load and backend
    #[arg(long, default_value_t = 1)]
    load_cpu: usize,
}

pub(crate) fn run(args: &RunArgs) -> Result<()> {
    ensure!(args.rounds > 0, "--rounds must be at least 1");
    signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::clone(&INTERRUPTED))?;
    signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::clone(&INTERRUPTED))?;
    let network = isolate(args.congestion.as_deref())?;
    crate::net::raise_descriptor_limit()?;
    let figures = chosen_figures(&args.only)?;
    let programs = Programs::find(args.arus.as_deref())?;
    let peers = chosen_peers(&args.peers, &programs)?;
    let bench = Bench { args, programs };
    let mut results = Results::default();
    for figure in figures {
        bench.measure_figure(figure, &peers, &mut results)?;
    }
    let report = results.markdown(&bench.programs, &peers, &network)?;
    println!("{report}");
    let default_out = args.only.is_empty().then(|| Path::new(DEFAULT_OUT));
    match args.out.as_deref().or(default_out) {
        Some(out) => report::write_between_markers(out, &report),
        None => Ok(()),
    }
}

struct Bench<'a> {
    args: &'a RunArgs,
    programs: Programs,
}

impl Bench<'_> {
    /// All rounds of a figure. A proxy that fails is reported, not fatal.
    fn measure_figure(&self, figure: &'static Figure, peers: &[Peer], results: &mut Results) -> Result<()> {
        let mut turn = figure.contenders(peers);
        for round in 0..self.args.rounds {
            for &peer in &turn {
                let measured = self.measure(figure, peer);
                check_interrupted()?;
                match &measured {
                    Ok(sample) => eprintln!("{} {} {}: {sample}", figure.name, round + 1, peer.name()),
                    Err(error) => eprintln!("{} {} {}: {error:#}", figure.name, round + 1, peer.name()),
                }
                results.add(figure, peer, measured.map_err(|error| format!("{error:#}")));
            }
            // Nobody always goes first, or always after the same one's warm caches.
            if !turn.is_empty() {
                turn.rotate_left(1);
            }
        }
        Ok(())
    }

    /// One measurement: a fresh backend, a fresh proxy, one load.
    fn measure(&self, figure: &Figure, peer: Peer) -> Result<Sample> {
        let (proxy_cpu, load_cpu) = (self.args.proxy_cpu, self.args.load_cpu);
        if peer == Peer::ArusFilter {
            return filter::measure(&self.programs, proxy_cpu, self.args.seconds);
        }
        let own = std::env::current_exe()?;
        let beside = Place::on(load_cpu);
        let backend_args = ["backend"].into_iter().chain(peer.backend_args());
        let mut backend = Process::start("backend", beside, &own, backend_args)?;
        let backend_address = backend.wait_listening()?;
        let mut proxy = peer.start(&self.programs, proxy_cpu, backend_address)?;
        let target = proxy.at.plain.to_string();
        let cpus = load_cpu.to_string();
        let seconds = self.args.seconds.to_string();
        let common = ["--handshake", "--target", &target, "--cpus", &cpus, "--seconds", &seconds];
        let tls_target = proxy.at.tls.map(|address| address.to_string());
        let certificate = self.programs.certificate.cert.to_string_lossy();
        let tls = tls_target.as_deref().map(|target| ["--tls", &certificate, "--tls-target", target]);
        let destination = backend_address.to_string();
        let socks = peer.speaks_socks().then_some(["--socks", &destination]);
        let login = (peer == Peer::ArusLogin).then_some(["--login", start::LOGIN]);
        let args = ["load"].iter().chain(figure.load).chain(&common).chain(tls.iter().flatten());
        let args = args.chain(socks.iter().flatten()).chain(login.iter().flatten());
        let mut load = Process::start("load", beside, &own, args)?;
        load.wait_for(PATIENCE, |line| (line == "ready").then_some(()))?;
        let pid = proxy.process.pid();
        let memory_before = proxy.meter.memory(pid)?;
        let cpu_before = proxy.meter.cpu(pid)?;
        load.say("go")?;
        let patience = PATIENCE + Duration::from_secs_f64(self.args.seconds);
        let report: Report = load.wait_for(patience, |line| serde_json::from_str(line).ok())?;
        let cpu = proxy.meter.cpu(pid)?.saturating_sub(cpu_before);
        if figure.unit == Unit::IdleConnection {
            thread::sleep(SETTLE);
        }
        let memory = proxy.meter.memory(pid)?;
        if report.errors > 0 {
            bail!("{} errors: {}", report.errors, report.first_error.unwrap_or_default());
        }
        // A proxy that has died under the load must not pass for a cheap one.
        proxy.process.ensure_alive()?;
        Ok(Sample::new(figure.unit, &report, cpu, memory_before, memory))
    }
}

fn chosen_figures(only: &[String]) -> Result<Vec<&'static Figure>> {
    let is_named = |name: &str| FIGURES.iter().any(|figure| figure.name == name);
    let is_in = |figure: &Figure, group: &str| {
        !is_named(group) && figure.name.strip_prefix(group).is_some_and(|rest| rest.starts_with('-'))
    };
    for name in only {
        let known = is_named(name) || FIGURES.iter().any(|figure| is_in(figure, name));
        let names: Vec<_> = FIGURES.iter().map(|figure| figure.name).collect();
        ensure!(known, "no figure or group is called {name}; there are {}", names.join(", "));
    }
    let is_chosen =
        |figure: &&Figure| only.is_empty() || only.iter().any(|name| name == figure.name || is_in(figure, name));
    Ok(FIGURES.iter().filter(is_chosen).collect())
}

fn chosen_peers(asked: &[Peer], programs: &Programs) -> Result<Vec<Peer>> {
    if !asked.is_empty() {
        for peer in asked {
            if let Some(why) = peer.missing(programs) {
                bail!("{} cannot take part: {why}", peer.name());
            }
        }
        return Ok(asked.to_vec());
    }
    if let Some(why) = Peer::Arus.missing(programs) {
        bail!("{why} (or choose others with --peers)");
    }
    let everybody = [
        Peer::Arus,
        Peer::Haproxy,
        Peer::Nginx,
        Peer::Floor,
        Peer::Splice,
        Peer::Iocopy,
        Peer::TokioCopy,
        Peer::Dante,
        Peer::Microsocks,
        Peer::FastSocks,
    ];
    Ok(everybody.into_iter().filter(|peer| peer.missing(programs).is_none()).collect())
}

/// Moves into a network namespace of its own where that is allowed: then nothing else is on this
/// loopback, ports are plenty, and connections in TIME_WAIT stay few for everybody. Returns a
/// description of the network for the report.
fn isolate(congestion: Option<&str>) -> Result<String> {
    let is_isolated = enter_own_network();
    if is_isolated {
        for (path, value) in OWN_NETWORK_SETTINGS {
            std::fs::write(path, value).with_context(|| format!("cannot set {path}"))?;
        }
    }
    if let Some(name) = congestion {
        ensure!(is_isolated, "--congestion needs a network namespace of its own, and that needs root");
        std::fs::write(CONGESTION_CONTROL, name)
            .with_context(|| format!("congestion control {name} is not to be had in a namespace"))?;
    }
    let used = std::fs::read_to_string(CONGESTION_CONTROL).unwrap_or_default();
    let place = if is_isolated { "a network namespace of its own" } else { "the host's loopback" };
    Ok(format!("{place}, congestion control {}", used.trim()))
}

/// Starts this program again in a fresh network namespace; true once it is there.
fn enter_own_network() -> bool {
    let is_up = |set_up: &mut Command| set_up.status().is_ok_and(|status| status.success());
    if std::env::var_os(IN_OWN_NETWORK).is_some() {
        return is_up(Command::new("ip").args(["link", "set", "lo", "up"]));
    }
    if !rustix::process::geteuid().is_root()
        || !is_up(Command::new("unshare").args(["--net", "ip", "link", "set", "lo", "up"]))
    {
        return false;
    }
    let Ok(own) = std::env::current_exe() else {
        return false;
    };
    let mut again = Command::new("unshare");
    again.args(["--net", "--"]).arg(own).args(std::env::args_os().skip(1)).env(IN_OWN_NETWORK, "1");
    // Comes back only if it failed.
    eprintln!("arus-bench: {}", again.exec());
    false
}
