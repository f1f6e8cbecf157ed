//! A neighbor of the file → the model's.

use crate::config::Config;
use crate::model::{Family, Neighbor, NeighborBfd, Peer, Remote};

use super::entries::{self, Bfd, BfdMode, FamilyType, PeerType};
use super::read::List;
use super::report::{Judge, Located, Report};

/// Reads one neighbor.
pub(super) fn neighbor(
    entry: &Located<entries::Neighbor>,
    config: &Config,
    report: &mut Report<'_>,
) -> Option<Neighbor> {
    let judge = &mut Judge { sound: true, what: "neighbor", report };
    let remote = remote(entry, config, judge);
    let peer = peer(entry, judge);
    let timers = timers(entry, judge);
    let internal = remote == Some(Remote::Internal);
    let multihop = match &entry.properties {
        Some(list) => multihop(list, internal, judge),
        None => Some(None),
    };
    let families = families(entry, internal, judge);
    let bfd = entry.bfd.as_ref().map(|bfd| self::bfd(bfd));
    if let (Some(Peer::Interface(_)), Some(Some(_))) = (&peer, &multihop) {
        judge.leave_out(&entry.spot, "ebgpMultiHop has no meaning on an interface");
        return None;
    }
    Some(Neighbor {
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

/// Says why not exactly one of the keys is given.
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

fn remote(entry: &Located<entries::Neighbor>, config: &Config, judge: &mut Judge<'_, '_>) -> Option<Remote> {
    let keys = [("asn", entry.asn.is_some()), ("type", entry.kind.is_some())];
    if let Err(reason) = exactly_one(&keys) {
        judge.leave_out(&entry.spot, reason);
        return None;
    }
    Some(match (&entry.asn, &entry.kind) {
        (Some(asn), _) if asn.value == config.asn => Remote::Internal,
        (Some(asn), _) => Remote::Asn(asn.value),
        (None, kind) => remote_of(kind.as_ref()?.value),
    })
}

/// A peer whose AS number is not named.
pub(super) fn remote_of(kind: PeerType) -> Remote {
    match kind {
        PeerType::External => Remote::External,
        PeerType::Internal => Remote::Internal,
    }
}

fn peer(entry: &Located<entries::Neighbor>, judge: &mut Judge<'_, '_>) -> Option<Peer> {
    let keys = [
        ("address", entry.address.is_some()),
        ("interface", entry.interface.is_some()),
        ("listenRange", entry.range.is_some()),
    ];
    if let Err(reason) = exactly_one(&keys) {
        judge.leave_out(&entry.spot, reason);
        return None;
    }
    if let Some(range) = &entry.range {
        return Some(Peer::Range(range.0));
    }
    match (&entry.address, &entry.interface) {
        (Some(address), _) => Some(Peer::Address(address.0)),
        (None, interface) => Some(Peer::Interface(interface.as_ref()?.0.clone())),
    }
}

/// Keepalive and hold time: both or none, as the protocol wants them (RFC 4271 §4.2).
fn timers(entry: &Located<entries::Neighbor>, judge: &mut Judge<'_, '_>) -> Option<Option<(u32, u32)>> {
    let (keepalive, hold) = match (&entry.keepalive, &entry.hold) {
        (None, None) => return Some(None),
        (Some(keepalive), Some(hold)) => (keepalive, hold),
        (keepalive, hold) => {
            let given =
                keepalive.as_ref().map(|given| &given.spot).or(hold.as_ref().map(|given| &given.spot))?;
            judge.leave_out(given, "holdTimeSeconds and keepaliveTimeSeconds need each other");
            return None;
        }
    };
    if keepalive.get() > hold.0 {
        judge.leave_out(&keepalive.spot, format_args!("more than holdTimeSeconds {}", hold.0));
        return None;
    }
    Some(Some((keepalive.get(), hold.0)))
}

fn multihop(
    list: &Located<List<entries::Property, 0, 1>>,
    internal: bool,
    judge: &mut Judge<'_, '_>,
) -> Option<Option<u8>> {
    let Some(property) = list.0.first() else { return Some(None) };
    if internal {
        judge.leave_out(&property.kind.spot, "only for a peer of another AS number");
        return None;
    }
    let ttl =
        property.multihop.as_ref().and_then(|multihop| multihop.ttl.as_ref()).map_or(255, |ttl| ttl.get());
    Some(u8::try_from(ttl).ok())
}

pub(super) fn bfd(bfd: &Bfd) -> NeighborBfd {
    NeighborBfd {
        receive_ms: bfd.receive.as_ref().map(|n| n.get()),
        transmit_ms: bfd.transmit.as_ref().map(|n| n.get()),
        multiplier: bfd.multiplier.as_ref().map(|n| n.get()),
        passive: bfd.mode.as_ref().is_some_and(|mode| mode.value == BfdMode::Passive),
        minimum_ttl: bfd.ttl.as_ref().and_then(|n| u8::try_from(n.get()).ok()),
    }
}

fn families(
    entry: &Located<entries::Neighbor>,
    internal: bool,
    judge: &mut Judge<'_, '_>,
) -> Option<Vec<(Family, bool)>> {
    let mut families: Vec<(Family, bool)> = vec![];
    for item in entry.families.iter().flat_map(|list| &list.0) {
        let family = match item.kind.value {
            FamilyType::Ipv4Unicast => Family::Ipv4Unicast,
            FamilyType::Ipv6Unicast => Family::Ipv6Unicast,
            FamilyType::Evpn => Family::Evpn,
        };
        if families.iter().any(|(other, _)| *other == family) {
            judge.leave_out(&item.kind.spot, "is there twice");
        }
        let properties: Vec<_> = item.properties.iter().flat_map(|list| &list.0).collect();
        if let Some(client) = properties.first()
            && !internal
        {
            judge.leave_out(&client.kind.spot, "only for a peer of our own AS number");
        }
        families.push((family, !properties.is_empty()));
    }
    judge.sound.then_some(families)
}
