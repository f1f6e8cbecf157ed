//! Retained services: what MetalLB's speaker announced stays announced while bgpd is new and the speaker has not announced
//! it again.
//!
//! The leaves keep the routes of a bgpd that restarts, but only once: when it dies again before it has announced them anew
//! they are gone (RFC 4724 §4.2). And it can't announce a service before the speaker has connected, which takes its
//! connect time, up to minutes. So a new bgpd begins with the services as networks of its own, with the path, the
//! communities and the metric that they had. Their weight is above that of any foreign path and below that of the
//! speaker's own. Pure.

use std::fmt::Write as _;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::delta::{Step, opens_default};
use super::neighbors::is_established;
use super::vty::CONFIGURE;
use crate::model::{Asn, VrfName};

mod services;

pub use services::{MAX_SERVICES, Services};

/// Weight of the paths that the speaker announces, which the import into the default instance keeps: weight is what bgpd
/// compares first. Below that of networks of the node's own (32768, `BGP_ATTR_DEFAULT_WEIGHT`, `bgpd/bgp_attr.h`) and of the
/// fabric's prefixes (30000, `fabric-in` of frr.conf), above that of any other path (0), such as another node's to a service.
pub const SPEAKER_WEIGHT: u16 = 29999;

/// Weight of retained services.
const RETAINED_WEIGHT: u16 = SPEAKER_WEIGHT - 1;

/// What a route has besides its destination, in FRR's own words, each checked for what it is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attributes {
    as_path: String,
    origin: String,
    metric: Option<u32>,
    #[serde(default)]
    local_preference: Option<u32>,
    community: String,
    large_community: String,
}

/// Where services are learnt and where they are announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The default instance.
    pub asn: Asn,
    /// The VRF's instance, to whose AS number the path owes its first hop.
    pub vrf_asn: Asn,
    /// The VRF.
    pub vrf: VrfName,
}

/// The name of our route maps, and a number each.
const ROUTE_MAP: &str = "frr-supervisor-held";

/// Longer paths and lists of communities are not retained: no service of MetalLB's has such, and a line of FRR's
/// configuration is limited.
const LONGEST: usize = 1024;

/// Communities that keep a route from every leaf (`bgpd/bgp_community.h`).
const NOT_FOR_LEAVES: [&str; 3] = ["no-advertise", "no-export", "local-AS"];

impl Place {
    /// The commands that show whether anything has changed.
    pub fn version_question(&self) -> String {
        format!("show bgp vrf {} summary json", self.vrf)
    }

    /// The commands that show the services that have changed since the tables had these versions.
    pub fn changes_questions(&self, since: Tables) -> Vec<String> {
        let one = |af: &str, version: u64| {
            format!("show bgp vrf {} {af} unicast version {} json detail", self.vrf, version + 1)
        };
        vec![one("ipv4", since.v4), one("ipv6", since.v6)]
    }

    /// The command that shows the speaker's path to a service, as the speaker announces it.
    pub fn path_question(&self, prefix: &IpNet) -> String {
        format!("show bgp vrf {} {} unicast {prefix} bestpath json", self.vrf, family(prefix))
    }

    /// The command that shows a service in the default instance: every path to it, and who is told.
    pub fn announced_question(prefix: &IpNet) -> String {
        format!("show bgp {} unicast {prefix} json", family(prefix))
    }

    /// The commands that show whether the speaker is back.
    pub fn speaker_questions(&self) -> Vec<String> {
        vec![format!("show bgp vrf {} neighbors json", self.vrf)]
    }

