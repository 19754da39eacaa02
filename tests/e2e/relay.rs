//! Bytes arrive exactly once and in order, both ways, with FIN and RST passed on after them.

use crate::harness::*;

#[test]
fn echo_of_all_sizes() {
    let backend = Backend::start(behaviour::echo);
    let arus = Setup::one("127.0.0.1:0", &[&backend]).start();
    for len in [1, 2, 1000, 16 * 1024, 16 * 1024 + 1, 1 << 20] {
        let mut client = Stream::connect(&arus.address("web"));
        let local = client.local();
        let mut writer = client.try_clone();
        let sender = std::thread::spawn(move || {
            writer.send(len, 0, len);
            writer.finish();
        });
        assert_eq!(client.drain(len, 0), (len, End::Fin));
        sender.join().unwrap();
        let line = arus.session_of(local);
        assert_eq!((&line["reason"], &line["blame"], &line["state"]), (&"done".into(), &().into(), &"closed".into()));
        assert_eq!((&line["bytes_up"], &line["bytes_down"]), (&len.into(), &len.into()));
    }
}
