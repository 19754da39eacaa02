//! Rules by hand, and rules by chance against a plain reading of what they mean.
use std::ops::RangeInclusive;

use super::*;

fn rule(action: Action, priority: i32, destinations: &[&str]) -> Rule {
    Rule {
        action,
        priority,
        description: None,
        conditions: Conditions {
            users: None,
            groups: None,
            sources: None,
            destinations: (!destinations.is_empty())
                .then(|| destinations.iter().map(|text| destination(text)).collect()),
            ports: None,
            protocols: None,
            listeners: None,
        },
        file: "acl.toml".into(),
        line: 0,
    }
}

fn destination(text: &str) -> Destination {
    if text == "*" {
        Destination::Any
    } else if let Ok(net) = text.parse() {
        Destination::Net(net)
    } else if let Ok(ip) = text.parse::<IpAddr>() {
        Destination::Net(ip.into())
    } else {
        Pattern::parse(text).map_or_else(|| Destination::Name(text.into()), Destination::Pattern)
    }
}

fn compile(default: Action, mut rules: Vec<Rule>) -> Acl {
    rules.iter_mut().zip(1..).for_each(|(rule, line)| rule.line = line);
    Acl::compile(default, &rules, Own::default(), None)
}

fn ask(host: &str) -> Ask<'_> {
    let host = Host::parse(host.as_bytes()).unwrap();
    Ask { user: None, groups: &[], source: None, host, port: 443, protocol: Protocol::Tcp, listener: "socks" }
}

/// The action and the line of the rule, 0 for none.
fn verdict(acl: &Acl, ask: &Ask<'_>) -> (Action, u32) {
    let decision = acl.decide(ask);
    (decision.action, acl.rule(&decision).map_or(0, |rule| rule.line))
}

use Action::{Allow, Block};

#[test]
fn block_comes_before_allow_then_priority_then_order() {
    let acl = compile(
        Block,
        vec![
            rule(Allow, 1000, &["a.example"]),
            rule(Block, 1, &["a.example"]),
            rule(Block, 2, &["a.example"]),
            rule(Allow, 1, &["b.example"]),
            rule(Allow, 2, &["b.example"]),
            rule(Allow, 2, &["*.example"]),
        ],
    );
    assert_eq!(verdict(&acl, &ask("a.example")), (Block, 3));
    assert_eq!(verdict(&acl, &ask("B.EXAMPLE.")), (Allow, 5));
    assert_eq!(verdict(&acl, &ask("c.example")), (Allow, 6));
    assert_eq!(verdict(&acl, &ask("c.d.example")), (Block, 0));
    let lines: Vec<u32> = acl.rules().map(|(rule, _)| rule.line).collect();
    assert_eq!(lines, [3, 2, 1, 5, 6, 4]);
}

#[test]
fn every_condition_must_hold() {
    let mut only = rule(Allow, 0, &["192.0.2.0/24"]);
    only.conditions = Conditions {
        users: Some(vec!["alice".into()]),
        groups: Some(vec!["dev".into()]),
        sources: Some(vec!["10.0.0.0/8".parse().unwrap()]),
        ports: Some(vec![443..=443, 8000..=9000]),
        protocols: Some(vec![Protocol::Tcp]),
        listeners: Some(vec!["socks".into()]),
        ..only.conditions
    };
    let acl = compile(Block, vec![only]);
    let groups = ["ops".into(), "DEV".into()];
    let good = Ask { user: Some("alice"), groups: &groups, source: Some([10, 1, 2, 3].into()), ..ask("192.0.2.7") };
    assert_eq!(verdict(&acl, &good), (Allow, 1));
    for port in [8000, 9000] {
        assert_eq!(verdict(&acl, &Ask { port, ..good.clone() }), (Allow, 1), "{port}");
    }
    for bad in [
        Ask { user: Some("Alice"), ..good.clone() },
        Ask { user: None, ..good.clone() },
        Ask { groups: &groups[..1], ..good.clone() },
        Ask { source: Some([11, 0, 0, 1].into()), ..good.clone() },
        Ask { source: None, ..good.clone() },
        Ask { port: 444, ..good.clone() },
        Ask { port: 9001, ..good.clone() },
        Ask { port: 0, ..good.clone() },
        Ask { protocol: Protocol::Udp, ..good.clone() },
        Ask { listener: "other", ..good.clone() },
        Ask { host: Host::Ip([192, 0, 3, 7].into()), ..good.clone() },
    ] {
        assert_eq!(verdict(&acl, &bad), (Block, 0), "{bad:?}");
    }
}

