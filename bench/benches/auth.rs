//! Logins that are remembered: `cargo bench -p arus-bench --bench auth`. One is to cost less than 20 us of CPU.
//!
//! `shard` is what a shard does for one that it remembers itself, dialogue aside. `control` is what control does for one
//! that only it remembers; the wake-ups of both threads come on top, and are seen in the measurements of the whole program.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use arus::config::{self, Environment};
use arus::control::auth::Auth;
use arus::policy::banned::{self, Source};
use arus::policy::identity::{Identity, Verdict};
use arus::policy::logins::{Cache, SHARD, Sealer};
use criterion::{Criterion, criterion_group, criterion_main};

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

fn shard(c: &mut Criterion) {
    let sealer = Sealer::new().expect("randomness");
    let mut cache = Cache::new(SHARD);
    let generation = 7u64.to_be_bytes();
    let seal = |number: u32| {
        let user = format!("user{number}");
        sealer.seal(&[b"login", &generation, user.as_bytes(), b"correct horse battery staple", b""])
    };
    let identity = Arc::new(Identity { user: "alice".into(), groups: Arc::new([]) });
    // As many as may be remembered.
    let begin = Instant::now();
    for number in 0..1000 {
        cache.insert(seal(number), Arc::clone(&identity), begin);
    }
    c.bench_function("login/shard", |b| {
        b.iter(|| {
            let user = black_box(b"user777");
            let key = sealer.seal(&[b"login", &generation, user, b"correct horse battery staple", b""]);
            assert!(!banned::may_be(Source::of(black_box(CLIENT)), || 0));
            // The life of what is remembered is not what is measured.
            black_box(Instant::now());
            cache.get(&key, begin).expect("it is remembered")
        });
    });
}

fn control(c: &mut Criterion) {
    let text = "[[listener]]\nname = \"socks\"\nlisten = \"127.0.0.1:1080\"\nservice = \"socks5\"\n\
                [auth]\nmethods = [\"password\"]\n[[auth.user]]\nname = \"alice\"\npassword = \"secret\"\n";
    let loaded = config::parse(text, "bench.toml", Path::new("/"), &Environment::detect());
    let plan = loaded.expect("the configuration is right").plan;
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let auth = runtime.block_on(async { Auth::new(&plan.auth, None).expect("authentication") });
    c.bench_function("login/control", |b| {
        // What is remembered lasts less than a run: now and then it is checked anew, which a plain password makes cheap.
        b.iter(|| runtime.block_on(auth.authenticate(Some(black_box(CLIENT)), b"alice", b"secret")));
    });
    let verdict = runtime.block_on(auth.authenticate(Some(CLIENT), b"alice", b"secret"));
    assert!(matches!(verdict, Verdict::Accepted(_)), "{verdict:?}");
}

criterion_group!(benches, shard, control);
criterion_main!(benches);
