//! Netlink events: notices that the kernel state changed.

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

/// Multicast groups (`linux/rtnetlink.h`).
const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_IPV4_IFADDR: u32 = 5;
const RTNLGRP_IPV4_ROUTE: u32 = 7;
const RTNLGRP_IPV4_RULE: u32 = 8;
const RTNLGRP_IPV6_IFADDR: u32 = 9;
const RTNLGRP_IPV6_ROUTE: u32 = 11;
const RTNLGRP_IPV6_RULE: u32 = 19;
const RTNLGRP_IPV4_NETCONF: u32 = 24;
const RTNLGRP_IPV6_NETCONF: u32 = 25;
const RTNLGRP_NEXTHOP: u32 = 32;

/// Groups of all managed objects and of zebra's next-hop objects: links, addresses, routes and rules of both families,
/// the kernel parameters that the kernel announces, next-hop objects.
const ALL_GROUPS: [u32; 10] = [
    RTNLGRP_LINK,
    RTNLGRP_IPV4_IFADDR,
    RTNLGRP_IPV4_ROUTE,
    RTNLGRP_IPV4_RULE,
    RTNLGRP_IPV6_IFADDR,
    RTNLGRP_IPV6_ROUTE,
    RTNLGRP_IPV6_RULE,
    RTNLGRP_IPV4_NETCONF,
    RTNLGRP_IPV6_NETCONF,
    RTNLGRP_NEXTHOP,
];

/// Multicast group of nf_tables (`linux/netfilter/nfnetlink.h`).
const NFNLGRP_NFTABLES: u32 = 7;

/// Message types of routes, and the protocol of routes that the kernel creates by itself (`linux/rtnetlink.h`).
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTPROT_KERNEL: u8 = 2;

/// Message types of next-hop objects (same file).
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;

/// Offset of the protocol in a route message: `nlmsghdr`, then `rtm_protocol` of `rtmsg`.
const ROUTE_PROTOCOL: usize = 16 + 5;

/// What the pending netlink events announce.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KernelEvents {
    /// A change that may concern a managed object.
    pub managed_changed: bool,
    /// The deletion of a next-hop object. The kernel removes its routes, too, without an event of their own.
    pub nexthop_deleted: bool,
}

/// Sockets that become readable when the kernel state changes.
#[derive(Debug)]
pub struct Monitor {
    sockets: Vec<Socket>,
    /// `/proc/self/mountinfo`, which reports changes by `POLLPRI` (`proc(5)`): a mount keeps the namespace.
    mounts: Option<File>,
}

impl Monitor {
    /// Subscribes to link events in every namespace of `kernel`.
    ///
    /// # Errors
    /// A socket can't be opened.
    pub fn links(kernel: &Kernel) -> io::Result<Self> {
        Ok(Self { sockets: subscribe(kernel, &[RTNLGRP_LINK])?, mounts: None })
    }

    /// Subscribes to events of all managed objects and of next-hop objects.
    ///
    /// # Errors
    /// A socket can't be opened.
    pub fn everything(kernel: &Kernel) -> io::Result<Self> {
        let mut sockets = subscribe(kernel, &ALL_GROUPS)?;
        // A kernel without nf_tables has no managed table.
        sockets.extend(open(NETLINK_NETFILTER, &[NFNLGRP_NFTABLES]).ok());
        Ok(Self { sockets, mounts: Some(File::open("/proc/self/mountinfo")?) })
    }

    /// File descriptors to poll.
    pub fn fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        let sockets = self.sockets.iter().map(|s| PollFd::from_borrowed_fd(s.as_fd(), PollFlags::IN));
        sockets.chain(self.mounts.iter().map(|file| PollFd::new(file, PollFlags::PRI)))
    }

    /// Reads all pending messages. They are only a trigger: the caller reads the kernel state to find changes, so a
    /// lost message does no harm.
    pub fn drain(&self) -> KernelEvents {
        let mut buffer = vec![0; 32768];
        let mut events = KernelEvents::default();
        for socket in &self.sockets {
            loop {
                match rustix::io::read(socket, &mut buffer) {
                    Ok(n) => events.add(&buffer[..n]),
                    Err(Errno::NOBUFS) => {
                        events = KernelEvents { managed_changed: true, nexthop_deleted: true };
                    }
                    Err(Errno::INTR) => {}
                    Err(_) => break,
                }
            }
        }
        events
    }
}

impl KernelEvents {
    /// Adds the messages of a datagram.
    fn add(&mut self, datagram: &[u8]) {
        for message in messages(datagram).map_while(Result::ok) {
            let kind = u16::from_ne_bytes([message[4], message[5]]);
            self.nexthop_deleted |= kind == RTM_DELNEXTHOP;
            self.managed_changed |= is_relevant(kind, message);
        }
    }
}

/// Whether a message may concern a managed object. Next-hop objects do not count. Of routes only managed ones and
/// removals of kernel routes count: bgpd's routes can be hundreds of thousands.
fn is_relevant(kind: u16, message: &[u8]) -> bool {
    let protocol = message.get(ROUTE_PROTOCOL).copied();
    !matches!(kind, RTM_NEWROUTE | RTM_DELROUTE | RTM_NEWNEXTHOP | RTM_DELNEXTHOP)
        || protocol == Some(OWNER_PROTOCOL)
        || (kind == RTM_DELROUTE && protocol == Some(RTPROT_KERNEL))
}

fn subscribe(kernel: &Kernel, groups: &[u32]) -> io::Result<Vec<Socket>> {
    let subscribe = |ns: &Netns| ns.within(|| open(NETLINK_ROUTE, groups));
    kernel.namespaces().map(subscribe).collect()
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
    fn only_managed_routes_and_removed_kernel_routes_are_relevant() {
        const RTPROT_BGP: u8 = 186;
        const RTM_NEWLINK: u16 = 16;
        const RTM_DELADDR: u16 = 21;
        let events = |datagram: &[u8]| {
            let mut events = KernelEvents::default();
            events.add(datagram);
            events
        };
        let relevant = |datagram: &[u8]| events(datagram).managed_changed;
        let bgp_route = || message(RTM_NEWROUTE, RTPROT_BGP);
        assert!(!relevant(&bgp_route()));
        assert!(relevant(&message(RTM_DELROUTE, OWNER_PROTOCOL)));
        assert!(
            relevant(&message(RTM_DELROUTE, RTPROT_KERNEL))
                && !relevant(&message(RTM_NEWROUTE, RTPROT_KERNEL))
        );
        assert!(relevant(&message(RTM_NEWLINK, 0)));
        assert!(relevant(&[bgp_route(), message(RTM_DELADDR, 0)].concat()), "an address after a route");
        let deleted = events(&[message(RTM_NEWNEXTHOP, 0), message(RTM_DELNEXTHOP, 0)].concat());
        assert_eq!(deleted, KernelEvents { managed_changed: false, nexthop_deleted: true });
        assert!(!events(&message(RTM_NEWNEXTHOP, 0)).nexthop_deleted);
        assert!(!relevant(&[]) && !relevant(&[9; 7]) && !relevant(&[255; 40]));
    }
}
