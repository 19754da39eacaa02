//! Routes, balance modes, and listeners with many addresses.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use crate::harness::*;

fn local(last: u8) -> IpAddr {
    IpAddr::from([127, 0, 0, last])
}

/// One exchange with a backend that says its name.
fn who(source: IpAddr, address: &Address) -> u8 {
    let mut client = Stream::connect_from(source, address);
    client.read_exactly(1)[0]
}

fn named(name: u8) -> Backend {
    Backend::start(move |mut stream: Stream, number| {
        let _ = stream.try_write_all(&[name]);
        behaviour::sink(stream, number);
    })
}

fn balanced(mode: &str, weights: &[u32]) -> (Arus, Vec<Backend>) {
    let backends: Vec<Backend> = (0..weights.len()).map(|index| named(index as u8)).collect();
    let list: Vec<String> = backends
        .iter()
        .zip(weights)
        .map(|(backend, weight)| format!("{{ address = \"{}\", weight = {weight} }}", backend.address()))
        .collect();
    let setup = Setup::new(format!(
        "[[upstream]]\nname = \"app\"\nbalance = \"{mode}\"\nbackends = [{}]\n\
         [[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nupstream = \"app\"\n",
        list.join(", ")
    ));
    (setup.shards(3).start(), backends)
}

#[test]
fn round_robin_goes_by_weight_over_all_shards() {
    let (arus, backends) = balanced("round_robin", &[1, 2, 3]);
    for _ in 0..60 {
        who(local(1), &arus.address("web"));
    }
    assert_eq!(backends.iter().map(Backend::accepted).collect::<Vec<_>>(), [10, 20, 30]);
}

#[test]
fn least_connections_evens_out() {
    let (arus, backends) = balanced("least_connections", &[1, 1, 2]);
    let mut held: Vec<Stream> = Vec::new();
    for _ in 0..40 {
        let mut client = Stream::connect(&arus.address("web"));
        client.read_exactly(1);
        held.push(client);
    }
    assert_eq!(backends.iter().map(Backend::accepted).collect::<Vec<_>>(), [10, 10, 20]);
}

#[test]
fn random_uses_everybody() {
    let (arus, backends) = balanced("random", &[1, 1, 1, 1]);
    let mut held: Vec<Stream> = Vec::new();
    for _ in 0..80 {
        let mut client = Stream::connect(&arus.address("web"));
        client.read_exactly(1);
        held.push(client);
    }
    let counts: Vec<usize> = backends.iter().map(Backend::accepted).collect();
    // The better of two: nobody is far from 20.
    assert!(counts.iter().all(|count| (12..=28).contains(count)), "{counts:?}");
}

#[test]
fn source_hash_keeps_a_client_where_it_was() {
    let (arus, _backends) = balanced("source_hash", &[1, 1, 1, 1]);
    let mut seen: HashMap<u8, u8> = HashMap::new();
    for round in 0..3 {
        for source in 1..=40 {
            let backend = who(local(source), &arus.address("web"));
            assert_eq!(*seen.entry(source).or_insert(backend), backend, "client {source} moved in round {round}");
        }
    }
    assert_eq!(seen.values().collect::<HashSet<_>>().len(), 4, "some backend has no client of 40");
}

#[test]
fn backups_wait_until_nobody_else_is_there() {
    let (first, backup) = (Closed::new(), named(9));
    let first_address = first.address();
    let backends = format!("[\"{first_address}\", {{ address = \"{}\", backup = true }}]", backup.address());
    let arus = Setup::new(format!(
        "[[upstream]]\nname = \"app\"\nbackends = {backends}\noutlier = {{ failures = 1, eject = \"1s\" }}\n\
         [[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nupstream = \"app\"\n"
    ))
    .start();
    // The first attempt finds nobody and ejects it; then the backup serves.
    assert_eq!(
        eventually("the backup serves", || {
            let mut client = Stream::connect(&arus.address("web"));
            let mut name = [0];
            matches!(client.read_some(&mut name), Ok(1)).then_some(name[0])
        }),
        9
    );
    drop(first);
    let _first = Backend::listen(&first_address, |mut stream: Stream, number| {
        let _ = stream.try_write_all(&[1]);
        behaviour::sink(stream, number);
    });
    eventually("the first is back", || (who(local(1), &arus.address("web")) == 1).then_some(()));
    assert!((0..20).all(|_| who(local(1), &arus.address("web")) == 1));
}

#[test]
fn routes_go_by_source() {
    let (one, two, other) = (named(1), named(2), named(3));
    let arus = Setup::new(format!(
        "[[upstream]]\nname = \"one\"\nbackends = \"{}\"\n[[upstream]]\nname = \"two\"\nbackends = \"{}\"\n\
         [[upstream]]\nname = \"other\"\nbackends = \"{}\"\n\
         [[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nupstream = \"other\"\n\
         [[listener.route]]\nsource = [\"127.0.0.2\"]\nupstream = \"one\"\n\
         [[listener.route]]\nsource = [\"127.0.0.0/30\"]\nupstream = \"two\"\n\
         [[listener]]\nname = \"strict\"\nlisten = \"127.0.0.1:0\"\n\
         [[listener.route]]\nsource = [\"127.0.0.2\"]\nupstream = \"one\"\n",
        one.address(),
        two.address(),
        other.address()
    ))
    .start();
    let web = arus.address("web");
    assert_eq!([2, 1, 3, 4].map(|last| who(local(last), &web)), [1, 2, 2, 3]);
    assert_eq!(who(local(2), &arus.address("strict")), 1);
    let mut refused = Stream::connect_from(local(3), &arus.address("strict"));
    assert_eq!(refused.end(), End::Fin);
    let line = arus.session_of(refused.local());
    assert_eq!(
        (&line["reason"], &line["state"], &line["stage"]),
        (&"no_route".into(), &"rejected".into(), &"route".into())
    );
}

#[test]
fn a_range_of_ports_and_a_list_of_addresses() {
    let backend = named(5);
    // Four ports in a row that are free now; somebody else may be faster, so it is tried again.
    let arus = (0..20)
        .find_map(|_| {
            let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let last = port.checked_add(3)?;
            let listen = format!("127.0.0.1:{port}-{last}\", \"[::1]:0\", \"unix:{{dir}}/web.sock");
            let body = format!(
                "[[upstream]]\nname = \"app\"\nbackends = \"{}\"\n[[listener]]\nname = \"web\"\n\
                 listen = [\"{listen}\"]\nupstream = \"app\"\n",
                backend.address()
            );
            let arus = Setup::new(body).launch();
            let is_ready = arus.log.try_ready();
            if !is_ready {
                println!("{:?}", arus.log.lines());
            }
            is_ready.then_some(arus)
        })
        .expect("four free ports in a row");
    let addresses = arus.addresses("web");
    assert_eq!(addresses.len(), 6);
    for address in &addresses {
        let mut client = Stream::connect(address);
        assert_eq!(client.read_exactly(1), [5], "{address}");
    }
}
