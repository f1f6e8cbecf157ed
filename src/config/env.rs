//! Environment variables → [`Config`]. Every problem is reported at once.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{MARTIANS, MacAddr, Overlay, icmpv6_source};
use crate::printable::printable;

use super::file::{is_managed_device, managed_device_names};
use super::settings::{EnvSetting, IfUnset, ParsedSetting, RawSettings, SETTINGS, ValidSettings};
use super::{Bfd, Config, ConfigProblem, MetallbConfig, Objects, PeerPair, Timers};

/// Prefixes of variable names that no other program uses. An unknown variable with such a prefix is a mistake.
const KNOWN_PREFIXES: &[&str] = &[
    "ASN_",
    "BFD_",
    "DRAIN_",
    "FABRIC_MAX",
    "FABRIC_TTL",
    "FE_",
    "GR_",
    "LIVENESS_",
    "METALLB_ALLOWED",
    "METALLB_HOLD",
    "METALLB_MAX",
    "METALLB_VRF",
    "PEER_IP_",
    "PEER_IPV4_",
    "REBUILD_",
    "RETURN_",
    "UNDERLAY_",
    "VRF_METALLB",
];

/// How many characters of an invalid value an error shows.
const MAX_VALUE_CHARS: usize = 60;

/// Reads the configuration from `vars`, a complete environment.
///
/// # Errors
/// Every problem found. Each names its variable.
pub fn from_vars(vars: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Config, Vec<ConfigProblem>> {
    let mut problems = Vec::new();
    let given = select_known(vars, &mut problems);
    let texts = SETTINGS.iter().filter_map(|setting| {
        let text = match (given.get(setting.name), setting.if_unset) {
            (Some(text), _) => text.clone(),
            (None, IfUnset::Text(text)) => text.to_owned(),
            (None, _) => return None,
        };
        Some((setting.name.to_owned(), text))
    });
    // A field accepts any text, and only known names are passed on: envy itself cannot fail.
    let raw: RawSettings = match envy::from_iter(texts) {
        Ok(raw) => raw,
        Err(e) => return Err(vec![ConfigProblem(format!("environment: {e}"))]),
    };
    let reader = VarReader { given: &given, problems: &mut problems };
    match assemble(raw, reader) {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(problems),
    }
}

/// Selects the known variables, trimmed and not empty. Reports unknown names that resemble a known one.
fn select_known(
    vars: impl IntoIterator<Item = (OsString, OsString)>,
    problems: &mut Vec<ConfigProblem>,
) -> BTreeMap<&'static str, String> {
    let mut given = BTreeMap::new();
    for (name, value) in vars {
        let Some(name) = name.to_str() else { continue };
        let Some(setting) = SETTINGS.iter().find(|s| s.name == name) else {
            if let Some(nearest) = nearest_setting(name) {
                let name: String = printable(name).chars().take(MAX_VALUE_CHARS).collect();
                problems.push(ConfigProblem(format!("{name}: unknown variable, did you mean {nearest}?")));
            }
            continue;
        };
        match value.to_str().map(str::trim) {
            // An empty value overrides an earlier one of the same variable.
            Some("") => drop(given.remove(setting.name)),
            Some(text) => {
                given.insert(setting.name, text.to_owned());
            }
            None => problems.push(invalid_value(setting, &lossy(&value), "not UTF-8")),
        }
    }
    given
}

fn lossy(value: &OsStr) -> String {
    value.to_string_lossy().into_owned()
}

/// The known variable that an unknown `name` most probably means.
fn nearest_setting(name: &str) -> Option<&'static str> {
    let distance = |s: &&EnvSetting| strsim::damerau_levenshtein(name, s.name);
    let nearest = SETTINGS.iter().min_by_key(distance)?;
    // At most two letters may differ, and fewer in a short name: NETS belongs to another program.
    let max_distance = nearest.name.len().saturating_sub(5).div_ceil(3).min(2);
    let has_known_prefix = KNOWN_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    (has_known_prefix || distance(&nearest) <= max_distance || name.eq_ignore_ascii_case(nearest.name))
        .then_some(nearest.name)
}

fn invalid_value(setting: &EnvSetting, text: &str, reason: impl Display) -> ConfigProblem {
    let name = setting.name;
    let allowed = (setting.allowed)();
    if setting.secret {
        return ConfigProblem(format!("{name}: {reason} (allowed: {allowed})"));
    }
    let mut shown: String = text.chars().take(MAX_VALUE_CHARS).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    ConfigProblem(format!("{name}={shown:?}: {reason} (allowed: {allowed})"))
}

/// Takes values, and reports the problems with them.
pub(super) struct VarReader<'a> {
    given: &'a BTreeMap<&'static str, String>,
    problems: &'a mut Vec<ConfigProblem>,
}

