//! Sessions that have ended, events and history, through the real binary: exact, and whatever happens to process and disk.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::*;

fn get(arus: &Arus, path: &str) -> Value {
    let (code, body) = arus.request("GET", path);
    assert_eq!(code, 200, "{path}: {body}");
    body
}

fn exchange(arus: &Arus, seed: u64, bytes: u64) -> Stream {
    let mut stream = Stream::connect(&arus.address("web"));
    stream.send(seed, 0, bytes);
    stream.expect(seed, 0, bytes);
    stream
}

fn store(arus: &Arus) -> Value {
    arus.status()["store"].clone()
}

const QUICK: &str = "[sessions]\nbatch_interval = \"50ms\"\nbatch_size = 50";

#[test]
fn every_session_is_one_record_with_its_exact_bytes() {
    let echo = Backend::start(behaviour::echo);
    let mut arus = Setup::one("127.0.0.1:0", &[&echo]).also(QUICK).start();
    let count = 500;
    for n in 0..count {
        drop(exchange(&arus, n, 100 + n));
    }
    let live = exchange(&arus, 7, 1234);
    let page = eventually("all have ended", || {
        let page = get(&arus, "/api/v1/sessions?page_size=10000");
        let active = page["data"].as_array().unwrap().iter().filter(|session| session["state"] == "active").count();
        (active == 1).then_some(page)
    });
    assert_eq!(page["total"], count + 1);
    let closed = get(&arus, "/api/v1/sessions?state=closed&sort=bytes_up&order=asc&page_size=10000");
    let bytes: Vec<u64> =
        closed["data"].as_array().unwrap().iter().map(|session| session["bytes_up"].as_u64().unwrap()).collect();
    assert_eq!(bytes, (100..100 + count).collect::<Vec<_>>());
    for session in closed["data"].as_array().unwrap() {
        assert_eq!(session["bytes_up"], session["bytes_down"]);
    }
    // One of them by its id, its source, and its destination.
    let one = &closed["data"][5];
    let by = |query: &str| get(&arus, &format!("/api/v1/sessions?{query}"))["total"].as_u64().unwrap();
    assert_eq!(&get(&arus, &format!("/api/v1/sessions/{}", one["id"].as_str().unwrap())), one);
    assert_eq!(by(&format!("source={}", one["source"].as_str().unwrap())), 1);
    assert_eq!(by("source=127.0.0.0/8&destination=127.0.0.1&listener=web"), count + 1);
    assert_eq!(by("since=1h"), count + 1);
    assert_eq!(by("user=nobody"), 0);
    for wrong in ["state=open", "page=0", "sort=colour", "source=x", "colour=red"] {
        assert_eq!(arus.request("GET", &format!("/api/v1/sessions?{wrong}")).0, 400, "{wrong}");
    }
    let stats = get(&arus, "/api/v1/sessions/stats?window_hours=2");
    let sum: u64 = (100..100 + count).sum::<u64>() + 1234;
    let totals = &stats["totals"];
    assert_eq!((&totals["sessions"], &totals["active"]), (&(count + 1).into(), &1.into()), "{stats}");
    assert_eq!((&totals["bytes_up"], &totals["bytes_down"]), (&sum.into(), &sum.into()));
    assert_eq!(stats["top_destinations"][0]["destination"], "127.0.0.1");
    let (listed, ok) = arus.command(&["sessions", "--state", "any", "--sort", "bytes", "--limit", "3"]);
    assert!(ok && listed.contains("REASON") && listed.contains("and 498 more"), "{listed}");
    let (status, ok) = arus.command(&["status"]);
    assert!(ok && status.contains("sessions.db: ok"), "{status}");
    // SIGTERM writes what is left; the next process finds it all.
    drop(live);
    arus.signal(Signal::SIGTERM);
    assert!(arus.wait_exit(DEADLINE).success());
    let again = arus.again();
    assert_eq!(get(&again, "/api/v1/sessions?state=closed")["total"], count + 1);
}

