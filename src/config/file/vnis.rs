//! Converts the file's VNIs into the model's. Each one is checked alone, then against those before it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::Config;
use crate::model::{
    HostBridge, HostSession, L2Vni, L3Vni, NeighborId, RouteTarget, Tunnel, Underlay, Vni, VniDevice, VrfName,
};

use super::address::{AllocatedSubnets, overlaps};
use super::entries::{HostMasterEntry, IpFamily, L2VniEntry, L3VniEntry, Lifecycle, PassthroughEntry};
use super::names::is_managed_device;
use super::node_addresses::{NodeAddresses, of_environment, of_neighbors, of_underlay};
use super::read::List;
use super::report::{EntryCheck, Located, Report};
use super::session::session;
use super::values::{Port, VXLAN_PORT};

/// The resources that the previous VNIs use.
#[derive(Debug)]
pub(super) struct VniBuilder<'a> {
    config: &'a Config,
    underlay: &'a Underlay,
    index: u32,
    /// Each VNI and its owner. A rejected entry keeps its number, because the kernel may still have the VNI.
    vni_owners: BTreeMap<Vni, String>,
    /// Each VRF name and its owner.
    vrf_owners: BTreeMap<String, String>,
    /// Names of l3vnis, with the VRF if the entry is valid.
    l3vni_vrfs: BTreeMap<String, Option<VrfName>>,
    /// Names of l2vnis.
    l2vni_names: BTreeMap<String, String>,
    /// Subnets of sessions with the host. All of them are in the host namespace.
    sessions: AllocatedSubnets,
    /// The node's addresses except for the link to MetalLB: in the host namespace, and in the default VRF of FRR's
    /// namespace.
    node_addresses: [NodeAddresses; 2],
    /// Subnets in each VRF.
    routed: BTreeMap<String, AllocatedSubnets>,
}

impl<'a> VniBuilder<'a> {
    pub fn new(config: &'a Config, underlay: &'a Underlay, index: u32) -> Self {
        let metallb = &config.metallb;
        let pairs = [Some(metallb.v6), metallb.v4].into_iter().flatten();
        let mut sessions = AllocatedSubnets::default();
        pairs.for_each(|pair| sessions.add(pair.frr_net().trunc(), "the link to MetalLB".into()));
        Self {
            config,
            underlay,
            index,
            vni_owners: BTreeMap::new(),
            vrf_owners: BTreeMap::new(),
            l3vni_vrfs: BTreeMap::new(),
            l2vni_names: BTreeMap::new(),
            sessions,
            node_addresses: [
                of_environment(config),
                [of_underlay(underlay), of_neighbors(underlay)].concat(),
            ],
            routed: BTreeMap::new(),
        }
    }

