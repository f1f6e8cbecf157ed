//! Parses a link directly from the bytes of its message (`RTM_NEWLINK`, `rtnl_fill_ifinfo` in `net/core/rtnetlink.c`).
//! A link has about a hundred attributes. Creating an object for each would take most of the time of an observation of
//! thousands of links.

use std::net::IpAddr;

use libc::{
    IFLA_ADDRESS, IFLA_AF_SPEC, IFLA_GROUP, IFLA_IFALIAS, IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND,
    IFLA_INFO_SLAVE_DATA, IFLA_INFO_SLAVE_KIND, IFLA_LINK, IFLA_LINK_NETNSID, IFLA_LINKINFO, IFLA_MASTER,
    IFLA_MTU, IFLA_PERM_ADDRESS,
};

use crate::model::{BridgePort, Link, LinkKind, MacAddr, Vxlan};

use super::attributes::attributes;

/// Length of `struct ifinfomsg`.
const HEADER: usize = 16;
/// Link flags (`linux/if.h`).
const IFF_UP: u32 = 1;
const IFF_RUNNING: u32 = 1 << 6;
const IFF_LOWER_UP: u32 = 1 << 16;
/// Since Linux 6.15 (`linux/if_link.h`); older kernels do not send it.
const IFLA_NETNS_IMMUTABLE: u16 = 67;
/// Address families, which are the attribute types in `IFLA_AF_SPEC` (`linux/socket.h`).
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
/// `linux/ip.h` and `linux/if_link.h`.
const IFLA_INET_CONF: u16 = 1;
const IPV4_DEVCONF_RP_FILTER: usize = 8;
const IFLA_INET6_CONF: u16 = 2;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
/// `linux/ipv6.h`.
const DEVCONF_FORWARDING: usize = 0;
const DEVCONF_ACCEPT_RA: usize = 3;
const DEVCONF_DISABLE_IPV6: usize = 26;
const DEVCONF_ACCEPT_DAD: usize = 27;
/// `linux/if_link.h`.
const IFLA_CARRIER_DOWN_COUNT: u16 = 48;
const IFLA_VRF_TABLE: u16 = 1;
const IFLA_VRF_PORT_TABLE: u16 = 1;
const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LINK: u16 = 3;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_LOCAL6: u16 = 17;
const IFLA_BRPORT_LEARNING: u16 = 8;
const IFLA_BRPORT_NEIGH_SUPPRESS: u16 = 32;

/// A parsed link message.
#[derive(Debug, PartialEq)]
pub(super) struct ParsedLink {
    pub link: Link,
    /// Index of the bridge, bond or VRF that the link is a port of.
    pub master: Option<u32>,
    /// Index of the lower link.
    pub parent: Option<u32>,
    /// Table of the VRF that the link is a port of.
    pub vrf_table: Option<u32>,
    /// Number of carrier losses (`IFLA_CARRIER_DOWN_COUNT`).
    pub carrier_losses: u32,
    pub conf: DevConf,
}

/// Kernel parameters of a link that frr-supervisor sets.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct DevConf {
    rp_filter: Option<u32>,
    forwarding: Option<u32>,
    accept_dad: Option<u32>,
    accept_ra: Option<u32>,
    disable_ipv6: Option<u32>,
}

impl DevConf {
    /// The value of `net/<version>/conf/<link>/<name>`, if the message contained it.
    pub fn get(&self, version: &str, name: &str) -> Option<u32> {
        match (version, name) {
            ("ipv4", "rp_filter") => self.rp_filter,
            ("ipv6", "forwarding") => self.forwarding,
            ("ipv6", "accept_dad") => self.accept_dad,
            ("ipv6", "accept_ra") => self.accept_ra,
            ("ipv6", "disable_ipv6") => self.disable_ipv6,
            _ => None,
        }
    }
}

