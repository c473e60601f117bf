//! Framing: whatever pieces bytes come in, the frames are those that were sent.

mod runtime_support;

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, ErrorKind, Write};
use std::slice;
use std::task::Poll;

use bytes::Bytes;
use landfall::buffer::Buffer;
use landfall::frame::{Decode, Encode, FrameReader, FrameWriter, LengthPrefix, Lines, Receive};
use landfall::net::TcpStream;
use proptest::prelude::*;
use runtime_support::*;

/// What a decoder says to bytes that come in pieces of such lengths, again and again, and to the end
/// of the stream.
fn decode_in_pieces(
    decoder: &mut impl Decode<Frame = Buffer>,
    bytes: &[u8],
    lengths: &[usize],
) -> Vec<Result<Vec<u8>, ErrorKind>> {
    let mut said = Vec::new();
    let mut rest = bytes;
    let mut lengths = lengths.iter().cycle();
    while !rest.is_empty() {
        let length = *lengths.next().expect("endless");
        let (piece, others) = rest.split_at(length.min(rest.len()));
        rest = others;
        let mut input = match length % 2 {
            0 => Buffer::from(piece.to_vec()),
            _ => Buffer::from(Bytes::copy_from_slice(piece)),
        };
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(frame)) => said.push(Ok(frame.to_vec())),
                Ok(None) => break assert!(input.is_empty(), "bytes are left"),
                Err(error) => said.push(Err(error.kind())),
            }
        }
    }
    if let Err(error) = decoder.end() {
        said.push(Err(error.kind()));
    }
    said
}

fn encode(codec: impl Encode, frames: &[Vec<u8>]) -> Vec<u8> {
    let mut parts = Vec::new();
    for frame in frames {
        let encoded = codec.encode(frame.clone().into(), &mut parts);
        encoded.expect("can be sent");
    }
    parts.iter().flat_map(|part| part.to_vec()).collect()
}

/// What lines are, in the simplest words.
fn split_lines(bytes: &[u8], max: usize) -> Vec<Result<Vec<u8>, ErrorKind>> {
    let mut lines: Vec<_> = bytes.split(|&byte| byte == b'\n').collect();
    let unfinished = lines.pop().expect("always one");
    let without_cr = |line: &[u8]| line.strip_suffix(b"\r").unwrap_or(line).to_vec();
    let checked = |line: Vec<u8>| match line.len() > max {
        true => Err(ErrorKind::InvalidData),
        false => Ok(line),
    };
    let mut all: Vec<_> = lines.into_iter().map(without_cr).map(checked).collect();
    match checked(without_cr(unfinished)) {
        Err(too_long) => all.push(Err(too_long)),
        Ok(_) if !unfinished.is_empty() => all.push(Err(ErrorKind::UnexpectedEof)),
        Ok(_) => {}
    }
    all
}

fn prefix() -> impl Strategy<Value = LengthPrefix> {
    (1..=8usize, any::<bool>()).prop_map(|(bytes, is_big)| match is_big {
        true => LengthPrefix::big_endian(bytes),
        false => LengthPrefix::little_endian(bytes),
    })
}

fn lengths() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![Just(1), 1..10usize, 1..600usize], 1..20)
}

proptest! {
    #[test]
    fn frames_with_a_length_are_the_same_in_whatever_pieces_they_come(
        prefix in prefix(),
        frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..=255), 0..12),
        lengths in lengths(),
    ) {
        let bytes = encode(prefix, &frames);
        let said = decode_in_pieces(&mut prefix.decoder(), &bytes, &lengths);
        prop_assert_eq!(said, frames.into_iter().map(Ok).collect::<Vec<_>>());
    }

    #[test]
    fn frames_that_end_early_are_told(
        prefix in prefix(),
        frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 1..5),
        lengths in lengths(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = encode(prefix, &frames);
        let last = encode(prefix, &frames[frames.len() - 1..]).len();
        let missing = 1 + cut.index(last);
        bytes.truncate(bytes.len() - missing);
        let mut expected: Vec<_> = frames[..frames.len() - 1].iter().cloned().map(Ok).collect();
        if missing < last {
            expected.push(Err(ErrorKind::UnexpectedEof));
        }
        prop_assert_eq!(decode_in_pieces(&mut prefix.decoder(), &bytes, &lengths), expected);
    }

    #[test]
    fn lines_are_the_same_in_whatever_pieces_they_come(
        bytes in prop::collection::vec(prop::sample::select(b"abcdef\r\n".to_vec()), 0..300),
        max in 0..20usize,
        lengths in lengths(),
    ) {
        let mut decoder = Lines::new().max_line(max).decoder();
        let said = decode_in_pieces(&mut decoder, &bytes, &lengths);
        prop_assert_eq!(said, split_lines(&bytes, max));
    }

    #[test]
    fn lines_that_are_sent_are_received(
        lines in prop::collection::vec("[a-z\r]{0,20}[a-z]|", 0..12),
        is_crlf in any::<bool>(),
        lengths in lengths(),
    ) {
        let codec = if is_crlf { Lines::new().crlf() } else { Lines::new() };
        let lines: Vec<_> = lines.into_iter().map(String::into_bytes).collect();
        let said = decode_in_pieces(&mut codec.decoder(), &encode(codec, &lines), &lengths);
        prop_assert_eq!(said, lines.into_iter().map(Ok).collect::<Vec<_>>());
    }
}

