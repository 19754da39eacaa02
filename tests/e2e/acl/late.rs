//! A change of the rules while something is under way.

use socket2::{Domain, Socket, Type};

use super::*;

/// A listener that answers nobody more until somebody is taken: its queue holds one, and that one is there.
fn busy() -> (Socket, SocketAddr, Stream) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let at = socket.local_addr().unwrap().as_socket().unwrap();
    let first = Stream::connect(&Address::Ip(at));
    (socket, at, first)
}

#[test]
fn a_name_that_is_being_dialled_is_judged_by_its_address_after_a_change() {
    let (listener, at, _first) = busy();
    let body = format!("{LISTENER}[timeouts]\nconnect = \"60s\"\n[acl]\ndefault = \"allow\"\n{OPEN}");
    let arus = Setup::new(body).start();
    let mut clients = [0, 1].map(|_| {
        let mut stream = Stream::connect(&arus.address("socks"));
        stream.write_all(&[5, 1, 0]);
        assert_eq!(stream.read_exactly(2), [5, 0]);
        stream
    });
    // By its address a session is cut at once; by a name of which the new rules say nothing it is not.
    let [by_name, by_address] = &mut clients;
    by_name.write_all(&[&[5, 1, 0], &name("localhost", at.port())[..]].concat());
    by_address.write_all(&[&[5, 1, 0], &ip(at)[..]].concat());
    eventually("both are dialled", || {
        let (_, page) = arus.request("GET", "/api/v1/sessions");
        let is_dialled = |line: &&Value| line["stage"] == "connect";
        (page["data"].as_array().unwrap().iter().filter(is_dialled).count() == 2).then_some(())
    });
    let config = fs::read_to_string(arus.config()).unwrap();
    let block = "[[acl.rule]]\naction = \"block\"\ndescription = \"late\"\ndestinations = [\"127.0.0.1\"]\n";
    fs::write(arus.config(), config + block).unwrap();
    reload(&arus).unwrap();
    let from = by_address.local();
    by_address.discard();
    assert_eq!(arus.session_of(from)["reason"], "acl_updated");
    // Room for the next one.
    let _taken = listener.accept().unwrap();
    assert_eq!(by_name.read_exactly(2), [5, 2]);
    let from = by_name.local();
    by_name.discard();
    let line = arus.session_of(from);
    let facts = ["state", "blame", "reason", "rule"].map(|key| line[key].as_str().unwrap_or_default());
    assert_eq!(facts, ["failed", "policy", "acl_updated", "late"], "{line}");
}
