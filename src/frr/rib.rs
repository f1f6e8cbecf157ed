//! Parses zebra's `show` output of the routes that it has installed in the kernel or tried to install. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::model::{FibRoute, RouteOwner};

/// The commands that show the numbers of routes, for IPv4 and IPv6.
pub const SUMMARY_COMMANDS: [&str; 2] =
    ["show ip route vrf all summary json", "show ipv6 route vrf all summary json"];

/// The commands that show the routes, for IPv4 and IPv6. The output has about 700 bytes for each route.
pub const ROUTE_COMMANDS: [&str; 2] = ["show ip route vrf all json", "show ipv6 route vrf all json"];

/// The names of the protocols of bgpd and staticd in a summary.
const COUNTED_PROTOCOLS: [&str; 3] = ["ebgp", "ibgp", "static"];

/// A selected route that, according to zebra, is in the kernel or was refused by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledRoute {
    /// Table, prefix and owner.
    pub route: FibRoute,
    /// The age of the route in zebra. `None` if it is a day or more.
    pub age: Option<Duration>,
}

#[derive(Deserialize)]
struct RouteJson {
    #[serde(default)]
    protocol: String,
    #[serde(default)]
    selected: bool,
    #[serde(default)]
    installed: bool,
    #[serde(default)]
    failed: bool,
    #[serde(default)]
    table: u32,
    #[serde(default)]
    uptime: String,
}

/// The routes of one VRF, or those of all VRFs by name: FRR 10 prints one object with all VRFs, FRR 8.4 one object for
/// each VRF.
#[derive(Deserialize)]
#[serde(untagged)]
enum RoutesJson {
    OneVrf(BTreeMap<String, Vec<RouteJson>>),
    AllVrfs(BTreeMap<String, BTreeMap<String, Vec<RouteJson>>>),
}

/// The number of routes of bgpd and staticd in the kernel, according to a reply to one of [`SUMMARY_COMMANDS`]. `None`
/// if the reply is invalid.
pub fn parse_fib_count(reply: &str) -> Option<usize> {
    let all: Vec<Value> = json_objects(reply)?;
    let vrfs = all.iter().flat_map(|object| match object.get("routes") {
        Some(_) => vec![object],
        None => object.as_object().into_iter().flat_map(|vrfs| vrfs.values()).collect(),
    });
    let entries = vrfs.filter_map(|vrf| vrf.get("routes")?.as_array()).flatten();
    let counted = entries.filter(|entry| {
        COUNTED_PROTOCOLS.iter().any(|protocol| entry.get("type").is_some_and(|name| name == protocol))
    });
    let fib = counted.filter_map(|entry| usize::try_from(entry.get("fib")?.as_u64()?).ok());
    Some(fib.sum())
}

/// The routes of bgpd and staticd that zebra has selected and has installed or tried to install, according to a reply
/// to one of [`ROUTE_COMMANDS`]. `None` if the reply is invalid.
pub fn parse_installed_routes(reply: &str) -> Option<Vec<InstalledRoute>> {
    let all: Vec<RoutesJson> = json_objects(reply)?;
    let vrfs = all.into_iter().flat_map(|routes| match routes {
        RoutesJson::OneVrf(vrf) => vec![vrf],
        RoutesJson::AllVrfs(vrfs) => vrfs.into_values().collect(),
    });
    Some(vrfs.flatten().flat_map(|(prefix, routes)| routes_of_prefix(&prefix, routes)).collect())
}

/// The JSON objects in a reply, one after the other.
fn json_objects<T: DeserializeOwned>(reply: &str) -> Option<Vec<T>> {
    serde_json::Deserializer::from_str(reply).into_iter().collect::<Result<_, _>>().ok()
}

fn routes_of_prefix(prefix: &str, routes: Vec<RouteJson>) -> Vec<InstalledRoute> {
    let Ok(prefix) = prefix.parse::<IpNet>() else { return vec![] };
    let installed = |json: RouteJson| {
        let owner = match json.protocol.as_str() {
            "bgp" => RouteOwner::Bgpd,
            "static" => RouteOwner::Staticd,
            _ => return None,
        };
        let route = FibRoute { table: json.table, prefix, owner };
        let is_relevant = json.selected && (json.installed || json.failed);
        is_relevant.then(|| InstalledRoute { route, age: parse_age(&json.uptime) })
    };
    routes.into_iter().filter_map(installed).collect()
}

/// Parses `hh:mm:ss`. FRR uses another format from a day on (`frrtime_to_interval`, `lib/frrtime.h`).
fn parse_age(text: &str) -> Option<Duration> {
    let mut parts = text.split(':').map(str::parse::<u64>);
    let (h, m, s) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    parts.next().is_none().then(|| Duration::from_secs(h * 3600 + m * 60 + s))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_all_versions_are_parsed() {
        let one = |n: usize| {
            format!(
                r#"{{"routes":[{{"fib":7,"rib":7,"type":"connected"}},{{"fib":{n},"rib":9,"type":"ebgp"}},{{"fib":1,"type":"static"}}],"routesTotal":9}}"#
            )
        };
        assert_eq!(parse_fib_count(&format!(r#"{{"default":{},"metallb":{}}}"#, one(4), one(1))), Some(7));
        assert_eq!(parse_fib_count(&format!("{}\n{}\n", one(4), one(1))), Some(7));
        assert_eq!((parse_fib_count("{}"), parse_fib_count("")), (Some(0), Some(0)));
        assert_eq!(parse_fib_count("% Unknown command"), None);
    }

    #[test]
    fn routes_of_all_versions_are_parsed() {
        let route = |prefix: &str, protocol: &str, installed: bool| {
            format!(
                r#"{{"{prefix}":[{{"protocol":"{protocol}","selected":true,"installed":{installed},"table":88,"uptime":"00:01:02","nexthops":[{{}}]}}]}}"#
            )
        };
        let wanted = [InstalledRoute {
            route: FibRoute { table: 88, prefix: "192.0.2.0/25".parse().unwrap(), owner: RouteOwner::Bgpd },
            age: Some(Duration::from_secs(62)),
        }];
        let (a, b) = (route("192.0.2.0/25", "bgp", true), route("::/0", "bgp", false));
        let c = route("192.0.2.0/31", "connected", true);
        assert_eq!(parse_installed_routes(&format!("{a}{b}{c}")).unwrap(), wanted);
        assert_eq!(
            parse_installed_routes(&format!(r#"{{"default":{a},"metallb":{b},"red":{c}}}"#)).unwrap(),
            wanted
        );
        let refused = a.replace("installed", "failed");
        assert_eq!(parse_installed_routes(&refused).unwrap(), wanted);
        assert_eq!(parse_installed_routes(&a.replace(r#""selected":true,"#, "")).unwrap(), []);
        assert_eq!(parse_installed_routes("{}"), Some(vec![]));
        assert_eq!(parse_installed_routes("% no"), None);
        assert_eq!((parse_age("1d02h03m"), parse_age("00:00:41")), (None, Some(Duration::from_secs(41))));
    }
}