#[test]
fn reserved_destinations_must_be_named() {
    let open = compile(Allow, vec![rule(Allow, 9, &["*"]), rule(Allow, 9, &["0.0.0.0/0", "::/0"])]);
    let reserved = [
        "127.0.0.1",
        "127.9.9.9",
        "localhost",
        "a.localhost",
        "LOCALHOST.",
        "::1",
        "::ffff:127.0.0.1",
        "0x7f.1",
        "2130706433",
        "169.254.169.254",
        "fe80::1",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "::127.0.0.1",
        "fd00:ec2::254",
    ];
    for host in reserved {
        let decision = open.decide(&ask(host));
        assert_eq!((decision.action, Acl::words(&decision)), (Block, Some("reserved destination")), "{host}");
    }
    assert_eq!(verdict(&open, &ask("192.0.2.1")).0, Allow);
    let named = compile(Block, vec![rule(Allow, 0, &["127.0.0.0/8"]), rule(Allow, 0, &["169.254.169.254"])]);
    assert_eq!(verdict(&named, &ask("127.1")), (Allow, 1));
    assert_eq!(verdict(&named, &ask("169.254.169.254")), (Allow, 2));
    assert_eq!(verdict(&named, &ask("169.254.169.253")), (Block, 0));
}

#[test]
fn this_machine_must_be_named_too() {
    let own = || {
        let addresses = ["192.0.2.7", "2001:db8::7", "::ffff:198.51.100.7"].map(|ip| ip.parse::<IpAddr>().unwrap());
        Own::new(addresses, ["192.0.2.1:443", "0.0.0.0:443"].map(|socket| socket.parse().unwrap()))
    };
    let open = Acl::compile(Allow, &[rule(Allow, 0, &["*"]), rule(Allow, 9, &["0.0.0.0/0", "::/0"])], own(), None);
    // What arus listens on, at that port.
    assert_eq!(verdict(&open, &ask("192.0.2.1")), (Block, 0));
    assert_eq!(verdict(&open, &Ask { port: 80, ..ask("192.0.2.1") }).0, Allow);
    // The machine, at any port, however it is called.
    let machine = [
        "192.0.2.7",
        "::ffff:192.0.2.7",
        "0xc0000207",
        "2001:db8::7",
        "198.51.100.7",
        "64:ff9b::c000:207",
        "2002:c000:207::",
    ];
    for host in machine {
        for port in [1, 443, 9090] {
            let decision = open.decide(&Ask { port, ..ask(host) });
            assert_eq!(
                (decision.action, Acl::words(&decision)),
                (Block, Some("reserved destination")),
                "{host}:{port}"
            );
        }
    }
    for host in ["192.0.2.6", "192.0.2.8", "2001:db8::8"] {
        assert_eq!(verdict(&open, &ask(host)).0, Allow, "{host}");
    }
    // A name of it goes where its addresses may.
    let named = Acl::compile(
        Allow,
        &[rule(Allow, 0, &["me.example"]), rule(Allow, 0, &["2001:db8::/32"]), rule(Block, 0, &["2001:db8::8"])],
        own(),
        None,
    );
    let by_name = |address| named.decide(&ask("me.example")).and_address(named.decide(&ask(address))).action;
    assert_eq!([by_name("192.0.2.7"), by_name("2001:db8::7"), by_name("192.0.2.8")], [Block, Allow, Allow]);
}

#[test]
fn a_name_and_its_addresses_are_judged_together() {
    let acl = compile(
        Block,
        vec![
            rule(Block, 0, &["bad.example"]),
            rule(Block, 0, &["10.0.0.0/8"]),
            rule(Allow, 0, &["good.example", "bad.example"]),
            rule(Allow, 0, &["192.0.2.0/24", "127.0.0.1"]),
        ],
    );
    let both = |name, address| {
        let decision = acl.decide(&ask(name)).and_address(acl.decide(&ask(address)));
        (decision.action, acl.rule(&decision).map_or(0, |rule| rule.line))
    };
    assert_eq!(both("good.example", "198.51.100.1"), (Allow, 3), "by the name");
    assert_eq!(both("x.example", "192.0.2.1"), (Allow, 4), "by the address");
    assert_eq!(both("good.example", "10.1.2.3"), (Block, 2), "the address is blocked");
    assert_eq!(both("bad.example", "192.0.2.1"), (Block, 1), "the name is blocked");
    assert_eq!(both("good.example", "127.0.0.2"), (Block, 0), "reserved");
    assert_eq!(both("localhost", "127.0.0.1"), (Allow, 4), "named by its address");
    assert_eq!(both("localhost", "::1"), (Block, 0));
    assert_eq!(both("x.example", "198.51.100.1"), (Block, 0), "neither");
    // Addresses behind a translator are blocked as what they lead to.
    assert_eq!(verdict(&acl, &ask("64:ff9b::a01:203")), (Block, 0), "the default comes first here");
    let open = compile(Allow, vec![rule(Block, 0, &["10.0.0.0/8"])]);
    assert_eq!(verdict(&open, &ask("64:ff9b::a01:203")), (Block, 1));
}

