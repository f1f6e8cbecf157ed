//! Stale service retention: a new bgpd keeps the services that MetalLB's speaker announced until the speaker has
//! announced them again. Pure.
//!
//! The leaves keep the routes of a bgpd that restarts, but only once: if bgpd crashes again before it has announced
//! them again, the leaves remove them (RFC 4724 §4.2). bgpd can announce a service only after the speaker has
//! connected, which can take minutes (the speaker's connect time). Therefore a new bgpd starts with the services as its
//! own networks, with their original path, communities and metric. Their weight is above that of any other node's path
//! and below that of the speaker's own.

use std::fmt::Write as _;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::delta::Step;
use super::grammar::is_default_bgp_instance;
use super::neighbors::ESTABLISHED;
use super::vty::CONFIGURE;
use super::{Block, Document};
use crate::model::{Asn, VrfName};

mod services;

pub use services::{MAX_SERVICES, Services};

/// Weight of the speaker's paths; the import into the default instance keeps it. bgpd compares the weight first. It is
/// below that of the node's own networks (32768, `BGP_ATTR_DEFAULT_WEIGHT`, `bgpd/bgp_attr.h`) and of the fabric's
/// prefixes (30000, `fabric-in` of frr.conf), and above that of any other path (0), such as another node's path to a
/// service.
pub const SPEAKER_WEIGHT: u16 = 29999;

/// Weight of retained services.
const RETAINED_WEIGHT: u16 = SPEAKER_WEIGHT - 1;

/// The path attributes of a route as FRR shows them. [`Self::is_safe_for_route_map`] checks their characters.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PathAttributes {
    as_path: String,
    origin: String,
    metric: Option<u32>,
    #[serde(default)]
    local_preference: Option<u32>,
    community: String,
    large_community: String,
}

/// The BGP instances of retained services: bgpd learns them from the speaker in the VRF, and announces them in the
/// default instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetainedRouters {
    /// The AS number of the default instance.
    pub asn: Asn,
    /// The AS number of the VRF's instance, which the import puts in front of the path.
    pub vrf_asn: Asn,
    /// The VRF.
    pub vrf: VrfName,
}

/// The prefix of the names of our route maps; a number follows.
const ROUTE_MAP: &str = "frr-supervisor-held";

/// The maximum length of a path or a list of communities, in bytes. A service with a longer one is not retained.
/// MetalLB announces none, and FRR limits the length of a line.
const MAX_ATTRIBUTE: usize = 1024;

/// The communities that keep a route from every leaf (`bgpd/bgp_community.h`).
const BLOCKING_COMMUNITIES: [&str; 3] = ["no-advertise", "no-export", "local-AS"];

impl RetainedRouters {
    /// The command that shows the versions of the VRF's tables, see [`summary`].
    pub fn summary_command(&self) -> String {
        format!("show bgp vrf {} summary json", self.vrf)
    }

    /// The commands that show the services that have changed since these table versions.
    pub fn changes_commands(&self, since: TableVersions) -> Vec<String> {
        let one = |af: &str, version: u64| {
            format!("show bgp vrf {} {af} unicast version {} json detail", self.vrf, version + 1)
        };
        vec![one("ipv4", since.v4), one("ipv6", since.v6)]
    }

    /// The command that shows the speaker's path to a service in the VRF.
    pub fn path_command(&self, prefix: &IpNet) -> String {
        format!("show bgp vrf {} {} unicast {prefix} bestpath json", self.vrf, family(prefix))
    }

    /// The command that shows all paths to a service in the default instance, and the neighbors they are announced to.
    pub fn advertised_command(prefix: &IpNet) -> String {
        format!("show bgp {} unicast {prefix} json", family(prefix))
    }

    /// The command that shows the sessions with the speakers, see [`speaker_state`].
    pub fn speaker_commands(&self) -> Vec<String> {
        vec![format!("show bgp vrf {} neighbors json", self.vrf)]
    }

