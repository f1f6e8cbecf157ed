//! MAC address or name → fabric NIC.

use std::fmt;

use crate::config::Config;
use crate::config::file::no_peer;
use crate::model::{
    ADVERTISED_PROTOCOL, IfName, Link, LinkKind, MacAddr, Namespaces, NsState, OWNER_PROTOCOL, Role, Side,
    UnderlayInterface, Value as _,
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
pub fn missing(those: &[By], now: &Namespaces) -> String {
    let words = those.iter().map(|by| match by {
        By::Mac(mac) => format!("{}: no interface has {mac}", by.setting()),
        By::Name(name) => format!("{}: no interface is called {name}", by.setting()),
    });
    format!("{}; seen: {}", words.collect::<Vec<_>>().join("; "), list(all(now)))
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
    /// Its index there.
    pub index: u32,
    /// Its name.
    pub name: IfName,
    /// Its MTU in bytes.
    pub mtu: u32,
}

/// The result of looking for every NIC.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Search {
    /// Those that are there, in the order asked for.
    pub found: Vec<Found>,
    /// Those that are not there (yet).
    pub missing: Vec<By>,
    /// Those that more time won't help, each with the reason.
    pub wrong: Vec<(By, String)>,
}

impl Search {
    /// Whether every NIC was found.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.wrong.is_empty()
    }
}

/// Looks for these NICs in both namespaces. `before`: what the last search found, which is preferred to what has appeared
/// beside it since.
pub fn find(wanted: &[By], now: &Namespaces, before: &[Found]) -> Search {
    let mut search = Search::default();
    for by in wanted {
        let found_by = match by {
            By::Mac(mac) => match known(by, wanted, now, before) {
                Some(link) => vec![link],
                None => candidates(*mac, now),
            },
            // In both places the one in the namespace is ours, and the planner says what the other is.
            By::Name(_) => all(now).filter(|(_, link)| by.fits(link)).last().into_iter().collect(),
        };
        let sentence = match &found_by[..] {
            [] => {
                search.missing.push(by.clone());
                continue;
            }
            &[(side, link)] => match IfName::parse(&link.name) {
                Err(reason) => format!("{} {by}: interface name {:?} {reason}", by.setting(), link.name),
                Ok(name) => match search.found.iter().find(|f| f.side == side && f.name == name) {
                    Some(twin) => {
                        format!("{} {by} and {} {} are both {name}", by.setting(), twin.by.setting(), twin.by)
                    }
                    None => {
                        let (by, index, mtu) = (by.clone(), link.index, link.mtu);
                        search.found.push(Found { by, side, index, name, mtu });
                        continue;
                    }
                },
            },
            several => format!(
                "FE_MACS {by}: {} interfaces have this address: {}",
                several.len(),
                list(several.iter().copied())
            ),
        };
        search.wrong.push((by.clone(), sentence));
    }
    search
}

fn all(now: &Namespaces) -> impl Iterator<Item = (Side, &Link)> {
    now.sides().iter().flat_map(|&side| now.get(side).links.iter().map(move |link| (side, link)))
}

/// The NIC that is known already: the one of the last search, or one that carries our mark in FRR's namespace.
fn known<'a>(by: &By, wanted: &[By], now: &'a Namespaces, before: &[Found]) -> Option<(Side, &'a Link)> {
    let isolated = now.router.is_some();
    let is_marked = |side: Side, link: &Link| {
        isolated && side == Side::Router && matches!(link.role(), Some(Role::Nic(_)))
    };
    let last = before.iter().find(|nic| nic.by == *by).and_then(|nic| {
        let link = now.get(nic.side).links.at(nic.index)?;
        // Whatever address somebody has given it since.
        (is_marked(nic.side, link) || by.fits(link)).then_some((nic.side, link))
    });
    if last.is_some() {
        return last;
    }
    let is_of_another = |link: &Link| {
        wanted
            .iter()
            .any(|other| other != by && matches!(other, By::Mac(mac) if link.permanent_mac == Some(*mac)))
            || before.iter().any(|nic| nic.by != *by && is_marked(nic.side, link) && nic.index == link.index)
    };
    let mut marked =
        all(now).filter(|(side, link)| is_marked(*side, link) && by.fits(link) && !is_of_another(link));
    let first = marked.next();
    first.filter(|_| marked.next().is_none())
}

