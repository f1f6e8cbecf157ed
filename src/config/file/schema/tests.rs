use std::sync::OnceLock;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value as Json, json};

use super::super::tests::{example, parse_at};
use super::super::validator::Validator;

/// Problems that only the reader reports. The schema cannot: they need arithmetic, the environment or another entry.
const BEYOND: &[&str] = &[
    "has host bits set",
    "not of a host",
    "overlaps with",
    "is listed twice",
    "yields",
    "has no address for",
    "does not contain hostIP",
    "as the router's address",
    "equal to asn",
    "differs from ASN_LOCAL",
    "differs from NODE_INDEX",
    "allowed only for an",
    "more than holdTimeSeconds",
    "stale-path time",
    "routes are not reflected",
    "the router-id remains",
    "needs underlay.tunnelEndpoint",
    "needs an IPv",
    "needs the l3vni",
    "needs nodeIndex",
    "its routing table",
    "the name of a VRF",
    "the name of an interface",
    "in the host namespace for",
    "in FRR's namespace for",
    "cannot be a neighbor",
    "for a managed device",
    " already",
    "its parent",
];

/// `SCHEMA_WRITE=1 cargo test schema` rewrites the file.
#[test]
fn the_schema_file_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/config.schema.json");
    let wanted = super::schema();
    if std::env::var_os("SCHEMA_WRITE").is_some() {
        return std::fs::write(path, &wanted).unwrap();
    }
    let shipped = std::fs::read_to_string(path).unwrap_or_default();
    assert!(shipped == wanted, "run SCHEMA_WRITE=1 cargo test schema");
}

fn validator() -> Validator {
    Validator::new(serde_json::from_str(&super::schema()).unwrap())
}

/// Checks that schema and reader agree, except for the problems in `BEYOND`.
fn agree(validator: &Validator, text: &str, value: &Json) -> Result<(), String> {
    let (accepted, problems) = (validator.accepts(value), parse_at(3, text).1);
    let is_beyond = |problem: &String| BEYOND.iter().any(|words| problem.contains(words));
    if if accepted { problems.iter().all(is_beyond) } else { !problems.is_empty() } {
        return Ok(());
    }
    Err(format!("the schema accepted it: {accepted}\n{text}\n{}", problems.join("\n")))
}

/// The text as an editor parses it (YAML 1.2). `None` if JSON cannot represent it (`.nan`).
fn seen(text: &str) -> Option<Json> {
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options).ok()
}

