//! What this service knows, as one value, and its faces: a file, a terminal, HTTP, and the words in the log.
//!
//! The main loop tells of itself on the [`Board`]; a thread of its own (see [`observer`]) asks the daemons for the rest, finds
//! what is wrong (see [`problems`]) and serves it. Nothing in here has a password in it.

mod board;
mod devices;
mod fabric;
pub mod http;
mod links;
mod metrics;
mod observer;
mod page;
mod peers;
mod probe;
mod problems;
mod ring;
mod text;
mod time;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

pub use board::{Bell, Board, Local, NOTIFICATION, Notification, Rejected};
pub use devices::{Repaired, devices, interfaces, repaired};
pub use fabric::MOST_LISTED;
pub use observer::start;
pub use peers::Peers;
pub use probe::Probe;
pub use problems::CODES;
pub use ring::Ring;
pub use text::{Command, FILE, TEXT, command};
pub use time::{Time, span};

/// Version of the file's schema: another one where a field has gone or means something else.
pub const SCHEMA: u32 = 1;

/// Everything that is shown.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// How it is on the whole.
    pub health: Health,
    /// What is wrong, worst first.
    pub problems: Vec<Problem>,
    /// What we are doing.
    pub phase: Phase,
    /// Since when.
    pub phase_since: Time,
    /// This program.
    pub supervisor: Program,
    /// Version of FRR.
    pub frr: String,
    /// `NODE_IP`.
    pub node_ip: String,
    /// `ASN_LOCAL`.
    pub asn: u32,
    /// What the daemons run with.
    pub configuration: Configuration,
    /// Where they run.
    pub namespace: Namespace,
    /// The fabric NICs.
    pub interfaces: Vec<Interface>,
    /// What we keep in the kernel.
    pub devices: Arc<Vec<Device>>,
    /// The daemons, in the order in which they are started.
    pub daemons: Vec<Daemon>,
    /// BGP sessions.
    pub bgp: Vec<BgpSession>,
    /// BFD sessions.
    pub bfd: Vec<BfdSession>,
    /// VNIs, as zebra has them.
    pub vnis: Vec<Vni>,
    /// What MetalLB's speaker announces to us.
    pub services: Vec<Service>,
    /// How many more there are, too many to be listed.
    #[cfg_attr(test, serde(default))]
    pub services_unlisted: usize,
    /// The same, where it is kept announced for a speaker that has not come back yet.
    pub held: Vec<String>,
    /// How many more there are, too many to be listed.
    #[cfg_attr(test, serde(default))]
    pub held_unlisted: usize,
    /// What has happened how often since this program was started.
    pub counts: Counts,
    /// The last state changes, the newest last.
    pub events: Vec<Event>,
}

/// A state, and the word for it on every face.
macro_rules! words {
    ($(#[$doc:meta])* $type:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
        #[cfg_attr(test, derive(serde::Deserialize))]
        pub enum $type { $($(#[$vdoc])* #[serde(rename = $word)] $variant),* }

        impl $type {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// As it is written.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }
        }
    };
}

words! {
    /// How it is on the whole.
    Health {
        /// Nothing is wrong.
        Healthy = "healthy",
        /// Something is wrong, and the node is reached all the same.
        Degraded = "degraded",
        /// No session with a leaf is up, or the daemons do not run.
        #[default]
        Down = "down"
    }
}

words! {
    /// What we are doing.
    Phase {
        /// Building the node.
        #[default]
        Starting = "starting",
        /// Waiting for fabric NICs that are not there.
        Waiting = "waiting",
        /// The node can't be set up; it is tried again.
        Failed = "failed",
        /// The daemons run, or are being restarted.
        Running = "running",
        /// They are being ended.
        Stopping = "stopping"
    }
}

words! {
    /// What a daemon is doing.
    Life {
        /// There is no process.
        #[default]
        Down = "down",
        /// It has not answered yet.
        Starting = "starting",
        /// It answers, and has not got its configuration yet.
        Loading = "loading",
        /// It answers and has its configuration.
        Running = "running",
        /// It has not answered the last question.
        Silent = "silent",
        /// It is being ended.
        Ending = "ending"
    }
}

/// Something that is wrong, in sentences for who has to put it right.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct Problem {
    /// What sort of problem, for alerts: one of those in the README.
    pub code: String,
    /// What it is about: a neighbor, a daemon, a device …
    pub subject: String,
    /// What is wrong.
    pub what: String,
    /// What it means for traffic.
    pub traffic: String,
    /// What to do.
    pub remedy: String,
    /// Since when it is so.
    pub since: Time,
}

/// This program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct Program {
    /// Its version.
    pub version: String,
    /// Its process, in its own namespace.
    pub pid: u32,
    /// When it was started.
    pub since: Time,
}

/// What the daemons run with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct Configuration {
    /// Where it comes from: `environment`, and the path of the file.
    pub sources: Vec<String>,
    /// FNV-1a of the text of frr.conf, in hexadecimal; it has passwords in it, of which this says nothing.
    pub hash: String,
    /// Since when it is in force.
    pub since: Time,
    /// The last one that was not taken, unless a later one was.
    pub rejected: Option<Rejected>,
    /// Parts of the file that were left out, and why.
    pub left_out: Vec<String>,
    /// A daemon kept dying under a newer one, which was taken back.
    pub fell_back: bool,
}

/// Where the daemons run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct Namespace {
    /// Its name; `host` is the node's own.
    pub name: String,
    /// Its number (`stat -L -c %i`); 0: not known yet.
    pub inode: u64,
    /// How often it was built anew since this program was started.
    pub rebuilt: u32,
    /// When and why last.
    pub last_rebuild: Option<(Time, String)>,
}

