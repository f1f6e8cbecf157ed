//! The status of the node as one value, and its outputs: a file, a terminal, HTTP, and problems in the log.
//!
//! The main loop updates its facts on the [`Publisher`]. The status thread (see [`observer`]) queries the daemons for
//! the rest, finds the problems (see [`problems`]) and serves the status. The status contains no passwords.

mod devices;
mod diagnostics;
mod frr_state;
pub mod http;
mod metrics;
mod observer;
mod page;
mod peers;
mod probe;
mod problems;
mod publisher;
mod systemd;
mod text;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::config::{ObjectState, ObjectVerdict};
use crate::events::LoggedEvent;
use crate::time::Time;

pub use devices::{RepairCounts, devices, interfaces, repair_counts};
pub use frr_state::MAX_LISTED_SERVICES;
pub use observer::start;
pub use peers::ConfiguredPeers;
pub use probe::Probe;
pub use problems::CODES;
pub use publisher::{BgpNotification, NOTIFICATION_PREFIX, NodeFacts, Publisher, Rejection, Waker};
pub use text::{FILE, PrintOptions, TEXT, print};

/// Version of the schema of status.json. It changes when a field is removed or gets another meaning.
pub const SCHEMA: u32 = 1;

/// The status of the node. Its JSON form is status.json.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Health of the node.
    pub health: Health,
    /// The problems, worst first.
    pub problems: Vec<Problem>,
    /// Phase of the node.
    pub phase: NodePhase,
    /// Start of the phase.
    pub phase_since: Time,
    /// This program.
    pub supervisor: Program,
    /// Version of FRR.
    pub frr: String,
    /// `NODE_IP`.
    pub node_ip: String,
    /// `ASN_LOCAL`.
    pub asn: u32,
    /// The active configuration.
    pub configuration: ConfigurationStatus,
    /// The network namespace of the daemons.
    pub namespace: NamespaceStatus,
    /// The fabric NICs.
    pub interfaces: Vec<InterfaceStatus>,
    /// The managed devices in the kernel.
    pub devices: Arc<Vec<DeviceStatus>>,
    /// The daemons, in their start order.
    pub daemons: Vec<DaemonStatus>,
    /// BGP sessions.
    pub bgp: Vec<BgpSession>,
    /// BFD sessions.
    pub bfd: Vec<BfdSession>,
    /// VNIs, as zebra reports them.
    pub vnis: Vec<VniStatus>,
    /// Services that MetalLB's speaker announces to bgpd.
    pub services: Vec<ServiceStatus>,
    /// Number of services that `services` leaves out.
    #[cfg_attr(test, serde(default))]
    pub services_unlisted: usize,
    /// Retained services: announced although the session with MetalLB's speaker is down.
    #[serde(rename = "held")]
    pub retained: Vec<String>,
    /// Number of retained services that `retained` leaves out.
    #[serde(rename = "held_unlisted")]
    #[cfg_attr(test, serde(default))]
    pub retained_unlisted: usize,
    /// Counters since the start of this program.
    pub counts: Counts,
    /// The last log records of this program, the newest last.
    pub events: Vec<LoggedEvent>,
}

