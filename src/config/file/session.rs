//! Converts a session with the host into the model's, with this node's addresses.

use ipnet::IpNet;

use crate::model::{HostSession, RemoteAs};

use super::address;
use super::entries::HostSessionEntry;
use super::neighbor::{self, exactly_one, remote_of};
use super::report::{EntryCheck, Located, Location};

/// Converts one session.
pub(super) fn session(
    entry: &Located<HostSessionEntry>,
    index: u32,
    check: &mut EntryCheck<'_, '_>,
) -> Option<(HostSession, Vec<Located<IpNet>>)> {
    let remote = remote(entry, check);
    let nets = nets(entry, check)?;
    let mut ends = vec![];
    for net in &nets {
        let literal = entry.host_ip.as_ref().and_then(|host_ip| {
            if net.addr().is_ipv4() {
                host_ip.v4.as_ref().map(|ip| ip.0)
            } else {
                host_ip.v6.as_ref().map(|ip| ip.0)
            }
        });
        match address::session_addresses(net.value, index, literal) {
            Ok(pair) => ends.push(pair),
            Err(reason) => check.reject(&net.location, reason),
        }
    }
    let v4 = entry.host_ip.as_ref().and_then(|host_ip| host_ip.v4.as_ref().map(|ip| &ip.location));
    let v6 = entry.host_ip.as_ref().and_then(|host_ip| host_ip.v6.as_ref().map(|ip| &ip.location));
    for (location, is_v4) in [(v4, true), (v6, false)] {
        if let Some(location) = location
            && !nets.iter().any(|net| net.addr().is_ipv4() == is_v4)
        {
            check.reject(location, "has no subnet of its family");
        }
    }
    let (asn, bfd) = (entry.asn.value, entry.bfd.as_ref().map(|bfd| neighbor::bfd(bfd)));
    check.valid.then_some((HostSession { asn, remote: remote?, ends, bfd }, nets))
}

fn remote(entry: &Located<HostSessionEntry>, check: &mut EntryCheck<'_, '_>) -> Option<RemoteAs> {
    let keys = [("hostASN", entry.host_asn.is_some()), ("hostType", entry.host_type.is_some())];
    if let Err(reason) = exactly_one(&keys) {
        check.reject(&entry.location, reason);
        return None;
    }
    match (&entry.host_asn, &entry.host_type) {
        (Some(asn), _) if asn.value == entry.asn.value => {
            check.reject(&asn.location, "equal to asn: use hostType: Internal for iBGP");
            None
        }
        (Some(asn), _) => Some(RemoteAs::Asn(asn.value)),
        (None, kind) => Some(remote_of(kind.as_ref()?.value)),
    }
}

/// The subnets, IPv4 first.
fn nets(entry: &Located<HostSessionEntry>, check: &mut EntryCheck<'_, '_>) -> Option<Vec<Located<IpNet>>> {
    let keys = [("localCIDR", entry.net.is_some()), ("localCIDRs", entry.nets.is_some())];
    if let Err(reason) = exactly_one(&keys) {
        check.reject(&entry.location, reason);
        return None;
    }
    let mut nets = vec![];
    if let Some(list) = &entry.nets {
        nets.clone_from(&list.0);
        nets.sort_by_key(|net| net.addr().is_ipv6());
        if let [first, second] = &nets[..]
            && first.addr().is_ipv4() == second.addr().is_ipv4()
        {
            check.reject(&second.location, "the second subnet of its family");
            return None;
        }
    }
    if let Some(by_family) = &entry.net {
        let located = |value, location: &Location| Located { value, location: location.clone() };
        nets.extend(by_family.v4.iter().map(|net| located(net.0, &net.location)));
        nets.extend(by_family.v6.iter().map(|net| located(net.0, &net.location)));
        if nets.is_empty() {
            check.reject(&by_family.location, "needs ipv4 or ipv6");
            return None;
        }
    }
    Some(nets)
}
