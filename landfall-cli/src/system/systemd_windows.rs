//! There is no service manager here that hands sockets over or is told: the variables say nothing.

use std::fmt::Display;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs, UdpSocket};

use crate::exit::Failure;
use crate::output::Log;

/// What is meant for this process alone.
pub const VARIABLES: [&str; 0] = [];

/// Sockets that were handed over: none.
#[derive(Debug, Default)]
pub struct Sockets;

impl Sockets {
    /// None.
    pub fn from_environment() -> Result<Self, Failure> {
        Ok(Self)
    }

    /// There is none.
    pub fn take_tcp(&mut self, _addresses: impl ToSocketAddrs) -> io::Result<Option<TcpListener>> {
        Ok(None)
    }

    /// There is none.
    pub fn take_udp(&mut self, _addresses: impl ToSocketAddrs) -> io::Result<Option<UdpSocket>> {
        Ok(None)
    }

    /// There is none.
    pub fn let_all_be_taken_again(&mut self) {}

    /// None has.
    pub fn has(&self, _address: SocketAddr, _is_udp: bool) -> bool {
        false
    }

    /// None is.
    pub fn in_the_way(&self, _listen: &str, _is_udp: bool, _error: &io::Error) -> Option<Failure> {
        None
    }

    /// There is none to be left.
    pub fn refuse_rest(&self) -> Result<(), Failure> {
        Ok(())
    }
}

/// Nobody is told.
pub fn ready(_log: &Log, _status: impl Display) {}

/// Nobody is told.
pub fn reloading(_log: &Log) {}

/// Nobody is told.
pub fn stopping(_log: &Log, _status: impl Display) {}
