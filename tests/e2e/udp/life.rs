//! How an association begins and ends: ports, deadlines, refusals, what it leaves behind.

use super::*;

#[test]
fn a_port_that_the_client_announced_is_the_only_one() {
    let arus = setup("").start();
    let (announced, from) = udp("127.0.0.1:0");
    let client = Associated::of(&arus, 0, announced, from);
    let (target, at) = udp("127.0.0.1:0");
    let theirs = [&[0, 0, 0][..], &place(at), b"from another port"].concat();
    udp("127.0.0.1:0").0.send_to(&theirs, client.relay).unwrap();
    wait_dropped(&arus, "stranger", 1);
    client.send(at, b"from mine");
    assert_eq!(receive(&target).0, b"from mine");
}

#[test]
fn an_association_lives_as_long_as_its_connection_and_the_other_way_round() {
    let arus = setup("").start();
    let mut client = Associated::new(&arus);
    let (target, at) = udp("127.0.0.1:0");
    // A stray byte means nothing.
    client.control.write_all(b"x").unwrap();
    for _ in 0..3 {
        client.send(at, b"still there");
        assert_eq!(receive(&target).0, b"still there");
    }
    // Closing it closes the sockets: the port can be had again.
    let relay = client.relay;
    let closed = Instant::now();
    drop(client);
    eventually("the port is free", || UdpSocket::bind(relay).ok());
    println!("closed after {:?}", closed.elapsed());

    // A reset does, too.
    let client = Associated::new(&arus);
    let relay = client.relay;
    socket2::SockRef::from(&client.control).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    eventually("the port is free", || UdpSocket::bind(relay).ok());

    // And a kill closes the connection.
    let mut client = Associated::new(&arus);
    let id = arus.sessions()[0]["id"].as_str().unwrap().to_owned();
    arus.request("DELETE", &format!("/api/v1/sessions/{id}"));
    assert!(client.is_over());
    eventually("the port is free", || UdpSocket::bind(client.relay).ok());
    assert_eq!(arus.session_of(client.name())["reason"], "killed");
}

#[test]
fn an_idle_association_ends_and_its_connection_with_it() {
    let arus = setup("udp_idle = \"400ms\"").start();
    let mut client = Associated::new(&arus);
    let (target, at) = udp("127.0.0.1:0");
    let begun = Instant::now();
    client.send(at, b"x");
    receive(&target);
    assert!(client.is_over());
    assert!(begun.elapsed() >= Duration::from_millis(400), "{:?}", begun.elapsed());
    eventually("the port is free", || UdpSocket::bind(client.relay).ok());
    let name = client.name();
    drop(client);
    assert_eq!(arus.session_of(name)["reason"], "idle_timeout");
}

#[test]
fn refusals_have_their_replies() {
    let rules = RULES;
    let arus =
        Setup::new(format!("[[listener]]\nname = \"socks\"\nlisten = \"127.0.0.1:0\"\nservice = \"socks5\"\n{rules}"))
            .start();
    let mut control = connect(&arus, 0);
    assert_eq!(ask(&mut control, anywhere()).0, 7, "not served");
    drop(arus);

    let arus = setup("udp_max_associations_per_user = 2").start();
    let (first, second) = (Associated::new(&arus), Associated::new(&arus));
    let mut control = connect(&arus, 0);
    assert_eq!(ask(&mut control, anywhere()).0, 2, "too many");
    assert_eq!(arus.session_of(control.local_addr().unwrap())["reason"], "user_max_associations");
    drop(first);
    eventually("a place is free again", || {
        let mut control = connect(&arus, 0);
        (ask(&mut control, anywhere()).0 == 0).then_some(())
    });
    drop(second);
    drop(arus);

    let arus = setup("udp_max_associations_per_user = 100").start();
    // Each takes two, so that with an even or an odd number of free ones the last has a connection and no socket.
    let used = arus.descriptors() as u64;
    let found = (10..14).find(|room| {
        arus.process().limit_descriptors(used + room);
        let mut held = Vec::new();
        let reply = loop {
            let mut control = connect(&arus, 0);
            control.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            control.write_all(&[&[5, 1, 0, 5, 3, 0][..], &place(anywhere())].concat()).unwrap();
            let mut answer = [0; 4];
            let reply = control.read_exact(&mut answer).map(|()| answer[3]);
            held.push(control);
            match reply {
                Ok(0) => {}
                // No descriptor for the connection itself: it waits to be accepted.
                Err(_) => break None,
                Ok(reply) => break Some(reply),
            }
        };
        drop(held);
        arus.process().limit_descriptors(used + 100);
        arus.wait_active(0);
        reply == Some(1)
    });
    assert!(found.is_some(), "no descriptor for a socket is a general failure");
    arus.process().limit_descriptors(used + 100);
    eventually("it serves again", || {
        let mut control = connect(&arus, 0);
        (ask(&mut control, anywhere()).0 == 0).then_some(())
    });
}

