//! Converts a neighbor of the file into the model's.

use crate::config::Config;
use crate::model::{BgpFamily, FabricNeighbor, NeighborBfd, NeighborId, RemoteAs};

use super::entries::{self, BfdEntry, BfdMode, FamilyType, PeerType};
use super::read::List;
use super::report::{EntryCheck, Located, Report};

/// Converts one neighbor.
pub(super) fn neighbor(
    entry: &Located<entries::NeighborEntry>,
    config: &Config,
    report: &mut Report<'_>,
) -> Option<FabricNeighbor> {
    let check = &mut EntryCheck { valid: true, kind: "neighbor", report };
    let remote = remote(entry, config, check);
    let peer = peer(entry, check);
    let timers = timers(entry, check);
    let internal = remote == Some(RemoteAs::Internal);
    let multihop = match &entry.properties {
        Some(list) => multihop(list, internal, check),
        None => Some(None),
    };
    let families = families(entry, internal, check);
    let bfd = entry.bfd.as_ref().map(|bfd| self::bfd(bfd));
    if let (Some(NeighborId::Interface(_)), Some(Some(_))) = (&peer, &multihop) {
        check.reject(&entry.location, "ebgpMultiHop is not allowed on an interface");
        return None;
    }
    Some(FabricNeighbor {
        peer: peer?,
        remote: remote?,
        port: entry.port.as_ref().and_then(|port| u16::try_from(port.get()).ok()),
        password: entry.password.as_ref().map(|password| password.value.clone()),
        timers: timers?,
        connect_s: entry.connect.as_ref().map(|connect| connect.get()),
        multihop: multihop?,
        bfd,
        families: families?,
    })
}

/// The error if not exactly one of the keys is set.
pub(super) fn exactly_one(keys: &[(&str, bool)]) -> Result<(), String> {
    let given: Vec<&str> = keys.iter().filter(|(_, given)| *given).map(|(key, _)| *key).collect();
    let all: Vec<&str> = keys.iter().map(|(key, _)| *key).collect();
    let all = all.join(", ");
    match given.len() {
        0 => Err(format!("needs one of {all}")),
        1 => Ok(()),
        _ => Err(format!("has {}: exactly one of {all} is needed", given.join(" and "))),
    }
}

fn remote(
    entry: &Located<entries::NeighborEntry>,
    config: &Config,
    check: &mut EntryCheck<'_, '_>,
) -> Option<RemoteAs> {
    let keys = [("asn", entry.asn.is_some()), ("type", entry.kind.is_some())];
    if let Err(reason) = exactly_one(&keys) {
        check.reject(&entry.location, reason);
        return None;
    }
    Some(match (&entry.asn, &entry.kind) {
        (Some(asn), _) if asn.value == config.settings.asn_local => RemoteAs::Internal,
        (Some(asn), _) => RemoteAs::Asn(asn.value),
        (None, kind) => remote_of(kind.as_ref()?.value),
    })
}

/// The AS number of a peer that is configured by type.
pub(super) fn remote_of(kind: PeerType) -> RemoteAs {
    match kind {
        PeerType::External => RemoteAs::External,
        PeerType::Internal => RemoteAs::Internal,
    }
}

fn peer(entry: &Located<entries::NeighborEntry>, check: &mut EntryCheck<'_, '_>) -> Option<NeighborId> {
    let keys = [
        ("address", entry.address.is_some()),
        ("interface", entry.interface.is_some()),
        ("listenRange", entry.range.is_some()),
    ];
    if let Err(reason) = exactly_one(&keys) {
        check.reject(&entry.location, reason);
        return None;
    }
    if let Some(range) = &entry.range {
        return Some(NeighborId::Range(range.0));
    }
    match (&entry.address, &entry.interface) {
        (Some(address), _) => Some(NeighborId::Address(address.0)),
        (None, interface) => Some(NeighborId::Interface(interface.as_ref()?.0.clone())),
    }
}

/// Keepalive and hold time: both or none, and valid by RFC 4271 §4.2.
fn timers(
    entry: &Located<entries::NeighborEntry>,
    check: &mut EntryCheck<'_, '_>,
) -> Option<Option<(u32, u32)>> {
    let (keepalive, hold) = match (&entry.keepalive, &entry.hold) {
        (None, None) => return Some(None),
        (Some(keepalive), Some(hold)) => (keepalive, hold),
        (keepalive, hold) => {
            let given = keepalive
                .as_ref()
                .map(|given| &given.location)
                .or(hold.as_ref().map(|given| &given.location))?;
            check.reject(given, "holdTimeSeconds and keepaliveTimeSeconds must be set together");
            return None;
        }
    };
    if keepalive.get() > hold.0 {
        check.reject(&keepalive.location, format_args!("more than holdTimeSeconds {}", hold.0));
        return None;
    }
    Some(Some((keepalive.get(), hold.0)))
}

fn multihop(
    list: &Located<List<entries::SessionPropertyEntry, 0, 1>>,
    internal: bool,
    check: &mut EntryCheck<'_, '_>,
) -> Option<Option<u8>> {
    let Some(property) = list.0.first() else { return Some(None) };
    if internal {
        check.reject(&property.kind.location, "allowed only for an eBGP peer");
        return None;
    }
    let ttl =
        property.multihop.as_ref().and_then(|multihop| multihop.ttl.as_ref()).map_or(255, |ttl| ttl.get());
    Some(u8::try_from(ttl).ok())
}

pub(super) fn bfd(bfd: &BfdEntry) -> NeighborBfd {
    NeighborBfd {
        receive_ms: bfd.receive.as_ref().map(|n| n.get()),
        transmit_ms: bfd.transmit.as_ref().map(|n| n.get()),
        multiplier: bfd.multiplier.as_ref().map(|n| n.get()),
        passive: bfd.mode.as_ref().is_some_and(|mode| mode.value == BfdMode::Passive),
        minimum_ttl: bfd.ttl.as_ref().and_then(|n| u8::try_from(n.get()).ok()),
    }
}

fn families(
    entry: &Located<entries::NeighborEntry>,
    internal: bool,
    check: &mut EntryCheck<'_, '_>,
) -> Option<Vec<(BgpFamily, bool)>> {
    let mut families: Vec<(BgpFamily, bool)> = vec![];
    for item in entry.families.iter().flat_map(|list| &list.0) {
        let family = match item.kind.value {
            FamilyType::Ipv4Unicast => BgpFamily::Ipv4Unicast,
            FamilyType::Ipv6Unicast => BgpFamily::Ipv6Unicast,
            FamilyType::Evpn => BgpFamily::Evpn,
        };
        if families.iter().any(|(other, _)| *other == family) {
            check.reject(&item.kind.location, "is listed twice");
        }
        let properties: Vec<_> = item.properties.iter().flat_map(|list| &list.0).collect();
        if let Some(client) = properties.first()
            && !internal
        {
            check.reject(&client.kind.location, "allowed only for an iBGP peer");
        }
        families.push((family, !properties.is_empty()));
    }
    check.valid.then_some(families)
}
