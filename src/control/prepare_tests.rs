//! Preparing and committing: sockets, states and plugins that are new, kept, and gone.

use super::super::fixture::{at, plan};
use super::*;
use std::net::TcpStream;

use crate::types::ListenerIndex;

use socket2::Socket;

const SHARDS: u16 = 2;

fn first(plan: Plan) -> (InForce, Vec<Handover>) {
    let (in_force, handovers, _) = prepare(plan, &InForce::default(), SHARDS).unwrap().commit(&HashMap::new());
    (in_force, handovers)
}

fn ids(in_force: &InForce) -> Vec<(BindId, String)> {
    in_force.held.iter().map(|held| (held.id, held.bound.to_string())).collect()
}

#[test]
fn each_shard_gets_its_own_socket_and_port_0_is_one_port() {
    let (in_force, handovers) = first(plan(Path::new("/x")).with_listener("web", &["127.0.0.1:0", "[::1]:0"]));
    assert_eq!(handovers.len(), usize::from(SHARDS));
    for handover in &handovers {
        assert_eq!(handover.binds.len(), 2);
        for (bind, held) in handover.binds.iter().zip(&in_force.held) {
            let address = bind.socket.as_ref().unwrap().local_addr().unwrap().as_socket().unwrap();
            assert_eq!(Endpoint::Ip(address), held.bound);
            assert_ne!(address.port(), 0);
        }
    }
}

#[test]
fn unchanged_renamed_and_moved_addresses_keep_their_sockets() {
    let base = || plan(Path::new("/x"));
    let (in_force, _keep) =
        first(base().with_listener("a", &["127.0.0.1:0", "127.0.0.1:0"]).with_listener("b", &["127.0.0.1:0"]));
    let before = ids(&in_force);

    let same = base().with_listener("b", &["127.0.0.1:0"]).with_listener("a", &["127.0.0.1:0", "127.0.0.1:0"]);
    let (same, handovers, moved) = prepare(same, &in_force, SHARDS).unwrap().commit(&HashMap::new());
    assert_eq!(ids(&same), [before[2].clone(), before[0].clone(), before[1].clone()]);
    assert_eq!(moved, Moved { new: 0, kept: 3, retired: 0 });
    assert!(handovers.iter().flat_map(|handover| &handover.binds).all(|bind| bind.socket.is_none()));
    assert_eq!(handovers[0].binds[0].listener, ListenerIndex(0));

    // Renamed, the port written out, one address left out.
    let fixed = before[0].1.clone();
    let renamed = base().with_listener("c", &[&fixed]).with_listener("d", &["127.0.0.1:0"]);
    let (renamed, handovers, moved) = prepare(renamed, &same, SHARDS).unwrap().commit(&HashMap::new());
    assert!(handovers.iter().flat_map(|handover| &handover.binds).all(|bind| bind.socket.is_none()));
    assert_eq!(moved, Moved { new: 0, kept: 2, retired: 1 });
    assert_eq!(renamed.held.len(), 2);
    assert_eq!(renamed.snapshot().unwrap().generation, Generation(3));
}

#[test]
fn every_failing_bind_is_reported_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let old = directory.path().join("old.sock");
    let new = directory.path().join("new.sock");
    let (old, new) = (format!("unix:{}", old.display()), format!("unix:{}", new.display()));
    let (in_force, _keep) = first(plan(directory.path()).with_listener("a", &["127.0.0.1:0", &old]));
    let before = ids(&in_force);

    let bad = plan(directory.path())
        .with_listener("a", &["127.0.0.1:0", &new])
        .with_listener("b", &["192.0.2.77:80"])
        .with_listener("c", &["unix:/nonexistent/x.sock", &new]);
    let problems = prepare(bad, &in_force, SHARDS).unwrap_err();
    assert_eq!(problems.iter().map(|problem| problem.line).collect::<Vec<_>>(), [2, 3, 3]);
    assert!(problems[0].message.contains("listener `b`: 192.0.2.77:80"), "{problems:?}");
    assert!(problems[0].message.contains("no interface"), "{problems:?}");
    assert!(problems[1].message.contains("does not exist"), "{problems:?}");
    assert!(problems[2].message.contains("listed twice"), "{problems:?}");
    assert!(directory.path().join("old.sock").exists());
    assert!(!directory.path().join("new.sock").exists(), "a plan that failed leaves no socket file");
    assert_eq!(ids(&in_force), before);
}

