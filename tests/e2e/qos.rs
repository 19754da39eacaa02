//! `[qos]`: rates, sessions of a user, quotas.

use std::net::SocketAddr;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use crate::harness::*;

const KIB: u64 = 1024;

fn socks(qos: &str) -> Setup {
    Setup::new(format!(
        "[[listener]]\nname = \"socks\"\nlisten = \"127.0.0.1:0\"\nservice = \"socks5\"\n\
         [auth]\nmethods = [\"password\"]\n[[auth.user]]\nname = \"alice\"\npassword = \"a\"\n\
         [[auth.user]]\nname = \"bob\"\npassword = \"b\"\n\
         [acl]\ndefault = \"allow\"\n[[acl.rule]]\naction = \"allow\"\ndestinations = [\"127.0.0.0/8\"]\n{qos}"
    ))
}

/// CONNECTs as a user; the reply, and the connection.
fn connect(arus: &Arus, user: &str, to: SocketAddr) -> (u8, Stream) {
    let mut stream = Stream::connect(&arus.address("socks"));
    stream.write_all(&[5, 1, 2]);
    assert_eq!(stream.read_exactly(2), [5, 2]);
    let mut words = vec![1, user.len() as u8];
    words.extend(user.as_bytes());
    words.extend([1, user.as_bytes()[0]]);
    stream.write_all(&words);
    assert_eq!(stream.read_exactly(2), [1, 0]);
    let SocketAddr::V4(to) = to else { panic!("{to}") };
    let mut request = vec![5, 1, 0, 1];
    request.extend(to.ip().octets());
    request.extend(to.port().to_be_bytes());
    stream.write_all(&request);
    (stream.read_exactly(10)[1], stream)
}

/// Reads `len` bytes of the pattern, and checks at each step that no more has come than may.
fn read_paced(stream: &mut Stream, seed: u64, len: u64, rate: u64, slack: u64) {
    let (began, mut seen, mut buffer) = (Instant::now(), 0, vec![0; 64 * 1024]);
    while seen < len {
        let count = stream.read_some(&mut buffer).unwrap();
        assert!(count > 0, "the end after {seen} of {len}");
        assert!(buffer[..count] == pattern(seed, seen, count), "wrong bytes after {seen}");
        seen += count as u64;
        // What had come before the clock began is within the slack.
        let most = began.elapsed().as_secs_f64() * rate as f64 + slack as f64;
        assert!(seen as f64 <= most, "{seen} bytes, and {most} may have come");
    }
}

#[test]
fn a_connection_has_its_rate_whatever_the_service() {
    let (rate, len) = (512 * KIB, 1024 * KIB);
    let backend = Backend::start(behaviour::echo);
    let arus = Setup::one("127.0.0.1:0", &[&backend]).also("[qos]\nper_connection = \"512KiB\"\n").start();
    let mut client = Stream::connect(&arus.address("web"));
    let mut writer = client.try_clone();
    let began = Instant::now();
    let writing = std::thread::spawn(move || {
        writer.send(0, 0, len);
        writer.finish();
    });
    // Both directions together: so half of it is for what comes back.
    client.expect(0, 0, len);
    assert_eq!(client.end(), End::Fin);
    writing.join().unwrap();
    let most = began.elapsed().as_secs_f64() * rate as f64 + (rate / 10 + 64 * KIB) as f64;
    assert!(2.0 * len as f64 <= most, "{} bytes, and {most} may have gone", 2 * len);
    assert_eq!(arus.finished(1)[0]["reason"], "done");
}

