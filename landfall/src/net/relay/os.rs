//! Moving bytes between sockets without the program seeing them, where the system can.

#[cfg(not(target_os = "linux"))]
pub(super) use elsewhere::{Pipe, Sockets};
#[cfg(target_os = "linux")]
pub(super) use linux::{Pipe, Sockets};

/// Whether this system can.
pub(super) const IS_SUPPORTED: bool = cfg!(target_os = "linux");

/// How many directions may take so many of this process's descriptors that a quarter of them is gone.
#[cfg(target_os = "linux")]
pub(super) fn usual_limit() -> usize {
    /// Of a direction: its pipe's, and one for each of its sockets.
    const DESCRIPTORS: u64 = 4;
    let directions = crate::driver::os::descriptor_limit() / 4 / DESCRIPTORS;
    usize::try_from(directions).unwrap_or(usize::MAX)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn usual_limit() -> usize {
    0
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::os::fd::OwnedFd;

    use rustix::io::Errno;
    use rustix::pipe::{
        PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice,
    };

    use crate::explained::explained;
    use crate::net::os::RESET;
    use crate::net::socket::Socket;

    /// Bytes that a pipe is to hold. The system's own 64 KiB cost half as much processor time again per byte,
    /// and more than this it grants to the superuser only (`docs/decisions/0006-relaying.md`).
    const CAPACITY: usize = 1024 * 1024;

    /// A pipe that holds fewer is what a user gets whose pipes have too many pages.
    const LEAST_CAPACITY: usize = 64 * 1024;

    /// Where the bytes rest between two sockets.
    #[derive(Debug)]
    pub(in crate::net::relay) struct Pipe {
        reader: OwnedFd,
        writer: OwnedFd,
    }

    impl Pipe {
        pub(in crate::net::relay) fn new() -> io::Result<Self> {
            if !ignores_broken_pipes() {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "this process would be ended by SIGPIPE, which splice(2) to a closed connection \
                     raises; ignore it",
                ));
            }
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
                .map_err(|error| explained("no pipe is to be had for zero copy", error.into()))?;
            // Where that is refused the pipe has what the system gave it.
            let _ = fcntl_setpipe_size(&writer, CAPACITY);
            if fcntl_getpipe_size(&writer)? < LEAST_CAPACITY {
                return Err(io::Error::new(
                    io::ErrorKind::QuotaExceeded,
                    "this user's pipes have as many pages as fs.pipe-user-pages-soft allows; raise it, \
                     or use fewer pipes",
                ));
            }
            Ok(Pipe { reader, writer })
        }
    }

    /// Whether `SIGPIPE` is ignored, as it is in programs of Rust that have not changed that. The call
    /// that splices has no flag against it.
    fn ignores_broken_pipes() -> bool {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        ignored.is_some_and(|mask| mask & 1 << (libc::SIGPIPE - 1) != 0)
    }

    /// The two sockets of a direction, as the system knows them.
    #[derive(Debug)]
    pub(in crate::net::relay) struct Sockets {
        from: OwnedFd,
        to: OwnedFd,
    }

    impl Sockets {
        /// Takes a descriptor of each. They do not block any more, which is nothing to the port.
        pub(in crate::net::relay) fn of(from: &Socket, to: &Socket) -> io::Result<Self> {
            let [from, to] = [from, to].map(|socket| {
                let fd = socket.handle.descriptor()?;
                rustix::io::ioctl_fionbio(&fd, true)?;
                Ok::<_, io::Error>(fd)
            });
            Ok(Sockets {
                from: from?,
                to: to?,
            })
        }

        /// Moves what is there into the empty pipe. 0 bytes: the stream has ended.
        pub(in crate::net::relay) fn fill(&self, pipe: &Pipe) -> io::Result<usize> {
            let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
            Ok(splice(
                &self.from,
                None,
                &pipe.writer,
                None,
                CAPACITY,
                flags,
            )?)
        }

        /// Moves so many bytes on that are in the pipe, or as many of them as there is room for. They go
        /// at once: nothing says that more will follow.
        pub(in crate::net::relay) fn drain(&self, pipe: &Pipe, bytes: usize) -> io::Result<usize> {
            let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
            match splice(&pipe.reader, None, &self.to, None, bytes, flags) {
                // This side has not ended its sending, so the other has cut the connection.
                Err(Errno::PIPE) => Err(io::Error::from_raw_os_error(RESET)),
                result => Ok(result?),
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use std::io;

    use crate::net::socket::Socket;

    /// There is none.
    #[derive(Debug)]
    pub(in crate::net::relay) enum Pipe {}

    impl Pipe {
        pub(in crate::net::relay) fn new() -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    #[derive(Debug)]
    pub(in crate::net::relay) struct Sockets;

    impl Sockets {
        pub(in crate::net::relay) fn of(_: &Socket, _: &Socket) -> io::Result<Self> {
            Ok(Sockets)
        }

        pub(in crate::net::relay) fn fill(&self, pipe: &Pipe) -> io::Result<usize> {
            match *pipe {}
        }

        pub(in crate::net::relay) fn drain(&self, pipe: &Pipe, _: usize) -> io::Result<usize> {
            match *pipe {}
        }
    }
}