#[test]
fn a_frame_that_is_too_long_is_refused_for_good_by_its_length_alone() {
    let prefix = LengthPrefix::little_endian(8).max_frame(4096);
    let mut decoder = prefix.decoder();
    let mut input = Buffer::from([0xff; 8].to_vec());
    let text = decoder.decode(&mut input).expect_err("refused").to_string();
    assert!(text.contains("18446744073709551615"), "{text}");
    assert!(text.contains("4096"), "{text}");
    // Whatever else comes is no frame.
    for _ in 0..2 {
        let mut input = Buffer::from(b"\x01\0\0\0\0\0\0\0x");
        let error = decoder.decode(&mut input).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert_eq!(input.len(), 9, "nothing is taken");
    }
    assert_eq!(decoder.take_partial(), [0xff; 8]);
    // The longest that is allowed, and one byte more.
    let bytes = encode(prefix.max_frame(4097), &[vec![7; 4097]]);
    assert!(prefix.decoder().decode(&mut bytes.into()).is_err());
    let bytes = encode(prefix, &[vec![7; 4096]]);
    let frame = prefix.decoder().decode(&mut bytes.into()).expect("allowed");
    assert_eq!(frame.expect("whole").len(), 4096);
}

#[test]
fn memory_is_taken_for_what_has_come_and_not_for_what_was_announced() {
    let mut decoder = LengthPrefix::big_endian(4).max_frame(1 << 30).decoder();
    let mut input = Buffer::from(b"\x3f\xff\xff\xff, and it begins");
    assert!(decoder.decode(&mut input).expect("allowed").is_none());
    assert!(decoder.take_partial().capacity() < 100);
}

#[test]
fn a_frame_that_cannot_be_received_is_not_sent() {
    let refused = |codec: &dyn Fn(Buffer) -> io::Result<()>, frame: &'static [u8]| {
        let error = codec(frame.into()).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        error.to_string()
    };
    let length = |frame| LengthPrefix::big_endian(1).encode(frame, &mut Vec::new());
    let text = refused(&length, &[0; 256]);
    assert!(text.contains("256") && text.contains("255"), "{text}");
    let lines = |line| Lines::new().max_line(5).encode(line, &mut Vec::new());
    let text = refused(&lines, b"123456");
    assert!(text.contains('6') && text.contains('5'), "{text}");
    refused(&lines, b"1\n2");
    refused(&lines, b"1\r");
}

#[test]
#[should_panic(expected = "1 to 8 bytes")]
fn a_length_of_nine_bytes_panics() {
    let _ = LengthPrefix::big_endian(9);
}

#[test]
fn a_frame_is_not_copied_on_its_way_out_nor_in_when_it_comes_alone() {
    let frame = Buffer::from(pattern(1000));
    let place = frame.as_ptr();
    let mut parts = Vec::new();
    LengthPrefix::big_endian(4)
        .encode(frame, &mut parts)
        .expect("can be sent");
    assert_eq!((&parts[0][..], parts.len()), (&[0, 0, 3, 232][..], 2));
    assert_eq!(parts[1].as_ptr(), place);

    let bytes = encode(LengthPrefix::big_endian(4), &[pattern(1000)]);
    let place = bytes[4..].as_ptr();
    let mut decoder = LengthPrefix::big_endian(4).decoder();
    let frame = decoder.decode(&mut bytes.into()).expect("fits");
    assert_eq!(frame.expect("whole").as_ptr(), place);
}

/// Counts how often its stream was received from.
struct Counted {
    stream: TcpStream,
    receives: usize,
}

impl Receive for Counted {
    async fn receive(&mut self) -> io::Result<Option<Buffer>> {
        self.receives += 1;
        self.stream.receive().await
    }
}

const PREFIX: LengthPrefix = LengthPrefix::big_endian(4);