    pub fn l3(&mut self, entry: &Located<L3VniEntry>, report: &mut Report<'_>) -> Option<L3Vni> {
        let vrf = entry.vrf.0.clone();
        let name = entry.name.as_ref().map_or_else(|| vrf.to_string(), |name| name.0.clone());
        let this_entry = report.describe(&entry.location);
        let mut check = EntryCheck { valid: true, kind: "l3vni", report };
        let tunnel =
            self.tunnel(&entry.vni, entry.port.as_ref(), entry.family.as_ref(), &this_entry, &mut check);
        for (table, setting) in [
            (self.config.metallb.table, "METALLB_VRF_ROUTE_TABLE_ID"),
            (self.config.settings.return_table, "RETURN_TABLE"),
        ] {
            if entry.vni.table() == table.get() {
                check.reject(&entry.vni.location, format_args!("its routing table {table} is {setting}"));
            }
        }
        let text = vrf.to_string();
        if is_managed_device(&text) {
            check.reject(&entry.vrf.location, "reserved for a managed device");
        } else if vrf == self.config.metallb.vrf {
            check.reject(&entry.vrf.location, "the name of VRF_METALLB");
        } else if self.underlay.interfaces.iter().any(|link| link.name() == vrf.as_ifname()) {
            check.reject(&entry.vrf.location, "the name of an interface of the underlay");
        } else if self
            .underlay
            .neighbors
            .iter()
            .any(|n| n.peer == NeighborId::Interface(vrf.as_ifname().clone()))
        {
            check.reject(&entry.vrf.location, "the name of the interface of a neighbor of the underlay");
        } else if let Some(other) = self.vrf_owners.get(&text) {
            check.reject(&entry.vrf.location, format_args!("already the VRF of {other}"));
        } else {
            self.vrf_owners.insert(text.clone(), this_entry.clone());
            // The default name is the VRF's name. A duplicate is reported once.
            if self.l3vni_vrfs.contains_key(&name) {
                let location = entry.name.as_ref().map_or(&entry.vrf.location, |name| &name.location);
                check.reject(location, format_args!("{name:?} is already the name of another l3vni"));
            } else {
                self.l3vni_vrfs.insert(name.clone(), None);
            }
        }
        let session = match &entry.session {
            Some(given) => match session(given, self.index, &mut check) {
                Some((session, nets)) => {
                    self.check_sessions(&nets, &self.node_addresses[..1], &mut check);
                    Some((session, nets))
                }
                None => {
                    check.valid = false;
                    None
                }
            },
            None => None,
        };
        if !check.valid {
            return None;
        }
        self.l3vni_vrfs.insert(name.clone(), Some(vrf.clone()));
        let session = session.map(|(session, nets)| {
            for net in nets {
                self.sessions.add(net.value, this_entry.clone());
                self.routed.entry(text.clone()).or_default().add(net.value, this_entry.clone());
            }
            session
        });
        let targets = |list: &Option<Located<List<RouteTarget, 0, 100>>>| {
            list.iter().flat_map(|list| &list.0).map(|target| target.value.clone()).collect()
        };
        let (export, import) = (targets(&entry.export), targets(&entry.import));
        Some(L3Vni { name, vrf, tunnel: tunnel?, session, export, import })
    }

    pub fn l2(&mut self, entry: &Located<L2VniEntry>, report: &mut Report<'_>) -> Option<L2Vni> {
        let name =
            entry.name.as_ref().map_or_else(|| format!("l2-{}", entry.vni.value), |name| name.0.clone());
        let this_entry = report.describe(&entry.location);
        let mut check = EntryCheck { valid: true, kind: "l2vni", report };
        let tunnel =
            self.tunnel(&entry.vni, entry.port.as_ref(), entry.family.as_ref(), &this_entry, &mut check);
        if tunnel.is_some() {
            if self.l2vni_names.contains_key(&name) {
                let location = entry.name.as_ref().map_or(&entry.vni.location, |name| &name.location);
                check.reject(location, format_args!("{name:?} is already the name of another l2vni"));
            } else {
                self.l2vni_names.insert(name.clone(), this_entry.clone());
            }
        }
        let vrf = self.vrf_of(entry, &mut check);
        let master = entry.master.as_ref().map(|master| self.master(master, entry.vni.value, &mut check));
        let mut gateways: Vec<IpNet> = vec![];
        for gateway in entry.gateways.iter().flat_map(|list| &list.0) {
            let net = gateway.0;
            if gateways.iter().any(|other| other.addr().is_ipv4() == net.addr().is_ipv4()) {
                check.reject(&gateway.location, "the second gateway of its family");
            }
            if let Some(vrf) = &vrf
                && let Some((_, other)) = self.routed.get(&vrf.to_string()).and_then(|r| r.overlapping(net))
            {
                check.reject(&gateway.location, format_args!("overlaps with {other} in VRF {vrf}"));
            }
            gateways.push(net);
        }
        if let (Some(list), None) = (&entry.gateways, &entry.domain)
            && !list.0.is_empty()
        {
            check.reject(&list.location, "needs a routingDomain");
        }
        if !check.valid {
            return None;
        }
        if let Some(vrf) = &vrf {
            let routed = self.routed.entry(vrf.to_string()).or_default();
            gateways.iter().for_each(|net| routed.add(net.trunc(), this_entry.clone()));
        }
        Some(L2Vni { name, tunnel: tunnel?, vrf, master: master.flatten(), gateways })
    }

