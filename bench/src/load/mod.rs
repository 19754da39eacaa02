//! `load`: puts one shape of load on a target and reports it as one JSON line.
//!
//! One pinned thread per CPU. With `--handshake` the process is driven from outside: it says
//! `ready` when everything is connected, warm and quiet, starts at a line on stdin, prints its
//! report when the last answer is in, and holds its connections until stdin ends. So the driver
//! can read the proxy's meters exactly around the load.

mod beside;
mod churn;
mod datagrams;
mod flood;
mod idle;
mod logins;
mod session;
mod socket;
mod socks;
mod tally;
mod terms;
mod worker;

use std::io::{BufRead, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use clap::{Args, Subcommand, ValueEnum};

use crate::net;
pub(crate) use logins::{GUESTS, guest};
use socket::Target;
use socks::{Command, Terms};
pub(crate) use tally::{Report, Tally};
pub(crate) use terms::SERVER_NAME;

/// How long anything may take before it counts as an error.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Args)]
pub(crate) struct LoadArgs {
    #[command(subcommand)]
    shape: Shape,
    /// Loopback address of the proxy or backend
    #[arg(long, global = true, default_value = "127.0.0.1:8080")]
    target: SocketAddr,
    /// Speak TLS; the proxy's certificate, the only one that is taken
    #[arg(long, global = true, value_name = "FILE")]
    tls: Option<PathBuf>,
    /// Loopback address of the proxy's TLS listener; the target where this is absent
    #[arg(long, global = true)]
    tls_target: Option<SocketAddr>,
    /// Make requests without TLS all the same (a flood always speaks it)
    #[arg(long, global = true)]
    plain: bool,
    /// Speak SOCKS5 with the target, and have it connect to this loopback address
    #[arg(long, global = true, value_name = "ADDRESS", conflicts_with = "tls")]
    socks: Option<SocketAddr>,
    /// Log in there with USER:PASSWORD
    #[arg(long, global = true, value_name = "USER:PASSWORD", requires = "socks")]
    login: Option<String>,
    /// CPUs to use, one thread on each
    #[arg(long, global = true, value_delimiter = ',', default_value = "1")]
    cpus: Vec<usize>,
    /// How long to put on load
    #[arg(long, global = true, default_value_t = 2.0)]
    seconds: f64,
    /// How long to warm up before
    #[arg(long, global = true, default_value_t = 0.3)]
    warmup: f64,
    /// Be driven by lines on stdin (see above)
    #[arg(long, global = true)]
    handshake: bool,
}

#[derive(Subcommand, Clone, Debug)]
enum Shape {
    /// Requests and answers on keep-alive connections
    Rr {
        #[arg(long, default_value_t = 64)]
        connections: usize,
        /// Requests a second in total (open loop); without it each answer brings the next request
        #[arg(long)]
        rate: Option<f64>,
    },
    /// One-way streams
    Bulk {
        #[arg(long, default_value_t = 8)]
        streams: usize,
        #[arg(long, value_enum, default_value_t = Direction::Down)]
        direction: Direction,
        /// Gbit/s in total (down only)
        #[arg(long)]
        pace_gbit: Option<f64>,
    },
    /// New connections: connect, exchange 64 bytes, close
    Conn {
        #[arg(long, default_value_t = 16)]
        in_flight: usize,
        /// Who closes first; the backend by default, which keeps TIME_WAIT off the dialling ports
        #[arg(long, value_enum, default_value_t = Closer::Backend)]
        closer: Closer,
        /// TLS handshakes with tickets; without it none is resumed
        #[arg(long)]
        resume: bool,
    },
    /// Connections that exchange one request each and are held
    Idle {
        #[arg(long, default_value_t = 7_000)]
        connections: usize,
        /// Connections opened and held before, so that fixed costs are not counted
        #[arg(long, default_value_t = 200)]
        before: usize,
    },
    /// Requests while paced bulk streams run through the same proxy
    Mixed {
        #[arg(long, default_value_t = 16)]
        connections: usize,
        #[arg(long, default_value_t = 8)]
        streams: usize,
        /// Gbit/s of all streams together
        #[arg(long, default_value_t = 8.0)]
        pace_gbit: f64,
    },
    /// Datagrams of 64 bytes to an echo and back by UDP ASSOCIATE; needs --socks
    Udp {
        #[arg(long, default_value_t = 1)]
        associations: usize,
        /// Datagrams under way in each
        #[arg(long, default_value_t = 32)]
        in_flight: usize,
    },
    /// Requests while others begin TLS handshakes and leave; needs --tls
    Flood {
        #[arg(long, default_value_t = 16)]
        connections: usize,
        /// Requests a second in total (open loop)
        #[arg(long, default_value_t = 2_000.0)]
        rate: f64,
        /// Handshakes under way
        #[arg(long, default_value_t = 64)]
        in_flight: usize,
    },
    /// Requests while others log in as users who are not known yet; needs --socks and --login
    Logins {
        #[arg(long, default_value_t = 16)]
        connections: usize,
        /// Requests a second in total (open loop)
        #[arg(long, default_value_t = 2_000.0)]
        rate: f64,
        /// Logins a second in total
        #[arg(long, default_value_t = 100.0)]
        logins: f64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Direction {
    Down,
    Up,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Closer {
    Backend,
    Client,
}

/// What one thread does, in the two steps between which all threads wait for each other.
trait Load {
    /// Connects and warms up; leaves everything quiet.
    fn prepare(&mut self, warmup: Duration) -> Result<()>;
    /// The load itself; returns when the last answer is in.
    fn measure(&mut self, until: Instant) -> Result<Tally>;
}

pub(crate) fn run(args: &LoadArgs) -> Result<()> {
    net::ensure_loopback(args.target)?;
    net::ensure_loopback(args.tls_target.unwrap_or(args.target))?;
    net::ensure_loopback(args.socks.unwrap_or(args.target))?;
    net::raise_descriptor_limit()?;
    ensure!(!args.cpus.is_empty(), "no CPU to run on");
    ensure!(args.seconds > 0.0 && args.seconds <= 600.0, "--seconds must be within 0 and 600");
    let threads = args.cpus.len();
    let all_here = &Barrier::new(threads + 1);
    let (results, outcomes) = mpsc::channel();
    thread::scope(|scope| {
        for index in 0..threads {
            let results = results.clone();
            scope.spawn(move || work(args, index, all_here, &results));
        }
        all_here.wait(); // prepared
        let go = if args.handshake { wait_for_go() } else { Ok(()) };
        all_here.wait(); // started
        let started = Instant::now();
        let outcome = sum(&outcomes, threads);
        let seconds = started.elapsed().as_secs_f64();
        let reported =
            go.and(outcome).and_then(|tally| say(&serde_json::to_string(&tally.report(args.shape.name(), seconds))?));
        if args.handshake && reported.is_ok() {
            wait_for_end();
        }
        all_here.wait(); // ended
        reported
    })
}

/// The life of a load thread. It keeps its connections until all threads may end.
fn work(args: &LoadArgs, index: usize, all_here: &Barrier, results: &Sender<Result<Tally>>) {
    let mut prepared = prepare(args, index);
    all_here.wait(); // prepared
    all_here.wait(); // started
    let until = Instant::now() + Duration::from_secs_f64(args.seconds);
    let measured = match &mut prepared {
        Ok(load) => load.measure(until),
        Err(error) => Err(anyhow!("{error:#}")),
    };
    // The receiver waits for one result of each thread.
    let _ = results.send(measured);
    all_here.wait(); // ended
}

/// Adds up what all threads counted, or hands on the first failure once all have ended.
fn sum(outcomes: &Receiver<Result<Tally>>, threads: usize) -> Result<Tally> {
    let mut sum = Tally::new();
    let mut failure = None;
    for outcome in outcomes.iter().take(threads) {
        match outcome {
            Ok(tally) => sum.add(&tally)?,
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    failure.map_or(Ok(sum), Err)
}

fn prepare(args: &LoadArgs, index: usize) -> Result<Box<dyn Load>> {
    net::pin(args.cpus[index])?;
    net::precise_timeouts()?;
    let threads = args.cpus.len();
    // The first threads take one more where the number does not divide.
    let share = |total: usize| total / threads + usize::from(index < total % threads);
    let fraction = 1.0 / threads as f64;
    let tls = args.tls.as_deref().map(|certificate| terms::client(certificate, args.shape.resumes())).transpose()?;
    let tls_address = args.tls_target.unwrap_or(args.target);
    let target = match &tls {
        Some(tls) if !args.plain => Target { address: tls_address, tls: Some(Arc::clone(tls)), socks: None },
        _ => Target { address: args.target, tls: None, socks: args.terms(Command::Connect)?.map(Arc::new) },
    };
    let mut load: Box<dyn Load> = match args.shape {
        Shape::Rr { connections, rate } => {
            let rate = rate.map(|rate| rate * fraction);
            Box::new(worker::Worker::new(target)?.requests(share(connections), rate))
        }
        Shape::Bulk { streams, direction: Direction::Down, pace_gbit } => {
            let pace = pace_gbit.map(|gbit| bytes_per_stream(gbit, streams));
            Box::new(worker::Worker::new(target)?.downloads(share(streams), pace))
        }
        Shape::Bulk { streams, direction: Direction::Up, .. } => {
            Box::new(worker::Worker::new(target)?.uploads(share(streams)))
        }
        Shape::Conn { in_flight, closer, resume } => {
            Box::new(churn::Churn::new(target, share(in_flight), closer, resume)?)
        }
        Shape::Idle { connections, before } => Box::new(idle::Idle::new(target, share(connections), share(before))),
        Shape::Mixed { connections, streams, pace_gbit } => {
            let pace = Some(bytes_per_stream(pace_gbit, streams));
            let worker = worker::Worker::new(target)?;
            Box::new(worker.requests(share(connections), None).downloads(share(streams), pace))
        }
        Shape::Udp { associations, in_flight } => {
            let destination = args.socks.context("datagrams need --socks")?;
            let terms = args.terms(Command::UdpAssociate)?.context("datagrams need --socks")?;
            Box::new(datagrams::Datagrams::new(target, Arc::new(terms), destination, share(associations), in_flight)?)
        }
        Shape::Flood { connections, rate, in_flight } => {
            let tls = tls.context("a flood of handshakes needs --tls")?;
            let worker = worker::Worker::new(target)?.requests(share(connections), Some(rate * fraction));
            Box::new(flood::beside(worker, tls_address, &tls, share(in_flight))?)
        }
        Shape::Logins { connections, rate, logins } => {
            let destination = args.socks.context("logins need --socks")?;
            let (_, password) = args.login()?.context("logins need --login")?;
            let worker = worker::Worker::new(target)?.requests(share(connections), Some(rate * fraction));
            Box::new(logins::beside(worker, args.target, destination, password, logins * fraction)?)
        }
    };
    load.prepare(Duration::from_secs_f64(args.warmup.clamp(0.0, 60.0))).context("while warming up")?;
    Ok(load)
}

fn bytes_per_stream(gbit: f64, streams: usize) -> u64 {
    (gbit * 1e9 / 8.0 / streams.max(1) as f64) as u64
}

impl LoadArgs {
    /// What a connection asks of a SOCKS proxy, where the target is one.
    fn terms(&self, command: Command) -> Result<Option<Terms>> {
        let Some(destination) = self.socks else {
            return Ok(None);
        };
        let destination = match command {
            Command::Connect => destination,
            // A client that does not know yet from where it will send.
            Command::UdpAssociate => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        };
        Ok(Some(Terms::new(command, destination, self.login()?)))
    }

    /// The user and the password.
    fn login(&self) -> Result<Option<(&str, &str)>> {
        let login = self.login.as_deref().map(|login| login.split_once(':').context("--login is USER:PASSWORD"));
        login.transpose()
    }
}

impl Shape {
    fn resumes(&self) -> bool {
        matches!(self, Self::Conn { resume: true, .. })
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Rr { .. } => "rr",
            Self::Bulk { .. } => "bulk",
            Self::Conn { .. } => "conn",
            Self::Idle { .. } => "idle",
            Self::Mixed { .. } => "mixed",
            Self::Udp { .. } => "udp",
            Self::Flood { .. } => "flood",
            Self::Logins { .. } => "logins",
        }
    }
}

fn wait_for_go() -> Result<()> {
    say("ready")?;
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line)?;
    ensure!(read > 0, "stdin ended before the start");
    Ok(())
}

fn wait_for_end() {
    let mut line = String::new();
    while std::io::stdin().lock().read_line(&mut line).is_ok_and(|read| read > 0) {
        line.clear();
    }
}

fn say(line: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")?;
    Ok(stdout.flush()?)
}
