//! What the objects of the environment and the file contribute, and what they make up together.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::merge::Accepted;
use crate::model::{
    FabricNeighbor, HostBridge, HostSession, L2Vni, L3Vni, Overlay, RawLines, RouteTarget, RouterId, Tunnel,
    UnderlayInterface, Vni, VrfName,
};

/// The contribution of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Nothing but its claims: the settings of the environment.
    Settings,
    /// The node's number.
    NodeIndex(u32),
    /// The BGP identifier in place of `NODE_IP`.
    RouterId(RouterId),
    /// The cluster-id of a route reflector (RFC 4456).
    ClusterId(Ipv4Addr),
    /// Graceful restart: restart time and stale-path time in seconds.
    GracefulRestart(Option<u32>, Option<u32>),
    /// An address of the VTEP.
    Vtep(IpAddr),
    /// A link to the fabric.
    Interface(UnderlayInterface),
    /// A BGP neighbor in the default VRF of FRR's namespace.
    Neighbor(FabricNeighbor),
    /// A routing domain.
    L3Vni(L3VniPart),
    /// A broadcast domain.
    L2Vni(L2VniPart),
    /// The host's session in the default VRF of FRR's namespace.
    Passthrough(HostSession),
    /// Raw lines for frr.conf.
    Raw(RawLines),
}

/// A tunnel. The VTEP's address is another object's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunnelPart {
    /// The VNI.
    pub vni: Vni,
    /// UDP port.
    pub port: u16,
    /// The family of the VTEP's address. `true`: IPv6. `None`: IPv4 if the VTEP has an IPv4 address.
    pub v6: Option<bool>,
}

/// A routing domain over EVPN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct L3VniPart {
    /// Its name.
    pub name: String,
    /// Its VRF.
    pub vrf: VrfName,
    /// Its tunnel.
    pub tunnel: TunnelPart,
    /// The session with the host.
    pub session: Option<HostSession>,
    /// Export route targets. Empty: those that FRR derives.
    pub export: Vec<RouteTarget>,
    /// Import route targets. Empty: those that FRR derives.
    pub import: Vec<RouteTarget>,
}

/// A broadcast domain over EVPN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct L2VniPart {
    /// Its name.
    pub name: String,
    /// Its tunnel.
    pub tunnel: TunnelPart,
    /// The name of the L3VNI that routes for it.
    pub domain: Option<String>,
    /// The bridge of the workloads in the host namespace.
    pub master: Option<HostBridge>,
    /// The gateway's addresses.
    pub gateways: Vec<IpNet>,
}

/// What the accepted objects make up together, in the order of their sources.
pub fn assemble(accepted: &Accepted<Part>) -> Overlay {
    let mut order: Vec<_> = accepted.iter().collect();
    order.sort_by_key(|(id, content)| (id.source, content.position));
    let parts = || order.iter().map(|(_, content)| &content.fragment);
    let mut overlay = Overlay::default();
    for part in parts() {
        let underlay = &mut overlay.underlay;
        match part {
            Part::RouterId(id) => underlay.router_id = Some(*id),
            Part::ClusterId(id) => underlay.cluster_id = Some(*id),
            Part::GracefulRestart(restart, stale) => underlay.graceful_restart = Some((*restart, *stale)),
            Part::Vtep(IpAddr::V4(ip)) => underlay.vtep4 = Some(*ip),
            Part::Vtep(IpAddr::V6(ip)) => underlay.vtep6 = Some(*ip),
            Part::Interface(interface) => underlay.interfaces.push(interface.clone()),
            Part::Neighbor(neighbor) => underlay.neighbors.push(neighbor.clone()),
            Part::Passthrough(session) => overlay.passthrough = Some(session.clone()),
            Part::Raw(lines) => overlay.raw.push(lines.clone()),
            Part::Settings | Part::NodeIndex(_) | Part::L3Vni(_) | Part::L2Vni(_) => {}
        }
    }
    // L3VNIs refer to the VTEP, and L2VNIs to L3VNIs, wherever these stand.
    for part in parts() {
        if let Part::L3Vni(part) = part {
            overlay.l3vnis.extend(l3vni(part, &overlay));
        }
    }
    let vrfs: HashMap<&str, &VrfName> = overlay.l3vnis.iter().map(|l3| (&*l3.name, &l3.vrf)).collect();
    let l2vnis = parts().filter_map(|part| match part {
        Part::L2Vni(part) => l2vni(part, &overlay, &vrfs),
        _ => None,
    });
    overlay.l2vnis = l2vnis.collect();
    overlay
}

fn tunnel(part: TunnelPart, overlay: &Overlay) -> Option<Tunnel> {
    let v4 = || overlay.underlay.vtep4.map(IpAddr::V4);
    let v6 = || overlay.underlay.vtep6.map(IpAddr::V6);
    let local = match part.v6 {
        None => v4().or_else(v6),
        Some(false) => v4(),
        Some(true) => v6(),
    };
    Some(Tunnel { vni: part.vni, port: part.port, local: local? })
}

fn l3vni(part: &L3VniPart, overlay: &Overlay) -> Option<L3Vni> {
    Some(L3Vni {
        name: part.name.clone(),
        vrf: part.vrf.clone(),
        tunnel: tunnel(part.tunnel, overlay)?,
        session: part.session.clone(),
        export: part.export.clone(),
        import: part.import.clone(),
    })
}

/// `vrfs`: those of the L3VNIs, by the L3VNI's name.
fn l2vni(part: &L2VniPart, overlay: &Overlay, vrfs: &HashMap<&str, &VrfName>) -> Option<L2Vni> {
    let vrf = match &part.domain {
        Some(name) => Some((*vrfs.get(&**name)?).clone()),
        None => None,
    };
    Some(L2Vni {
        name: part.name.clone(),
        tunnel: tunnel(part.tunnel, overlay)?,
        vrf,
        master: part.master.clone(),
        gateways: part.gateways.clone(),
    })
}
