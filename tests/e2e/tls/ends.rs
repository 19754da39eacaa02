//! How TLS connections end, each side first: close_notify against FIN, and what is no end but a cut.

use std::sync::{Arc, Mutex};

use crate::harness::*;
use crate::ops::{listener, upstream};

use super::{Scene, check_echo, terminator, terminator_body, tls_table};

const BYTES: u64 = 3 << 20;

/// How the connections of a backend ended, and after how many bytes.
type Ends = Arc<Mutex<Vec<(u64, End)>>>;

/// A backend that reads to the end, keeps how that was, and then sends `BYTES` and FIN.
fn late_speaker() -> (Backend, Ends) {
    let ends = Ends::default();
    let kept = Arc::clone(&ends);
    let backend = Backend::start(move |mut stream: Stream, number: usize| {
        let end = stream.drain(1, 0);
        kept.lock().unwrap().push(end);
        if end.1 == End::Fin {
            behaviour::source(BYTES)(stream, number);
        }
    });
    (backend, ends)
}

fn only_end(ends: &Ends) -> (u64, End) {
    eventually("the backend has seen an end", || ends.lock().unwrap().first().copied())
}

#[test]
fn the_client_has_said_everything_first() {
    let scene = Scene::new();
    let (backend, ends) = late_speaker();
    let arus = terminator(backend.address(), &[&scene.server("a.test")], "").start();
    let mut stream = scene.client("a.test").connect(&arus.address("tls"));
    stream.send(1, 0, BYTES);
    stream.close_notify();
    stream.expect(0, 0, BYTES);
    assert_eq!(stream.read_to_end(), (Vec::new(), TlsEnd::CloseNotify));
    assert_eq!(only_end(&ends), (BYTES, End::Fin));
    drop(stream);
    let line = arus.finished(1).remove(0);
    assert_eq!((&line["state"], &line["reason"]), (&"closed".into(), &"done".into()), "{line}");
    assert_eq!((&line["bytes_up"], &line["bytes_down"]), (&BYTES.into(), &BYTES.into()), "{line}");
}

/// As most clients do: close_notify and FIN together, without waiting for the answer's end.
#[test]
fn the_client_closes_both_at_once() {
    let scene = Scene::new();
    let (backend, ends) = late_speaker();
    let arus = terminator(backend.address(), &[&scene.server("a.test")], "").start();
    let mut stream = scene.client("a.test").connect(&arus.address("tls"));
    stream.send(1, 0, 1000);
    stream.close_notify();
    stream.socket.finish();
    stream.expect(0, 0, BYTES);
    assert_eq!(stream.read_to_end(), (Vec::new(), TlsEnd::CloseNotify));
    assert_eq!(only_end(&ends), (1000, End::Fin));
    assert_eq!(arus.finished(1)[0]["reason"], "done");
}

#[test]
fn the_backend_has_said_everything_first() {
    let scene = Scene::new();
    let ends = Ends::default();
    let kept = Arc::clone(&ends);
    let backend = Backend::start(move |mut stream: Stream, _: usize| {
        stream.send(2, 0, BYTES);
        stream.finish();
        kept.lock().unwrap().push(stream.drain(1, 0));
    });
    let arus = terminator(backend.address(), &[&scene.server("a.test")], "").start();
    let mut stream = scene.client("a.test").connect(&arus.address("tls"));
    stream.expect(2, 0, BYTES);
    assert_eq!(stream.read_to_end(), (Vec::new(), TlsEnd::CloseNotify));
    // The other direction goes on.
    stream.send(1, 0, BYTES);
    stream.close_notify();
    assert_eq!(only_end(&ends), (BYTES, End::Fin));
    drop(stream);
    assert_eq!(arus.finished(1)[0]["reason"], "done");
}

/// FIN without close_notify: somebody in between may have cut the stream.
#[test]
fn a_truncated_stream_is_no_end() {
    let scene = Scene::new();
    let (backend, _) = late_speaker();
    let arus = terminator(backend.address(), &[&scene.server("a.test")], "").start();
    for round in 1..=3 {
        let mut stream = scene.client("a.test").connect(&arus.address("tls"));
        stream.send(1, 0, 1000);
        stream.truncate();
        stream.read_to_end();
        drop(stream);
        let line = arus.finished(round).remove(round - 1);
        assert_eq!((&line["state"], &line["blame"]), (&"failed".into(), &"client".into()), "{line}");
        assert!(line["reason"] != "done" && line["reason"] != "reset", "{line}");
    }
}