impl VarReader<'_> {
    /// The value of a variable that is required or has a default.
    pub(super) fn take<T>(&mut self, name: &'static str, field: ParsedSetting<T>) -> Option<T> {
        let setting = SETTINGS.iter().find(|s| s.name == name)?;
        match field {
            ParsedSetting::Valid(value) => return Some(value),
            ParsedSetting::Invalid(reason) => {
                let text = self.given.get(name).map_or("", String::as_str);
                self.problems.push(invalid_value(setting, text, reason));
            }
            ParsedSetting::Missing => self
                .problems
                .push(ConfigProblem(format!("{name}: must be set (allowed: {})", (setting.allowed)()))),
        }
        None
    }

    /// The value of a variable that may be unset.
    pub(super) fn optional<T>(&mut self, name: &'static str, field: ParsedSetting<T>) -> Option<Option<T>> {
        match field {
            ParsedSetting::Missing => Some(None),
            field => self.take(name, field).map(Some),
        }
    }

    fn add_problem(&mut self, problem: String) {
        self.problems.push(ConfigProblem(problem));
    }

    /// Both ends of a link, if they are two host addresses of one subnet.
    fn pair(&mut self, names: [&str; 3], frr: IpAddr, metallb: IpAddr, prefix: u32) -> Option<PeerPair> {
        let [frr_name, metallb_name, prefix_name] = names;
        let prefix = u8::try_from(prefix).ok()?;
        if frr == metallb {
            self.add_problem(format!(
                "{frr_name} and {metallb_name} are both {frr}: each end needs its own address"
            ));
            return None;
        }
        let subnet = |ip| IpNet::new(ip, prefix).map(|net| net.trunc());
        if subnet(frr) != subnet(metallb) {
            self.add_problem(format!(
                "{frr_name}={frr} and {metallb_name}={metallb} are not in one /{prefix} subnet ({prefix_name})"
            ));
            return None;
        }
        // The first address of an IPv6 subnet is the Subnet-Router anycast address (RFC 4291 §2.6.1). The first and the
        // last address of an IPv4 subnet are not host addresses. A /127 (RFC 6164) and a /31 (RFC 3021) have two host
        // addresses only.
        let point_to_point = if frr.is_ipv6() { prefix == 127 } else { prefix == 31 };
        for (name, ip) in [(frr_name, frr), (metallb_name, metallb)] {
            let Ok(net) = IpNet::new(ip, prefix) else { continue };
            let last = ip.is_ipv4() && ip == net.broadcast();
            if !point_to_point && (ip == net.network() || last) {
                self.add_problem(format!(
                    "{name}={ip} is not a host address in a /{prefix} subnet ({prefix_name})"
                ));
                return None;
            }
        }
        Some(PeerPair { frr, metallb, prefix })
    }
}

/// The network that contains `net` and of which the speaker may announce nothing, as text for an error.
fn never_accepted(net: IpNet, pairs: &[PeerPair], own: Option<[IpAddr; 2]>) -> Option<String> {
    let mut martians = MARTIANS.iter().copied().flatten();
    if let Some(martian) = martians.find(|text| text.parse().is_ok_and(|other: IpNet| other.contains(&net))) {
        return Some(format!("{martian}, a reserved or link-local range"));
    }
    if let Some(pair) = pairs.iter().map(|pair| pair.frr_net().trunc()).find(|pair| pair.contains(&net)) {
        return Some(format!("{pair}, the link to MetalLB"));
    }
    let own = own.into_iter().flatten().find(|ip| IpNet::from(*ip) == net)?;
    Some(format!("{own}, the node's own address"))
}

