//! What holds for any bytes; checked by the fuzzer and by the tests.

use std::net::SocketAddr;

use super::{Destination, Progress, Reply, client, datagram, parse_credentials, parse_greeting, parse_request};

/// # Panics
/// When an invariant does not hold.
#[doc(hidden)]
pub fn check(bytes: &[u8]) {
    decides_once(bytes, |bytes| parse_greeting(bytes).map(drop));
    decides_once(bytes, |bytes| parse_credentials(bytes).map(drop));
    decides_once(bytes, |bytes| parse_request(bytes).map(drop));
    decides_once(bytes, |bytes| client::parse_choice(bytes).map(drop));
    decides_once(bytes, |bytes| client::parse_verdict(bytes).map(drop));
    decides_once(bytes, |bytes| client::parse_answer(bytes).map(drop));
    if let Progress::Done(request, used) = parse_request(bytes) {
        let again = client::encode_request(request.command, &request.destination).expect("it was parsed");
        match request.destination {
            // An IPv4-mapped address comes out as what it is.
            Destination::Ip(SocketAddr::V6(address)) if address.ip().to_ipv4_mapped().is_some() => {}
            _ => assert_eq!((&again[..2], &again[3..]), (&bytes[..2], &bytes[3..used])),
        }
    }
    if let Progress::Done(credentials, used) = parse_credentials(bytes) {
        assert_eq!(client::encode_credentials(&credentials).as_deref(), Some(&bytes[..used]));
    }
    if let Progress::Done(answer, _) = client::parse_answer(bytes) {
        let mut again = Vec::new();
        super::encode_reply(answer.reply, answer.bound, &mut again);
        assert!(matches!(client::parse_answer(&again), Progress::Done(same, _) if same.reply == answer.reply));
        assert!(Reply::ALL.contains(&Reply::of(answer.reply.reason())));
    }
    if let Ok((header, used)) = datagram::parse(bytes) {
        assert!(used <= bytes.len());
        if let Destination::Ip(address) = header.destination {
            let mut again = Vec::new();
            datagram::encode(address, &mut again);
            assert!(again.len() <= datagram::LONGEST);
            let (same, _) = datagram::parse(&again).expect("it was just made");
            let Destination::Ip(same) = same.destination else { panic!("an address stays one") };
            assert_eq!((same.ip(), same.port()), (address.ip().to_canonical(), address.port()));
        }
    }
}

/// A message is done with its last byte, whatever follows, and no prefix of it says anything else.
fn decides_once(bytes: &[u8], parse: impl Fn(&[u8]) -> Progress<()>) {
    let used = match parse(bytes) {
        Progress::Done(_, used) => used,
        Progress::NeedMore => bytes.len() + 1,
        Progress::Bad(_) => return,
    };
    // The longest message has a name of 255 bytes, or two parts of 255.
    assert!(used <= bytes.len() || bytes.len() < 3 + 2 * 256, "more is wanted than any message has");
    for cut in 0..used.min(bytes.len() + 1) {
        assert!(matches!(parse(&bytes[..cut]), Progress::NeedMore), "decided at {cut} of {used}");
    }
}
