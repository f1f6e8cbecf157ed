//! The file's VNIs and its pass-through as offers. Each entry is checked alone here; the merge of the offers finds what
//! two entries cannot both have.

use ipnet::IpNet;

use crate::config::Config;
use crate::config::offer::VRF;
use crate::intent::{Content, Key, L2VniPart, L3VniPart, Part, Space, TunnelPart};
use crate::model::{HostBridge, HostSession, RouteTarget, Vni, VniDevice};

use super::entries::{HostMasterEntry, IpFamily, L2VniEntry, L3VniEntry, Lifecycle, PassthroughEntry};
use super::names::is_managed_device;
use super::offers::{EntryDraft, FileOffers};
use super::read::List;
use super::report::{EntryCheck, Located, Location, Report};
use super::session::session;
use super::values::{Port, VXLAN_PORT};

/// The kind of an L3VNI's name.
const L3VNI: &str = "l3vni";

/// Adds an L3VNI. `index`: the node's number.
pub(super) fn l3(
    entry: &Located<L3VniEntry>,
    index: u32,
    config: &Config,
    offers: &mut FileOffers<'_>,
    report: &mut Report<'_>,
) {
    let name = entry.name.as_ref().map_or_else(|| entry.vrf.0.to_string(), |name| name.0.clone());
    let content = l3_content(entry, &name, index, config, offers, report);
    offers.add(format!("l3vnis/{name}"), L3VNI, &entry.location, content);
}

fn l3_content(
    entry: &Located<L3VniEntry>,
    name: &str,
    index: u32,
    config: &Config,
    offers: &FileOffers<'_>,
    report: &mut Report<'_>,
) -> Option<Content<Part>> {
    let vrf = &entry.vrf.0;
    let mut draft = offers.entry(report.describe(&entry.location));
    let mut check = EntryCheck { valid: true, kind: L3VNI, report };
    let tunnel = tunnel(&entry.location, &entry.vni, entry.port.as_ref(), entry.family.as_ref(), &mut draft);
    let metallb = config.metallb.as_ref().map(|metallb| (metallb.table, "METALLB_VRF_ROUTE_TABLE_ID"));
    for (table, setting) in metallb.into_iter().chain([(config.settings.return_table, "RETURN_TABLE")]) {
        if entry.vni.table() == table.get() {
            check.reject(&entry.vni.location, format_args!("its routing table {table} is {setting}"));
        }
    }
    if is_managed_device(vrf.as_ifname().as_str()) {
        check.reject(&entry.vrf.location, "reserved for a managed device");
    }
    let name_location = entry.name.as_ref().map_or(&entry.vrf.location, |name| &name.location);
    draft.claim(Key::Vrf(vrf.clone()), &entry.vrf.location);
    draft.share(Key::Kind(vrf.as_ifname().clone()), VRF, &entry.vrf.location);
    draft.claim(Key::Name(L3VNI, name.into()), name_location);
    draft.provide(Key::Name(L3VNI, name.into()));
    let session = match &entry.session {
        Some(given) => match session(given, index, &mut check) {
            Some((session, nets)) => {
                for net in nets {
                    draft.subnet(Space::Host, net.value, &net.location);
                    draft.subnet(Space::Domain(name.into()), net.value, &net.location);
                }
                Some(session)
            }
            None => {
                check.valid = false;
                None
            }
        },
        None => None,
    };
    let targets = |list: &Option<Located<List<RouteTarget, 0, 100>>>| {
        list.iter().flat_map(|list| &list.0).map(|target| target.value.clone()).collect()
    };
    check.valid.then(|| {
        draft.finish(Part::L3Vni(L3VniPart {
            name: name.into(),
            vrf: vrf.clone(),
            tunnel,
            session,
            export: targets(&entry.export),
            import: targets(&entry.import),
        }))
    })
}

/// Adds an L2VNI.
pub(super) fn l2(entry: &Located<L2VniEntry>, offers: &mut FileOffers<'_>, report: &mut Report<'_>) {
    let name = entry.name.as_ref().map_or_else(|| format!("l2-{}", entry.vni.value), |name| name.0.clone());
    let content = l2_content(entry, &name, offers, report);
    offers.add(format!("l2vnis/{name}"), L2VNI, &entry.location, content);
}

