//! A dialogue with a client, whether it speaks TLS or not: hearing a message, saying one, and parting so that the last
//! word arrives.

use std::pin::Pin;
use std::time::Duration;

use crate::codec::{self, Progress};
use crate::limits;
use crate::ring::{Completion, Inlet, Queue, Ring};
use crate::shard::attend;
use crate::shard::greet::{READ, broken};
use crate::shard::session::Outcome;
use crate::tls;
use crate::types::{Blame, Reason};

/// How long a client that was told to go may still send, before the connection is closed under it.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes that a client may send before there is anybody to take them.
const AHEAD: usize = limits::QUEUED_BYTES_UNDER_PRESSURE;
/// Bytes that are taken from it meanwhile, each time.
const DISCARD: u32 = 64 * 1024;
/// Between two looks at whether there is a private buffer.
const NO_BUFFER_PAUSE: Duration = Duration::from_millis(5);

/// The client's end of a dialogue.
pub(super) struct Talk<'g> {
    ring: &'g Ring,
    pub(super) inlet: &'g mut Inlet,
    tls: Option<&'g mut tls::Session>,
    /// Opened, and not yet heard.
    opened: &'g mut Queue,
    /// Said, and maybe not gone yet: the client's answer, or its end, tells as well that it has.
    saying: Option<Completion>,
}

impl<'g> Talk<'g> {
    pub(super) fn new(
        ring: &'g Ring,
        inlet: &'g mut Inlet,
        tls: Option<&'g mut tls::Session>,
        opened: &'g mut Queue,
    ) -> Self {
        Self { ring, inlet, tls, opened, saying: None }
    }

