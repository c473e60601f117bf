//! Messages: what the kernel is told of several buffers, or of a datagram and its address.

use std::net::SocketAddr;

use socket2::{SockAddr, SockAddrStorage};

use crate::buffer::Buffer;

/// A message header and what it points to, at an address of their own.
pub(super) struct Message {
    header: libc::msghdr,
    vectors: Vec<libc::iovec>,
    /// Where to, or where from.
    address: SockAddrStorage,
    /// Of the address to send to; 0: there is none.
    length: libc::socklen_t,
}

// SAFETY: the pointers lead to memory of buffers that the same operation owns, and into the message.
unsafe impl Send for Message {}

impl Message {
    fn new() -> Box<Self> {
        Box::new(Message {
            // SAFETY: a message header of zeroes is valid: no name, no vectors, no control data.
            header: unsafe { std::mem::zeroed() },
            vectors: Vec::new(),
            address: SockAddrStorage::zeroed(),
            length: 0,
        })
    }

    /// Points at what is left of `buffers` after `done` bytes.
    pub(super) fn gather(&mut self, buffers: &[Buffer], mut done: usize) -> *const libc::msghdr {
        self.vectors.clear();
        for buffer in buffers {
            let skip = done.min(buffer.len());
            done -= skip;
            if skip < buffer.len() {
                self.vectors.push(libc::iovec {
                    iov_base: buffer[skip..].as_ptr() as *mut libc::c_void,
                    iov_len: buffer.len() - skip,
                });
            }
        }
        // The kernel takes at most this many vectors (UIO_MAXIOV); the rest goes in the next round.
        self.vectors.truncate(1024);
        self.point(self.length)
    }

    /// Points at the spare capacity of a vector.
    pub(super) fn scatter(&mut self, buffer: &mut Vec<u8>) -> *mut libc::msghdr {
        let spare = buffer.spare_capacity_mut();
        self.vectors.clear();
        self.vectors.push(libc::iovec {
            iov_base: spare.as_mut_ptr().cast(),
            iov_len: spare.len(),
        });
        self.point(0)
    }

    /// As `scatter`, with room for the sender's address.
    pub(super) fn scatter_from(&mut self, buffer: &mut Vec<u8>) -> *mut libc::msghdr {
        self.scatter(buffer);
        self.point(self.address.size_of())
    }

    fn point(&mut self, length: libc::socklen_t) -> *mut libc::msghdr {
        self.header.msg_name = match length {
            0 => std::ptr::null_mut(),
            _ => (&raw mut self.address).cast(),
        };
        self.header.msg_namelen = length;
        self.header.msg_iov = self.vectors.as_mut_ptr();
        self.header.msg_iovlen = self.vectors.len() as _;
        &mut self.header
    }

    pub(super) fn truncated(&self) -> bool {
        self.header.msg_flags & libc::MSG_TRUNC != 0
    }

    /// The sender of the datagram that was received; `None` if none was.
    pub(super) fn peer(&mut self) -> Option<SocketAddr> {
        let storage = std::mem::replace(&mut self.address, SockAddrStorage::zeroed());
        // SAFETY: the storage holds an address of that length, or zeroes, which are none.
        unsafe { SockAddr::new(storage, self.header.msg_namelen) }.as_socket()
    }
}

/// Messages that operations have given back, for those to come: a datagram then takes no memory of
/// its own.
#[derive(Default)]
#[allow(
    clippy::vec_box,
    reason = "the kernel and the header itself point into a message"
)]
pub(super) struct Messages(Vec<Box<Message>>);

impl Messages {
    /// Kept at most, of some 200 bytes each, and the vectors that one of them may keep.
    const MOST: usize = 64;
    const MOST_VECTORS: usize = 16;

    pub(super) fn take(&mut self) -> Box<Message> {
        self.0.pop().unwrap_or_else(Message::new)
    }

    /// As `take`, for a datagram to an address.
    pub(super) fn take_to(&mut self, address: SocketAddr) -> Box<Message> {
        let mut message = self.take();
        let address = SockAddr::from(address);
        message.length = address.len();
        message.address = address.as_storage();
        message
    }

    pub(super) fn give_back(&mut self, mut message: Box<Message>) {
        if self.0.len() < Self::MOST && message.vectors.capacity() <= Self::MOST_VECTORS {
            message.length = 0;
            message.address = SockAddrStorage::zeroed();
            self.0.push(message);
        }
    }
}
