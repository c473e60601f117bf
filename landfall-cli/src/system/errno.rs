//! Names of system errors, as the manual pages spell them, and which of them are a limit of this
//! machine.

use std::error::Error;
use std::io;
use std::iter;

use rustix::io::Errno;

/// The errors a TCP client can meet; anything else is shown by its number.
const NAMES: &[(Errno, &str)] = &[
    (Errno::ACCESS, "EACCES"),
    (Errno::ADDRINUSE, "EADDRINUSE"),
    (Errno::ADDRNOTAVAIL, "EADDRNOTAVAIL"),
    (Errno::AGAIN, "EAGAIN"),
    (Errno::BADF, "EBADF"),
    (Errno::CANCELED, "ECANCELED"),
    (Errno::CONNABORTED, "ECONNABORTED"),
    (Errno::CONNREFUSED, "ECONNREFUSED"),
    (Errno::CONNRESET, "ECONNRESET"),
    (Errno::HOSTDOWN, "EHOSTDOWN"),
    (Errno::HOSTUNREACH, "EHOSTUNREACH"),
    (Errno::INVAL, "EINVAL"),
    (Errno::MFILE, "EMFILE"),
    (Errno::NETDOWN, "ENETDOWN"),
    (Errno::NETRESET, "ENETRESET"),
    (Errno::NETUNREACH, "ENETUNREACH"),
    (Errno::NFILE, "ENFILE"),
    (Errno::NOBUFS, "ENOBUFS"),
    (Errno::NOMEM, "ENOMEM"),
    (Errno::NOTCONN, "ENOTCONN"),
    (Errno::PERM, "EPERM"),
    (Errno::PIPE, "EPIPE"),
    (Errno::TIMEDOUT, "ETIMEDOUT"),
];

/// Errors that speak of this machine's own bounds, not of the peer or the way to it.
const LOCAL_LIMITS: &[Errno] = &[
    Errno::ADDRNOTAVAIL,
    Errno::MFILE,
    Errno::NFILE,
    Errno::NOBUFS,
    Errno::NOMEM,
];

/// The name of a system error: `ECONNRESET`, or `errno 999` for one without a name here.
pub fn name(code: i32) -> String {
    let known = NAMES.iter().find(|(errno, _)| errno.raw_os_error() == code);
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
    LOCAL_LIMITS
        .iter()
        .any(|errno| errno.raw_os_error() == code)
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    #[test]
    fn errors_have_their_manual_names() {
        assert_eq!(name(Errno::CONNREFUSED.raw_os_error()), "ECONNREFUSED");
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
        let plain = io::Error::from(Errno::MFILE);
        assert_eq!(code(&plain), Some(Errno::MFILE.raw_os_error()));
        let explained = io::Error::new(plain.kind(), Explained(plain));
        assert_eq!(code(&explained), Some(Errno::MFILE.raw_os_error()));
        assert_eq!(code(&io::Error::other("no system said so")), None);
    }

    #[test]
    fn a_limit_of_this_machine_is_not_blamed_on_the_peer() {
        assert!(is_local_limit(Errno::MFILE.raw_os_error()));
        assert!(!is_local_limit(Errno::CONNREFUSED.raw_os_error()));
    }
}