#[test]
fn scalars_follow_the_yaml_core_schema() {
    let validator = validator();
    let mut failures = vec![];
    let texts = [
        "100",
        "+100",
        "0100",
        "0x64",
        "0o144",
        "1e2",
        "1E+2",
        "100.0",
        "100.",
        "1e400",
        "1.5",
        ".5e1",
        "-1",
        "0",
        "-0",
        "16777216",
        "0xffffff",
        "0x1000000",
        "1e15",
        "99999999999999999999",
        "1:30",
        ".inf",
        "-.inf",
        ".nan",
        "'100'",
        "\"100\"",
        "!!str 100",
        "true",
        "yes",
        "on",
        "null",
        "~",
        "",
        "''",
        "' '",
        "ten",
        "[]",
        "[1]",
        "{}",
        "a",
        "a1",
        "1a",
        "10.0",
        "red ",
        "' red'",
        "vni7",
        "default",
        "23456",
        "65535",
        "4294967295",
        "4294967294",
        "65536",
        "0xffff",
        "16384",
        "=",
        "<<",
        "2001-01-01",
    ];
    for key in [
        "vrf",
        "vni",
        "name",
        "vxlanPort",
        "underlayAddressFamily",
        "exportRTs",
        "hostSession",
        "nodeSelector",
    ] {
        for text in texts {
            let other = [("vrf", "red"), ("vni", "7")]
                .iter()
                .filter(|(k, _)| *k != key)
                .map(|(k, v)| format!("  {k}: {v}\n"))
                .collect::<String>();
            let text = format!(
                "underlay:\n  tunnelEndpoint:\n    cidrs: [100.65.0.0/24]\nl3vnis:\n- vrf: other\n  vni: 9\n-\n{other}  {key}: {text}\n"
            );
            failures.extend(seen(&text).and_then(|value| agree(&validator, &text, &value).err()));
        }
    }
    for text in texts {
        for text in [
            format!("underlay:\n  asn: {text}\n"),
            format!("underlay:\n  routeReflector: {{clusterID: {text} }}\n"),
            format!(
                "underlay:\n  neighbors:\n  - interface: eth1\n    type: External\n    password: {text}\n"
            ),
            format!("underlay:\n  neighbors:\n  - interface: eth1\n    asn: {text}\n"),
            format!("underlay:\n  neighbors: {text}\n"),
            format!("underlays: {text}\n"),
            format!("rawFRRConfigs:\n- rawConfig: {text}\n"),
            format!("rawFRRConfigs:\n- rawConfig: '!'\n  priority: {text}\n"),
            format!("nodeIndex: {text}\n"),
        ] {
            failures.extend(seen(&text).and_then(|value| agree(&validator, &text, &value).err()));
        }
    }
    failures.extend(agree(&validator, "# nothing\n", &Json::Null).err());
    assert!(failures.is_empty(), "{} differ:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn the_schema_rejects_the_invalid_files() {
    let (validator, mut failures) = (validator(), vec![]);
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/invalid")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let Some(value) = seen(&text) else { continue };
        if text.contains("# with: ") || text.contains("!!python") {
            continue;
        }
        failures.extend(agree(&validator, &text, &value).err());
    }
    assert!(failures.is_empty(), "{} differ:\n{}", failures.len(), failures.join("\n"));
}

/// Values for any position, near the limits of the file's types.
fn values() -> impl Strategy<Value = Json> {
    let words = [
        "",
        " ",
        "a",
        "red",
        "Red",
        "red-1",
        "-red",
        "default",
        "all",
        "lo",
        "vni7",
        "br-hs-7",
        "lound",
        "eth1.5",
        "100",
        "0",
        "1e3",
        "65001:100",
        "065001:1",
        "65001:4294967296",
        "65536:65536",
        "1.1.1.1:65535",
        "1.1.1.1:65536",
        "10/8",
        "10.0/16",
        "10.0.0.0/8",
        "10.0.0.0/08",
        "010.0.0.0/8",
        "10.0.0.0/33",
        "10.0.0.1/24",
        "10.0.0.1",
        "10.0.0.256",
        "0.0.0.0",
        "127.0.0.1",
        "126.0.0.1",
        "128.0.0.1",
        "223.255.255.255",
        "224.0.0.1",
        "255.255.255.255",
        "1.2.3",
        "::",
        "::/0",
        "::1",
        "fe80::1",
        "fec0::1",
        "ff02::1",
        "fd00::1",
        "fd00::/64",
        "fd00::/064",
        "fd00::/129",
        "fd00:1:2:3:4:5:6:7",
        "fd00:1:2:3:4:5:6:7:8",
        "fd00:1:2:3:4:5:6::",
        "::ffff:1.2.3.4",
        "::1.2.3.4",
        "64:ff9b::192.0.2.33",
        "0:0:0:0:0:ffff::",
        "1::2::3",
        "192.0.2.1/32",
        "a b",
        "a|b",
        "!a",
        "#a",
        "a!",
        "a\"b",
        "L3VPN",
        "L3VNI",
        "External",
        "Internal",
        "Managed",
        "IPv6",
        "ipv6",
        "ipv4vpn",
        "evpn",
        "CNIDevice",
        "Macvlan",
        "OVSBridge",
        "Passive",
        "ebgpMultiHop",
        "x\u{7}",
        "x\ty",
        "\n",
        "é",
    ];
    let numbers = [
        json!(-1),
        json!(0),
        json!(1),
        json!(2),
        json!(3),
        json!(7),
        json!(9),
        json!(255),
        json!(256),
        json!(4095),
        json!(4096),
        json!(23456),
        json!(65535),
        json!(65536),
        json!(16_777_215),
        json!(16_777_216),
        json!(4_294_967_294_u32),
        json!(4_294_967_295_u32),
        json!(1.5),
        json!(100.0),
        json!(1e20),
    ];
    let others = [
        Json::Null,
        json!(true),
        json!([]),
        json!({}),
        json!([1]),
        json!(["10.1.0.0/24"]),
        json!(["10.1.0.0/24", "10.2.0.0/24"]),
        json!({"ipv4": "10.9.0.0/24"}),
        json!({"type": "ipv4unicast"}),
        json!([{"type": "evpn"}, {"type": "evpn"}]),
        json!({"name": "red"}),
        json!({"matchLabels": {"a": "b"}}),
    ];
    let all: Vec<Json> = words.iter().map(|word| json!(word)).chain(numbers).chain(others).collect();
    prop_oneof![8 => select(all), 1 => address().prop_map(Json::from), 1 => "[!-~]{1,6}".prop_map(Json::from)]
}

