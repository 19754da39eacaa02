//! Churn: connections that end in every possible way, for a while; afterwards everything is back where it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::harness::*;

/// ARUS_SOAK_SECONDS, or enough for the suite.
fn length() -> Duration {
    let seconds = std::env::var("ARUS_SOAK_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(15))
}

/// A backend whose manners depend on the connection.
fn moody(mut stream: Stream, number: usize) {
    match number % 7 {
        0 => behaviour::close(stream, number),
        1 => behaviour::reset(stream, number),
        2 => {
            let _ = stream.try_write_all(&pattern(0, 0, 200_000));
            stream.reset();
        }
        3 => {
            let _ = stream.read_some(&mut [0; 100]);
        }
        4 => {
            let _ = stream.try_write_all(&pattern(0, 0, 300_000));
            behaviour::sink(stream, number);
        }
        _ => behaviour::echo(stream, number),
    }
}

/// One connection that ends somehow.
fn churn(random: &mut Random, address: &Address) {
    let Ok(mut client) = Stream::try_connect(address) else { return };
    let len = [0, 1, 1000, 50_000, 600_000][random.below(5) as usize];
    let _ = client.0.set_read_timeout(Some(Duration::from_millis(300)));
    let _ = client.0.set_write_timeout(Some(Duration::from_millis(300)));
    match random.below(8) {
        0 => drop(client),
        1 => client.reset(),
        2 => {
            let _ = client.try_write_all(&pattern(1, 0, len));
            client.reset();
        }
        3 => drop(client.try_write_all(&pattern(1, 0, len)).is_ok()),
        4 => {
            // Asks and never reads; arus ends it.
            let _ = client.try_write_all(&pattern(1, 0, len));
            std::thread::sleep(Duration::from_millis(random.below(700)));
        }
        5 => {
            let _ = client.0.shutdown(std::net::Shutdown::Write);
            let _ = client.read_some(&mut [0; 1000]);
        }
        _ => {
            let _ = client.try_write_all(&pattern(1, 0, len.min(50_000)));
            let _ = client.0.shutdown(std::net::Shutdown::Write);
            let mut buffer = vec![0; 64 * 1024];
            while matches!(client.read_some(&mut buffer), Ok(1..)) {}
        }
    }
}

fn round(arus: &Arus, span: Duration) -> u64 {
    let address = arus.address("web");
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let threads: Vec<_> = (0..8)
        .map(|thread| {
            let (address, stop, count) = (address.clone(), Arc::clone(&stop), Arc::clone(&count));
            std::thread::spawn(move || {
                let mut random = Random::new(thread);
                while !stop.load(Ordering::Relaxed) {
                    churn(&mut random, &address);
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    // One that lives on in the middle of it, and must not notice.
    let mut steady = Stream::connect(&arus.address("steady"));
    let end = Instant::now() + span;
    let mut offset = 0;
    while Instant::now() < end {
        steady.send(3, offset, 10_000);
        steady.expect(3, offset, 10_000);
        offset += 10_000;
        std::thread::sleep(Duration::from_millis(5));
    }
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().unwrap();
    }
    drop(steady);
    arus.wait_active(0);
    arus.wait_buffers_whole();
    count.load(Ordering::Relaxed)
}

#[test]
fn after_churn_everything_is_back_where_it_was() {
    let moody = Backend::start(moody);
    let echo = Backend::start(behaviour::echo);
    let closed = Closed::new();
    let arus = Setup::new(format!(
        "[timeouts]\nidle = \"500ms\"\nhalf_closed = \"400ms\"\n[[upstream]]\nname = \"moody\"\n\
         backends = [\"{}\", \"{}\"]\n[[upstream]]\nname = \"echo\"\nbackends = \"{}\"\n\
         [[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nupstream = \"moody\"\n\
         [[listener]]\nname = \"steady\"\nlisten = \"127.0.0.1:0\"\nupstream = \"echo\"\ntimeouts = {{ idle = \"60s\" }}\n",
        moody.address(),
        closed.address(),
        echo.address()
    ))
    .start();
    // What is allocated once and kept does not count.
    let warm = round(&arus, length() / 3);
    arus.wait_connections(0);
    let (descriptors, resident) = (arus.descriptors(), arus.process().resident());
    let churned = round(&arus, length());
    arus.wait_connections(0);
    arus.wait_descriptors(descriptors);
    let grown = arus.process().resident().saturating_sub(resident);
    println!("{warm} + {churned} connections; {} KiB more resident", grown / 1024);
    assert!(churned > 100, "only {churned} connections");
    assert!(grown <= 6 << 20, "{} KiB more resident after {churned} connections", grown / 1024);
    let status = arus.status();
    let listener = status["listeners"].as_array().unwrap().iter().find(|each| each["name"] == "web").unwrap();
    let failed: u64 = listener["failed"].as_array().unwrap().iter().map(|each| each["count"].as_u64().unwrap()).sum();
    assert!(failed > 0 && listener["closed"].as_u64().unwrap() > 0, "{listener}");
    assert!(
        status["shards"].as_array().unwrap().iter().all(|shard| shard["panics"] == 0 && shard["cq_overflows"] == 0)
    );
}
