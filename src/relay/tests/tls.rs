//! Relays that end TLS on one side or both, with rustls as the peer, on the tiny ring.

use std::io::{self, Read, Write};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs as provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned, SupportedCipherSuite,
    SupportedProtocolVersion,
};

use super::*;
use crate::tls::{Gate, HandshakeError, accept, connect};

const TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
const TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_string()]).unwrap();
        let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).unwrap();
        Self { certificate: made.cert.der().clone(), key }
    }

    fn server(&self) -> Arc<ServerConfig> {
        let certificates = vec![self.certificate.clone()];
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(certificates, self.key.clone_key())
            .unwrap();
        config.enable_secret_extraction = true;
        Arc::new(config)
    }

    fn client(&self, suite: Option<SupportedCipherSuite>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let mut provider = provider::default_provider();
        if let Some(suite) = suite {
            provider.cipher_suites = vec![suite];
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(match suite.map(|suite| suite.version().version) {
                Some(rustls::ProtocolVersion::TLSv1_2) => TLS12,
                Some(_) => TLS13,
                None => rustls::ALL_VERSIONS,
            })
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.enable_secret_extraction = true;
        Arc::new(config)
    }
}

fn name() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

/// Serves one connection: TLS from the client, and to the upstream where `out` says so.
async fn serve(
    ring: Ring,
    near: (TcpStream, TcpStream),
    server: Arc<ServerConfig>,
    out: Option<Arc<ClientConfig>>,
    gate: Rc<Gate>,
) -> (Result<Tally, HandshakeError>, i64, i64) {
    let mut client = Inlet::new(ring.socket(near.0.into()), First::Try);
    let mut upstream = Inlet::new(ring.socket(near.1.into()), First::Wait);
    let inside = match accept(&mut client, &server, &gate).await {
        Ok(session) => session,
        Err(error) => return (Err(error), 0, 0),
    };
    let (mut seal, mut open) = (None, None);
    if let Some(out) = out {
        let session = connect(&mut upstream, &out, &name(), &gate).await.unwrap();
        (open, seal) = (Some(session.opener), Some(session.sealer));
    }
    let pool = ring.pool();
    let way = |direction, open, seal| Way {
        preface: Queue::new(pool),
        transform: Transform::new(direction, pool, open, None, seal),
    };
    let up = way(Direction::Up, Some(inside.opener), seal);
    let down = way(Direction::Down, open, Some(inside.sealer));
    let (sent_up, sent_down) = (Cell::new(0), Cell::new(0));
    let count = |direction, bytes: i64| {
        let sum = if direction == Direction::Up { &sent_up } else { &sent_down };
        sum.set(sum.get() + bytes);
    };
    let tally = run(
        &ring,
        Box::new(Line { client, upstream, up, down, terms: TERMS, is_refused: false, pace: None }),
        &Cut::default(),
        count,
    )
    .await;
    (Ok(tally), sent_up.get(), sent_down.get())
}

/// Lets the gate's turns go by until it is dropped.
struct Turns(Rc<Cell<bool>>);

fn turns(ring: &Ring, gate: &Rc<Gate>) -> Turns {
    let (ring, gate, on) = (ring.clone(), Rc::clone(gate), Rc::new(Cell::new(true)));
    let turns = Turns(Rc::clone(&on));
    glommio::spawn_local(async move {
        while on.get() {
            gate.turn();
            ring.sleep(Duration::from_millis(1)).await;
        }
    })
    .detach();
    turns
}

impl Drop for Turns {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// An echo that ends when its client does, by `goodbye`.
fn echo<S: Read + Write + Send + 'static>(mut stream: S, goodbye: fn(&mut S)) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 40_000];
        let mut random = Random(9);
        loop {
            let most = 1 + random.below(40_000) as usize;
            match stream.read(&mut buffer[..most]) {
                Ok(0) => return goodbye(&mut stream),
                Ok(len) => stream.write_all(&buffer[..len]).unwrap(),
                Err(error) => panic!("echo: {error}"),
            }
        }
    })
}

/// Sends `len` bytes in random pieces and reads them back.
fn talk(stream: &mut (impl Read + Write), seed: u64, len: u64) {
    let (mut random, mut sent, mut seen) = (Random(seed), 0, 0);
    let mut buffer = vec![0; 50_000];
    while seen < len {
        if sent < len {
            let most = if random.below(3) == 0 { 50_000 } else { 300 };
            let piece = (1 + random.below(most)).min(len - sent);
            stream.write_all(&bytes(seed, sent, piece)).unwrap();
            sent += piece;
        }
        while seen < sent {
            let got = stream.read(&mut buffer).unwrap();
            assert!(got > 0);
            check(seed, seen, &buffer[..got]);
            seen += got as u64;
        }
    }
}

#[test]
fn every_cipher_carries_the_bytes_both_ways() {
    let identity = Identity::new();
    for suite in provider::ALL_CIPHER_SUITES.iter().filter(|suite| !format!("{suite:?}").contains("RSA")) {
        for features in paths() {
            let (far_client, near_client) = pair();
            let (far_upstream, near_upstream) = pair();
            let echo = echo(far_upstream, |_| ());
            let config = identity.client(Some(*suite));
            let client = std::thread::spawn(move || {
                let connection = ClientConnection::new(config, name()).unwrap();
                let mut stream = StreamOwned::new(connection, far_client);
                talk(&mut stream, 3, 300_000);
                stream.conn.send_close_notify();
                stream.flush().unwrap();
                // The echo ends, and its end comes as a close_notify.
                assert_eq!(stream.read(&mut [0]).unwrap(), 0);
            });
            let server = identity.server();
            let (tally, up, down) = on_ring(TINY, features, move |ring| async move {
                let gate = Rc::new(Gate::default());
                let turns = turns(&ring, &gate);
                let served = serve(ring.clone(), (near_client, near_upstream), server, None, gate).await;
                drop(turns);
                settle(&ring).await;
                served
            });
            client.join().unwrap();
            echo.join().unwrap();
            assert_eq!(tally.unwrap().reason, Reason::Done, "{suite:?}");
            assert_eq!((up, down), (300_000, 300_000), "{suite:?}");
        }
    }
}

