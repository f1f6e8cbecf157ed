//! The devices of an overlay: the VTEP's, and those of each VNI.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{
    Component, HostSession, IfName, L2Vni, L3Vni, LinkSpec, MacAddr, Namespaces, OWNER_PROTOCOL, Overlay,
    PASSTHROUGH_HOST, PASSTHROUGH_ROUTER, Route, Side, SpecKind, Sysctl, Tunnel, Underlay, UnderlayInterface,
    VTEP_DEVICE, Vni, VniDevice,
};

use super::{Desired, fixed_name};
use crate::model::default_net;

/// Lower priority than every other route, including backup routes (`Documentation/networking/vrf.rst`).
const UNREACHABLE_METRIC: u32 = 4_278_198_272;

/// Overhead of VXLAN in bytes: outer Ethernet, IP, UDP and VXLAN headers (RFC 7348 §5).
fn overhead(local: IpAddr) -> u32 {
    if local.is_ipv6() { 70 } else { 50 }
}

/// Adds the objects of the overlay. `mtu`: the underlay's MTU.
pub(super) fn add_overlay(overlay: &Overlay, mtu: Option<u32>, isolated: bool, desired: &mut Desired) {
    let underlay = &overlay.underlay;
    for interface in &underlay.interfaces {
        if let UnderlayInterface::Macvlan { name, parent, addresses } = interface {
            let kind = SpecKind::Macvlan(parent.clone());
            let has_ipv4 = addresses.iter().any(|net| net.addr().is_ipv4());
            let addresses = addresses.clone();
            desired.links.push(LinkSpec { addresses, ..LinkSpec::new(Side::Router, name.clone(), kind) });
            // A separate namespace has these settings as defaults.
            if !isolated {
                desired.no_ra_default.push(name.clone());
                desired.sysctls.extend(super::port_sysctls(false, name, has_ipv4));
            }
        }
    }
    let vteps: Vec<IpNet> = underlay.vteps().map(IpNet::from).collect();
    if !vteps.is_empty() {
        let lound = LinkSpec::new(Side::Router, fixed_name(VTEP_DEVICE), SpecKind::Dummy);
        desired.links.push(LinkSpec { addresses: vteps, ..lound });
        desired.sysctls.extend(sysctls());
    }
    let mut builder = OverlayBuilder { mac: router_mac(underlay), mtu, desired };
    overlay.l3vnis.iter().for_each(|vni| builder.l3(vni));
    overlay.l2vnis.iter().for_each(|vni| builder.l2(vni));
    if let Some(session) = &overlay.passthrough {
        let ends = [fixed_name(PASSTHROUGH_ROUTER), fixed_name(PASSTHROUGH_HOST)];
        builder.pair(Component::Passthrough, ends, None, None, mtu, Some(session));
    }
    desired.keep_unlisted |= overlay.incomplete;
}

/// MTUs of the macvlans' parents.
pub(super) fn macvlan_parent_mtus(overlay: &Overlay, now: &Namespaces) -> impl Iterator<Item = u32> {
    overlay.underlay.interfaces.iter().filter_map(|interface| match interface {
        UnderlayInterface::Macvlan { parent, .. } => now.host.link(parent.as_str()).map(|link| link.mtu),
        UnderlayInterface::Device(_) => None,
    })
}

/// The sysctls of FRR's namespace for routing between VNIs and for silent hosts.
fn sysctls() -> impl Iterator<Item = Sysctl> {
    // Unsolicited ARP and neighbor advertisements announce a host that has moved.
    [
        "net/ipv4/conf/all/arp_accept",
        "net/ipv4/conf/default/arp_accept",
        "net/ipv6/conf/all/accept_untracked_na",
        "net/ipv6/conf/default/accept_untracked_na",
        "net/vrf/strict_mode",
    ]
    .into_iter()
    .map(|path| Sysctl { side: Side::Router, path: path.into(), value: "1" })
}

/// The router MAC address of this node, one for all VNIs. It is locally administered and derived from the VTEP's
/// address, so that a rebuilt namespace gets the same one.
fn router_mac(underlay: &Underlay) -> Option<MacAddr> {
    let [a, b, c, d] = match underlay.vteps().next()? {
        IpAddr::V4(ip) => ip.octets(),
        IpAddr::V6(ip) => {
            let octets = ip.octets();
            std::array::from_fn(|i| octets[i] ^ octets[i + 4] ^ octets[i + 8] ^ octets[i + 12])
        }
    };
    MacAddr::new([0x02, 0xf3, a, b, c, d])
}

struct OverlayBuilder<'a> {
    mac: Option<MacAddr>,
    mtu: Option<u32>,
    desired: &'a mut Desired,
}