/// In the middle of a record, too.
#[test]
fn a_record_that_is_cut_short_is_no_end() {
    let scene = Scene::new();
    let (backend, _) = late_speaker();
    let arus = terminator(backend.address(), &[&scene.server("a.test")], "").start();
    let mut stream = scene.client("a.test").connect(&arus.address("tls"));
    stream.send(1, 0, 1000);
    // The header of a record of 256 bytes, and three of them.
    stream.socket.write_all(&[23, 3, 3, 1, 0, 1, 2, 3]);
    stream.truncate();
    stream.read_to_end();
    let line = arus.finished(1).remove(0);
    assert_eq!((&line["state"], &line["blame"]), (&"failed".into(), &"client".into()), "{line}");
}

#[test]
fn a_forged_record_ends_with_an_alert() {
    let scene = Scene::new();
    let (backend, _) = late_speaker();
    let arus = terminator(backend.address(), &[&scene.server("a.test")], "").start();
    let mut stream = scene.client("a.test").connect(&arus.address("tls"));
    stream.send(1, 0, 1000);
    let mut record = vec![23, 3, 3, 0, 64];
    record.extend([7; 64]);
    stream.socket.write_all(&record);
    let (seen, end) = stream.read_to_end();
    assert_eq!((seen, end), (Vec::new(), TlsEnd::Alert(rustls::AlertDescription::BadRecordMac)));
    let line = arus.finished(1).remove(0);
    assert_eq!((&line["state"], &line["blame"]), (&"failed".into(), &"client".into()), "{line}");
}

/// A RST of the backend must not look like the end of its answer.
#[test]
fn a_backend_that_resets_makes_no_close_notify() {
    let scene = Scene::new();
    let backend = Backend::start(behaviour::reset_after(1000, 5000));
    let arus = terminator(backend.address(), &[&scene.server("a.test")], "").start();
    let mut stream = scene.client("a.test").connect(&arus.address("tls"));
    stream.send(1, 0, 1000);
    let (seen, end) = stream.read_to_end();
    assert!(seen == pattern(0, 0, seen.len()), "other bytes");
    assert!(matches!(end, TlsEnd::Reset | TlsEnd::Truncated), "{end:?}");
    let line = arus.finished(1).remove(0);
    assert_eq!((&line["blame"], &line["reason"]), (&"upstream".into(), &"reset".into()), "{line}");
}

#[test]
fn a_client_that_resets_resets_the_backend() {
    let scene = Scene::new();
    let (backend, ends) = late_speaker();
    let arus = terminator(backend.address(), &[&scene.server("a.test")], "").start();
    let mut stream = scene.client("a.test").connect(&arus.address("tls"));
    stream.send(1, 0, 1000);
    // arus has read everything, so that the RST overtakes nothing.
    stream.socket.wait_acknowledged();
    eventually("the backend has its bytes", || (arus.active() == 1 && backend.live() == 1).then_some(()));
    stream.socket.reset();
    assert_eq!(only_end(&ends).1, End::Reset);
    let line = arus.finished(1).remove(0);
    assert_eq!((&line["blame"], &line["reason"]), (&"client".into(), &"reset".into()), "{line}");
}

/// A reader that stalls holds what the buffers hold, and gets everything once it reads.
#[test]
fn a_slow_reader_gets_everything() {
    const MUCH: u64 = 32 << 20;
    let scene = Scene::new();
    let backend = Backend::start(behaviour::source(MUCH));
    let echo = Backend::start(behaviour::echo);
    let pair = scene.server("a.test");
    let body = upstream("echo", &[&echo], "")
        + &listener("other", "127.0.0.1:0", "echo", &tls_table(&[&pair], ""))
        + &terminator_body(backend.address(), &[&pair], "");
    let arus = Setup::new(body).shards(1).start();
    let client = scene.client("a.test");
    let mut stalled: Vec<TlsStream> = (0..8).map(|_| client.connect(&arus.address("tls"))).collect();
    check_echo(&mut client.connect(&arus.address("other")), 1);
    eventually("all of them are held up", || (backend.live() == 8).then_some(()));
    // As the backend counts its connections in the order in which they came to it, any seed may be any stream's.
    for stream in &mut stalled {
        let first = stream.read_exactly(64);
        let seed = (0..8).find(|seed| pattern(*seed, 0, 64) == first).expect("one of the streams");
        stream.expect(seed, 64, MUCH - 64);
        assert_eq!(stream.read_to_end(), (Vec::new(), TlsEnd::CloseNotify));
    }
}