/// An enum whose variants have one text for all outputs.
macro_rules! named_states {
    ($(#[$doc:meta])* $type:ident { $($(#[$vdoc:meta])* $variant:ident = $name:literal),* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
        #[cfg_attr(test, derive(serde::Deserialize))]
        pub enum $type { $($(#[$vdoc])* #[serde(rename = $name)] $variant),* }

        impl $type {
            /// All variants.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The text of the variant.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    };
}

named_states! {
    /// Health of the node.
    Health {
        /// There is no problem.
        Healthy = "healthy",
        /// There is a problem, and the fabric reaches the node.
        Degraded = "degraded",
        /// No session with a leaf is up, or the daemons do not run.
        #[default]
        Down = "down"
    }
}

named_states! {
    /// Phase of the node.
    NodePhase {
        /// The node is being set up.
        #[default]
        Starting = "starting",
        /// Fabric NICs are missing.
        Waiting = "waiting",
        /// The set-up failed and is retried.
        Failed = "failed",
        /// The daemons run, or are being restarted.
        Running = "running",
        /// The daemons are being stopped.
        Stopping = "stopping"
    }
}

named_states! {
    /// State of a daemon.
    DaemonState {
        /// There is no process.
        #[default]
        Down = "down",
        /// It has not replied yet.
        Starting = "starting",
        /// It replies, and its configuration is not loaded yet.
        Loading = "loading",
        /// It replies and has its configuration.
        Running = "running",
        /// It has not replied to the last liveness query.
        Unresponsive = "unresponsive",
        /// It is being stopped.
        Stopping = "stopping"
    }
}

/// A problem, in sentences for the operator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct Problem {
    /// The kind of problem, for alerts: one of [`CODES`].
    pub code: String,
    /// What it concerns: a neighbor, a daemon, a device …
    pub subject: String,
    /// What is wrong.
    pub what: String,
    /// The effect on traffic.
    pub traffic: String,
    /// What to do.
    pub remedy: String,
    /// When it started.
    pub since: Time,
    /// Key-value pairs of its log lines.
    #[serde(skip)]
    pub fields: Vec<(&'static str, String)>,
}

/// This program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct Program {
    /// Its version.
    pub version: String,
    /// Its process ID, in its own PID namespace.
    pub pid: u32,
    /// When it was started.
    pub since: Time,
}

/// The active configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct ConfigurationStatus {
    /// Its sources: `environment`, and the path of the file.
    pub sources: Vec<String>,
    /// FNV-1a of the text of frr.conf, in hexadecimal. The text contains passwords; the hash does not reveal them.
    pub hash: String,
    /// Since when it is active.
    pub since: Time,
    /// The last rejected configuration, unless a later one was accepted.
    pub rejected: Option<Rejection>,
    /// Parts of the file that were left out, and why.
    pub left_out: Vec<String>,
    /// What became of each object of the sources.
    pub objects: Arc<Vec<ObjectVerdict>>,
    /// A newer configuration was rolled back because a daemon kept crashing under it.
    #[serde(rename = "fell_back")]
    pub rolled_back: bool,
    /// That daemon; empty without a rollback.
    pub crashing_daemon: String,
}

impl ConfigurationStatus {
    /// The number of objects in a state.
    pub fn count(&self, state: ObjectState) -> usize {
        self.objects.iter().filter(|object| object.state == state).count()
    }

    /// Records a rollback because of this daemon, or that there is none any more.
    pub fn set_rolled_back(&mut self, crashing_daemon: Option<&str>) {
        self.rolled_back = crashing_daemon.is_some();
        self.crashing_daemon = crashing_daemon.unwrap_or_default().to_owned();
    }
}

/// The network namespace of the daemons.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct NamespaceStatus {
    /// Its name; `host` is the host's own.
    pub name: String,
    /// Its inode number (`stat -L -c %i`); 0: not known yet.
    pub inode: u64,
    /// Number of rebuilds since the start of this program.
    pub rebuilt: u32,
    /// Time of the last rebuild, and its reason.
    pub last_rebuild: Option<(Time, String)>,
}

/// A fabric NIC.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct InterfaceStatus {
    /// How the configuration selects it: by its MAC address, or by its name in the file.
    #[serde(rename = "by")]
    pub selector: String,
    /// Its name; empty while it is missing.
    pub name: String,
    /// Whether it is there.
    pub present: bool,
    /// Whether it has a link.
    pub carrier: bool,
}

/// A managed device in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct DeviceStatus {
    /// Its name.
    pub name: String,
    /// `host` or `router`.
    pub side: String,
    /// What it is part of: `base`, `VNI 100` …
    pub part: String,
    /// The desired state.
    pub wanted: String,
    /// The observed state: equal to `wanted`, or the error.
    pub actual: String,
    /// Whether it is in the desired state.
    pub ok: bool,
    /// Number of repairs since the start of this program.
    pub repaired: u64,
}

/// A daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct DaemonStatus {
    /// Its name.
    pub name: String,
    /// Its process ID, if it runs.
    pub pid: Option<u32>,
    /// `down`, `starting`, `loading`, `running`, `unresponsive` or `stopping`.
    pub state: DaemonState,
    /// When it was last started.
    pub since: Time,
    /// Number of restarts since the start of this program.
    pub restarts: u64,
    /// Number of unexpected exits since the start of this program.
    #[cfg_attr(test, serde(default))]
    pub failures: u64,
    /// Number of consecutive unexpected exits.
    #[serde(rename = "deaths")]
    pub consecutive_failures: u32,
    /// Its last exit.
    pub last_exit: Option<DaemonExit>,
}

