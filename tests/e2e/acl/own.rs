//! This machine by its other addresses than the loopback. In a network of its own, which has one that nobody else has.

use std::process::Command;

use nix::sched::{CloneFlags, unshare};

use super::*;

/// Gives this thread, and all that it starts, a network with these addresses; `false` where that cannot be done.
fn network(addresses: &[&str]) -> bool {
    if !nix::unistd::Uid::effective().is_root() || Command::new("ip").arg("-V").output().is_err() {
        println!("skipped: it needs root and ip(8) for network namespaces");
        return false;
    }
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
        println!("skipped: no network namespace can be made here: {error}");
        return false;
    }
    run("link set lo up");
    run("link add own0 type veth peer name own1");
    run("link set own0 up");
    addresses.iter().for_each(|address| add(address));
    true
}

fn add(address: &str) {
    let is_v6 = address.contains(':');
    run(&format!("address add {address} dev own0{}", if is_v6 { " nodad" } else { "" }));
}

fn run(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", text(&output.stderr));
}

/// What the rules say of an address by each way to ask, and that nobody is connected where they say no.
fn reaches(arus: &Arus, to: SocketAddr) -> bool {
    let (reply, stream) = connect(arus, &ip(to));
    assert!([0, 2].contains(&reply), "{to}: {reply}");
    let from = stream.local();
    drop(stream);
    let line = arus.session_of(from);
    assert_eq!(line["reason"] == "acl_blocked", reply == 2, "{line}");
    let question = json!({ "destination": to.ip(), "port": to.port(), "protocol": "tcp" });
    assert_eq!(post(arus, &question.to_string()).1["decision"] == "allow", reply == 0, "{to}");
    let (config, target) = (arus.config().to_str().unwrap(), to.to_string());
    let output = arus_command(&["explain", "--config", config, "--listener", "socks", "--to", &target, "--json"]);
    let explained: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
    assert_eq!(explained["acl"]["decision"] == "allow", reply == 0, "{explained}");
    reply == 0
}

#[test]
fn this_machine_is_reserved_by_each_of_its_addresses() {
    if !network(&["192.0.2.1/24", "2001:db8::1/64"]) {
        return;
    }
    let echo = Backend::listen(&Address::parse("[::]:0"), behaviour::echo);
    let port = echo.address().ip().port();
    let rules = |named: &str| {
        let wide = "[[acl.rule]]\naction = \"allow\"\ndestinations = [\"*\", \"0.0.0.0/0\", \"::/0\"]\n";
        let listener = LISTENER.replace("127.0.0.1:0", "0.0.0.0:0");
        let named = format!("[[acl.rule]]\naction = \"allow\"\ndestinations = [{named}]\n");
        format!("{listener}[acl]\ndefault = \"allow\"\n{wide}{named}")
    };
    let setup = Setup::new(rules("\"203.0.113.1\""));
    let arus = setup.admin(&format!("listen = \"0.0.0.0:0\"\ntokens = [{TEST_TOKEN}]")).start();
    let api = admin(&arus).port();
    let socks = arus.address("socks").ip().port();
    for host in ["127.0.0.1", "192.0.2.1", "2001:db8::1"] {
        for port in [port, api, socks] {
            assert!(!reaches(&arus, SocketAddr::new(host.parse().unwrap(), port)), "{host}:{port}");
        }
    }
    for named in ["192.0.2.1", "0xc0000201", "::ffff:192.0.2.1", "[2001:db8::1]"] {
        assert_eq!(connect(&arus, &name(named, api)).0, 2, "{named}");
    }
    assert_eq!(echo.accepted(), 0);
    // One that comes later counts from the next reload on, as does a rule that names one.
    add("192.0.2.2/24");
    assert!(reaches_live(&arus, "192.0.2.2", port));
    let (reply, mut live) = connect(&arus, &ip(SocketAddr::new("192.0.2.2".parse().unwrap(), port)));
    assert_eq!(reply, 0);
    check_echo(&mut live, 0);
    let from = live.local();
    let config = fs::read_to_string(arus.config()).unwrap();
    fs::write(arus.config(), config.replace("203.0.113.1", "192.0.2.1")).unwrap();
    reload(&arus).unwrap();
    live.discard();
    assert_eq!(arus.session_of(from)["reason"], "acl_updated");
    assert!(!reaches(&arus, SocketAddr::new("192.0.2.2".parse().unwrap(), port)));
    assert!(reaches(&arus, SocketAddr::new("192.0.2.1".parse().unwrap(), port)));
}

/// As live traffic sees it: `arus explain` lists the addresses anew.
fn reaches_live(arus: &Arus, host: &str, port: u16) -> bool {
    connect(arus, &ip(SocketAddr::new(host.parse().unwrap(), port))).0 == 0
}
