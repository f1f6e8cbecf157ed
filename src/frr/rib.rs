//! zebra's routes as it shows them: those that it believes to be in the kernel, and those that were to be.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::model::{FibRoute, RouteOwner};

/// How many routes there are, of both families.
pub const COUNTS: [&str; 2] = ["show ip route vrf all summary json", "show ipv6 route vrf all summary json"];

/// The routes themselves: some 700 bytes for each.
pub const ROUTES: [&str; 2] = ["show ip route vrf all json", "show ipv6 route vrf all json"];

/// How a summary names what it counts of bgpd's and staticd's.
const COUNTED: [&str; 3] = ["ebgp", "ibgp", "static"];

/// A route that zebra has chosen, and that is in the kernel or was refused by it, as far as it knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// As it is there.
    pub route: FibRoute,
    /// For how long zebra has had it, where that is less than a day.
    pub age: Option<Duration>,
}

#[derive(Deserialize)]
struct Route {
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

/// One VRF's, or those of several by name: FRR 10 has one object with all of them, 8.4 one object after the other.
#[derive(Deserialize)]
#[serde(untagged)]
enum Routes {
    One(BTreeMap<String, Vec<Route>>),
    Several(BTreeMap<String, BTreeMap<String, Vec<Route>>>),
}

/// How many of bgpd's and staticd's routes are in the kernel, by the answer to one of [`COUNTS`]; `None` if it is none.
pub fn count(answer: &str) -> Option<usize> {
    let all: Vec<Value> = objects(answer)?;
    let vrfs = all.iter().flat_map(|object| match object.get("routes") {
        Some(_) => vec![object],
        None => object.as_object().into_iter().flat_map(|vrfs| vrfs.values()).collect(),
    });
    let counts = vrfs.filter_map(|vrf| vrf.get("routes")?.as_array()).flatten();
    let counted =
        counts.filter(|count| COUNTED.iter().any(|kind| count.get("type").is_some_and(|is| is == kind)));
    let fib = counted.filter_map(|count| usize::try_from(count.get("fib")?.as_u64()?).ok());
    Some(fib.sum())
}

/// Those routes, by the answer to one of [`ROUTES`]; `None` if it is none.
pub fn installed(answer: &str) -> Option<Vec<Installed>> {
    let all: Vec<Routes> = objects(answer)?;
    let vrfs = all.into_iter().flat_map(|routes| match routes {
        Routes::One(vrf) => vec![vrf],
        Routes::Several(vrfs) => vrfs.into_values().collect(),
    });
    Some(vrfs.flatten().flat_map(|(prefix, routes)| of_prefix(&prefix, routes)).collect())
}

fn objects<T: DeserializeOwned>(answer: &str) -> Option<Vec<T>> {
    serde_json::Deserializer::from_str(answer).into_iter().collect::<Result<_, _>>().ok()
}

fn of_prefix(prefix: &str, routes: Vec<Route>) -> Vec<Installed> {
    let Ok(prefix) = prefix.parse::<IpNet>() else { return vec![] };
    let installed = |route: Route| {
        let owner = match route.protocol.as_str() {
            "bgp" => RouteOwner::Bgpd,
            "static" => RouteOwner::Staticd,
            _ => return None,
        };
        let there = FibRoute { table: route.table, prefix, owner };
        let chosen = route.selected && (route.installed || route.failed);
        chosen.then(|| Installed { route: there, age: age(&route.uptime) })
    };
    routes.into_iter().filter_map(installed).collect()
}

/// `hh:mm:ss`; from a day on FRR writes it another way (`frrtime_to_interval`, `lib/frrtime.h`).
fn age(text: &str) -> Option<Duration> {
    let mut parts = text.split(':').map(str::parse::<u64>);
    let (h, m, s) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    parts.next().is_none().then(|| Duration::from_secs(h * 3600 + m * 60 + s))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_old_and_new() {
        let one = |n: usize| {
            format!(
                r#"{{"routes":[{{"fib":7,"rib":7,"type":"connected"}},{{"fib":{n},"rib":9,"type":"ebgp"}},{{"fib":1,"type":"static"}}],"routesTotal":9}}"#
            )
        };
        assert_eq!(count(&format!(r#"{{"default":{},"metallb":{}}}"#, one(4), one(1))), Some(7));
        assert_eq!(count(&format!("{}\n{}\n", one(4), one(1))), Some(7));
        assert_eq!((count("{}"), count("")), (Some(0), Some(0)));
        assert_eq!(count("% Unknown command"), None);
    }

    #[test]
    fn routes_of_old_and_new() {
        let route = |prefix: &str, protocol: &str, installed: bool| {
            format!(
                r#"{{"{prefix}":[{{"protocol":"{protocol}","selected":true,"installed":{installed},"table":88,"uptime":"00:01:02","nexthops":[{{}}]}}]}}"#
            )
        };
        let wanted = [Installed {
            route: FibRoute { table: 88, prefix: "192.0.2.0/25".parse().unwrap(), owner: RouteOwner::Bgpd },
            age: Some(Duration::from_secs(62)),
        }];
        let (a, b) = (route("192.0.2.0/25", "bgp", true), route("::/0", "bgp", false));
        let c = route("192.0.2.0/31", "connected", true);
        assert_eq!(installed(&format!("{a}{b}{c}")).unwrap(), wanted);
        assert_eq!(installed(&format!(r#"{{"default":{a},"metallb":{b},"red":{c}}}"#)).unwrap(), wanted);
        let refused = a.replace("installed", "failed");
        assert_eq!(installed(&refused).unwrap(), wanted);
        assert_eq!(installed(&a.replace(r#""selected":true,"#, "")).unwrap(), []);
        assert_eq!(installed("{}"), Some(vec![]));
        assert_eq!(installed("% no"), None);
        assert_eq!((age("1d02h03m"), age("00:00:41")), (None, Some(Duration::from_secs(41))));
    }
}
