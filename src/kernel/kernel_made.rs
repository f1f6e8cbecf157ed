//! Objects that the kernel creates by itself with an address, a link or a namespace, and does not create again after
//! someone removes them: local and connected routes, the multicast route of an IPv6 link, the default rules of a
//! namespace. This module finds missing ones.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use libc::{
    IFA_ADDRESS, IFA_F_PERMANENT, IFA_F_SECONDARY, IFA_F_TENTATIVE, IFA_FLAGS, IFA_LOCAL, RTA_DST, RTA_OIF,
    RTA_TABLE, RTN_LOCAL, RTN_MULTICAST, RTN_UNICAST,
};

use super::attributes::attributes;
use super::link::ParsedLink;
use crate::model::{Address, KernelRoute, KernelRouteKind, KernelRule, KernelTable, LinkKind, MAIN_TABLE};

/// The kernel's local table (`RT_TABLE_LOCAL`, `linux/rtnetlink.h`) and its default table (`RT_TABLE_DEFAULT`).
pub(super) const LOCAL_TABLE: u32 = 255;
pub(super) const DEFAULT_TABLE: u32 = 253;

/// Address families (`linux/socket.h`).
const AF_INET6: u8 = 10;

/// The origin of an address, and the value for the kernel's own link-local address (`linux/if_addr.h`).
const IFA_PROTO: u16 = 11;
const IFAPROT_KERNEL_LL: u8 = 3;

/// The kernel creates no route to the subnet of the address (`linux/if_addr.h`).
const IFA_F_NOPREFIXROUTE: u32 = 0x200;

/// Rule action: look up a table (`linux/fib_rules.h`).
const FR_ACT_TO_TBL: u8 = 1;

/// An address in a namespace (`RTM_NEWADDR`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ObservedAddress {
    pub index: u32,
    ip: IpAddr,
    length: u8,
    flags: u32,
    /// Whether the address has a peer address (point-to-point).
    peer: bool,
    /// The origin of the address (`IFA_PROTO`).
    protocol: Option<u8>,
}

impl ObservedAddress {
    /// Parses a message without its netlink header.
    pub fn read(message: &[u8]) -> Option<Self> {
        let (&[_, length, flags, _, i0, i1, i2, i3], rest) = message.split_first_chunk()?;
        let index = u32::from_ne_bytes([i0, i1, i2, i3]);
        let (mut local, mut address, mut protocol, mut flags) = (None, None, None, u32::from(flags));
        for (kind, value) in attributes(rest) {
            match kind {
                IFA_LOCAL => local = ip(value),
                IFA_ADDRESS => address = ip(value),
                IFA_PROTO => protocol = value.first().copied(),
                IFA_FLAGS => flags = number(value).unwrap_or(flags),
                _ => {}
            }
        }
        // On a point-to-point link IFA_ADDRESS is the address of the peer and IFA_LOCAL that of this host.
        let peer = local.is_some() && address.is_some() && local != address;
        Some(Self { index, ip: local.or(address)?, length, flags, peer, protocol })
    }

