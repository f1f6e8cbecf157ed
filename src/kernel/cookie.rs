//! The cookie of a network namespace.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;

/// The cookie of a socket's network namespace (`SO_NETNS_COOKIE`, `asm-generic/socket.h`; `net_gen_cookie`,
/// `net/core/net_namespace.c`). The kernel reuses inode numbers of namespaces, but not cookies.
///
/// # Errors
/// A kernel before 5.14 has none.
pub(super) fn of(socket: &impl AsRawFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    #[allow(clippy::cast_possible_truncation)] // 8.
    let mut length = size_of::<u64>() as libc::socklen_t;
    let value = std::ptr::from_mut(&mut cookie).cast();
    // SAFETY: the descriptor is open. `value` points at `length` bytes of `cookie`, and the kernel writes at most
    // `length` bytes.
    match unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, value, &raw mut length)
    } {
        0 => Ok(cookie),
        _ => Err(io::Error::last_os_error()),
    }
}
