//! Whatever is done to a buffer, it is the bytes it was made of. The first byte says which form it
//! has, the next eight what is done to it.
#![no_main]

use bytes::Bytes;
use landfall::buffer::Buffer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&form, rest)) = input.split_first() else {
        return;
    };
    let (steps, bytes) = rest.split_at(rest.len().min(8));
    let mut buffer = match form % 2 {
        0 => Buffer::from(bytes.to_vec()),
        _ => Buffer::from(Bytes::copy_from_slice(bytes)),
    };
    let mut expected = bytes;
    for &step in steps {
        let count = usize::from(step >> 2);
        match step & 3 {
            0 if count <= expected.len() => {
                buffer.advance(count);
                expected = &expected[count..];
            }
            1 => {
                buffer.truncate(count);
                expected = &expected[..count.min(expected.len())];
            }
            2 => buffer = buffer.into_vec().into(),
            _ => buffer = buffer.into_bytes().into(),
        }
        assert_eq!(&buffer[..], expected);
    }
});
