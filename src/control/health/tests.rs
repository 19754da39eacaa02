//! Checks against listeners that answer, refuse, stay silent or lie.
use super::check::{Target, one};
use super::*;
use crate::config::plan::{Address, Plan, ProxyTlvs, SendProxy, Telemetry};
use crate::control::fixture::{at, host, plan, snapshot};
use crate::control::resolver::Resolver;
use crate::shard::command::Inbox;
use std::net::SocketAddr;
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};

fn health(send: Option<&str>, expect: Option<&str>) -> plan::Health {
    plan::Health {
        interval: Duration::from_millis(20),
        timeout: Duration::from_millis(250),
        rise: 2,
        fall: 3,
        send: send.map(|text| text.as_bytes().to_vec()),
        expect: expect.map(|text| text.as_bytes().to_vec()),
    }
}

fn terms(send: Option<&str>, expect: Option<&str>) -> Terms {
    Terms { health: Arc::new(health(send, expect)), source: None, send_proxy: SendProxy::Off, tls: None }
}

fn checked(backend: Address, health: plan::Health) -> Plan {
    let mut plan = plan(Path::new("/x")).with_upstream("u", vec![backend]);
    plan.upstreams[0].health = Some(health);
    plan
}

fn checks() -> (Checks, Inbox) {
    let (mailbox, inbox) = Mailbox::new().unwrap();
    let shards: Arc<[Mailbox]> = Arc::from([mailbox]);
    let resolver = Resolver::new(Arc::clone(&shards));
    let events = Events::new(Telemetry { max_events: 100, retention: Duration::from_secs(3600) });
    (Checks::new(resolver.known().clone(), shards, events), inbox)
}

async fn until(backend: &BackendState, health: Health) {
    let reached = async {
        while backend.health() != health {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), reached).await.expect("a flip");
}

/// Answers every line with `answer`.
fn answer(listener: TcpListener, answer: &'static str) -> JoinHandle<()> {
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut question = [0; 64];
            let _ = stream.read(&mut question).await;
            for piece in answer.as_bytes().chunks(2) {
                let _ = stream.write_all(piece).await;
            }
        }
    })
}

async fn listen(address: SocketAddr) -> TcpListener {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket.listen(16).unwrap()
}

#[tokio::test]
async fn goes_down_and_comes_back_and_the_shards_hear_of_it() {
    let listener = listen("127.0.0.1:0".parse().unwrap()).await;
    let address = listener.local_addr().unwrap();
    let snapshot = snapshot(checked(at(&address.to_string()), health(None, None)));
    let backend = &snapshot.upstreams[0].backends[0];
    let (mut checks, inbox) = checks();
    checks.follow(&snapshot);
    drop(listener);
    until(backend, Health::Down).await;
    assert!(matches!(inbox.commands.try_recv(), Ok(Command::BackendDown(id)) if id == backend.id));
    let _listener = listen(address).await;
    until(backend, Health::Up).await;
    assert!(matches!(inbox.commands.try_recv(), Ok(Command::SlotFreed(id)) if id == backend.id));
    assert!(inbox.commands.is_empty());
}

#[tokio::test]
async fn the_answer_must_contain_what_is_expected() {
    let listener = listen("127.0.0.1:0".parse().unwrap()).await;
    let address = listener.local_addr().unwrap();
    let wrong = answer(listener, "-ERR not now\r\n");
    let snapshot = snapshot(checked(at(&address.to_string()), health(Some("PING\r\n"), Some("PONG"))));
    let backend = &snapshot.upstreams[0].backends[0];
    let (mut checks, _inbox) = checks();
    checks.follow(&snapshot);
    until(backend, Health::Down).await;
    wrong.abort();
    let _ = wrong.await;
    answer(listen(address).await, "+PONG\r\n");
    until(backend, Health::Up).await;
}

