//! The devices of an overlay: the VTEP's, and those of each VNI.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{
    HostSession, IfName, L2Vni, L3Vni, LinkSpec, MacAddr, Namespaces, OWNER_PROTOCOL, Overlay,
    PASSTHROUGH_HOST, PASSTHROUGH_ROUTER, Part, Route, Side, SpecKind, Sysctl, Tunnel, Underlay,
    UnderlayInterface, VTEP_DEVICE, Vni, VniDevice,
};

use super::{Desired, default_net, own_name};

/// Behind every other route, those in reserve too (`Documentation/networking/vrf.rst`).
const UNREACHABLE_METRIC: u32 = 4_278_198_272;

/// What VXLAN adds to a packet, in bytes: outer Ethernet, IP, UDP and VXLAN headers (RFC 7348 §5).
fn overhead(local: IpAddr) -> u32 {
    if local.is_ipv6() { 70 } else { 50 }
}

/// Adds what the overlay needs, on an underlay of that MTU.
pub(super) fn add(overlay: &Overlay, mtu: Option<u32>, isolated: bool, desired: &mut Desired) {
    let underlay = &overlay.underlay;
    for interface in &underlay.interfaces {
        if let UnderlayInterface::Macvlan { name, parent, addresses } = interface {
            let kind = SpecKind::Macvlan(parent.clone());
            let has_ipv4 = addresses.iter().any(|net| net.addr().is_ipv4());
            let addresses = addresses.clone();
            desired.links.push(LinkSpec { addresses, ..LinkSpec::new(Side::Router, name.clone(), kind) });
            // In a namespace of ours it has this from the defaults there.
            if !isolated {
                desired.no_advertised_default.push(name.clone());
                desired.sysctls.extend(super::of_port(false, name, has_ipv4));
            }
        }
    }
    let vteps: Vec<IpNet> = underlay.vteps().map(IpNet::from).collect();
    if !vteps.is_empty() {
        let lound = LinkSpec::new(Side::Router, own_name(VTEP_DEVICE), SpecKind::Dummy);
        desired.links.push(LinkSpec { addresses: vteps, ..lound });
        desired.sysctls.extend(sysctls());
    }
    let mut builder = Builder { mac: router_mac(underlay), mtu, desired };
    overlay.l3vnis.iter().for_each(|vni| builder.l3(vni));
    overlay.l2vnis.iter().for_each(|vni| builder.l2(vni));
    if let Some(session) = &overlay.passthrough {
        let ends = [own_name(PASSTHROUGH_ROUTER), own_name(PASSTHROUGH_HOST)];
        builder.pair(Part::Passthrough, ends, None, None, mtu, Some(session));
    }
    desired.keep_others |= overlay.incomplete;
}

/// MTUs of what macvlans stand on.
pub(super) fn lower_mtus(overlay: &Overlay, now: &Namespaces) -> impl Iterator<Item = u32> {
    overlay.underlay.interfaces.iter().filter_map(|interface| match interface {
        UnderlayInterface::Macvlan { parent, .. } => now.host.link(parent.as_str()).map(|link| link.mtu),
        UnderlayInterface::Device(_) => None,
    })
}

/// What routing between VNIs and for silent hosts needs in the router's namespace.
fn sysctls() -> impl Iterator<Item = Sysctl> {
    // What a workload says of itself unasked is news: a host that has moved in.
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

/// The MAC address under which other nodes route to this one, the same for every VNI: locally administered, and made
/// from the VTEP's address, so that a namespace that was built anew has it again.
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

struct Builder<'a> {
    mac: Option<MacAddr>,
    mtu: Option<u32>,
    desired: &'a mut Desired,
}

