//! Rules between the keys of a map, as JSON Schema. The reader's own rules are in the conversions to the model.

use serde_json::{Value as Json, json};

/// The rules of the map with this name.
pub(super) fn rules(map: &str) -> Vec<Json> {
    match map {
        // `required` does not apply to other types than maps. An empty file is valid.
        "ConfigFile" => vec![
            json!({"not": {
                "type": "object",
                "required": ["underlay", "underlays"],
                "properties": {"underlays": {"type": "array", "minItems": 1}}
            }}),
            json!({"properties": {"underlays": {"maxItems": 1}}}),
        ],
        "TunnelEndpoint" => vec![one_of_each_family("cidrs")],
        "InterfaceEntry" => vec![either(
            "type",
            ("NetworkDevice", json!({"required": ["networkDevice"], "not": {"required": ["macvlan"]}})),
            ("Macvlan", json!({"required": ["macvlan"], "not": {"required": ["networkDevice"]}})),
        )],
        "NeighborEntry" => {
            let once = |family: &str| {
                let entry = json!({"properties": {"type": {"const": family}}, "required": ["type"]});
                json!({"contains": entry, "minContains": 0, "maxContains": 1})
            };
            let families = ["ipv4unicast", "ipv6unicast", "evpn"].map(once);
            let no_client = json!({"items": {"properties": {"properties": {"maxItems": 0}}}});
            vec![
                exactly_one(&["asn", "type"]),
                exactly_one(&["address", "interface", "listenRange"]),
                json!({"dependentRequired": {
                    "holdTimeSeconds": ["keepaliveTimeSeconds"],
                    "keepaliveTimeSeconds": ["holdTimeSeconds"]
                }}),
                json!({
                    "if": {"required": ["interface"]},
                    "then": {"properties": {"properties": {"maxItems": 0}}}
                }),
                json!({
                    "if": {"required": ["type"], "properties": {"type": {"const": "Internal"}}},
                    "then": {"properties": {"properties": {"maxItems": 0}}}
                }),
                json!({
                    "if": {"required": ["type"], "properties": {"type": {"const": "External"}}},
                    "then": {"properties": {"addressFamilies": no_client}}
                }),
                json!({"properties": {"addressFamilies": {"allOf": families}}}),
            ]
        }
        "HostSessionEntry" => vec![
            exactly_one(&["hostASN", "hostType"]),
            exactly_one(&["localCIDR", "localCIDRs"]),
            one_of_each_family("localCIDRs"),
            has_subnet("ipv4", V4),
            has_subnet("ipv6", V6),
        ],
        "SubnetsEntry" => vec![json!({"minProperties": 1})],
        "L2VniEntry" => vec![
            one_of_each_family("gatewayIPs"),
            json!({
                "if": {
                    "required": ["gatewayIPs"],
                    "properties": {"gatewayIPs": {"type": "array", "minItems": 1}}
                },
                "then": {"required": ["routingDomain"]}
            }),
        ],
        "RoutingDomainEntry" => vec![json!({"required": ["l3vni"]})],
        "HostMasterEntry" => vec![json!({"required": ["linuxBridge"]})],
        "LinuxBridgeEntry" => vec![either(
            "lifecycle",
            ("Managed", json!({"not": {"required": ["name"]}})),
            ("External", json!({"required": ["name"]})),
        )],
        _ => vec![],
    }
}

/// Patterns that distinguish an IPv4 prefix from an IPv6 prefix.
const V4: &str = "^[^:]*$";
const V6: &str = ":";

fn exactly_one(keys: &[&str]) -> Json {
    let required: Vec<Json> = keys.iter().map(|key| json!({"required": [key]})).collect();
    json!({"oneOf": required})
}

/// Further rules, by the value of `key`.
fn either(key: &str, one: (&str, Json), other: (&str, Json)) -> Json {
    let is = |(word, mut rest): (&str, Json)| {
        rest["properties"] = json!({key: {"const": word}});
        rest
    };
    json!({"oneOf": [is(one), is(other)]})
}

fn one_of_each_family(list: &str) -> Json {
    let one = |pattern: &str| json!({"contains": {"pattern": pattern}, "minContains": 0, "maxContains": 1});
    json!({"properties": {list: {"allOf": [one(V4), one(V6)]}}})
}

/// An address of the host needs a subnet of its family.
fn has_subnet(family: &str, pattern: &str) -> Json {
    json!({
        "if": {"required": ["hostIP"], "properties": {"hostIP": {"required": [family]}}},
        "then": {"anyOf": [
            {"required": ["localCIDR"], "properties": {"localCIDR": {"required": [family]}}},
            {"required": ["localCIDRs"], "properties": {"localCIDRs": {"contains": {"pattern": pattern}}}}
        ]}
    })
}