/// The kind of an L2VNI's name.
const L2VNI: &str = "l2vni";

fn l2_content(
    entry: &Located<L2VniEntry>,
    name: &str,
    offers: &FileOffers<'_>,
    report: &mut Report<'_>,
) -> Option<Content<Part>> {
    let mut draft = offers.entry(report.describe(&entry.location));
    let mut check = EntryCheck { valid: true, kind: L2VNI, report };
    let tunnel = tunnel(&entry.location, &entry.vni, entry.port.as_ref(), entry.family.as_ref(), &mut draft);
    let name_location = entry.name.as_ref().map_or(&entry.vni.location, |name| &name.location);
    draft.claim(Key::Name(L2VNI, name.into()), name_location);
    let mut domain = None;
    if let Some(given) = &entry.domain {
        match &given.l3vni {
            None => check.reject(&given.location, "type L3VNI needs l3vni"),
            Some(reference) => {
                draft.need(Key::Name(L3VNI, reference.name.0.clone()), &reference.name.location);
                domain = Some(reference.name.0.clone());
            }
        }
    }
    let master = entry.master.as_ref().map(|given| master(given, entry.vni.value, &mut check));
    let mut gateways: Vec<IpNet> = vec![];
    for gateway in entry.gateways.iter().flat_map(|list| &list.0) {
        let net = gateway.0;
        if gateways.iter().any(|other| other.addr().is_ipv4() == net.addr().is_ipv4()) {
            check.reject(&gateway.location, "the second gateway of its family");
        } else if let Some(domain) = &domain {
            draft.subnet(Space::Domain(domain.clone()), net.trunc(), &gateway.location);
        }
        gateways.push(net);
    }
    if let (Some(list), None) = (&entry.gateways, &entry.domain)
        && !list.0.is_empty()
    {
        check.reject(&list.location, "needs a routingDomain");
    }
    check.valid.then(|| {
        let master = master.flatten();
        draft.finish(Part::L2Vni(L2VniPart { name: name.into(), tunnel, domain, master, gateways }))
    })
}

/// Adds the pass-through.
pub(super) fn passthrough(
    entry: &Located<PassthroughEntry>,
    index: u32,
    config: &Config,
    offers: &mut FileOffers<'_>,
    report: &mut Report<'_>,
) {
    const KIND: &str = "pass-through";
    let mut draft = offers.entry(report.describe(&entry.location));
    let mut check = EntryCheck { valid: true, kind: KIND, report };
    let asn = &entry.session.asn;
    if asn.value != config.settings.asn_local {
        let local_asn = config.settings.asn_local;
        check.reject(
            &asn.location,
            format_args!("differs from ASN_LOCAL={local_asn}, the AS number of the default VRF"),
        );
    }
    let session: Option<(HostSession, _)> = session(&entry.session, index, &mut check);
    let content = session.filter(|_| check.valid).map(|(session, nets)| {
        for net in &nets {
            draft.subnet(Space::Host, net.value, &net.location);
            draft.subnet(Space::Default, net.value, &net.location);
        }
        draft.finish(Part::Passthrough(session))
    });
    offers.add("l3passthrough".into(), KIND, &entry.location, content);
}

/// The tunnel of a VNI. The VNI is claimed, and the VTEP's address needed.
fn tunnel(
    entry: &Location,
    vni: &Located<Vni>,
    port: Option<&Located<Port>>,
    family: Option<&Located<IpFamily>>,
    draft: &mut EntryDraft<'_>,
) -> TunnelPart {
    let v6 = family.map(|family| family.value == IpFamily::V6);
    match (v6, family) {
        (Some(v6), Some(family)) => draft.need(Key::VtepOf(v6), &family.location),
        _ => draft.need(Key::Vtep, entry),
    }
    draft.claim(Key::Vni(vni.value), &vni.location);
    let port = port.and_then(|port| u16::try_from(port.get()).ok()).unwrap_or(VXLAN_PORT);
    TunnelPart { vni: vni.value, port, v6 }
}

fn master(master: &Located<HostMasterEntry>, vni: Vni, check: &mut EntryCheck<'_, '_>) -> Option<HostBridge> {
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
