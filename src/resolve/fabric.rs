//! MAC address → fabric NIC.

use crate::config::Config;
use crate::model::{IfName, Link, LinkKind, MacAddr, Namespaces, Side, Value as _};

use super::MAIN_TABLE;
use crate::model::OWNER_PROTOCOL;

/// A fabric NIC that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The address that it was found by.
    pub mac: MacAddr,
    /// Where it is now.
    pub side: Side,
    /// Its name.
    pub name: IfName,
    /// Its MTU in bytes.
    pub mtu: u32,
}

/// The result of looking for every NIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Search {
    /// All are there, in the order asked for.
    Complete(Vec<Found>),
    /// These are not there yet; the words list what was seen instead.
    Missing(Vec<MacAddr>, String),
    /// More time won't help.
    Wrong(Vec<String>),
}

/// Looks for the NICs with these addresses in both namespaces.
pub fn find(macs: &[MacAddr], now: &Namespaces) -> Search {
    let mut found: Vec<Found> = Vec::new();
    let mut missing = Vec::new();
    let mut wrong = Vec::new();
    for &mac in macs {
        match &candidates(mac, now)[..] {
            [] => missing.push(mac),
            &[(side, link)] => match IfName::parse(&link.name) {
                Err(reason) => wrong.push(format!("FE_MACS {mac}: interface name {:?} {reason}", link.name)),
                Ok(name) => match found.iter().find(|f| f.side == side && f.name == name) {
                    Some(twin) => wrong.push(format!("FE_MACS {mac} and {} are both {name}", twin.mac)),
                    None => found.push(Found { mac, side, name, mtu: link.mtu }),
                },
            },
            several => wrong.push(format!(
                "FE_MACS {mac}: {} interfaces have this address: {}",
                several.len(),
                list(several.iter().copied())
            )),
        }
    }
    if !wrong.is_empty() {
        Search::Wrong(wrong)
    } else if missing.is_empty() {
        Search::Complete(found)
    } else {
        Search::Missing(missing, list(all(now)))
    }
}

fn all(now: &Namespaces) -> impl Iterator<Item = (Side, &Link)> {
    now.sides().iter().flat_map(|&side| now.get(side).links.iter().map(move |link| (side, link)))
}

/// The links that best fit: a NIC by the address it was made with, then a NIC by its present one,
/// then a veth end (a NIC in a container or a lab). What copies a MAC is never a NIC.
fn candidates(mac: MacAddr, now: &Namespaces) -> Vec<(Side, &Link)> {
    let rank = |link: &Link| match link.kind {
        LinkKind::Device if link.permanent_mac == Some(mac) => Some(0),
        LinkKind::Device if link.mac == Some(mac) => Some(1),
        LinkKind::Veth(_) if link.mac == Some(mac) => Some(2),
        _ => None,
    };
    let best = all(now).filter_map(|(_, link)| rank(link)).min();
    all(now).filter(|(_, link)| best.is_some() && rank(link) == best).collect()
}

fn list<'a>(links: impl Iterator<Item = (Side, &'a Link)>) -> String {
    let words: Vec<String> = links
        .filter_map(|(side, link)| {
            let mac = link.permanent_mac.or(link.mac)?;
            let kind = match &link.kind {
                LinkKind::Other(kind) => format!(" ({kind})"),
                LinkKind::Veth(_) => " (veth)".into(),
                LinkKind::Vrf(_) => " (vrf)".into(),
                LinkKind::Device => String::new(),
            };
            let place = if side == Side::Router { " in the namespace" } else { "" };
            Some(format!("{} {mac}{kind}{place}", link.name))
        })
        .collect();
    if words.is_empty() { "no interface at all".into() } else { words.join(", ") }
}

/// Why a NIC must not become a fabric port of the router's namespace, or `None`.
pub(super) fn objection(config: &Config, now: &Namespaces, nic: &Found) -> Option<String> {
    let link = now.get(nic.side).link(nic.name.as_str())?;
    let name = &nic.name;
    if let Some(master) = &link.master {
        return Some(format!(
            "{name} ({}) is a port of {master}: a fabric interface must stand alone, name another in FE_MACS",
            nic.mac
        ));
    }
    let namespace = config.namespace.as_deref()?;
    if nic.side == Side::Router || config.force_move {
        return None;
    }
    let mut cut = Vec::new();
    let default = now.host.routes.iter().find(|r| {
        r.dst.prefix_len() == 0 && r.table == MAIN_TABLE && r.dev == link.name && r.protocol != OWNER_PROTOCOL
    });
    if let Some(route) = default {
        let via = route.via.map_or(String::new(), |via| format!(" via {via}"));
        cut.push(format!("the node's default route{via}"));
    }
    let node_ip = config.node_ip.get();
    if link.addresses.iter().any(|a| a.net.addr() == node_ip) {
        cut.push(format!("NODE_IP {node_ip}"));
    }
    for child in now.host.links.iter().filter(|l| l.parent.as_deref() == Some(&link.name)) {
        cut.push(format!("{}, which stands on it", child.name));
    }
    if cut.is_empty() {
        return None;
    }
    Some(format!(
        "{name} ({}) carries {}: moving it into namespace {namespace} would cut that off. \
         UNDERLAY_FORCE_MOVE=true moves it all the same, NETNS=host leaves it where it is",
        nic.mac,
        cut.join(" and ")
    ))
}