#[test]
fn clients_are_told_what_is_advertised() {
    let arus = setup("advertise = \"192.0.2.7\"").start();
    let client = Associated::new(&arus);
    assert_eq!(client.relay.ip(), "192.0.2.7".parse::<IpAddr>().unwrap());
    let here = SocketAddr::new("127.0.0.1".parse().unwrap(), client.relay.port());
    let (target, at) = udp("127.0.0.1:0");
    client.socket.send_to(&[&[0, 0, 0][..], &place(at), b"x"].concat(), here).unwrap();
    assert_eq!(receive(&target).0, b"x");
}

#[test]
fn a_thousand_associations_leave_nothing_behind() {
    const ASSOCIATIONS: usize = 1000;
    let arus = setup("udp_max_associations_per_user = 2000").start();
    let (target, at) = udp("127.0.0.1:0");
    let echo = std::thread::spawn(move || {
        let mut bytes = [0; 100];
        while let Ok((len, from)) = target.recv_from(&mut bytes) {
            if &bytes[..len] == b"stop" {
                return;
            }
            target.send_to(&bytes[..len], from).unwrap();
        }
    });
    // Once, so that what is made for the first one is there.
    let first = Associated::new(&arus);
    first.send(at, b"hello");
    first.expect(at, b"hello");
    drop(first);
    arus.wait_active(0);
    let (descriptors, resident) = (arus.descriptors(), arus.process().resident());
    let (client, _) = udp("127.0.0.1:0");
    let clients: Vec<Associated> =
        (0..ASSOCIATIONS).map(|_| Associated::of(&arus, 0, client.try_clone().unwrap(), anywhere())).collect();
    for client in &clients {
        client.send(at, b"hello");
        client.expect(at, b"hello");
    }
    assert_eq!(counts(&arus)["associations"], ASSOCIATIONS);
    assert!(
        arus.process().descriptors() <= descriptors + 3 * ASSOCIATIONS + 10,
        "two sockets each, and the connection"
    );
    let each = arus.process().resident().saturating_sub(resident) / ASSOCIATIONS as u64;
    println!("{each} bytes resident for each idle association");
    // Of that most is the futures of a debug build, which are several times as large as those of a release.
    assert!(each < 32 * 1024, "{each} bytes");
    drop(clients);
    arus.wait_active(0);
    arus.wait_descriptors(descriptors);
    assert_eq!(
        arus.finished(ASSOCIATIONS + 1).iter().filter(|line| line["reason"] == "association_closed").count(),
        ASSOCIATIONS + 1
    );
    udp("127.0.0.1:0").0.send_to(b"stop", at).unwrap();
    echo.join().unwrap();
}

/// The first datagram of all waits for a name: its answer comes without another one being sent.
#[test]
fn an_answer_to_the_first_datagram_comes_though_it_went_to_a_name() {
    let arus = setup("").start();
    for _ in 0..5 {
        let client = Associated::new(&arus);
        let (target, at) = udp("127.0.0.1:0");
        client.send_name("localhost", at.port(), b"asked");
        let (payload, outside) = receive(&target);
        assert_eq!(payload, b"asked");
        target.send_to(b"answered", outside).unwrap();
        let (datagram, _) = receive(&client.socket);
        assert!(datagram.ends_with(b"answered"), "{datagram:?}");
    }
}
