//! What is sent, and therefore what must come back.
//!
//! Everything a connection sends is one stream, and every byte of it follows from the connection
//! and the position in its stream. So nothing has to be kept to check an echo, and bytes that come
//! back in the wrong place, or on the wrong connection, are noticed.

use std::fs;

use bytes::Bytes;

use crate::exit::Failure;

/// The bytes of all messages.
#[derive(Clone, Debug)]
pub enum Content {
    /// Bytes that differ for every connection, message and run.
    Pattern {
        /// What tells this run from others.
        seed: u64,
    },
    /// The same text in every message.
    Text(Bytes),
}

impl Content {
    /// Takes the message from the command line: a text, or the contents of `@FILE`.
    pub fn from_argument(message: &str) -> Result<Self, Failure> {
        let text = match message.strip_prefix('@') {
            None => Bytes::copy_from_slice(message.as_bytes()),
            Some(path) => {
                let text = fs::read(path)
                    .map_err(|error| Failure::usage(format!("cannot read {path}: {error}")))?;
                Bytes::from(text)
            }
        };
        if text.is_empty() {
            return Err(Failure::usage(format!(
                "the message `{message}` is empty: there would be nothing to send"
            )));
        }
        Ok(Self::Text(text))
    }

    /// `length` bytes of a connection's stream from `position` on. A text is never copied, and may
    /// be given out in pieces: at least one byte, at most `length`.
    pub fn piece(&self, connection: u64, position: u64, length: usize) -> Bytes {
        match self {
            Self::Pattern { .. } => {
                let mut bytes = vec![0; length];
                self.fill(connection, position, &mut bytes);
                Bytes::from(bytes)
            }
            Self::Text(text) => {
                let from = offset_in(text, position);
                text.slice(from..text.len().min(from + length))
            }
        }
    }

    /// The first of the received bytes that is not what a connection's stream has from `position`
    /// on.
    pub fn first_difference(
        &self,
        connection: u64,
        position: u64,
        received: &[u8],
    ) -> Option<Difference> {
        // Compared in pieces, so that no buffer is needed for the whole.
        let mut expected = [0; 256];
        let mut checked = 0;
        for piece in received.chunks(expected.len()) {
            let expected = &mut expected[..piece.len()];
            self.fill(connection, position + checked as u64, expected);
            if expected != piece {
                let at = expected
                    .iter()
                    .zip(piece)
                    .position(|(expected, received)| expected != received)?;
                return Some(Difference {
                    offset: checked + at,
                    expected: expected[at],
                    received: piece[at],
                });
            }
            checked += piece.len();
        }
        None
    }

    fn fill(&self, connection: u64, position: u64, out: &mut [u8]) {
        let mut filled = 0;
        while filled < out.len() {
            let here = position + filled as u64;
            let word;
            let source: &[u8] = match self {
                Self::Pattern { seed } => {
                    word = pattern_word(*seed, connection, here / 8).to_le_bytes();
                    &word[(here % 8) as usize..]
                }
                Self::Text(text) => &text[offset_in(text, here)..],
            };
            let count = source.len().min(out.len() - filled);
            out[filled..filled + count].copy_from_slice(&source[..count]);
            filled += count;
        }
    }
}

/// A byte that came back changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where, counted from the first byte compared.
    pub offset: usize,
    /// The byte that was sent.
    pub expected: u8,
    /// The byte that came back.
    pub received: u8,
}

fn offset_in(text: &Bytes, position: u64) -> usize {
    // Fits, being less than the length of a text in memory.
    (position % text.len() as u64) as usize
}

/// Eight bytes of the pattern: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), which turns
/// counters into words that share nothing visible.
fn pattern_word(seed: u64, connection: u64, index: u64) -> u64 {
    const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
    let mixed = mix(seed.wrapping_add(connection.wrapping_mul(GAMMA)));
    mix(mixed.wrapping_add(index.wrapping_add(1).wrapping_mul(GAMMA)))
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATTERN: Content = Content::Pattern { seed: 7 };

    #[test]
    fn an_echo_in_any_pieces_is_recognised() {
        let sent = PATTERN.piece(5, 0, 1000);
        for length in [1, 7, 8, 64, 999, 1000] {
            let mut position = 0;
            for piece in sent.chunks(length) {
                assert_eq!(PATTERN.first_difference(5, position, piece), None);
                position += piece.len() as u64;
            }
        }
    }

    #[test]
    fn a_changed_byte_is_found_where_it_is() {
        for at in [0, 63, 300, 999] {
            let mut echo = PATTERN.piece(5, 0, 1000).to_vec();
            let sent = echo[at];
            echo[at] ^= 1;
            let expected = Difference {
                offset: at,
                expected: sent,
                received: sent ^ 1,
            };
            assert_eq!(PATTERN.first_difference(5, 0, &echo), Some(expected));
        }
    }

    #[test]
    fn an_echo_of_another_connection_message_or_run_is_noticed() {
        let sent = PATTERN.piece(5, 0, 64);
        assert!(
            PATTERN.first_difference(6, 0, &sent).is_some(),
            "another connection"
        );
        assert!(
            PATTERN.first_difference(5, 64, &sent).is_some(),
            "another message"
        );
        assert!(
            Content::Pattern { seed: 8 }
                .first_difference(5, 0, &sent)
                .is_some(),
            "another run"
        );
    }

    #[test]
    fn swapped_words_are_noticed() {
        let mut echo = PATTERN.piece(5, 0, 64).to_vec();
        echo.rotate_left(8);
        assert_eq!(PATTERN.first_difference(5, 0, &echo).unwrap().offset, 0);
    }

    #[test]
    fn a_text_repeats_in_every_message() {
        let text = Content::from_argument("hello").unwrap();
        assert_eq!(text.piece(1, 0, 5), "hello");
        assert_eq!(text.piece(1, 7, 5), "llo");
        assert_eq!(text.first_difference(1, 3, b"lohellohe"), None);
        assert_eq!(text.first_difference(1, 3, b"lohelLohe").unwrap().offset, 5);
    }

    #[test]
    fn an_empty_or_unreadable_message_is_refused() {
        assert!(
            Content::from_argument("")
                .unwrap_err()
                .to_string()
                .contains("empty")
        );
        let refusal = Content::from_argument("@/no/such/file")
            .unwrap_err()
            .to_string();
        assert!(refusal.contains("cannot read /no/such/file"), "{refusal}");
    }
}