    /// What to add to bgpd's configuration so that it announces `services`.
    pub fn configuration(&self, services: &Services) -> String {
        let groups = services.groups();
        if groups.is_empty() {
            return String::new();
        }
        let mut text = String::new();
        for (number, (attributes, _)) in groups.iter().enumerate() {
            let _ = write!(text, "{}", attributes.route_map(number, self.vrf_asn));
        }
        let _ = writeln!(text, "router bgp {}\n no bgp network import-check", self.asn);
        for v6 in [false, true] {
            let here = |prefix: &&IpNet| prefix.addr().is_ipv6() == v6;
            let mut block = String::new();
            for (number, (_, prefixes)) in groups.iter().enumerate() {
                for prefix in prefixes.iter().filter(here) {
                    let _ = writeln!(block, " network {prefix} route-map {ROUTE_MAP}-{number}");
                }
            }
            if !block.is_empty() {
                let af = if v6 { "ipv6" } else { "ipv4" };
                let _ = write!(text, " address-family {af} unicast\n{block} exit-address-family\n");
            }
        }
        text + "exit\n"
    }

    /// How many route maps that has.
    pub fn route_maps(services: &Services) -> usize {
        services.groups().len()
    }

    /// The commands that end the announcement of `prefixes`, and of no other.
    pub fn release(&self, prefixes: &[IpNet]) -> Vec<String> {
        let mut commands = CONFIGURE.map(str::to_owned).to_vec();
        commands.push(format!("router bgp {}", self.asn));
        for v6 in [false, true] {
            let mut here = prefixes.iter().filter(|prefix| prefix.addr().is_ipv6() == v6).peekable();
            if here.peek().is_some() {
                commands.push(format!("address-family {} unicast", if v6 { "ipv6" } else { "ipv4" }));
                commands.extend(here.map(|prefix| format!("no network {prefix}")));
                commands.push("exit-address-family".into());
            }
        }
        commands.push("exit".into());
        commands
    }

    /// The commands that take back the rest of it, when no prefix is left; `text` is bgpd's own configuration.
    pub fn tidy(&self, route_maps: usize, text: &str) -> Vec<String> {
        let mut commands = CONFIGURE.map(str::to_owned).to_vec();
        if !goes_without_import_check(text) {
            commands.extend([
                format!("router bgp {}", self.asn),
                "bgp network import-check".into(),
                "exit".into(),
            ]);
        }
        commands.extend((0..route_maps).map(|number| format!("no route-map {ROUTE_MAP}-{number}")));
        commands
    }
}

/// Leaves out of a change what would end the retention of all services: [`Place::tidy`] makes up for it when that is over.
pub fn spare(steps: &mut [Step]) {
    for step in steps {
        let mut inside = false;
        step.commands.retain(|command| {
            if command.text.starts_with("router bgp ") {
                inside = opens_default(&command.text);
            }
            !(inside && command.text.split_whitespace().eq(IMPORT_CHECK))
        });
    }
}

/// With it a network is announced only while the kernel has a route to it.
const IMPORT_CHECK: [&str; 3] = ["bgp", "network", "import-check"];

fn family(prefix: &IpNet) -> &'static str {
    if prefix.addr().is_ipv6() { "ipv6" } else { "ipv4" }
}

/// Whether this configuration of bgpd has `no bgp network import-check` in its default instance. Other instances may have it
/// for themselves.
fn goes_without_import_check(text: &str) -> bool {
    let (mut inside, mut without) = (false, false);
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if !line.starts_with([' ', '\t', '!']) && !words.is_empty() {
            // At the margin begins, or ends, a block.
            inside = opens_default(line);
        }
        match words[..] {
            ["no", "bgp", "network", "import-check"] if inside => without = true,
            ["bgp", "network", "import-check"] if inside => without = false,
            _ => {}
        }
    }
    without
}

