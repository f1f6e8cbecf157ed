//! Word from the kernel that something has changed.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;

use netlink_sys::Socket;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use super::netlink::messages;
use super::{Kernel, Netns};
use crate::model::OWNER_PROTOCOL;

/// Multicast group of link changes (`RTNLGRP_LINK`, `linux/rtnetlink.h`).
const LINKS: u32 = 1;

/// What else we keep: addresses, routes and rules of both families, those kernel parameters that are announced, and zebra's
/// next-hop objects (`RTNLGRP_IPV4_IFADDR`, `_IPV4_ROUTE`, `_IPV4_RULE`, `_IPV6_IFADDR`, `_IPV6_ROUTE`, `_IPV6_RULE`,
/// `_IPV4_NETCONF`, `_IPV6_NETCONF`, `_NEXTHOP`).
const OTHERS: [u32; 9] = [5, 7, 8, 9, 11, 19, 24, 25, 32];

/// Multicast group of nf_tables (`NFNLGRP_NFTABLES`, `linux/netfilter/nfnetlink.h`).
const NFTABLES: u32 = 7;

/// `RTM_NEWROUTE` and `RTM_DELROUTE` (`linux/rtnetlink.h`).
const ROUTE_MESSAGES: [u16; 2] = [24, 25];

/// `RTM_NEWNEXTHOP` and `RTM_DELNEXTHOP` (same file).
const NEXT_HOP_MESSAGES: [u16; 2] = [104, 105];

/// The second of the first, and the protocol of what the kernel makes by itself (`RTPROT_KERNEL`, same file).
const ROUTE_GONE: u16 = ROUTE_MESSAGES[1];
const KERNEL_PROTOCOL: u8 = 2;

/// Where a route message has its protocol: `nlmsghdr`, then `rtm_protocol` of `rtmsg`.
const ROUTE_PROTOCOL: usize = 16 + 5;

/// What has come of interest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Notified {
    /// Something that may concern what we keep.
    pub ours: bool,
    /// A next-hop object has gone, and routes may have with it, of which the kernel does not tell.
    pub next_hop_gone: bool,
}

/// Sockets that are readable when something has come, gone or changed.
#[derive(Debug)]
pub struct Monitor {
    sockets: Vec<Socket>,
    /// In which a change is announced by `POLLPRI` (`proc(5)`): a namespace is held by a mount.
    mounts: Option<File>,
}

impl Monitor {
    /// Listens for links in every namespace of `kernel`.
    ///
    /// # Errors
    /// A socket can't be opened.
    pub fn links(kernel: &Kernel) -> io::Result<Self> {
        Ok(Self { sockets: listen(kernel, &[LINKS])?, mounts: None })
    }

    /// Listens for everything that we keep.
    ///
    /// # Errors
    /// A socket can't be opened.
    pub fn everything(kernel: &Kernel) -> io::Result<Self> {
        let mut sockets = listen(kernel, &[&[LINKS], &OTHERS[..]].concat())?;
        // A kernel without nf_tables has nothing of ours in it.
        sockets.extend(open(NETLINK_NETFILTER, &[NFTABLES]).ok());
        Ok(Self { sockets, mounts: Some(File::open("/proc/self/mountinfo")?) })
    }

    /// What to poll.
    pub fn fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        let sockets = self.sockets.iter().map(|s| PollFd::from_borrowed_fd(s.as_fd(), PollFlags::IN));
        sockets.chain(self.mounts.iter().map(|file| PollFd::new(file, PollFlags::PRI)))
    }

    /// Empties the sockets. What among it may concern us: what has changed is found by looking, so a lost message loses nothing.
    pub fn drain(&self) -> Notified {
        let mut buffer = vec![0; 32768];
        let mut heard = Notified::default();
        for socket in &self.sockets {
            loop {
                match rustix::io::read(socket, &mut buffer) {
                    Ok(n) => heard.take(&buffer[..n]),
                    Err(Errno::NOBUFS) => heard = Notified { ours: true, next_hop_gone: true },
                    Err(Errno::INTR) => {}
                    Err(_) => break,
                }
            }
        }
        heard
    }
}

impl Notified {
    fn take(&mut self, datagram: &[u8]) {
        for message in messages(datagram).map_while(Result::ok) {
            let kind = u16::from_ne_bytes([message[4], message[5]]);
            self.next_hop_gone |= kind == NEXT_HOP_MESSAGES[1];
            self.ours |= may_concern_us(kind, message);
        }
    }
}

/// All but next hops, and routes of other protocols: bgpd's come by the hundred thousand. Of the kernel's own the end is of interest.
fn may_concern_us(kind: u16, message: &[u8]) -> bool {
    let protocol = message.get(ROUTE_PROTOCOL).copied();
    !(ROUTE_MESSAGES.contains(&kind) || NEXT_HOP_MESSAGES.contains(&kind))
        || protocol == Some(OWNER_PROTOCOL)
        || (kind == ROUTE_GONE && protocol == Some(KERNEL_PROTOCOL))
}

fn listen(kernel: &Kernel, groups: &[u32]) -> io::Result<Vec<Socket>> {
    let listen = |ns: &Netns| ns.within(|| open(NETLINK_ROUTE, groups));
    kernel.namespaces().map(listen).collect()
}

fn open(protocol: isize, groups: &[u32]) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.set_non_blocking(true)?;
    for &group in groups {
        socket.add_membership(group)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, protocol: u8) -> Vec<u8> {
        let mut bytes = vec![0; 28];
        bytes[..4].copy_from_slice(&28_u32.to_ne_bytes());
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[ROUTE_PROTOCOL] = protocol;
        bytes
    }

    #[test]
    fn only_our_own_routes_concern_us() {
        let heard = |datagram: &[u8]| {
            let mut heard = Notified::default();
            heard.take(datagram);
            heard
        };
        let concerns = |datagram: &[u8]| heard(datagram).ours;
        assert!(!concerns(&message(24, 186)));
        assert!(concerns(&message(25, OWNER_PROTOCOL)));
        assert!(concerns(&message(25, 2)) && !concerns(&message(24, 2)), "the kernel's own");
        assert!(concerns(&message(16, 0)), "a link");
        assert!(concerns(&[message(24, 186), message(21, 0)].concat()), "an address after a route");
        let gone = heard(&[message(104, 0), message(105, 0)].concat());
        assert_eq!(gone, Notified { ours: false, next_hop_gone: true });
        assert!(!heard(&message(104, 0)).next_hop_gone);
        assert!(!concerns(&[]) && !concerns(&[9; 7]) && !concerns(&[255; 40]));
    }
}
