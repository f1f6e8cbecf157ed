//! The one table of everything that an operator may set. It drives parsing, `--help` and the README.

use std::fmt;
use std::net::SocketAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde::de::Deserializer;

use crate::model::{
    Asn, FilePath, Invalid, MacAddr, Mtu, NamespaceName, Password, PeerAddr, Ranged, RebuildToken, RouterId,
    TableId, Value, VrfName,
};

/// One row of the table.
#[derive(Debug)]
pub struct Setting {
    /// The environment variable.
    pub name: &'static str,
    /// Whether it must be given, and what holds if it is not.
    pub if_unset: IfUnset,
    /// What may be written, as the middle of a sentence.
    pub allowed: fn() -> String,
    /// What it does.
    pub meaning: &'static str,
    /// Whether its value must not be shown.
    pub secret: bool,
}

/// What holds where a variable is unset or empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfUnset {
    /// It must be set.
    Required,
    /// This text is read in its place.
    Text(&'static str),
    /// Nothing is read; the words say what happens then.
    Unset(&'static str),
}

/// What became of one variable.
#[derive(Debug, Default)]
pub(super) enum Field<T> {
    #[default]
    Missing,
    Wrong(Invalid),
    Right(T),
}

/// Never fails, so that one bad variable does not hide the next: the error stays in the field.
impl<'de, T: Value> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(match T::parse(&text) {
            Ok(value) => Self::Right(value),
            Err(reason) => Self::Wrong(reason),
        })
    }
}

macro_rules! settings {
    ($($name:literal $field:ident: $type:ty = $default:expr, $meaning:literal;)*) => {
        /// Every variable, in the order in which it is documented.
        pub const SETTINGS: &[Setting] = &[$(Setting {
            name: $name,
            if_unset: $default,
            allowed: <$type as Value>::allowed,
            meaning: $meaning,
            secret: <$type as Value>::SECRET,
        }),*];

        /// The variables as read, before they are held against each other.
        #[derive(Debug, Default, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub(super) struct Raw { $(pub $field: Field<$type>),* }
    };
}

use self::IfUnset::{Required, Text, Unset};

