//! MAC address or name → fabric NIC.

use std::fmt;

use crate::config::Config;
use crate::config::file::peer_interface_error;
use crate::model::{
    IfName, Link, LinkKind, MAIN_TABLE, MacAddr, Namespaces, NsState, OWNER_PROTOCOL, Ownership, RA_PROTOCOL,
    Side, UnderlayInterface, Value as _,
};

/// Maximum length of a link's alias (`IFALIASZ` less the closing NUL, `linux/if.h`).
const LONGEST_ALIAS: usize = 255;

/// How the configuration selects a fabric NIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NicSelector {
    /// By its MAC address, from `FE_MACS`: a port of the fabric's unnumbered sessions.
    Mac(MacAddr),
    /// By its name, from the file's `underlay.interfaces`.
    Name(IfName),
}

impl NicSelector {
    /// All NICs that the configuration selects.
    pub fn from_config(config: &Config) -> Vec<Self> {
        let named = config.overlay.underlay.interfaces.iter().filter_map(|interface| match interface {
            UnderlayInterface::Device(name) => Some(Self::Name(name.clone())),
            UnderlayInterface::Macvlan { .. } => None,
        });
        config.fabric_macs.iter().map(|mac| Self::Mac(*mac)).chain(named).collect()
    }

    /// Whether the selector matches the link.
    pub fn is_match(&self, link: &Link) -> bool {
        match self {
            Self::Mac(mac) => [link.permanent_mac, link.mac].contains(&Some(*mac)),
            Self::Name(name) => link.name == name.as_str(),
        }
    }

    /// The setting that contains the selector.
    pub fn setting(&self) -> &'static str {
        match self {
            Self::Mac(_) => "FE_MACS",
            Self::Name(_) => "underlay.interfaces",
        }
    }
}

/// The selectors without an interface, and all existing interfaces, for the log.
pub fn describe_missing(selectors: &[NicSelector], now: &Namespaces) -> String {
    let words = selectors.iter().map(|selector| match selector {
        NicSelector::Mac(mac) => format!("{}: no interface has {mac}", selector.setting()),
        NicSelector::Name(name) => format!("{}: no interface is called {name}", selector.setting()),
    });
    format!("{}; seen: {}", words.collect::<Vec<_>>().join("; "), list_links(all_links(now)))
}

impl fmt::Display for NicSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac(mac) => write!(f, "{mac}"),
            Self::Name(name) => write!(f, "{name}"),
        }
    }
}

/// A fabric NIC that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FabricNic {
    /// The selector that matched it.
    pub selector: NicSelector,
    /// Its current namespace.
    pub side: Side,
    /// Its index there.
    pub index: u32,
    /// Its name.
    pub name: IfName,
    /// Its MTU in bytes.
    pub mtu: u32,
}

/// The result of the search for all NICs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NicSearch {
    /// NICs that were found, in the order of the selectors.
    pub found: Vec<FabricNic>,
    /// Selectors that match no link yet.
    pub missing: Vec<NicSelector>,
    /// Selectors that waiting does not help, each with the reason.
    pub rejected: Vec<(NicSelector, String)>,
}

impl NicSearch {
    /// Whether every NIC was found.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.rejected.is_empty()
    }
}

