//! TLS connections of the tests themselves, over [`Stream`]: both ends, with every way to end them.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{AlertDescription, ClientConfig, ClientConnection, Connection, HandshakeKind, ProtocolVersion};
use rustls::{ServerConfig, ServerConnection, SupportedCipherSuite, SupportedProtocolVersion};

use super::tls_certs::{Authority, Pair};
use super::{Address, Stream, bytes};

/// How a TLS connection ended, or why it never began.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum TlsEnd {
    /// As it should: close_notify.
    CloseNotify,
    /// FIN without close_notify.
    Truncated,
    /// RST.
    Reset,
    /// The peer's alert.
    Alert(AlertDescription),
    /// Something that this end does not accept, as a certificate of somebody else.
    Refused(rustls::Error),
}

/// A TLS client that can call many times; its calls share their tickets.
#[derive(Clone)]
pub(crate) struct TlsClient {
    config: ClientConfig,
    name: ServerName<'static>,
    /// Most bytes that go to the socket at once during the handshake.
    cut: usize,
}

impl TlsClient {
    /// One that trusts `authority`, speaks TLS 1.2 and 1.3, and asks for `name`, which may be an IP address (no SNI).
    pub(crate) fn new(authority: &Authority, name: &str) -> Self {
        Self::with(authority, name, None, rustls::ALL_VERSIONS)
    }

    /// One of these versions only.
    pub(crate) fn speaking(authority: &Authority, name: &str, versions: &[&'static SupportedProtocolVersion]) -> Self {
        Self::with(authority, name, None, versions)
    }

    /// One with a certificate of its own.
    pub(crate) fn identified(authority: &Authority, name: &str, own: &Pair) -> Self {
        Self::with(authority, name, Some(own), rustls::ALL_VERSIONS)
    }

    pub(crate) fn with(
        authority: &Authority,
        name: &str,
        own: Option<&Pair>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        Self::of(provider(), authority, name, own, versions)
    }

    /// One that knows a single cipher suite.
    pub(crate) fn only(authority: &Authority, name: &str, suite: SupportedCipherSuite) -> Self {
        let provider = CryptoProvider { cipher_suites: vec![suite], ..(*provider()).clone() };
        Self::of(provider.into(), authority, name, None, &[suite.version()])
    }

    fn of(
        provider: Arc<CryptoProvider>,
        authority: &Authority,
        name: &str,
        own: Option<&Pair>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let config = config.with_root_certificates(authority.roots());
        let mut config = match own {
            Some(own) => config.with_client_auth_cert(own.chain(), own.private_key()).unwrap(),
            None => config.with_no_client_auth(),
        };
        config.resumption = Resumption::in_memory_sessions(64);
        Self { config, name: ServerName::try_from(name.to_owned()).unwrap(), cut: usize::MAX }
    }

    pub(crate) fn alpn(mut self, protocols: &[&str]) -> Self {
        self.config.alpn_protocols = wire(protocols);
        self
    }

    /// Sends no server name, whatever is expected of the certificate.
    pub(crate) fn without_sni(mut self) -> Self {
        self.config.enable_sni = false;
        self
    }

    /// Forgets all tickets, and takes none.
    pub(crate) fn without_resumption(mut self) -> Self {
        self.config.resumption = Resumption::disabled();
        self
    }

    /// Sends its part of the handshake in pieces of so many bytes.
    pub(crate) fn cut(mut self, bytes: usize) -> Self {
        self.cut = bytes;
        self
    }

    /// Connects, and waits for the end of the handshake.
    pub(crate) fn connect(&self, address: &Address) -> TlsStream {
        self.try_connect(address).unwrap_or_else(|end| panic!("TLS to {address}: {end:?}"))
    }

    pub(crate) fn try_connect(&self, address: &Address) -> Result<TlsStream, TlsEnd> {
        self.over(Stream::connect(address))
    }

    /// The handshake over a connection that may have carried something before, as a PROXY header.
    pub(crate) fn over(&self, socket: Stream) -> Result<TlsStream, TlsEnd> {
        let tls = ClientConnection::new(Arc::new(self.config.clone()), self.name.clone()).unwrap();
        let mut stream = TlsStream { socket, tls: tls.into(), cut: self.cut }.shake_hands()?;
        stream.cut = usize::MAX;
        Ok(stream)
    }

    /// The first bytes such a client sends.
    pub(crate) fn hello(&self) -> Vec<u8> {
        let mut tls = ClientConnection::new(Arc::new(self.config.clone()), self.name.clone()).unwrap();
        let mut hello = Vec::new();
        tls.write_tls(&mut hello).unwrap();
        hello
    }
}

/// What a TLS server of the tests needs for its connections.
#[derive(Clone)]
pub(crate) struct TlsServer(Arc<ServerConfig>);

impl TlsServer {
    pub(crate) fn new(own: &Pair, alpn: &[&str]) -> Self {
        Self::with(own, alpn, None)
    }