#[test]
fn hits_outlive_a_reload_by_what_a_rule_says() {
    let rules = [rule(Allow, 0, &["a.example"]), rule(Allow, 0, &["b.example"]), rule(Allow, 0, &["a.example"])];
    let acl = Acl::compile(Block, &rules, Own::default(), None);
    let decision = acl.decide(&ask("a.example"));
    (0..3).for_each(|_| acl.count(&decision));
    acl.count(&acl.decide(&ask("b.example")));
    let mut moved = vec![rules[1].clone(), rules[0].clone(), rule(Block, 0, &["c.example"])];
    moved[1].line = 77;
    let after = Acl::compile(Block, &moved, Own::default(), Some(&acl));
    let hits: Vec<u64> = after.rules().map(|(_, hits)| hits).collect();
    assert_eq!(hits, [0, 1, 3]);
    acl.count(&decision);
    assert_eq!(after.rules().last().unwrap().1, 4, "old connections count on");
    after.count(&after.decide(&ask("elsewhere.example")));
    assert_eq!((after.decided(Allow), after.decided(Block)), (5, 1), "those by default too");
}

#[test]
fn rules_that_differ_by_port_are_found_by_it() {
    let of_ports = |ports: RangeInclusive<u16>, priority| {
        let mut rule = rule(Allow, priority, &["192.0.2.1"]);
        rule.conditions.ports = Some(vec![ports]);
        rule
    };
    // In the order of their lines; the last two are of higher priority, and one is too wide to be filed by port.
    let singles = (1..=1000).map(|port| of_ports(port..=port, 0));
    let acl = compile(Block, singles.chain([of_ports(500..=502, 1), of_ports(900..=9000, 1)]).collect());
    for (port, line) in [(1, 1), (8, 8), (9, 9), (499, 499), (500, 1001), (502, 1001), (503, 503), (900, 1002)] {
        assert_eq!(verdict(&acl, &Ask { port, ..ask("192.0.2.1") }), (Allow, line), "{port}");
    }
    for port in [0, 9001, u16::MAX] {
        assert_eq!(verdict(&acl, &Ask { port, ..ask("192.0.2.1") }), (Block, 0), "{port}");
    }
    assert_eq!(verdict(&acl, &Ask { port: 9, ..ask("192.0.2.2") }), (Block, 0));
}

/// Small numbers from a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % sides
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.roll(from.len())]
    }

    fn some<T: Clone>(&mut self, from: &[T]) -> Option<Vec<T>> {
        (self.roll(3) == 0).then(|| (0..=self.roll(3)).map(|_| self.pick(from).clone()).collect())
    }
}

const HOSTS: &[&str] = &[
    "a.x.com",
    "b.x.com",
    "prod-1.x.com",
    "prod-22.y.com",
    "api.q.com",
    "x.com",
    "deep.a.x.com",
    "localhost",
    "10.1.2.3",
    "10.1.9.9",
    "192.0.2.7",
    "127.0.0.1",
    "2001:db8::1",
    "64:ff9b::a01:203",
    "::1",
    "203.0.113.9",
    "2002:a01:203::",
];
const DESTINATIONS: &[&str] = &[
    "*",
    "a.x.com",
    "x.com",
    "*.x.com",
    "prod-*.x.com",
    "p*d-*.y.com",
    "*.*.com",
    "api.*.com",
    "*pi.q.com",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.3",
    "0.0.0.0/0",
    "127.0.0.0/8",
    "::/0",
    "2001:db8::/32",
    "192.0.2.0/24",
    "64:ff9b::/96",
];

fn random_rule(dice: &mut Dice) -> Rule {
    let names = |words: &[&str]| words.iter().map(|word| Name::from(*word)).collect::<Vec<_>>();
    let nets: Vec<ipnet::IpNet> = ["10.0.0.0/8", "10.5.0.0/16", "2001:db8::/32"].map(|net| net.parse().unwrap()).into();
    let mut rule = rule(*dice.pick(&Action::ALL), dice.roll(3) as i32, &[]);
    let conditions = &mut rule.conditions;
    let destinations: Vec<Destination> = DESTINATIONS.iter().map(|text| destination(text)).collect();
    conditions.destinations =
        (dice.roll(5) > 0).then(|| (0..=dice.roll(3)).map(|_| dice.pick(&destinations).clone()).collect());
    conditions.users = dice.some(&names(&["alice", "bob", "eve"]));
    conditions.groups = dice.some(&names(&["dev", "ops"]));
    conditions.sources = dice.some(&nets);
    conditions.ports = dice.some(&[80..=80, 443..=443, 1..=1023u16] as &[RangeInclusive<u16>]);
    conditions.protocols = dice.some(&[Protocol::Tcp, Protocol::Udp]);
    conditions.listeners = dice.some(&names(&["socks", "other"]));
    rule
}

