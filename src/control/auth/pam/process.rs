//! The processes that speak to PAM: this program again, by hidden subcommands, started while arus is still root.
//!
//! A keeper starts the workers and starts again who dies; a worker answers one question at a time. All of them share one
//! end of a socket of packets, so that the kernel gives each question to one idle worker. When arus ends, the socket ends:
//! the workers end by themselves, and the keeper with the last of them.
//!
//! Arus may have given root up by the time that its keeper is killed, and could start no other. So each keeper has a
//! standby, which does nothing but wait for its end, and then is the keeper. The workers of before end with theirs.

use std::ffi::{CString, c_int};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::{Pid, getppid};
use socket2::Socket;
use zeroize::Zeroizing;

use super::ffi::{Credentials, Library};
use super::wire::{Answer, Message, PACKET, Question, read_question, write};

pub(super) const KEEPER: &str = "pam-keeper";
pub(super) const WORKER: &str = "pam-worker";
/// The pause after a worker that died young, so that one that cannot even start costs nothing; and the one before a
/// standby does its work, in which the workers of before end.
const PAUSE: Duration = Duration::from_millis(200);

/// Starts `workers` of them and keeps so many alive; a standby does so when the keeper that has started it is gone.
pub fn keep(workers: usize, limit: Duration, is_standby: bool) -> ExitCode {
    let Ok(socket) = shared() else { return ExitCode::FAILURE };
    if is_standby {
        wait_for_the_end_of_the_keeper();
        std::thread::sleep(PAUSE);
        let succeeded = write(&Message::Succeeded { pid: std::process::id() });
        if has_ended(&socket) || (&socket).write(&succeeded).is_err() {
            return ExitCode::SUCCESS;
        }
    }
    let mut standby = Standby::start(workers, limit);
    let mut alive: Vec<(u32, Instant)> = Vec::new();
    let mut failed_to_start = 0;
    while alive.len() < workers {
        match start_worker(limit) {
            Ok(child) => alive.push((child.id(), Instant::now())),
            Err(_) if failed_to_start < 100 => {
                failed_to_start += 1;
                std::thread::sleep(PAUSE);
            }
            Err(_) => return ExitCode::FAILURE,
        }
    }
    while !alive.is_empty() {
        let (pid, is_over) = match wait() {
            Ok(WaitStatus::Exited(pid, code)) => (pid, code == 0),
            Ok(WaitStatus::Signaled(pid, ..)) => (pid, false),
            Ok(_) => continue,
            Err(nix::Error::EINTR) => continue,
            Err(_) => return ExitCode::FAILURE,
        };
        let pid = pid.as_raw().cast_unsigned();
        if standby.as_ref().is_some_and(|standby| standby.0.id() == pid) {
            std::thread::sleep(PAUSE);
            standby = Standby::start(workers, limit);
            continue;
        }
        let Some(index) = alive.iter().position(|(known, _)| *known == pid) else { continue };
        let (_, born) = alive.swap_remove(index);
        if is_over {
            continue;
        }
        if (&socket).write(&write(&Message::Died { pid })).is_err() {
            // Nobody listens any more; the other workers find out as well.
            continue;
        }
        if born.elapsed() < PAUSE {
            std::thread::sleep(PAUSE);
        }
        match start_worker(limit) {
            Ok(child) => alive.push((child.id(), Instant::now())),
            Err(error) => say(format_args!("arus {KEEPER}: no worker can be started: {error}")),
        }
    }
    ExitCode::SUCCESS
}

/// The next keeper, and the end of a pipe that nobody but this process has open: its end is the end of this process.
struct Standby(Child);

impl Standby {
    fn start(workers: usize, limit: Duration) -> Option<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.arg(KEEPER).arg(workers.to_string()).arg(limit.as_millis().to_string()).arg("--standby");
        command.env_clear().current_dir("/").stdin(Stdio::inherit()).stdout(Stdio::piped());
        match command.spawn() {
            Ok(child) => Some(Self(child)),
            Err(error) => {
                say(format_args!("arus {KEEPER}: no standby can be started: {error}"));
                None
            }
        }
    }
}

