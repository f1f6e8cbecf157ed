//! The table of all settings. It drives parsing, `--help` and docs/configuration.md.

use std::fmt;
use std::net::SocketAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde::de::Deserializer;

use super::env::VarReader;
use crate::model::{
    Asn, FilePath, Invalid, MacAddr, Mtu, NamespaceName, Password, PeerAddr, Ranged, RebuildToken, RouterId,
    TableId, Value, VrfName,
};

/// One row of the table.
#[derive(Debug)]
pub struct EnvSetting {
    /// The environment variable.
    pub name: &'static str,
    /// Whether the variable is required, and its default.
    pub if_unset: IfUnset,
    /// The allowed values, as the middle of a sentence.
    pub allowed: fn() -> String,
    /// The meaning of the variable.
    pub meaning: &'static str,
    /// Whether the value must not be shown.
    pub secret: bool,
}

/// What applies if a variable is unset or empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfUnset {
    /// The variable must be set.
    Required,
    /// This text is used instead.
    Text(&'static str),
    /// The variable must be set, unless this holds.
    RequiredUnless(&'static str),
    /// There is no value. The text describes the effect.
    Unset(&'static str),
}

/// The result of parsing one variable.
#[derive(Debug, Default)]
pub(super) enum ParsedSetting<T> {
    #[default]
    Missing,
    Invalid(Invalid),
    Valid(T),
}

/// Never fails: the error stays in the field, so that one invalid variable does not hide the next.
impl<'de, T: Value> Deserialize<'de> for ParsedSetting<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(match T::parse(&text) {
            Ok(value) => Self::Valid(value),
            Err(reason) => Self::Invalid(reason),
        })
    }
}

/// The type of a field in [`Settings`].
macro_rules! field {
    (Unset $type:ty) => { Option<$type> };
    (RequiredUnless $type:ty) => { Option<$type> };
    ($kind:ident $type:ty) => { $type };
}

/// Takes the value of a field.
macro_rules! take {
    (Unset $reader:ident $name:literal $value:expr) => {
        $reader.optional($name, $value)
    };
    (RequiredUnless $reader:ident $name:literal $value:expr) => {
        $reader.optional($name, $value)
    };
    ($kind:ident $reader:ident $name:literal $value:expr) => {
        $reader.take($name, $value)
    };
}

macro_rules! settings {
    ($($name:literal $visible:vis $field:ident: $type:ty = $kind:ident $(($text:literal))?, $meaning:literal;)*) => {
        /// Every variable, in the order of the documentation.
        pub const SETTINGS: &[EnvSetting] = &[$(EnvSetting {
            name: $name,
            if_unset: IfUnset::$kind $(($text))?,
            allowed: <$type as Value>::allowed,
            meaning: $meaning,
            secret: <$type as Value>::SECRET,
        }),*];

        /// The parsed variables.
        #[derive(Debug, Default, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub(super) struct RawSettings { $($field: ParsedSetting<$type>),* }

        /// The valid variables, before they are checked against each other. `None`: a problem was reported.
        pub(super) struct ValidSettings { $(pub $field: Option<field!($kind $type)>),* }

        /// The value of every variable. Those of a group are visible in `config` alone: others read the group, where a file
        /// may have changed them.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Settings { $(#[doc = $meaning] $visible $field: field!($kind $type)),* }

        impl ValidSettings {
            /// Takes every field, so that every problem is reported.
            pub fn take(raw: RawSettings, reader: &mut VarReader<'_>) -> Self {
                Self { $($field: take!($kind reader $name raw.$field)),* }
            }

            /// `None`: a variable is missing or invalid.
            pub fn all(self) -> Option<Settings> {
                Some(Settings { $($field: self.$field?),* })
            }
        }
    };
}

