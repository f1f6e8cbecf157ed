//! The file's VNIs → the model's: each by itself, then against those before it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::Config;
use crate::model::{
    HostBridge, HostSession, L2Vni, L3Vni, Peer, RouteTarget, Tunnel, Underlay, Vni, VniDevice, VrfName,
};

use super::address::{Taken, overlap};
use super::entries::{IpFamily, L2, L3, Lifecycle, Master, Passthrough};
use super::names::is_ours;
use super::own::{Own, of_neighbors, of_node, of_underlay};
use super::read::List;
use super::report::{Judge, Located, Report};
use super::session::session;
use super::values::{Port, VXLAN_PORT};

/// What the VNIs so far have taken.
#[derive(Debug)]
pub(super) struct Vnis<'a> {
    config: &'a Config,
    underlay: &'a Underlay,
    index: u32,
    /// Each VNI, and who has it: what was left out keeps its number, since the kernel may have it still.
    numbers: BTreeMap<Vni, String>,
    /// The same for names of VRFs.
    vrfs: BTreeMap<String, String>,
    /// Names of l3vnis, with the VRF of those that are in.
    domains: BTreeMap<String, Option<VrfName>>,
    /// Names of l2vnis.
    segments: BTreeMap<String, String>,
    /// Subnets of sessions with the host, which are all in its one namespace.
    sessions: Taken,
    /// The node's own addresses beside the link to MetalLB: in the host's namespace, and in the router's default VRF.
    own: [Own; 2],
    /// Subnets in VRFs.
    routed: BTreeMap<String, Taken>,
}

impl<'a> Vnis<'a> {
    pub fn new(config: &'a Config, underlay: &'a Underlay, index: u32) -> Self {
        let metallb = &config.metallb;
        let pairs = [Some(metallb.v6), metallb.v4].into_iter().flatten();
        let mut sessions = Taken::default();
        pairs.for_each(|pair| sessions.add(pair.frr_net().trunc(), "the link to MetalLB".into()));
        Self {
            config,
            underlay,
            index,
            numbers: BTreeMap::new(),
            vrfs: BTreeMap::new(),
            domains: BTreeMap::new(),
            segments: BTreeMap::new(),
            sessions,
            own: [of_node(config), [of_underlay(underlay), of_neighbors(underlay)].concat()],
            routed: BTreeMap::new(),
        }
    }

    pub fn l3(&mut self, entry: &Located<L3>, report: &mut Report<'_>) -> Option<L3Vni> {
        let vrf = entry.vrf.0.clone();
        let name = entry.name.as_ref().map_or_else(|| vrf.to_string(), |name| name.0.clone());
        let me = report.name(&entry.spot);
        let mut judge = Judge { sound: true, what: "l3vni", report };
        let tunnel = self.tunnel(&entry.vni, entry.port.as_ref(), entry.family.as_ref(), &me, &mut judge);
        for (table, whose) in [
            (self.config.metallb.table, "METALLB_VRF_ROUTE_TABLE_ID"),
            (self.config.return_table, "RETURN_TABLE"),
        ] {
            if entry.vni.table() == table.get() {
                judge.leave_out(&entry.vni.spot, format_args!("its routing table {table} is {whose}"));
            }
        }
        let text = vrf.to_string();
        if is_ours(&text) {
            judge.leave_out(&entry.vrf.spot, "a name of our own devices");
        } else if vrf == self.config.metallb.vrf {
            judge.leave_out(&entry.vrf.spot, "the name of VRF_METALLB");
        } else if self.underlay.interfaces.iter().any(|link| link.name() == vrf.as_ifname()) {
            judge.leave_out(&entry.vrf.spot, "the name of an interface of the underlay");
        } else if self.underlay.neighbors.iter().any(|n| n.peer == Peer::Interface(vrf.as_ifname().clone())) {
            judge.leave_out(&entry.vrf.spot, "the name of the interface of a neighbor of the underlay");
        } else if let Some(other) = self.vrfs.get(&text) {
            judge.leave_out(&entry.vrf.spot, format_args!("the VRF of {other} already"));
        } else {
            self.vrfs.insert(text.clone(), me.clone());
            // A name that is the VRF's is taken with it, and said once.
            if self.domains.contains_key(&name) {
                let spot = entry.name.as_ref().map_or(&entry.vrf.spot, |name| &name.spot);
                judge.leave_out(spot, format_args!("another l3vni is called {name:?} already"));
            } else {
                self.domains.insert(name.clone(), None);
            }
        }
        let session = match &entry.session {
            Some(given) => match session(given, self.index, &mut judge) {
                Some((session, nets)) => {
                    self.check_sessions(&nets, &self.own[..1], &mut judge);
                    Some((session, nets))
                }
                None => {
                    judge.sound = false;
                    None
                }
            },
            None => None,
        };
        if !judge.sound {
            return None;
        }
        self.domains.insert(name.clone(), Some(vrf.clone()));
        let session = session.map(|(session, nets)| {
            for net in nets {
                self.sessions.add(net.value, me.clone());
                self.routed.entry(text.clone()).or_default().add(net.value, me.clone());
            }
            session
        });
        let targets = |list: &Option<Located<List<RouteTarget, 0, 100>>>| {
            list.iter().flat_map(|list| &list.0).map(|target| target.value.clone()).collect()
        };
        let (export, import) = (targets(&entry.export), targets(&entry.import));
        Some(L3Vni { name, vrf, tunnel: tunnel?, session, export, import })
    }

