//! Routing a connection allocates nothing, nor does judging it, nor a call of a plugin. A test binary of its own, as it counts what the global allocator does.
#![allow(unsafe_code, clippy::unwrap_used)] // a global allocator is an unsafe trait; listed in tests/tidy.rs

use std::alloc::{GlobalAlloc, Layout, System};
#[path = "plugins/cc.rs"]
mod cc;

use std::cell::Cell;
use std::hint::black_box;
use std::iter;
use std::net::IpAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arus::config::plan::OnFault;
use arus::config::{self, Environment};
use arus::plugin::counters::PluginState;
use arus::plugin::{Facts, Instance, Libraries, Line, Opened, Process, Streams, Terms, Trust, Turn};
use arus::policy::acl::{Acl, Ask, Own};
use arus::policy::host::Host;
use arus::ring::{Buffers, Chain};
use arus::types::{Client, Generation, Name, Protocol, SessionId, ShardId};

thread_local! {
    /// Allocations of this thread; const, so that counting one does not need another.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is handed to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps alloc's contract, which is ours.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `alloc` above with this layout, which is the system's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn routing_allocates_nothing() {
    let routes: String = (0..200)
        .map(|i| format!("[[listener.route]]\nsource = [\"10.{i}.0.0/16\"]\nupstream = \"u{}\"\n", i % 2))
        .chain((0..200).map(|i| {
            let names = format!("sni = [\"h{i}.example\", \"*.w{i}.example\"]\nalpn = [\"h2\", \"x{i}\"]");
            format!("[[listener.route]]\n{names}\nupstream = \"u{}\"\n", i % 2)
        }))
        .collect();
    let text = format!(
        "[[listener]]\nname = \"a\"\nlisten = \"127.0.0.1:1\"\nupstream = \"u0\"\nallow_sources = [\"10.0.0.0/8\", \"::/0\"]\n{routes}\
         [[upstream]]\nname = \"u0\"\nbackends = [\"127.0.0.1:2\"]\n[[upstream]]\nname = \"u1\"\nbackends = [\"127.0.0.1:3\"]\n"
    );
    let environment = Environment { is_root: true, home: None, xdg_state_home: None, directory: "/".into() };
    let plan = config::parse(&text, "f", Path::new("/"), &environment).unwrap().plan;
    let listener = &plan.listeners[0];
    let sources: Vec<Option<IpAddr>> = (0..=255u8)
        .map(|i| Some(IpAddr::from([10, i, 1, 1])))
        .chain([None, Some("192.0.2.1".parse().unwrap()), Some("2001:db8::1".parse().unwrap())])
        .collect();

    let mut routed = [0u32; 2];
    let counted = allocations(|| {
        for source in &sources {
            if black_box(listener.admits(black_box(*source)))
                && let Some(upstream) = black_box(listener.route(black_box(*source), None, iter::empty())).upstream()
            {
                routed[usize::from(upstream.0)] += 1;
            }
        }
    });
    assert_eq!(routed, [157, 100], "every source was looked up");
    assert_eq!(counted, 0);

    let names: Vec<String> = (0..200)
        .flat_map(|i| [format!("h{i}.example"), format!("X.w{i}.Example."), format!("a.b.w{i}.example")])
        .collect();
    let offered: [&[u8]; 2] = [b"http/1.1", b"h2"];
    let mut routed = [0u32; 3];
    let counted = allocations(|| {
        for name in &names {
            let found = listener.route(None, Some(black_box(name)), offered.iter().copied());
            routed[if let config::route::Routed::Route(route) = found { usize::from(route.upstream.0) } else { 2 }] +=
                1;
        }
    });
    assert_eq!(routed, [200, 200, 200], "every name was looked up");
    assert_eq!(counted, 0);
    assert_eq!(allocations(|| drop(black_box(Box::new(1)))), 1, "the counter counts");
}

