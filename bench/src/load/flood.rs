//! Requests on established connections while strangers begin TLS handshakes and leave.
//!
//! A stranger sends a ClientHello that was made once, waits for the first bytes of the answer, and resets the connection:
//! by then the proxy has done the dear part of a handshake, and the stranger next to nothing. So one core of load is
//! enough to keep one core of proxy in handshakes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use socket2::SockRef;

use super::beside::Beside;
use super::terms::SERVER_NAME;
use super::worker::Worker;
use crate::net::{self, Interest, Poll};

/// How often the strangers look whether they shall stop.
const SLICE: Duration = Duration::from_millis(20);
/// The flood runs for at least so long before anything is measured.
const RISE: Duration = Duration::from_millis(100);
/// The strangers give way to the requests and the backend, which are on the same core.
const NICE: i32 = 10;

/// Whoever makes requests is `worker`; the strangers come to `target`.
pub(crate) fn beside(
    worker: Worker,
    target: SocketAddr,
    config: &Arc<ClientConfig>,
    in_flight: usize,
) -> Result<Beside> {
    let mut tls = ClientConnection::new(Arc::clone(config), ServerName::try_from(SERVER_NAME)?)?;
    let mut hello = Vec::new();
    tls.write_tls(&mut hello)?;
    Ok(Beside::new(worker, RISE, move |stop, answered| flood(target, &hello, in_flight, stop, answered)))
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
