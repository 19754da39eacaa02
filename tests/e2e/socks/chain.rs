//! CONNECT by way of another SOCKS proxy.

use super::*;

fn chained(url: &str) -> Arus {
    setup("", &format!("[socks]\nupstream_proxy = \"{url}\"\n[timeouts]\nconnect = \"2s\"")).start()
}

#[test]
fn through_another_arus() {
    let backend = Backend::start(behaviour::echo);
    let closed = Closed::new();
    let outer = setup("", "").start();
    let arus = chained(&format!("socks5://{}", outer.address("socks")));
    for pieces in BOTH {
        for request in [
            request_ip(CONNECT, backend.address().ip()),
            request_name(CONNECT, b"localhost", backend.address().ip().port()),
        ] {
            let mut client = greeted(&arus);
            say(&mut client, &request, pieces);
            assert_eq!(read_reply(&mut client).0, 0);
            client.send(4, 0, 1 << 20);
            client.expect(4, 0, 1 << 20);
            client.finish();
            assert_eq!(client.end(), End::Fin);
        }
        assert_eq!(refusal(&arus, &request_ip(CONNECT, closed.address().ip()), pieces), 5);
        assert_eq!(refusal(&arus, &request_name(CONNECT, b"nothing.invalid", 80), pieces), 4);
    }
    // The name goes on as it is, and is looked up there.
    let line = outer.log.wait(DEADLINE, "a session for a name", |lines| {
        lines
            .iter()
            .find(|line| line["target"].as_str().is_some_and(|target| target.starts_with("localhost:")))
            .cloned()
    });
    assert_eq!(line["reason"], "done");
}

/// Answers each message of a client with the next of these.
fn scripted(answers: &'static [&'static [u8]]) -> Backend {
    Backend::start(move |mut stream: Stream, _| {
        for answer in answers {
            if !matches!(stream.read_some(&mut [0; 600]), Ok(1..)) {
                return;
            }
            let _ = stream.try_write_all(answer);
        }
        behaviour::sink(stream, 0);
    })
}

#[test]
fn proxies_that_refuse_or_talk_rubbish() {
    const OK: &[u8] = &[5, 0, 0, 1, 192, 0, 2, 1, 0, 80];
    let to = request_ip(CONNECT, "192.0.2.9:80".parse().unwrap());
    const CASES: [(&[&[u8]], u8); 8] = [
        (&[&[5, 0xff]], 1),
        (&[&[5, 2]], 1),
        (&[b"HTTP/1.1 400 Bad Request\r\n"], 1),
        (&[&[5, 0], &[5, 2, 0, 1, 0, 0, 0, 0, 0, 0]], 1),
        (&[&[5, 0], &[5, 3, 0, 1, 0, 0, 0, 0, 0, 0]], 3),
        (&[&[5, 0], &[5, 4, 0, 1, 0, 0, 0, 0, 0, 0]], 4),
        (&[&[5, 0], &[5, 5, 0, 1, 0, 0, 0, 0, 0, 0]], 5),
        (&[&[5, 0], &[5, 0, 0, 9]], 1),
    ];
    for (answers, reply) in CASES {
        let proxy = scripted(answers);
        let arus = chained(&format!("socks5://{}", proxy.address()));
        assert_eq!(refusal(&arus, &to, Pieces::Whole), reply, "{answers:?}");
    }
    let proxy = scripted(&[&[5, 2], &[1, 0], OK]);
    let arus = chained(&format!("socks5://a:b%40c@{}", proxy.address()));
    let mut client = greeted(&arus);
    client.write_all(&to);
    assert_eq!(read_reply(&mut client), (0, "192.0.2.1:80".parse().unwrap()));
    let proxy = scripted(&[&[5, 2], &[1, 1]]);
    let arus = chained(&format!("socks5://a:b@{}", proxy.address()));
    assert_eq!(refusal(&arus, &to, Pieces::Whole), 1);
    assert_eq!(arus.finished(1)[0]["reason"], "upstream_proxy");
}

#[test]
fn a_proxy_that_is_not_there() {
    let closed = Closed::new();
    let arus = chained(&format!("socks5://{}", closed.address()));
    assert_eq!(refusal(&arus, &request_name(CONNECT, b"host.example", 80), Pieces::Whole), 5);
}