#[tokio::test]
async fn silence_and_a_wrong_answer_are_told_apart() {
    let listener = listen("127.0.0.1:0".parse().unwrap()).await;
    let snapshot = snapshot(checked(at(&listener.local_addr().unwrap().to_string()), health(None, Some("PONG"))));
    let backend = &snapshot.upstreams[0].backends[0];
    let (checks, _inbox) = checks();
    let terms = Terms { source: Some("127.0.0.2".parse().unwrap()), ..terms(None, Some("PONG")) };
    let failure = check(backend, &terms, &checks.known, &checks.in_flight).await.unwrap_err();
    assert_eq!(failure, "no expected answer within 250ms");
    let check = tokio::spawn({
        let (terms, known, in_flight) = (terms.clone(), checks.known.clone(), Arc::clone(&checks.in_flight));
        let backend = Arc::clone(backend);
        async move { check(&backend, &terms, &known, &in_flight).await }
    });
    let (_late, _) = listener.accept().await.unwrap();
    let (mut stream, from) = listener.accept().await.unwrap();
    assert_eq!(from.ip(), terms.source.unwrap(), "checks come from where connections come from");
    stream.write_all(b"no\x1b[2J\r\n").await.unwrap();
    drop(stream);
    assert_eq!(check.await.unwrap().unwrap_err(), r#"the answer is not the expected one: "no\x1b[2J\r\n""#);
}

#[tokio::test]
async fn unix_sockets_and_names_without_address() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("b.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let plan = checked(at(&format!("unix:{}", path.display())), health(None, None));
    let snapshot = snapshot(plan.with_upstream("v", vec![host("no.such.host", 1)]));
    let (checks, _inbox) = checks();
    let terms = terms(None, None);
    for (upstream, expected) in snapshot.upstreams.iter().zip([Ok(()), Err("its name does not resolve".to_string())]) {
        assert_eq!(check(&upstream.backends[0], &terms, &checks.known, &checks.in_flight).await, expected);
    }
}

#[tokio::test]
async fn a_reload_keeps_what_did_not_change_and_frees_what_is_not_checked_any_more() {
    let closed = listen("127.0.0.1:0".parse().unwrap()).await.local_addr().unwrap();
    let checked_snapshot = snapshot(checked(at(&closed.to_string()), health(None, None)));
    let backend = &checked_snapshot.upstreams[0].backends[0];
    let (mut checks, _inbox) = checks();
    checks.follow(&checked_snapshot);
    until(backend, Health::Down).await;
    let task = checks.checked[&backend.id].task.id();
    checks.follow(&checked_snapshot);
    assert_eq!(checks.checked[&backend.id].task.id(), task);
    let unchecked = plan(Path::new("/x")).with_upstream("u", vec![at(&closed.to_string())]);
    checks.follow(&snapshot(unchecked));
    assert!(checks.checked.is_empty());
    assert_eq!(backend.health(), Health::Up);
}

#[test]
fn rise_and_fall_count_results_in_a_row() {
    let health = health(None, None);
    let mut series = Series::new(false);
    let (up, down) = (true, false);
    let fall = [false, false, true, false, false].map(|passed| series.flips(up, passed, &health));
    assert_eq!(fall, [false; 5]);
    assert!(series.flips(up, false, &health));
    assert!(!series.flips(down, true, &health));
    assert!(!series.flips(down, false, &health));
    assert!(!series.flips(down, true, &health));
    assert!(series.flips(down, true, &health));
    assert!(Series::new(true).flips(up, false, &health), "the first check decides alone");
}

#[test]
fn jitter_stays_near_the_interval() {
    let second = Duration::from_secs(1);
    assert_eq!(jittered(second, 0.0), Duration::from_millis(900));
    assert_eq!(jittered(second, 1.0), Duration::from_millis(1100));
}

/// The bytes that the next connection brings, up to the end or `length`.
async fn first_bytes(listener: &TcpListener, length: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (stream, _) = listener.accept().await.unwrap();
    stream.take(length).read_to_end(&mut bytes).await.unwrap();
    bytes
}

#[tokio::test]
async fn checks_of_an_upstream_that_sends_headers_say_that_nobody_is_behind_them() {
    let listener = listen("127.0.0.1:0".parse().unwrap()).await;
    let target = Target::Ip(listener.local_addr().unwrap());
    let room = Semaphore::new(1);
    let v2 = Terms { send_proxy: SendProxy::V2(ProxyTlvs { ssl: true, ..ProxyTlvs::default() }), ..terms(None, None) };
    let (result, bytes) = tokio::join!(one(target, &v2, &room), first_bytes(&listener, 64));
    assert_eq!((result, bytes.as_slice()), (Ok(()), &b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"[..]));
    let target = Target::Ip(listener.local_addr().unwrap());
    let v1 = Terms { send_proxy: SendProxy::V1, ..terms(Some("PING"), None) };
    let (result, bytes) = tokio::join!(one(target, &v1, &room), first_bytes(&listener, 64));
    assert_eq!((result, bytes.as_slice()), (Ok(()), &b"PROXY UNKNOWN\r\nPING"[..]));
}

#[tokio::test]
async fn what_a_check_says_goes_through_tls() {
    let own = rcgen::generate_simple_self_signed(["db.test".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let server = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let listener = listen("127.0.0.1:0".parse().unwrap()).await;
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut header = [0; 16];
            stream.read_exact(&mut header).await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let _ = stream.write_all(b"+PONG").await;
        }
    });
    let mut roots = rustls::RootCertStore::empty();
    roots.add(own.cert.der().clone()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let config = Arc::new(config);
    let through = |name: &str| {
        let tls = Tls { config: Arc::clone(&config), name: name.to_owned().try_into().unwrap() };
        let mut terms = terms(None, Some("PONG"));
        Arc::get_mut(&mut terms.health).unwrap().timeout = Duration::from_secs(20);
        Terms { send_proxy: SendProxy::V2(ProxyTlvs::default()), tls: Some(tls), ..terms }
    };
    let room = Semaphore::new(1);
    assert_eq!(one(Target::Ip(address), &through("db.test"), &room).await, Ok(()));
    let wrong = one(Target::Ip(address), &through("other.test"), &room).await.unwrap_err();
    assert!(wrong.starts_with("tls: ") && wrong.contains("not valid for name"), "{wrong}");
}
