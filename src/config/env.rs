//! Environment variables → [`Config`]. Every problem is reported at once.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{MARTIANS, MacAddr, Overlay, Ranged, icmpv6_source};
use crate::printable::printable;

use super::file::{is_managed_device, managed_device_names};
use super::settings::{EnvSetting, IfUnset, ParsedSetting, RawSettings, SETTINGS};
use super::{Bfd, Config, ConfigProblem, MetallbConfig, PeerPair, Timers};

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

struct VarReader<'a> {
    given: &'a BTreeMap<&'static str, String>,
    problems: &'a mut Vec<ConfigProblem>,
}

impl VarReader<'_> {
    /// The value of a variable that is required or has a default.
    fn take<T>(&mut self, name: &'static str, field: ParsedSetting<T>) -> Option<T> {
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
    fn optional<T>(&mut self, name: &'static str, field: ParsedSetting<T>) -> Option<Option<T>> {
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

/// Reads every field first, so that every problem is reported. Then checks the values against each other.
fn assemble(raw: RawSettings, mut r: VarReader<'_>) -> Option<Config> {
    let node_ip = r.take("NODE_IP", raw.node_ip);
    let asn = r.take("ASN_LOCAL", raw.asn_local);
    let fabric_macs = r.optional("FE_MACS", raw.fe_macs);
    let fabric_timeout = r.take("FE_TIMEOUT", raw.fe_timeout);
    let setup_timeout = r.take("SETUP_TIMEOUT", raw.setup_timeout);
    let fabric_password = r.optional("FABRIC_PASSWORD", raw.fabric_password);
    let ttl_security = r.take("FABRIC_TTL_SECURITY", raw.fabric_ttl_security);
    let fabric_max = r.optional("FABRIC_MAX_PREFIXES", raw.fabric_max_prefixes);
    let namespace = r.take("NETNS", raw.netns);
    let rebuild_token = r.optional("REBUILD_TOKEN", raw.rebuild_token);
    let enforce = r.take("ENFORCE_CONFIG", raw.enforce_config);
    let force_move = r.take("UNDERLAY_FORCE_MOVE", raw.underlay_force_move);
    let vrf = r.take("VRF_METALLB", raw.vrf_metallb);
    let table = r.take("METALLB_VRF_ROUTE_TABLE_ID", raw.metallb_vrf_route_table_id);
    let vrf_asn = r.take("ASN_VRF_METALLB", raw.asn_vrf_metallb);
    let speaker_asn = r.take("ASN_METALLB_SPEAKER", raw.asn_metallb_speaker);
    let v6_frr = r.take("PEER_IP_FRR", raw.peer_ip_frr);
    let v6_metallb = r.take("PEER_IP_METALLB", raw.peer_ip_metallb);
    let v6_prefix = r.take("PEER_IP_PREFIX", raw.peer_ip_prefix);
    let v4_frr = r.take("PEER_IPV4_FRR", raw.peer_ipv4_frr);
    let v4_metallb = r.take("PEER_IPV4_METALLB", raw.peer_ipv4_metallb);
    let v4_prefix = r.take("PEER_IPV4_PREFIX", raw.peer_ipv4_prefix);
    let allowed = r.optional("METALLB_ALLOWED_PREFIXES", raw.metallb_allowed_prefixes);
    let max_prefixes = r.take("METALLB_MAX_PREFIXES", raw.metallb_max_prefixes);
    let metallb_password = r.optional("METALLB_PASSWORD", raw.metallb_password);
    let metallb_hold = r.take("METALLB_HOLD_TIME", raw.metallb_hold_time);
    let mtu = r.optional("INTERFACE_MTU", raw.interface_mtu);
    let return_path = r.take("RETURN_PATH", raw.return_path);
    let return_mark = r.take("RETURN_MARK", raw.return_mark);
    let return_table = r.take("RETURN_TABLE", raw.return_table);
    let keepalive = r.take("BGP_KEEPALIVE_TIME", raw.bgp_keepalive_time);
    let hold = r.take("BGP_HOLD_TIME", raw.bgp_hold_time);
    let connect = r.take("BGP_CONNECT_TIME", raw.bgp_connect_time);
    let restart = r.take("GR_RESTART_TIME", raw.gr_restart_time);
    let stalepath = r.take("GR_STALEPATH_TIME", raw.gr_stalepath_time);
    let select_defer = r.take("GR_SELECT_DEFER_TIME", raw.gr_select_defer_time);
    let enable_bfd = r.take("ENABLE_BFD", raw.enable_bfd);
    let receive = r.take("BFD_RECEIVE_INTERVAL", raw.bfd_receive_interval);
    let transmit = r.take("BFD_TRANSMIT_INTERVAL", raw.bfd_transmit_interval);
    let multiplier = r.take("BFD_DETECT_MULTIPLIER", raw.bfd_detect_multiplier);
    let liveness = r.take("LIVENESS_TIMEOUT", raw.liveness_timeout);
    let on_stop = r.take("ON_STOP", raw.on_stop);
    let drain = r.take("DRAIN_TIME", raw.drain_time);
    let template = r.optional("FRR_TEMPLATE", raw.frr_template);
    let file = r.optional("CONFIG_FILE", raw.config_file);
    if let (Some(None), Some(None)) = (&fabric_macs, &file) {
        // Without FE_MACS, a file must name the links to the fabric.
        r.take("FE_MACS", ParsedSetting::<Vec<MacAddr>>::Missing);
    }
    let node_index = r.take("NODE_INDEX", raw.node_index);
    let status_listen = r.take("STATUS_LISTEN", raw.status_listen);
    let log_level = r.take("LOG_LEVEL", raw.log_level);
    let log_format = r.take("LOG_FORMAT", raw.log_format);

    let v6 = match (v6_frr, v6_metallb, v6_prefix) {
        (Some(frr), Some(metallb), Some(prefix)) => {
            let names = ["PEER_IP_FRR", "PEER_IP_METALLB", "PEER_IP_PREFIX"];
            r.pair(names, frr.get(), metallb.get(), prefix.get())
        }
        _ => None,
    };
    let v4 = match (v4_frr, v4_metallb, v4_prefix) {
        (Some(None), _, _) => Some(None),
        (Some(Some(frr)), Some(metallb), Some(prefix)) => {
            let names = ["PEER_IPV4_FRR", "PEER_IPV4_METALLB", "PEER_IPV4_PREFIX"];
            r.pair(names, frr.get(), metallb.get(), prefix.get()).map(Some)
        }
        _ => None,
    };
    let own = node_ip.map(|ip| [IpAddr::V4(ip.get()), IpAddr::V6(icmpv6_source(ip))]);
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
    for net in allowed.iter().flatten().flatten() {
        if let Some(reason) = never_accepted(*net, &pairs, own) {
            r.add_problem(format!(
                "METALLB_ALLOWED_PREFIXES: {net} is in {reason}, which the speaker may never announce: remove it"
            ));
        }
    }
    if let (Some(a), Some(b)) = (table, return_table)
        && a == b
    {
        r.add_problem(format!(
            "METALLB_VRF_ROUTE_TABLE_ID and RETURN_TABLE are both {a}: use two different tables"
        ));
    }
    if let (Some(a), Some(b)) = (vrf_asn, speaker_asn)
        && a == b
    {
        r.add_problem(format!(
            "ASN_VRF_METALLB and ASN_METALLB_SPEAKER are both {a}: the session with MetalLB is external (eBGP), use two different AS numbers"
        ));
    }
    if let (Some(a), Some(b)) = (asn, speaker_asn)
        && a == b
    {
        r.add_problem(format!(
            "ASN_LOCAL and ASN_METALLB_SPEAKER are both {a}: bgpd would not announce the services to the leaves, because their AS path \
             would contain the local AS number; give the speaker another one (MetalLB's myASN), private ones are \
             64512-65534 and 4200000000-4294967294"
        ));
    }
    if let (Some(k), Some(h)) = (keepalive, hold)
        && h.get() < 3 * k.get()
    {
        r.add_problem(format!("BGP_HOLD_TIME={h} is less than three times BGP_KEEPALIVE_TIME={k}"));
    }
    if let (Some(restart), Some(stale)) = (restart, stalepath)
        && stale < restart
    {
        r.add_problem(format!("GR_STALEPATH_TIME={stale} is less than GR_RESTART_TIME={restart}"));
    }
    if let (Some(restart), Some(defer)) = (restart, select_defer)
        && defer.get() >= restart.get()
    {
        r.add_problem(format!("GR_SELECT_DEFER_TIME={defer} is not less than GR_RESTART_TIME={restart}"));
    }
    if let (Some(name), Some(Some(token))) = (&namespace, &rebuild_token)
        && name.as_deref().is_none()
    {
        let token = token.as_str();
        r.add_problem(format!(
            "REBUILD_TOKEN={token} is not allowed with NETNS=host: the host namespace cannot be rebuilt"
        ));
    }
    if let Some(vrf) = &vrf
        && is_managed_device(vrf.as_ifname().as_str())
    {
        r.add_problem(format!(
            "VRF_METALLB={vrf}: reserved for a managed device (reserved names: {})",
            managed_device_names()
        ));
    }

    let hold_s = hold?.get();
    Some(Config {
        node_ip: node_ip?,
        asn: asn?,
        fabric_macs: fabric_macs?.unwrap_or_default(),
        fabric_timeout_s: fabric_timeout?.get(),
        fabric_password: fabric_password?,
        fabric_ttl_security: ttl_security?,
        fabric_max_prefixes: fabric_max?.map(Ranged::get),
        namespace: namespace?,
        rebuild_token: rebuild_token?,
        force_move: force_move?,
        enforce: enforce?,
        metallb: MetallbConfig {
            vrf: vrf?,
            table: table?,
            asn: vrf_asn?,
            speaker_asn: speaker_asn?,
            v6: v6?,
            v4: v4?,
            allowed: allowed?.unwrap_or_default(),
            max_prefixes: max_prefixes?.get(),
            password: metallb_password?,
            retention_s: metallb_hold?.get(),
        },
        mtu: mtu?,
        return_path: return_path?,
        return_mark: return_mark?.0,
        return_table: return_table?,
        timers: Timers {
            keepalive_s: keepalive?.get(),
            hold_s,
            connect_s: connect?.get(),
            restart_s: restart?.get(),
            stalepath_s: stalepath?.get(),
            select_defer_s: select_defer?.get(),
            bfd: match (enable_bfd?, receive?, transmit?, multiplier?) {
                (false, ..) => None,
                (true, receive, transmit, multiplier) => {
                    let (receive_ms, transmit_ms, multiplier) =
                        (receive.get(), transmit.get(), multiplier.get());
                    // The local detection time, if the leaf uses the same timers (RFC 5880 §6.8.4).
                    let detection_ms = receive_ms.max(transmit_ms) * multiplier;
                    let coupled = detection_ms < 1000 * hold_s;
                    Some(Bfd { receive_ms, transmit_ms, multiplier, coupled })
                }
            },
        },
        liveness_timeout_s: liveness?.get(),
        on_stop: on_stop?,
        drain_s: drain?.get(),
        template: template?,
        file: file?,
        node_index: node_index?.get(),
        setup_timeout_s: setup_timeout?.get(),
        status_listen: status_listen?,
        log_level: log_level?,
        log_format: log_format?,
        overlay: Overlay::default(),
    })
}

#[cfg(test)]
mod tests;
