//! One code for each outcome, whichever way the system reports it.
//!
//! A call that fails at once gives a code of Winsock's, a packet gives a status of the kernel's,
//! and some of the codes made from such a status (`ERROR_NETNAME_DELETED` for a reset) are ones
//! that [`std::io::ErrorKind`] does not know. Programs see those of Winsock.

use windows_sys::Win32::Foundation::{
    ERROR_CONNECTION_ABORTED, ERROR_CONNECTION_REFUSED, ERROR_HOST_UNREACHABLE, ERROR_MORE_DATA,
    ERROR_NETNAME_DELETED, ERROR_NETWORK_UNREACHABLE, ERROR_PORT_UNREACHABLE, ERROR_SEM_TIMEOUT,
    NTSTATUS, RtlNtStatusToDosError, STATUS_BUFFER_OVERFLOW, STATUS_INVALID_BUFFER_SIZE,
};
use windows_sys::Win32::Networking::WinSock::{
    WSAECONNABORTED, WSAECONNREFUSED, WSAECONNRESET, WSAEHOSTUNREACH, WSAEINVAL, WSAEMSGSIZE,
    WSAENETUNREACH, WSAETIMEDOUT,
};

#[cfg(landfall_broken)]
use crate::driver::broken::{self, Broken};

/// The code of a packet's status; 0 for success.
pub(super) fn of_status(status: usize) -> i32 {
    // The low half is the status, of either sign.
    let status = status as u32 as NTSTATUS;
    if status >= 0 {
        return 0;
    }
    if matches!(status, STATUS_BUFFER_OVERFLOW | STATUS_INVALID_BUFFER_SIZE) {
        return WSAEMSGSIZE;
    }
    // SAFETY: takes and returns a number.
    of_error(unsafe { RtlNtStatusToDosError(status) } as i32)
}

/// The code of a failed call.
pub(super) fn of_error(code: i32) -> i32 {
    #[cfg(landfall_broken)]
    if broken::is(Broken::RawCodes) {
        return code;
    }
    match u32::try_from(code).unwrap_or(0) {
        ERROR_NETNAME_DELETED => WSAECONNRESET,
        ERROR_CONNECTION_REFUSED => WSAECONNREFUSED,
        ERROR_PORT_UNREACHABLE => WSAECONNRESET,
        ERROR_CONNECTION_ABORTED => WSAECONNABORTED,
        ERROR_NETWORK_UNREACHABLE => WSAENETUNREACH,
        ERROR_HOST_UNREACHABLE => WSAEHOSTUNREACH,
        ERROR_SEM_TIMEOUT => WSAETIMEDOUT,
        ERROR_MORE_DATA => WSAEMSGSIZE,
        _ => code,
    }
}

/// The code of a failure that the standard library or `socket2` reports.
pub(super) fn of(error: &std::io::Error) -> i32 {
    // What has no code of the system's is refused by a wrapper of a call.
    error.raw_os_error().map_or(WSAEINVAL, of_error)
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use windows_sys::Win32::Foundation::{
        STATUS_CONNECTION_REFUSED, STATUS_CONNECTION_RESET, STATUS_SUCCESS,
    };

    use super::*;

    fn kind(code: i32) -> ErrorKind {
        Error::from_raw_os_error(code).kind()
    }

    #[test]
    fn an_outcome_has_one_kind_whichever_way_it_is_reported() {
        let status = |status: NTSTATUS| of_status(status as u32 as usize);
        assert_eq!(status(STATUS_SUCCESS), 0);
        assert_eq!(
            kind(status(STATUS_CONNECTION_RESET)),
            ErrorKind::ConnectionReset
        );
        assert_eq!(kind(of_error(WSAECONNRESET)), ErrorKind::ConnectionReset);
        assert_eq!(
            kind(of_error(ERROR_NETNAME_DELETED as i32)),
            ErrorKind::ConnectionReset
        );
        assert_eq!(
            kind(status(STATUS_CONNECTION_REFUSED)),
            ErrorKind::ConnectionRefused
        );
        assert_eq!(status(STATUS_BUFFER_OVERFLOW), WSAEMSGSIZE);
        assert_eq!(status(STATUS_INVALID_BUFFER_SIZE), WSAEMSGSIZE);
    }
}