impl Builder<'_> {
    fn l3(&mut self, l3: &L3Vni) {
        let (vni, part) = (l3.tunnel.vni, Part::Vni(l3.tunnel.vni));
        let vrf = l3.vrf.as_ifname();
        let plain = |name, kind| LinkSpec { part, ..LinkSpec::new(Side::Router, name, kind) };
        self.desired.links.push(plain(vrf.clone(), SpecKind::Vrf(vni.table())));
        for v6 in [false, true] {
            // Otherwise what has no route in the VRF is looked up in the main table.
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
            self.pair(part, pair(vni), Some(vrf), None, mtu, Some(session));
        }
    }

    fn l2(&mut self, l2: &L2Vni) {
        let (vni, part) = (l2.tunnel.vni, Part::Vni(l2.tunnel.vni));
        let has_gateway = !l2.gateways.is_empty();
        self.desired.links.push(LinkSpec {
            part,
            master: l2.vrf.as_ref().map(|vrf| vrf.as_ifname().clone()),
            mac: has_gateway.then(|| vni.gateway_mac()),
            addresses: l2.gateways.clone(),
            ..LinkSpec::new(Side::Router, bridge(vni), SpecKind::Bridge)
        });
        if has_gateway {
            // Every node has this address: asked for, it would be found.
            let path = format!("net/ipv6/conf/{}/accept_dad", bridge(vni));
            self.desired.sysctls.push(Sysctl { side: Side::Router, path, value: "0" });
        }
        self.vxlan(l2.tunnel);
        if let Some(master) = l2.master.as_ref().filter(|master| master.managed) {
            let bridge = LinkSpec::new(Side::Host, master.name.clone(), SpecKind::Bridge);
            self.desired.links.push(LinkSpec { part, ..bridge });
            // The host has no business in the workloads' subnet, and none of them may make it believe otherwise.
            let path = format!("net/ipv6/conf/{}/disable_ipv6", master.name);
            self.desired.sysctls.push(Sysctl { side: Side::Host, path, value: "1" });
        }
        let (mtu, master) = (self.mtu_of(l2.tunnel), l2.master.as_ref().map(|master| &master.name));
        self.pair(part, pair(vni), Some(&bridge(vni)), master, mtu, None);
    }

    fn mtu_of(&self, tunnel: Tunnel) -> Option<u32> {
        self.mtu.map(|mtu| mtu.saturating_sub(overhead(tunnel.local)))
    }

    fn vxlan(&mut self, tunnel: Tunnel) {
        let name = tunnel.vni.device(VniDevice::Vxlan);
        self.desired.links.push(LinkSpec {
            part: Part::Vni(tunnel.vni),
            mtu: self.mtu_of(tunnel),
            master: Some(bridge(tunnel.vni)),
            addr_gen_none: true,
            ..LinkSpec::new(Side::Router, name, SpecKind::Vxlan(tunnel))
        });
    }

    /// A veth pair between the router's namespace and the host's.
    fn pair(
        &mut self,
        part: Part,
        [router, host]: [IfName; 2],
        router_master: Option<&IfName>,
        host_master: Option<&IfName>,
        mtu: Option<u32>,
        session: Option<&HostSession>,
    ) {
        let ends = session.map_or(&[][..], |session| &session.ends);
        if !ends.is_empty() {
            // As for MetalLB's pair: replies may take another way than requests.
            let has_ipv4 = ends.iter().any(|(_, host)| host.addr().is_ipv4());
            self.desired.sysctls.push(super::unchecked(Side::Host, host.as_str(), has_ipv4));
        }
        // Whatever is at the other end, a workload's or another router's advertisement makes no route or address on the host.
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
        self.desired.links.extend(specs.map(|spec| LinkSpec { mtu, part, ..spec }));
    }
}

fn bridge(vni: Vni) -> IfName {
    vni.device(VniDevice::Bridge)
}

/// The ends of a VNI's pair: the router's, the host's.
fn pair(vni: Vni) -> [IfName; 2] {
    [VniDevice::RouterEnd, VniDevice::HostEnd].map(|end| vni.device(end))
}
