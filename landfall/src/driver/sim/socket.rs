//! What the driver keeps of each socket.

use std::collections::VecDeque;

use crate::driver::direction::{Direction, Held};

pub(super) struct Socket {
    pub(super) lane: u32,
    pub(super) role: Role,
    pub(super) receives: Direction,
    /// Sends, and what must keep its order with them: connects and shutdowns.
    pub(super) sends: Direction,
    /// What a send has failed with: later ones end with it.
    pub(super) broken: Option<i32>,
    pub(super) held: Held,
    /// Closed as soon as it has no operation any more.
    pub(super) closing: bool,
    /// Closing it resets the connection.
    pub(super) resets_at_close: bool,
}

/// What a socket is at its other side.
pub(super) enum Role {
    Unconnected,
    /// With the connections that have not been accepted.
    Listener(VecDeque<usize>),
    Stream(usize),
    Closed,
}

impl Socket {
    pub(super) fn new(lane: u32, role: Role) -> Self {
        Socket {
            lane,
            role,
            receives: Direction::default(),
            sends: Direction::default(),
            broken: None,
            held: Held::default(),
            closing: false,
            resets_at_close: false,
        }
    }

    pub(super) fn listens(&self) -> bool {
        matches!(self.role, Role::Listener(_))
    }
}
