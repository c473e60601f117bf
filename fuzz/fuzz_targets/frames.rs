//! Frames are the same in whatever pieces their bytes come, and none of the bytes are lost. The first byte
//! says which codec it is, the second how long the pieces are.
#![no_main]

use landfall::buffer::Buffer;
use landfall::frame::{Decode, Encode, LengthPrefix, Lines};
use libfuzzer_sys::fuzz_target;

const MAX: usize = 100;

fuzz_target!(|input: &[u8]| {
    let Some((&[choice, piece], bytes)) = input.split_first_chunk() else {
        return;
    };
    let piece = 1 + usize::from(piece);
    let width = 1 + usize::from(choice / 4 % 8);
    match choice % 4 {
        0 => check_length(LengthPrefix::big_endian(width), bytes, piece),
        1 => check_length(LengthPrefix::little_endian(width), bytes, piece),
        _ => check_lines(bytes, piece),
    }
});

/// Frames, and `None` for one that is too long.
type Frames = Vec<Option<Vec<u8>>>;

/// What comes of bytes in pieces of one length, and what is left in the end. No more is asked for after
/// `errors` errors.
fn decode<D>(decoder: &mut D, bytes: &[u8], piece: usize, errors: usize) -> (Frames, Vec<u8>)
where
    D: Decode<Frame = Buffer>,
{
    let mut frames = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (piece, others) = rest.split_at(piece.min(rest.len()));
        rest = others;
        let mut input = Buffer::from(piece.to_vec());
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(frame)) => frames.push(Some(frame.to_vec())),
                Ok(None) => break assert!(input.is_empty()),
                Err(_) => frames.push(None),
            }
            if frames.iter().filter(|frame| frame.is_none()).count() == errors {
                return (frames, [&decoder.take_partial(), &input[..], rest].concat());
            }
        }
    }
    let partial = decoder.end().is_err();
    let rest = decoder.take_partial();
    assert_eq!(partial, !rest.is_empty());
    (frames, rest)
}

fn check_length(prefix: LengthPrefix, bytes: &[u8], piece: usize) {
    let prefix = prefix.max_frame(MAX);
    let (frames, rest) = decode(&mut prefix.decoder(), bytes, piece, 1);
    let mut parts = Vec::new();
    for frame in frames.into_iter().flatten() {
        let encoded = prefix.encode(frame.into(), &mut parts);
        encoded.expect("what was received can be sent");
    }
    parts.push(rest.into());
    let all: Vec<u8> = parts.iter().flat_map(|part| part.to_vec()).collect();
    assert_eq!(all, bytes);
}

fn check_lines(bytes: &[u8], piece: usize) {
    let codec = Lines::new().max_line(MAX);
    let (lines, rest) = decode(&mut codec.decoder(), bytes, piece, usize::MAX);
    let mut expected: Frames = bytes.split(|&byte| byte == b'\n').map(line).collect();
    let last = expected.pop().expect("always one");
    if last.is_none() {
        expected.push(None);
    }
    assert_eq!(lines, expected);
    if last.is_some() {
        let begins = bytes
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |end| end + 1);
        assert_eq!(rest, &bytes[begins..]);
    }
    for line in lines
        .into_iter()
        .flatten()
        .filter(|line| !line.ends_with(b"\r"))
    {
        let encoded = codec.encode(line.into(), &mut Vec::new());
        encoded.expect("what was received can be sent");
    }
}

/// A line as the simplest of readers finds it.
fn line(bytes: &[u8]) -> Option<Vec<u8>> {
    let line = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    (line.len() <= MAX).then(|| line.to_vec())
}
