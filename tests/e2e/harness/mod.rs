//! What all end-to-end tests stand on: arus as a process, backends and clients, bytes that can be checked, /proc.
//!
//! ```ignore
//! let backend = Backend::start(behaviour::echo);
//! let arus = Setup::one("127.0.0.1:0", &[&backend]).start();
//! let mut client = Stream::connect(arus.address("web"));
//! client.send(7, 0, 1000);
//! client.expect(7, 0, 1000);
//! drop(client);
//! assert_eq!(arus.finished(1)[0]["reason"], "done");
//! ```

// Shared by several groups of tests; not every one uses everything.
#![allow(dead_code, unused_imports)]

mod arus;
mod backend;
mod bytes;
mod log;
mod procfs;
mod program;
pub(crate) mod proxy_header;
mod proxy_peers;
mod stream;
mod tls;
pub(crate) mod tls_certs;
pub(crate) mod tls_openssl;

use std::time::{Duration, Instant};

pub(crate) use arus::{Arus, Setup};
pub(crate) use backend::{Backend, Closed, Crowd, Hanging, behaviour};
pub(crate) use bytes::{Random, pattern};
pub(crate) use log::Log;
pub(crate) use procfs::Process;
pub(crate) use program::Program;
pub(crate) use proxy_header::ProxyHeader;
pub(crate) use proxy_peers::{Haproxy, Nginx, Recording};
pub(crate) use stream::{Address, End, Stream};
pub(crate) use tls::{TlsClient, TlsEnd, TlsServer, TlsStream, in_records};
pub(crate) use tls_certs::{Authority, Key, Pair};

/// For whatever must happen: a loaded machine with debug builds takes its time, and only a failure waits so long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Looks every few milliseconds until `probe` gives something; panics with `what` after [`DEADLINE`].
pub(crate) fn eventually<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    within(DEADLINE, what, probe)
}

/// As [`eventually`], with a deadline of its own.
pub(crate) fn within<T>(limit: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
