//! Names that resolve, change, fail and come back, with a lookup that the tests play.
use super::*;
use crate::control::fixture::{at, host, plan, snapshot};
use crate::shard::command::Inbox;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::proto::op::{Message, MessageType, ResponseCode};
use hickory_resolver::proto::rr::{RData, Record as DnsRecord, RecordType};
use std::path::Path;
use tokio::net::UdpSocket;

/// A name server on loopback that answers every name with the same addresses; without any, that it does not know.
struct NameServer {
    address: SocketAddr,
    answer: Arc<Mutex<(Vec<IpAddr>, u32)>>,
    asked: watch::Receiver<usize>,
}

impl NameServer {
    async fn start(addresses: &[&str], ttl: u32) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let answer = Arc::new(Mutex::new((parse(addresses), ttl)));
        let (count, asked) = watch::channel(0);
        let answers = Arc::clone(&answer);
        tokio::spawn(async move {
            let mut packet = [0; 4096];
            while let Ok((length, from)) = socket.recv_from(&mut packet).await {
                let question = Message::from_vec(&packet[..length]).unwrap();
                let reply = reply(&question, &answers.lock().unwrap());
                socket.send_to(&reply.to_vec().unwrap(), from).await.unwrap();
                count.send_modify(|count| *count += 1);
            }
        });
        Self { address, answer, asked }
    }

    fn set(&self, addresses: &[&str], ttl: u32) {
        *self.answer.lock().unwrap() = (parse(addresses), ttl);
    }

    fn resolver(&self, shards: Arc<[Mailbox]>) -> Resolver {
        let mut connection = ConnectionConfig::udp();
        connection.port = self.address.port();
        let server = NameServerConfig::new(self.address.ip(), true, vec![connection]);
        let config = ResolverConfig::from_parts(None, vec![], vec![server]);
        Resolver::with(System::new("/nonexistent", Servers::Fixed(config)), shards)
    }
}

fn reply(question: &Message, (addresses, ttl): &(Vec<IpAddr>, u32)) -> Message {
    let query = question.queries[0].clone();
    let mut reply = Message::new(question.metadata.id, MessageType::Response, question.metadata.op_code);
    reply.metadata.recursion_desired = true;
    reply.metadata.recursion_available = true;
    if addresses.is_empty() {
        reply.metadata.response_code = ResponseCode::NXDomain;
    }
    for address in addresses.iter().filter(|address| address.is_ipv6() == (query.query_type() == RecordType::AAAA)) {
        reply.answers.push(DnsRecord::from_rdata(query.name().clone(), *ttl, RData::from(*address)));
    }
    reply.queries.push(query);
    reply
}

fn parse(addresses: &[&str]) -> Vec<IpAddr> {
    addresses.iter().map(|address| address.parse().unwrap()).collect()
}

fn shard() -> (Arc<[Mailbox]>, Inbox) {
    let (mailbox, inbox) = Mailbox::new().unwrap();
    (Arc::from([mailbox]), inbox)
}

fn following(names: &[&str]) -> Arc<Snapshot> {
    let mut plan = plan(Path::new("/x")).with_upstream("u", names.iter().map(|name| host(name, 5432)).collect());
    let resolve = Resolve { ttl_min: Duration::from_millis(150), ttl_max: Duration::from_secs(60) };
    plan.upstreams[0].resolve = resolve;
    snapshot(plan.with_upstream("plain", vec![at("127.0.0.1:1")]))
}

