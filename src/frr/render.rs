//! The configuration and the observed facts → the text of frr.conf. Pure.

use ipnet::IpNet;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, Error, ErrorKind, Output, State, UndefinedBehavior, escape_formatter};
use serde::Serialize;

use crate::config::{Config, Timers};
use crate::model::{IfName, Password, Ranged, VETH_FRR, VTEP_DEVICE};

use super::Version;
use super::retained::SPEAKER_WEIGHT;

mod overlay;
mod prefix_lists;

const TEMPLATE: &str = include_str!("../../templates/frr.conf.j2");

/// The steps that a template may take: far more than the lines of a node need, far fewer than a hang takes.
const FUEL: u64 = 1_000_000;

/// Additional steps for each VNI or neighbor of the file. The built-in template takes about 400 for a VNI.
const FUEL_FOR_ENTRY: u64 = 2_000;

/// Additional steps for each line of a list in the file. The built-in template takes about 5 for a line.
const FUEL_FOR_LINE: u64 = 25;

/// The inputs of the rendering.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// Fabric interfaces in FRR's namespace.
    pub ports: &'a [IfName],
    /// `NODE_IP` is an address of FRR's namespace, so routes may have it as their source address.
    pub node_ip_is_local: bool,
    /// The addresses of the fabric ports.
    pub port_addresses: &'a [IpNet],
    /// The version of FRR that reads the text.
    pub version: Version,
}

/// The variables of a template. Their names are an interface to operators' own templates.
#[derive(Serialize)]
struct TemplateVars<'a> {
    asn: String,
    node_ip: String,
    node_ip_is_local: bool,
    namespace: String,
    ports: Vec<&'a str>,
    /// Interfaces whose connected routes are announced.
    loopbacks: &'static [&'static str],
    password: Option<&'a str>,
    /// The leaves require packets with TTL 255.
    ttl_security: bool,
    /// The largest number of routes that a leaf may announce in each address family.
    max_prefixes: Option<u32>,
    timers: Timers,
    /// Unless `METALLB` is `false`.
    metallb: Option<MetallbVars<'a>>,
    version: [u16; 2],
    #[serde(flatten)]
    overlay: overlay::OverlayVars<'a>,
}

#[derive(Serialize)]
struct MetallbVars<'a> {
    vrf: &'a str,
    /// FRR's end of the veth pair.
    interface: &'static str,
    asn: String,
    speaker_asn: String,
    /// The weight of the speaker's paths. They win over those of every other neighbor and over retained ones.
    weight: u16,
    peer: String,
    password: Option<&'a str>,
    /// The largest number of prefixes that the speaker may announce in each address family.
    max_prefixes: u32,
    /// `METALLB_ALLOWED_PREFIXES` is set.
    named: bool,
    /// Prefix-list entries: prefixes that are always denied, and prefixes that are allowed.
    denied_ipv4: Vec<String>,
    denied_ipv6: Vec<String>,
    allowed_ipv4: Vec<String>,
    allowed_ipv6: Vec<String>,
}

/// Renders frr.conf from `template`, or from the built-in one.
///
/// # Errors
/// The error of the template, with its name and line.
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
    env.set_formatter(single_line_formatter);
    env.set_fuel(Some(fuel(inputs.config)));
    let vars = Value::from(Serde(template_vars(inputs)));
    env.render_named_str("frr.conf.j2", template.unwrap_or(TEMPLATE), vars).map_err(|e| {
        // The error may have several lines. It quotes no value.
        let e = format!("{e:#}").split_whitespace().collect::<Vec<_>>().join(" ");
        match (template, &inputs.config.settings.frr_template) {
            (Some(_), Some(path)) => format!("FRR_TEMPLATE={}: {e}", path.as_str()),
            (Some(_), None) => format!("FRR_TEMPLATE: {e}"),
            (None, _) => format!("the built-in template: {e}"),
        }
    })
}

/// The number of steps that a template may take.
fn fuel(config: &Config) -> u64 {
    let overlay = &config.overlay;
    let entries = overlay.l3vnis.len() + overlay.l2vnis.len() + overlay.underlay.neighbors.len();
    let targets: usize = overlay.l3vnis.iter().map(|vni| vni.import.len() + vni.export.len()).sum();
    let raw: usize = overlay.raw.iter().zip(1..).map(|(raw, number)| raw.framed(number).len()).sum();
    let steps = |count: usize, each: u64| each.saturating_mul(u64::try_from(count).unwrap_or(u64::MAX));
    FUEL + steps(entries, FUEL_FOR_ENTRY) + steps(targets + raw, FUEL_FOR_LINE)
}