settings! {
    "NODE_IP" node_ip: RouterId = Required,
        "The node's IPv4 address: BGP router-id, and in `NETNS=host` the source address of BGP routes.";
    "ASN_LOCAL" asn_local: Asn = Required,
        "The node's AS number towards the leaf switches.";
    "FE_MACS" fe_macs: Vec<MacAddr> = Unset("**required**, unless the file names `underlay.interfaces`"),
        "MAC addresses of the fabric NICs. The permanent address counts first.";
    "FE_TIMEOUT" fe_timeout: Ranged<1, 3600> = Text("120"),
        "Seconds to wait for the fabric NICs at a start before giving up. Once one is there, the others have a quarter of that; later they are taken in when they appear.";
    "SETUP_TIMEOUT" setup_timeout: Ranged<0, 3600> = Text("60"),
        "Seconds for which a node that can't be set up, say for want of a kernel module, is tried again every 5 s before the program gives up.";
    "FABRIC_PASSWORD" fabric_password: Password = Unset("no password"),
        "TCP-MD5 password of the sessions with the leaf switches.";
    "FABRIC_TTL_SECURITY" fabric_ttl_security: bool = Text("false"),
        "For leaf switches that ask for packets with TTL 255 (GTSM, RFC 5082; `ttl-security hops 1`): send such, and take no others. Both ends must agree.";
    "FABRIC_MAX_PREFIXES" fabric_max_prefixes: Ranged<1, 4_294_967_295> = Unset("no limit"),
        "Routes of one address family that a leaf switch may have for us. At one more its session is closed, for a minute at a time.";
    "NETNS" netns: NamespaceName = Text("perouter"),
        "The persistent network namespace for FRR, the fabric NICs and the VRF, held at `/run/netns/<name>`; `host` runs all of it in the host's own.";
    "UNDERLAY_FORCE_MOVE" underlay_force_move: bool = Text("false"),
        "Move a fabric NIC into the namespace even if that cuts off the node's default route, `NODE_IP`, or VLANs and other links that stand on it.";
    "REBUILD_TOKEN" rebuild_token: RebuildToken = Unset("never rebuilt on demand"),
        "Any word. When it is another than the one that the namespace was built with, the namespace is torn down and built anew, once.";
    "VRF_METALLB" vrf_metallb: VrfName = Text("metallb"),
        "Name of the VRF that ends MetalLB's session.";
    "METALLB_VRF_ROUTE_TABLE_ID" metallb_vrf_route_table_id: TableId = Text("88"),
        "Routing table of that VRF.";
    "ASN_VRF_METALLB" asn_vrf_metallb: Asn = Text("4000099998"),
        "Our AS number in the VRF: MetalLB's `peerASN`.";
    "ASN_METALLB_SPEAKER" asn_metallb_speaker: Asn = Text("4000099999"),
        "The speaker's AS number: MetalLB's `myASN`. Not `ASN_LOCAL`.";
    "PEER_IP_FRR" peer_ip_frr: PeerAddr<true> = Text("fda1:b2c3:d4e5:1::0"),
        "IPv6 address of our end of the veth pair: MetalLB's `peerAddress`.";
    "PEER_IP_METALLB" peer_ip_metallb: PeerAddr<true> = Text("fda1:b2c3:d4e5:1::1"),
        "IPv6 address of the speaker's end, in the host namespace.";
    "PEER_IP_PREFIX" peer_ip_prefix: Ranged<64, 127> = Text("127"),
        "Prefix length of both.";
    "PEER_IPV4_FRR" peer_ipv4_frr: Option<PeerAddr<false>> = Text("169.254.88.0"),
        "IPv4 address of our end; with it MetalLB's IPv4 routes have a next hop. `none` leaves the pair without IPv4.";
    "PEER_IPV4_METALLB" peer_ipv4_metallb: PeerAddr<false> = Text("169.254.88.1"),
        "IPv4 address of the speaker's end.";
    "PEER_IPV4_PREFIX" peer_ipv4_prefix: Ranged<16, 31> = Text("31"),
        "Prefix length of both.";
    "METALLB_ALLOWED_PREFIXES" metallb_allowed_prefixes: Vec<IpNet> = Unset("/16 to /32 of IPv4 and /48 to /128 of IPv6"),
        "Service prefixes that the speaker may announce, each with all inside it. Never taken: loopback, link-local, multicast and the like, and addresses of the node and the fabric. If a leaf announces the same prefix, the leaf wins, unless the prefix is named here, the leaf's AS path ends with `ASN_METALLB_SPEAKER`, or it is a single address that the leaf has from another AS (another node's service). Name the pools where leaves remove private AS numbers.";
    "METALLB_MAX_PREFIXES" metallb_max_prefixes: Ranged<1, 1_000_000> = Text("50000"),
        "Prefixes of one address family that are taken of the speaker; refused ones do not count. At one more its session is closed, for a minute at a time.";
    "METALLB_PASSWORD" metallb_password: Password = Unset("no password"),
        "TCP-MD5 password of the session with the speaker.";
    "METALLB_HOLD_TIME" metallb_hold_time: Ranged<0, 3600> = Text("150"),
        "Seconds for which the services that the speaker announced stay announced while bgpd is new and the speaker has not come back to it: more than its `connectTime`. They stay for longer while the speaker's own routes come into use. `0` retains nothing.";
    "INTERFACE_MTU" interface_mtu: Mtu = Unset("that of the first fabric NIC"),
        "MTU of the veth pair in bytes.";
    "RETURN_PATH" return_path: ReturnMode = Text("connmark"),
        "How replies of the host find the fabric in a namespace of our own: `connmark` sends back over the veth pair what came in over it, beside the host's own default route; `default-route` installs a default route through the veth pair; `none` leaves it to you.";
    "RETURN_MARK" return_mark: Bit = Text("0x1000"),
        "The bit of packet and connection marks that `connmark` uses.";
    "RETURN_TABLE" return_table: TableId = Text("880"),
        "The routing table that `connmark` uses.";
    "BGP_KEEPALIVE_TIME" bgp_keepalive_time: Ranged<1, 21845> = Text("3"),
        "BGP keepalive interval towards the leaves, in seconds.";
    "BGP_HOLD_TIME" bgp_hold_time: Ranged<3, 65535> = Text("9"),
        "BGP hold time towards the leaves, in seconds; at least three keepalive intervals.";
    "BGP_CONNECT_TIME" bgp_connect_time: Ranged<1, 65535> = Text("1"),
        "BGP connect retry interval towards the leaves and the speaker, in seconds. The session with the speaker always has keepalive 30 s and hold time 90 s.";
    "GR_RESTART_TIME" gr_restart_time: Ranged<1, 4095> = Text("120"),
        "Seconds for which the leaves shall keep our routes while bgpd restarts (RFC 4724).";
    "GR_STALEPATH_TIME" gr_stalepath_time: Ranged<1, 4095> = Text("360"),
        "Seconds for which we keep the routes of a peer that restarts; at least `GR_RESTART_TIME`.";
    "GR_SELECT_DEFER_TIME" gr_select_defer_time: Ranged<0, 55> = Text("15"),
        "Seconds for which a restarted bgpd waits for all its peers before it selects routes. It stays below the 60 s for which zebra keeps the old ones, and is less than `GR_RESTART_TIME`.";
    "ENABLE_BFD" enable_bfd: bool = Text("true"),
        "BFD with the leaf switches. Both ends must agree.";
    "BFD_RECEIVE_INTERVAL" bfd_receive_interval: Ranged<10, 60000> = Text("3000"),
        "BFD minimum receive interval in milliseconds.";
    "BFD_TRANSMIT_INTERVAL" bfd_transmit_interval: Ranged<10, 60000> = Text("3000"),
        "BFD minimum transmit interval in milliseconds.";
    "BFD_DETECT_MULTIPLIER" bfd_detect_multiplier: Ranged<2, 255> = Text("5"),
        "BFD packets that may be missed before the session is down.";
    "LIVENESS_TIMEOUT" liveness_timeout: Ranged<3, 600> = Text("6"),
        "Seconds for which a daemon may leave a question on its vty unanswered before it is taken to hang and is restarted; one whose main thread is at work has two minutes. They are asked every 3 s.";
    "ON_STOP" on_stop: OnStop = Text("preserve"),
        "What SIGTERM does: `preserve` lets the peers and the kernel keep our routes for the next start; `withdraw` takes leave of the peers first, so that they send traffic elsewhere.";
    "DRAIN_TIME" drain_time: Ranged<0, 5> = Text("2"),
        "With `withdraw`, seconds between telling the peers to prefer other paths (RFC 8326) and closing the sessions.";
    "FRR_TEMPLATE" frr_template: FilePath = Unset("the built-in template"),
        "A mounted minijinja template to render frr.conf from.";
    "CONFIG_FILE" config_file: FilePath = Unset("no file"),
        "A YAML file, or a directory of `*.yaml` and `*.yml` files, that adds VNIs and what they stand on.";
    "ENFORCE_CONFIG" enforce_config: bool = Text("false"),
        "Put right what someone else changes of the daemons' configuration (by vtysh); it is named in the log in any case.";
    "NODE_INDEX" node_index: Ranged<0, 16777215> = Text("0"),
        "The node's number, from which per-node addresses are computed: another one on each node.";
    "STATUS_LISTEN" status_listen: Option<SocketAddr> = Text("127.0.0.1:9080"),
        "Where the status is shown by HTTP, in the host's namespace: a page, `/metrics`, `/readyz` …; nothing in it is secret, and there is no authentication.";
    "LOG_LEVEL" log_level: LogLevel = Text("info"),
        "Least severe message to log.";
    "LOG_FORMAT" log_format: LogFormat = Text("text"),
        "Form of a log line.";
}

