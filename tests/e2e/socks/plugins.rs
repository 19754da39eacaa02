//! Plugins behind the dialogue: what they are told of a connection, and which bytes they see.

use std::collections::BTreeMap;

use super::*;
use crate::plugins::cc;

const USERS: &str =
    "[auth]\nmethods = [\"none\", \"password\"]\n[[auth.user]]\nname = \"alice\"\npassword = \"secret\"\n";

fn plugin(library: &std::path::Path, config: &str) -> String {
    format!("[[plugin]]\nname = \"p\"\npath = {library:?}\nconfig = {config:?}\n")
}

/// A client that has proved to be alice.
fn alice(arus: &Arus) -> Stream {
    let mut client = Stream::connect(&arus.address("socks"));
    client.write_all(b"\x05\x01\x02\x01\x05alice\x06secret");
    assert_eq!(client.read_exactly(4), [5, 2, 1, 0]);
    client
}

/// What the plugin was told of the session of this client.
fn facts(arus: &Arus, client: SocketAddr) -> BTreeMap<String, String> {
    let session = arus.session_of(client)["id"].clone();
    let lines = arus.log.lines();
    let own = lines.iter().filter(|line| line["session"] == session);
    let facts = own.filter_map(|line| line["message"].as_str()?.strip_prefix("fact ")?.split_once('='));
    facts.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn plugins_are_told_who_the_user_is_and_where_it_wants_to_go() {
    let backend = Backend::start(behaviour::echo);
    let tables = USERS.to_owned() + &plugin(&cc::facts(), "");
    let arus = setup("plugins = [\"p\"]", &tables).start();
    let (to, port) = (backend.address().ip(), backend.address().ip().port());
    for (user, request, target) in [
        (Some("alice"), request_name(CONNECT, b"LOCALHOST.", port), format!("localhost:{port}")),
        (Some("alice"), request_ip(CONNECT, to), to.to_string()),
        (None, request_ip(CONNECT, to), to.to_string()),
        (None, request_name(CONNECT, b"127.0.0.1", port), to.to_string()),
    ] {
        let mut client = if user.is_some() { alice(&arus) } else { greeted(&arus) };
        let from = client.local();
        client.write_all(&request);
        assert_eq!(read_reply(&mut client).0, 0);
        client.send(1, 0, 1000);
        client.expect(1, 0, 1000);
        drop(client);
        let mut expected: BTreeMap<String, String> = BTreeMap::new();
        let client = from.to_string();
        for (name, value) in [("client", &*client), ("source", &client), ("listener", "socks"), ("target", &target)] {
            expected.insert(name.into(), value.into());
        }
        expected.extend(user.map(|user| ("user".into(), user.into())));
        assert_eq!(facts(&arus, from), expected);
    }
}

/// Nothing of the dialogue goes through a plugin, and everything behind it does, whoever speaks first.
#[test]
fn plugins_see_what_comes_after_the_dialogue() {
    let backend = Backend::start(|mut stream: Stream, number| {
        stream.write_all(b"welcome to the echo\n");
        behaviour::echo(stream, number);
    });
    let tables = USERS.to_owned() + &plugin(&cc::example("filter"), "upper");
    let arus = setup("plugins = [\"p\"]", &tables).start();
    let request = request_name(CONNECT, b"localhost", backend.address().ip().port());
    for pieces in BOTH {
        let mut client = Stream::connect(&arus.address("socks"));
        let all = [&b"\x05\x01\x02\x01\x05alice\x06secret"[..], &request, b"said ahead\n"].concat();
        say(&mut client, &all, pieces);
        assert_eq!(client.read_exactly(4), [5, 2, 1, 0]);
        assert_eq!(read_reply(&mut client).0, 0);
        assert_eq!(client.read_exactly(31), b"WELCOME TO THE ECHO\nSAID AHEAD\n");
        client.write_all(b"and then\n");
        assert_eq!(client.read_exactly(9), b"AND THEN\n");
        client.finish();
        assert_eq!(client.end(), End::Fin);
    }
}
