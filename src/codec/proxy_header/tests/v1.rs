//! Version 1, by the letter.

use super::super::{Addresses, Command, Header, Malformed, Progress, Tlvs, Version, parse};
use super::{address, bad, done};

fn endpoints(line: &str) -> (String, String) {
    let (header, used) = done(line.as_bytes());
    assert_eq!(used, line.len());
    assert_eq!((header.version, header.command), (Version::V1, Command::Proxy));
    assert_eq!(header.tlvs.count(), 0);
    let (source, destination) = header.endpoints().unwrap();
    (source.to_string(), destination.to_string())
}

#[test]
fn lines_of_the_specification() {
    let read = |line: &str, source: &str, destination: &str| {
        assert_eq!(endpoints(line), (source.to_owned(), destination.to_owned()), "{line:?}");
    };
    read("PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", "192.168.0.1:56324", "192.168.0.11:443");
    read("PROXY TCP4 0.0.0.0 0.0.0.0 0 65535\r\n", "0.0.0.0:0", "0.0.0.0:65535");
    let longest = "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n";
    assert_eq!(longest.len(), 56);
    read(longest, "255.255.255.255:65535", "255.255.255.255:65535");
    let ffff = ["ffff"; 8].join(":");
    let longest = format!("PROXY TCP6 {ffff} {ffff} 65535 65535\r\n");
    assert_eq!(longest.len(), 104);
    read(&longest, &format!("[{ffff}]:65535"), &format!("[{ffff}]:65535"));
    read("PROXY TCP6 2001:DB8::1 2001:db8::0002 1 2\r\n", "[2001:db8::1]:1", "[2001:db8::2]:2");
    read("PROXY TCP6 :: ::1 1 2\r\n", "[::]:1", "[::1]:2");
}

#[test]
fn mapped_addresses_stand_for_ipv4_ones() {
    for mapped in ["::ffff:192.0.2.1", "::ffff:c000:201"] {
        let line = format!("PROXY TCP6 {mapped} 2001:db8::1 1 2\r\n");
        let (header, _) = done(line.as_bytes());
        assert_eq!(header.endpoints(), Some((address("192.0.2.1:1"), address("[2001:db8::1]:2"))));
        let Addresses::Tcp6 { source, .. } = header.addresses else { panic!("{header:?}") };
        assert!(source.ip().to_ipv4_mapped().is_some(), "kept as it was given");
    }
}

#[test]
fn of_unknown_the_rest_of_the_line_is_ignored() {
    let ffff = ["ffff"; 8].join(":");
    let longest = format!("PROXY UNKNOWN {ffff} {ffff} 65535 65535\r\n");
    assert_eq!(longest.len(), 107);
    for line in ["PROXY UNKNOWN\r\n", &longest, "PROXY UNKNOWN \r\n", "PROXY UNKNOWN it is, \t\0 \u{e9}\r\n"] {
        let expected =
            Header { version: Version::V1, command: Command::Proxy, addresses: Addresses::Unknown, tlvs: Tlvs::EMPTY };
        assert_eq!(parse(line.as_bytes()), Progress::Done(expected, line.len()));
        assert_eq!(expected.endpoints(), None);
    }
    for line in ["PROXY UNKNOWN\r", "PROXY UNKNOWN"] {
        assert_eq!(parse(line.as_bytes()), Progress::NeedMore);
    }
    for line in
        ["PROXY UNKNOWNS", "PROXY UNKNOWN a\n", "PROXY UNKNOWN\n", "PROXY UNKNOWN\r\r", "PROXY UNKNOWN a\rb\r\n"]
    {
        assert_eq!(parse(line.as_bytes()), bad(Malformed::Character), "{line:?}");
    }
}

