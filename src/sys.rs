//! System calls that need `unsafe`, and nothing else: the only file of the crate that may contain it.
//! No policy, no branching on what a call returned; every block says why it is sound.
//! Called by `proxy::core`, `proxy::stream` and `proxy::tunnels`.

#![expect(unsafe_code, reason = "the one place for it; every block below states why it is sound")]

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd};

/// What the kernel knows about the acknowledgements of one TCP connection (tcp(7), `TCP_INFO`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Acknowledgement {
    /// Something that was sent waits for its acknowledgement: data in flight, or an unanswered window or keep-alive probe.
    pub(crate) outstanding: bool,
    /// Milliseconds since the last acknowledgement arrived.
    pub(crate) last_ack_ms: u32,
}

/// Reads `TCP_INFO`.
pub(crate) fn acknowledgement(fd: BorrowedFd<'_>) -> io::Result<Acknowledgement> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length =
        libc::socklen_t::try_from(size_of::<libc::tcp_info>()).unwrap_or(libc::socklen_t::MAX);
    // SAFETY: the pointer and the length describe `info`, which lives until after the call; the kernel writes at most `length` bytes.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: every field is an integer, for which all-zero bytes and whatever the kernel wrote over them are valid.
    let info = unsafe { info.assume_init() };
    Ok(Acknowledgement {
        outstanding: info.tcpi_unacked > 0 || info.tcpi_probes > 0,
        last_ack_ms: info.tcpi_last_ack_recv,
    })
}

/// Bytes in the send queue of a socket that the peer has not acknowledged yet (tcp(7), `SIOCOUTQ`).
pub(crate) fn send_queue_bytes(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut queued: libc::c_int = 0;
    // SAFETY: SIOCOUTQ (the same number as TIOCOUTQ) writes one int through the pointer, which is valid for the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut queued) };
    if result == 0 {
        Ok(u32::try_from(queued).unwrap_or(0))
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Has a listener keep connections to itself that have sent nothing, for `seconds` at least (tcp(7), `TCP_DEFER_ACCEPT`). The
/// kernel counts in repetitions of its SYN-ACK, the first of which comes after a second.
pub(crate) fn defer_accept(listener: BorrowedFd<'_>, seconds: libc::c_int) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(0);
    // SAFETY: the pointer and the length describe `seconds`, which lives until after the call; the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