/// A fabric NIC.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct Interface {
    /// How it is asked for: its MAC address, or its name in the file.
    pub by: String,
    /// Its name; empty while it is missing.
    pub name: String,
    /// Whether it is there.
    pub present: bool,
    /// Whether it has a link.
    pub carrier: bool,
}

/// A device that we keep in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct Device {
    /// Its name.
    pub name: String,
    /// `host` or `router`.
    pub side: String,
    /// What it is part of: `base`, `VNI 100` …
    pub part: String,
    /// What it shall be.
    pub wanted: String,
    /// What it is: the same, or what is wrong.
    pub actual: String,
    /// Whether it is as it shall be.
    pub ok: bool,
    /// How often something of it was put right since this program was started.
    pub repaired: u64,
}

/// A daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct Daemon {
    /// Its name.
    pub name: String,
    /// Its process, if there is one.
    pub pid: Option<u32>,
    /// `down`, `starting`, `loading`, `running`, `silent` or `ending`.
    pub state: Life,
    /// When it was started last.
    pub since: Time,
    /// How often it was started again since this program was started.
    pub restarts: u64,
    /// How often it has ended without being told to.
    #[cfg_attr(test, serde(default))]
    pub failures: u64,
    /// Its deaths in a row that no one ordered.
    pub deaths: u32,
    /// How it ended last.
    pub last_exit: Option<Exit>,
}

/// How a daemon ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct Exit {
    /// When.
    pub at: Time,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Its exit code.
    pub code: Option<i32>,
    /// Whether it left a core.
    pub core: bool,
    /// Whether we ended it.
    pub ordered: bool,
    /// The last line that it printed.
    pub last_line: String,
}

/// A BGP session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct BgpSession {
    /// The neighbor as FRR calls it: an address or an interface.
    pub peer: String,
    /// Its address, if it is known.
    pub address: String,
    /// The VRF.
    pub vrf: String,
    /// What it is to us: `fabric`, `metallb`, `host` or `other`.
    pub role: Role,
    /// FRR's word: `Established`, `Active` …; `Unknown` while bgpd does not answer.
    pub state: String,
    /// Since when it is up, or is not.
    pub since: Time,
    /// The neighbor's AS number.
    pub remote_as: u32,
    /// Ours in this session.
    pub local_as: u32,
    /// Prefixes, by address family (`ipv4Unicast` …).
    pub families: BTreeMap<String, Prefixes>,
    /// Why it went down last, in FRR's words.
    pub last_reset: String,
    /// Graceful restart: what both say of it (`advertisedAndReceived` …), and whether the peer is restarting.
    pub graceful_restart: String,
    /// How often it has come up since bgpd was started.
    pub established: u64,
    /// How often it has gone down.
    pub dropped: u64,
}

