//! MAC address or name → fabric NIC.

use std::fmt;

use crate::config::Config;
use crate::model::{
    IfName, Link, LinkKind, MacAddr, Namespaces, OWNER_PROTOCOL, Role, Side, UnderlayInterface, Value as _,
};

use super::MAIN_TABLE;

/// Characters that a link's alias may have (`IFALIASZ` less the closing NUL, `linux/if.h`).
const LONGEST_ALIAS: usize = 255;

/// What a fabric NIC is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// Its address, in `FE_MACS`: a port of the fabric's unnumbered sessions.
    Mac(MacAddr),
    /// Its name, in the file's `underlay.interfaces`.
    Name(IfName),
}

impl By {
    /// What the configuration asks for.
    pub fn all(config: &Config) -> Vec<Self> {
        let named = config.overlay.underlay.interfaces.iter().filter_map(|interface| match interface {
            UnderlayInterface::Device(name) => Some(Self::Name(name.clone())),
            UnderlayInterface::Macvlan { .. } => None,
        });
        config.fabric_macs.iter().map(|mac| Self::Mac(*mac)).chain(named).collect()
    }

    /// Whether the link is meant.
    pub fn fits(&self, link: &Link) -> bool {
        match self {
            Self::Mac(mac) => [link.permanent_mac, link.mac].contains(&Some(*mac)),
            Self::Name(name) => link.name == name.as_str(),
        }
    }

    /// What asks for it.
    pub fn setting(&self) -> &'static str {
        match self {
            Self::Mac(_) => "FE_MACS",
            Self::Name(_) => "underlay.interfaces",
        }
    }
}

/// What there is none of, and what there is instead, for the log.
pub fn missing(all: &[By], seen: &str) -> String {
    let words = all.iter().map(|by| match by {
        By::Mac(mac) => format!("{}: no interface has {mac}", by.setting()),
        By::Name(name) => format!("{}: no interface is called {name}", by.setting()),
    });
    format!("{}; seen: {seen}", words.collect::<Vec<_>>().join("; "))
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac(mac) => write!(f, "{mac}"),
            Self::Name(name) => write!(f, "{name}"),
        }
    }
}

/// A fabric NIC that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What it was found by.
    pub by: By,
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
    /// These are not there (yet), the others are; the words list what was seen instead.
    Missing(Vec<By>, Vec<Found>, String),
    /// More time won't help.
    Wrong(Vec<String>),
}

/// Looks for these NICs in both namespaces.
pub fn find(wanted: &[By], now: &Namespaces) -> Search {
    let mut found: Vec<Found> = Vec::new();
    let mut missing = Vec::new();
    let mut wrong = Vec::new();
    for by in wanted {
        let found_by = match by {
            By::Mac(mac) => candidates(*mac, now),
            // In both places the one in the namespace is ours, and the planner says what the other is.
            By::Name(_) => all(now).filter(|(_, link)| by.fits(link)).last().into_iter().collect(),
        };
        match &found_by[..] {
            [] => missing.push(by.clone()),
            &[(side, link)] => match IfName::parse(&link.name) {
                Err(reason) => {
                    wrong.push(format!("{} {by}: interface name {:?} {reason}", by.setting(), link.name))
                }
                Ok(name) => match found.iter().find(|f| f.side == side && f.name == name) {
                    Some(twin) => wrong.push(format!(
                        "{} {by} and {} {} are both {name}",
                        by.setting(),
                        twin.by.setting(),
                        twin.by
                    )),
                    None => found.push(Found { by: by.clone(), side, name, mtu: link.mtu }),
                },
            },
            several => wrong.push(format!(
                "FE_MACS {by}: {} interfaces have this address: {}",
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
        Search::Missing(missing, found, list(all(now)))
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
                LinkKind::Device => String::new(),
                kind => format!(" ({kind})"),
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
            "{name} ({}) is a port of {master}: a fabric interface must stand alone, name another in {}",
            nic.by,
            nic.by.setting()
        ));
    }
    let namespace = config.namespace.as_deref()?;
    let permanent = link.addresses.iter().filter(|a| a.permanent).map(|a| a.net).collect();
    if Role::Nic(permanent).alias().len() > LONGEST_ALIAS {
        return Some(format!(
            "{name} ({}) has more addresses than its mark can remember ({LONGEST_ALIAS} characters): remove some",
            nic.by
        ));
    }
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
        nic.by,
        cut.join(" and ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::NsState;

    const A: &str = "02:00:00:00:00:0a";
    const B: &str = "02:00:00:00:00:0b";

    fn mac(text: &str) -> MacAddr {
        MacAddr::parse(text).unwrap()
    }

    fn link(name: &str, kind: LinkKind, now: &str, made_with: Option<&str>) -> Link {
        Link { mac: Some(mac(now)), permanent_mac: made_with.map(mac), ..Link::new(1, name, kind) }
    }

    fn names(macs: &[&str], host: Vec<Link>, router: Vec<Link>) -> Result<Vec<String>, String> {
        let now = Namespaces {
            host: NsState { links: host.into_iter().collect(), ..NsState::default() },
            router: Some(NsState { links: router.into_iter().collect(), ..NsState::default() }),
        };
        let macs: Vec<By> = macs.iter().map(|m| By::Mac(mac(m))).collect();
        match find(&macs, &now) {
            Search::Complete(found) => Ok(found.iter().map(|f| format!("{} {}", f.side, f.name)).collect()),
            Search::Missing(_, _, seen) => Err(seen),
            Search::Wrong(problems) => Err(problems.join("; ")),
        }
    }

    #[test]
    fn the_address_that_a_nic_was_made_with_counts_first() {
        // A bond gives both its ports the address of the first.
        let ports = vec![
            link("eth0", LinkKind::Device, A, Some(A)),
            link("eth1", LinkKind::Device, A, Some(B)),
            link("bond0", LinkKind::Other("bond".into()), A, None),
        ];
        assert_eq!(names(&[A, B], ports, vec![]), Ok(vec!["host eth0".into(), "host eth1".into()]));
    }

    #[test]
    fn what_copies_an_address_is_no_nic() {
        for kind in ["vlan", "macvlan", "bond", "bridge", "ipvlan"] {
            let copy = || link("copy", LinkKind::Other(kind.into()), A, None);
            let nic = link("eth0", LinkKind::Device, A, Some(A));
            assert_eq!(names(&[A], vec![copy(), nic], vec![]), Ok(vec!["host eth0".into()]));
            assert_eq!(names(&[A], vec![copy()], vec![]), Err(format!("copy {A} ({kind})")));
        }
    }

    #[test]
    fn a_nic_is_found_where_it_was_moved_to() {
        let nic = link("eth0", LinkKind::Device, A, None);
        assert_eq!(names(&[A], vec![], vec![nic]), Ok(vec!["router eth0".into()]));
    }

    #[test]
    fn two_matches_are_an_error_that_names_them() {
        let twins = vec![link("eth0", LinkKind::Device, A, None), link("eth1", LinkKind::Device, A, None)];
        let problem = names(&[A], twins, vec![]).unwrap_err();
        assert!(problem.contains("eth0") && problem.contains("eth1") && problem.contains("2 interfaces"));
        let both = vec![link("eth0", LinkKind::Device, A, Some(B))];
        assert!(names(&[B], both.clone(), vec![]).is_ok());
        let problem = names(&[A, B], both, vec![]).unwrap_err();
        assert!(problem.contains("are both eth0"), "{problem}");
    }
}