#[test]
fn a_port_that_someone_listens_on_is_refused_at_the_first_start() {
    let socket = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(1).unwrap();
    let taken = socket.local_addr().unwrap().as_socket().unwrap().to_string();
    let wanted = plan(Path::new("/x")).with_listener("a", &[&taken]);
    let problems = prepare(wanted, &InForce::default(), SHARDS).unwrap_err();
    assert!(problems[0].message.contains("another process listens there"), "{problems:?}");
}

#[test]
fn a_wildcard_and_an_address_of_one_plan_may_share_a_port() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let wanted = plan(Path::new("/x"))
        .with_listener("a", &[&format!("0.0.0.0:{free}")])
        .with_listener("b", &[&format!("127.0.0.1:{free}")]);
    assert!(prepare(wanted, &InForce::default(), SHARDS).is_ok());
}

#[test]
fn a_retired_socket_file_is_gone_and_a_dropped_preparation_leaves_the_kept_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.sock");
    let unix = format!("unix:{}", path.display());
    let base = || plan(directory.path());
    let (in_force, _keep) = first(base().with_listener("a", &[&unix]));
    drop(prepare(base().with_listener("b", &[&unix]), &in_force, SHARDS).unwrap());
    drop(prepare(base(), &in_force, SHARDS).unwrap());
    assert!(path.exists());
    let (in_force, _, moved) = prepare(base(), &in_force, SHARDS).unwrap().commit(&HashMap::new());
    assert!(!path.exists());
    assert_eq!(moved.retired, 1);
    assert!(in_force.held.is_empty());
}

#[test]
fn control_keeps_no_listening_socket_open() {
    let (in_force, handovers) = first(plan(Path::new("/x")).with_listener("a", &["127.0.0.1:0"]));
    let Endpoint::Ip(address) = in_force.held[0].bound else { unreachable!() };
    assert!(TcpStream::connect(address).is_ok());
    drop(handovers);
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn states_outlive_a_reload_and_limits_change_at_commit_only() {
    let base = |limit| {
        let mut plan = plan(Path::new("/x"))
            .with_listener("a", &["127.0.0.1:0"])
            .with_upstream("u", vec![at("127.0.0.1:1"), at("127.0.0.1:2")]);
        plan.listeners[0].max_connections = Some(limit);
        plan.upstreams[0].max_connections_per_backend = Some(limit);
        plan.engine.max_connections = limit;
        plan
    };
    let (in_force, _keep) = first(base(5));
    let before = Arc::clone(in_force.snapshot().unwrap());
    before.upstreams[0].turn.store(7, Ordering::Relaxed);

    let prepared = prepare(base(9), &in_force, SHARDS).unwrap();
    assert_eq!(before.listeners[0].connections.limit(), 5);
    assert_eq!(before.connections.limit(), 5);
    let (in_force, _, _) = prepared.commit(&HashMap::new());
    let after = Arc::clone(in_force.snapshot().unwrap());
    assert!(Arc::ptr_eq(&before.upstreams[0], &after.upstreams[0]));
    assert!(Arc::ptr_eq(&before.listeners[0], &after.listeners[0]));
    assert_eq!(before.listeners[0].connections.limit(), 9);
    assert_eq!(before.upstreams[0].backends[0].connections.limit(), 9);
    assert_eq!(before.connections.limit(), 9);

    let mut changed = base(9);
    changed.upstreams[0].backends.remove(0);
    changed = changed.with_upstream("v", vec![at("127.0.0.1:1")]);
    let (in_force, _, _) = prepare(changed, &in_force, SHARDS).unwrap().commit(&HashMap::new());
    let changed = in_force.snapshot().unwrap();
    assert!(Arc::ptr_eq(&changed.upstreams[0].backends[0], &after.upstreams[0].backends[1]));
    assert_eq!(changed.upstreams[0].turn.load(Ordering::Relaxed), 7);
    assert_ne!(changed.upstreams[1].backends[0].id, after.upstreams[0].backends[0].id);
}