/// The exit of a daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct DaemonExit {
    /// When it exited.
    pub at: Time,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Its exit code.
    pub code: Option<i32>,
    /// Whether it dumped core.
    pub core: bool,
    /// Whether the supervisor stopped it.
    #[serde(rename = "ordered")]
    pub requested: bool,
    /// The last line that it logged.
    pub last_line: String,
}

/// A BGP session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct BgpSession {
    /// FRR's name of the neighbor: an address or an interface.
    pub peer: String,
    /// The neighbor's address, if it is known.
    pub address: String,
    /// The VRF.
    pub vrf: String,
    /// `fabric`, `metallb`, `host` or `other`.
    pub role: SessionRole,
    /// FRR's name of the state: `Established`, `Active` …; `Unknown` while bgpd does not reply.
    pub state: String,
    /// Since when it is up, or down.
    pub since: Time,
    /// The neighbor's AS number.
    pub remote_as: u32,
    /// This node's AS number in the session.
    pub local_as: u32,
    /// Prefixes, by address family (`ipv4Unicast` …).
    pub families: BTreeMap<String, Prefixes>,
    /// FRR's reason for the last reset.
    pub last_reset: String,
    /// FRR's state of the graceful-restart capability (`advertisedAndReceived` …).
    pub graceful_restart: String,
    /// How often it was established since bgpd was started.
    pub established: u64,
    /// How often it went down since bgpd was started.
    pub dropped: u64,
}

named_states! {
    /// Role of a BGP session.
    SessionRole {
        /// With a leaf switch.
        Fabric = "fabric",
        /// With MetalLB's speaker.
        Metallb = "metallb",
        /// With the host, in the VRF of a VNI or through the pass-through.
        Host = "host",
        /// With any other neighbor.
        #[default]
        Other = "other"
    }
}

/// Prefixes of a session in one address family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct Prefixes {
    /// Received and accepted.
    pub received: u64,
    /// Announced.
    pub sent: u64,
}

/// A BFD session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct BfdSession {
    /// The peer's address.
    pub peer: String,
    /// The VRF.
    pub vrf: String,
    /// The interface, if the session is bound to one.
    pub interface: String,
    /// `up`, `down`, `init` or `shutdown`.
    pub state: String,
    /// Since when it is in this state.
    pub since: Time,
}

/// A VNI, as zebra reports it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct VniStatus {
    /// Its number.
    pub vni: u32,
    /// `L2` or `L3`.
    pub kind: String,
    /// Its VXLAN device.
    pub device: String,
    /// Its VRF, if it has one.
    pub vrf: String,
    /// Whether it is up in zebra.
    pub up: bool,
    /// Number of remote VTEPs; of an L3VNI, number of known router MAC addresses.
    pub remote_vteps: u64,
    /// Number of known MAC addresses.
    pub macs: u64,
    /// Number of known neighbours.
    pub neighbours: u64,
}