/// A value that is one of a few words.
macro_rules! words {
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
                    _ => Err(Invalid("not one of the words".into())),
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

words! {
    /// How replies of the host find back to the fabric.
    ReturnMode {
        /// Replies of what came in over the veth pair go back over it.
        Connmark = "connmark",
        /// The host's default route goes through the veth pair.
        DefaultRoute = "default-route",
        /// The operator sees to it.
        None = "none"
    }
}

words! {
    /// What a stop leaves behind.
    OnStop {
        /// Peers and kernel keep our routes.
        Preserve = "preserve",
        /// The peers forget our routes before we go.
        Withdraw = "withdraw"
    }
}

words! {
    /// Least severe message that is logged.
    LogLevel {
        /// What needs action.
        Error = "error",
        /// What may need action.
        Warn = "warn",
        /// What happened.
        Info = "info",
        /// What was done, step by step.
        Debug = "debug"
    }
}

words! {
    /// Form of the log.
    LogFormat {
        /// One line for people.
        Text = "text",
        /// One JSON object a line.
        Json = "json"
    }
}

/// A mask of exactly one bit, so that marks of other programs keep theirs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bit(pub u32);

impl Value for Bit {
    fn allowed() -> String {
        "one bit of 32, decimal or 0x hexadecimal".into()
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        let number = match digits.len() < text.len() {
            // A sign is taken as well.
            _ if digits.starts_with('+') => return Err(Invalid("not a 32-bit number".into())),
            true => u32::from_str_radix(digits, 16),
            // A leading zero means octal to others.
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