impl OverlayBuilder<'_> {
    fn l3(&mut self, l3: &L3Vni) {
        let (vni, component) = (l3.tunnel.vni, Component::Vni(l3.tunnel.vni));
        let vrf = l3.vrf.as_ifname();
        let plain = |name, kind| LinkSpec { component, ..LinkSpec::new(Side::Router, name, kind) };
        self.desired.links.push(plain(vrf.clone(), SpecKind::Vrf(vni.table())));
        for v6 in [false, true] {
            // Without this route, a packet without a route in the VRF would be looked up in the main table.
            let route = Route {
                dst: default_net(v6),
                table: vni.table(),
                via: None,
                dev: String::new(),
                metric: UNREACHABLE_METRIC,
                src: None,
                protocol: OWNER_PROTOCOL,
            };
            self.desired.routes.push((Side::Router, route));
        }
        self.desired.links.push(LinkSpec {
            master: Some(vrf.clone()),
            mac: self.mac,
            addr_gen_none: true,
            ..plain(bridge(vni), SpecKind::Bridge)
        });
        self.vxlan(l3.tunnel);
        if let Some(session) = &l3.session {
            let mtu = self.mtu_of(l3.tunnel);
            self.pair(component, pair(vni), Some(vrf), None, mtu, Some(session));
        }
    }

    fn l2(&mut self, l2: &L2Vni) {
        let (vni, component) = (l2.tunnel.vni, Component::Vni(l2.tunnel.vni));
        let has_gateway = !l2.gateways.is_empty();
        self.desired.links.push(LinkSpec {
            component,
            master: l2.vrf.as_ref().map(|vrf| vrf.as_ifname().clone()),
            mac: has_gateway.then(|| vni.gateway_mac()),
            addresses: l2.gateways.clone(),
            ..LinkSpec::new(Side::Router, bridge(vni), SpecKind::Bridge)
        });
        if has_gateway {
            // Every node has this address: duplicate address detection would find it.
            let path = format!("net/ipv6/conf/{}/accept_dad", bridge(vni));
            self.desired.sysctls.push(Sysctl { side: Side::Router, path, value: "0" });
        }
        self.vxlan(l2.tunnel);
        if let Some(master) = l2.master.as_ref().filter(|master| master.managed) {
            let bridge = LinkSpec::new(Side::Host, master.name.clone(), SpecKind::Bridge);
            self.desired.links.push(LinkSpec { component, ..bridge });
            // The host is not part of the workloads' subnet, and no workload may configure the host by IPv6.
            let path = format!("net/ipv6/conf/{}/disable_ipv6", master.name);
            self.desired.sysctls.push(Sysctl { side: Side::Host, path, value: "1" });
        }
        let (mtu, master) = (self.mtu_of(l2.tunnel), l2.master.as_ref().map(|master| &master.name));
        self.pair(component, pair(vni), Some(&bridge(vni)), master, mtu, None);
    }

    fn mtu_of(&self, tunnel: Tunnel) -> Option<u32> {
        self.mtu.map(|mtu| mtu.saturating_sub(overhead(tunnel.local)))
    }

    fn vxlan(&mut self, tunnel: Tunnel) {
        let name = tunnel.vni.device(VniDevice::Vxlan);
        self.desired.links.push(LinkSpec {
            component: Component::Vni(tunnel.vni),
            mtu: self.mtu_of(tunnel),
            master: Some(bridge(tunnel.vni)),
            addr_gen_none: true,
            ..LinkSpec::new(Side::Router, name, SpecKind::Vxlan(tunnel))
        });
    }

    /// A veth pair between FRR's namespace and the host's.
    fn pair(
        &mut self,
        component: Component,
        [router, host]: [IfName; 2],
        router_master: Option<&IfName>,
        host_master: Option<&IfName>,
        mtu: Option<u32>,
        session: Option<&HostSession>,
    ) {
        let ends = session.map_or(&[][..], |session| &session.ends);
        if !ends.is_empty() {
            // As for MetalLB's pair: replies may use another path than requests.
            let has_ipv4 = ends.iter().any(|(_, host)| host.addr().is_ipv4());
            self.desired.sysctls.push(super::relaxed_rp_filter(Side::Host, host.as_str(), has_ipv4));
        }
        // A router advertisement from the other end must not create routes or addresses on the host.
        let path = format!("net/ipv6/conf/{host}/accept_ra");
        self.desired.sysctls.push(Sysctl { side: Side::Host, path, value: "0" });
        let (here, there) = (Side::Router, Side::Host);
        let specs = [
            LinkSpec {
                master: router_master.cloned(),
                addresses: ends.iter().map(|(router, _)| *router).collect(),
                ..LinkSpec::new(here, router.clone(), SpecKind::Veth(there, host.clone()))
            },
            LinkSpec {
                master: host_master.cloned(),
                addresses: ends.iter().map(|(_, host)| *host).collect(),
                ..LinkSpec::new(there, host, SpecKind::Veth(here, router))
            },
        ];
        self.desired.links.extend(specs.map(|spec| LinkSpec { mtu, component, ..spec }));
    }
}

fn bridge(vni: Vni) -> IfName {
    vni.device(VniDevice::Bridge)
}

/// The ends of a VNI's veth pair: FRR's, the host's.
fn pair(vni: Vni) -> [IfName; 2] {
    [VniDevice::RouterEnd, VniDevice::HostEnd].map(|end| vni.device(end))
}