/// Texts that are, or resemble, addresses and prefixes.
fn address() -> impl Strategy<Value = String> {
    let group = select(vec!["0", "1", "00", "0001", "ffff", "fe80", "fd00", "a", "12345", "g", ""]);
    let v6 = proptest::collection::vec(group, 1..10).prop_map(|groups| groups.join(":"));
    let octet =
        select(vec!["0", "1", "10", "99", "100", "127", "199", "223", "224", "249", "255", "256", "01", ""]);
    let v4 = proptest::collection::vec(octet, 4..5).prop_map(|octets| octets.join("."));
    let ip =
        prop_oneof![3 => v6.clone(), 2 => v4.clone(), 1 => (v6, v4).prop_map(|(a, b)| format!("{a}:{b}"))];
    let length = select(vec![
        "", "/0", "/1", "/3", "/7", "/8", "/9", "/10", "/24", "/31", "/32", "/33", "/64", "/95", "/96",
        "/126", "/127", "/128", "/129", "/024", "/",
    ]);
    (ip, length).prop_map(|(ip, length)| format!("{ip}{length}"))
}

#[derive(Debug, Clone)]
enum Mutation {
    Replace(Json),
    Delete,
    Double,
    Add(String, Json),
}

fn mutations() -> impl Strategy<Value = Mutation> {
    let mut keys: Vec<String> = vec![];
    collect(&serde_json::from_str(&super::schema()).unwrap(), &mut keys);
    keys.extend(["nodeName", "x", "asns"].map(Into::into));
    prop_oneof![
        4 => values().prop_map(Mutation::Replace),
        2 => Just(Mutation::Delete),
        1 => Just(Mutation::Double),
        3 => (select(keys), values()).prop_map(|(key, value)| Mutation::Add(key, value)),
    ]
}

/// Collects every key of the schema.
fn collect(schema: &Json, keys: &mut Vec<String>) {
    match schema {
        Json::Object(map) => {
            if let Some(Json::Object(properties)) = map.get("properties") {
                keys.extend(properties.keys().cloned());
            }
            map.values().for_each(|value| collect(value, keys));
        }
        Json::Array(list) => list.iter().for_each(|value| collect(value, keys)),
        _ => {}
    }
}

/// Collects the path of every value below this one.
fn paths(value: &Json, path: &str, out: &mut Vec<String>) {
    out.push(path.into());
    match value {
        Json::Object(map) => map.iter().for_each(|(key, value)| paths(value, &format!("{path}/{key}"), out)),
        Json::Array(list) => {
            list.iter().enumerate().for_each(|(i, value)| paths(value, &format!("{path}/{i}"), out))
        }
        _ => {}
    }
}