settings! {
    "NODE_IP" pub node_ip: RouterId = Required,
        "The node's IPv4 address: BGP router-id, and with `NETNS=host` the preferred source (`src`) of the routes that FRR installs.";
    "ASN_LOCAL" pub asn_local: Asn = Required,
        "The node's AS number towards the leaf switches.";
    "FE_MACS" pub(super) fe_macs: Vec<MacAddr> = RequiredUnless("the file names `underlay.interfaces`"),
        "MAC addresses of the fabric NICs. A NIC's permanent address takes precedence over its current one.";
    "FE_TIMEOUT" pub fe_timeout: Ranged<1, 3600> = Text("120"),
        "Seconds that a start waits for the fabric NICs. If at least one NIC is there, the wait ends after a quarter of that time. Without any NIC, the set-up fails: see `SETUP_TIMEOUT`. A NIC that appears later is added, and all daemons then restart in place.";
    "SETUP_TIMEOUT" pub setup_timeout: Ranged<0, 3600> = Text("60"),
        "A failed set-up of the node (for example without a kernel module) is retried every 5 s until this many seconds after the start of the program, including the wait for the NICs. Then the program exits.";
    "FABRIC_PASSWORD" pub fabric_password: Password = Unset("no password"),
        "TCP-MD5 password of the sessions with the leaf switches.";
    "FABRIC_TTL_SECURITY" pub fabric_ttl_security: bool = Text("false"),
        "Send and accept only packets with TTL 255 on the sessions with the leaf switches (GTSM, RFC 5082; `ttl-security hops 1`). Both ends must agree.";
    "FABRIC_MAX_PREFIXES" pub fabric_max_prefixes: Ranged<1, 4_294_967_295> = Unset("no limit"),
        "The most routes per address family that a leaf switch may announce. Above the limit, its session is closed for one minute at a time.";
    "NETNS" pub netns: NamespaceName = Text("perouter"),
        "The persistent network namespace of FRR, the fabric NICs and the VRF, at `/run/netns/<name>`. `host` uses the host namespace instead.";
    "UNDERLAY_FORCE_MOVE" pub underlay_force_move: bool = Text("false"),
        "Move a fabric NIC into the namespace even if that cuts off the node's default route, `NODE_IP`, or VLANs and other links on top of the NIC.";
    "REBUILD_TOKEN" pub rebuild_token: RebuildToken = Unset("no rebuild"),
        "Any word. If it differs from the token of the current namespace, the namespace is deleted and rebuilt once.";
    "METALLB" pub(super) metallb: bool = Text("true"),
        "Peer with MetalLB's speaker. With `false` there is no VRF, no veth pair and no session for it, and the settings below and `RETURN_PATH` have no effect.";
    "VRF_METALLB" pub(super) vrf_metallb: VrfName = Text("metallb"),
        "Name of the VRF for the session with MetalLB.";
    "METALLB_VRF_ROUTE_TABLE_ID" pub(super) metallb_vrf_route_table_id: TableId = Text("88"),
        "Routing table of that VRF.";
    "ASN_VRF_METALLB" pub(super) asn_vrf_metallb: Asn = Text("4000099998"),
        "Local AS number in the VRF: MetalLB's `peerASN`.";
    "ASN_METALLB_SPEAKER" pub(super) asn_metallb_speaker: Asn = Text("4000099999"),
        "The speaker's AS number: MetalLB's `myASN`. It must differ from `ASN_LOCAL`.";
    "PEER_IP_FRR" pub(super) peer_ip_frr: PeerAddr<true> = Text("fda1:b2c3:d4e5:1::0"),
        "IPv6 address of FRR's end of the veth pair: MetalLB's `peerAddress`.";
    "PEER_IP_METALLB" pub(super) peer_ip_metallb: PeerAddr<true> = Text("fda1:b2c3:d4e5:1::1"),
        "IPv6 address of the speaker's end, in the host namespace.";
    "PEER_IP_PREFIX" pub(super) peer_ip_prefix: Ranged<64, 127> = Text("127"),
        "Prefix length of both addresses.";
    "PEER_IPV4_FRR" pub(super) peer_ipv4_frr: Option<PeerAddr<false>> = Text("169.254.88.0"),
        "IPv4 address of FRR's end. It gives MetalLB's IPv4 routes a next hop; `none` disables IPv4 on the pair.";
    "PEER_IPV4_METALLB" pub(super) peer_ipv4_metallb: PeerAddr<false> = Text("169.254.88.1"),
        "IPv4 address of the speaker's end.";
    "PEER_IPV4_PREFIX" pub(super) peer_ipv4_prefix: Ranged<16, 31> = Text("31"),
        "Prefix length of both addresses.";
    "METALLB_ALLOWED_PREFIXES" pub(super) metallb_allowed_prefixes: Vec<IpNet> = Unset("/16 to /32 of IPv4 and /48 to /128 of IPv6"),
        "The service prefixes that the speaker may announce, including all longer prefixes. Never accepted: loopback, link-local, multicast and the like, and addresses of the node and the fabric. List the pools if leaf switches remove private AS numbers or announce the same prefixes (docs/metallb.md).";
    "METALLB_MAX_PREFIXES" pub(super) metallb_max_prefixes: Ranged<1, 1_000_000> = Text("50000"),
        "The most prefixes per address family that are accepted from the speaker; rejected prefixes do not count. Above the limit, its session is closed for one minute at a time.";
    "METALLB_PASSWORD" pub(super) metallb_password: Password = Unset("no password"),
        "TCP-MD5 password of the session with the speaker.";
    "METALLB_HOLD_TIME" pub(super) metallb_hold_time: Ranged<0, 3600> = Text("150"),
        "Not a BGP hold time: the seconds for which the speaker's services stay announced after a restart of bgpd until the speaker reconnects, and longer while its own routes are being installed. It must exceed the speaker's `connectTime`; `0` disables the retention.";
    "INTERFACE_MTU" pub interface_mtu: Mtu = Unset("the MTU of the first fabric NIC"),
        "MTU of the veth pair in bytes.";
    "RETURN_PATH" pub return_path: ReturnMode = Text("connmark"),
        "How the host's replies return to the fabric if FRR has its own namespace. `connmark` returns replies to traffic from the veth pair over it and keeps the host's default route; `default-route` installs a default route over the veth pair; `none` installs nothing.";
    "RETURN_MARK" pub return_mark: MarkBit = Text("0x1000"),
        "The bit of packet and connection marks that `connmark` uses.";
    "RETURN_TABLE" pub return_table: TableId = Text("880"),
        "The routing table that `connmark` uses.";
    "BGP_KEEPALIVE_TIME" pub(super) bgp_keepalive_time: Ranged<1, 21845> = Text("3"),
        "BGP keepalive interval towards the leaves, in seconds.";
    "BGP_HOLD_TIME" pub(super) bgp_hold_time: Ranged<3, 65535> = Text("9"),
        "BGP hold time towards the leaves, in seconds. At least three keepalive intervals.";
    "BGP_CONNECT_TIME" pub(super) bgp_connect_time: Ranged<1, 65535> = Text("1"),
        "BGP connect retry interval towards the leaves and the speaker, in seconds. The session with the speaker always uses keepalive 30 s and hold time 90 s.";
    "GR_RESTART_TIME" pub(super) gr_restart_time: Ranged<1, 4095> = Text("120"),
        "Seconds for which the leaves keep the node's routes while bgpd restarts (RFC 4724).";
    "GR_STALEPATH_TIME" pub(super) gr_stalepath_time: Ranged<1, 4095> = Text("360"),
        "Seconds for which the routes of a restarting peer are kept. At least `GR_RESTART_TIME`.";
    "GR_SELECT_DEFER_TIME" pub(super) gr_select_defer_time: Ranged<0, 55> = Text("15"),
        "Seconds for which a restarted bgpd waits for all its peers before it selects routes. Below the 60 s for which zebra keeps the old routes, and less than `GR_RESTART_TIME`.";
    "ENABLE_BFD" pub(super) enable_bfd: bool = Text("true"),
        "BFD with the leaf switches. Both ends must agree.";
    "BFD_RECEIVE_INTERVAL" pub(super) bfd_receive_interval: Ranged<10, 60000> = Text("3000"),
        "BFD minimum receive interval in milliseconds.";
    "BFD_TRANSMIT_INTERVAL" pub(super) bfd_transmit_interval: Ranged<10, 60000> = Text("3000"),
        "BFD minimum transmit interval in milliseconds.";
    "BFD_DETECT_MULTIPLIER" pub(super) bfd_detect_multiplier: Ranged<2, 255> = Text("5"),
        "BFD detection multiplier: the session is down after this many missed packets.";
    "LIVENESS_TIMEOUT" pub liveness_timeout: Ranged<3, 600> = Text("6"),
        "Seconds without a reply on a daemon's vty after which it counts as hung and is restarted; two minutes if its main thread is busy. Every daemon is queried every 3 s.";
    "ON_STOP" pub on_stop: OnStop = Text("preserve"),
        "What SIGTERM does. `preserve` leaves the routes with the peers and in the kernel for the next start; `withdraw` shuts BGP down gracefully, so that the peers use other paths.";
    "DRAIN_TIME" pub drain_time: Ranged<0, 5> = Text("2"),
        "With `withdraw`: seconds between the graceful-shutdown announcement (RFC 8326) and the end of the sessions.";
    "FRR_TEMPLATE" pub frr_template: FilePath = Unset("the built-in template"),
        "Path of a mounted minijinja template for frr.conf.";
    "CONFIG_FILE" pub config_file: FilePath = Unset("no file"),
        "A YAML file, or a directory of `*.yaml` and `*.yml` files, that adds VNIs and their underlay.";
    "ENFORCE_CONFIG" pub enforce_config: bool = Text("false"),
        "Repair changes that other programs make to the daemons' configuration (for example with vtysh). Such changes are always logged.";
    "NODE_INDEX" pub node_index: Ranged<0, 16777215> = Text("0"),
        "The node's number, unique per node. Per-node addresses are computed from it.";
    "STATUS_LISTEN" pub status_listen: Option<SocketAddr> = Text("127.0.0.1:9080"),
        "Listening address of the HTTP status server in the host namespace (status page, `/metrics`, `/readyz` …). There is no authentication, and the status contains no secrets.";
    "LOG_LEVEL" pub log_level: LogLevel = Text("info"),
        "The least severe level that is logged.";
    "LOG_FORMAT" pub log_format: LogFormat = Text("text"),
        "Format of a log line.";
}

