//! Names, which are judged before their addresses are known: rules that change in between, and what a name stands for.

use std::net::Ipv4Addr;

use super::*;
use crate::resolve::{BlackHole, Dns, with_resolv_conf};

/// The rules before let it go to an address that does not answer yet; when that one does, they do not any more.
#[test]
fn who_is_on_the_way_to_an_address_that_is_blocked_meanwhile_does_not_arrive() {
    let hole = BlackHole::new(Ipv4Addr::LOCALHOST);
    let port = hole.address.port();
    let body = format!("{LISTENER}[timeouts]\nconnect = \"60s\"\n[acl]\ndefault = \"allow\"\n{OPEN}");
    let arus = Setup::new(body).shards(1).start();
    let mut client = Stream::connect(&arus.address("socks"));
    client.write_all(&[5, 1, 0]);
    assert_eq!(client.read_exactly(2), [5, 0]);
    client.write_all(&[&[5, 1, 0], &name("localhost", port)[..]].concat());
    let from = client.local();
    eventually("it is on its way", || {
        let (code, page) = arus.request("GET", "/api/v1/sessions");
        assert_eq!(code, 200);
        (page["data"][0]["stage"] == "connect").then_some(())
    });
    let block = format!(
        "[[acl.rule]]\naction = \"block\"\ndescription = \"not there\"\ndestinations = [\"127.0.0.0/8\"]\n\
         ports = [{port}]\n"
    );
    fs::write(arus.config(), fs::read_to_string(arus.config()).unwrap() + &block).unwrap();
    reload(&arus).unwrap();
    // Room for it: the kernel's next attempt is answered.
    let listener = hole.sockets[0].try_clone().unwrap();
    std::thread::spawn(move || std::iter::from_fn(|| listener.accept().ok()).collect::<Vec<_>>());
    assert_eq!(client.read_exactly(2), [5, 2]);
    let line = arus.session_of(from);
    assert_eq!((&line["reason"], &line["rule"]), (&json!("acl_updated"), &json!("not there")), "{line}");
}

/// What resolv.conf would put behind a name, a rule on names would not see.
#[test]
fn no_short_form_of_a_name_gets_round_a_rule() {
    let echo = Backend::start(behaviour::echo);
    let port = echo.address().ip().port();
    let dns = Dns::start();
    dns.set("db.corp.test", &[Ipv4Addr::LOCALHOST]);
    let block = "[[acl.rule]]\naction = \"block\"\ndestinations = [\"db.corp.test\"]\n";
    // Names of the configuration itself are looked up as the system does.
    let tcp = format!(
        "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nupstream = \"db\"\n[[upstream]]\nname = \"db\"\n\
         backends = [\"db:{port}\"]\n"
    );
    let setup = Setup::new(format!("{LISTENER}{tcp}[acl]\ndefault = \"allow\"\n{OPEN}{block}"));
    let resolv_conf = format!("search corp.test\nnameserver {}\noptions timeout:1 attempts:1\n", dns.address);
    let Some(setup) = with_resolv_conf(setup, "192.0.2.1 else.test\n", &resolv_conf) else { return };
    let arus = setup.start();
    for (host, reply) in [("db.corp.test", 2), ("db", 4), ("DB.", 4)] {
        assert_eq!(connect(&arus, &name(host, port)).0, reply, "{host}");
    }
    check_echo(&mut Stream::connect(&arus.address("web")), 0);
}

/// A client that asks for names which no server answers for keeps nobody else from theirs.
#[test]
fn names_that_nobody_answers_for_hold_up_only_who_asks() {
    let echo = Backend::start(behaviour::echo);
    let dns = Dns::start();
    dns.set("good.test", &[Ipv4Addr::LOCALHOST]);
    let setup = Setup::new(format!("{LISTENER}[acl]\ndefault = \"allow\"\n{OPEN}"));
    let resolv_conf = format!("nameserver {}\noptions timeout:30 attempts:2\n", dns.address);
    let Some(setup) = with_resolv_conf(setup, "192.0.2.1 else.test\n", &resolv_conf) else { return };
    let arus = setup.start();
    let waiting = |host: &str| {
        let mut stream = Stream::connect_from([127, 0, 0, 2].into(), &arus.address("socks"));
        stream.write_all(&[&[5, 1, 0, 5, 1, 0], &name(host, 80)[..]].concat());
        stream
    };
    let _waiting: Vec<Stream> = (0..300).map(|number| waiting(&format!("n{number}.silent"))).collect();
    eventually("it has asked for as many names as it may at once", || {
        (dns.asked.load(std::sync::atomic::Ordering::SeqCst) >= 64).then_some(())
    });
    // Not even from a name that it asks for as well, behind all the others.
    let _same = waiting("good.test");
    assert_eq!(connect(&arus, &name("good.test", echo.address().ip().port())).0, 0);
}
