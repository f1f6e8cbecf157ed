//! The configuration → the text of frr.conf. Pure.

use ipnet::IpNet;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, Error, ErrorKind, Output, State, UndefinedBehavior, escape_formatter};
use serde::Serialize;

use crate::config::{Config, Timers};
use crate::model::{IfName, Password, VETH_FRR, VTEP_DEVICE};

use super::Version;
use super::held::SPEAKER_WEIGHT;

mod announced;
mod overlay;

const TEMPLATE: &str = include_str!("../../templates/frr.conf.j2");

/// Steps of a template's program: far above what a node's worth of lines takes, far below a hang.
const FUEL: u64 = 1_000_000;

/// Steps more for each VNI, neighbor, or line of a list that the file has: the built-in template takes some 400 for a
/// VNI, and 5 for a line.
const FUEL_FOR_ENTRY: u64 = 2_000;
const FUEL_FOR_LINE: u64 = 25;

/// What a configuration is rendered from.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// What the operator asked for.
    pub config: &'a Config,
    /// Fabric interfaces in FRR's namespace.
    pub ports: &'a [IfName],
    /// Whether `NODE_IP` is an address of FRR's namespace, so that routes may name it as their source.
    pub node_ip_is_local: bool,
    /// The addresses of the fabric ports.
    pub port_addresses: &'a [IpNet],
    /// The FRR that reads it.
    pub version: Version,
}

/// What a template can name. A name here is an interface to operators' own templates.
#[derive(Serialize)]
struct Names<'a> {
    asn: String,
    node_ip: String,
    node_ip_is_local: bool,
    namespace: String,
    ports: Vec<&'a str>,
    /// Interfaces whose connected routes are announced.
    loopbacks: &'static [&'static str],
    password: Option<&'a str>,
    /// The leaves ask for packets with TTL 255.
    ttl_security: bool,
    /// How many routes a leaf may have for us in each address family.
    max_prefixes: Option<u32>,
    timers: Timers,
    metallb: Metallb<'a>,
    version: [u16; 2],
    #[serde(flatten)]
    overlay: overlay::Names<'a>,
}

#[derive(Serialize)]
struct Metallb<'a> {
    vrf: &'a str,
    /// FRR's end of the veth pair.
    interface: &'static str,
    asn: String,
    speaker_asn: String,
    /// Of the speaker's paths, which are to win over any other neighbor's and over retained ones.
    weight: u16,
    peer: String,
    password: Option<&'a str>,
    /// How many prefixes the speaker may announce in each address family.
    max_prefixes: u32,
    /// The operator has named what may be announced.
    named: bool,
    /// Prefix-list entries: what is refused whatever is allowed, and what is allowed.
    denied_ipv4: Vec<String>,
    denied_ipv6: Vec<String>,
    allowed_ipv4: Vec<String>,
    allowed_ipv6: Vec<String>,
}

/// Renders frr.conf from `template`, or from the built-in one.
///
/// # Errors
/// What is wrong with the template, and where.
pub fn render(inputs: &Inputs<'_>, template: Option<&str>) -> Result<String, String> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .keep_trailing_newline(true)
        .build()
        .map_err(|e| e.to_string())?;
    env.set_syntax(syntax);
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_formatter(one_line);
    env.set_fuel(Some(fuel(inputs.config)));
    let names = Value::from(Serde(names(inputs)));
    env.render_named_str("frr.conf.j2", template.unwrap_or(TEMPLATE), names).map_err(|e| {
        // The error quotes no value, and may have several lines.
        let e = format!("{e:#}").split_whitespace().collect::<Vec<_>>().join(" ");
        match (template, &inputs.config.template) {
            (Some(_), Some(path)) => format!("FRR_TEMPLATE={}: {e}", path.as_str()),
            (Some(_), None) => format!("FRR_TEMPLATE: {e}"),
            (None, _) => format!("the built-in template: {e}"),
        }
    })
}

