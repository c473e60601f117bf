//! Names of system errors, as the manual pages spell them, and which of them are a limit of this
//! machine.

use std::error::Error;
use std::io;
use std::iter;

/// What the system calls each of them by number.
#[cfg(unix)]
mod codes {
    use rustix::io::Errno;

    pub const ACCESS: i32 = Errno::ACCESS.raw_os_error();
    pub const ADDRINUSE: i32 = Errno::ADDRINUSE.raw_os_error();
    pub const ADDRNOTAVAIL: i32 = Errno::ADDRNOTAVAIL.raw_os_error();
    pub const AGAIN: i32 = Errno::AGAIN.raw_os_error();
    pub const BADF: i32 = Errno::BADF.raw_os_error();
    pub const CANCELED: i32 = Errno::CANCELED.raw_os_error();
    pub const CONNABORTED: i32 = Errno::CONNABORTED.raw_os_error();
    pub const CONNREFUSED: i32 = Errno::CONNREFUSED.raw_os_error();
    pub const CONNRESET: i32 = Errno::CONNRESET.raw_os_error();
    pub const HOSTDOWN: i32 = Errno::HOSTDOWN.raw_os_error();
    pub const HOSTUNREACH: i32 = Errno::HOSTUNREACH.raw_os_error();
    pub const INVAL: i32 = Errno::INVAL.raw_os_error();
    pub const MFILE: i32 = Errno::MFILE.raw_os_error();
    pub const NETDOWN: i32 = Errno::NETDOWN.raw_os_error();
    pub const NETRESET: i32 = Errno::NETRESET.raw_os_error();
    pub const NETUNREACH: i32 = Errno::NETUNREACH.raw_os_error();
    pub const NFILE: i32 = Errno::NFILE.raw_os_error();
    pub const NOBUFS: i32 = Errno::NOBUFS.raw_os_error();
    pub const NOMEM: i32 = Errno::NOMEM.raw_os_error();
    pub const NOTCONN: i32 = Errno::NOTCONN.raw_os_error();
    pub const PERM: i32 = Errno::PERM.raw_os_error();
    pub const PIPE: i32 = Errno::PIPE.raw_os_error();
    pub const TIMEDOUT: i32 = Errno::TIMEDOUT.raw_os_error();
}

/// The codes of Winsock, and of Windows where it has none.
#[cfg(windows)]
mod codes {
    pub const ACCESS: i32 = 10_013;
    pub const ADDRINUSE: i32 = 10_048;
    pub const ADDRNOTAVAIL: i32 = 10_049;
    pub const AGAIN: i32 = 10_035;
    pub const BADF: i32 = 10_009;
    pub const CANCELED: i32 = 995;
    pub const CONNABORTED: i32 = 10_053;
    pub const CONNREFUSED: i32 = 10_061;
    pub const CONNRESET: i32 = 10_054;
    pub const HOSTDOWN: i32 = 10_064;
    pub const HOSTUNREACH: i32 = 10_065;
    pub const INVAL: i32 = 10_022;
    pub const MFILE: i32 = 10_024;
    pub const NETDOWN: i32 = 10_050;
    pub const NETRESET: i32 = 10_052;
    pub const NETUNREACH: i32 = 10_051;
    pub const NFILE: i32 = 4;
    pub const NOBUFS: i32 = 10_055;
    pub const NOMEM: i32 = 8;
    pub const NOTCONN: i32 = 10_057;
    pub const PERM: i32 = 5;
    pub const PIPE: i32 = 10_058;
    pub const TIMEDOUT: i32 = 10_060;
}

pub use codes::{
    ACCESS, ADDRNOTAVAIL, CONNREFUSED, CONNRESET, HOSTDOWN, HOSTUNREACH, NETUNREACH, PERM,
};
#[cfg(test)]
pub use codes::{MFILE, NOBUFS};

/// The errors a TCP client can meet; anything else is shown by its number.
const NAMES: &[(i32, &str)] = &[
    (codes::ACCESS, "EACCES"),
    (codes::ADDRINUSE, "EADDRINUSE"),
    (codes::ADDRNOTAVAIL, "EADDRNOTAVAIL"),
    (codes::AGAIN, "EAGAIN"),
    (codes::BADF, "EBADF"),
    (codes::CANCELED, "ECANCELED"),
    (codes::CONNABORTED, "ECONNABORTED"),
    (codes::CONNREFUSED, "ECONNREFUSED"),
    (codes::CONNRESET, "ECONNRESET"),
    (codes::HOSTDOWN, "EHOSTDOWN"),
    (codes::HOSTUNREACH, "EHOSTUNREACH"),
    (codes::INVAL, "EINVAL"),
    (codes::MFILE, "EMFILE"),
    (codes::NETDOWN, "ENETDOWN"),
    (codes::NETRESET, "ENETRESET"),
    (codes::NETUNREACH, "ENETUNREACH"),
    (codes::NFILE, "ENFILE"),
    (codes::NOBUFS, "ENOBUFS"),
    (codes::NOMEM, "ENOMEM"),
    (codes::NOTCONN, "ENOTCONN"),
    (codes::PERM, "EPERM"),
    (codes::PIPE, "EPIPE"),
    (codes::TIMEDOUT, "ETIMEDOUT"),
];

/// Errors that speak of this machine's own bounds, not of the peer or the way to it.
const LOCAL_LIMITS: &[i32] = &[
    codes::ADDRNOTAVAIL,
    // A thread more than the system allows.
    codes::AGAIN,
    codes::MFILE,
    codes::NFILE,
    codes::NOBUFS,
    codes::NOMEM,
];

/// The name of a system error: `ECONNRESET`, or `errno 999` for one without a name here.
pub fn name(code: i32) -> String {
    let known = NAMES.iter().find(|(known, _)| *known == code);
    known.map_or_else(|| format!("errno {code}"), |(_, name)| (*name).to_owned())
}

/// The system's code: the error's own, or that of the first of its sources to have one, where it has
/// been explained.
pub fn code(error: &io::Error) -> Option<i32> {
    let first: &(dyn Error + 'static) = error;
    iter::successors(Some(first), |&error| error.source())
        .find_map(|error| error.downcast_ref::<io::Error>()?.raw_os_error())
}

/// Whether a system error means that this machine ran out of something.
pub fn is_local_limit(code: i32) -> bool {
    LOCAL_LIMITS.contains(&code)
}

/// Whether a system error means that no descriptor was left.
pub fn is_out_of_descriptors(error: &io::Error) -> bool {
    code(error).is_some_and(|code| [codes::MFILE, codes::NFILE].contains(&code))
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    #[test]
    fn errors_have_their_manual_names() {
        assert_eq!(name(codes::CONNREFUSED), "ECONNREFUSED");
        assert_eq!(name(9999), "errno 9999");
    }

    #[test]
    fn the_code_of_an_explained_error_is_that_of_its_source() {
        #[derive(Debug)]
        struct Explained(io::Error);
        impl fmt::Display for Explained {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "raise the limit: {}", self.0)
            }
        }
        impl Error for Explained {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.0)
            }
        }
        let plain = io::Error::from_raw_os_error(codes::MFILE);
        assert_eq!(code(&plain), Some(codes::MFILE));
        let explained = io::Error::new(plain.kind(), Explained(plain));
        assert_eq!(code(&explained), Some(codes::MFILE));
        assert_eq!(code(&io::Error::other("no system said so")), None);
    }

    #[test]
    fn a_limit_of_this_machine_is_not_blamed_on_the_peer() {
        assert!(is_local_limit(codes::MFILE));
        assert!(!is_local_limit(codes::CONNREFUSED));
    }
}