    pub fn l2(&mut self, entry: &Located<L2>, report: &mut Report<'_>) -> Option<L2Vni> {
        let name =
            entry.name.as_ref().map_or_else(|| format!("l2-{}", entry.vni.value), |name| name.0.clone());
        let me = report.name(&entry.spot);
        let mut judge = Judge { sound: true, what: "l2vni", report };
        let tunnel = self.tunnel(&entry.vni, entry.port.as_ref(), entry.family.as_ref(), &me, &mut judge);
        if tunnel.is_some() {
            if self.segments.contains_key(&name) {
                let spot = entry.name.as_ref().map_or(&entry.vni.spot, |name| &name.spot);
                judge.leave_out(spot, format_args!("another l2vni is called {name:?} already"));
            } else {
                self.segments.insert(name.clone(), me.clone());
            }
        }
        let vrf = self.vrf_of(entry, &mut judge);
        let master = entry.master.as_ref().map(|master| self.master(master, entry.vni.value, &mut judge));
        let mut gateways: Vec<IpNet> = vec![];
        for gateway in entry.gateways.iter().flat_map(|list| &list.0) {
            let net = gateway.0;
            if gateways.iter().any(|other| other.addr().is_ipv4() == net.addr().is_ipv4()) {
                judge.leave_out(&gateway.spot, "the second gateway of its family");
            }
            if let Some(vrf) = &vrf
                && let Some((_, other)) = self.routed.get(&vrf.to_string()).and_then(|r| r.overlapping(net))
            {
                judge.leave_out(&gateway.spot, format_args!("overlaps with {other} in VRF {vrf}"));
            }
            gateways.push(net);
        }
        if let (Some(list), None) = (&entry.gateways, &entry.domain)
            && !list.0.is_empty()
        {
            judge.leave_out(&list.spot, "needs a routingDomain");
        }
        if !judge.sound {
            return None;
        }
        if let Some(vrf) = &vrf {
            let routed = self.routed.entry(vrf.to_string()).or_default();
            gateways.iter().for_each(|net| routed.add(net.trunc(), me.clone()));
        }
        Some(L2Vni { name, tunnel: tunnel?, vrf, master: master.flatten(), gateways })
    }

