//! Certificates that change under a running arus, without a reload: in place, by rename, by symlink, and by halves.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;

use crate::harness::*;
use crate::ops::generation;

use super::{Scene, check_echo, terminator};

fn shown(scene: &Scene, arus: &Arus) -> CertificateDer<'static> {
    scene.client("a.test").connect(&arus.address("tls")).peer_certificate().unwrap()
}

/// Waits until new connections see this certificate; gives how long it took.
fn await_certificate(scene: &Scene, arus: &Arus, pair: &Pair) -> Duration {
    let begin = Instant::now();
    eventually("the new certificate is on the wire", || (shown(scene, arus) == pair.der()).then_some(()));
    begin.elapsed()
}

/// The same names over and over, with keys of their own.
fn versions(scene: &Scene, count: usize) -> Vec<Pair> {
    (0..count).map(|number| scene.authority.server(&format!("v{number}"), &["a.test"], Key::Ecdsa)).collect()
}

#[test]
fn twenty_swaps_under_load_fail_nobody() {
    const CALLERS: usize = 4;
    let (scene, echo) = (Scene::new(), Backend::start(behaviour::echo));
    let (live, versions) = (scene.server("a.test"), versions(&scene, 20));
    let arus = terminator(echo.address(), &[&live], "").start();
    let before = generation(&arus);
    let mut held = scene.client("a.test").connect(&arus.address("tls"));
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let callers: Vec<_> = (0..CALLERS as u64)
        .map(|seed| {
            let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
            // Half of them come back with their tickets.
            let client = scene.client("a.test");
            let client = if seed % 2 == 0 { client.without_resumption() } else { client };
            let address = arus.address("tls");
            std::thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    check_echo(&mut client.connect(&address), seed);
                    served.fetch_add(1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(50));
                }
            })
        })
        .collect();
    let mut longest = Duration::ZERO;
    for version in &versions {
        let so_far = served.load(Ordering::SeqCst);
        live.become_like(version);
        longest = longest.max(await_certificate(&scene, &arus, version));
        eventually("the load goes on", || (served.load(Ordering::SeqCst) >= so_far + CALLERS).then_some(()));
    }
    stop.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.join().expect("no handshake failed");
    }
    println!("{} connections; the slowest swap took {longest:?}", served.load(Ordering::SeqCst));
    check_echo(&mut held, 9);
    assert_eq!(generation(&arus), before, "a certificate is no reload");
    drop(held);
    arus.wait_active(0);
    assert!(arus.log.access().iter().all(|line| line["stage"] != "tls"), "a handshake failed");
}

/// A certificate whose key has not come yet changes nothing; nor does one that never fits.
#[test]
fn a_mismatched_pair_keeps_the_old_one() {
    let (scene, echo) = (Scene::new(), Backend::start(behaviour::echo));
    let (live, versions) = (scene.server("a.test"), versions(&scene, 2));
    let old = live.der();
    let arus = terminator(echo.address(), &[&live], "").start();
    assert_eq!(shown(&scene, &arus), old);
    fs::copy(&versions[0].cert, &live.cert).unwrap();
    let path = live.key.to_str().unwrap();
    arus.log.wait(DEADLINE, "a warning that names the key's file", |lines| {
        lines.iter().any(|line| line["level"] == "WARN" && line.to_string().contains(path)).then_some(())
    });
    assert_eq!(shown(&scene, &arus), old);
    // Garbage, a part of a file, and none at all.
    for text in ["garbage", "", "-----BEGIN CERTIFICATE-----\nMIIB"] {
        fs::write(&live.cert, text).unwrap();
        assert_eq!(shown(&scene, &arus), old);
    }
    fs::remove_file(&live.cert).unwrap();
    assert_eq!(shown(&scene, &arus), old);
    assert!(crate::ops::reload(&arus).is_err(), "a reload that is asked for says what is wrong");
    assert_eq!(shown(&scene, &arus), old);
    // And it recovers by itself.
    fs::copy(&versions[1].cert, &live.cert).unwrap();
    fs::copy(&versions[1].key, &live.key).unwrap();
    await_certificate(&scene, &arus, &versions[1]);
}

#[test]
fn files_behind_links_are_followed() {
    let (scene, echo) = (Scene::new(), Backend::start(behaviour::echo));
    let (versions, root) = (versions(&scene, 3), scene.directory.path().join("mounted"));
    // As a Secret is mounted: the files are links into `..data`, which is a link itself.
    let lay = |number: usize| {
        let directory = root.join(format!("..{number}"));
        fs::create_dir_all(&directory).unwrap();
        fs::copy(&versions[number].cert, directory.join("tls.crt")).unwrap();
        fs::copy(&versions[number].key, directory.join("tls.key")).unwrap();
        symlink(&directory, root.join("..data_tmp")).unwrap();
        fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
    };
    lay(0);
    for name in ["tls.crt", "tls.key"] {
        symlink(format!("..data/{name}"), root.join(name)).unwrap();
    }
    let mounted = Pair { cert: root.join("tls.crt"), key: root.join("tls.key") };
    let arus = terminator(echo.address(), &[&mounted], "").start();
    for (number, version) in versions.iter().enumerate() {
        if number > 0 {
            lay(number);
        }
        await_certificate(&scene, &arus, version);
    }
}

#[test]
fn a_reload_reads_certificates_too() {
    let (scene, echo) = (Scene::new(), Backend::start(behaviour::echo));
    let (live, versions) = (scene.server("a.test"), versions(&scene, 1));
    let arus = terminator(echo.address(), &[&live], "").start();
    live.become_like(&versions[0]);
    crate::ops::reload(&arus).unwrap();
    assert_eq!(shown(&scene, &arus), versions[0].der());
}
