//! Held announcements: what MetalLB's speaker had announced stays announced while bgpd is new and the speaker has not come
//! back to it.
//!
//! The leaves keep the routes of a bgpd that restarts, but only once: when it dies again before it has announced them anew
//! they are gone (RFC 4724 §4.2). And it can't announce a service before the speaker has dialled in, which takes its
//! connect time, up to minutes. So a new bgpd begins with the services as networks of its own, with the path, the
//! communities and the metric that they had, and behind the speaker's routes in preference. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::vty::CONFIGURE;
use crate::model::{Asn, VrfName};

/// What a route has besides its destination, in FRR's own words, each checked for what it is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attributes {
    as_path: String,
    origin: String,
    metric: Option<u32>,
    community: String,
    large_community: String,
}

/// The services, by prefix.
pub type Services = BTreeMap<IpNet, Attributes>;

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

impl Place {
    /// The commands that show whether anything has changed.
    pub fn version_question(&self) -> String {
        format!("show bgp vrf {} summary json", self.vrf)
    }

    /// The commands that show the services with all they have.
    pub fn questions(&self) -> Vec<String> {
        ["ipv4", "ipv6"].map(|af| format!("show bgp vrf {} {af} unicast detail json", self.vrf)).to_vec()
    }

    /// The commands that show whether the speaker is back.
    pub fn speaker_questions(&self) -> Vec<String> {
        vec![format!("show bgp vrf {} neighbors json", self.vrf)]
    }

    /// What to add to bgpd's configuration so that it announces `services`.
    pub fn configuration(&self, services: &Services) -> String {
        let mut text = String::new();
        for (number, (attributes, _)) in groups(services).iter().enumerate() {
            let _ = write!(text, "{}", attributes.route_map(number, self.vrf_asn));
        }
        if text.is_empty() {
            return text;
        }
        let _ = writeln!(text, "router bgp {}\n no bgp network import-check", self.asn);
        for line in self.networks(services, "") {
            let _ = writeln!(text, " {line}");
        }
        text + "exit\n"
    }

    /// The commands that end it; `text` is bgpd's own configuration.
    pub fn removal(&self, services: &Services, text: &str) -> Vec<String> {
        let mut commands = CONFIGURE.map(str::to_owned).to_vec();
        commands.push(format!("router bgp {}", self.asn));
        commands.extend(self.networks(services, "no "));
        if !text.contains("no bgp network import-check") {
            commands.push("bgp network import-check".into());
        }
        commands.push("exit".into());
        commands
            .extend((0..groups(services).len()).map(|number| format!("no route-map {ROUTE_MAP}-{number}")));
        commands
    }

    fn networks(&self, services: &Services, no: &str) -> Vec<String> {
        let mut lines = Vec::new();
        for (af, v6) in [("ipv4", false), ("ipv6", true)] {
            let mut block = Vec::new();
            for (number, (_, prefixes)) in groups(services).iter().enumerate() {
                let here = prefixes.iter().filter(|prefix| prefix.addr().is_ipv6() == v6);
                let map =
                    if no.is_empty() { format!(" route-map {ROUTE_MAP}-{number}") } else { String::new() };
                block.extend(here.map(|prefix| format!("{no}network {prefix}{map}")));
            }
            if !block.is_empty() {
                lines.push(format!("address-family {af} unicast"));
                lines.append(&mut block);
                lines.push("exit-address-family".into());
            }
        }
        lines
    }
}

/// The prefixes of each set of attributes.
fn groups(services: &Services) -> Vec<(&Attributes, Vec<IpNet>)> {
    let mut groups: BTreeMap<&Attributes, Vec<IpNet>> = BTreeMap::new();
    for (prefix, attributes) in services {
        groups.entry(attributes).or_default().push(*prefix);
    }
    groups.into_iter().collect()
}

