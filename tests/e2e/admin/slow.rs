//! Peers of the API that take their time, and many of them; and `/metrics` before thousands of connections.

use std::time::Instant;

use super::*;

#[test]
fn whoever_sends_a_byte_a_second_holds_nobody_up_and_is_cut() {
    let (arus, _backend) = start(&format!("tokens = [{TEST_TOKEN}]"));
    let to = address(&arus);
    let mut head = TcpStream::connect(to).unwrap();
    let mut body = TcpStream::connect(to).unwrap();
    let begin = format!(
        "POST /api/v1/login HTTP/1.1\r\nhost: {to}\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n"
    );
    body.write_all(begin.as_bytes()).unwrap();
    let mut letters = begin.bytes().cycle();
    let (mut head_ended, mut body_ended) = (false, false);
    let deadline = Instant::now() + DEADLINE + DEADLINE;
    for stream in [&head, &body] {
        stream.set_read_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
    }
    let ended = |stream: &mut TcpStream| match stream.read(&mut [0; 4096]) {
        // An answer that refuses it is as good as an end.
        Ok(_) => true,
        Err(error) => !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
    };
    while !(head_ended && body_ended) {
        assert!(Instant::now() < deadline, "head cut: {head_ended}, body cut: {body_ended}");
        let letter = [letters.next().unwrap()];
        head_ended = head_ended || head.write_all(&letter).is_err() || ended(&mut head);
        body_ended = body_ended || body.write_all(b" ").is_err() || ended(&mut body);
        assert_eq!(get(to, "/api/v1/status").0, 200);
    }
}

#[test]
fn a_hundred_dashboards_may_be_open() {
    let (arus, _backend) = start(&format!("tokens = [{TEST_TOKEN}]"));
    let to = address(&arus);
    let request = format!("GET /api/v1/status HTTP/1.1\r\nhost: {to}\r\nauthorization: Bearer test\r\n\r\n");
    let mut browsers: Vec<TcpStream> = (0..600).map(|_| TcpStream::connect(to).unwrap()).collect();
    for browser in &mut browsers {
        browser.set_read_timeout(Some(DEADLINE)).unwrap();
        browser.write_all(request.as_bytes()).unwrap();
    }
    for browser in &mut browsers {
        let mut begin = [0; 12];
        browser.read_exact(&mut begin).unwrap();
        assert_eq!(&begin, b"HTTP/1.1 200");
    }
    assert_eq!(get(to, "/api/v1/status").0, 200);
    let mut client = Stream::connect(&arus.address("web"));
    client.send(1, 0, 1000);
    client.expect(1, 0, 1000);
}

#[test]
fn counts_stay_when_sessions_are_gone_and_names_stay_few() {
    let (arus, _backend) = start("");
    let to = address(&arus);
    let page = || ask(to, "GET", "/metrics", &[], "").2;
    let value = |page: &str, name: &str| {
        let line = page.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}"));
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let series = |page: &str| page.lines().filter(|line| !line.starts_with('#')).count();
    let mut last = page();
    let few = series(&last);
    for round in 1..=3_u64 {
        let clients: Vec<Stream> = (0..100)
            .map(|n| {
                let mut client = Stream::connect(&arus.address("web"));
                client.send(n, 0, 1000);
                client.expect(n, 0, 1000);
                client
            })
            .collect();
        drop(clients);
        arus.finished(100 * round as usize);
        arus.wait_active(0);
        let now = page();
        for name in ["arus_connections_total{", "arus_bytes_total{", "arus_connections_closed_total{"] {
            assert!(value(&now, name) > value(&last, name), "{name} does not rise");
        }
        assert!((value(&now, "arus_bytes_total{listener=\"web\",direction=\"up\"}") - 1e5 * round as f64).abs() < 0.5);
        assert!((value(&now, "arus_connections_active{listener=\"web\"}")).abs() < 0.5);
        last = now;
    }
    // Sums over shards and reasons that came; nothing that grows with clients.
    assert!(series(&last) < few + 10, "{few} series became {}:\n{last}", series(&last));
}