    /// Whether it is an IPv6 link-local address.
    pub fn is_link_local(&self) -> bool {
        matches!(self.ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
    }

    /// Whether it is the link-local address that the kernel assigned by itself.
    pub fn is_kernels_link_local(&self) -> bool {
        self.is_link_local() && self.protocol == Some(IFAPROT_KERNEL_LL)
    }

    /// The address in the model; `None` if its prefix length is invalid.
    pub fn address(&self) -> Option<Address> {
        let net = IpNet::new(self.ip, self.length).ok()?;
        Some(Address { net, permanent: self.flags & IFA_F_PERMANENT != 0 })
    }

    fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

/// Identity of a kernel route: kind, destination, table and link index.
pub(super) type KernelRouteKey = (KernelRouteKind, IpNet, u32, u32);

/// Parses a kernel route (`RTM_NEWROUTE`) without its netlink header. `None` for other route types and malformed
/// messages.
pub(super) fn route(message: &[u8]) -> Option<KernelRouteKey> {
    let (&[family, length, _, _, table, _, _, kind, _, _, _, _], rest) = message.split_first_chunk()?;
    let kind = match kind {
        RTN_UNICAST => KernelRouteKind::Connected,
        RTN_LOCAL => KernelRouteKind::Local,
        RTN_MULTICAST => KernelRouteKind::Multicast,
        _ => return None,
    };
    let any: IpAddr =
        if family == AF_INET6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let (mut dst, mut table, mut link) = (any, u32::from(table), None);
    for (kind, value) in attributes(rest) {
        match kind {
            RTA_DST => dst = ip(value)?,
            RTA_TABLE => table = number(value)?,
            RTA_OIF => link = number(value),
            _ => {}
        }
    }
    Some((kind, IpNet::new(dst, length).ok()?, table, link?))
}

/// The kernel routes that belong to these addresses and are missing in `present`.
pub(super) fn routes(
    links: &[ParsedLink],
    addresses: &[ObservedAddress],
    present: &HashSet<KernelRouteKey>,
) -> Vec<KernelRoute> {
    let mut missing = Vec::new();
    for address in addresses {
        let Ok(at) = links.binary_search_by_key(&address.index, |parsed| parsed.link.index) else { continue };
        let link = &links[at].link;
        let v6 = address.ip.is_ipv6();
        // For IPv6 the kernel creates the routes after duplicate address detection on a running link.
        if v6 && (!link.running || address.has(IFA_F_TENTATIVE)) {
            continue;
        }
        let index = |index| links.binary_search_by_key(&index, |parsed| parsed.link.index).ok();
        let master = links[at].master.and_then(index).map(|at| &links[at].link.kind);
        // The addresses of the VRF device itself are in its table, too (`l3mdev_fib_table`, `net/l3mdev/l3mdev.c`).
        let vrf = match (&link.kind, master) {
            (LinkKind::Vrf(table), _) | (_, Some(LinkKind::Vrf(table))) => Some(*table),
            _ => None,
        };
        let (local, main) = (vrf.unwrap_or(LOCAL_TABLE), vrf.unwrap_or(MAIN_TABLE));
        let src = (!v6).then_some(address.ip);
        let mut expect = |kind, dst: IpNet, table| {
            if !present.contains(&(kind, dst, table, link.index)) {
                let route = KernelRoute { kind, dst, table, dev: link.name.clone(), src };
                if !missing.contains(&route) {
                    missing.push(route);
                }
            }
        };
        expect(KernelRouteKind::Local, address.ip.into(), local);
        let Ok(net) = IpNet::new(address.ip, address.length) else { continue };
        let loopback = link.name == "lo";
        let subnet = link.up && !loopback && (v6 || address.length < 32) && !address.peer;
        if subnet && !address.has(IFA_F_NOPREFIXROUTE) && (v6 || !address.has(IFA_F_SECONDARY)) {
            expect(KernelRouteKind::Connected, net.trunc(), main);
        }
        if address.is_link_local() && !loopback {
            expect(KernelRouteKind::Multicast, multicast(), local);
        }
    }
    missing
}

/// All multicast addresses (RFC 4291 §2.7).
fn multicast() -> IpNet {
    let net = Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0);
    IpNet::new(net.into(), 8).unwrap_or_else(|_| IpNet::from(IpAddr::from(net)))
}

/// Parses a rule (`RTM_NEWRULE`) of any priority that matches all packets and looks up one of the kernel's tables.
/// `None` for other rules.
pub(super) fn rule(message: &[u8]) -> Option<KernelRule> {
    let (&[family, dst, src, tos, table, _, _, action, f0, f1, f2, f3], rest) =
        message.split_first_chunk()?;
    let (mut to, mut has_selector) = (u32::from(table), dst != 0 || src != 0 || tos != 0);
    let mut vrf = false;
    for (kind, value) in attributes(rest) {
        match kind {
            FRA_TABLE => to = number(value)?,
            FRA_L3MDEV => vrf = value == [1],
            _ => has_selector |= SELECTORS.contains(&kind),
        }
    }
    let inverted = u32::from_ne_bytes([f0, f1, f2, f3]) & FIB_RULE_INVERT != 0;
    if has_selector || inverted || action != FR_ACT_TO_TBL {
        return None;
    }
    let to = match to {
        _ if vrf => KernelTable::Vrf,
        LOCAL_TABLE => KernelTable::Local,
        MAIN_TABLE => KernelTable::Main,
        DEFAULT_TABLE => KernelTable::Default,
        _ => return None,
    };
    Some(KernelRule { v6: family == AF_INET6, to })
}

/// `linux/fib_rules.h`.
const FRA_TABLE: u16 = 15;
const FRA_L3MDEV: u16 = 19;
const FIB_RULE_INVERT: u32 = 2;

/// Selectors of a rule (`linux/fib_rules.h`).
const FRA_DST: u16 = 1;
const FRA_SRC: u16 = 2;
const FRA_IIFNAME: u16 = 3;
const FRA_FWMARK: u16 = 10;
const FRA_TUN_ID: u16 = 12;
const FRA_OIFNAME: u16 = 17;
const FRA_UID_RANGE: u16 = 20;
const FRA_IP_PROTO: u16 = 22;
const FRA_SPORT_RANGE: u16 = 23;
const FRA_DPORT_RANGE: u16 = 24;
const FRA_DSCP: u16 = 25;
const FRA_FLOWLABEL: u16 = 26;
const SELECTORS: [u16; 12] = [
    FRA_DST,
    FRA_SRC,
    FRA_IIFNAME,
    FRA_FWMARK,
    FRA_TUN_ID,
    FRA_OIFNAME,
    FRA_UID_RANGE,
    FRA_IP_PROTO,
    FRA_SPORT_RANGE,
    FRA_DPORT_RANGE,
    FRA_DSCP,
    FRA_FLOWLABEL,
];

/// Priority of the kernel's rule for a table (`fib_default_rules_init`, `net/ipv4/fib_rules.c`; `vrf_fib_rule`,
/// `drivers/net/vrf.c`).
pub(super) fn kernel_rule_priority(to: KernelTable) -> u32 {
    match to {
        KernelTable::Local => 0,
        KernelTable::Vrf => 1000,
        KernelTable::Main => 32766,
        KernelTable::Default => 32767,
    }
}

/// The default rules of a namespace that are missing in `present`.
pub(super) fn rules(present: &[KernelRule], has_vrf: bool) -> Vec<KernelRule> {
    let mut missing = Vec::new();
    for v6 in [false, true] {
        let lacks = |to| !present.contains(&KernelRule { v6, to });
        let mut wanted = vec![KernelTable::Local, KernelTable::Main];
        wanted.extend(has_vrf.then_some(KernelTable::Vrf));
        wanted.extend((!v6).then_some(KernelTable::Default));
        missing.extend(wanted.into_iter().filter(|to| lacks(*to)).map(|to| KernelRule { v6, to }));
    }
    missing
}

fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_ne_bytes)
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
    }
}

#[cfg(test)]
mod tests;
