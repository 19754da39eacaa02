//! Routing a connection allocates nothing, and neither does a call of a plugin. A test binary of its own, as it counts
//! what the global allocator does.
#![allow(unsafe_code, clippy::unwrap_used)] // a global allocator is an unsafe trait; listed in tests/tidy.rs

#[path = "plugins/cc.rs"]
mod cc;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::iter;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arus::config::plan::OnFault;
use arus::config::{self, Environment};
use arus::plugin::counters::PluginState;
use arus::plugin::watch::Watch;
use arus::plugin::{Facts, Instance, Libraries, Line, Opened, Process, Streams, Terms, Trust, Turn};
use arus::ring::{Buffers, Chain};
use arus::types::{Client, Generation, Name, SessionId, ShardId};

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

/// Both directions of a connection with an example as its only plugin.
fn lines(buffers: &Buffers, example: &str, config: &str) -> (Line, Line) {
    let path = cc::example(example);
    let name: Name = example.into();
    let trust = Trust { owner: None, writers: None };
    let library = Libraries::new().load(&name, &path, trust).unwrap();
    let state = Arc::new(PluginState::new(Arc::clone(&name), 1));
    let max_call = Duration::from_secs(3_600);
    let terms = Terms { name, path: PathBuf::new(), config: config.into(), on_fault: OnFault::Close, max_call };
    let process = Process::open(terms, library, state, Generation(1), 1).unwrap();
    let opened = Opened::new(&process, ShardId(0), &Arc::new(Watch::default())).unwrap();
    let facts = Facts {
        session: SessionId(1),
        generation: Generation(1),
        client: Client::Unix,
        source: Client::Unix,
        listener: "a",
        target: None,
        upstream: None,
        backend: None,
        sni: None,
        alpn: None,
        user: None,
    };
    Streams::open(buffers, &[Instance::new(opened)], &facts).unwrap().expect("the example is interested")
}

/// Sends `piece` through `calls` times, and throws away what comes out. Returns how many bytes that was.
fn send(buffers: &Buffers, line: &mut Line, piece: &[u8], calls: usize) -> usize {
    let (mut inbox, mut outbox) = (Chain::default(), Chain::default());
    let mut out = 0;
    for _ in 0..calls {
        let mut buffer = buffers.take().unwrap();
        assert_eq!(buffer.extend(piece), piece.len());
        buffers.push(&mut inbox, buffer);
        assert_eq!(line.run(&mut inbox, false, &mut outbox, 1 << 20), Turn::Wants);
        out += outbox.len();
        buffers.release(std::mem::take(&mut outbox));
    }
    out
}

#[test]
fn a_call_of_a_plugin_allocates_nothing() {
    const CALLS: usize = 1_000;
    // Changed in place; through memory of the plugin's own; held back and copied together; only looked at.
    let examples = [("filter", "upper"), ("filter", "block:needle"), ("xor", "secret"), ("linecount", "")];
    let small = b"a request of a few bytes that ends as the text might begin: need";
    let large = [b'x'; 16 * 1024];
    for (example, config) in examples {
        let buffers = Buffers::detached(64).unwrap();
        let (mut up, mut down) = lines(&buffers, example, config);
        for (line, piece) in [(&mut up, &small[..]), (&mut down, &large[..])] {
            // What is made once, as the memory for pieces that are copied together.
            send(&buffers, line, piece, 4);
            let mut out = 0;
            let counted = allocations(|| out = send(&buffers, line, piece, CALLS));
            assert_eq!(out, CALLS * piece.len(), "{example} {config}: everything came through");
            assert_eq!(counted, 0, "{example} {config}, pieces of {}", piece.len());
        }
    }
}