/// What was written stays, and nothing older than the interval is lost; sessions that lived are closed.
#[test]
fn killed_in_the_middle_of_batches() {
    let echo = Backend::start(behaviour::echo);
    let mut arus = Setup::one("127.0.0.1:0", &[&echo]).also(QUICK).start();
    let mut written = 0;
    for round in 0..3 {
        let long = exchange(&arus, 1, 10);
        for n in 0..60 {
            drop(exchange(&arus, n, 100));
        }
        // One that lasts is noted after some seconds.
        if round == 0 {
            let path = arus.directory().join("state/sessions.db");
            let connection = rusqlite::Connection::open(path).unwrap();
            eventually("the live session is noted", || {
                let noted = connection.query_row("SELECT count(*) FROM active", [], |row| row.get::<_, i64>(0));
                (noted == Ok(1)).then_some(())
            });
        }
        written += eventually("some are written", || store(&arus)["written"].as_u64().filter(|count| *count >= 50));
        let begun = Instant::now();
        std::thread::scope(|scope| {
            let traffic = scope.spawn(|| {
                for _ in 0..200 {
                    let Ok(stream) = Stream::try_connect(&arus.address("web")) else { return };
                    drop(stream);
                }
            });
            while begun.elapsed() < Duration::from_millis(30 * (round + 1)) {
                std::thread::yield_now();
            }
            arus.signal(Signal::SIGKILL);
            let _ = traffic.join();
        });
        arus.wait_exit(DEADLINE);
        drop(long);
        arus = arus.again();
        assert_eq!(store(&arus)["state"], "ok");
        let aside = std::fs::read_dir(arus.directory().join("state")).unwrap();
        assert!(!aside.into_iter().any(|entry| entry.unwrap().file_name().to_string_lossy().contains("corrupt")));
        let total = get(&arus, "/api/v1/sessions")["total"].as_u64().unwrap();
        assert!(total >= written, "{total} of {written}");
        written = total;
    }
    let failed = get(&arus, "/api/v1/sessions?state=failed");
    let reasons = failed["data"].as_array().unwrap().iter().filter(|session| session["reason"] == "server_restart");
    assert!(reasons.count() >= 1, "{failed}");
}

#[test]
fn a_full_disk_is_survived_and_counted() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let echo = Backend::start(behaviour::echo);
    // Everything in a mount namespace of its own, with a small disk.
    let script = "mkdir -p \"$0\" && mount -t tmpfs -o size=256k tmpfs \"$0\" && exec \"$@\"";
    let setup = Setup::one("127.0.0.1:0", &[&echo]);
    let disk = setup.directory().join("disk");
    let config = format!("[sessions]\nstore = \"sqlite:{}/s.db\"\nbatch_interval = \"50ms\"", disk.display());
    let disk = disk.to_str().unwrap().to_owned();
    let arus = setup.also(&config).wrap(&["unshare", "-m", "sh", "-c", script, &disk]).start();
    let mut n = 0;
    let trouble = within(Duration::from_secs(120), "the disk is full", || {
        for _ in 0..200 {
            drop(exchange(&arus, 1, 10));
            n += 1;
        }
        let store = store(&arus);
        (store["state"] == "trouble").then_some(store)
    });
    assert!(trouble["error"].as_str().unwrap().contains("full"), "{trouble}");
    assert!(trouble["written"].as_u64().unwrap() > 0);
    // It goes on, what is written can be read, and what is not waits for room.
    drop(exchange(&arus, 2, 100_000));
    let total = get(&arus, "/api/v1/sessions?state=closed")["total"].as_u64().unwrap();
    assert!(total >= n, "{total} of {n}");
    let events = get(&arus, "/api/v1/events?category=store");
    assert_eq!(events["data"][0]["severity"], "error", "{events}");
    // Room again, made from inside its namespace.
    let pid = arus.pid().to_string();
    let more = ["-t", &pid, "-m", "mount", "-o", "remount,size=64m", &disk];
    assert!(std::process::Command::new("nsenter").args(more).status().unwrap().success());
    eventually("all is written", || (store(&arus)["state"] == "ok" && store(&arus)["waiting"] == 0).then_some(()));
    assert_eq!(store(&arus)["dropped"], 0);
}