/// Searches these NICs in both namespaces. `before`: the result of the last search. Its NICs are preferred to links
/// that have appeared since.
pub fn find_nics(wanted: &[NicSelector], now: &Namespaces, before: &[FabricNic]) -> NicSearch {
    let mut search = NicSearch::default();
    for selector in wanted {
        let matches = match selector {
            NicSelector::Mac(mac) => match known_nic(selector, wanted, now, before) {
                Some(link) => vec![link],
                None => candidates(*mac, now),
            },
            // If both namespaces have the name, the one in FRR's namespace is managed. The planner reports the other
            // one.
            NicSelector::Name(_) => {
                all_links(now).filter(|(_, link)| selector.is_match(link)).last().into_iter().collect()
            }
        };
        let sentence = match &matches[..] {
            [] => {
                search.missing.push(selector.clone());
                continue;
            }
            &[(side, link)] => match IfName::parse(&link.name) {
                Err(reason) => {
                    format!("{} {selector}: interface name {:?} {reason}", selector.setting(), link.name)
                }
                Ok(name) => match search.found.iter().find(|f| f.side == side && f.name == name) {
                    Some(twin) => {
                        format!(
                            "{} {selector} and {} {} are both {name}: remove one of them",
                            selector.setting(),
                            twin.selector.setting(),
                            twin.selector
                        )
                    }
                    None => {
                        let (selector, index, mtu) = (selector.clone(), link.index, link.mtu);
                        search.found.push(FabricNic { selector, side, index, name, mtu });
                        continue;
                    }
                },
            },
            several => format!(
                "FE_MACS {selector}: {} interfaces have this address: {}; use the permanent address of one, or name it in \
                 underlay.interfaces",
                several.len(),
                list_links(several.iter().copied())
            ),
        };
        search.rejected.push((selector.clone(), sentence));
    }
    search
}

fn all_links(now: &Namespaces) -> impl Iterator<Item = (Side, &Link)> {
    now.sides().iter().flat_map(|&side| now.get(side).links.iter().map(move |link| (side, link)))
}

/// The NIC that is already known: from the last search, or by its mark in FRR's namespace.
fn known_nic<'a>(
    selector: &NicSelector,
    wanted: &[NicSelector],
    now: &'a Namespaces,
    before: &[FabricNic],
) -> Option<(Side, &'a Link)> {
    let isolated = now.router.is_some();
    let is_marked = |side: Side, link: &Link| {
        isolated && side == Side::Router && matches!(link.ownership(), Some(Ownership::MovedNic(_)))
    };
    let last = before.iter().find(|nic| nic.selector == *selector).and_then(|nic| {
        let link = now.get(nic.side).links.by_index(nic.index)?;
        // Its MAC address may have been changed since.
        (is_marked(nic.side, link) || selector.is_match(link)).then_some((nic.side, link))
    });
    if last.is_some() {
        return last;
    }
    let is_of_another = |link: &Link| {
        wanted.iter().any(|other| {
            other != selector && matches!(other, NicSelector::Mac(mac) if link.permanent_mac == Some(*mac))
        }) || before
            .iter()
            .any(|nic| nic.selector != *selector && is_marked(nic.side, link) && nic.index == link.index)
    };
    let mut marked = all_links(now)
        .filter(|(side, link)| is_marked(*side, link) && selector.is_match(link) && !is_of_another(link));
    let first = marked.next();
    first.filter(|_| marked.next().is_none())
}

/// The links that match best: first a NIC by its permanent address, then a NIC by its current address, then a veth end
/// (a NIC in a container or a lab). A device that copies a MAC address is never a NIC, but a port is replaced by its
/// master.
fn candidates(mac: MacAddr, now: &Namespaces) -> Vec<(Side, &Link)> {
    let rank = |link: &Link| match link.kind {
        LinkKind::Device if link.permanent_mac == Some(mac) => Some(0),
        LinkKind::Device if link.mac == Some(mac) => Some(1),
        LinkKind::Veth(_) if link.mac == Some(mac) => Some(2),
        _ => None,
    };
    let best = all_links(now).filter_map(|(_, link)| rank(link)).min();
    let fitting = all_links(now).filter(|(_, link)| best.is_some() && rank(link) == best);
    let mut found: Vec<(Side, &Link)> = vec![];
    for (side, link) in fitting.map(|(side, link)| (side, active_master(mac, now.get(side), link))) {
        if !found.iter().any(|(s, l)| (*s, &l.name) == (side, &link.name)) {
            found.push((side, link));
        }
    }
    found
}

/// The link that carries the traffic of a MAC address: the link's master, if it has the same address and is a NIC (the
/// synthetic NIC of a virtual function, a failover device) or a bond. Otherwise the link itself.
fn active_master<'a>(mac: MacAddr, state: &'a NsState, mut link: &'a Link) -> &'a Link {
    let leads = |master: &&Link| {
        let is_one = match &master.kind {
            LinkKind::Device => true,
            LinkKind::Other(kind) => ["bond", "team"].contains(&kind.as_str()),
            _ => false,
        };
        is_one && master.mac == Some(mac)
    };
    // Masters form no cycle, but the names may be read during a change.
    for _ in 0..4 {
        let Some(master) = link.master.as_ref().and_then(|name| state.link(name)).filter(leads) else {
            break;
        };
        link = master;
    }
    link
}

