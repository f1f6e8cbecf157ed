//! Word from the kernel that something has changed.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use rustix::io::Errno;

use super::{Kernel, Netns};

/// Multicast group of link changes (`RTNLGRP_LINK`, `linux/rtnetlink.h`).
const LINKS: u32 = 1;

/// A socket in each namespace, readable when a link has come, gone or changed.
#[derive(Debug)]
pub struct Monitor {
    sockets: Vec<Socket>,
}

impl Monitor {
    /// Listens for links in every namespace of `kernel`.
    ///
    /// # Errors
    /// A socket can't be opened.
    pub fn links(kernel: &Kernel) -> io::Result<Self> {
        let open = |ns: &Netns| {
            ns.within(|| {
                let mut socket = Socket::new(NETLINK_ROUTE)?;
                socket.bind_auto()?;
                socket.set_non_blocking(true)?;
                socket.add_membership(LINKS)?;
                Ok(socket)
            })
        };
        Ok(Self { sockets: kernel.namespaces().map(open).collect::<io::Result<_>>()? })
    }

    /// What to poll.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sockets.iter().map(|socket| socket.as_fd())
    }

    /// Empties the sockets. What has changed is found by looking, so a lost message loses nothing.
    pub fn drain(&self) {
        let mut buffer = vec![0; 16384];
        for socket in &self.sockets {
            while matches!(rustix::io::read(socket, &mut buffer), Ok(_) | Err(Errno::NOBUFS | Errno::INTR)) {}
        }
    }
}