/// Parses a message without its netlink header. `None` if the message is too short.
pub(super) fn read(message: &[u8]) -> Option<ParsedLink> {
    let (header, rest) = message.split_at_checked(HEADER)?;
    let flags = number(&header[8..12])?;
    let link = Link::new(number(&header[4..8])?, "", LinkKind::Device);
    let mut parsed = ParsedLink {
        link,
        master: None,
        parent: None,
        vrf_table: None,
        carrier_losses: 0,
        conf: DevConf::default(),
    };
    let link = &mut parsed.link;
    link.up = flags & IFF_UP != 0;
    link.carrier = flags & IFF_LOWER_UP != 0;
    link.running = flags & IFF_RUNNING != 0;
    let (mut lower, mut other_netns) = (None, false);
    for (kind, value) in attributes(rest) {
        match kind {
            IFLA_IFNAME => link.name = text(value),
            IFLA_ADDRESS => link.mac = mac(value),
            IFLA_PERM_ADDRESS => link.permanent_mac = mac(value),
            IFLA_MTU => link.mtu = number(value)?,
            IFLA_MASTER => parsed.master = number(value),
            IFLA_LINK => lower = number(value),
            IFLA_LINK_NETNSID => other_netns = true,
            IFLA_NETNS_IMMUTABLE => link.netns_immutable = value == [1],
            IFLA_IFALIAS => link.alias = Some(text(value)),
            IFLA_GROUP => link.group = number(value)?,
            IFLA_LINKINFO => parsed.vrf_table = info(value, link),
            IFLA_CARRIER_DOWN_COUNT => parsed.carrier_losses = number(value)?,
            IFLA_AF_SPEC => {
                for (family, value) in attributes(value) {
                    match family {
                        AF_INET => {
                            parsed.conf.rp_filter = conf(value, IFLA_INET_CONF, IPV4_DEVCONF_RP_FILTER - 1)
                        }
                        AF_INET6 => {
                            let v6 = |index| conf(value, IFLA_INET6_CONF, index);
                            parsed.conf.forwarding = v6(DEVCONF_FORWARDING);
                            parsed.conf.accept_ra = v6(DEVCONF_ACCEPT_RA);
                            parsed.conf.accept_dad = v6(DEVCONF_ACCEPT_DAD);
                            parsed.conf.disable_ipv6 = v6(DEVCONF_DISABLE_IPV6);
                            link.addr_gen_none =
                                find(value, IFLA_INET6_ADDR_GEN_MODE) == Some(&[IN6_ADDR_GEN_MODE_NONE]);
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    match &mut link.kind {
        LinkKind::Veth(peer) | LinkKind::Macvlan(peer) => *peer = lower.unwrap_or(0),
        _ if !other_netns => parsed.parent = lower.filter(|&index| index != link.index),
        _ => {}
    }
    Some(parsed)
}

/// Parses `IFLA_LINKINFO`: the kind of the link and its bridge port settings. Returns the table of the VRF that the
/// link is a port of.
fn info(value: &[u8], link: &mut Link) -> Option<u32> {
    let data = find(value, IFLA_INFO_DATA).unwrap_or_default();
    if let Some(kind) = find(value, IFLA_INFO_KIND) {
        link.kind = match text(kind).as_str() {
            "veth" => LinkKind::Veth(0),
            "vrf" => LinkKind::Vrf(find(data, IFLA_VRF_TABLE).and_then(number).unwrap_or(0)),
            "dummy" => LinkKind::Dummy,
            "bridge" => LinkKind::Bridge,
            "macvlan" => LinkKind::Macvlan(0),
            "vxlan" => LinkKind::Vxlan(vxlan(data)),
            other => LinkKind::Other(other.into()),
        };
    }
    let data = find(value, IFLA_INFO_SLAVE_DATA).unwrap_or_default();
    match text(find(value, IFLA_INFO_SLAVE_KIND)?).as_str() {
        "bridge" => {
            let is = |kind| find(data, kind) == Some(&[1]);
            link.port = Some(BridgePort {
                neigh_suppress: is(IFLA_BRPORT_NEIGH_SUPPRESS),
                learning: is(IFLA_BRPORT_LEARNING),
            });
            None
        }
        "vrf" => find(data, IFLA_VRF_PORT_TABLE).and_then(number),
        _ => None,
    }
}

fn vxlan(data: &[u8]) -> Vxlan {
    let mut vxlan = Vxlan { vni: 0, port: 0, local: None, dev: 0, learning: true };
    for (kind, value) in attributes(data) {
        match kind {
            IFLA_VXLAN_ID => vxlan.vni = number(value).unwrap_or(0),
            IFLA_VXLAN_LINK => vxlan.dev = number(value).unwrap_or(0),
            IFLA_VXLAN_PORT => vxlan.port = value.try_into().map_or(0, u16::from_be_bytes),
            IFLA_VXLAN_LEARNING => vxlan.learning = value != [0],
            IFLA_VXLAN_LOCAL => vxlan.local = <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
            IFLA_VXLAN_LOCAL6 => vxlan.local = <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
            _ => {}
        }
    }
    vxlan
}

fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(k, _)| *k == kind).map(|(_, value)| value)
}

/// One number of an attribute that is an array of numbers.
fn conf(bytes: &[u8], kind: u16, index: usize) -> Option<u32> {
    number(find(bytes, kind)?.chunks_exact(4).nth(index)?)
}

fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_ne_bytes)
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

fn mac(value: &[u8]) -> Option<MacAddr> {
    value.try_into().ok().and_then(MacAddr::new)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use netlink_packet_core::Emitable as _;
    use netlink_packet_route::link::{
        AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, Inet6DevConf, InetDevConf, InfoBridgePort,
        InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVrf, InfoVrfPort, InfoVxlan, LinkAttribute,
        LinkFlags, LinkInfo, LinkMessage,
    };
    use proptest::prelude::*;

    use super::*;

    fn parsed(attributes: Vec<LinkAttribute>) -> ParsedLink {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.header.flags = LinkFlags::Up | LinkFlags::Running | LinkFlags::LowerUp;
        message.attributes = attributes;
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        read(&bytes).unwrap()
    }

    fn of_kind(infos: Vec<LinkInfo>) -> LinkKind {
        parsed(vec![LinkAttribute::LinkInfo(infos), LinkAttribute::Link(3)]).link.kind
    }

    #[test]
    fn a_serialized_link_is_parsed_unchanged() {
        let mac = MacAddr::new([2, 0, 0, 0, 0, 1]).unwrap();
        let (mut v4, mut v6) = (InetDevConf::default(), Inet6DevConf::default());
        v4.rp_filter = 2;
        (v6.forwarding, v6.accept_ra, v6.accept_dad, v6.disable_ipv6) = (1, 4, 3, 6);
        let parsed = parsed(vec![
            LinkAttribute::IfName("eth1".into()),
            LinkAttribute::TxQueueLen(1000),
            LinkAttribute::Mtu(9000),
            LinkAttribute::CarrierDownCount(4),
            LinkAttribute::Group(4242),
            LinkAttribute::IfAlias("odd".into()),
            LinkAttribute::Address(mac.octets().into()),
            LinkAttribute::Controller(5),
            LinkAttribute::Link(3),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vlan),
                LinkInfo::PortKind(InfoPortKind::Bridge),
                LinkInfo::PortData(InfoPortData::BridgePort(vec![
                    InfoBridgePort::Learning(false),
                    InfoBridgePort::NeighSupress(true),
                ])),
            ]),
            LinkAttribute::AfSpecUnspec(vec![
                AfSpecUnspec::Inet(vec![AfSpecInet::DevConf(v4)]),
                AfSpecUnspec::Inet6(vec![
                    AfSpecInet6::DevConf(v6),
                    AfSpecInet6::AddrGenMode(In6AddrGenMode::None),
                ]),
            ]),
        ]);
        let link = Link {
            mtu: 9000,
            group: 4242,
            alias: Some("odd".into()),
            mac: Some(mac),
            up: true,
            carrier: true,
            running: true,
            addr_gen_none: true,
            port: Some(BridgePort { neigh_suppress: true, learning: false }),
            ..Link::new(7, "eth1", LinkKind::Other("vlan".into()))
        };
        assert_eq!(parsed.link, link);
        assert_eq!(
            (parsed.master, parsed.parent, parsed.vrf_table, parsed.carrier_losses),
            (Some(5), Some(3), None, 4)
        );
        let all = [
            ("ipv4", "rp_filter"),
            ("ipv6", "forwarding"),
            ("ipv6", "accept_ra"),
            ("ipv6", "accept_dad"),
            ("ipv6", "disable_ipv6"),
        ];
        assert_eq!(all.map(|(version, name)| parsed.conf.get(version, name)), [2, 1, 4, 3, 6].map(Some));
    }

    #[test]
    fn every_kind_is_parsed_with_its_settings() {
        let with = |kind: InfoKind, data| of_kind(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)]);
        let plain = |kind: InfoKind| of_kind(vec![LinkInfo::Kind(kind)]);
        assert_eq!(with(InfoKind::Vrf, InfoData::Vrf(vec![InfoVrf::TableId(88)])), LinkKind::Vrf(88));
        let (v4, v6) = (Ipv4Addr::new(100, 65, 0, 1), Ipv6Addr::LOCALHOST);
        for (address, local) in [(InfoVxlan::Local(v4), v4.into()), (InfoVxlan::Local6(v6), v6.into())] {
            let data = vec![
                InfoVxlan::Id(100),
                InfoVxlan::Link(1),
                address,
                InfoVxlan::Learning(false),
                InfoVxlan::Port(4789),
            ];
            let vxlan = Vxlan { vni: 100, port: 4789, local: Some(local), dev: 1, learning: false };
            assert_eq!(with(InfoKind::Vxlan, InfoData::Vxlan(data)), LinkKind::Vxlan(vxlan));
        }
        let port = vec![
            LinkInfo::PortKind(InfoPortKind::Vrf),
            LinkInfo::PortData(InfoPortData::VrfPort(vec![InfoVrfPort::TableId(88)])),
        ];
        assert_eq!(parsed(vec![LinkAttribute::LinkInfo(port)]).vrf_table, Some(88));
        assert_eq!(plain(InfoKind::Veth), LinkKind::Veth(3));
        assert_eq!(plain(InfoKind::MacVlan), LinkKind::Macvlan(3));
        assert_eq!(plain(InfoKind::Dummy), LinkKind::Dummy);
        assert_eq!(plain(InfoKind::Bridge), LinkKind::Bridge);
        assert_eq!(parsed(vec![]).link.kind, LinkKind::Device);
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(read(&bytes).is_none() || bytes.len() >= HEADER);
        }
    }
}
