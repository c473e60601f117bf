//! Addresses where there are many.

use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};

/// An address in half the room of a [`SocketAddr`] for those that most have.
pub(crate) enum Address {
    V4(SocketAddrV4),
    V6(Box<SocketAddrV6>),
}

impl Address {
    pub(crate) fn get(&self) -> SocketAddr {
        match self {
            Address::V4(address) => (*address).into(),
            Address::V6(address) => (**address).into(),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(address) => Address::V4(address),
            SocketAddr::V6(address) => Address::V6(Box::new(address)),
        }
    }
}
