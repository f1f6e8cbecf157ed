//! Connect guard: policy rules that block BGP connects between a new bgpd and its peers on the fabric ports for some
//! time.
//!
//! If a session comes up and fails again at once, a leaf counts a second failure and keeps no stale routes. Two
//! behaviours of FRR cause that:
//!
//! - bgpd connects back to a peer that connects from a link-local address (`bgp_nht_interface_events` in `bgp_accept`,
//!   `bgpd/bgp_network.c`). With graceful restart and an Established session, bgpd takes the second connection for a
//!   restart of the peer and closes the session (same function). So only bgpd may connect, and inbound connects are
//!   blocked.
//! - bgpd stops a session that is not Established yet, and connects again, when zebra announces the port and its
//!   neighbour (`bgp_start_interface_nbrs`, `bgpd/bgp_zebra.c`). zebra does so twice, because `bgp_zebra_connected`
//!   registers twice. So outbound connects are blocked until that is over. bgpd tries again after a second.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr};

use libc::{EEXIST, ENOENT};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange};
use netlink_packet_route::{AddressFamily, IpProtocol};

use super::backup_routes::{BackupRoutes, PROTOCOL};
use super::netlink::{Netlink, ignore_errno};
use super::rtnl::RtnlMessage;
use super::{Kernel, RouterNetns};

/// Priority of the rules: before the rule for main (32766), and after the rule for VRFs (1000), so that the speaker's
/// VRF is not affected.
const PRIORITY: u32 = 8799;

/// The TCP port of BGP (RFC 4271 §8.2.1.3).
const BGP: RulePortRange = RulePortRange { start: 179, end: 179 };

/// BGP connections over link-local addresses, by direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connects {
    /// bgpd connects.
    Outbound,
    /// A peer connects. The rule blocks the replies of this host.
    Inbound,
}

impl fmt::Display for Connects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        })
    }
}

impl RouterNetns {
    /// Blocks new connections in one direction. An established connection of the other direction is not affected.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn block_connects(&mut self, direction: Connects) -> io::Result<()> {
        let rule = RtnlMessage::NewRule(rule(direction));
        Ok(ignore_errno(EEXIST, self.netlink().change(rule, NLM_F_CREATE | NLM_F_EXCL))?)
    }

    /// Allows new connections in one direction again.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn allow_connects(&mut self, direction: Connects) -> io::Result<()> {
        allow(self.netlink(), direction)
    }
}

impl Kernel {
    /// Removes these rules and the backup routes from the host namespace, where an instance with `NETNS=host` may have
    /// left them.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn clear_host(&mut self) -> io::Result<()> {
        for direction in [Connects::Outbound, Connects::Inbound] {
            allow(self.host_netlink(), direction)?;
        }
        let Some(host) = self.namespaces().next() else { return Ok(()) };
        BackupRoutes::open(host)?.remove().map(drop)
    }
}

fn allow(netlink: &mut Netlink, direction: Connects) -> io::Result<()> {
    Ok(ignore_errno(ENOENT, netlink.change(RtnlMessage::DelRule(rule(direction)), 0))?)
}

/// `ip -6 rule add to fe80::/10 ipproto tcp dport 179 prohibit`, or with `sport` for inbound connects.
fn rule(direction: Connects) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = AddressFamily::Inet6;
    rule.header.dst_len = 10;
    rule.header.action = RuleAction::Prohibit;
    rule.attributes = vec![
        RuleAttribute::Priority(PRIORITY),
        RuleAttribute::Protocol(PROTOCOL),
        RuleAttribute::Destination(IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0))),
        RuleAttribute::IpProtocol(IpProtocol::Tcp),
        match direction {
            Connects::Outbound => RuleAttribute::DestinationPortRange(BGP),
            Connects::Inbound => RuleAttribute::SourcePortRange(BGP),
        },
    ];
    rule
}