    pub fn passthrough(
        &mut self,
        entry: &Located<PassthroughEntry>,
        report: &mut Report<'_>,
    ) -> Option<HostSession> {
        let mut check = EntryCheck { valid: true, kind: "pass-through", report };
        let asn = &entry.session.asn;
        if asn.value != self.config.settings.asn_local {
            let local_asn = self.config.settings.asn_local;
            check.reject(
                &asn.location,
                format_args!("differs from ASN_LOCAL={local_asn}, the AS number of the default VRF"),
            );
        }
        let (session, nets) = session(&entry.session, self.index, &mut check)?;
        self.check_sessions(&nets, &self.node_addresses, &mut check);
        check.valid.then_some(session)
    }

    /// The tunnel of a VNI. Rejects a VNI that is already used.
    fn tunnel(
        &mut self,
        vni: &Located<Vni>,
        port: Option<&Located<Port>>,
        family: Option<&Located<IpFamily>>,
        this_entry: &str,
        check: &mut EntryCheck<'_, '_>,
    ) -> Option<Tunnel> {
        let v4 = self.underlay.vtep4.map(IpAddr::V4);
        let v6 = self.underlay.vtep6.map(IpAddr::V6);
        let local = match family {
            None => v4.or(v6),
            Some(family) => {
                let local = if family.value == IpFamily::V4 { v4 } else { v6 };
                if local.is_none() {
                    check.reject(&family.location, "underlay.tunnelEndpoint has no address of this family");
                }
                local
            }
        };
        if let Some(other) = self.vni_owners.get(&vni.value) {
            check.reject(&vni.location, format_args!("already the VNI of {other}"));
            return None;
        }
        self.vni_owners.insert(vni.value, this_entry.to_owned());
        let port = port.and_then(|port| u16::try_from(port.get()).ok()).unwrap_or(VXLAN_PORT);
        Some(Tunnel { vni: vni.value, port, local: local? })
    }

    fn check_sessions(&self, nets: &[Located<IpNet>], own: &[NodeAddresses], check: &mut EntryCheck<'_, '_>) {
        for net in nets {
            let used = self.sessions.overlapping(net.value);
            if let Some((used, other)) = used {
                check.reject(&net.location, format_args!("overlaps with {used} of {other}"));
            } else if let Some((used, whose)) =
                own.iter().flatten().find(|(own, _)| overlaps(*own, net.value))
            {
                check.reject(&net.location, format_args!("overlaps with {}, which is {whose}", used.addr()));
            }
        }
    }

    fn vrf_of(&self, entry: &Located<L2VniEntry>, check: &mut EntryCheck<'_, '_>) -> Option<VrfName> {
        let domain = entry.domain.as_ref()?;
        let Some(reference) = &domain.l3vni else {
            check.reject(&domain.location, "type L3VNI needs l3vni");
            return None;
        };
        match self.l3vni_vrfs.get(&reference.name.0) {
            Some(Some(vrf)) => return Some(vrf.clone()),
            Some(None) => check.reject(&reference.name.location, "names an l3vni that is left out"),
            None => check.reject(&reference.name.location, "names no l3vni, or an invalid one"),
        }
        None
    }

    fn master(
        &self,
        master: &Located<HostMasterEntry>,
        vni: Vni,
        check: &mut EntryCheck<'_, '_>,
    ) -> Option<HostBridge> {
        let Some(bridge) = &master.linux else {
            check.reject(&master.location, "type LinuxBridge needs linuxBridge");
            return None;
        };
        match (bridge.lifecycle.value, &bridge.name) {
            (Lifecycle::Managed, None) => {
                Some(HostBridge { name: vni.device(VniDevice::HostBridge), managed: true })
            }
            (Lifecycle::Managed, Some(name)) => {
                check.reject(&name.location, "the name of a Managed bridge is fixed, remove it");
                None
            }
            (Lifecycle::External, None) => {
                check.reject(&bridge.location, "an External bridge needs its name");
                None
            }
            (Lifecycle::External, Some(name)) if is_managed_device(name.0.as_str()) => {
                check.reject(&name.location, "reserved for a managed device");
                None
            }
            (Lifecycle::External, Some(name)) => Some(HostBridge { name: name.0.clone(), managed: false }),
        }
    }
}
