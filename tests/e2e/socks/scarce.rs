//! Nothing left to open a connection with.

use std::time::Duration;

use super::*;

#[test]
fn without_descriptors_requests_are_answered_and_the_listener_stays() {
    let backend = Backend::start(behaviour::echo);
    let port = backend.address().ip().port();
    let arus = setup("", "[socks]\ncommands = [\"connect\", \"bind\", \"udp\"]").start();
    let mut live = connected(&arus, backend.address());
    live.send(1, 0, 1000);
    live.expect(1, 0, 1000);
    const UDP: u8 = 3;
    let requests = [
        request_ip(CONNECT, backend.address().ip()),
        request_name(CONNECT, b"localhost", port),
        request_ip(BIND, backend.address().ip()),
        request_ip(UDP, "0.0.0.0:0".parse().unwrap()),
    ];
    let mut clients: Vec<Stream> = requests.iter().map(|_| greeted(&arus)).collect();
    // None above the first three may be opened; those that are stay.
    arus.process().limit_descriptors(3);
    for (client, request) in clients.iter_mut().zip(&requests) {
        client.write_all(request);
        // A name cannot be looked up either: by a file that cannot be read and a socket that cannot be had, it has no address.
        let replies: &[u8] = if request[3] == 3 { &[1, 4] } else { &[1] };
        let reply = read_reply(client).0;
        assert!(replies.contains(&reply), "{reply} to {request:?}");
        assert!(rest(client).is_empty());
    }
    // Whoever comes now waits, and costs nothing.
    let mut late: Vec<Stream> = (0..20).map(|_| Stream::connect(&arus.address("socks"))).collect();
    late.iter_mut().for_each(|client| client.write_all(&GREETING));
    let share = arus.process().cpu_share(Duration::from_secs(1));
    assert!(share < 0.2, "{share} of a core without descriptors");
    live.send(1, 1000, 1000);
    live.expect(1, 1000, 1000);
    arus.process().limit_descriptors(u64::MAX);
    for client in &mut late {
        assert_eq!(client.read_exactly(2), [5, 0]);
        client.write_all(&request_ip(CONNECT, backend.address().ip()));
        assert_eq!(read_reply(client).0, 0);
    }
    let lines = arus.finished(clients.len());
    let told = |line: &&serde_json::Value| line["reason"] == "descriptors" && line["blame"] == "proxy";
    assert!(lines.iter().filter(told).count() >= 3, "{lines:?}");
    live.send(1, 2000, 1000);
    live.expect(1, 2000, 1000);
}
