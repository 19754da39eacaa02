//! Child processes of the harness: pinned, metered, and gone when their guard is.
//!
//! A child is started through `arus-bench pinned`, which pins itself, joins the meter's cgroup,
//! asks to die with its parent and then becomes the program; so its PID is ours to end.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use crate::net;

const SLICE: Duration = Duration::from_millis(50);
const GRACE: Duration = Duration::from_secs(2);
const TAIL_LINES: usize = 5;

/// Set by SIGINT and SIGTERM; every wait of the harness ends soon after.
pub(crate) static INTERRUPTED: std::sync::LazyLock<std::sync::Arc<AtomicBool>> =
    std::sync::LazyLock::new(Default::default);

pub(crate) fn check_interrupted() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

/// `arus-bench pinned`: used by the harness only.
#[derive(Args)]
pub(crate) struct PinnedArgs {
    #[arg(long)]
    cpu: usize,
    #[arg(long)]
    cgroup: Option<PathBuf>,
    #[arg(trailing_var_arg = true, required = true)]
    command: Vec<std::ffi::OsString>,
}

pub(crate) fn become_pinned(args: &PinnedArgs) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    net::pin(args.cpu)?;
    if let Some(cgroup) = &args.cgroup {
        std::fs::write(cgroup.join("cgroup.procs"), "0").context("cannot join the cgroup")?;
    }
    let (program, rest) = args.command.split_first().context("nothing to run")?;
    let error = Command::new(program).args(rest).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}

/// Where a child runs, and with which environment variables beside ours.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) cpu: usize,
    pub(crate) cgroup: Option<&'a Path>,
    pub(crate) environment: &'a [(&'a str, &'a str)],
}

impl Place<'_> {
    pub(crate) fn on(cpu: usize) -> Self {
        Self { cpu, cgroup: None, environment: &[] }
    }

    /// A program that will run there.
    pub(crate) fn command<S: AsRef<OsStr>>(self, program: &Path, args: impl IntoIterator<Item = S>) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("pinned").arg("--cpu").arg(self.cpu.to_string());
        if let Some(cgroup) = self.cgroup {
            command.arg("--cgroup").arg(cgroup);
        }
        command.arg("--").arg(program).args(args).envs(self.environment.iter().copied());
        // Its own group: Ctrl-C reaches the harness alone, which then ends its children in order.
        command.process_group(0);
        Ok(command)
    }
}

pub(crate) struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    tail: VecDeque<String>,
}

impl Process {
    pub(crate) fn start<S: AsRef<OsStr>>(
        name: &str,
        place: Place<'_>,
        program: &Path,
        args: impl IntoIterator<Item = S>,
    ) -> Result<Self> {
        let mut command = place.command(program, args)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let (sender, lines) = mpsc::channel();
        if let Some(stdout) = child.stdout.take() {
            forward_lines(stdout, sender.clone());
        }
        if let Some(stderr) = child.stderr.take() {
            forward_lines(stderr, sender);
        }
        let stdin = child.stdin.take();
        Ok(Self { name: name.to_owned(), child, stdin, lines, tail: VecDeque::new() })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the line that `pick` makes something of.
    pub(crate) fn wait_for<T>(&mut self, within: Duration, pick: impl Fn(&str) -> Option<T>) -> Result<T> {
        let end = Instant::now() + within;
        loop {
            check_interrupted()?;
            match self.lines.recv_timeout(SLICE) {
                Ok(line) => {
                    if let Some(found) = pick(&line) {
                        return Ok(found);
                    }
                    if self.tail.len() == TAIL_LINES {
                        self.tail.pop_front();
                    }
                    self.tail.push_back(line);
                }
                Err(RecvTimeoutError::Disconnected) => return Err(self.complaint("ended")),
                Err(RecvTimeoutError::Timeout) if Instant::now() > end => {
                    return Err(self.complaint("did not say in time what was expected"));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Waits for a `listening ADDRESS` line, as all of this program's own servers print.
    pub(crate) fn wait_listening(&mut self) -> Result<SocketAddr> {
        self.wait_for(GRACE * 2, |line| line.strip_prefix("listening ")?.trim().parse().ok())
    }

    /// Waits until something accepts at `address`, for servers that print nothing.
    pub(crate) fn wait_accepting(&mut self, address: SocketAddr) -> Result<()> {
        let end = Instant::now() + GRACE * 2;
        while net::dial(address, GRACE).is_err() {
            check_interrupted()?;
            if self.child.try_wait()?.is_some() {
                return self.wait_for(SLICE, |_| None);
            }
            if Instant::now() > end {
                return Err(self.complaint("does not accept connections"));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    pub(crate) fn ensure_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} has ended: {status}", self.name),
            None => Ok(()),
        }
    }

    pub(crate) fn say(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("stdin is closed")?;
        Ok(writeln!(stdin, "{line}")?)
    }

    fn complaint(&self, what: &str) -> anyhow::Error {
        let tail: Vec<_> = self.tail.iter().map(String::as_str).collect();
        anyhow!("{} {what}; last said: {}", self.name, tail.join(" | "))
    }

    /// Ends the process: politely, then not.
    fn end(&mut self) {
        self.stdin = None;
        let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) else {
            return;
        };
        let end = Instant::now() + GRACE;
        let mut asked = false;
        while let Ok(None) = self.child.try_wait() {
            if !asked {
                // Not reaped yet, so the PID is still this child's.
                let _ = kill_process(pid, Signal::TERM);
                asked = true;
            }
            if Instant::now() > end {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Takes every line as long as the child lives, so that it never blocks on a full pipe.
fn forward_lines(from: impl Read + Send + 'static, to: Sender<String>) {
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            // Nobody listens any more once the guard is gone; the pipe still has to be emptied.
            let _ = to.send(line);
        }
    });
}
