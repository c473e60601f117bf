//! Buffers: owned by the program, by an operation, or by a pool, one at a time.

mod pool;

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;

pub(crate) use pool::Pool;
pub use pool::PooledBuffer;

/// Memory that goes into an operation and comes back with its completion.
///
/// ```
/// use landfall::buffer::Buffer;
///
/// let mut buffer = Buffer::from("hello, world");
/// buffer.advance(7);
/// assert_eq!(&buffer[..], b"world");
/// ```
#[non_exhaustive]
pub enum Buffer {
    /// A vector.
    Vec(Vec<u8>),
    /// A vector whose first bytes have been used.
    Rest(VecRest),
    /// Shared bytes.
    Bytes(Bytes),
    /// A buffer of a port's pool.
    Pooled(PooledBuffer),
    /// Bytes that live as long as the program.
    Static(&'static [u8]),
}

/// A vector whose first bytes have been used; made by [`Buffer::advance`].
pub struct VecRest {
    vec: Vec<u8>,
    start: usize,
}

impl fmt::Debug for VecRest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VecRest({} bytes)", self.vec.len() - self.start)
    }
}

impl Buffer {
    /// Gives the first `count` bytes up.
    ///
    /// # Panics
    ///
    /// When the buffer is shorter.
    pub fn advance(&mut self, count: usize) {
        assert!(
            count <= self.len(),
            "advanced {count} of {} bytes",
            self.len()
        );
        match self {
            Buffer::Vec(vec) => {
                *self = Buffer::Rest(VecRest {
                    vec: std::mem::take(vec),
                    start: count,
                });
            }
            Buffer::Rest(rest) => rest.start += count,
            Buffer::Bytes(bytes) => *bytes = bytes.split_off(count),
            Buffer::Pooled(pooled) => pooled.advance(count),
            Buffer::Static(bytes) => *bytes = &bytes[count..],
        }
    }

    /// Keeps the first `length` bytes; does nothing when there are no more.
    pub fn truncate(&mut self, length: usize) {
        if length >= self.len() {
            return;
        }
        match self {
            Buffer::Vec(vec) => vec.truncate(length),
            Buffer::Rest(rest) => rest.vec.truncate(rest.start + length),
            Buffer::Bytes(bytes) => bytes.truncate(length),
            Buffer::Pooled(pooled) => pooled.truncate(length),
            Buffer::Static(bytes) => *bytes = &bytes[..length],
        }
    }

    /// Takes the first `count` bytes out, and keeps the rest.
    ///
    /// A whole buffer is moved out as it is, and a part of one shares its memory with the rest. Only a
    /// part of a pooled buffer is copied, together with the rest, so that the pool has the buffer back
    /// and the next part is free.
    ///
    /// ```
    /// use landfall::buffer::Buffer;
    ///
    /// let mut buffer = Buffer::from("hello, world");
    /// assert_eq!(&buffer.split_to(5)[..], b"hello");
    /// assert_eq!(&buffer[..], b", world");
    /// ```
    ///
    /// # Panics
    ///
    /// When the buffer is shorter.
    #[must_use = "what was split off is lost; `advance` says so"]
    pub fn split_to(&mut self, count: usize) -> Buffer {
        assert!(
            count <= self.len(),
            "split {count} off {} bytes",
            self.len()
        );
        if count == self.len() {
            return std::mem::take(self);
        }
        if count == 0 {
            return Buffer::default();
        }
        if let Buffer::Static(bytes) = self {
            let (first, rest) = bytes.split_at(count);
            *bytes = rest;
            return Buffer::Static(first);
        }
        let mut bytes = std::mem::take(self).into_bytes();
        let first = bytes.split_to(count);
        *self = Buffer::Bytes(bytes);
        Buffer::Bytes(first)
    }

    /// The bytes as a vector: the same one if it was one, a copy otherwise.
    pub fn into_vec(self) -> Vec<u8> {
        match self {
            Buffer::Vec(vec) => vec,
            Buffer::Rest(mut rest) => {
                rest.vec.drain(..rest.start);
                rest.vec
            }
            Buffer::Bytes(bytes) => bytes.into(),
            other => other.to_vec(),
        }
    }

