//! Libraries that are replaced while connections live: new ones use the new code, old ones end on theirs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::ops::{configure, reload};

/// A hostile library that answers with this letter.
fn lettered(letter: char) -> std::path::PathBuf {
    cc::library(&cc::root().join("tests/plugins/hostile.c"), &[&format!("-DLETTER='{letter}'")])
}

/// What a listener makes of three bytes on this connection: the letter of its library.
fn letter(client: &mut Stream) -> char {
    client.write_all(b"...");
    let answer = client.read_exactly(3);
    assert!(answer.iter().all(|byte| *byte == answer[0]), "{answer:?}");
    answer[0].into()
}

/// Three bytes long, one for each connection through `web`.
fn lettered_arus(echo: &Backend) -> (Arus, std::path::PathBuf, Address) {
    let place = "{dir}/letter.so";
    let setup = Setup::new(body(echo, &(plugin("p", Path::new(place), "letter", "") + &through("web", &["p"]))));
    let place = setup.directory().join("letter.so");
    install(&lettered('A'), &place);
    let arus = setup.start();
    let address = arus.address("web");
    (arus, place, address)
}

#[test]
fn new_code_at_the_same_path_serves_new_connections() {
    let echo = Backend::start(behaviour::echo);
    let (arus, place, web) = lettered_arus(&echo);
    let mut olds = vec![('A', Stream::connect(&web))];
    assert_eq!(letter(&mut olds[0].1), 'A');
    let mut shas = vec![status(&arus, "p")["sha256"].clone()];
    for (number, new) in ['B', 'C', 'D'].into_iter().enumerate() {
        if number == 1 {
            // In place: the same inode, and an old mapping of it would change under live connections.
            fs::copy(lettered(new), &place).unwrap();
        } else {
            install(&lettered(new), &place);
        }
        // Nothing happens before the reload.
        assert_eq!(letter(&mut Stream::connect(&web)), olds[number].0);
        reload(&arus).unwrap();
        let mut client = Stream::connect(&web);
        assert_eq!(letter(&mut client), new);
        olds.push((new, client));
        for (old, client) in &mut olds {
            assert_eq!(letter(client), *old, "a connection ends on the code that it began with");
        }
        let sha = status(&arus, "p")["sha256"].clone();
        assert!(!shas.contains(&sha));
        shas.push(sha);
    }
    // A file that fails leaves the last good one.
    fs::write(&place, "rubbish").unwrap();
    reload(&arus).unwrap_err();
    assert_eq!(letter(&mut Stream::connect(&web)), 'D');
    fs::remove_file(&place).unwrap();
    reload(&arus).unwrap_err();
    assert_eq!(letter(&mut Stream::connect(&web)), 'D');
    // Back to the first.
    install(&lettered('A'), &place);
    reload(&arus).unwrap();
    assert_eq!(letter(&mut Stream::connect(&web)), 'A');
    assert_eq!(status(&arus, "p")["sha256"], shas[0]);
    for (old, client) in &mut olds {
        assert_eq!(letter(client), *old);
    }
}

#[test]
fn a_reload_that_changes_nothing_of_a_plugin_leaves_it_open() {
    let echo = Backend::start(behaviour::echo);
    let (arus, _, web) = lettered_arus(&echo);
    let mut client = Stream::connect(&web);
    assert_eq!(letter(&mut client), 'A');
    let before = status(&arus, "p");
    let descriptors = arus.descriptors();
    for _ in 0..5 {
        reload(&arus).unwrap();
    }
    assert_eq!(letter(&mut Stream::connect(&web)), 'A');
    let after = status(&arus, "p");
    assert_eq!((&before["sha256"], &before["generation"]), (&after["sha256"], &after["generation"]), "{after}");
    assert!(after["calls"].as_u64() > before["calls"].as_u64());
    arus.wait_descriptors(descriptors + 2);
}

