//! A session with the host → the model's, with this node's addresses.

use ipnet::IpNet;

use crate::model::{HostSession, Remote};

use super::address;
use super::entries::Session;
use super::neighbor::{self, exactly_one, remote_of};
use super::report::{Judge, Located, Spot};

/// Reads one session.
pub(super) fn session(
    entry: &Located<Session>,
    index: u32,
    judge: &mut Judge<'_, '_>,
) -> Option<(HostSession, Vec<Located<IpNet>>)> {
    let remote = remote(entry, judge);
    let nets = nets(entry, judge)?;
    let mut ends = vec![];
    for net in &nets {
        let literal = entry.host_ip.as_ref().and_then(|host_ip| {
            if net.addr().is_ipv4() {
                host_ip.v4.as_ref().map(|ip| ip.0)
            } else {
                host_ip.v6.as_ref().map(|ip| ip.0)
            }
        });
        match address::ends(net.value, index, literal) {
            Ok(pair) => ends.push(pair),
            Err(reason) => judge.leave_out(&net.spot, reason),
        }
    }
    let v4 = entry.host_ip.as_ref().and_then(|host_ip| host_ip.v4.as_ref().map(|ip| &ip.spot));
    let v6 = entry.host_ip.as_ref().and_then(|host_ip| host_ip.v6.as_ref().map(|ip| &ip.spot));
    for (spot, is_v4) in [(v4, true), (v6, false)] {
        if let Some(spot) = spot
            && !nets.iter().any(|net| net.addr().is_ipv4() == is_v4)
        {
            judge.leave_out(spot, "there is no subnet of its family");
        }
    }
    let (asn, bfd) = (entry.asn.value, entry.bfd.as_ref().map(|bfd| neighbor::bfd(bfd)));
    judge.sound.then_some((HostSession { asn, remote: remote?, ends, bfd }, nets))
}

fn remote(entry: &Located<Session>, judge: &mut Judge<'_, '_>) -> Option<Remote> {
    let keys = [("hostASN", entry.host_asn.is_some()), ("hostType", entry.host_type.is_some())];
    if let Err(reason) = exactly_one(&keys) {
        judge.leave_out(&entry.spot, reason);
        return None;
    }
    match (&entry.host_asn, &entry.host_type) {
        (Some(asn), _) if asn.value == entry.asn.value => {
            judge.leave_out(&asn.spot, "the same as asn: write hostType: Internal if that is meant");
            None
        }
        (Some(asn), _) => Some(Remote::Asn(asn.value)),
        (None, kind) => Some(remote_of(kind.as_ref()?.value)),
    }
}

/// The subnets, IPv4 first.
fn nets(entry: &Located<Session>, judge: &mut Judge<'_, '_>) -> Option<Vec<Located<IpNet>>> {
    let keys = [("localCIDR", entry.net.is_some()), ("localCIDRs", entry.nets.is_some())];
    if let Err(reason) = exactly_one(&keys) {
        judge.leave_out(&entry.spot, reason);
        return None;
    }
    let mut nets = vec![];
    if let Some(list) = &entry.nets {
        nets.clone_from(&list.0);
        nets.sort_by_key(|net| net.addr().is_ipv6());
        if let [first, second] = &nets[..]
            && first.addr().is_ipv4() == second.addr().is_ipv4()
        {
            judge.leave_out(&second.spot, "the second subnet of its family");
            return None;
        }
    }
    if let Some(by_family) = &entry.net {
        let located = |value, spot: &Spot| Located { value, spot: spot.clone() };
        nets.extend(by_family.v4.iter().map(|net| located(net.0, &net.spot)));
        nets.extend(by_family.v6.iter().map(|net| located(net.0, &net.spot)));
        if nets.is_empty() {
            judge.leave_out(&by_family.spot, "needs ipv4 or ipv6");
            return None;
        }
    }
    Some(nets)
}