#[test]
fn tls_on_both_sides_and_new_keys_on_the_way() {
    let identity = Identity::new();
    for features in paths() {
        let (far_client, near_client) = pair();
        let (far_upstream, near_upstream) = pair();
        let upstream = StreamOwned::new(ServerConnection::new(identity.server()).unwrap(), far_upstream);
        let echo = echo(upstream, |stream| {
            stream.conn.send_close_notify();
            stream.flush().unwrap();
        });
        let config = identity.client(None);
        let client = std::thread::spawn(move || {
            let connection = ClientConnection::new(config, name()).unwrap();
            let mut stream = StreamOwned::new(connection, far_client);
            for round in 0..4 {
                talk(&mut stream, round, 40_000);
                stream.conn.refresh_traffic_keys().unwrap();
            }
            talk(&mut stream, 5, 40_000);
            stream.conn.send_close_notify();
            stream.flush().unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        });
        let (server, out) = (identity.server(), identity.client(None));
        let (tally, up, down) = on_ring(TINY, features, move |ring| async move {
            let gate = Rc::new(Gate::default());
            let turns = turns(&ring, &gate);
            let served = serve(ring.clone(), (near_client, near_upstream), server, Some(out), gate).await;
            drop(turns);
            settle(&ring).await;
            served
        });
        client.join().unwrap();
        echo.join().unwrap();
        assert_eq!(tally.unwrap().reason, Reason::Done);
        assert_eq!((up, down), (200_000, 200_000));
    }
}

/// What the upstream sees when the client's TCP ends: with close_notify a FIN, without a reset.
fn end_of_client(identity: &Identity, goodbye: bool) -> (Tally, io::Result<usize>) {
    let (far_client, near_client) = pair();
    let (mut far_upstream, near_upstream) = pair();
    let config = identity.client(None);
    let client = std::thread::spawn(move || {
        let connection = ClientConnection::new(config, name()).unwrap();
        let mut stream = StreamOwned::new(connection, far_client);
        stream.write_all(b"all or nothing").unwrap();
        if goodbye {
            stream.conn.send_close_notify();
        }
        stream.flush().unwrap();
        stream.sock.shutdown(Shutdown::Write).unwrap();
        let _ = stream.sock.read(&mut [0; 4096]);
        stream
    });
    let upstream = std::thread::spawn(move || {
        let mut text = [0; 14];
        far_upstream.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"all or nothing");
        far_upstream.read(&mut [0])
    });
    let server = identity.server();
    let tally = on_ring(TINY, paths()[0], move |ring| async move {
        let gate = Rc::new(Gate::default());
        let turns = turns(&ring, &gate);
        let (tally, _, _) = serve(ring.clone(), (near_client, near_upstream), server, None, gate).await;
        drop(turns);
        settle(&ring).await;
        tally.unwrap()
    });
    drop(client.join().unwrap());
    (tally, upstream.join().unwrap())
}

#[test]
fn a_truncated_stream_does_not_look_complete() {
    let identity = Identity::new();
    let (tally, end) = end_of_client(&identity, false);
    assert_eq!((tally.reason, tally.blame), (Reason::TlsTruncated, Some(Blame::Client)));
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let (tally, end) = end_of_client(&identity, true);
    assert_eq!((tally.reason, end.unwrap()), (Reason::Done, 0));
}

/// What a client that sends `bytes` instead of a handshake gets.
fn answer_to(identity: &Identity, hello: &'static [u8]) -> (HandshakeError, Vec<u8>) {
    let (mut far_client, near_client) = pair();
    let (_far_upstream, near_upstream) = pair();
    let client = std::thread::spawn(move || {
        far_client.write_all(hello).unwrap();
        far_client.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = far_client.read_to_end(&mut answer);
        answer
    });
    let server = identity.server();
    let error = on_ring(TINY, paths()[0], move |ring| async move {
        let gate = Rc::new(Gate::default());
        let turns = turns(&ring, &gate);
        let (tally, _, _) = serve(ring.clone(), (near_client, near_upstream), server, None, gate).await;
        drop(turns);
        settle(&ring).await;
        tally.unwrap_err()
    });
    (error, client.join().unwrap())
}

#[test]
fn what_is_not_tls_is_told_so() {
    let identity = Identity::new();
    let (error, answer) = answer_to(&identity, b"GET / HTTP/1.1\r\n\r\n");
    assert!(matches!(error, HandshakeError::NotTls), "{error:?}");
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, 10]);
    let (error, answer) = answer_to(&identity, &[22, 3, 1, 0, 5, 1, 0, 0, 1, 7]);
    assert!(matches!(error, HandshakeError::Tls(_)), "{error:?}");
    assert_eq!((answer[0], answer[5]), (21, 2), "a fatal alert");
    let (error, _) = answer_to(&identity, &[22, 3, 1, 2, 0, 1]);
    assert!(matches!(error, HandshakeError::Ended), "{error:?}");
}