/// The rules looked through one after the other, as the documentation has it.
fn naive(default: Action, rules: &[Rule], ask: &Ask<'_>) -> (Action, u32) {
    let of_host = |host: &Host<'_>| {
        let meant = |destination: &Destination| match (destination, host) {
            (Destination::Any, _) => true,
            (Destination::Net(net), Host::Ip(ip)) => net.contains(ip),
            (Destination::Name(name), Host::Name(asked)) => **name == **asked,
            (Destination::Pattern(pattern), Host::Name(asked)) => pattern.matches(asked),
            _ => false,
        };
        let is_everywhere = |destination: &Destination| match destination {
            Destination::Any => true,
            Destination::Net(net) => net.prefix_len() == 0,
            _ => false,
        };
        let is_reserved = match host {
            Host::Ip(ip) => reserved::is_reserved(*ip),
            Host::Name(name) => reserved::is_reserved_name(name),
        };
        let mut order: Vec<&Rule> = rules.iter().collect();
        order.sort_by_key(|rule| (rule.action, std::cmp::Reverse(rule.priority)));
        let found = order.into_iter().find(|rule| {
            let listed = rule.conditions.destinations.as_deref().unwrap_or(&[Destination::Any]);
            let mut means = listed.iter().filter(|destination| meant(destination));
            let hits = match is_reserved && rule.action == Allow {
                true => means.any(|destination| !is_everywhere(destination)),
                false => means.next().is_some(),
            };
            hits && rule.conditions.hold(ask, Found::Otherwise)
        });
        match found {
            Some(rule) => (rule.action, rule.line, true),
            None if is_reserved => (Block, 0, true),
            None => (default, 0, false),
        }
    };
    let (action, line, _) = of_host(&ask.host);
    if let Host::Ip(ip) = ask.host
        && action == Allow
        && let Some(embedded) = host::embedded(ip)
        && let (Block, line, true) = of_host(&Host::Ip(embedded.into()))
    {
        return (Block, line);
    }
    (action, line)
}

#[test]
fn finds_what_looking_through_all_rules_finds() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut decided = HashMap::new();
    for round in seed..seed + 400 {
        let mut dice = Dice(0x9E37_79B9_7F4A_7C15u64.wrapping_mul(round) | 1);
        let default = *dice.pick(&Action::ALL);
        let mut rules: Vec<Rule> = (0..dice.roll(30)).map(|_| random_rule(&mut dice)).collect();
        // Now and then so many of one destination that they are found by their ports.
        if round % 4 == 0 {
            rules.truncate(3);
            rules.extend((0..40).map(|_| {
                let mut rule = rule(*dice.pick(&Action::ALL), dice.roll(3) as i32, &["10.1.2.3", "a.x.com"]);
                let port = *dice.pick(&[80, 443, 5000, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
                rule.conditions.ports = Some(vec![port..=port, 30_000..=30_000 + dice.roll(200) as u16]);
                rule
            }));
        }
        rules.iter_mut().zip(1..).for_each(|(rule, line)| rule.line = line);
        let acl = Acl::compile(default, &rules, Own::default(), None);
        for _ in 0..100 {
            let groups: Vec<Name> = dice.some(&["DEV".into(), "ops".into(), "none".into()]).unwrap_or_default();
            let asked = Ask {
                user: [None, Some("alice"), Some("bob"), Some("zoe")][dice.roll(4)],
                groups: &groups,
                source: [None, Some([10, 5, 0, 1].into()), Some("2001:db8::9".parse().unwrap())][dice.roll(3)],
                host: Host::parse(dice.pick(HOSTS).as_bytes()).unwrap(),
                port: *dice.pick(&[80, 443, 5000]),
                protocol: *dice.pick(Protocol::ALL),
                listener: ["socks", "other"][dice.roll(2)],
            };
            let found = verdict(&acl, &asked);
            assert_eq!(found, naive(default, &rules, &asked), "SEED={round} {asked:?}\n{rules:#?}");
            *decided.entry((found.0, found.1 > 0)).or_insert(0) += 1;
        }
    }
    assert!(decided.len() == 4 && decided.values().all(|times| *times > 1000), "{decided:?}");
}