    /// One that refuses clients without a certificate of `clients`.
    pub(crate) fn for_clients_of(own: &Pair, clients: &Authority) -> Self {
        Self::with(own, &[], Some(clients))
    }

    fn with(own: &Pair, alpn: &[&str], clients: Option<&Authority>) -> Self {
        let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        let config = match clients {
            Some(clients) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(clients.roots(), provider());
                config.with_client_cert_verifier(verifier.build().unwrap())
            }
            None => config.with_no_client_auth(),
        };
        let mut config = config.with_single_cert(own.chain(), own.private_key()).unwrap();
        config.alpn_protocols = wire(alpn);
        // Tickets that can be used again and again, as those of arus.
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
        Self(Arc::new(config))
    }

    pub(crate) fn accept(&self, socket: Stream) -> Result<TlsStream, TlsEnd> {
        let tls = ServerConnection::new(Arc::clone(&self.0)).unwrap();
        TlsStream { socket, tls: tls.into(), cut: usize::MAX }.shake_hands()
    }

    /// A behaviour of a backend: sends everything back, and answers close_notify with close_notify.
    pub(crate) fn echo(self) -> impl super::backend::Behaviour {
        move |socket: Stream, _: usize| {
            let Ok(mut stream) = self.accept(socket) else { return };
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(count) = stream.read_some(&mut buffer) {
                if stream.try_write_all(&buffer[..count]).is_err() {
                    return;
                }
            }
            let _ = stream.try_close_notify();
        }
    }
}

/// A handshake message that came in one record, in records of so many bytes (up to 255).
pub(crate) fn in_records(record: &[u8], size: usize) -> Vec<u8> {
    let pieces = record[5..].chunks(size);
    pieces.flat_map(|piece| [&[22, 3, 1, 0, piece.len() as u8][..], piece].concat()).collect()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn wire(protocols: &[&str]) -> Vec<Vec<u8>> {
    protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect()
}

/// A TLS connection whose handshake is done.
pub(crate) struct TlsStream {
    pub(crate) socket: Stream,
    tls: Connection,
    cut: usize,
}

/// A socket that takes no more than so many bytes at once.
struct Cut<'a>(&'a Stream, usize);

impl Write for Cut<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&self.0.0).write(&bytes[..bytes.len().min(self.1)])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TlsStream {
    fn shake_hands(mut self) -> Result<Self, TlsEnd> {
        while self.tls.is_handshaking() {
            self.flush()?;
            if self.tls.is_handshaking() {
                self.receive()?;
            }
        }
        self.flush()?;
        Ok(self)
    }

    /// Sends what TLS wants to send.
    fn flush(&mut self) -> Result<(), TlsEnd> {
        while self.tls.wants_write() {
            if let Err(error) = self.tls.write_tls(&mut Cut(&self.socket, self.cut)) {
                return Err(self.last_words(&error));
            }
        }
        Ok(())
    }

    /// Takes in what the socket has, waiting for something.
    fn receive(&mut self) -> Result<(), TlsEnd> {
        match self.tls.read_tls(&mut &self.socket.0) {
            Ok(0) if self.tls.is_handshaking() => return Err(TlsEnd::Truncated),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(ended(&error)),
        }
        let result = self.tls.process_new_packets();
        // What came out of it, as an alert of this end.
        while self.tls.wants_write() && self.tls.write_tls(&mut &self.socket.0).is_ok() {}
        match result {
            Ok(_) => Ok(()),
            Err(rustls::Error::AlertReceived(alert)) => Err(TlsEnd::Alert(alert)),
            Err(error) => Err(TlsEnd::Refused(error)),
        }
    }