words! {
    /// What a session is to us.
    Role {
        /// With a leaf switch.
        Fabric = "fabric",
        /// With MetalLB's speaker.
        Metallb = "metallb",
        /// With the host, of a VRF or by the pass-through.
        Host = "host",
        /// Any other.
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
    /// The interface, if it is bound to one.
    pub interface: String,
    /// `up`, `down`, `init` or `shutdown`.
    pub state: String,
    /// Since when.
    pub since: Time,
}

/// A VNI.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct Vni {
    /// Its number.
    pub vni: u32,
    /// `L2` or `L3`.
    pub kind: String,
    /// Its VXLAN device.
    pub device: String,
    /// Its VRF, if it has one.
    pub vrf: String,
    /// Whether zebra has it up.
    pub up: bool,
    /// Remote VTEPs; of an L3VNI the router MAC addresses it knows.
    pub remote_vteps: u64,
    /// MAC addresses that it knows.
    pub macs: u64,
    /// Neighbours that it knows.
    pub neighbours: u64,
}

/// A service that MetalLB's speaker announces.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct Service {
    /// Its prefix.
    pub prefix: String,
    /// Its next hop.
    pub next_hop: String,
    /// Whether it can be used, and is announced to the fabric.
    pub valid: bool,
}

/// What has happened how often.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct Counts {
    /// Restarts of daemons.
    pub restarts: u64,
    /// When the last one was.
    pub last_restart: Option<Time>,
    /// Times that the kernel's state was put right.
    pub repairs: u64,
    /// When the last one was.
    pub last_repair: Option<Time>,
    /// Operations of the last plan that had any.
    pub plan_operations: u64,
    /// How long it took, in milliseconds.
    pub plan_ms: u64,
    /// Configurations put in force while the daemons ran.
    pub changes: u64,
    /// How long the last one took in the kernel, in milliseconds.
    pub change_ms: u64,
    /// One is being put in force.
    pub changing: bool,
    /// Configurations that were not taken.
    pub rejections: u64,
    /// Changes that were begun and taken back.
    pub rollbacks: u64,
}

/// A state change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct Event {
    /// When.
    pub at: Time,
    /// `info`, `warn` or `error`.
    pub level: String,
    /// What, as the log has it.
    pub text: String,
}

impl Status {
    /// The devices of which something is wrong.
    pub fn wrong_devices(&self) -> impl Iterator<Item = &Device> {
        self.devices.iter().filter(|device| !device.ok)
    }

    /// What keeps the node from being ready, a line each.
    pub fn not_ready(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.phase != Phase::Running {
            lines.push(format!("the node is {}", self.phase.word()));
        }
        let running = |daemon: &&Daemon| !matches!(daemon.state, Life::Running);
        let daemons = self.daemons.iter().filter(running);
        lines.extend(daemons.map(|daemon| format!("{} is {}", daemon.name, daemon.state.word())));
        let down = |session: &&BgpSession| !session.is_up();
        let sessions = self.bgp.iter().filter(down);
        lines.extend(sessions.map(|s| format!("BGP with {} in VRF {} is {}", s.peer, s.vrf, s.state)));
        if self.phase == Phase::Running && self.bgp.is_empty() {
            lines.push("no BGP session is known".into());
        }
        lines
    }
}

impl BgpSession {
    /// Whether it is up.
    pub fn is_up(&self) -> bool {
        self.state == "Established"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever a peer, a file or the kernel calls things.
    #[test]
    fn nothing_that_is_not_seen_is_on_any_face() {
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
            daemons: vec![Daemon {
                last_exit: Some(Exit { last_line: text(), ..Exit::default() }),
                ..Daemon::default()
            }],
            vnis: vec![Vni { vrf: text(), ..Vni::default() }],
            held: vec![text()],
            events: vec![Event { text: text(), ..Event::default() }],
            phase: Phase::Running,
            ..Status::default()
        };
        let faces = [
            text::without_colours(&text::render(&status)),
            text::line(&status),
            page::render(&status),
            metrics::render(&status, &fabric::Fabric::default(), true),
            crate::printable::to_json(&status).unwrap(),
        ];
        for face in faces {
            let hidden = |c: char| c != '\n' && crate::printable::printable(&c.to_string()) != c.to_string();
            assert!(
                face.contains("MAINPID") && !face.contains("\nMAINPID") && !face.contains(hidden),
                "{face:?}"
            );
        }
    }
}