#[test]
fn a_user_has_its_rate_over_all_its_connections_and_a_reload_changes_it() {
    let rate = 512 * KIB;
    let backend = Backend::start(behaviour::source(512 * KIB));
    let to = backend.address().ip();
    let arus = socks("[qos]\nusers = [{ name = \"alice\", max = \"512KiB\", burst = \"64KiB\" }]\n").shards(2).start();
    let began = Instant::now();
    let threads: Vec<_> = (0..3)
        .map(|seed| {
            let (reply, mut stream) = connect(&arus, "alice", to);
            assert_eq!(reply, 0);
            std::thread::spawn(move || assert_eq!(stream.drain(seed, 0), (512 * KIB, End::Fin)))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let most = began.elapsed().as_secs_f64() * rate as f64 + (64 * KIB) as f64;
    // The answers of SOCKS are a few bytes more.
    assert!((3 * 512 * KIB) as f64 <= most, "in {:?}", began.elapsed());

    // A live session follows a reload: at 1 KiB/s it would take minutes.
    let text = std::fs::read_to_string(arus.config()).unwrap();
    let set = |max: &str| {
        let text = text.replace("max = \"512KiB\", burst = \"64KiB\"", &format!("max = \"{max}\", burst = \"1KiB\""));
        std::fs::write(arus.config(), text).unwrap();
        let (said, is_ok) = arus.command(&["reload"]);
        assert!(is_ok, "{said}");
    };
    set("1KiB");
    let (reply, mut stream) = connect(&arus, "alice", to);
    assert_eq!(reply, 0);
    read_paced(&mut stream, 3, 2 * KIB, KIB, 2 * KIB);
    set("0");
    let began = Instant::now();
    stream.expect(3, 2 * KIB, 510 * KIB);
    assert!(began.elapsed() < Duration::from_secs(60), "the old rate would take minutes");
    assert_eq!(stream.end(), End::Fin);
}

#[test]
fn sessions_of_a_user_are_counted_exactly() {
    let backend = Crowd::start();
    let to = backend.address().ip();
    let arus = Arc::new(socks("[qos]\nconnections_per_user = 7\n").shards(4).start());
    let barrier = Arc::new(Barrier::new(20));
    let threads: Vec<_> = (0..20)
        .map(|_| {
            let (arus, barrier) = (Arc::clone(&arus), Arc::clone(&barrier));
            std::thread::spawn(move || {
                barrier.wait();
                let served = (0..10).map(|_| connect(&arus, "alice", to)).filter(|(reply, _)| match reply {
                    0 => true,
                    2 => false,
                    other => panic!("reply {other}"),
                });
                served.map(|(_, stream)| stream).collect::<Vec<_>>()
            })
        })
        .collect();
    let served: Vec<Stream> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    assert_eq!(served.len(), 7);
    assert_eq!(connect(&arus, "bob", to).0, 0, "another user has its own");
    assert_eq!(arus.rejected("socks")["user_max_connections"], 193);
    drop(served);
    arus.wait_active(0);
    assert_eq!(connect(&arus, "alice", to).0, 0, "and they are free again");
}

#[test]
fn a_quota_cuts_refuses_and_outlives_a_restart() {
    let backend = Backend::start(behaviour::source(4096 * KIB));
    let to = backend.address().ip();
    let quota =
        "[qos]\nusers = [{ name = \"alice\", max = \"2MiB\", quota = { bytes = \"300KiB\", per = \"month\" } }]\n";
    let arus = socks(quota).start();
    let (reply, mut stream) = connect(&arus, "alice", to);
    assert_eq!(reply, 0);
    let (seen, end) = stream.drain(0, 0);
    assert_ne!(end, End::Fin);
    assert!(seen <= 300 * KIB + 512 * KIB, "{seen}");
    assert_eq!(arus.finished(1)[0]["reason"], "quota");
    assert_eq!(connect(&arus, "alice", to).0, 2);
    let (_, _bob) = connect(&arus, "bob", to);
    let users = arus.request("GET", "/api/v1/users").1;
    let of = |name: &str| users["data"].as_array().unwrap().iter().find(|user| user["user"] == name).unwrap().clone();
    let (alice, bob) = (of("alice"), of("bob"));
    assert_eq!((&users["data"][0]["user"], &bob["connections"]["used"]), (&"bob".into(), &1.into()), "{users:#}");
    assert_eq!((&bob["quota"], &bob["max_bytes_per_second"]), (&serde_json::Value::Null, &serde_json::Value::Null));
    assert_eq!((&alice["connections"]["used"], &alice["max_bytes_per_second"]), (&0.into(), &(2048 * KIB).into()));
    let quota = &alice["quota"];
    assert_eq!((&quota["bytes"], &quota["per"]), (&(300 * KIB).into(), &"month".into()), "{quota}");
    assert!(
        quota["used"].as_u64().unwrap() >= 300 * KIB && quota["until"].as_str().unwrap().ends_with("-01T00:00:00.000Z")
    );
    let one = arus.request("GET", "/api/v1/users?user=alice").1;
    assert_eq!((&one["total"], &one["data"][0]["quota"]), (&1.into(), quota));
    assert_eq!(arus.request("GET", "/api/v1/users?limit=0").0, 400);
    let (text, ok) = arus.command(&["users"]);
    assert!(ok && text.contains("of 300 KiB per month") && text.contains("2.0 MiB/s"), "{text}");
    drop(_bob);
    arus.signal(nix::sys::signal::Signal::SIGTERM);
    let arus = arus.again();
    assert_eq!(connect(&arus, "alice", to).0, 2, "what was used is known after a restart");
    assert_eq!(connect(&arus, "bob", to).0, 0);
}

/// What each client gets in a span of time, as a part of all that they get; and all of it is no more than may come.
fn parts(arus: &Arus, users: &[&str], to: SocketAddr, rate: u64) -> Vec<f64> {
    let began = Instant::now();
    let mut clients: Vec<Stream> = users.iter().map(|user| connect(arus, user, to).1).collect();
    let until = began + Duration::from_secs(6);
    let got: Vec<u64> = std::thread::scope(|scope| {
        let reading = clients.iter_mut().map(|client| {
            scope.spawn(move || {
                let (mut got, mut buffer) = (0, vec![0; 64 * 1024]);
                while Instant::now() < until {
                    got += client.read_some(&mut buffer).unwrap() as u64;
                }
                got
            })
        });
        reading.collect::<Vec<_>>().into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let (all, most) =
        (got.iter().sum::<u64>() as f64, began.elapsed().as_secs_f64() * rate as f64 + rate as f64 / 10.0);
    assert!(all <= most, "{all} of at most {most}");
    assert!(all >= most * 0.5, "only {all} of {most}");
    got.iter().map(|got| *got as f64 / all).collect()
}

#[test]
fn users_share_what_there_is_whatever_their_connections_and_shards() {
    let backend = Backend::start(behaviour::source(1 << 40));
    let arus = socks("[qos]\nglobal = \"2MiB\"\n").shards(3).start();
    let users = ["bob", "alice", "alice", "alice", "alice", "alice", "alice", "alice", "alice"];
    let parts = parts(&arus, &users, backend.address().ip(), 2048 * KIB);
    // Within 10 % by the clock of the simulation (`policy/pace_world.rs`); this machine may be slow.
    assert!((0.35..0.65).contains(&parts[0]), "{parts:?}");
}

#[test]
fn what_is_guaranteed_comes_before_what_others_want() {
    let backend = Backend::start(behaviour::source(1 << 40));
    let names: Vec<String> = (0..12).map(|user| format!("u{user}")).collect();
    let logins: String =
        names.iter().map(|name| format!("[[auth.user]]\nname = \"{name}\"\npassword = \"u\"\n")).collect();
    let qos = "[qos]\nglobal = \"1MiB\"\nusers = [{ name = \"alice\", guaranteed = \"600KiB\" }]\n";
    let arus = socks(&format!("{qos}{logins}")).shards(2).start();
    let mut users: Vec<&str> = names.iter().map(String::as_str).collect();
    users.push("alice");
    let parts = parts(&arus, &users, backend.address().ip(), 1024 * KIB);
    // An equal share would be a thirteenth.
    assert!(parts[12] > 0.45, "{parts:?}");
}