    pub fn passthrough(
        &mut self,
        entry: &Located<Passthrough>,
        report: &mut Report<'_>,
    ) -> Option<HostSession> {
        let mut judge = Judge { sound: true, what: "pass-through", report };
        let asn = &entry.session.asn;
        if asn.value != self.config.asn {
            let ours = self.config.asn;
            judge.leave_out(&asn.spot, format_args!("not ASN_LOCAL={ours}, which the fabric's own VRF has"));
        }
        let (session, nets) = session(&entry.session, self.index, &mut judge)?;
        self.check_sessions(&nets, &self.own, &mut judge);
        judge.sound.then_some(session)
    }

    /// How a VNI is carried, and that no other has its number.
    fn tunnel(
        &mut self,
        vni: &Located<Vni>,
        port: Option<&Located<Port>>,
        family: Option<&Located<IpFamily>>,
        me: &str,
        judge: &mut Judge<'_, '_>,
    ) -> Option<Tunnel> {
        let v4 = self.underlay.vtep4.map(IpAddr::V4);
        let v6 = self.underlay.vtep6.map(IpAddr::V6);
        let local = match family {
            None => v4.or(v6),
            Some(family) => {
                let local = if family.value == IpFamily::V4 { v4 } else { v6 };
                if local.is_none() {
                    judge.leave_out(&family.spot, "underlay.tunnelEndpoint has no address of this family");
                }
                local
            }
        };
        if let Some(other) = self.numbers.get(&vni.value) {
            judge.leave_out(&vni.spot, format_args!("the VNI of {other} already"));
            return None;
        }
        self.numbers.insert(vni.value, me.to_owned());
        let port = port.and_then(|port| u16::try_from(port.get()).ok()).unwrap_or(VXLAN_PORT);
        Some(Tunnel { vni: vni.value, port, local: local? })
    }

    fn check_sessions(&self, nets: &[Located<IpNet>], own: &[Own], judge: &mut Judge<'_, '_>) {
        for net in nets {
            let used = self.sessions.overlapping(net.value);
            if let Some((used, other)) = used {
                judge.leave_out(&net.spot, format_args!("overlaps with {used} of {other}"));
            } else if let Some((used, whose)) = own.iter().flatten().find(|(own, _)| overlap(*own, net.value))
            {
                judge.leave_out(&net.spot, format_args!("overlaps with {}, which is {whose}", used.addr()));
            }
        }
    }

    fn vrf_of(&self, entry: &Located<L2>, judge: &mut Judge<'_, '_>) -> Option<VrfName> {
        let domain = entry.domain.as_ref()?;
        let Some(reference) = &domain.l3vni else {
            judge.leave_out(&domain.spot, "type L3VNI needs l3vni");
            return None;
        };
        match self.domains.get(&reference.name.0) {
            Some(Some(vrf)) => return Some(vrf.clone()),
            Some(None) => judge.leave_out(&reference.name.spot, "names an l3vni that is left out"),
            None => judge.leave_out(&reference.name.spot, "names no l3vni, or one that is wrong"),
        }
        None
    }

    fn master(&self, master: &Located<Master>, vni: Vni, judge: &mut Judge<'_, '_>) -> Option<HostBridge> {
        let Some(bridge) = &master.linux else {
            judge.leave_out(&master.spot, "type LinuxBridge needs linuxBridge");
            return None;
        };
        match (bridge.lifecycle.value, &bridge.name) {
            (Lifecycle::Managed, None) => {
                Some(HostBridge { name: vni.device(VniDevice::HostBridge), managed: true })
            }
            (Lifecycle::Managed, Some(name)) => {
                judge.leave_out(&name.spot, "a Managed bridge has a name of ours");
                None
            }
            (Lifecycle::External, None) => {
                judge.leave_out(&bridge.spot, "an External bridge needs its name");
                None
            }
            (Lifecycle::External, Some(name)) if is_ours(name.0.as_str()) => {
                judge.leave_out(&name.spot, "a name of our own devices");
                None
            }
            (Lifecycle::External, Some(name)) => Some(HostBridge { name: name.0.clone(), managed: false }),
        }
    }
}