#[test]
fn lines_that_the_grammar_does_not_have() {
    use Malformed::{Address, Beginning, Character, Port, Protocol};
    for (error, line) in [
        (Beginning, "proxy TCP4 1.1.1.1 2.2.2.2 1 2\r\n"),
        (Beginning, " PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n"),
        (Beginning, "PROXY\r\n"),
        (Protocol, "PROXY  TCP4 1.1.1.1 2.2.2.2 1 2\r\n"),
        (Protocol, "PROXY tcp4 1.1.1.1 2.2.2.2 1 2\r\n"),
        (Protocol, "PROXY TCP5 1.1.1.1 2.2.2.2 1 2\r\n"),
        (Protocol, "PROXY UDP4 1.1.1.1 2.2.2.2 1 2\r\n"),
        (Protocol, "PROXY unknown\r\n"),
        (Protocol, "PROXY TCP4\r\n"),
        // Spaces and line ends.
        (Address, "PROXY TCP4  1.1.1.1 2.2.2.2 1 2\r\n"),
        (Address, "PROXY TCP4 1.1.1.1  2.2.2.2 1 2\r\n"),
        (Port, "PROXY TCP4 1.1.1.1 2.2.2.2  1 2\r\n"),
        (Character, "PROXY TCP4 1.1.1.1 2.2.2.2 1  2\r\n"),
        (Character, "PROXY TCP4 1.1.1.1 2.2.2.2 1 2 \r\n"),
        (Character, "PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n"),
        (Character, "PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n"),
        (Port, "PROXY TCP4 1.1.1.1 2.2.2.2 1 \r\n"),
        (Character, "PROXY TCP4 1.1.1.1\t2.2.2.2 1 2\r\n"),
        (Character, "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n"),
        (Character, "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\r\n"),
        (Character, "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\rGET\r\n"),
        (Character, "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\0\r\n"),
        // IPv4 in other words.
        (Address, "PROXY TCP4 01.1.1.1 2.2.2.2 1 2\r\n"),
        (Address, "PROXY TCP4 1.1.1.1 2.2.2.002 1 2\r\n"),
        (Address, "PROXY TCP4 0177.0.0.1 2.2.2.2 1 2\r\n"),
        (Character, "PROXY TCP4 0x7f.0.0.1 2.2.2.2 1 2\r\n"),
        (Address, "PROXY TCP4 127.1 2.2.2.2 1 2\r\n"),
        (Address, "PROXY TCP4 2130706433 2.2.2.2 1 2\r\n"),
        (Address, "PROXY TCP4 256.1.1.1 2.2.2.2 1 2\r\n"),
        (Address, "PROXY TCP4 1.1.1.1.1 2.2.2.2 1 2\r\n"),
        (Address, "PROXY TCP4 1..1.1 2.2.2.2 1 2\r\n"),
        (Address, "PROXY TCP4 1.1.1.1. 2.2.2.2 1 2\r\n"),
        // Families.
        (Character, "PROXY TCP4 ::1 2.2.2.2 1 2\r\n"),
        (Character, "PROXY TCP4 1.1.1.1 ::1 1 2\r\n"),
        (Address, "PROXY TCP6 1.1.1.1 ::1 1 2\r\n"),
        (Address, "PROXY TCP6 ::1 1.1.1.1 1 2\r\n"),
        // IPv6.
        (Character, "PROXY TCP6 fe80::1%1 ::1 1 2\r\n"),
        (Character, "PROXY TCP6 [::1] ::1 1 2\r\n"),
        (Address, "PROXY TCP6 1::2::3 ::1 1 2\r\n"),
        (Address, "PROXY TCP6 ::00001 ::1 1 2\r\n"),
        (Address, "PROXY TCP6 1:2:3:4:5:6:7 ::1 1 2\r\n"),
        (Address, "PROXY TCP6 1:2:3:4:5:6:7:8:9 ::1 1 2\r\n"),
        (Address, "PROXY TCP6 ::ffff:01.2.3.4 ::1 1 2\r\n"),
        // Ports.
        (Port, "PROXY TCP4 1.1.1.1 2.2.2.2 65536 2\r\n"),
        (Port, "PROXY TCP4 1.1.1.1 2.2.2.2 1 65536\r\n"),
        (Port, "PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n"),
        (Port, "PROXY TCP4 1.1.1.1 2.2.2.2 1 00\r\n"),
        (Character, "PROXY TCP4 1.1.1.1 2.2.2.2 +1 2\r\n"),
        (Character, "PROXY TCP4 1.1.1.1 2.2.2.2 -1 2\r\n"),
        (Port, "PROXY TCP4 1.1.1.1 2.2.2.2 18446744073709551617 2\r\n"),
    ] {
        assert_eq!(parse(line.as_bytes()), bad(error), "{line:?}");
    }
}

#[test]
fn what_cannot_become_a_line_is_not_waited_for() {
    use Malformed::{Address, Character, Port, Protocol};
    for (error, beginning) in [
        (Protocol, "PROXY S"),
        (Protocol, "PROXY TCP7"),
        (Character, "PROXY TCP4 1.1.1.1 2.2.2.a"),
        (Character, "PROXY TCP4 1.1.1.1\r"),
        (Character, "PROXY TCP4 1\n"),
        (Address, "PROXY TCP4 300.1.1.1 "),
        (Address, "PROXY TCP6 :::: "),
        (Port, "PROXY TCP4 1.1.1.1 2.2.2.2 99999 "),
        (Character, "PROXY TCP4 1.1.1.1 2.2.2.2 1 x"),
    ] {
        assert_eq!(parse(beginning.as_bytes()), bad(error), "{beginning:?}");
    }
}

#[test]
fn no_line_is_longer_than_107_bytes() {
    let unknown = |length: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(length - 16));
    assert!(matches!(parse(unknown(107).as_bytes()), Progress::Done(_, 107)));
    assert_eq!(parse(unknown(108).as_bytes()), bad(Malformed::LineTooLong));
    assert_eq!(parse(&unknown(1000).as_bytes()[..105]), Progress::NeedMore);
    assert_eq!(parse(&unknown(1000).as_bytes()[..106]), bad(Malformed::LineTooLong));
    assert_eq!(parse(&unknown(107).as_bytes()[..106]), Progress::NeedMore, "its CR is there");
    let digits = format!("PROXY TCP4 {}", "1".repeat(200));
    assert_eq!(parse(digits.as_bytes()), bad(Malformed::LineTooLong));
}
