//! A name of several addresses, of which some are dead (RFC 8305). In a network of its own, with a real name server.

use std::process::Command;

use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::ops::{has, is_root};

fn run(program: &str, arguments: &str) {
    let output = Command::new(program).args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The names of this network: alive at 192.0.2.1 and 2001:db8::1, with what goes to the other addresses lost on the way.
const RECORDS: [&str; 4] = [
    "dead-v6.test,192.0.2.1,2001:db8::dead",
    "dead-v4.test,203.0.113.9,2001:db8::1",
    "alive.test,192.0.2.1,2001:db8::1",
    "dead.test,203.0.113.9,2001:db8::dead",
];

#[test]
fn a_dead_address_of_a_name_costs_a_moment_and_not_the_connect_timeout() {
    if !is_root() || ["ip", "unshare", "dnsmasq"].iter().any(|program| !has(program)) {
        return;
    }
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
        println!("skipped: no network namespace can be made here: {error}");
        return;
    }
    run("ip", "link set lo up");
    // What goes out here comes to nobody, and nobody is asked for a neighbour.
    run("ip", "link add way0 type veth peer name way1");
    run("ip", "link set way1 arp off up");
    run("ip", "link set way0 arp off up");
    for address in ["192.0.2.1/24", "2001:db8::1/64"] {
        run("ip", &format!("address add {address} dev way0{}", if address.contains(':') { " nodad" } else { "" }));
    }
    run("ip", "route add 203.0.113.0/24 dev way0");
    let mut server = Command::new("dnsmasq");
    server.args(["--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file="]);
    server.args(["--listen-address=127.0.0.1", "--bind-interfaces", "--port=53"]);
    server.args(RECORDS.map(|record| format!("--host-record={record}")));
    let server = Program::start(server);
    server.wait("dnsmasq to start", |text| text.contains("started, version").then_some(()));

    let v4 = Backend::listen(&Address::parse("192.0.2.1:0"), behaviour::echo);
    let port = v4.address().ip().port();
    let v6 = Backend::listen(&Address::parse(&format!("[2001:db8::1]:{port}")), behaviour::echo);
    let rules = "[acl]\ndefault = \"allow\"\n[[acl.rule]]\naction = \"allow\"\n\
                 destinations = [\"192.0.2.1\", \"2001:db8::1\"]\n";
    let setup = Setup::new(format!(
        "[[listener]]\nname = \"socks\"\nlisten = \"127.0.0.1:0\"\nservice = \"socks5\"\n\
         [timeouts]\nconnect = \"50s\"\n{rules}"
    ));
    let resolv = setup.directory().join("resolv.conf");
    std::fs::write(&resolv, "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n").unwrap();
    let script = "mount --bind \"$1\" /etc/resolv.conf && shift && exec \"$@\"";
    let arus = setup.wrap(&["unshare", "--mount", "sh", "-c", script, "sh", resolv.to_str().unwrap()]).start();
    let reach = |name: &str| {
        let mut client = greeted(&arus);
        client.write_all(&request_name(CONNECT, name.as_bytes(), port));
        assert_eq!(read_reply(&mut client).0, 0, "{name}");
        client.send(1, 0, 1000);
        client.expect(1, 0, 1000);
        let from = client.local();
        drop(client);
        let line = arus.session_of(from);
        (line["connect_ms"].as_f64().unwrap(), [v4.accepted(), v6.accepted()])
    };
    // The first of them is of IPv6, as RFC 6724 has it.
    assert_eq!(reach("alive.test").1, [0, 1]);
    let (took, accepted) = reach("dead-v6.test");
    assert_eq!(accepted, [1, 1]);
    assert!((240.0..20_000.0).contains(&took), "the dead address first, and not to its end: {took} ms");
    let (took, accepted) = reach("dead-v4.test");
    assert_eq!(accepted, [1, 2]);
    assert!(took < 20_000.0, "{took} ms");
    // Somebody who waits for a dead one keeps nobody from going.
    let mut waits = greeted(&arus);
    waits.write_all(&request_name(CONNECT, b"dead.test", port));
    assert_eq!(reach("alive.test").1, [1, 3]);
}