impl Attributes {
    /// Whether it is made of nothing but what a route map may have there.
    pub fn is_plain(&self) -> bool {
        let numbers = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || b == b' ');
        let words = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b" :-".contains(&b));
        numbers(&self.as_path)
            && !self.as_path.is_empty()
            && [&self.as_path, &self.community, &self.large_community].iter().all(|s| s.len() <= LONGEST)
            && ["igp", "egp", "incomplete", ""].contains(&self.origin.as_str())
            && words(&self.community)
            && words(&self.large_community)
    }

    /// The community that keeps it from the leaves, if it has one.
    pub fn not_for_leaves(&self) -> Option<&'static str> {
        let has = |community: &&&str| self.community.split(' ').any(|word| word == **community);
        NOT_FOR_LEAVES.iter().find(has).copied()
    }

    fn route_map(&self, number: usize, vrf_asn: Asn) -> String {
        let mut text = format!("route-map {ROUTE_MAP}-{number} permit 10\n");
        let mut set = |what: &str, value: &str| {
            if !value.is_empty() {
                let _ = writeln!(text, " set {what} {value}");
            }
        };
        let number = |number: Option<u32>| number.map(|number| number.to_string()).unwrap_or_default();
        // The import from the VRF puts the VRF's AS number in front.
        set("as-path prepend", format!("{vrf_asn} {}", self.as_path).trim());
        set("origin", &self.origin);
        set("metric", &number(self.metric));
        set("local-preference", &number(self.local_preference));
        set("community", &self.community);
        set("large-community", &self.large_community);
        set("weight", &RETAINED_WEIGHT.to_string());
        text + "exit\n"
    }
}

/// The versions of the VRF's tables: each change of a best path counts its table's on, and is of that version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tables {
    v4: u64,
    v6: u64,
}

impl Tables {
    /// How many changes it takes from `before` to here; `None` if these are not the same bgpd's.
    pub fn changes_since(self, before: Self) -> Option<u64> {
        Some(self.v4.checked_sub(before.v4)? + self.v6.checked_sub(before.v6)?)
    }
}

/// What the summary of the VRF says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// The versions of its tables.
    pub tables: Tables,
    /// How many prefixes came from its neighbors, used or not.
    pub received: usize,
}

/// Reads the summary; nothing if it is none.
pub fn summary(answer: &str) -> Option<Summary> {
    let value: Value = serde_json::from_str(answer).ok()?;
    let mut summary = Summary { tables: Tables::default(), received: 0 };
    let mut known = false;
    for (name, family) in value.as_object()? {
        let version = match name.as_str() {
            "ipv4Unicast" => &mut summary.tables.v4,
            "ipv6Unicast" => &mut summary.tables.v6,
            _ => continue,
        };
        *version = family.get("tableVersion")?.as_u64()?;
        known = true;
        let peers = family.get("peers").and_then(Value::as_object).into_iter().flatten();
        let received = peers.filter_map(|(_, peer)| peer.get("pfxRcd")?.as_u64()).sum::<u64>();
        summary.received += usize::try_from(received).unwrap_or(usize::MAX);
    }
    known.then_some(summary)
}

/// The services that a speaker announces, as bgpd has them for one prefix or for many: the best path of each, without
/// attributes where these can't be told in a route map.
pub fn services(answer: &str) -> Vec<(IpNet, Option<Attributes>)> {
    let value: Value = serde_json::from_str(answer).unwrap_or_default();
    let one = value.get("prefix").and_then(Value::as_str).map(|prefix| (prefix, &value));
    let all = value.get("routes").and_then(Value::as_object).into_iter().flatten();
    let routes = one.into_iter().chain(all.map(|(prefix, route)| (prefix.as_str(), route)));
    routes.filter_map(|(prefix, route)| Some((prefix.parse().ok()?, attributes(best(route)?)))).collect()
}

/// Whether bgpd has no path at all to the prefix that this is the answer for.
pub fn is_absent(answer: &str) -> bool {
    answer.trim() == "{}"
}

fn best(route: &Value) -> Option<&Value> {
    let best = |path: &&Value| path.pointer("/bestpath/overall").and_then(Value::as_bool) == Some(true);
    route.get("paths").unwrap_or(route).as_array()?.iter().find(best)
}

/// `None` for a path that can't be told in a route map: better not retained than retained as something else.
fn attributes(path: &Value) -> Option<Attributes> {
    let text = |pointer: &str| path.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let number = |name: &str| path.get(name).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    let attributes = Attributes {
        as_path: text("/aspath/string"),
        origin: text("/origin").to_ascii_lowercase(),
        metric: number("metric"),
        local_preference: number("locPrf"),
        community: text("/community/string"),
        large_community: text("/largeCommunity/string"),
    };
    // What they mean is too various to say them again; route targets of the import don't leave the node.
    let plain = attributes.is_plain() && text("/extendedCommunity/string").is_empty();
    plain.then_some(attributes)
}

