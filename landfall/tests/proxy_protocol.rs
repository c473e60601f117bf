//! PROXY protocol headers: what is written is read, in whatever pieces; nothing else is, and no length in
//! a header is trusted.

mod proxy_protocol_peer;

use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};

use landfall::buffer::Buffer;
use landfall::frame::Decode;
use landfall::proxy_protocol::{
    EncodeError, Endpoints, Header, HeaderDecoder, ParseError, Parsed, Tlv, Tlvs, Transport,
};
use proptest::prelude::*;
use proptest::sample::Index;
use proxy_protocol_peer::{is_known_difference, ours, theirs};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn v4() -> impl Strategy<Value = SocketAddrV4> {
    (any::<[u8; 4]>(), any::<u16>()).prop_map(|(ip, port)| SocketAddrV4::new(ip.into(), port))
}

fn v6() -> impl Strategy<Value = SocketAddrV6> {
    let sparse = any::<[u16; 8]>().prop_map(|parts| parts.map(|part| part * (part % 3 % 2)));
    let mapped = any::<[u8; 4]>().prop_map(|ip| std::net::Ipv4Addr::from(ip).to_ipv6_mapped());
    let ip = prop_oneof![
        sparse.prop_map(std::net::Ipv6Addr::from),
        any::<u128>().prop_map(std::net::Ipv6Addr::from),
        mapped,
    ];
    (ip, any::<u16>()).prop_map(|(ip, port)| SocketAddrV6::new(ip, port, 0, 0))
}

fn transport() -> impl Strategy<Value = Transport> {
    prop_oneof![Just(Transport::Stream), Just(Transport::Datagram)]
}

fn inet(transport: impl Strategy<Value = Transport> + Clone) -> impl Strategy<Value = Endpoints> {
    prop_oneof![
        (transport.clone(), v4(), v4()).prop_map(|(transport, source, destination)| {
            Endpoints::V4 {
                transport,
                source,
                destination,
            }
        }),
        (transport, v6(), v6()).prop_map(|(transport, source, destination)| Endpoints::V6 {
            transport,
            source,
            destination,
        }),
    ]
}

/// A path, or an abstract name, or nothing.
fn unix() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(1..=255u8, 0..=108),
        (prop::collection::vec(any::<u8>(), 0..=106), 1..=255u8)
            .prop_map(|(name, last)| { [&[0], &name[..], &[last]].concat() }),
    ]
}

fn told() -> impl Strategy<Value = Endpoints> {
    let unix = (transport(), unix(), unix()).prop_map(|(transport, source, destination)| {
        Endpoints::Unix {
            transport,
            source,
            destination,
        }
    });
    prop_oneof![3 => inet(prop_oneof![Just(Transport::Stream), Just(Transport::Datagram)].boxed()), 1 => unix]
}

fn tlvs() -> impl Strategy<Value = Tlvs> {
    let one = (any::<u8>(), prop::collection::vec(any::<u8>(), 0..40));
    let all = prop::collection::vec(one, 0..5);
    (all, any::<Option<Index>>()).prop_map(|(all, checksum)| {
        let mut tlvs = Tlvs::default();
        let place = checksum.map(|place| place.index(all.len() + 1));
        for (number, (kind, value)) in all.iter().enumerate() {
            if place == Some(number) {
                tlvs.push_checksum();
            }
            if *kind != Tlv::CRC32C {
                tlvs.push(*kind, value).expect("short");
            }
        }
        if place == Some(all.len()) {
            tlvs.push_checksum();
        }
        tlvs
    })
}

fn header() -> impl Strategy<Value = Header> {
    prop_oneof![
        2 => inet(Just(Transport::Stream)).prop_map(Header::v1),
        1 => Just(Header::v1(Endpoints::Unknown)),
        1 => Just(Header::v2(Endpoints::Unknown)),
        1 => Just(Header::v2(Endpoints::Local)),
        5 => (told(), tlvs()).prop_map(|(endpoints, tlvs)| {
            let mut header = Header::v2(endpoints);
            header.tlvs = tlvs;
            header
        }),
    ]
}