fn mutate(value: &mut Json, at: &Index, mutation: Mutation) {
    let mut all = vec![];
    paths(value, "", &mut all);
    let path = at.get(&all);
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", ""));
    match mutation {
        Mutation::Replace(new) => *value.pointer_mut(path).unwrap() = new,
        Mutation::Add(key, new) => {
            if let Json::Object(map) = value.pointer_mut(path).unwrap() {
                map.insert(key, new);
            }
        }
        Mutation::Delete | Mutation::Double if path.is_empty() => {}
        Mutation::Delete => match value.pointer_mut(parent).unwrap() {
            Json::Object(map) => drop(map.remove(name)),
            Json::Array(list) => drop(list.remove(name.parse::<usize>().unwrap())),
            _ => {}
        },
        Mutation::Double => {
            if let Json::Array(list) = value.pointer_mut(parent).unwrap() {
                let one = list[name.parse::<usize>().unwrap()].clone();
                list.push(one);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// For any change of a valid file, the schema accepts it if and only if the reader does.
    #[test]
    fn the_schema_and_the_reader_agree(changes in proptest::collection::vec((any::<Index>(), mutations()), 1..4)) {
        thread_local!(static VALIDATOR: Validator = validator());
        static EXAMPLE: OnceLock<Json> = OnceLock::new();
        let mut value = EXAMPLE.get_or_init(|| seen(&example()).unwrap()).clone();
        for (at, mutation) in changes {
            mutate(&mut value, &at, mutation);
        }
        let text = serde_json::to_string(&value).unwrap();
        VALIDATOR.with(|validator| agree(validator, &text, &value)).map_err(TestCaseError::fail)?;
    }

    /// With addresses that are mostly network addresses.
    #[test]
    fn they_agree_on_listen_ranges(
        ip in select(vec!["0.0.0.0", "10.0.0.0", "127.0.0.0", "128.0.0.0", "192.0.0.0", "224.0.0.0", "240.0.0.0", "::", "0::0", "::1", "::0.0.0.1", "::ffff:0:0", "::ffff:0.0.0.0", "0:0:0:0:0:FFFF::", "::fffe:0:0", "8000::", "f000::", "fe00::", "fe80::", "FE80:0::", "fec0::", "ff00::", "ff02::1", "2001:db8::"]),
        length in 0..129_u8,
    ) {
        thread_local!(static VALIDATOR: Validator = validator());
        let value = json!({"underlay": {"neighbors": [{"listenRange": format!("{ip}/{length}"), "type": "Internal"}]}});
        let text = serde_json::to_string(&value).unwrap();
        VALIDATOR.with(|validator| agree(validator, &text, &value)).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn they_agree_on_addresses(text in address()) {
        thread_local!(static VALIDATOR: Validator = validator());
        let value = json!({"underlay": {"routerIDCIDR": text, "neighbors": [{"address": text, "type": "External"}, {"listenRange": text, "type": "Internal"}],
            "interfaces": [{"type": "Macvlan", "macvlan": {"parent": "eth1", "addresses": [text]}}]}});
        for path in ["/underlay/routerIDCIDR", "/underlay/neighbors", "/underlay/interfaces"] {
            let mut one = value.clone();
            let (parent, key) = path.rsplit_once('/').unwrap();
            let kept = one.pointer(path).unwrap().clone();
            *one.pointer_mut(parent).unwrap() = json!({key: kept});
            let text = serde_json::to_string(&one).unwrap();
            VALIDATOR.with(|validator| agree(validator, &text, &one)).map_err(TestCaseError::fail)?;
        }
        for i in 0..2 {
            let one = json!({"underlay": {"neighbors": [value["underlay"]["neighbors"][i]]}});
            let text = serde_json::to_string(&one).unwrap();
            VALIDATOR.with(|validator| agree(validator, &text, &one)).map_err(TestCaseError::fail)?;
        }
    }
}
