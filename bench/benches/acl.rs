//! The access rules by themselves: `cargo bench -p arus-bench --bench acl`. A decision with 10,000 rules is to take less
//! than a microsecond, compiling 100,000 rules less than a second.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use arus::config::{self, Environment};
use arus::policy::acl::{Acl, Action, Ask, Conditions, Destination, Own, Pattern, Rule};
use arus::policy::host::Host;
use arus::types::{Name, Protocol};
use criterion::{Criterion, criterion_group, criterion_main};

/// One of many rules, as rules are in practice: most by destination, some by who asks, some by port.
fn rule(number: usize) -> Rule {
    let (high, middle, low) = (number >> 16, number >> 8 & 255, number & 255);
    let destination = match number % 8 {
        0 | 1 => Destination::Name(format!("h{number}.example").into()),
        2 => Destination::Pattern(Pattern::parse(&format!("*.w{number}.example")).expect("a pattern")),
        3 => Destination::Pattern(Pattern::parse(&format!("p{number}-*.example")).expect("a pattern")),
        4 => Destination::Net(format!("{}.{middle}.{low}.0/24", 20 + high).parse().expect("a network")),
        5 => Destination::Net(format!("2001:db8:{middle:x}:{low:x}::/64").parse().expect("a network")),
        6 => Destination::Any,
        _ => Destination::Net("192.0.2.1/32".parse().expect("a network")),
    };
    let only = |is_it: bool, name: String| is_it.then(|| vec![Name::from(name)]);
    Rule {
        action: if number % 16 < 8 { Action::Allow } else { Action::Block },
        priority: 100,
        description: None,
        conditions: Conditions {
            users: only(number % 16 == 6, format!("u{number}")),
            groups: only(number % 16 == 14, format!("g{number}")),
            sources: None,
            destinations: Some(vec![destination]),
            ports: (number % 8 == 7).then(|| vec![number as u16..=number as u16]),
            protocols: None,
            listeners: None,
        },
        file: "acl.toml".into(),
        line: number as u32,
    }
}

const GROUPS: [&str; 3] = ["users", "dev", "staff"];

/// Times what `rules` say of each of these.
fn decide(criterion: &mut Criterion, name: &str, rules: &[Rule], asks: &[(&str, u16)]) {
    let acl = Acl::compile(Action::Block, rules, Own::default(), None);
    let groups = GROUPS.map(Name::from);
    for (host, port) in asks {
        let ask = Ask {
            user: Some("somebody"),
            groups: &groups,
            source: Some(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1))),
            host: Host::parse(host.as_bytes()).expect("a host"),
            port: *port,
            protocol: Protocol::Tcp,
            listener: "socks",
        };
        criterion.bench_function(&format!("{name}: {host} port {port}"), |bench| {
            bench.iter(|| black_box(acl.decide(black_box(&ask))));
        });
    }
}

fn decisions(criterion: &mut Criterion) {
    let mixed: Vec<Rule> = (0..10_000).map(rule).collect();
    decide(
        criterion,
        "decision, 10,000 rules",
        &mixed,
        &[
            ("h8000.example", 443),
            ("x.w8002.example", 443),
            ("p8003-x.example", 443),
            ("20.31.68.7", 443),
            ("192.0.2.1", 7999),
            ("nowhere.of.any.rule.example", 443),
            ("203.0.113.9", 443),
        ],
    );
    let by_port = |number: u16| {
        let mut rule = rule(7);
        rule.conditions.ports = Some(vec![number..=number]);
        rule
    };
    let by_port: Vec<Rule> = (1..=10_000).map(by_port).collect();
    decide(
        criterion,
        "decision, 10,000 rules that differ by port",
        &by_port,
        &[("192.0.2.1", 9999), ("192.0.2.1", 10_001)],
    );
}

fn compiling(criterion: &mut Criterion) {
    let many: Vec<Rule> = (0..100_000).map(rule).collect();
    let mut group = criterion.benchmark_group("compile");
    group.sample_size(10);
    group.bench_function("100,000 rules", |bench| {
        bench.iter_with_large_drop(|| Acl::compile(Action::Block, black_box(&many), Own::default(), None));
    });
    group.finish();

    let text: String = (0..100_000)
        .map(|number| {
            format!("[[acl.rule]]\naction = \"allow\"\ndestinations = [\"h{number}.example\"]\nports = [443]\n")
        })
        .collect();
    let mut group = criterion.benchmark_group("read from text and compile");
    group.sample_size(10);
    let environment = Environment::detect();
    let listener = "[[listener]]\nname = \"l\"\nlisten = \"127.0.0.1:1\"\nservice = \"socks5\"\n";
    let text = format!("{listener}{text}");
    group.bench_function("100,000 rules", |bench| {
        bench.iter_with_large_drop(|| {
            let loaded = config::parse(black_box(&text), "bench.toml", Path::new("/"), &environment);
            let acl = loaded.expect("the configuration is right").plan.acl;
            Acl::compile(acl.default, &acl.rules, Own::default(), None)
        });
    });
    group.finish();
}

criterion_group!(acl, decisions, compiling);
criterion_main!(acl);
