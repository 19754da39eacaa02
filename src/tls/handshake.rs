//! The handshake, by rustls, over a socket of the ring. Records reach rustls one by one, so that what follows the last of
//! the handshake stays where it was received.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, InsufficientSizeError, UnbufferedStatus};
use rustls::{CipherSuite, ClientConfig, CommonState, HandshakeKind, ProtocolVersion, ServerConfig};

use super::control::{Control, Secrets};
use super::keys::Keys;
use super::open::Opener;
use super::seal::Sealer;
use super::{Alert, HEADER, KIND_ALERT, KIND_CHANGE_CIPHER, KIND_DATA};
use crate::limits::TLS_HANDSHAKE_BYTES;
use crate::ring::Inlet;

/// Handshake messages that a shard computes in one turn, so that handshakes cannot keep established connections waiting:
/// the costly one takes some 100 us, and a request waits for two turns. (With 4, a flood triples the median of small
/// requests.)
const STEPS_PER_TURN: u32 = 1;
/// Most bytes behind a record's header during a handshake (RFC 5246 section 6.2.3, the laxest).
const RECORD_MAX: usize = 16 * 1024 + 2048;
/// Read at once.
const READ: u32 = 16 * 1024;

/// What is known of a connection after its handshake.
#[derive(Debug, Clone)]
pub struct Facts {
    pub version: ProtocolVersion,
    pub cipher: CipherSuite,
    pub alpn: Option<Box<[u8]>>,
    pub kind: HandshakeKind,
    /// The other side's own certificate, where it has shown one.
    pub peer: Option<CertificateDer<'static>>,
}

/// An established connection: one part for each direction, and what is known of it.
pub struct Session {
    pub opener: Opener,
    pub sealer: Sealer,
    pub facts: Facts,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    #[error("the connection ended in the middle")]
    Ended,
    /// What the other side sent, or offers, will not do.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    #[error("the other side does not speak TLS")]
    NotTls,
    #[error("the other side sends more than any handshake needs")]
    TooLong,
}

/// Lets so many handshake steps of a shard through each turn, in the order in which they came.
#[derive(Debug, Default)]
pub struct Gate {
    left: Cell<u32>,
    waiting: RefCell<VecDeque<Waker>>,
}

impl Gate {
    /// A new turn has begun; true where somebody was woken.
    pub fn turn(&self) -> bool {
        self.left.set(STEPS_PER_TURN);
        let mut waiting = self.waiting.borrow_mut();
        let count = waiting.len().min(STEPS_PER_TURN as usize);
        waiting.drain(..count).for_each(Waker::wake);
        count > 0
    }

    async fn pass(&self) {
        let mut waited = false;
        poll_fn(|context| match self.left.get() {
            // Nobody goes before those who wait; who has just been woken has waited.
            left if left > 0 && (waited || self.waiting.borrow().is_empty()) => {
                self.left.set(left - 1);
                Poll::Ready(())
            }
            _ => {
                waited = true;
                self.waiting.borrow_mut().push_back(context.waker().clone());
                Poll::Pending
            }
        })
        .await;
    }
}

/// Makes the handshake with a client. The caller bounds its time.
///
/// # Errors
/// Why there is no connection; the client has been told by an alert, where it can be.
pub async fn accept(inlet: &mut Inlet, config: &Arc<ServerConfig>, gate: &Gate) -> Result<Session, HandshakeError> {
    let connection = UnbufferedServerConnection::new(Arc::clone(config))?;
    shake(inlet, Connection::Server(connection), gate).await
}

/// Makes the handshake with a server. The caller bounds its time.
///
/// # Errors
/// As [`accept`].
pub async fn connect(
    inlet: &mut Inlet,
    config: &Arc<ClientConfig>,
    name: &ServerName<'static>,
    gate: &Gate,
) -> Result<Session, HandshakeError> {
    let connection = UnbufferedClientConnection::new(Arc::clone(config), name.clone())?;
    shake(inlet, Connection::Client(connection), gate).await
}