fn template_vars<'a>(inputs: &Inputs<'a>) -> TemplateVars<'a> {
    let config = inputs.config;
    let reveal = |password: &'a Option<Password>| password.as_ref().map(Password::reveal);
    let Version(major, minor) = inputs.version;
    TemplateVars {
        asn: config.settings.asn_local.to_string(),
        node_ip: config.settings.node_ip.to_string(),
        node_ip_is_local: inputs.node_ip_is_local,
        namespace: config.settings.netns.to_string(),
        loopbacks: match config.settings.netns.as_deref() {
            None => &["lo", "dummy0", "dummy1"],
            Some(_) if config.overlay.underlay.is_vtep() => &["dummy0", "dummy1", VTEP_DEVICE],
            // The address on lo is only the source address of ICMP errors.
            Some(_) => &["dummy0", "dummy1"],
        },
        ports: inputs.ports.iter().map(IfName::as_str).collect(),
        password: reveal(&config.settings.fabric_password),
        ttl_security: config.settings.fabric_ttl_security,
        max_prefixes: config.settings.fabric_max_prefixes.map(Ranged::get),
        timers: config.timers,
        metallb: config.metallb.as_ref().map(|metallb| MetallbVars {
            vrf: metallb.vrf.as_ifname().as_str(),
            interface: VETH_FRR,
            asn: metallb.asn.to_string(),
            speaker_asn: metallb.speaker_asn.to_string(),
            weight: SPEAKER_WEIGHT,
            peer: metallb.v6.metallb.to_string(),
            password: reveal(&metallb.password),
            max_prefixes: metallb.max_prefixes,
            named: !metallb.allowed.is_empty(),
            denied_ipv4: prefix_lists::denied(config, metallb, inputs.port_addresses, false),
            denied_ipv6: prefix_lists::denied(config, metallb, inputs.port_addresses, true),
            allowed_ipv4: prefix_lists::allowed(&metallb.allowed, false),
            allowed_ipv6: prefix_lists::allowed(&metallb.allowed, true),
        }),
        version: [major, minor],
        overlay: overlay::vars(config),
    }
}

/// Prints a value. Refuses a value that would print as nothing, or as more than one line.
fn single_line_formatter(
    out: &mut Output<'_>,
    state: &mut State<'_, '_>,
    value: &Value,
) -> Result<(), Error> {
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
        let node_ip_is_local = config.settings.netns.as_deref().is_none();
        let inputs =
            Inputs { config, ports: &ports, node_ip_is_local, port_addresses: &[], version: Version::NEWEST };
        render(&inputs, template)
    }

    /// Compares the rendered text with the golden file. `GOLDEN_WRITE=1 cargo test golden` writes the golden files.
    fn check_golden(name: &str, extra: &[(&str, &str)]) {
        compare_golden(name, &rendered(extra, None).unwrap());
    }

    fn compare_golden(name: &str, text: &str) {
        let path = format!("{}/tests/golden/{name}.conf", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("GOLDEN_WRITE").is_some() {
            std::fs::write(&path, text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(&path).unwrap(), "{path}");
    }

    #[test]
    fn golden_without_metallb() {
        check_golden("without-metallb", &[("METALLB", "false")]);
    }

    #[test]
    fn golden_perouter() {
        check_golden("perouter", &[]);
    }

    /// The lab tests check this text with FRR.
    #[test]
    fn golden_example_of_the_file() {
        let text = include_str!("../../docs/vnis.example.yaml");
        let vars = BASE.iter().map(|(k, v)| ((*k).into(), (*v).into()));
        let mut config = from_vars(vars).unwrap();
        let (overlay, problems) =
            crate::config::file::parse_files(&[("vnis.yaml".into(), text.into())], &config);
        assert_eq!(problems, []);
        config.add_overlay(overlay).unwrap();
        compare_golden("vnis", &of(&config, None).unwrap());
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
        let (overlay, problems) = crate::config::file::parse_files(&[("vnis.yaml".into(), text)], &config);
        assert_eq!(problems, []);
        config.add_overlay(overlay).unwrap();
        assert_eq!(of(&config, None).unwrap().matches("router bgp 1 vrf v").count(), 4096);
    }

    #[test]
    fn golden_host_with_everything() {
        check_golden(
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
    fn a_template_cannot_print_nothing_or_a_line_break() {
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
        /// No password and no name adds a line.
        #[test]
        fn no_value_adds_a_line(value in ".{1,20}") {
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