/// Declares an enum whose values are fixed words.
macro_rules! word_enum {
    ($(#[$doc:meta])* $type:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $type { $($(#[$vdoc])* $variant),* }

        impl Value for $type {
            fn allowed() -> String {
                format!("one of {}", [$($word),*].join(", "))
            }
            fn parse(text: &str) -> Result<Self, Invalid> {
                match text {
                    $($word => Ok(Self::$variant),)*
                    _ => Err(Invalid("not an allowed word".into())),
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),* })
            }
        }
    };
}

word_enum! {
    /// How the host's replies return to the fabric.
    ReturnMode {
        /// Replies to traffic from the veth pair return over the veth pair.
        Connmark = "connmark",
        /// The host's default route uses the veth pair.
        DefaultRoute = "default-route",
        /// The operator provides the return path.
        None = "none"
    }
}

word_enum! {
    /// What SIGTERM leaves behind.
    OnStop {
        /// Peers and kernel keep the routes.
        Preserve = "preserve",
        /// The routes are withdrawn before the sessions end.
        Withdraw = "withdraw"
    }
}

word_enum! {
    /// The least severe level that is logged.
    LogLevel {
        /// Action is required.
        Error = "error",
        /// Action may be required.
        Warn = "warn",
        /// An event.
        Info = "info",
        /// A single step.
        Debug = "debug"
    }
}

word_enum! {
    /// Format of a log line.
    LogFormat {
        /// Plain text.
        Text = "text",
        /// One JSON object per line.
        Json = "json"
    }
}

/// A mask of exactly one bit. The other bits belong to other programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MarkBit(pub u32);

impl Value for MarkBit {
    fn allowed() -> String {
        "one bit of 32, decimal or 0x hexadecimal".into()
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        let number = match digits.len() < text.len() {
            // `from_str_radix` would accept a sign.
            _ if digits.starts_with('+') => return Err(Invalid("not a 32-bit number".into())),
            true => u32::from_str_radix(digits, 16),
            // Other programs read a leading zero as octal.
            false if digits.starts_with('0') => return Err(Invalid("not exactly one bit".into())),
            false => digits.parse(),
        };
        match number {
            Ok(n) if n.is_power_of_two() => Ok(Self(n)),
            Ok(_) => Err(Invalid("not exactly one bit".into())),
            Err(_) => Err(Invalid("not a 32-bit number".into())),
        }
    }
}