/// How many steps a template may take.
fn fuel(config: &Config) -> u64 {
    let overlay = &config.overlay;
    let entries = overlay.l3vnis.len() + overlay.l2vnis.len() + overlay.underlay.neighbors.len();
    let targets: usize = overlay.l3vnis.iter().map(|vni| vni.import.len() + vni.export.len()).sum();
    let raw: usize = overlay.raw.iter().zip(1..).map(|(raw, number)| raw.framed(number).len()).sum();
    let steps = |count: usize, each: u64| each.saturating_mul(u64::try_from(count).unwrap_or(u64::MAX));
    FUEL + steps(entries, FUEL_FOR_ENTRY) + steps(targets + raw, FUEL_FOR_LINE)
}

fn names<'a>(inputs: &Inputs<'a>) -> Names<'a> {
    let config = inputs.config;
    let metallb = &config.metallb;
    let reveal = |password: &'a Option<Password>| password.as_ref().map(Password::reveal);
    let Version(major, minor) = inputs.version;
    Names {
        asn: config.asn.to_string(),
        node_ip: config.node_ip.to_string(),
        node_ip_is_local: inputs.node_ip_is_local,
        namespace: config.namespace.to_string(),
        loopbacks: match config.namespace.as_deref() {
            None => &["lo", "dummy0", "dummy1"],
            Some(_) if config.overlay.underlay.is_vtep() => &["dummy0", "dummy1", VTEP_DEVICE],
            // What is on lo there is only a source address for ICMP.
            Some(_) => &["dummy0", "dummy1"],
        },
        ports: inputs.ports.iter().map(IfName::as_str).collect(),
        password: reveal(&config.fabric_password),
        ttl_security: config.fabric_ttl_security,
        max_prefixes: config.fabric_max_prefixes,
        timers: config.timers,
        metallb: Metallb {
            vrf: metallb.vrf.as_ifname().as_str(),
            interface: VETH_FRR,
            asn: metallb.asn.to_string(),
            speaker_asn: metallb.speaker_asn.to_string(),
            weight: SPEAKER_WEIGHT,
            peer: metallb.v6.metallb.to_string(),
            password: reveal(&metallb.password),
            max_prefixes: metallb.max_prefixes,
            named: !metallb.allowed.is_empty(),
            denied_ipv4: announced::denied(config, inputs.port_addresses, false),
            denied_ipv6: announced::denied(config, inputs.port_addresses, true),
            allowed_ipv4: announced::allowed(&metallb.allowed, false),
            allowed_ipv6: announced::allowed(&metallb.allowed, true),
        },
        version: [major, minor],
        overlay: overlay::names(config),
    }
}