/// Standard output is a pipe, which is broken when the keeper has ended.
fn wait_for_the_end_of_the_keeper() {
    let stdout = io::stdout();
    loop {
        // That it is broken is reported without being asked for.
        match poll(&mut [PollFd::new(stdout.as_fd(), PollFlags::empty())], PollTimeout::NONE) {
            Ok(1..) => return,
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// Whether arus has closed its end.
fn has_ended(socket: &Socket) -> bool {
    let mut polls = [PollFd::new(socket.as_fd(), PollFlags::empty())];
    poll(&mut polls, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

fn start_worker(limit: Duration) -> io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command.arg(WORKER).arg(limit.as_millis().to_string()).arg(std::process::id().to_string());
    command.env_clear().current_dir("/").stdin(Stdio::inherit()).stdout(Stdio::null()).spawn()
}

/// The end of the socket that all of them share.
fn shared() -> io::Result<Socket> {
    Ok(Socket::from(io::stdin().as_fd().try_clone_to_owned()?))
}

/// Answers questions until nobody asks any more. One that takes longer than `limit` ends the process, whatever the module
/// is doing; so does the end of the keeper.
pub fn work(limit: Duration, keeper: i32) -> ExitCode {
    // It may have ended before this was said.
    if set_pdeathsig(Signal::SIGKILL).is_err() || getppid().as_raw() != keeper {
        return ExitCode::FAILURE;
    }
    let Ok(socket) = shared() else { return ExitCode::FAILURE };
    let (begun, watched) = channel();
    let watch = std::thread::Builder::new().name("watch".into()).spawn(move || watch(&watched, limit));
    if watch.is_err() {
        return ExitCode::FAILURE;
    }
    let library = Library::open();
    let mut packet = Zeroizing::new([0; PACKET]);
    loop {
        let length = match (&socket).read(&mut *packet) {
            Ok(0) => return ExitCode::SUCCESS,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return ExitCode::SUCCESS,
        };
        let Some((id, question)) = packet.get(..length).and_then(read_question) else { continue };
        packet.iter_mut().for_each(|byte| *byte = 0);
        let answered = answer(&socket, id, &library, question, &begun);
        if answered.is_err() {
            return ExitCode::SUCCESS;
        }
    }
}

fn answer(
    socket: &Socket,
    id: u64,
    library: &Result<Library, String>,
    question: Question,
    watched: &Sender<()>,
) -> io::Result<()> {
    let mut socket = socket;
    socket.write_all(&write(&Message::Taken { id, pid: std::process::id() }))?;
    let _ = watched.send(());
    let answer = match library {
        Ok(library) => ask(library, question),
        Err(error) => Answer::Unavailable(error.clone()),
    };
    let _ = watched.send(());
    socket.write_all(&write(&Message::Answer { id, answer }))
}

/// Hears of the begin and the end of each question, in turn.
fn watch(watched: &Receiver<()>, limit: Duration) {
    while watched.recv().is_ok() {
        if watched.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            say(format_args!("arus {WORKER}: a PAM module takes longer than {limit:?}: this process ends"));
            end_children();
            let _ = kill(Pid::this(), Signal::SIGKILL);
        }
    }
}

/// On stderr, whose reader may be gone by now; eprintln! would panic then, and end what it is said of.
fn say(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Ends the programs of pam_exec, which nothing else would; each leads a group of its own, with those that it has started.
fn end_children() {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let children = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    for child in
        children.flat_map(|pids| pids.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>())
    {
        // Its number is its own until it is waited for, which the thread that hangs does.
        let _ = kill(Pid::from_raw(-child), Signal::SIGKILL);
        let _ = kill(Pid::from_raw(child), Signal::SIGKILL);
    }
}

fn ask(library: &Library, question: Question) -> Answer {
    let Question { service, user, password, remote } = question;
    // None has a NUL, or it would not have been sent.
    let text = |bytes: &[u8]| CString::new(bytes).ok();
    let has_password = password.is_some();
    let password = password.map(|password| text(&password));
    let (Some(service), Some(user)) = (text(service.as_bytes()), text(user.as_bytes())) else { return Answer::Refused };
    let asked_for = String::from_utf8_lossy(user.as_bytes()).into_owned();
    let remote = remote.and_then(|remote| text(remote.as_bytes()));
    let credentials = Credentials { user, password: password.flatten() };
    let result = library.begin(&service, &credentials, remote.as_deref()).and_then(|mut transaction| {
        if has_password {
            transaction.authenticate()?;
        }
        transaction.check_account()?;
        Ok(transaction.user())
    });
    // The copy that C read; libpam wipes its own.
    credentials.password.map(|password| Zeroizing::new(password.into_bytes()));
    match result {
        Ok(user) => Answer::Accepted(user.unwrap_or(asked_for)),
        Err(code) => refusal(code),
    }
}

/// Tells "no" from "cannot say", by the numbers of Linux-PAM.
fn refusal(code: c_int) -> Answer {
    let why = match code {
        1 => "a module cannot be opened",
        2 => "a module lacks a function",
        3 => "a module failed",
        5 => "no memory",
        9 => "the source of its information cannot be reached",
        14 | 19 => "a module asks for something else than a password",
        26 => "there is no such service, or its file is broken",
        28 => "a module is unknown",
        // With 4 (PAM_SYSTEM_ERR), as pam_exec says no with it.
        _ => return Answer::Refused,
    };
    Answer::Unavailable(format!("{why} ({code})"))
}