    /// The bytes as shared bytes, without copying unless they are pooled.
    pub fn into_bytes(self) -> Bytes {
        match self {
            Buffer::Vec(vec) => vec.into(),
            Buffer::Rest(rest) => Bytes::from(rest.vec).split_off(rest.start),
            Buffer::Bytes(bytes) => bytes,
            Buffer::Static(bytes) => Bytes::from_static(bytes),
            Buffer::Pooled(pooled) => Bytes::copy_from_slice(&pooled),
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Buffer::Vec(vec) => vec,
            Buffer::Rest(rest) => &rest.vec[rest.start..],
            Buffer::Bytes(bytes) => bytes,
            Buffer::Pooled(pooled) => pooled,
            Buffer::Static(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for Buffer {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Buffer::Static(&[])
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Buffer::Vec(_) | Buffer::Rest(_) => "Vec",
            Buffer::Bytes(_) => "Bytes",
            Buffer::Pooled(_) => "Pooled",
            Buffer::Static(_) => "Static",
        };
        write!(f, "Buffer::{kind}({} bytes)", self.len())
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(vec: Vec<u8>) -> Self {
        Buffer::Vec(vec)
    }
}

impl From<String> for Buffer {
    fn from(text: String) -> Self {
        Buffer::Vec(text.into_bytes())
    }
}

impl From<Bytes> for Buffer {
    fn from(bytes: Bytes) -> Self {
        Buffer::Bytes(bytes)
    }
}

impl From<PooledBuffer> for Buffer {
    fn from(pooled: PooledBuffer) -> Self {
        Buffer::Pooled(pooled)
    }
}

impl From<&'static [u8]> for Buffer {
    fn from(bytes: &'static [u8]) -> Self {
        Buffer::Static(bytes)
    }
}

impl<const N: usize> From<&'static [u8; N]> for Buffer {
    fn from(bytes: &'static [u8; N]) -> Self {
        Buffer::Static(bytes)
    }
}

impl From<&'static str> for Buffer {
    fn from(text: &'static str) -> Self {
        Buffer::Static(text.as_bytes())
    }
}

/// A vector into whose spare capacity the system has written so many bytes. Only a driver knows
/// that it has.
pub(crate) fn filled(mut vec: Vec<u8>, bytes: usize) -> Vec<u8> {
    assert!(
        bytes <= vec.capacity() - vec.len(),
        "received past the end of the buffer"
    );
    // SAFETY: the kernel has written that many bytes from the vector's length on, which its
    // capacity covers.
    unsafe { vec.set_len(vec.len() + bytes) };
    vec
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    #[test]
    fn every_form_advances_truncates_and_converts_alike() {
        let forms: [fn() -> Buffer; 3] = [
            || b"0123456789".to_vec().into(),
            || Bytes::from_static(b"0123456789").into(),
            || b"0123456789".into(),
        ];
        for form in forms {
            let mut buffer = form();
            buffer.advance(2);
            buffer.advance(1);
            buffer.truncate(5);
            buffer.truncate(50);
            assert_eq!(&buffer[..], b"34567");
            assert_eq!(buffer.into_vec(), b"34567");
            let mut buffer = form();
            buffer.advance(8);
            assert_eq!(&buffer.into_bytes()[..], b"89");
        }
    }

    #[test]
    #[should_panic(expected = "advanced 4 of 3 bytes")]
    fn advancing_past_the_end_panics() {
        Buffer::from("abc").advance(4);
    }

    /// Something that is done to a buffer.
    #[derive(Clone, Debug)]
    enum Step {
        Advance(Index),
        Truncate(usize),
        /// Its first bytes go elsewhere.
        SplitTo(Index),
        /// Becomes another form of the same bytes.
        IntoVec,
        IntoBytes,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            any::<Index>().prop_map(Step::Advance),
            (0..150usize).prop_map(Step::Truncate),
            any::<Index>().prop_map(Step::SplitTo),
            Just(Step::IntoVec),
            Just(Step::IntoBytes),
        ]
    }

    const PIECE: usize = 100;

    /// A buffer of a pool, filled.
    fn pooled(bytes: &[u8], pool: &Pool) -> Buffer {
        let mut buffer = pool.take().expect("a free piece");
        buffer.truncate(bytes.len());
        buffer.copy_from_slice(bytes);
        buffer.into()
    }

    proptest! {
        #[test]
        fn every_form_is_the_bytes_it_was_made_of_whatever_is_done_to_it(
            bytes in prop::collection::vec(any::<u8>(), 0..=PIECE),
            form in 0..4,
            steps in prop::collection::vec(step(), 0..12),
        ) {
            let pool = Pool::new(PIECE, 3).expect("memory");
            let mut buffer = match form {
                0 => Buffer::from(bytes.clone()),
                1 => Buffer::from(Bytes::from(bytes.clone())),
                2 => Buffer::Static(bytes.clone().leak()),
                _ => pooled(&bytes, &pool),
            };
            let mut expected = &bytes[..];
            for step in steps {
                match step {
                    Step::Advance(count) => {
                        let count = count.index(expected.len() + 1);
                        buffer.advance(count);
                        expected = &expected[count..];
                    }
                    Step::Truncate(length) => {
                        buffer.truncate(length);
                        expected = &expected[..length.min(expected.len())];
                    }
                    Step::SplitTo(count) => {
                        let (first, rest) = expected.split_at(count.index(expected.len() + 1));
                        prop_assert_eq!(&buffer.split_to(first.len())[..], first);
                        expected = rest;
                    }
                    Step::IntoVec => buffer = buffer.into_vec().into(),
                    Step::IntoBytes => buffer = buffer.into_bytes().into(),
                }
                prop_assert_eq!(&buffer[..], expected);
            }
            drop(buffer);
            // However it went, it is back once.
            prop_assert_eq!(pool.free(), 3);
        }
    }
}