fn list_links<'a>(links: impl Iterator<Item = (Side, &'a Link)>) -> String {
    let words: Vec<String> = links
        .filter_map(|(side, link)| {
            let mac = link.permanent_mac.or(link.mac)?;
            let kind = match &link.kind {
                LinkKind::Device => String::new(),
                kind => format!(" ({kind})"),
            };
            let place = if side == Side::Router { " in FRR's namespace" } else { "" };
            Some(format!("{} {mac}{kind}{place}", link.name))
        })
        .collect();
    if words.is_empty() { "no interface".into() } else { words.join(", ") }
}

/// Why a NIC must not become a fabric port of FRR's namespace, or cannot be one where it is. `None`: it can.
pub fn rejection_reason(config: &Config, now: &Namespaces, nic: &FabricNic) -> Option<String> {
    let link = now.get(nic.side).link(nic.name.as_str())?;
    let name = &nic.name;
    // The name of its BGP session is the interface's name. The file's own checks cover the NICs that it names.
    if let Some(why) =
        peer_interface_error(name.as_str()).filter(|_| matches!(nic.selector, NicSelector::Mac(_)))
    {
        return Some(format!(
            "{name} ({}) cannot be a fabric NIC under this name: {why}; rename the NIC",
            nic.selector
        ));
    }
    let namespace = config.settings.netns.as_deref();
    // In FRR's namespace, the NIC is removed from an unwanted master.
    if let Some(master) = link.master.as_ref().filter(|_| namespace.is_none() || nic.side == Side::Host) {
        return Some(format!(
            "{name} ({}) is a port of {master}: a fabric NIC must have no master, remove it from {master} or use another NIC in {}",
            nic.selector,
            nic.selector.setting()
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
            [] => "use a NIC".to_owned(),
            ports => format!("remove {} from it and use each of them", ports.join(", ")),
        };
        return Some(format!(
            "{name} ({}) is a {kind}, which the kernel cannot move into another namespace such as {namespace}: \
             {ways} in {} (FRR balances the traffic over all of them), or set NETNS=host",
            nic.selector,
            nic.selector.setting()
        ));
    }
    let namespace = namespace?;
    if Ownership::MovedNic(super::original_addresses(now, nic)).alias().len() > LONGEST_ALIAS {
        return Some(format!(
            "{name} ({}) has more addresses than its alias can store ({LONGEST_ALIAS} characters): remove some",
            nic.selector
        ));
    }
    if nic.side == Side::Router || config.settings.underlay_force_move {
        return None;
    }
    let mut cut = Vec::new();
    // A default route from a leaf's router advertisement is not intended by the operator.
    let default = now.host.routes.iter().find(|r| {
        r.dst.prefix_len() == 0
            && r.table == MAIN_TABLE
            && r.dev == link.name
            && ![OWNER_PROTOCOL, RA_PROTOCOL].contains(&r.protocol)
    });
    if let Some(route) = default {
        let via = route.via.map_or(String::new(), |via| format!(" via {via}"));
        cut.push(format!("the node's default route{via}"));
    }
    let node_ip = config.settings.node_ip.get();
    if link.addresses.iter().any(|a| a.net.addr() == node_ip) {
        cut.push(format!("NODE_IP {node_ip}"));
    }
    for child in now.host.links.iter().filter(|l| l.parent.as_deref() == Some(&link.name)) {
        cut.push(format!("its upper link {}", child.name));
    }
    if cut.is_empty() {
        return None;
    }
    Some(format!(
        "{name} ({}) carries {}: moving it into namespace {namespace} would cut that off. \
         UNDERLAY_FORCE_MOVE=true moves it anyway, NETNS=host does not move it",
        nic.selector,
        cut.join(" and ")
    ))
}

#[cfg(test)]
mod tests;