    /// Whether the client speaks TLS, so that nothing can be put before its bytes as it is.
    pub(super) fn is_sealed(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether the client has said as much ahead of its time as it may.
    pub(super) fn has_much(&self) -> bool {
        self.inlet.ahead.len() + self.opened.len() >= AHEAD
    }

    fn heard(&mut self) -> &mut Queue {
        match self.tls {
            Some(_) => self.opened,
            None => &mut self.inlet.ahead,
        }
    }

    /// Hears one message; what follows it is left.
    ///
    /// # Errors
    /// When the client goes, or its connection breaks. The inner error says that it is no message.
    pub(super) async fn hear<T>(
        &mut self,
        mut parse: impl FnMut(&[u8]) -> Progress<T>,
    ) -> Result<Result<T, codec::Error>, Outcome> {
        loop {
            if let Some(heard) = message(self.heard(), &mut parse) {
                return Ok(heard);
            }
            self.more().await?;
        }
    }

    /// Waits for more of what the client says.
    pub(super) async fn more(&mut self) -> Result<(), Outcome> {
        loop {
            if let Some(tls) = &mut self.tls {
                let before = self.opened.len();
                let pool = self.ring.pool();
                let (inbox, outbox) = (self.inlet.ahead.chain_mut(), self.opened.chain_mut());
                match tls.opener.run(pool, inbox, false, outbox, READ as usize) {
                    _ if self.opened.len() > before => return Ok(()),
                    tls::Turn::Wants | tls::Turn::Full => {}
                    tls::Turn::NoBuffer => {
                        self.ring.sleep(NO_BUFFER_PAUSE).await;
                        continue;
                    }
                    tls::Turn::Ended => return Err(Outcome::failed(Reason::ClientGone, Blame::Client)),
                    tls::Turn::Broken(reason) => return Err(Outcome::failed(reason, Blame::Client)),
                }
            }
            match self.inlet.more(READ).await {
                Ok(true) if self.tls.is_none() => return Ok(()),
                Ok(true) => {}
                Ok(false) => return Err(Outcome::failed(Reason::ClientGone, Blame::Client)),
                Err(error) => return Err(broken(&error)),
            }
        }
    }

    /// Waits until the client goes, while it is not its turn. What it says ahead of its turn is kept, within bounds. One
    /// that has done so, and then says no more, waits for its answer all the same.
    pub(super) async fn gone(&mut self) -> Outcome {
        while !self.has_much() {
            if let Err(outcome) = self.more().await {
                if outcome.reason != Reason::ClientGone || self.heard().is_empty() {
                    return outcome;
                }
                break;
            }
        }
        attend::broken(self.ring, &self.inlet.socket).await
    }

    /// Waits for something else than the client's word.
    ///
    /// # Errors
    /// When the client goes before.
    pub(super) async fn attended<T>(&mut self, wait: Pin<&mut impl Future<Output = T>>) -> Result<T, Outcome> {
        attend::attended(self.ring, wait, || self.gone()).await
    }

    /// Says something small, behind everything said before.
    ///
    /// # Errors
    /// When the client's connection is broken.
    pub(super) async fn say(&mut self, message: &[u8]) -> Result<(), Outcome> {
        self.settle().await?;
        let bytes = self.sealed(message).ok_or(Outcome::failed(Reason::Memory, Blame::Proxy))?;
        self.saying = Some(self.inlet.socket.send_bytes(bytes));
        Ok(())
    }

    /// Waits until everything said has gone. Whoever sends by another way does so first.
    ///
    /// # Errors
    /// When the client's connection is broken.
    pub(super) async fn settle(&mut self) -> Result<(), Outcome> {
        let Some(saying) = self.saying.take() else { return Ok(()) };
        saying.await.map(drop).map_err(|error| broken(&error))
    }

    /// As it goes over the wire; `None` when there is no buffer for it.
    fn sealed(&mut self, message: &[u8]) -> Option<Box<[u8]>> {
        let Some(tls) = &mut self.tls else { return Some(message.into()) };
        let pool = self.ring.pool();
        let (mut plain, mut sealed) = (Queue::new(pool), Queue::new(pool));
        if !plain.extend(message) {
            return None;
        }
        let turn = tls.sealer.run(pool, plain.chain_mut(), false, sealed.chain_mut(), READ as usize);
        (turn == tls::Turn::Wants).then(|| bytes_of(&mut sealed))
    }

    /// Ends the connection after `last`, so that the client hears it: a close with bytes unread would be a reset, which
    /// takes from the client what it has not read yet.
    pub(super) async fn part(&mut self, last: &[u8]) {
        if !last.is_empty() && self.say(last).await.is_err() {
            return;
        }
        if self.settle().await.is_err() {
            return;
        }
        if let Some(tls) = &mut self.tls {
            let pool = self.ring.pool();
            let mut goodbye = Queue::new(pool);
            if tls.sealer.finish(pool, goodbye.chain_mut()) && !goodbye.is_empty() {
                let _ = self.inlet.socket.send_bytes(bytes_of(&mut goodbye)).await;
            }
        }
        self.inlet.socket.shutdown_write();
        let all = async {
            loop {
                self.ring.release(self.inlet.ahead.take());
                if !matches!(self.inlet.more(DISCARD).await, Ok(true)) {
                    break;
                }
            }
        };
        let _ = self.ring.timeout(LINGER, all).await;
    }
}

/// Takes the message at the front of what was heard; `None` while it has not all come. A parser never wants more than
/// [`limits::SOCKS_MESSAGE_BYTES`].
pub(super) fn message<T>(
    heard: &mut Queue,
    mut parse: impl FnMut(&[u8]) -> Progress<T>,
) -> Option<Result<T, codec::Error>> {
    let mut bytes = [0; limits::SOCKS_MESSAGE_BYTES];
    let len = heard.copy_front_into(&mut bytes);
    match parse(&bytes[..len]) {
        Progress::Done(message, used) => {
            heard.advance(used);
            Some(Ok(message))
        }
        Progress::Bad(error) => Some(Err(error)),
        Progress::NeedMore => None,
    }
}

/// Copies a queue out, and empties it.
fn bytes_of(queue: &mut Queue) -> Box<[u8]> {
    let mut bytes = vec![0; queue.len()].into_boxed_slice();
    queue.copy_front_into(&mut bytes);
    queue.advance(bytes.len());
    bytes
}
