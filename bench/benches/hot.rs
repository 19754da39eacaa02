//! The pure code that every connection runs through, by itself: `cargo bench -p arus-bench`.

use std::hint::black_box;
use std::iter;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use arus::codec::{client_hello, proxy_header};
use arus::config::{self, Environment};
use arus::policy::budget::Budget;
use arus::policy::rate::Rate;
use arus::policy::source::SourceTable;
use arus::stats::counters::add;
use arus::stats::latency::{Latencies, Measure};
use arus::upstream::balance::{Asker, Choice, Picker};
use arus::upstream::state::{BackendId, BackendState, UpstreamState};
use criterion::{Criterion, criterion_group, criterion_main};

/// A listener with 100 routes, and one upstream of 10 backends for each way to balance.
fn plan() -> config::plan::Plan {
    let mut text = String::from("[[listener]]\nname = \"l\"\nlisten = \"127.0.0.1:1\"\nupstream = \"round_robin\"\n");
    for net in 0..100 {
        text += &format!("[[listener.route]]\nsource = [\"10.{net}.0.0/16\"]\nupstream = \"round_robin\"\n");
    }
    for balance in ["round_robin", "least_connections", "random", "source_hash"] {
        text += &format!("[[upstream]]\nname = \"{balance}\"\nbalance = \"{balance}\"\nbackends = [");
        text += &(0..10).map(|host| format!("\"10.9.9.{host}:80\",")).collect::<String>();
        text += "]\n";
    }
    let loaded = config::parse(&text, "bench.toml", std::path::Path::new("/"), &Environment::detect());
    loaded.expect("the configuration is right").plan
}

fn routing(criterion: &mut Criterion) {
    let plan = plan();
    let listener = &plan.listeners[0];
    let (first, last) = (IpAddr::V4(Ipv4Addr::new(10, 0, 1, 1)), IpAddr::V4(Ipv4Addr::new(10, 99, 1, 1)));
    criterion.bench_function("route, first of 100", |bench| {
        bench.iter(|| black_box(listener.route(Some(first), None, iter::empty())))
    });
    criterion.bench_function("route, last of 100", |bench| {
        bench.iter(|| black_box(listener.route(Some(last), None, iter::empty())))
    });
}

fn balancing(criterion: &mut Criterion) {
    for upstream in &plan().upstreams {
        let picker = Picker::new(upstream);
        let backend = |(id, backend): (usize, &config::plan::Backend)| {
            let id = BackendId(id as u32);
            Arc::new(BackendState::new(id, upstream.name.clone(), backend.address.clone(), Budget::UNLIMITED, 1))
        };
        let state = UpstreamState {
            name: upstream.name.clone(),
            backends: upstream.backends.iter().enumerate().map(backend).collect(),
            turn: Default::default(),
            waiting: Arc::new(Budget::new(0)),
        };
        let mut random = 1u64;
        criterion.bench_function(&format!("choose of 10 backends, {}", upstream.name), |bench| {
            bench.iter(|| {
                random = random.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
                let source = Some(IpAddr::V4(Ipv4Addr::from(random as u32)));
                let choice = picker.choose(&state, &Asker { source, tried: &[], random, now_ms: 1000 });
                if let Choice::Backend(index) = choice {
                    state.backends[usize::from(index)].connections.give_back();
                }
                choice
            });
        });
    }
}

fn counting(criterion: &mut Criterion) {
    let budget = Arc::new(Budget::new(10));
    criterion.bench_function("lease of a connection limit", |bench| bench.iter(|| budget.lease()));
    let rate = Rate::new(Rate::MAX);
    criterion.bench_function("accept rate", |bench| bench.iter(|| rate.take(black_box(1_000_000))));
    let sources = Arc::new(SourceTable::new(10_000));
    let source = IpAddr::V4(Ipv4Addr::LOCALHOST);
    criterion.bench_function("lease of a source's connection", |bench| bench.iter(|| sources.lease(source, 10)));
    let counter = AtomicU64::new(0);
    criterion.bench_function("counter of one writer", |bench| bench.iter(|| add(&counter, 1)));
    let mut latencies = Latencies::default();
    criterion.bench_function("latency record", |bench| {
        bench.iter(|| latencies.record(Measure::Connect, black_box(Duration::from_micros(137))));
    });
}

fn parsing(criterion: &mut Criterion) {
    let messages: [(&str, &[u8]); 3] = [
        ("PROXY header, v1", include_bytes!("../../fuzz/corpus/proxy_header/haproxy-v1-tcp4")),
        ("PROXY header, v2", include_bytes!("../../fuzz/corpus/proxy_header/haproxy-v2-tcp4")),
        ("PROXY header, v2 with TLVs and checksum", include_bytes!("../../fuzz/corpus/proxy_header/haproxy-v2-tls")),
    ];
    for (name, bytes) in messages {
        criterion.bench_function(name, |bench| bench.iter(|| proxy_header::parse(black_box(bytes))));
    }
    let hello = include_bytes!("../../fuzz/corpus/client_hello/rustls-mlkem");
    criterion.bench_function("ClientHello", |bench| bench.iter(|| client_hello::parse(black_box(hello))));
    // The same in records of 100 bytes, which have to be joined.
    let record = |piece: &[u8]| [&[22, 3, 1, 0, piece.len() as u8], piece].concat();
    let pieces: Vec<u8> = hello[5..].chunks(100).flat_map(record).collect();
    criterion
        .bench_function("ClientHello in 15 records", |bench| bench.iter(|| client_hello::parse(black_box(&pieces))));
}

criterion_group!(hot, routing, balancing, counting, parsing);
criterion_main!(hot);