/// Takes every value first, so that every problem is reported. Then checks the values against each other.
fn assemble(raw: RawSettings, mut r: VarReader<'_>) -> Option<Config> {
    let s = ValidSettings::take(raw, &mut r);
    if let (Some(None), Some(None)) = (&s.fe_macs, &s.config_file) {
        // Without FE_MACS, a file must name the links to the fabric.
        r.take("FE_MACS", ParsedSetting::<Vec<MacAddr>>::Missing);
    }
    let v6 = match (s.peer_ip_frr, s.peer_ip_metallb, s.peer_ip_prefix) {
        (Some(frr), Some(metallb), Some(prefix)) => {
            let names = ["PEER_IP_FRR", "PEER_IP_METALLB", "PEER_IP_PREFIX"];
            r.pair(names, frr.get(), metallb.get(), prefix.get())
        }
        _ => None,
    };
    let v4 = match (s.peer_ipv4_frr, s.peer_ipv4_metallb, s.peer_ipv4_prefix) {
        (Some(None), _, _) => Some(None),
        (Some(Some(frr)), Some(metallb), Some(prefix)) => {
            let names = ["PEER_IPV4_FRR", "PEER_IPV4_METALLB", "PEER_IPV4_PREFIX"];
            r.pair(names, frr.get(), metallb.get(), prefix.get()).map(Some)
        }
        _ => None,
    };
    let own = s.node_ip.map(|ip| [IpAddr::V4(ip.get()), IpAddr::V6(icmpv6_source(ip))]);
    let pairs: Vec<PeerPair> = v6.into_iter().chain(v4.flatten()).collect();
    for ip in own.into_iter().flatten() {
        if let Some(net) = pairs.iter().map(|pair| pair.frr_net().trunc()).find(|net| net.contains(&ip)) {
            let what = if ip.is_ipv4() { "NODE_IP=" } else { "the address derived from NODE_IP, " };
            let pair = if ip.is_ipv4() { "PEER_IPV4" } else { "PEER_IP" };
            r.add_problem(format!(
                "{what}{ip} is in {net}, the subnet of the link to MetalLB ({pair}_FRR, {pair}_METALLB): use a separate subnet for the link"
            ));
        }
    }
    for net in s.metallb_allowed_prefixes.iter().flatten().flatten() {
        if let Some(reason) = never_accepted(*net, &pairs, own) {
            r.add_problem(format!(
                "METALLB_ALLOWED_PREFIXES: {net} is in {reason}, which the speaker may never announce: remove it"
            ));
        }
    }
    if let (Some(a), Some(b)) = (s.metallb_vrf_route_table_id, s.return_table)
        && a == b
    {
        r.add_problem(format!(
            "METALLB_VRF_ROUTE_TABLE_ID and RETURN_TABLE are both {a}: use two different tables"
        ));
    }
    if let (Some(a), Some(b)) = (s.asn_vrf_metallb, s.asn_metallb_speaker)
        && a == b
    {
        r.add_problem(format!(
            "ASN_VRF_METALLB and ASN_METALLB_SPEAKER are both {a}: the session with MetalLB is external (eBGP), use two different AS numbers"
        ));
    }
    if let (Some(a), Some(b)) = (s.asn_local, s.asn_metallb_speaker)
        && a == b
    {
        r.add_problem(format!(
            "ASN_LOCAL and ASN_METALLB_SPEAKER are both {a}: bgpd would not announce the services to the leaves, because their AS path \
             would contain the local AS number; give the speaker another one (MetalLB's myASN), private ones are \
             64512-65534 and 4200000000-4294967294"
        ));
    }
    if let (Some(k), Some(h)) = (s.bgp_keepalive_time, s.bgp_hold_time)
        && h.get() < 3 * k.get()
    {
        r.add_problem(format!("BGP_HOLD_TIME={h} is less than three times BGP_KEEPALIVE_TIME={k}"));
    }
    if let (Some(restart), Some(stale)) = (s.gr_restart_time, s.gr_stalepath_time)
        && stale < restart
    {
        r.add_problem(format!("GR_STALEPATH_TIME={stale} is less than GR_RESTART_TIME={restart}"));
    }
    if let (Some(restart), Some(defer)) = (s.gr_restart_time, s.gr_select_defer_time)
        && defer.get() >= restart.get()
    {
        r.add_problem(format!("GR_SELECT_DEFER_TIME={defer} is not less than GR_RESTART_TIME={restart}"));
    }
    if let (Some(name), Some(Some(token))) = (&s.netns, &s.rebuild_token)
        && name.as_deref().is_none()
    {
        let token = token.as_str();
        r.add_problem(format!(
            "REBUILD_TOKEN={token} is not allowed with NETNS=host: the host namespace cannot be rebuilt"
        ));
    }
    if let Some(vrf) = &s.vrf_metallb
        && is_managed_device(vrf.as_ifname().as_str())
    {
        r.add_problem(format!(
            "VRF_METALLB={vrf}: reserved for a managed device (reserved names: {})",
            managed_device_names()
        ));
    }

    let (v6, v4) = (v6?, v4?);
    let s = s.all()?;
    let hold_s = s.bgp_hold_time.get();
    Some(Config {
        fabric_macs: s.fe_macs.clone().unwrap_or_default(),
        metallb: s.metallb.then(|| MetallbConfig {
            vrf: s.vrf_metallb.clone(),
            table: s.metallb_vrf_route_table_id,
            asn: s.asn_vrf_metallb,
            speaker_asn: s.asn_metallb_speaker,
            v6,
            v4,
            allowed: s.metallb_allowed_prefixes.clone().unwrap_or_default(),
            max_prefixes: s.metallb_max_prefixes.get(),
            password: s.metallb_password.clone(),
            retention_s: s.metallb_hold_time.get(),
        }),
        timers: Timers {
            keepalive_s: s.bgp_keepalive_time.get(),
            hold_s,
            connect_s: s.bgp_connect_time.get(),
            restart_s: s.gr_restart_time.get(),
            stalepath_s: s.gr_stalepath_time.get(),
            select_defer_s: s.gr_select_defer_time.get(),
            bfd: s.enable_bfd.then(|| {
                let receive_ms = s.bfd_receive_interval.get();
                let transmit_ms = s.bfd_transmit_interval.get();
                let multiplier = s.bfd_detect_multiplier.get();
                // The local detection time, if the leaf uses the same timers (RFC 5880 §6.8.4).
                let detection_ms = receive_ms.max(transmit_ms) * multiplier;
                Bfd { receive_ms, transmit_ms, multiplier, coupled: detection_ms < 1000 * hold_s }
            }),
        },
        settings: s,
        overlay: Overlay::default(),
        objects: Objects::default(),
    })
}

#[cfg(test)]
mod tests;
