//! The clients, and what they check.

use fastrand::Rng;

use crate::driver::sim::{Flow, Network};

/// The byte at a place of a client's stream. Neighbours differ, and so do the streams of two
/// clients.
pub(super) fn pattern(client: usize, place: usize) -> u8 {
    let mixed =
        (place as u32 + 1).wrapping_mul(0x9e37_79b1) ^ (client as u32).wrapping_mul(0x85eb_ca6b);
    (mixed ^ mixed >> 15)
        .wrapping_mul(0x2c1b_3c6d)
        .to_be_bytes()[0]
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Manner {
    /// Sends everything, ends its stream, and reads to the end.
    Polite,
    /// As polite, but does not end its stream.
    Silent,
    /// Sends what goes and never reads.
    Stalled,
    /// Cuts the connection when it has sent so much.
    Cuts(usize),
    /// Closes when it has sent so much, whatever is still to come.
    Closes(usize),
}

pub(super) struct Peer {
    manner: Manner,
    to_send: usize,
    pub(super) connection: Option<usize>,
    pub(super) sent: usize,
    pub(super) received: usize,
    /// It sends nothing any more.
    shut: bool,
    /// How its connection ended, once it has seen that.
    pub(super) end: Option<Flow>,
}

impl Peer {
    pub(super) fn new(rng: &mut Rng) -> Self {
        let to_send = match rng.u8(..8) {
            0 => 0,
            1 => rng.usize(100..400),
            _ => rng.usize(1..100),
        };
        let some = rng.usize(..=to_send);
        let manner = match rng.u8(..20) {
            0..=11 => Manner::Polite,
            12..=14 => Manner::Silent,
            15 => Manner::Stalled,
            16..=17 => Manner::Cuts(some),
            _ => Manner::Closes(some),
        };
        Peer {
            manner,
            to_send,
            connection: None,
            sent: 0,
            received: 0,
            shut: false,
            end: None,
        }
    }

    /// Whether all that it sends has to come back.
    pub(super) fn expects_everything(&self) -> bool {
        matches!(self.manner, Manner::Polite | Manner::Silent)
    }

    /// Does one thing, if there is something to do.
    pub(super) fn act(&mut self, network: &Network, rng: &mut Rng) -> bool {
        let Some(connection) = self.connection else {
            self.connection = network.connect(rng.usize(..));
            return self.connection.is_some();
        };
        let both = [Self::send, Self::receive];
        let first = rng.usize(..2);
        both[first](self, connection, network, rng)
            || both[1 - first](self, connection, network, rng)
    }

    fn send(&mut self, connection: usize, network: &Network, rng: &mut Rng) -> bool {
        if self.shut {
            return false;
        }
        match self.manner {
            Manner::Cuts(after) if self.sent >= after => {
                network.reset(connection);
                self.shut = true;
                return true;
            }
            Manner::Closes(after) if self.sent >= after => {
                network.close(connection);
                self.shut = true;
                self.end = Some(Flow::Ended);
                return true;
            }
            _ if self.sent < self.to_send => {}
            Manner::Polite => {
                network.shut(connection);
                self.shut = true;
                return true;
            }
            _ => return false,
        }
        let most = rng.usize(1..=self.to_send - self.sent);
        let bytes: Vec<u8> = (self.sent..self.sent + most)
            .map(|place| pattern(connection, place))
            .collect();
        match network.write(connection, &bytes) {
            Flow::Bytes(count) => {
                self.sent += count;
                count > 0
            }
            _ => {
                self.shut = true;
                true
            }
        }
    }

    fn receive(&mut self, connection: usize, network: &Network, rng: &mut Rng) -> bool {
        if self.end.is_some() || self.manner == Manner::Stalled {
            return false;
        }
        self.receive_up_to(connection, network, rng.usize(1..64))
    }

    fn receive_up_to(&mut self, connection: usize, network: &Network, most: usize) -> bool {
        let (flow, bytes) = network.read(connection, most);
        for byte in bytes {
            assert!(
                self.received < self.sent && byte == pattern(connection, self.received),
                "the stream of connection {connection} is not what was sent from byte {} of {} on",
                self.received,
                self.sent
            );
            self.received += 1;
        }
        match flow {
            Flow::Bytes(count) => count > 0,
            end => {
                self.end = Some(end);
                true
            }
        }
    }

    /// Reads what is left, now that everything is over.
    pub(super) fn finish(&mut self, network: &Network) {
        let Some(connection) = self.connection else {
            return;
        };
        while self.end.is_none() && self.receive_up_to(connection, network, usize::MAX) {}
        assert!(
            self.end.is_some(),
            "connection {connection} stays open for ever"
        );
    }
}