/// Without the value of the checksum, which the program does not know before.
fn without_checksum(header: &Header) -> Header {
    let mut header = header.clone();
    let mut tlvs = Tlvs::default();
    for tlv in &header.tlvs {
        match tlv.kind {
            Tlv::CRC32C => tlvs.push_checksum(),
            kind => tlvs.push(kind, tlv.value).expect("short"),
        }
    }
    header.tlvs = tlvs;
    header
}

fn whole(bytes: &[u8]) -> (Header, usize) {
    match Header::parse(bytes) {
        Ok(Parsed::Whole { header, length }) => (header, length),
        other => panic!("{other:?}"),
    }
}

/// CRC-32C by the book, a bit at a time.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |mut sum: u32, byte| {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = sum >> 1 ^ if sum & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
        sum
    })
}

/// A header of version 2 by hand.
fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = (block.len() as u16).to_be_bytes();
    [SIGNATURE, &[command, family], &length, block].concat()
}

const ADDRESSES: &[u8] = &[192, 0, 2, 1, 192, 0, 2, 9, 0xdc, 0x04, 0x01, 0xbb];

proptest! {
    #[test]
    fn what_is_written_is_read(header in header(), rest in prop::collection::vec(any::<u8>(), 0..20)) {
        let bytes = header.encode().expect("can be written");
        let (read, length) = whole(&[&bytes[..], &rest].concat());
        prop_assert_eq!(length, bytes.len());
        prop_assert_eq!(read.encode().expect("as before"), &bytes[..]);
        prop_assert_eq!(without_checksum(&read), without_checksum(&header));
    }

    #[test]
    fn every_part_of_a_header_is_incomplete_and_says_what_it_lacks_at_least(header in header()) {
        let bytes = header.encode().expect("can be written");
        for length in 0..bytes.len() {
            match Header::parse(&bytes[..length]) {
                Ok(Parsed::Incomplete { at_least }) => {
                    prop_assert!(length < at_least && at_least <= bytes.len());
                }
                other => prop_assert!(false, "{length} bytes: {other:?}"),
            }
        }
    }

    #[test]
    fn a_header_is_the_same_in_whatever_pieces_it_comes_and_what_follows_is_left(
        header in header(),
        rest in prop::collection::vec(any::<u8>(), 0..20),
        lengths in prop::collection::vec(prop_oneof![Just(1), 1..300usize], 1..10),
    ) {
        let mut bytes = header.encode().expect("can be written");
        let (expected, _) = whole(&bytes);
        bytes.extend_from_slice(&rest);
        let mut decoder = HeaderDecoder::new();
        let mut input = Buffer::default();
        let mut lengths = lengths.iter().cycle();
        let read = loop {
            if let Some(header) = decoder.decode(&mut input).expect("a header") {
                break header;
            }
            prop_assert!(input.is_empty());
            let length = bytes.len().min(*lengths.next().expect("endless"));
            input = bytes.drain(..length).collect::<Vec<_>>().into();
        };
        prop_assert_eq!(read, expected);
        prop_assert_eq!([&input[..], &bytes].concat(), rest);
    }

    #[test]
    fn no_bytes_make_the_reader_panic(
        start in prop::sample::select(vec![&b"PROXY "[..], b"PROXY TCP4 ", b"PROXY TCP6 ", SIGNATURE, b""]),
        kind in prop::option::of((0x20..0x22u8, 0..0x40u8, 0..300u16)),
        rest in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut bytes = start.to_vec();
        if let Some((command, family, length)) = kind {
            bytes.extend([command, family]);
            bytes.extend(length.to_be_bytes());
        }
        bytes.extend(rest);
        if let Ok(Parsed::Whole { header, length }) = Header::parse(&bytes) {
            prop_assert!(length <= bytes.len());
            prop_assert!(header.tlvs.iter().count() <= header.tlvs.as_bytes().len());
        }
    }

    #[test]
    fn a_checksum_finds_every_changed_byte(
        endpoints in inet(transport().boxed()),
        place in any::<Index>(),
        change in 1..=255u8,
    ) {
        let mut header = Header::v2(endpoints);
        header.tlvs.push(Tlv::AUTHORITY, b"example.org").expect("short");
        header.tlvs.push_checksum();
        let bytes = header.encode().expect("can be written");
        let mut changed = bytes.clone();
        // Among the addresses; elsewhere there are other errors to find.
        let addresses = bytes.len() - 16 - 7 - 14;
        changed[16 + place.index(addresses)] ^= change;
        let found = Header::parse(&changed);
        prop_assert!(matches!(found, Err(ParseError::Checksum { .. })), "{found:?}");
    }
}