#[test]
fn plugins_come_change_their_configuration_and_go() {
    let echo = Backend::start(behaviour::echo);
    let filter = cc::example("filter");
    let with =
        |config: &str, plugins: &[&str]| body(&echo, &(plugin("p", &filter, config, "") + &through("web", plugins)));
    let arus = Setup::new(with("up:upper", &["p"])).start();
    let web = arus.address("web");
    let say = |client: &mut Stream| {
        client.write_all(b"Hello");
        String::from_utf8(client.read_exactly(5)).unwrap()
    };
    let steps = [
        ("up:lower", &["p"][..], "hello"),
        ("up:rot13", &["p"], "Uryyb"),
        ("up:rot13", &[], "Hello"),
        ("up:rot13", &["p", "p"], "Hello"),
        ("up:upper", &["p"], "HELLO"),
    ];
    let mut live = vec![(Stream::connect(&web), "HELLO")];
    for (config, plugins, says) in steps {
        configure(&arus, &with(config, plugins));
        // Twice in one list may be refused: then nothing changes.
        if let Err(refused) = reload(&arus) {
            assert_eq!(plugins.len(), 2, "{refused}");
            continue;
        }
        live.push((Stream::connect(&web), says));
        for (client, says) in &mut live {
            assert_eq!(say(client), *says);
        }
    }
    // Nothing of it is left in the configuration, and the connections go on.
    configure(&arus, &body(&echo, &through("web", &[])));
    reload(&arus).unwrap();
    for (client, says) in &mut live {
        assert_eq!(say(client), *says);
    }
    assert_eq!(say(&mut Stream::connect(&web)), "Hello");
}

/// Two listeners in one arus, one behind the other, each with the same key: what is between them is ciphertext.
#[test]
fn replacing_under_load_breaks_no_byte_of_200_connections() {
    const CONNECTIONS: usize = 200;
    const REPLACEMENTS: u32 = 50;
    let echo = Backend::start(behaviour::echo);
    let rest = plugin("cipher", Path::new("{dir}/xor.so"), "the key of both", "")
        + "[[upstream]]\nname = \"tunnel\"\nbackends = [\"unix:{dir}/inner.sock\"]\n"
        + &listener("outer", "127.0.0.1:0", "tunnel", "plugins = [\"cipher\"]")
        + &listener("inner", "unix:{dir}/inner.sock", "app", "plugins = [\"cipher\"]");
    let setup = Setup::new(body(&echo, &rest)).also("[timeouts]\nidle = \"5m\"");
    let place = setup.directory().join("xor.so");
    let library = fs::read(cc::example("xor")).unwrap();
    let write = |number: u32, in_place: bool| {
        // Another file with the same code: what is behind the last section belongs to nobody.
        let bytes = [&library[..], format!("replacement {number}").as_bytes()].concat();
        let beside = if in_place { place.clone() } else { place.with_extension("new") };
        fs::write(&beside, bytes).unwrap();
        if !in_place {
            fs::rename(&beside, &place).unwrap();
        }
    };
    write(0, false);
    let arus = setup.start();
    let outer = arus.address("outer");
    let (done, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..CONNECTIONS as u64)
        .map(|seed| {
            let (outer, done, rounds) = (outer.clone(), Arc::clone(&done), Arc::clone(&rounds));
            let talk = move || {
                let mut random = Random::new(seed);
                let mut connections = 0;
                while !done.load(Ordering::Relaxed) || connections == 0 {
                    connections += 1;
                    let (mut client, mut at) = (Stream::connect(&outer), 0);
                    // Some live through many replacements, some through none.
                    let exchanges = if seed % 2 == 0 { u64::MAX } else { 1 + random.below(20) };
                    for _ in 0..exchanges {
                        let len = 1 + random.below(20_000);
                        client.send(seed, at, len);
                        client.expect(seed, at, len);
                        at += len;
                        rounds.fetch_add(1, Ordering::Relaxed);
                        if done.load(Ordering::Relaxed) {
                            break;
                        }
                    }
                    client.finish();
                    assert_eq!(client.end(), End::Fin);
                }
            };
            std::thread::Builder::new().stack_size(256 * 1024).spawn(talk).unwrap()
        })
        .collect();
    for number in 1..=REPLACEMENTS {
        let before = rounds.load(Ordering::Relaxed);
        write(number, number % 2 == 0);
        reload(&arus).unwrap();
        // All have something to do between two replacements.
        eventually("bytes flow", || (rounds.load(Ordering::Relaxed) >= before + 50).then_some(()));
    }
    done.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert_eq!(count(&arus, "cipher", "faults"), 0);
    println!("{} exchanges over {REPLACEMENTS} replacements", rounds.load(Ordering::Relaxed));
    arus.wait_active(0);
    arus.wait_buffers_whole();
}