/// As after a fault of the disk, which most systems answer by mounting it read-only. A mode does not keep root out.
#[test]
fn a_read_only_disk_is_survived_and_read() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let echo = Backend::start(behaviour::echo);
    let script = "mkdir -p \"$0\" && mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && exec \"$@\"";
    let setup = Setup::one("127.0.0.1:0", &[&echo]);
    let disk = setup.directory().join("disk");
    let config = format!("[sessions]\nstore = \"sqlite:{}/s.db\"\nbatch_interval = \"50ms\"", disk.display());
    let mut arus = setup.also(&config).wrap(&["unshare", "-m", "sh", "-c", script, disk.to_str().unwrap()]).start();
    let total = |arus: &Arus| get(arus, "/api/v1/sessions?state=closed")["total"].as_u64().unwrap();
    // First the database cannot be made; then it is there, after an end in good order, and after none.
    for (round, ending) in [(0, Signal::SIGTERM), (1, Signal::SIGKILL), (2, Signal::SIGTERM)] {
        let trouble = eventually("it is noticed", || Some(store(&arus)).filter(|store| store["state"] == "trouble"));
        assert!(trouble["error"].as_str().unwrap().contains("ead-only"), "{trouble}");
        let events = get(&arus, "/api/v1/events?category=store");
        assert_eq!(events["data"][0]["message"], "sessions cannot be written to the database", "{events}");
        assert_eq!(total(&arus), 2 * round, "what was written can be read");
        drop(exchange(&arus, 1, 1000));
        eventually("what waits is told as well", || (total(&arus) == 2 * round + 1).then_some(()));
        let pid = arus.pid().to_string();
        let args = ["-t", &pid, "-m", "mount", "-o", "remount,bind,rw", disk.to_str().unwrap()];
        assert!(std::process::Command::new("nsenter").args(args).status().unwrap().success());
        eventually("it is written", || (store(&arus)["written"] == 1).then_some(()));
        drop(exchange(&arus, 2, 1000));
        eventually("so is the next", || (store(&arus)["written"] == 2).then_some(()));
        assert_eq!((total(&arus), store(&arus)["dropped"].as_u64()), (2 * round + 2, Some(0)));
        arus.signal(ending);
        arus.wait_exit(DEADLINE);
        arus = arus.again();
    }
    let names = std::fs::read_dir(&disk).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(names.into_iter().all(|name| !name.contains("corrupt")), "nothing was moved aside");
}

#[test]
fn events_tell_what_happened() {
    let closed = Closed::new();
    let backends = [closed.address().to_string()];
    let arus = Setup::to(
        "127.0.0.1:0",
        &backends,
        "max_connections = 1",
        "health = { interval = \"50ms\", timeout = \"50ms\", rise = 1, fall = 1 }\nretries = 0",
    )
    .start();
    let of = |category: &str| get(&arus, &format!("/api/v1/events?category={category}"))["data"].clone();
    eventually("the backend is down", || {
        of("backend")
            .as_array()
            .unwrap()
            .iter()
            .any(|event| event["message"].as_str().unwrap().contains("is down"))
            .then_some(())
    });
    assert_eq!(of("process")[0]["message"], "arus has started");
    let text = std::fs::read_to_string(arus.config()).unwrap();
    std::fs::write(arus.config(), text.replace("max_connections = 1", "max_connections = 2")).unwrap();
    let reloaded = eventually("it is reloaded", || of("reload").get(0).cloned());
    assert_eq!(reloaded["details"]["changes"][0], "listener web: max_connections 1 -> 2");
    std::fs::write(arus.config(), "nonsense = 1").unwrap();
    let refused =
        eventually("it is refused", || of("reload").get(0).filter(|event| event["severity"] == "error").cloned());
    assert!(refused["details"]["errors"][0].as_str().unwrap().contains("nonsense"), "{refused}");
    let (listed, ok) = arus.command(&["events", "--severity", "error"]);
    assert!(ok && listed.contains("reload refused"), "{listed}");
    assert_eq!(arus.request("GET", "/api/v1/events?severity=loud").0, 400);
    assert_eq!(arus.request("GET", "/api/v1/events?limit=0").0, 400);
}

#[test]
fn history_shows_what_flows() {
    let echo = Backend::start(behaviour::echo);
    let arus = Setup::one("127.0.0.1:0", &[&echo]).start();
    let _live = exchange(&arus, 1, 100_000);
    for metric in ["connections_active", "bytes_up_per_second", "connect_p99_ms"] {
        eventually(metric, || {
            let history = get(&arus, &format!("/api/v1/history?metric={metric}&window=1m"));
            let samples = history["samples"].as_array().unwrap();
            samples.iter().any(|sample| sample["v"].as_f64().unwrap() > 0.0).then_some(())
        });
    }
    let (code, body) = arus.request("GET", "/api/v1/history?metric=colour");
    assert!(code == 400 && body["error"].as_str().unwrap().contains("connect_p50_ms"), "{body}");
    for wrong in ["metric=shard_busy&shard=9", "metric=shard_busy&window=7h", "metric=failed_per_second&shard=0", ""] {
        assert_eq!(arus.request("GET", &format!("/api/v1/history?{wrong}")).0, 400, "{wrong}");
    }
}
