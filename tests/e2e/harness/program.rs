//! A foreign program as a child: what it prints can be awaited, what it reads can be scripted, its sockets can be
//! made here.

use std::io::{Read, Write as _};
use std::os::fd::AsRawFd;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use socket2::Socket;

use super::{Address, DEADLINE, within};

/// How long a program gets to end after SIGTERM.
const MERCY: Duration = Duration::from_secs(5);

/// A running program; ended when dropped.
pub(crate) struct Program {
    command: String,
    child: Child,
    stdin: Option<ChildStdin>,
    printed: Arc<Printed>,
}

#[derive(Default)]
struct Printed {
    /// Standard output and standard error, as they came, and how many of both have ended.
    content: Mutex<(Vec<u8>, usize)>,
    changed: Condvar,
}

impl Program {
    pub(crate) fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        let printed = Arc::new(Printed::default());
        printed.follow(child.stdout.take().unwrap());
        printed.follow(child.stderr.take().unwrap());
        Self { command: format!("{command:?}"), stdin: child.stdin.take(), child, printed }
    }

    /// Whatever it has printed so far.
    pub(crate) fn printed(&self) -> String {
        String::from_utf8_lossy(&self.printed.content.lock().unwrap().0).into_owned()
    }

    /// Waits until `look` finds something in what it has printed.
    pub(crate) fn wait<T>(&self, what: &str, mut look: impl FnMut(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        let mut content = self.printed.content.lock().unwrap();
        loop {
            let text = String::from_utf8_lossy(&content.0).into_owned();
            if let Some(found) = look(&text) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || content.1 == 2 {
                drop(content); // not poisoned by the panic
                panic!("{}: no {what} in\n{text}", self.command);
            }
            content = self.printed.changed.wait_timeout(content, left).unwrap().0;
        }
    }

    /// Waits until it has printed `part`; gives everything so far.
    pub(crate) fn wait_for(&self, part: &str) -> String {
        self.wait(part, |text| text.contains(part).then(|| text.to_owned()))
    }

    /// Waits until it has printed so many lines of JSON.
    pub(crate) fn wait_lines(&self, count: usize) -> Vec<Value> {
        self.wait(&format!("{count} lines of JSON"), |text| {
            // The last line may be in the making.
            let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            let lines: Vec<Value> =
                whole.filter(|line| line.starts_with('{')).filter_map(|line| serde_json::from_str(line).ok()).collect();
            (lines.len() >= count).then_some(lines)
        })
    }

    /// Writes to its standard input.
    pub(crate) fn say(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().expect("its standard input is open");
        stdin.write_all(bytes).and_then(|()| stdin.flush()).unwrap_or_else(|error| panic!("{}: {error}", self.command));
    }

    /// Closes its standard input.
    pub(crate) fn say_no_more(&mut self) {
        self.stdin = None;
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until it has ended by itself and everything it printed is here.
    pub(crate) fn wait_exit(&mut self) -> ExitStatus {
        let status = within(DEADLINE, &self.command, || self.child.try_wait().unwrap());
        let content = self.printed.content.lock().unwrap();
        let open = |content: &mut (Vec<u8>, usize)| content.1 < 2;
        drop(self.printed.changed.wait_timeout_while(content, DEADLINE, open).unwrap());
        status
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.child.id() as i32), signal);
    }

    /// Ends it at once and without a word.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.is_running() {
            self.signal(Signal::SIGTERM);
            let deadline = Instant::now() + MERCY;
            while self.is_running() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            self.kill();
        }
        if std::thread::panicking() {
            eprintln!("--- {} printed\n{}\n---", self.command, self.printed());
        }
    }
}

impl Printed {
    fn follow(self: &Arc<Self>, mut source: impl Read + Send + 'static) {
        let printed = Arc::clone(self);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let count = source.read(&mut buffer).unwrap_or(0);
                let mut content = printed.content.lock().unwrap();
                content.0.extend_from_slice(&buffer[..count]);
                content.1 += usize::from(count == 0);
                drop(content);
                printed.changed.notify_all();
                if count == 0 {
                    return;
                }
            }
        });
    }
}

/// A socket that listens already, for a program that takes it over by its number: the port is the kernel's choice, and
/// who connects before the program is ready waits in the queue.
pub(crate) struct Inherited(Socket);

impl Inherited {
    pub(crate) fn listen(address: &str) -> Self {
        let address: std::net::SocketAddr = address.parse().unwrap();
        let socket = Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None).unwrap();
        socket.bind(&address.into()).unwrap();
        socket.listen(1024).unwrap();
        Self(socket)
    }

    pub(crate) fn address(&self) -> Address {
        Address::Ip(self.0.local_addr().unwrap().as_socket().unwrap())
    }

    pub(crate) fn number(&self) -> i32 {
        self.0.as_raw_fd()
    }

    /// Starts the program, which alone has the socket from then on.
    pub(crate) fn give_to(self, mut command: Command) -> Program {
        use std::os::unix::process::CommandExt;
        let number = self.number();
        let keep = move || {
            // SAFETY: F_SETFD takes a plain number; the descriptor is open, as `self` lives until after the spawn.
            #[allow(unsafe_code)]
            let result = unsafe { nix::libc::fcntl(number, nix::libc::F_SETFD, 0) };
            if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        };
        // SAFETY: between fork and exec only fcntl(2) is called, which is async-signal-safe.
        #[allow(unsafe_code)]
        unsafe {
            command.pre_exec(keep)
        };
        Program::start(command)
    }
}