    /// The lines to add to bgpd's configuration so that it announces `services`.
    pub fn configuration(&self, services: &Services) -> String {
        let groups = services.by_attributes();
        if groups.is_empty() {
            return String::new();
        }
        let mut text = String::new();
        for (number, (attributes, _)) in groups.iter().enumerate() {
            let _ = write!(text, "{}", attributes.route_map(number, self.vrf_asn));
        }
        let _ = writeln!(text, "router bgp {}\n no bgp network import-check", self.asn);
        for v6 in [false, true] {
            let is_of_family = |prefix: &&IpNet| prefix.addr().is_ipv6() == v6;
            let mut block = String::new();
            for (number, (_, prefixes)) in groups.iter().enumerate() {
                for prefix in prefixes.iter().filter(is_of_family) {
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

    /// The number of route maps in [`Self::configuration`].
    pub fn route_map_count(services: &Services) -> usize {
        services.by_attributes().len()
    }

    /// The commands that end the announcement of `prefixes` only.
    pub fn release_commands(&self, prefixes: &[IpNet]) -> Vec<String> {
        let mut commands = CONFIGURE.map(str::to_owned).to_vec();
        commands.push(format!("router bgp {}", self.asn));
        for v6 in [false, true] {
            let mut of_family = prefixes.iter().filter(|prefix| prefix.addr().is_ipv6() == v6).peekable();
            if of_family.peek().is_some() {
                commands.push(format!("address-family {} unicast", if v6 { "ipv6" } else { "ipv4" }));
                commands.extend(of_family.map(|prefix| format!("no network {prefix}")));
                commands.push("exit-address-family".into());
            }
        }
        commands.push("exit".into());
        commands
    }

    /// The commands that remove the rest of [`Self::configuration`] when no prefix is left. `document` is
    /// frr.conf.
    pub fn cleanup_commands(&self, route_maps: usize, document: &Document) -> Vec<String> {
        let mut commands = CONFIGURE.map(str::to_owned).to_vec();
        if !has_no_import_check(document) {
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

/// Removes `bgp network import-check` of the default instance from a change, since it would end the retention of all
/// services. [`RetainedRouters::cleanup_commands`] adds it at the end of the retention.
pub fn remove_import_check(steps: &mut [Step]) {
    for step in steps {
        let mut in_default = false;
        step.commands.retain(|command| {
            if command.text.starts_with("router bgp ") {
                in_default = is_default_bgp_instance(&command.text);
            }
            !(in_default && command.text.split_whitespace().eq(IMPORT_CHECK))
        });
    }
}

/// With this setting bgpd announces a network only while the kernel has a route to it.
const IMPORT_CHECK: [&str; 3] = ["bgp", "network", "import-check"];

fn family(prefix: &IpNet) -> &'static str {
    if prefix.addr().is_ipv6() { "ipv6" } else { "ipv4" }
}

/// Whether the default instance in this configuration of bgpd has `no bgp network import-check`. The setting of another
/// instance does not count.
fn has_no_import_check(document: &Document) -> bool {
    let lines = document.default_instance().flat_map(Block::lines);
    let settings = lines.filter_map(|line| {
        let plain = line.strip_prefix("no ");
        let is_setting = plain.unwrap_or(line).split_whitespace().eq(IMPORT_CHECK);
        is_setting.then_some(plain.is_some())
    });
    settings.last().unwrap_or(false)
}

impl PathAttributes {
    /// Whether a route map can set all of them: none is too long or has an invalid character.
    pub fn is_safe_for_route_map(&self) -> bool {
        let is_numeric = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || b == b' ');
        let has_only_words =
            |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b" :-".contains(&b));
        is_numeric(&self.as_path)
            && !self.as_path.is_empty()
            && [&self.as_path, &self.community, &self.large_community]
                .iter()
                .all(|s| s.len() <= MAX_ATTRIBUTE)
            && ["igp", "egp", "incomplete", ""].contains(&self.origin.as_str())
            && has_only_words(&self.community)
            && has_only_words(&self.large_community)
    }

    /// The community that keeps the route from the leaves, if it has one.
    pub fn blocking_community(&self) -> Option<&'static str> {
        let has = |community: &&&str| self.community.split(' ').any(|word| word == **community);
        BLOCKING_COMMUNITIES.iter().find(has).copied()
    }

    fn route_map(&self, number: usize, vrf_asn: Asn) -> String {
        let mut text = format!("route-map {ROUTE_MAP}-{number} permit 10\n");
        let mut set = |what: &str, value: &str| {
            if !value.is_empty() {
                let _ = writeln!(text, " set {what} {value}");
            }
        };
        let number = |number: Option<u32>| number.map(|number| number.to_string()).unwrap_or_default();
        // The import from the VRF puts the VRF's AS number in front of the path.
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

/// The versions of the VRF's tables. Each change of a best path increments the version of its table and gets that
/// version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TableVersions {
    v4: u64,
    v6: u64,
}

impl TableVersions {
    /// The number of changes since `before`; `None` if bgpd has restarted since then.
    pub fn changes_since(self, before: Self) -> Option<u64> {
        Some(self.v4.checked_sub(before.v4)? + self.v6.checked_sub(before.v6)?)
    }
}

/// The reply to [`RetainedRouters::summary_command`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// The versions of the VRF's tables.
    pub versions: TableVersions,
    /// The number of prefixes received from the VRF's neighbors, accepted or not.
    pub received: usize,
}

/// Parses the summary; `None` if the reply is not valid.
pub fn summary(reply: &str) -> Option<Summary> {
    let value: Value = serde_json::from_str(reply).ok()?;
    let mut summary = Summary { versions: TableVersions::default(), received: 0 };
    let mut has_family = false;
    for (name, family) in value.as_object()? {
        let version = match name.as_str() {
            "ipv4Unicast" => &mut summary.versions.v4,
            "ipv6Unicast" => &mut summary.versions.v6,
            _ => continue,
        };
        *version = family.get("tableVersion")?.as_u64()?;
        has_family = true;
        let peers = family.get("peers").and_then(Value::as_object).into_iter().flatten();
        let received = peers.filter_map(|(_, peer)| peer.get("pfxRcd")?.as_u64()).sum::<u64>();
        summary.received += usize::try_from(received).unwrap_or(usize::MAX);
    }
    has_family.then_some(summary)
}

/// Parses bgpd's paths to one prefix or to several: the services, each with the attributes of its best path, or `None`
/// if a route map can't set these.
pub fn services(reply: &str) -> Vec<(IpNet, Option<PathAttributes>)> {
    let value: Value = serde_json::from_str(reply).unwrap_or_default();
    let one = value.get("prefix").and_then(Value::as_str).map(|prefix| (prefix, &value));
    let all = value.get("routes").and_then(Value::as_object).into_iter().flatten();
    let routes = one.into_iter().chain(all.map(|(prefix, route)| (prefix.as_str(), route)));
    routes.filter_map(|(prefix, route)| Some((prefix.parse().ok()?, attributes(best(route)?)))).collect()
}

/// Whether this reply for one prefix shows that bgpd has no path to it.
pub fn is_absent(reply: &str) -> bool {
    reply.trim() == "{}"
}

fn best(route: &Value) -> Option<&Value> {
    let is_best = |path: &&Value| path.pointer("/bestpath/overall").and_then(Value::as_bool) == Some(true);
    route.get("paths").unwrap_or(route).as_array()?.iter().find(is_best)
}

/// The attributes of a path; `None` if a route map can't set all of them: such a service is not retained, since it
/// would be announced with other attributes.
fn attributes(path: &Value) -> Option<PathAttributes> {
    let text = |pointer: &str| path.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let number = |name: &str| path.get(name).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    let attributes = PathAttributes {
        as_path: text("/aspath/string"),
        origin: text("/origin").to_ascii_lowercase(),
        metric: number("metric"),
        local_preference: number("locPrf"),
        community: text("/community/string"),
        large_community: text("/largeCommunity/string"),
    };
    // Extended communities have too many meanings to set them again. The route targets of the import stay on the node.
    let is_settable = attributes.is_safe_for_route_map() && text("/extendedCommunity/string").is_empty();
    is_settable.then_some(attributes)
}

/// The state of the speaker's path to a retained service, which decides whether to release the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpeakerPath {
    /// The default instance has imported the path, and it is usable: bgpd announces it at the release at the latest.
    Imported,
    /// The speaker does not announce the prefix.
    Absent,
    /// The path is not usable yet.
    Pending,
}

/// Parses the replies for a retained service: `path` in the VRF, and `advertised` in the default instance.
pub fn speaker_path(path: &str, advertised: &str) -> SpeakerPath {
    let advertised: Value = serde_json::from_str(advertised).unwrap_or_default();
    let is_valid = |path: &&Value| path.get("valid").and_then(Value::as_bool) == Some(true);
    let weight = |path: &Value| path.get("weight").and_then(Value::as_u64).unwrap_or(0);
    let retained = u64::from(RETAINED_WEIGHT);
    // Without a best path bgpd has not selected its routes yet. It has not selected them again while the retained route is
    // the best one although the imported one has more weight: until then the prefix has no route without the retained one.
    let is_selected = |import: &&Value| {
        best(&advertised).is_some_and(|best| weight(best) != retained || weight(import) <= retained)
    };
    if imported(&advertised).filter(is_valid).filter(is_selected).is_some() {
        return SpeakerPath::Imported;
    }
    // For a path that is not usable, bgpd shows at least the prefix.
    if is_absent(path) { SpeakerPath::Absent } else { SpeakerPath::Pending }
}

/// The path that the default instance has imported from the VRF.
fn imported(route: &Value) -> Option<&Value> {
    let paths = route.get("paths").and_then(Value::as_array)?;
    paths.iter().find(|path| path.get("importedFrom").is_some())
}

/// Why a service is announced to no leaf.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unannounced {
    /// The default instance has not imported the speaker's path.
    NotImported,
    /// The best path is a neighbor's; bgpd does not announce such a path to the leaves.
    Learned,
    /// Another path is the best one.
    NotBest,
    /// The next hop of the speaker's path is not reachable.
    Unusable,
    /// The route has this community, which keeps it from the leaves.
    Community(&'static str),
    /// Filters reject it for every neighbor.
    Filtered,
}

/// Parses the reply to [`RetainedRouters::advertised_command`]; `None` if the service is announced, or may still be.
pub fn unannounced(advertised: &str, attributes: &PathAttributes) -> Option<Unannounced> {
    let value: Value = serde_json::from_str(advertised).ok()?;
    let is_advertised = |path: &Value| {
        path.get("advertisedTo").and_then(Value::as_object).is_some_and(|peers| !peers.is_empty())
    };
    // If a neighbor receives several paths, each path has its own list.
    let paths = value.get("paths").and_then(Value::as_array);
    if is_advertised(&value) || paths.is_some_and(|paths| paths.iter().any(is_advertised)) {
        return None;
    }
    let Some(own) = imported(&value) else {
        return Some(Unannounced::NotImported);
    };
    if own.get("valid").and_then(Value::as_bool) != Some(true) {
        return Some(Unannounced::Unusable);
    }
    if let Some(community) = attributes.blocking_community() {
        return Some(Unannounced::Community(community));
    }
    // bgpd announces no route before it has selected its routes.
    let best = best(&value)?;
    // Only a path from a neighbor has a peer type.
    let is_learned = best.pointer("/peer/type").is_some() && best.get("importedFrom").is_none();
    Some(if std::ptr::eq(best, own) {
        Unannounced::Filtered
    } else if is_learned {
        Unannounced::Learned
    } else {
        Unannounced::NotBest
    })
}

/// Parses the reply to [`RetainedRouters::speaker_commands`]: whether any speaker's session is established, and whether
/// every speaker has sent End-of-RIB in every family.
pub fn speaker_state(reply: &str) -> (bool, bool) {
    let value: Value = serde_json::from_str(reply).unwrap_or_default();
    let neighbors = value.as_object().into_iter().flatten().map(|(_, neighbor)| neighbor);
    let neighbors: Vec<_> = neighbors.filter(|n| n.get("bgpState").is_some()).collect();
    let is_up = |n: &&Value| n.get("bgpState").and_then(Value::as_str) == Some(ESTABLISHED);
    let has_sent_all = |n: &&Value| {
        let end_of_rib = n.pointer("/gracefulRestartInfo/endOfRibRecv").and_then(Value::as_object);
        is_up(n)
            && end_of_rib.is_some_and(|families| !families.is_empty() && families.values().all(|v| v == true))
    };
    (neighbors.iter().any(is_up), !neighbors.is_empty() && neighbors.iter().all(has_sent_all))
}

#[cfg(test)]
mod tests;
