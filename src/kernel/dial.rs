//! Who dials, and when: for a while a new bgpd and its peers on the ports are kept from connecting, by policy rules.
//!
//! A session that comes up and goes again at once is a second death to a leaf, over which it keeps no routes. Two things
//! in FRR lead to that:
//!
//! - It dials back whoever connects from a link-local address (`bgp_nht_interface_events` in `bgp_accept`,
//!   `bgpd/bgp_network.c`), and where graceful restart is on and a session is Established already, the second connection
//!   is taken for a restart of the peer and the session dropped (same function). So only bgpd dials.
//! - It stops a session that is not Established yet, and dials anew, when zebra tells it of the port and its neighbour
//!   (`bgp_start_interface_nbrs`, `bgpd/bgp_zebra.c`), which zebra does twice (`bgp_zebra_connected` registers twice). So
//!   it does not dial before that is over; it tries again after a second.

use std::io;
use std::net::{IpAddr, Ipv6Addr};

use libc::{EEXIST, ENOENT};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange};
use netlink_packet_route::{AddressFamily, IpProtocol};

use super::Kernel;
use super::netlink::{Netlink, unless};
use super::object::Object;
use super::shadow::{BackupRoutes, PROTOCOL};

/// Before main (32766), and after the VRFs' own rule (1000), so that the speaker's VRF is not concerned.
const PRIORITY: u32 = 8799;

/// The port of BGP (RFC 4271 §8.2.1.3).
const BGP: RulePortRange = RulePortRange { start: 179, end: 179 };

/// Connections over link-local addresses, by who opened them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialling {
    /// bgpd.
    Ours,
    /// Its peers: our answer to them finds no route.
    Theirs,
}

impl Kernel {
    /// Keeps such connections from coming up. One that is up is not concerned, if it was opened by the other side.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn forbid(&mut self, which: Dialling) -> io::Result<()> {
        let rule = Object::NewRule(rule(which));
        Ok(unless(EEXIST, self.router_netlink().change(rule, NLM_F_CREATE | NLM_F_EXCL))?)
    }

    /// Lets them come up again.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn allow(&mut self, which: Dialling) -> io::Result<()> {
        allow(self.router_netlink(), which)
    }

    /// Removes from the host's namespace what FRR left there when it worked there: these rules and the backup routes.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn clear_host(&mut self) -> io::Result<()> {
        for which in [Dialling::Ours, Dialling::Theirs] {
            allow(self.host_netlink(), which)?;
        }
        let Some(host) = self.namespaces().next() else { return Ok(()) };
        BackupRoutes::open(host)?.remove().map(drop)
    }
}

fn allow(netlink: &mut Netlink, which: Dialling) -> io::Result<()> {
    Ok(unless(ENOENT, netlink.change(Object::DelRule(rule(which)), 0))?)
}

/// `ip -6 rule add to fe80::/10 ipproto tcp dport 179 prohibit`, or with `sport`.
fn rule(which: Dialling) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = AddressFamily::Inet6;
    rule.header.dst_len = 10;
    rule.header.action = RuleAction::Prohibit;
    rule.attributes = vec![
        RuleAttribute::Priority(PRIORITY),
        RuleAttribute::Protocol(PROTOCOL),
        RuleAttribute::Destination(IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0))),
        RuleAttribute::IpProtocol(IpProtocol::Tcp),
        match which {
            Dialling::Ours => RuleAttribute::DestinationPortRange(BGP),
            Dialling::Theirs => RuleAttribute::SourcePortRange(BGP),
        },
    ];
    rule
}
