//! Requests on established connections while strangers begin TLS handshakes and leave.
//!
//! A stranger sends a ClientHello that was made once, waits for the first bytes of the answer, and resets the connection:
//! by then the proxy has done the dear part of a handshake, and the stranger next to nothing. So one core of load is
//! enough to keep one core of proxy in handshakes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use socket2::SockRef;

use super::Load;
use super::tally::Tally;
use super::terms::SERVER_NAME;
use super::worker::Worker;
use crate::net::{self, Interest, Poll};

/// How often the strangers look whether they shall stop.
const SLICE: Duration = Duration::from_millis(20);
/// The flood runs for at least so long before anything is measured.
const RISE: Duration = Duration::from_millis(100);
/// The strangers give way to the requests and the backend, which are on the same core.
const NICE: i32 = 10;

pub(crate) struct Flood {
    worker: Worker,
    strangers: Option<Strangers>,
    target: SocketAddr,
    hello: Vec<u8>,
    in_flight: usize,
}

impl Flood {
    /// Whoever makes requests is `worker`; the strangers come to `target`.
    pub(crate) fn new(
        worker: Worker,
        target: SocketAddr,
        config: &Arc<ClientConfig>,
        in_flight: usize,
    ) -> Result<Self> {
        let mut tls = ClientConnection::new(Arc::clone(config), ServerName::try_from(SERVER_NAME)?)?;
        let mut hello = Vec::new();
        tls.write_tls(&mut hello)?;
        Ok(Self { worker, strangers: None, target, hello, in_flight })
    }
}

impl Load for Flood {
    fn prepare(&mut self, warmup: Duration) -> Result<()> {
        self.worker.prepare(warmup)?;
        // Not quiet, as other loads are then: a flood that rises is not what is to be measured.
        self.strangers = Some(Strangers::start(self.target, self.hello.clone(), self.in_flight));
        thread::sleep(RISE);
        Ok(())
    }

    fn measure(&mut self, until: Instant) -> Result<Tally> {
        let strangers = self.strangers.take().context("a flood is prepared before it is measured")?;
        let before = strangers.answered();
        let measured = self.worker.measure(until);
        let flooded = strangers.answered() - before;
        strangers.end()?;
        let mut tally = measured?;
        tally.flooded = flooded;
        ensure!(tally.flooded > 0, "the flood was not answered");
        Ok(tally)
    }
}

/// The thread of the flood.
struct Strangers {
    thread: JoinHandle<Result<()>>,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
}

impl Strangers {
    fn start(target: SocketAddr, hello: Vec<u8>, in_flight: usize) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (must_stop, count) = (Arc::clone(&stop), Arc::clone(&answered));
        // Pinned as the thread that starts it.
        let thread = thread::spawn(move || flood(target, &hello, in_flight, &must_stop, &count));
        Self { thread, stop, answered }
    }

    fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the flood has panicked"))?
    }
}

fn flood(target: SocketAddr, hello: &[u8], in_flight: usize, stop: &AtomicBool, answered: &AtomicU64) -> Result<()> {
    rustix::process::nice(NICE)?;
    let mut poll = Poll::new()?;
    let begin = |poll: &mut Poll, index: usize| -> Result<TcpStream> {
        let stream = net::dial_later(target).context("flood")?;
        // Leaves with RST: a stranger in TIME_WAIT would keep a port.
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        poll.add(&stream, index, Interest::Write)?;
        Ok(stream)
    };
    let mut strangers = Vec::with_capacity(in_flight);
    for index in 0..in_flight {
        strangers.push(begin(&mut poll, index)?);
    }
    let mut answer = [0; 4_096];
    while !stop.load(Ordering::Relaxed) {
        let events = poll.wait(Some(SLICE))?;
        for event in 0..events {
            let index = poll.token(event);
            let (readable, _) = poll.readiness(event);
            let stranger = &mut strangers[index];
            let goes_on = if readable {
                // The first handshake record is of type 22; an alert is no answer.
                let is_answered = stranger.read(&mut answer).is_ok_and(|read| read > 0 && answer[0] == 22);
                answered.fetch_add(u64::from(is_answered), Ordering::Relaxed);
                false
            } else {
                let is_said = stranger.write(hello).is_ok_and(|sent| sent == hello.len());
                is_said && poll.set(&*stranger, index, Interest::Read).is_ok()
            };
            if !goes_on {
                *stranger = begin(&mut poll, index)?;
            }
        }
    }
    Ok(())
}
