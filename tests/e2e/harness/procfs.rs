//! What /proc says of a process.

use std::fs;
use std::time::Duration;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Process(pub(crate) u32);

impl Process {
    fn read(self, file: &str) -> String {
        let path = format!("/proc/{}/{file}", self.0);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Open descriptors.
    pub(crate) fn descriptors(self) -> usize {
        let path = format!("/proc/{}/fd", self.0);
        fs::read_dir(&path).unwrap_or_else(|error| panic!("{path}: {error}")).count()
    }

    /// Sets RLIMIT_NOFILE (soft) of a running process.
    pub(crate) fn limit_descriptors(self, soft: u64) {
        let pid = self.0 as nix::libc::pid_t;
        let mut limit = nix::libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: both pointers are null or name one rlimit that lives over the call.
        #[allow(unsafe_code)]
        let got = unsafe { nix::libc::prlimit(pid, nix::libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut limit) };
        limit.rlim_cur = soft.min(limit.rlim_max);
        // SAFETY: as above.
        #[allow(unsafe_code)]
        let set = unsafe { nix::libc::prlimit(pid, nix::libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) };
        assert_eq!((got, set), (0, 0), "prlimit: {}", std::io::Error::last_os_error());
    }

    /// The part of one core that it uses in `span`.
    pub(crate) fn cpu_share(self, span: Duration) -> f64 {
        let (before, begin) = (self.cpu(), std::time::Instant::now());
        std::thread::sleep(span);
        (self.cpu() - before).as_secs_f64() / begin.elapsed().as_secs_f64()
    }

    /// Whether it watches files.
    pub(crate) fn has_inotify(self) -> bool {
        let entries = fs::read_dir(format!("/proc/{}/fd", self.0)).expect("descriptors");
        let mut links = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        links.any(|link| link.to_string_lossy().contains("inotify"))
    }

    /// Resident memory in bytes.
    pub(crate) fn resident(self) -> u64 {
        let status = self.read("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// CPU time of all its threads, with the scheduler's precision.
    pub(crate) fn cpu(self) -> Duration {
        let path = format!("/proc/{}/task", self.0);
        let tasks = fs::read_dir(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let nanoseconds = |task: fs::DirEntry| {
            let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0)
        };
        Duration::from_nanos(tasks.map_while(Result::ok).map(nanoseconds).sum())
    }

    /// How often its threads whose names begin with `name` have gone to sleep: each was woken as often.
    pub(crate) fn waits(self, name: &str) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.0)).expect("tasks");
        let waits = |task: fs::DirEntry| {
            let status = fs::read_to_string(task.path().join("status")).ok()?;
            let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
            value("Name:")?.starts_with(name).then(|| value("voluntary_ctxt_switches:")?.parse::<u64>().ok()).flatten()
        };
        let counts: Vec<u64> = tasks.map_while(Result::ok).filter_map(waits).collect();
        assert!(!counts.is_empty(), "no thread is called {name}");
        counts.iter().sum()
    }

    /// TCP connections that the process holds, by state, as `CLOSE-WAIT`.
    pub(crate) fn tcp_states(self) -> Vec<String> {
        let directory = format!("/proc/{}/fd", self.0);
        let entries = fs::read_dir(directory).expect("descriptors");
        let links = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        let inodes: Vec<String> = links
            .filter_map(|link| {
                let link = link.to_string_lossy().into_owned();
                Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
            })
            .collect();
        let tables = self.read("net/tcp") + &self.read("net/tcp6");
        let rows = tables.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let own = rows.filter(|row| row.len() > 9 && inodes.iter().any(|inode| inode == row[9]));
        own.map(|row| state(row[3]).to_owned()).collect()
    }
}

fn state(code: &str) -> &str {
    match code {
        "01" => "ESTABLISHED",
        "02" => "SYN-SENT",
        "03" => "SYN-RECV",
        "04" => "FIN-WAIT-1",
        "05" => "FIN-WAIT-2",
        "06" => "TIME-WAIT",
        "07" => "CLOSE",
        "08" => "CLOSE-WAIT",
        "09" => "LAST-ACK",
        "0A" => "LISTEN",
        "0B" => "CLOSING",
        other => other,
    }
}