/// What becomes of a retained service by what bgpd says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The speaker's own path is usable and in the default instance: the leaves have it, or get it at the release.
    Taken,
    /// The speaker announces nothing to that prefix.
    Absent,
    /// The speaker's path can't be used yet.
    Waiting,
}

/// Reads what bgpd says of a retained service: the speaker's path in the VRF, and the paths in the default instance.
pub fn turn(path: &str, announced: &str) -> Turn {
    let announced: Value = serde_json::from_str(announced).unwrap_or_default();
    let valid = |path: &&Value| path.get("valid").and_then(Value::as_bool) == Some(true);
    if imported(&announced).filter(valid).is_some() && best(&announced).is_some() {
        // While routes are not selected yet, none is the best.
        return Turn::Taken;
    }
    // A path that can't be used is shown, too, if only by its prefix.
    if is_absent(path) { Turn::Absent } else { Turn::Waiting }
}

/// The path that the default instance has from the VRF.
fn imported(route: &Value) -> Option<&Value> {
    let paths = route.get("paths").and_then(Value::as_array)?;
    paths.iter().find(|path| path.get("importedFrom").is_some())
}

/// Why no leaf is told of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unannounced {
    /// The default instance does not have the speaker's path.
    NotImported,
    /// It has it, and goes by a neighbor's, which does not leave again.
    Learned,
    /// It has it, and goes by another one.
    NotBest,
    /// It has it, and can't use it: its next hop is not reached.
    Unusable,
    /// It has this community.
    Community(&'static str),
    /// It goes to no neighbor.
    Filtered,
}

/// Reads what bgpd says of a service in the default instance; `None` if someone is told of it, or may yet be.
pub fn unannounced(announced: &str, attributes: &Attributes) -> Option<Unannounced> {
    let value: Value = serde_json::from_str(announced).ok()?;
    let told = |path: &Value| {
        path.get("advertisedTo").and_then(Value::as_object).is_some_and(|peers| !peers.is_empty())
    };
    // With a neighbor that is sent more than one path, each path says it for itself.
    let paths = value.get("paths").and_then(Value::as_array);
    if told(&value) || paths.is_some_and(|paths| paths.iter().any(told)) {
        return None;
    }
    let Some(own) = imported(&value) else {
        return Some(Unannounced::NotImported);
    };
    if own.get("valid").and_then(Value::as_bool) != Some(true) {
        return Some(Unannounced::Unusable);
    }
    if let Some(community) = attributes.not_for_leaves() {
        return Some(Unannounced::Community(community));
    }
    // Until routes are selected no one is told of any.
    let best = best(&value)?;
    // Only a neighbor's path has its sort.
    let is_neighbors = best.pointer("/peer/type").is_some() && best.get("importedFrom").is_none();
    Some(if std::ptr::eq(best, own) {
        Unannounced::Filtered
    } else if is_neighbors {
        Unannounced::Learned
    } else {
        Unannounced::NotBest
    })
}

/// Whether any speaker's session is up, and whether every speaker has announced all it has: End-of-RIB in every family.
pub fn speaker_is_back(answer: &str) -> (bool, bool) {
    let value: Value = serde_json::from_str(answer).unwrap_or_default();
    let neighbors = value.as_object().into_iter().flatten().map(|(_, neighbor)| neighbor);
    let neighbors: Vec<_> = neighbors.filter(|n| n.get("bgpState").is_some()).collect();
    let up = |n: &&Value| is_established(n);
    let told_all = |n: &&Value| {
        let told = n.pointer("/gracefulRestartInfo/endOfRibRecv").and_then(Value::as_object);
        up(n) && told.is_some_and(|families| !families.is_empty() && families.values().all(|v| v == true))
    };
    (neighbors.iter().any(up), !neighbors.is_empty() && neighbors.iter().all(told_all))
}

#[cfg(test)]
mod tests;