#[test]
fn the_lines_of_version_1_are_those_of_the_specification() {
    let (header, length) =
        whole(b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\nGET / HTTP/1.1\r\n");
    assert_eq!(length, 47);
    let address = |text: &str| Some(text.parse::<SocketAddr>().expect("an address"));
    assert_eq!(header.endpoints.source(), address("192.168.0.1:56324"));
    assert_eq!(header.endpoints.destination(), address("192.168.0.11:443"));
    let longest = format!(
        "PROXY UNKNOWN {0} {0} 65535 65535\r\n",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
    );
    assert_eq!(
        whole(longest.as_bytes()),
        (Header::v1(Endpoints::Unknown), 107)
    );
    let (header, _) = whole(b"PROXY TCP6 ::1 ::ffff:192.0.2.1 0 65535\r\n");
    assert_eq!(header.endpoints.source(), address("[::1]:0"));
    assert_eq!(
        header.endpoints.destination(),
        address("[::ffff:192.0.2.1]:65535")
    );
}

#[test]
fn lines_that_are_not_of_version_1_are_refused_and_told_why() {
    let long = [b"PROXY UNKNOWN ", &[b'x'; 92][..], b"\r\n"].concat();
    let refused: &[(&[u8], ParseError)] = &[
        (b"GET / HTTP/1.1\r\n", ParseError::NotProxy),
        (b"G", ParseError::NotProxy),
        (b"proxy TCP4 ", ParseError::NotProxy),
        (&long, ParseError::LineTooLong),
        (b"PROXY UNKNOWN\n", ParseError::LineEnd),
        (b"PROXY UNKNOWN\rx", ParseError::LineEnd),
        (b"PROXY UNKNOWNS\r\n", ParseError::Protocol),
        (b"PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n", ParseError::Protocol),
        (b"PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n", ParseError::Protocol),
        (b"PROXY TCP4\r\n", ParseError::Field("source address")),
        (
            b"PROXY TCP4 1.2.3.4 ::1 1 2\r\n",
            ParseError::Field("destination address"),
        ),
        (
            b"PROXY TCP4 1.2.3.04 1.2.3.4 1 2\r\n",
            ParseError::Field("source address"),
        ),
        (
            b"PROXY TCP6 1.2.3.4 ::1 1 2\r\n",
            ParseError::Field("source address"),
        ),
        (
            b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
            ParseError::Field("source port"),
        ),
        (
            b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
            ParseError::Field("source port"),
        ),
        (
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
            ParseError::Field("destination port"),
        ),
        (
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
            ParseError::Field("destination port"),
        ),
        (
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
            ParseError::TooManyFields,
        ),
        (
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n",
            ParseError::TooManyFields,
        ),
    ];
    for (line, error) in refused {
        let line_text = String::from_utf8_lossy(line);
        assert_eq!(Header::parse(line), Err(*error), "{line_text}");
    }
}

#[test]
fn version_2_is_read_byte_for_byte_as_the_specification_has_it() {
    let endpoints = Endpoints::new(
        Transport::Datagram,
        "192.0.2.1:56324".parse().expect("an address"),
        "192.0.2.9:443".parse().expect("an address"),
    );
    let bytes = v2(0x21, 0x12, ADDRESSES);
    assert_eq!(whole(&bytes), (Header::v2(endpoints.clone()), 28));
    assert_eq!(Header::v2(endpoints).encode().expect("can be"), bytes);
    // What a local connection has besides is thrown away, whatever it is.
    for family in [0x00, 0x11, 0xff] {
        let bytes = v2(0x20, family, b"junk");
        assert_eq!(whole(&bytes), (Header::v2(Endpoints::Local), 20));
    }
    // So it is where family or transport are left open.
    for family in [0x00, 0x01, 0x10, 0x30] {
        let bytes = v2(0x21, family, b"junk");
        assert_eq!(whole(&bytes), (Header::v2(Endpoints::Unknown), 20));
    }
}

#[test]
fn what_is_not_of_version_2_is_refused_and_told_why() {
    let with = |tlvs: &[u8]| v2(0x21, 0x11, &[ADDRESSES, tlvs].concat());
    let cut = |length, needed| ParseError::TlvCut { length, needed };
    let short = |length, needed| ParseError::AddressesCut { length, needed };
    let refused: &[(Vec<u8>, ParseError)] = &[
        (v2(0x11, 0x11, ADDRESSES), ParseError::Version(1)),
        (v2(0x22, 0x11, ADDRESSES), ParseError::Command(2)),
        (v2(0x21, 0x41, ADDRESSES), ParseError::Family(4)),
        (v2(0x21, 0x13, ADDRESSES), ParseError::Transport(3)),
        (v2(0x21, 0x21, ADDRESSES), short(12, 36)),
        (v2(0x21, 0x31, ADDRESSES), short(12, 216)),
        (v2(0x21, 0x11, &[]), short(0, 12)),
        (with(&[Tlv::NOOP]), cut(1, 3)),
        (with(&[Tlv::NOOP, 0xff, 0xff, 1]), cut(4, 65538)),
        (
            with(&[Tlv::CRC32C, 0, 3, 1, 2, 3]),
            ParseError::ChecksumForm,
        ),
    ];
    for (bytes, error) in refused {
        assert_eq!(Header::parse(bytes), Err(*error), "{bytes:02x?}");
    }
    let one = [Tlv::CRC32C, 0, 4, 0, 0, 0, 0];
    let twice = with(&[one, one].concat());
    assert_eq!(Header::parse(&twice), Err(ParseError::ChecksumForm));
}

#[test]
fn the_checksum_is_that_of_the_header_with_zeros_in_its_place() {
    let zeros = v2(
        0x21,
        0x11,
        &[
            ADDRESSES,
            &[Tlv::CRC32C, 0, 4, 0, 0, 0, 0],
            &[Tlv::NOOP, 0, 0],
        ]
        .concat(),
    );
    let sum = crc32c(&zeros);
    let mut bytes = zeros.clone();
    bytes[31..35].copy_from_slice(&sum.to_be_bytes());
    let (header, _) = whole(&bytes);
    assert_eq!(header.tlvs.get(Tlv::CRC32C), Some(&sum.to_be_bytes()[..]));
    assert_eq!(header.encode().expect("as before"), bytes);
    let (announced, computed) = (0, sum);
    let wrong = ParseError::Checksum {
        announced,
        computed,
    };
    assert_eq!(Header::parse(&zeros), Err(wrong));
}

#[test]
fn what_a_version_has_no_words_for_is_not_written() {
    let v4 = |transport| {
        let address = "192.0.2.1:1".parse().expect("an address");
        Endpoints::new(transport, address, address)
    };
    let unix = |length| Endpoints::Unix {
        transport: Transport::Stream,
        source: vec![b'x'; length],
        destination: Vec::new(),
    };
    let refused = |header: &Header| header.encode().expect_err("refused");
    for endpoints in [Endpoints::Local, unix(1), v4(Transport::Datagram)] {
        let error = refused(&Header::v1(endpoints));
        assert!(matches!(error, EncodeError::NotInVersion1(_)), "{error}");
    }
    let mut header = Header::v1(v4(Transport::Stream));
    header.tlvs.push(Tlv::ALPN, b"h2").expect("short");
    assert!(matches!(
        refused(&header),
        EncodeError::NotInVersion1("TLVs")
    ));
    let mut header = Header::v2(Endpoints::Unknown);
    header.tlvs.push(Tlv::ALPN, b"h2").expect("short");
    assert_eq!(refused(&header), EncodeError::TlvsAlone);
    assert_eq!(
        refused(&Header::v2(unix(109))),
        EncodeError::PathTooLong(109)
    );
    let mut header = Header::v2(v4(Transport::Stream));
    header.tlvs.push(0xE0, &[0; 65535]).expect("just fits");
    assert_eq!(refused(&header), EncodeError::TooLong(12 + 3 + 65535));
    assert_eq!(
        header.tlvs.push(0xE0, &[0; 65536]),
        Err(EncodeError::TooLong(65536))
    );
    let mut header = Header::v2(v4(Transport::Stream));
    header.tlvs.push(Tlv::CRC32C, b"abc").expect("short");
    assert_eq!(refused(&header), EncodeError::ChecksumForm);
}

#[test]
fn addresses_of_two_families_go_as_ipv6_and_ipv4_in_that_form_as_ipv4() {
    let new = |source: &str, destination: &str| {
        let parse = |text: &str| text.parse().expect("an address");
        Header::v1(Endpoints::new(
            Transport::Stream,
            parse(source),
            parse(destination),
        ))
    };
    let line = |header: Header| String::from_utf8(header.encode().expect("can be")).expect("text");
    assert_eq!(
        line(new("[::ffff:192.0.2.1]:1", "192.0.2.9:2")),
        "PROXY TCP4 192.0.2.1 192.0.2.9 1 2\r\n"
    );
    assert_eq!(
        line(new("192.0.2.1:1", "[2001:db8::9]:2")),
        "PROXY TCP6 ::ffff:c000:201 2001:db8::9 1 2\r\n"
    );
}

#[test]
fn a_header_that_is_too_long_is_refused_by_its_length_alone_and_for_good() {
    let mut decoder = HeaderDecoder::new().max_header(200);
    let mut input = Buffer::from([SIGNATURE, &[0x21, 0x11, 0xff, 0xff]].concat());
    for _ in 0..2 {
        let error = decoder.decode(&mut input).expect_err("too long");
        let text = error.to_string();
        assert!(text.contains("65551") && text.contains("200"), "{text}");
        input = Buffer::from(vec![0; 1000]);
    }
    assert!(decoder.take_partial().capacity() <= 64);
    // The longest that is allowed.
    let bytes = v2(
        0x21,
        0x11,
        &[ADDRESSES, &[Tlv::NOOP, 0, 169], &[0; 169]].concat(),
    );
    assert_eq!(bytes.len(), 200);
    let mut decoder = HeaderDecoder::new().max_header(200);
    assert!(
        decoder
            .decode(&mut bytes.into())
            .expect("allowed")
            .is_some()
    );
}

#[test]
fn what_is_no_header_is_refused_at_once_and_a_header_that_ends_early_is_told() {
    let mut decoder = HeaderDecoder::new();
    assert!(decoder.decode(&mut "G".into()).is_err());
    assert!(decoder.decode(&mut "ET / HTTP/1.1\r\n\r\n".into()).is_err());
    let mut decoder = HeaderDecoder::new();
    decoder.end().expect("nothing has come");
    assert!(
        decoder
            .decode(&mut "PROXY T".into())
            .expect("may be")
            .is_none()
    );
    let error = decoder.end().expect_err("cut");
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
}

/// What is likely to make another header of a header.
fn likely_byte() -> impl Strategy<Value = u8> {
    prop_oneof![
        4 => prop::sample::select(b"0123456789.: +-TCP46UNKOWabf\r\n\0\x01\x02\x03\x10\x11\x20\x21\x31\xff".to_vec()),
        1 => any::<u8>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn another_reader_reads_the_same(header in header()) {
        let bytes = header.encode().expect("can be written");
        prop_assert!(ours(&bytes).is_some());
        prop_assert_eq!(ours(&bytes), theirs(&bytes));
    }

    #[test]
    fn another_reader_takes_and_refuses_the_same_but_for_known_differences(
        header in header(),
        changes in prop::collection::vec((any::<Index>(), 0..3, likely_byte()), 1..4),
    ) {
        let mut bytes = header.encode().expect("can be written");
        for (place, change, byte) in changes {
            // Most of what there is to get wrong is in front.
            let place = place.index(bytes.len().clamp(1, 60));
            match change {
                0 => bytes[place] = byte,
                1 => bytes.insert(place, byte),
                _ => drop(bytes.remove(place)),
            }
        }
        if !is_known_difference(&bytes) {
            prop_assert_eq!(ours(&bytes), theirs(&bytes), "{:?}", Header::parse(&bytes));
        }
    }
}