#[test]
fn several_writes_that_arrive_as_one_read_and_one_write_that_arrives_as_several_are_the_same_frames()
 {
    on_runtime(async {
        let (stream, mut peer) = pair().await;
        peer.set_nodelay(true).expect("a socket");
        let receives = 0;
        let mut reader = FrameReader::new(Counted { stream, receives }, PREFIX.decoder());
        // Nobody receives yet, so the system puts them together.
        for text in ["first", "", "third"] {
            let bytes = encode(PREFIX, &[text.as_bytes().to_vec()]);
            peer.write_all(&bytes).expect("write");
        }
        for text in ["first", "", "third"] {
            assert_eq!(bytes(reader.next().await), text.as_bytes());
        }
        assert_eq!(reader.stream_mut().receives, 1, "they arrive as one");
        // More than a buffer of the pool.
        let long = pattern(300_000);
        let sent = encode(PREFIX, slice::from_ref(&long));
        let writer = std::thread::spawn(move || peer.write_all(&sent));
        assert_eq!(bytes(reader.next().await), long);
        assert!(reader.stream_mut().receives > 2, "it arrives in pieces");
        writer.join().expect("no panic").expect("write");
        assert!(reader.next().await.expect("a whole frame").is_none());
    });
}

#[test]
fn a_future_that_is_dropped_loses_no_frame() {
    on_runtime(async {
        let (stream, mut peer) = pair().await;
        let mut reader = FrameReader::new(stream, PREFIX.decoder());
        let sent: Vec<_> = (0..10).map(|length| pattern(length * 3)).collect();
        let mut received = Vec::new();
        let mut dropped = 0;
        for byte in encode(PREFIX, &sent) {
            match poll_once(&mut Box::pin(reader.next())).await {
                Poll::Ready(frame) => received.push(bytes(frame)),
                Poll::Pending => dropped += 1,
            }
            peer.write_all(&[byte]).expect("write");
        }
        drop(peer);
        while let Some(frame) = reader.next().await.expect("whole frames") {
            received.push(frame.to_vec());
        }
        assert_eq!(received, sent);
        assert!(dropped > 0);
    });
}

#[test]
fn a_frame_whose_sending_was_dropped_is_whole() {
    on_runtime(async {
        let prefix = PREFIX.max_frame(1 << 23);
        let (mut server, client) = connected().await;
        let (_receiving, sending) = client.split();
        let mut writer = FrameWriter::new(sending, prefix);
        let long = pattern(1 << 23);
        drop(writer.send("never polled"));
        let sent = poll_once(&mut Box::pin(writer.send(long.clone()))).await;
        assert!(sent.is_pending(), "{sent:?}");
        let mut reader = FrameReader::new(&mut server, prefix.decoder());
        assert_eq!(bytes(reader.next().await), long);
        writer.send("next").await.expect("send");
        assert_eq!(bytes(reader.next().await), b"next");
        drop(writer);
        assert!(reader.next().await.expect("the end").is_none());
    });
}

#[test]
fn a_stream_that_ends_within_a_frame_is_an_error_and_what_came_is_still_there() {
    on_runtime(async {
        let (stream, mut peer) = pair().await;
        peer.write_all(b"\0\0\0\x05hello\0\0\0\x05hel")
            .expect("write");
        drop(peer);
        let mut reader = FrameReader::new(stream, PREFIX.decoder());
        assert_eq!(bytes(reader.next().await), b"hello");
        for _ in 0..2 {
            let error = reader.next().await.expect_err("cut");
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
            assert!(error.to_string().contains("7 bytes"), "{error}");
        }
        let (_stream, rest) = reader.into_parts();
        assert_eq!(&rest[..], b"\0\0\0\x05hel");
    });
}

#[test]
fn lines_go_on_after_one_that_is_too_long_and_what_follows_is_given_back() {
    on_runtime(async {
        let (mut stream, mut peer) = pair().await;
        peer.write_all(b"one\r\nmuch too long\ntwo\nrest")
            .expect("write");
        let mut reader = FrameReader::new(&mut stream, Lines::new().max_line(4).decoder());
        assert_eq!(bytes(reader.next().await), b"one");
        let error = reader.next().await.expect_err("too long");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(error.to_string().contains('4'), "{error}");
        assert_eq!(bytes(reader.next().await), b"two");
        let (stream, rest) = reader.into_parts();
        let mut left = rest.to_vec();
        drop(peer);
        while let Some(more) = stream.receive().await.expect("receive") {
            left.extend_from_slice(&more);
        }
        assert_eq!(left, b"rest");
    });
}

/// A stream whose buffers are there at once.
struct Ready(VecDeque<&'static str>);

impl Receive for Ready {
    fn receive(&mut self) -> impl Future<Output = io::Result<Option<Buffer>>> + Send {
        std::future::ready(Ok(self.0.pop_front().map(Buffer::from)))
    }
}

#[test]
fn anything_that_receives_buffers_is_a_stream_of_lines() {
    let pieces = ["G", "ET /\r", "\nHost: a\r\n\r", "\n"];
    let mut reader = FrameReader::new(Ready(pieces.into()), Lines::new().decoder());
    on_runtime(async {
        for line in ["GET /", "Host: a", ""] {
            assert_eq!(bytes(reader.next().await), line.as_bytes());
        }
        assert!(reader.next().await.expect("the end").is_none());
    });
}