/// The links that best fit: a NIC by the address it was made with, then a NIC by its present one,
/// then a veth end (a NIC in a container or a lab). What copies a MAC is never a NIC, but a port gives way to its master.
fn candidates(mac: MacAddr, now: &Namespaces) -> Vec<(Side, &Link)> {
    let rank = |link: &Link| match link.kind {
        LinkKind::Device if link.permanent_mac == Some(mac) => Some(0),
        LinkKind::Device if link.mac == Some(mac) => Some(1),
        LinkKind::Veth(_) if link.mac == Some(mac) => Some(2),
        _ => None,
    };
    let best = all(now).filter_map(|(_, link)| rank(link)).min();
    let fitting = all(now).filter(|(_, link)| best.is_some() && rank(link) == best);
    let mut found: Vec<(Side, &Link)> = vec![];
    for (side, link) in fitting.map(|(side, link)| (side, leader(mac, now.get(side), link))) {
        if !found.iter().any(|(s, l)| (*s, &l.name) == (side, &link.name)) {
            found.push((side, link));
        }
    }
    found
}

/// What works for a link that has this address: its master, if that has the same one and is a NIC (a virtual function's synthetic NIC,
/// a failover device) or a bond. All else is the link itself.
fn leader<'a>(mac: MacAddr, state: &'a NsState, mut link: &'a Link) -> &'a Link {
    let leads = |master: &&Link| {
        let is_one = match &master.kind {
            LinkKind::Device => true,
            LinkKind::Other(kind) => ["bond", "team"].contains(&kind.as_str()),
            _ => false,
        };
        is_one && master.mac == Some(mac)
    };
    // Masters don't go round in circles, but names may be read while they change.
    for _ in 0..4 {
        let Some(master) = link.master.as_ref().and_then(|name| state.link(name)).filter(leads) else {
            break;
        };
        link = master;
    }
    link
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

/// Why a NIC must not become a fabric port of FRR's namespace, or can't be one where it is; `None`: nothing is wrong with it.
pub fn objection(config: &Config, now: &Namespaces, nic: &Found) -> Option<String> {
    let link = now.get(nic.side).link(nic.name.as_str())?;
    let name = &nic.name;
    // Its session has its name.
    if let Some(why) = no_peer(name.as_str()).filter(|_| matches!(nic.by, By::Mac(_))) {
        return Some(format!(
            "{name} ({}) can't be a fabric interface by that name: it is {why}; give the NIC another one",
            nic.by
        ));
    }
    let namespace = config.namespace.as_deref();
    // In the namespace it is taken out of a master that somebody has given it.
    if let Some(master) = link.master.as_ref().filter(|_| namespace.is_none() || nic.side == Side::Host) {
        return Some(format!(
            "{name} ({}) is a port of {master}: a fabric interface must stand alone, take it out of {master} or name another in {}",
            nic.by,
            nic.by.setting()
        ));
    }
    if link.is_immovable()
        && nic.side == Side::Host
        && let Some(namespace) = namespace
    {
        let kind = if link.kind == LinkKind::Device { "device".into() } else { link.kind.to_string() };
        let ports: Vec<_> = now
            .host
            .links
            .iter()
            .filter(|port| port.master.as_ref() == Some(&link.name))
            .map(|port| &port.name[..])
            .collect();
        let ways = match &ports[..] {
            [] => "name a NIC".to_owned(),
            ports => format!("take {} out of it and name each of them", ports.join(", ")),
        };
        return Some(format!(
            "{name} ({}) is a {kind} that the kernel lets into no other namespace, so it can't be moved into {namespace}: \
             {ways} in {} (FRR spreads the traffic over all of them), or leave it where it is by NETNS=host",
            nic.by,
            nic.by.setting()
        ));
    }
    let namespace = namespace?;
    if Role::Nic(super::home_addresses(now, nic)).alias().len() > LONGEST_ALIAS {
        return Some(format!(
            "{name} ({}) has more addresses than its mark can remember ({LONGEST_ALIAS} characters): remove some",
            nic.by
        ));
    }
    if nic.side == Side::Router || config.force_move {
        return None;
    }
    let mut cut = Vec::new();
    // What a leaf's router advertisement has made of it is no one's wish.
    let default = now.host.routes.iter().find(|r| {
        r.dst.prefix_len() == 0
            && r.table == MAIN_TABLE
            && r.dev == link.name
            && ![OWNER_PROTOCOL, ADVERTISED_PROTOCOL].contains(&r.protocol)
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
        let search = find(&macs, &now, &[]);
        if search.is_complete() {
            return Ok(search.found.iter().map(|f| format!("{} {}", f.side, f.name)).collect());
        }
        let wrong: Vec<String> = search.wrong.into_iter().map(|(_, sentence)| sentence).collect();
        Err(if wrong.is_empty() { list(all(&now)) } else { wrong.join("; ") })
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
    fn a_port_gives_way_to_the_master_that_has_its_address() {
        let port = |name: &str, master: &str, made_with| Link {
            master: Some(master.into()),
            ..link(name, LinkKind::Device, A, made_with)
        };
        let numbered = |links: Vec<Link>| {
            let mut index = 1;
            links
                .into_iter()
                .map(|link| {
                    index += 1;
                    Link { index, ..link }
                })
                .collect::<Vec<_>>()
        };
        let found = |links| names(&[A], numbered(links), vec![]);
        let eth0 = || Ok(vec!["host eth0".to_owned()]);
        // A synthetic NIC and its virtual function, whichever says what it was made with; both may say nothing.
        for (nic, function) in
            [(None, Some(A)), (Some(A), None), (None, None), (Some(A), Some(A)), (None, Some(B))]
        {
            assert_eq!(
                found(vec![link("eth0", LinkKind::Device, A, nic), port("eth1", "eth0", function)]),
                eth0()
            );
        }
        // A failover device and both of its ports.
        let failover = vec![
            link("eth0", LinkKind::Device, A, None),
            port("eth0nsby", "eth0", Some(A)),
            port("eth1", "eth0", Some(A)),
        ];
        assert_eq!(found(failover), eth0());
        // Functions that have no address yet are no one's double.
        let none = |name: &str, master: Option<&str>| Link {
            master: master.map(Into::into),
            ..Link::new(1, name, LinkKind::Device)
        };
        let nic = || link("eth0", LinkKind::Device, A, Some(A));
        assert_eq!(
            found(vec![nic(), none("vf0", Some("eth0")), none("vf1", Some("eth0")), none("vf2", None)]),
            eth0()
        );
        assert_eq!(found(vec![nic(), port("vf0", "none", Some(B)), none("none", None)]), eth0());
        // A bond leads, a bridge does not.
        let master = |kind: &str| link("m", LinkKind::Other(kind.into()), A, None);
        assert_eq!(found(vec![master("bond"), port("eth0", "m", Some(A))]), Ok(vec!["host m".into()]));
        let bridge = Link { kind: LinkKind::Bridge, ..master("") };
        assert_eq!(found(vec![bridge, port("eth0", "m", Some(A))]), eth0());
    }

    #[test]
    fn a_nic_that_is_called_like_something_of_frrs_is_refused() {
        let vars = [("NODE_IP", "10.0.0.1"), ("ASN_LOCAL", "65001"), ("FE_MACS", A)];
        let config = crate::config::from_vars(vars.map(|(k, v)| (k.into(), v.into()))).unwrap();
        let objects = |name: &str, by: By| {
            let now = Namespaces {
                host: NsState {
                    links: [link(name, LinkKind::Device, A, None)].into_iter().collect(),
                    ..NsState::default()
                },
                router: None,
            };
            let nic = Found { by, side: Side::Host, index: 1, name: IfName::parse(name).unwrap(), mtu: 1500 };
            objection(&config, &now, &nic)
        };
        let sentence = objects("fabric", By::Mac(mac(A))).unwrap();
        assert!(sentence.contains("the name of a peer group"), "{sentence}");
        assert_eq!(objects("eth0", By::Mac(mac(A))), None);
        // The file has its own rules for these.
        assert_eq!(objects("fabric", By::Name(IfName::parse("fabric").unwrap())), None);
    }

    #[test]
    fn a_nic_is_found_where_it_was_moved_to() {
        let nic = link("eth0", LinkKind::Device, A, None);
        assert_eq!(names(&[A], vec![], vec![nic]), Ok(vec!["router eth0".into()]));
    }

    #[test]
    fn a_nic_that_is_known_stays_it_whatever_appears_beside_it() {
        let find =
            |now: &Namespaces, before: &[Found]| find(&[By::Mac(mac(A)), By::Mac(mac(B))], now, before);
        let names = |search: &Search| search.found.iter().map(|f| f.name.to_string()).collect::<Vec<_>>();
        let veth =
            |index, name: &str, address| Link { index, ..link(name, LinkKind::Veth(99), address, None) };
        let marked = |link: Link| Link { alias: Some("frr-supervisor nic".into()), ..link };
        let state = |links: Vec<Link>| NsState { links: links.into_iter().collect(), ..NsState::default() };
        // Its mark says so in FRR's namespace, to one that has just been started.
        let own = state(vec![marked(veth(5, "eth0", A)), marked(veth(6, "eth1", B))]);
        let beside = vec![veth(7, "twin", A), link("real", LinkKind::Device, B, Some(B))];
        let now = Namespaces { host: state(beside), router: Some(own) };
        let search = find(&now, &[]);
        assert_eq!(names(&search), ["eth0", "eth1"]);
        assert!(search.is_complete());
        // A mark in the host's namespace is no more than a word on a link.
        let now = Namespaces {
            host: state(vec![marked(veth(5, "eth0", A)), veth(6, "eth1", A)]),
            router: Some(NsState::default()),
        };
        assert!(find(&now, &[]).wrong[0].1.contains("2 interfaces"));
        // In the host's own namespace it is the one of before.
        let one = Namespaces { host: state(vec![veth(5, "eth0", A), veth(6, "eth1", B)]), router: None };
        let before = find(&one, &[]).found;
        let two = Namespaces {
            host: state(vec![veth(5, "eth0", A), veth(6, "eth1", B), veth(7, "a", A), veth(8, "b", B)]),
            router: None,
        };
        assert_eq!(find(&two, &[]).wrong.len(), 2);
        assert_eq!(names(&find(&two, &before)), ["eth0", "eth1"]);
        // What is wrong with one leaves the other.
        let gone = Namespaces {
            host: state(vec![veth(6, "eth1", B), veth(7, "a", A), veth(9, "c", A)]),
            router: None,
        };
        let search = find(&gone, &before);
        assert_eq!((names(&search), search.wrong.len()), (vec!["eth1".to_owned()], 1));
        // One that was given the other's address is still itself.
        let own = state(vec![marked(veth(5, "eth0", B)), marked(veth(6, "eth1", B))]);
        let now = Namespaces { host: NsState::default(), router: Some(own) };
        let before: Vec<Found> = before.into_iter().map(|nic| Found { side: Side::Router, ..nic }).collect();
        assert_eq!(names(&find(&now, &before)), ["eth0", "eth1"]);
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