#[test]
fn judging_allocates_nothing() {
    const RULES: usize = 10_000;
    let rules: String = (0..RULES)
        .map(|i| {
            let (high, low) = (i / 256, i % 256);
            let conditions = match i % 8 {
                0 => format!("destinations = [\"h{i}.example\"]"),
                1 => format!("destinations = [\"*.w{i}.example\", \"p{i}-*.example\"]"),
                2 => format!("destinations = [\"10.{high}.{low}.0/24\"]"),
                3 => format!("destinations = [\"2001:db8:{i:x}::/48\"]"),
                4 => format!("users = [\"u{i}\"]"),
                5 => format!("groups = [\"g{i}\"]\nprotocols = [\"udp\"]"),
                6 => format!("sources = [\"172.16.{high}.{low}/32\"]\nlisteners = [\"a\"]"),
                _ => format!("destinations = [\"192.0.2.1\"]\nports = [{i}]"),
            };
            let action = if i % 16 < 8 { "allow" } else { "block" };
            format!("[[acl.rule]]\naction = \"{action}\"\n{conditions}\n")
        })
        .collect();
    let text = format!("[[listener]]\nname = \"a\"\nlisten = \"127.0.0.1:1\"\nservice = \"socks5\"\n{rules}");
    let environment = Environment { is_root: true, home: None, xdg_state_home: None, directory: "/".into() };
    let plan = config::parse(&text, "f", Path::new("/"), &environment).unwrap().plan;
    let acl = Acl::compile(plan.acl.default, &plan.acl.rules, Own::default(), None);

    // Each asks for what one rule is about, with groups and a source that others are about.
    let asks: Vec<(String, String, [Name; 2], IpAddr)> = (0..RULES)
        .map(|i| {
            let (high, low) = ((i / 256) as u8, (i % 256) as u8);
            let host = match i % 8 {
                0 => format!("h{i}.example"),
                1 if i % 3 == 0 => format!("p{i}-x.example"),
                1 => format!("x.w{i}.example"),
                2 => format!("10.{high}.{low}.7"),
                3 => format!("2001:db8:{i:x}::9"),
                7 => "192.0.2.1".into(),
                _ => "elsewhere.example".into(),
            };
            let user = if i % 8 == 4 { format!("u{i}") } else { "somebody".into() };
            let group = if i % 8 == 5 { format!("G{i}") } else { "some".into() };
            let source = if i % 8 == 6 { [172, 16, high, low] } else { [198, 51, 100, 1] };
            (host, user, ["users".into(), group.as_str().into()], source.into())
        })
        .collect();
    let mut decided = [0; 4];
    let counted = allocations(|| {
        for (i, (host, user, groups, source)) in asks.iter().enumerate() {
            let ask = Ask {
                user: Some(user),
                groups,
                source: Some(*source),
                host: Host::parse(black_box(host.as_bytes())).unwrap(),
                port: if i % 8 == 7 { i as u16 } else { 443 },
                protocol: if i % 8 == 5 { Protocol::Udp } else { Protocol::Tcp },
                listener: "a",
            };
            let decision = black_box(acl.decide(black_box(&ask)));
            acl.count(&decision);
            let is_by_rule = acl.rule(&decision).is_some_and(|rule| rule.line == plan.acl.rules[i].line);
            decided[2 * usize::from(decision.is_allowed()) + usize::from(is_by_rule)] += 1;
        }
    });
    assert_eq!(decided, [0, RULES / 2, 0, RULES / 2], "each is decided by its own rule");
    assert_eq!(counted, 0);
}

fn instance(library: &Path, config: &str) -> Rc<Instance> {
    let name: arus::types::Name = "p".into();
    let library = Libraries::new().load(&name, library, Trust { owner: None, writers: None }).unwrap();
    let (state, path) = (Arc::new(PluginState::new(Arc::clone(&name), 1)), "p.so".into());
    let terms =
        Terms { name, path, config: config.into(), on_fault: OnFault::Close, max_call: Duration::from_secs(3600) };
    let process = Process::open(terms, library, state, Generation(1), 1).unwrap();
    Instance::new(Opened::new(&process, ShardId(0), &Arc::default()).unwrap())
}

/// Sends a piece through, and lets go of what comes out; says how much that was.
fn send(buffers: &Buffers, line: &mut Line, piece: &[u8]) -> usize {
    let (mut inbox, mut outbox) = (Chain::default(), Chain::default());
    let mut buffer = buffers.take().unwrap();
    buffer.extend(piece);
    buffers.push(&mut inbox, buffer);
    let mut len = 0;
    loop {
        let turn = line.run(&mut inbox, false, &mut outbox, 256 * 1024);
        len += outbox.len();
        buffers.release(std::mem::take(&mut outbox));
        match turn {
            Turn::Wants => return len,
            Turn::Full | Turn::Again => {}
            turn => panic!("{turn:?}"),
        }
    }
}

#[test]
fn calls_of_plugins_allocate_nothing() {
    let client = Client::Unix;
    let facts = Facts {
        session: SessionId(0),
        generation: Generation(1),
        client,
        source: client,
        listener: "web",
        target: None,
        upstream: None,
        backend: None,
        sni: None,
        alpn: None,
        user: None,
    };
    let (filter, xor, lines) = (cc::example("filter"), cc::example("xor"), cc::example("linecount"));
    let sets: [&[(&Path, &str)]; 5] = [
        &[(&filter, "upper")],
        &[(&xor, "secret")],
        &[(&lines, "")],
        // Pieces end in the middle of what may be the text, which is held back.
        &[(&filter, "block:needle")],
        &[(&lines, ""), (&xor, "secret"), (&filter, "rot13"), (&filter, "block:needle")],
    ];
    for set in sets {
        let buffers = Buffers::detached(64).unwrap();
        let instances: Vec<_> = set.iter().map(|(library, config)| instance(library, config)).collect();
        let (mut up, _down) = Streams::open(&buffers, &instances, &facts).unwrap().expect("they are interested");
        let mut piece = b"hay and hay and hay\n".repeat(800);
        piece.extend_from_slice(b"need");
        // What is held back lies in a vector, which the second piece is the first to be joined to.
        let first = send(&buffers, &mut up, &piece);
        send(&buffers, &mut up, &piece);
        let mut sent = 0;
        let counted = allocations(|| (0..1000).for_each(|_| sent += send(&buffers, &mut up, &piece)));
        assert!(first >= piece.len() - 4 && sent >= 999 * piece.len(), "{set:?}");
        assert_eq!(counted, 0, "{set:?}");
    }
}