    /// A send that fails may have been answered by an alert before.
    fn last_words(&mut self, error: &io::Error) -> TlsEnd {
        while let Ok(1..) = self.tls.read_tls(&mut &self.socket.0) {
            if let Err(rustls::Error::AlertReceived(alert)) = self.tls.process_new_packets() {
                return TlsEnd::Alert(alert);
            }
        }
        ended(error)
    }

    /// At least one byte, or how it ended.
    pub(crate) fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, TlsEnd> {
        loop {
            match self.tls.reader().read(buffer) {
                Ok(0) => return Err(TlsEnd::CloseNotify),
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Err(TlsEnd::Truncated),
                Err(_) => self.receive()?,
            }
        }
    }

    pub(crate) fn read_exactly(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let mut seen = 0;
        while seen < len {
            match self.read_some(&mut bytes[seen..]) {
                Ok(count) => seen += count,
                Err(end) => panic!("{end:?} after {seen} of {len} bytes"),
            }
        }
        bytes
    }

    /// Everything to the end, and how it ended.
    pub(crate) fn read_to_end(&mut self) -> (Vec<u8>, TlsEnd) {
        let (mut bytes, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
        loop {
            match self.read_some(&mut buffer) {
                Ok(count) => bytes.extend_from_slice(&buffer[..count]),
                Err(end) => return (bytes, end),
            }
        }
    }

    /// Reads exactly `len` bytes of stream `seed`.
    pub(crate) fn expect(&mut self, seed: u64, offset: u64, len: u64) {
        let mut buffer = vec![0; 64 * 1024];
        let mut seen = 0;
        while seen < len {
            let room = buffer.len().min((len - seen) as usize);
            match self.read_some(&mut buffer[..room]) {
                Ok(count) => {
                    bytes::check(seed, offset + seen, &buffer[..count]);
                    seen += count as u64;
                }
                Err(end) => panic!("stream {seed}: {end:?} after {seen} of {len} bytes"),
            }
        }
    }

    pub(crate) fn write_all(&mut self, bytes: &[u8]) {
        self.try_write_all(bytes).unwrap_or_else(|end| panic!("{end:?} in a send of {} bytes", bytes.len()));
    }

    pub(crate) fn try_write_all(&mut self, bytes: &[u8]) -> Result<(), TlsEnd> {
        for piece in bytes.chunks(16 * 1024) {
            self.tls.writer().write_all(piece).unwrap();
            self.flush()?;
        }
        Ok(())
    }

    /// Sends `len` bytes of stream `seed`.
    pub(crate) fn send(&mut self, seed: u64, offset: u64, len: u64) {
        let mut sent = 0;
        while sent < len {
            let piece = (len - sent).min(256 * 1024);
            self.write_all(&bytes::pattern(seed, offset + sent, piece as usize));
            sent += piece;
        }
    }

    /// Says that nothing more is sent, and goes on reading. The TCP connection stays open.
    pub(crate) fn close_notify(&mut self) {
        self.try_close_notify().unwrap_or_else(|end| panic!("{end:?} in a close_notify"));
    }

    pub(crate) fn try_close_notify(&mut self) -> Result<(), TlsEnd> {
        self.tls.send_close_notify();
        self.flush()
    }

    /// Ends the TCP direction without close_notify: what the peer must tell from an end.
    pub(crate) fn truncate(&self) {
        self.socket.finish();
    }

    pub(crate) fn version(&self) -> ProtocolVersion {
        self.tls.protocol_version().unwrap()
    }

    pub(crate) fn alpn(&self) -> Option<String> {
        self.tls.alpn_protocol().map(|protocol| String::from_utf8_lossy(protocol).into_owned())
    }

    /// The peer's leaf certificate.
    pub(crate) fn peer_certificate(&self) -> Option<CertificateDer<'static>> {
        Some(self.tls.peer_certificates()?.first()?.clone().into_owned())
    }

    /// Whether a ticket spared the handshake its greater part.
    pub(crate) fn is_resumed(&self) -> bool {
        self.tls.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The name the peer asked for; on the server's side.
    pub(crate) fn server_name(&self) -> Option<String> {
        match &self.tls {
            Connection::Server(server) => server.server_name().map(str::to_owned),
            Connection::Client(_) => None,
        }
    }
}

fn ended(error: &io::Error) -> TlsEnd {
    match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => TlsEnd::Reset,
        kind => panic!("neither an end nor a TLS error: {error} ({kind:?})"),
    }
}