impl Attributes {
    /// Whether it is made of nothing but what a route map may have there.
    pub fn is_plain(&self) -> bool {
        let numbers = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || b == b' ');
        let words = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b" :-".contains(&b));
        numbers(&self.as_path)
            && !self.as_path.is_empty()
            && ["igp", "egp", "incomplete", ""].contains(&self.origin.as_str())
            && words(&self.community)
            && words(&self.large_community)
    }

    fn route_map(&self, number: usize, vrf_asn: Asn) -> String {
        let mut text = format!("route-map {ROUTE_MAP}-{number} permit 10\n");
        let mut set = |what: &str, value: &str| {
            if !value.is_empty() {
                let _ = writeln!(text, " set {what} {value}");
            }
        };
        // The import from the VRF puts the VRF's AS number in front.
        set("as-path prepend", format!("{vrf_asn} {}", self.as_path).trim());
        set("origin", &self.origin);
        set("metric", &self.metric.map(|metric| metric.to_string()).unwrap_or_default());
        set("community", &self.community);
        set("large-community", &self.large_community);
        // The speaker's own route, imported with 100, takes the place as soon as it is there.
        set("local-preference", "0");
        set("weight", "0");
        text + "exit\n"
    }
}

/// The versions of the tables, and how many prefixes came from each peer, used or not; nothing if they can't be told.
pub fn versions(answer: &str) -> Option<Vec<u64>> {
    let value: Value = serde_json::from_str(answer).ok()?;
    let mut numbers = Vec::new();
    for family in value.as_object()?.values() {
        numbers.push(family.get("tableVersion")?.as_u64()?);
        let peers = family.get("peers").and_then(Value::as_object).into_iter().flatten();
        numbers.extend(peers.filter_map(|(_, peer)| peer.get("pfxRcd")?.as_u64()));
    }
    Some(numbers)
}

/// The services that a speaker announces, as `show bgp … detail json` has them: the best path of each prefix.
pub fn services(answers: &[impl AsRef<str>]) -> Services {
    let mut services = Services::new();
    for answer in answers {
        let value: Value = serde_json::from_str(answer.as_ref()).unwrap_or_default();
        let Some(routes) = value.get("routes").and_then(Value::as_object) else { continue };
        for (prefix, route) in routes {
            let paths = route.get("paths").unwrap_or(route).as_array();
            let best =
                |path: &&Value| path.pointer("/bestpath/overall").and_then(Value::as_bool) == Some(true);
            let Some(path) = paths.and_then(|paths| paths.iter().find(best)) else { continue };
            if let (Ok(prefix), Some(attributes)) = (prefix.parse(), attributes(path)) {
                services.insert(prefix, attributes);
            }
        }
    }
    services
}

/// `None` for a path that can't be told in a route map: better not held than held as something else.
fn attributes(path: &Value) -> Option<Attributes> {
    let text = |pointer: &str| path.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let attributes = Attributes {
        as_path: text("/aspath/string"),
        origin: text("/origin").to_ascii_lowercase(),
        metric: path.get("metric").and_then(Value::as_u64).and_then(|m| u32::try_from(m).ok()),
        community: text("/community/string"),
        large_community: text("/largeCommunity/string"),
    };
    // What they mean is too various to say them again; route targets of the import don't leave the node.
    let plain = attributes.is_plain() && text("/extendedCommunity/string").is_empty();
    plain.then_some(attributes)
}

