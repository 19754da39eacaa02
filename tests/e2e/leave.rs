//! Clients of plain forwarding that leave while arus waits for a backend.

use crate::harness::*;

const LONG: &str = "[timeouts]\nconnect = \"10m\"\n";

fn facts(arus: &Arus, client: std::net::SocketAddr) -> [String; 4] {
    let line = arus.session_of(client);
    ["state", "reason", "stage", "blame"].map(|key| line[key].as_str().unwrap().to_owned())
}

fn wait_stage(arus: &Arus, stage: &str) {
    eventually(stage, || arus.sessions().iter().any(|live| live["stage"] == stage).then_some(()));
}

#[test]
fn a_reset_ends_a_dial_and_the_end_of_what_a_client_says_does_not() {
    for header in ["", "send_proxy = \"v2\""] {
        let mut hanging = Hanging::new();
        let address = hanging.address().to_string();
        let arus = Setup::to("127.0.0.1:0", &[address], "max_connections = 1", header).also(LONG).start();
        for finishes in [false, true] {
            let mut client = Stream::connect(&arus.address("web"));
            let from = client.local();
            client.send(1, 0, 1000);
            if finishes {
                client.finish();
            }
            wait_stage(&arus, "connect");
            client.reset();
            assert_eq!(facts(&arus, from), ["failed", "reset", "connect", "client"]);
            arus.wait_active(0);
        }
        let mut client = Stream::connect(&arus.address("web"));
        client.send(1, 0, 1000);
        client.finish();
        // The kernel tries again after a second, by when arus has looked at the client.
        let mut backend = hanging.accept_another();
        if !header.is_empty() {
            backend.read_exactly(28);
        }
        assert_eq!(backend.drain(1, 0), (1000, End::Fin));
        backend.send(2, 0, 1000);
        drop(backend);
        assert_eq!(client.drain(2, 0), (1000, End::Fin));
    }
}

#[test]
fn a_reset_gives_up_a_place_in_the_queue() {
    let backend = Backend::start(behaviour::echo);
    let keys = "max_connections_per_backend = 1\nqueue = { size = 1, timeout = \"10m\" }";
    let arus = Setup::to("127.0.0.1:0", &[backend.address().to_string()], "", keys).start();
    let mut first = Stream::connect(&arus.address("web"));
    first.send(1, 0, 100);
    first.expect(1, 0, 100);
    let second = Stream::connect(&arus.address("web"));
    let from = second.local();
    wait_stage(&arus, "queue");
    second.reset();
    assert_eq!(facts(&arus, from), ["failed", "reset", "queue", "client"]);
    // Its place in the queue is free, and the next one there gets the backend.
    let mut third = Stream::connect(&arus.address("web"));
    wait_stage(&arus, "queue");
    drop(first);
    third.send(3, 0, 100);
    third.expect(3, 0, 100);
}