/// A service that MetalLB's speaker announces.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct ServiceStatus {
    /// Its prefix.
    pub prefix: String,
    /// Its next hop.
    pub next_hop: String,
    /// Whether the route is valid. Only valid routes are announced to the fabric.
    pub valid: bool,
}

/// Counters since the start of this program, and the times and durations of the last events.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct Counts {
    /// Restarts of daemons.
    pub restarts: u64,
    /// Time of the last restart.
    pub last_restart: Option<Time>,
    /// Repairs of drift in the kernel.
    pub repairs: u64,
    /// Time of the last repair.
    pub last_repair: Option<Time>,
    /// Number of operations of the last plan that was not empty.
    pub plan_operations: u64,
    /// How long that plan took, in milliseconds.
    pub plan_ms: u64,
    /// Configurations that were activated while the daemons ran.
    pub changes: u64,
    /// How long the last activation took in the kernel, in milliseconds.
    pub change_ms: u64,
    /// Whether a configuration is being activated.
    pub changing: bool,
    /// Rejected configurations.
    pub rejections: u64,
    /// Configuration changes that were rolled back.
    pub rollbacks: u64,
}

impl Status {
    /// The devices that are not in the desired state.
    pub fn wrong_devices(&self) -> impl Iterator<Item = &DeviceStatus> {
        self.devices.iter().filter(|device| !device.ok)
    }

    /// The reasons why the node is not ready, one line each.
    pub fn not_ready(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.phase != NodePhase::Running {
            lines.push(format!("the node is {}", self.phase.as_str()));
        }
        let not_running = |daemon: &&DaemonStatus| !matches!(daemon.state, DaemonState::Running);
        let daemons = self.daemons.iter().filter(not_running);
        lines.extend(daemons.map(|daemon| format!("{} is {}", daemon.name, daemon.state.as_str())));
        let down = |session: &&BgpSession| !session.is_up();
        let sessions = self.bgp.iter().filter(down);
        lines.extend(sessions.map(|s| format!("BGP with {} in VRF {} is {}", s.peer, s.vrf, s.state)));
        if self.phase == NodePhase::Running && self.bgp.is_empty() {
            lines.push("no BGP session is known".into());
        }
        lines
    }
}

impl BgpSession {
    /// Whether it is established.
    pub fn is_up(&self) -> bool {
        self.state == "Established"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Peers, files and the kernel can put control characters into names.
    #[test]
    fn no_output_contains_invisible_characters() {
        let evil = "x\nMAINPID=1\r\u{1b}[2J\u{9b}1m\u{202e}\0y";
        let text = || evil.to_owned();
        let status = Status {
            node_ip: text(),
            frr: text(),
            problems: vec![Problem { what: text(), subject: text(), remedy: text(), ..Problem::default() }],
            bgp: vec![BgpSession {
                peer: text(),
                state: text(),
                last_reset: text(),
                ..BgpSession::default()
            }],
            daemons: vec![DaemonStatus {
                last_exit: Some(DaemonExit { last_line: text(), ..DaemonExit::default() }),
                ..DaemonStatus::default()
            }],
            vnis: vec![VniStatus { vrf: text(), ..VniStatus::default() }],
            retained: vec![text()],
            events: vec![LoggedEvent { text: text(), ..LoggedEvent::default() }],
            phase: NodePhase::Running,
            ..Status::default()
        };
        let outputs = [
            text::without_colours(&text::render(&status)),
            text::line(&status),
            page::render(&status),
            metrics::render(&status, &frr_state::FrrState::default(), true),
            crate::printable::to_json(&status).unwrap(),
        ];
        for output in outputs {
            let hidden = |c: char| c != '\n' && crate::printable::printable(&c.to_string()) != c.to_string();
            assert!(
                output.contains("MAINPID") && !output.contains("\nMAINPID") && !output.contains(hidden),
                "{output:?}"
            );
        }
    }
}