/// Whether a speaker has come back and told all it has: End-of-RIB in every family of a session that is up.
pub fn speaker_is_back(answer: &str) -> bool {
    let value: Value = serde_json::from_str(answer).unwrap_or_default();
    let neighbors = value.as_object().into_iter().flatten();
    let back = |neighbor: &Value| {
        let up = neighbor.get("bgpState").and_then(Value::as_str) == Some("Established");
        let told = neighbor.pointer("/gracefulRestartInfo/endOfRibRecv").and_then(Value::as_object);
        up && told.is_some_and(|families| !families.is_empty() && families.values().all(|v| v == true))
    };
    let mut neighbors =
        neighbors.map(|(_, neighbor)| neighbor).filter(|n| n.get("bgpState").is_some()).peekable();
    neighbors.peek().is_some() && neighbors.all(back)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Value as _;

    fn place() -> Place {
        let asn = |text| Asn::parse(text).unwrap();
        Place { asn: asn("65001"), vrf_asn: asn("4000099998"), vrf: VrfName::parse("metallb").unwrap() }
    }

    fn answer(prefix: &str, more: &str) -> String {
        format!(
            r#"{{"vrfName":"metallb","tableVersion":7,"routes":{{"{prefix}":[
            {{"aspath":{{"string":"1"}},"bestpath":{{"overall":false}}}},
            {{"aspath":{{"string":"4000099999","length":1}},"origin":"IGP","metric":0,{more}"bestpath":{{"overall":true}}}}]}}}}"#
        )
    }

    #[test]
    fn what_was_announced_is_announced_again_as_it_was() {
        let known = services(&[
            answer("198.51.100.1/32", r#""community":{"string":"65000:1 no-export"},"#),
            answer("2001:db8::1/128", ""),
            answer("198.51.100.2/32", r#""community":{"string":"65000:1 no-export"},"#)
                .replace("routes\":{", "routes\":{\"198.51.100.9/32\":[],"),
        ]);
        assert_eq!(known.len(), 3);
        let text = place().configuration(&known);
        assert_eq!(
            text,
            "route-map frr-supervisor-held-0 permit 10\n set as-path prepend 4000099998 4000099999\n set origin igp\n \
             set metric 0\n set local-preference 0\n set weight 0\nexit\n\
             route-map frr-supervisor-held-1 permit 10\n set as-path prepend 4000099998 4000099999\n set origin igp\n \
             set metric 0\n set community 65000:1 no-export\n set local-preference 0\n set weight 0\nexit\n\
             router bgp 65001\n no bgp network import-check\n address-family ipv4 unicast\n \
             network 198.51.100.1/32 route-map frr-supervisor-held-1\n \
             network 198.51.100.2/32 route-map frr-supervisor-held-1\n exit-address-family\n \
             address-family ipv6 unicast\n network 2001:db8::1/128 route-map frr-supervisor-held-0\n \
             exit-address-family\nexit\n"
        );
        let removal = place().removal(&known, "router bgp 65001\n");
        assert_eq!(removal.iter().filter(|line| line.starts_with("no network ")).count(), 3);
        assert!(removal.contains(&"bgp network import-check".to_owned()));
        assert_eq!(removal.last().unwrap(), "no route-map frr-supervisor-held-1");
        assert!(
            !place()
                .removal(&known, "no bgp network import-check")
                .contains(&"bgp network import-check".into())
        );
        assert_eq!(place().configuration(&Services::new()), "");
    }

    #[test]
    fn what_can_not_be_said_again_is_not_held() {
        for more in [
            r#""extendedCommunity":{"string":"LB:65000:1"},"#,
            r#""community":{"string":"65000:1\n network 0.0.0.0/0"},"#,
        ] {
            assert_eq!(services(&[answer("198.51.100.1/32", more)]), Services::new());
        }
        let confederation = answer("198.51.100.1/32", "").replace("4000099999", "(65001) {1,2}");
        assert_eq!(services(&[confederation]), Services::new());
        assert_eq!(services(&["% No such VRF"]), Services::new());
    }

    #[test]
    fn the_speaker_is_back_when_it_has_said_all() {
        let neighbor = |state: &str, v4: bool| {
            format!(
                r#"{{"vrfId":2,"fd00::1":{{"bgpState":"{state}","gracefulRestartInfo":{{"endOfRibRecv":
                {{"ipv4Unicast":{v4},"ipv6Unicast":true}}}}}}}}"#
            )
        };
        assert!(speaker_is_back(&neighbor("Established", true)));
        assert!(!speaker_is_back(&neighbor("Established", false)));
        assert!(!speaker_is_back(&neighbor("Active", true)));
        assert!(!speaker_is_back("{}") && !speaker_is_back(""));
    }

    #[test]
    fn versions_tell_a_change() {
        let answer =
            r#"{"ipv4Unicast":{"vrfName":"metallb","tableVersion":7},"ipv6Unicast":{"tableVersion":8}}"#;
        assert_eq!(versions(answer), Some(vec![7, 8]));
        assert_eq!(versions(""), None);
        assert_eq!(versions(r#"{"warning":"no such VRF"}"#), None);
    }
}