/// Refuses what would print as nothing or as more than one line.
fn one_line(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    if value.is_none() || value.is_undefined() {
        return Err(Error::new(ErrorKind::UndefinedError, "there is no value to print"));
    }
    if value.as_str().is_some_and(|text| text.chars().any(char::is_control)) {
        return Err(Error::new(ErrorKind::BadSerialization, "the value has a control character"));
    }
    escape_formatter(out, state, value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::from_vars;
    use crate::model::Value as _;
    use proptest::prelude::*;

    const BASE: [(&str, &str); 3] =
        [("NODE_IP", "10.0.0.1"), ("ASN_LOCAL", "65001"), ("FE_MACS", "02:00:00:00:00:01,02:00:00:00:00:02")];

    fn rendered(extra: &[(&str, &str)], template: Option<&str>) -> Result<String, String> {
        let vars = BASE.iter().chain(extra).map(|(k, v)| ((*k).into(), (*v).into()));
        of(&from_vars(vars).map_err(|problems| format!("{problems:?}"))?, template)
    }

    fn of(config: &Config, template: Option<&str>) -> Result<String, String> {
        let ports = ["eth1", "eth2"].map(|name| IfName::parse(name).unwrap());
        let node_ip_is_local = config.namespace.as_deref().is_none();
        let inputs =
            Inputs { config, ports: &ports, node_ip_is_local, port_addresses: &[], version: Version::NEWEST };
        render(&inputs, template)
    }

    /// `GOLDEN_WRITE=1 cargo test golden` writes them anew.
    fn is_golden(name: &str, extra: &[(&str, &str)]) {
        golden(name, &rendered(extra, None).unwrap());
    }

    fn golden(name: &str, text: &str) {
        let path = format!("{}/tests/golden/{name}.conf", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("GOLDEN_WRITE").is_some() {
            std::fs::write(&path, text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(&path).unwrap(), "{path}");
    }

    #[test]
    fn golden_perouter() {
        is_golden("perouter", &[]);
    }

    /// What FRR itself says about it is asked in the lab.
    #[test]
    fn golden_example_of_the_file() {
        let text = include_str!("../../docs/vnis.example.yaml");
        let vars = BASE.iter().map(|(k, v)| ((*k).into(), (*v).into()));
        let mut config = from_vars(vars).unwrap();
        let (overlay, problems) = crate::config::file::load(&[("vnis.yaml".into(), text.into())], &config);
        assert_eq!(problems, []);
        config.add(overlay).unwrap();
        golden("vnis", &of(&config, None).unwrap());
    }

    #[test]
    fn a_node_may_have_thousands_of_vnis() {
        use std::fmt::Write as _;
        let mut config = from_vars(BASE.iter().map(|(k, v)| ((*k).into(), (*v).into()))).unwrap();
        let mut text = String::from("underlay: {tunnelEndpoint: {cidrs: [100.65.0.0/24]}}\nl3vnis:\n");
        for n in 0..4096 {
            let net = format!("11.{}.{}.0/29", n / 256, n % 256);
            writeln!(
                text,
                "- {{vrf: v{n}, vni: {}, hostSession: {{asn: 1, hostASN: 2, localCIDR: {{ipv4: {net}}}}}}}",
                n + 1
            )
            .unwrap();
        }
        let (overlay, problems) = crate::config::file::load(&[("vnis.yaml".into(), text)], &config);
        assert_eq!(problems, []);
        config.add(overlay).unwrap();
        assert_eq!(of(&config, None).unwrap().matches("router bgp 1 vrf v").count(), 4096);
    }

    #[test]
    fn golden_host_with_everything() {
        is_golden(
            "host",
            &[
                ("NETNS", "host"),
                ("ENABLE_BFD", "false"),
                ("FABRIC_PASSWORD", "f4bric"),
                ("METALLB_PASSWORD", "s3cret"),
                ("METALLB_ALLOWED_PREFIXES", "198.51.100.0/24,203.0.113.7/32"),
            ],
        );
    }

    #[test]
    fn a_template_can_not_print_nothing_or_a_line_break() {
        let error = rendered(&[], Some("a\n{{ no_such_name }}\n")).unwrap_err();
        assert!(error.contains("frr.conf.j2:2"), "{error}");
        assert!(error.starts_with("FRR_TEMPLATE: undefined value (in "), "{error}");
        for broken in [
            "{{ no_such_name }}",
            "{% if %}",
            "{{ asn | no_such_filter }}",
            "{% include 'x' %}",
            "{{ 1 / 0 }}",
        ] {
            let error = rendered(&[("FRR_TEMPLATE", "/etc/frr/own.j2")], Some(broken)).unwrap_err();
            assert!(
                error.starts_with("FRR_TEMPLATE=/etc/frr/own.j2: ") && error.lines().count() == 1,
                "{error}"
            );
        }
        assert!(rendered(&[], Some("{{ password }}")).is_err());
        assert!(rendered(&[], Some("{{ \"a\\nb\" }}")).is_err());
        let endless = "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
        assert!(rendered(&[], Some(endless)).is_err());
    }

    proptest! {
        /// Whatever a password or a name is, it stays in its line.
        #[test]
        fn nothing_from_outside_adds_a_line(value in ".{1,20}") {
            let names = ["FABRIC_PASSWORD", "METALLB_PASSWORD", "VRF_METALLB"];
            let plain = rendered(&[("FABRIC_PASSWORD", "x"), ("METALLB_PASSWORD", "x")], None).unwrap();
            for name in names {
                let others = names[..2].iter().filter(|n| **n != name).map(|n| (*n, "x"));
                let vars: Vec<_> = others.chain([(name, value.as_str())]).collect();
                if let Ok(text) = rendered(&vars, None) {
                    let same = text.lines().count() == plain.lines().count();
                    prop_assert!(same || value.trim().is_empty(), "{name}={value:?}");
                }
            }
        }
    }
}