/// Our side of a handshake.
enum Connection {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// What comes next in a handshake.
enum Next {
    Step,
    Read,
    Done,
}

async fn shake(inlet: &mut Inlet, connection: Connection, gate: &Gate) -> Result<Session, HandshakeError> {
    let mut shaking = Shaking { connection: Box::new(connection), incoming: Vec::new(), outgoing: Vec::new() };
    let mut total = 0;
    loop {
        match shaking.step() {
            Ok(Next::Step) => {}
            Ok(Next::Done) => {
                shaking.flush(inlet).await?;
                return shaking.finish();
            }
            Ok(Next::Read) => {
                shaking.flush(inlet).await?;
                let record = match next_record(inlet).await {
                    Ok(record) => record,
                    Err(HandshakeError::NotTls) => {
                        let _ = inlet.socket.send_bytes(alert(Alert::UnexpectedMessage)).await;
                        return Err(HandshakeError::NotTls);
                    }
                    Err(error) => return Err(error),
                };
                total += record.len;
                if total > TLS_HANDSHAKE_BYTES {
                    return Err(HandshakeError::TooLong);
                }
                if record.kind != KIND_CHANGE_CIPHER {
                    gate.pass().await;
                }
                inlet.ahead.copy_front(record.len, &mut shaking.incoming);
                inlet.ahead.advance(record.len);
            }
            Err(error) => {
                shaking.encode_alert();
                let _ = shaking.flush(inlet).await;
                return Err(error.into());
            }
        }
    }
}

struct Record {
    kind: u8,
    /// With its header.
    len: usize,
}

/// Waits until all of the next record has come.
async fn next_record(inlet: &mut Inlet) -> Result<Record, HandshakeError> {
    loop {
        let mut header = [0; HEADER];
        let known = inlet.ahead.copy_front_into(&mut header);
        // What cannot be TLS is refused at its first byte.
        if (known > 0 && !(KIND_CHANGE_CIPHER..=KIND_DATA).contains(&header[0])) || (known > 1 && header[1] != 3) {
            return Err(HandshakeError::NotTls);
        }
        if known == HEADER {
            let len = usize::from(u16::from_be_bytes([header[3], header[4]]));
            if len > RECORD_MAX {
                return Err(HandshakeError::NotTls);
            }
            if inlet.ahead.len() >= HEADER + len {
                return Ok(Record { kind: header[0], len: HEADER + len });
            }
        }
        if !inlet.more(READ).await? {
            return Err(HandshakeError::Ended);
        }
    }
}

/// A fatal alert in a record of its own, before there are keys.
fn alert(alert: Alert) -> Box<[u8]> {
    Box::new([KIND_ALERT, 3, 3, 0, 2, 2, alert as u8])
}

struct Shaking {
    /// Large, and gone after the handshake.
    connection: Box<Connection>,
    /// Records that rustls has not done with.
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
}

impl Shaking {
    /// One step of rustls' state machine.
    fn step(&mut self) -> Result<Next, rustls::Error> {
        let Self { connection, incoming, outgoing } = self;
        // The two have the same states, of different types.
        macro_rules! step {
            ($connection:expr) => {{
                let UnbufferedStatus { discard, state } = $connection.process_tls_records(incoming);
                let next = match state {
                    Ok(ConnectionState::EncodeTlsData(mut message)) => {
                        encode(outgoing, |room| message.encode(room));
                        Ok(Next::Step)
                    }
                    Ok(ConnectionState::TransmitTlsData(transmit)) => {
                        // It goes out before anything is waited for.
                        transmit.done();
                        Ok(Next::Step)
                    }
                    Ok(ConnectionState::WriteTraffic(_)) => Ok(Next::Done),
                    Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                        Err(rustls::Error::HandshakeNotComplete)
                    }
                    Ok(_) => Ok(Next::Read),
                    Err(error) => Err(error),
                };
                incoming.drain(..discard.min(incoming.len()));
                match next? {
                    // A server may speak before the client has finished; nothing is relayed before that.
                    Next::Done if $connection.is_handshaking() => Ok(Next::Read),
                    next => Ok(next),
                }
            }};
        }
        match &mut **connection {
            Connection::Server(connection) => step!(connection),
            Connection::Client(connection) => step!(connection),
        }
    }

    /// After a failure: what rustls wants the other side to be told. It still refers to what has come.
    fn encode_alert(&mut self) {
        while let Ok(Next::Step) = self.step() {}
    }

    async fn flush(&mut self, inlet: &Inlet) -> io::Result<()> {
        if self.outgoing.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.outgoing).into_boxed_slice();
        let len = bytes.len();
        match inlet.socket.send_bytes(bytes).await? as usize {
            sent if sent == len => Ok(()),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn finish(self) -> Result<Session, HandshakeError> {
        let (facts, secrets, source) = match *self.connection {
            Connection::Server(connection) => {
                let facts = facts(&connection)?;
                let (secrets, source) = connection.dangerous_into_kernel_connection()?;
                (facts, secrets, Secrets::Server(source))
            }
            Connection::Client(connection) => {
                let facts = facts(&connection)?;
                let (secrets, source) = connection.dangerous_into_kernel_connection()?;
                (facts, secrets, Secrets::Client(source))
            }
        };
        let version = facts.version;
        let keys = |(sequence, secrets)| {
            let broken = || rustls::Error::General("the cipher has no AEAD".into());
            Keys::new(&secrets, sequence, version).map_err(|_| broken())
        };
        let (opening, sealing) = (keys(secrets.rx)?, keys(secrets.tx)?);
        let control = Rc::new(Control::new(source, version));
        Ok(Session { opener: Opener::new(opening, Rc::clone(&control)), sealer: Sealer::new(sealing, control), facts })
    }
}

fn facts(connection: &CommonState) -> Result<Facts, rustls::Error> {
    let unfinished = rustls::Error::HandshakeNotComplete;
    Ok(Facts {
        version: connection.protocol_version().ok_or(unfinished.clone())?,
        cipher: connection.negotiated_cipher_suite().ok_or(unfinished.clone())?.suite(),
        alpn: connection.alpn_protocol().map(Into::into),
        kind: connection.handshake_kind().ok_or(unfinished)?,
        peer: connection.peer_certificates().and_then(|chain| chain.first()).map(|own| own.clone().into_owned()),
    })
}

/// Appends what `message` encodes to `outgoing`.
fn encode(outgoing: &mut Vec<u8>, mut message: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>) {
    let start = outgoing.len();
    let mut room = 1024;
    loop {
        outgoing.resize(start + room, 0);
        match message(&mut outgoing[start..]) {
            Ok(written) => return outgoing.truncate(start + written),
            Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) if required_size > room => {
                room = required_size;
            }
            // It was encoded before.
            Err(_) => return outgoing.truncate(start),
        }
    }
}