/// The next addresses that the shards are told.
async fn told(inbox: &Inbox) -> Vec<String> {
    let commands = inbox.commands.clone();
    let command = tokio::task::spawn_blocking(move || commands.recv_timeout(Duration::from_secs(10))).await.unwrap();
    match command.unwrap() {
        Command::Addresses(_, addresses) => addresses.iter().map(SocketAddr::to_string).collect(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn follows_the_answer_as_its_ttl_ends_and_tells_only_what_is_new() {
    let server = NameServer::start(&["127.0.0.9", "::1"], 0).await;
    let (shards, inbox) = shard();
    let mut resolver = server.resolver(shards);
    let snapshot = following(&["db.example"]);
    resolver.follow(&snapshot);
    resolver.settle(Duration::from_secs(5)).await;
    let backend = snapshot.upstreams[0].backends[0].id;
    let known = resolver.known().get(backend).unwrap();
    assert_eq!(known.len(), 2);
    assert_eq!(told(&inbox).await.len(), 2);

    // Asked again and again, in another order: nothing new. A TTL of 0 counts as ttl_min.
    server.set(&["::1", "127.0.0.9"], 0);
    let mut asked = server.asked.clone();
    let before = *asked.borrow();
    asked.wait_for(|asked| *asked >= before + 4).await.unwrap();
    assert!(inbox.commands.is_empty());

    server.set(&["127.0.0.10"], 3600);
    assert_eq!(told(&inbox).await, ["127.0.0.10:5432"]);
}

#[tokio::test]
async fn a_name_that_fails_keeps_its_last_addresses_and_comes_back() {
    let server = NameServer::start(&["127.0.0.9"], 0).await;
    let (shards, inbox) = shard();
    let mut resolver = server.resolver(shards);
    let snapshot = following(&["db.example"]);
    resolver.follow(&snapshot);
    assert_eq!(told(&inbox).await, ["127.0.0.9:5432"]);
    server.set(&[], 0);
    let mut asked = server.asked.clone();
    let before = *asked.borrow();
    asked.wait_for(|asked| *asked >= before + 4).await.unwrap();
    let backend = snapshot.upstreams[0].backends[0].id;
    assert_eq!(resolver.known().get(backend).unwrap()[0].to_string(), "127.0.0.9:5432");
    server.set(&["127.0.0.11"], 0);
    assert_eq!(told(&inbox).await, ["127.0.0.11:5432"]);
}

#[tokio::test]
async fn names_that_a_reload_removes_are_not_asked_for_any_more() {
    let server = NameServer::start(&["127.0.0.9"], 0).await;
    let (shards, inbox) = shard();
    let mut resolver = server.resolver(shards);
    let snapshot = following(&["db.example"]);
    resolver.follow(&snapshot);
    told(&inbox).await;
    resolver.follow(&following(&[]));
    assert!(resolver.following.is_empty() && resolver.known().addresses().is_empty());
    // What is on its way may still arrive; after that there is silence.
    let mut asked = server.asked.clone();
    while tokio::time::timeout(Duration::from_millis(400), asked.changed()).await.is_ok() {}
}

#[tokio::test]
async fn names_of_the_hosts_file_need_no_server() {
    let directory = tempfile::tempdir().unwrap();
    let hosts = directory.path().join("hosts");
    std::fs::write(&hosts, "127.0.0.7 db.local other\n").unwrap();
    let (shards, inbox) = shard();
    let system = System::new(&hosts, Servers::ResolvConf("/nonexistent".into()));
    let mut resolver = Resolver::with(system, shards);
    resolver.follow(&following(&["db.local"]));
    assert_eq!(told(&inbox).await, ["127.0.0.7:5432"]);
    resolver.follow(&following(&["localhost"]));
    let mut localhost = told(&inbox).await;
    localhost.sort();
    assert_eq!(localhost, ["127.0.0.1:5432", "[::1]:5432"]);

    // The file is read again when it has changed.
    std::fs::write(&hosts, "127.0.0.8 new.local\n").unwrap();
    resolver.follow(&following(&["new.local"]));
    assert_eq!(told(&inbox).await, ["127.0.0.8:5432"]);
}

#[tokio::test]
async fn start_up_does_not_wait_for_a_name_without_an_answer() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let answer = Arc::default();
    let (_, asked) = watch::channel(0);
    let server = NameServer { address: silent.local_addr().unwrap(), answer, asked };
    let (shards, inbox) = shard();
    let mut resolver = server.resolver(shards);
    resolver.follow(&following(&["db.example", "other.example"]));
    let begun = std::time::Instant::now();
    resolver.settle(Duration::from_millis(200)).await;
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert!(inbox.commands.is_empty());
}

#[test]
fn waits_double_up_to_a_bound_and_families_fail_alone() {
    let key = Key { host: "db".into(), ttl_min: Duration::from_secs(1), ttl_max: Duration::from_secs(30) };
    let mut record = Record::default();
    let failed = || Answer { v6: Family::Nothing, v4: Family::Failed("late".into()) };
    let waits: Vec<u64> = (0..5).map(|_| record.take(&key, failed()).wait().as_secs()).collect();
    assert_eq!(waits, [1, 2, 4, 5, 5]);
    let found = |text: &str, ttl| Family::Found(parse(&[text]), Some(Duration::from_secs(ttl)));
    let both = Answer { v6: found("2001:db8::1", 300), v4: found("192.0.2.1", 20) };
    assert_eq!(record.take(&key, both), Verdict::Changed { wait: Duration::from_secs(20) });
    let one = Answer { v6: Family::Failed("late".into()), v4: found("192.0.2.1", 300) };
    assert_eq!(record.take(&key, one), Verdict::Same { wait: Duration::from_secs(30) });
    assert_eq!(record.addresses.len(), 2);
}
