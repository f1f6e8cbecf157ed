//! The process configuration: environment variables, plus an optional configuration file.

mod env;
pub mod file;
mod help;
mod offer;
mod settings;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::intent::{Accepted, Part, SourceKind};
use crate::model::{Asn, MacAddr, Overlay, Password, TableId, VrfName};

pub use env::from_vars;
pub use help::{help_text, markdown_table};
pub use settings::{EnvSetting, LogFormat, LogLevel, OnStop, ReturnMode, SETTINGS, Settings};

/// One problem with the configuration. The text names the variable or the field, the value and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblem(pub String);

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The validated configuration. Every combination of its values can be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The variables that are not in one of the groups below.
    pub settings: Settings,
    /// MAC addresses of the fabric NICs.
    pub fabric_macs: Vec<MacAddr>,
    /// The session with MetalLB's speaker, unless `METALLB` is `false`.
    pub metallb: Option<MetallbConfig>,
    /// Timers of BGP, graceful restart and BFD.
    pub timers: Timers,
    /// The contents of the configuration file.
    pub overlay: Overlay,
    /// The objects that make up the configuration.
    pub objects: Objects,
}

/// The objects of all sources: what is accepted of them, and why something is not. Two configurations with the same
/// values are equal wherever the objects stand in their sources.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    accepted: Arc<Accepted<Part>>,
    /// Identifies the files that they were read from, if these had no problems.
    files: Option<u64>,
    /// What became of each object, in the order of the sources.
    pub verdicts: Arc<Vec<ObjectVerdict>>,
}

/// What became of an object.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct ObjectVerdict {
    /// Its source.
    pub source: SourceKind,
    /// Its name in its source, for example `l3vnis/red`.
    pub name: Arc<str>,
    /// Whether it, or an earlier version of it, is part of the configuration.
    pub state: ObjectState,
    /// Why it is not accepted as it is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(test, serde(default))]
    pub reasons: Vec<String>,
}

/// Whether an object is part of the configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
#[serde(rename_all = "lowercase")]
pub enum ObjectState {
    /// It is.
    #[default]
    Accepted,
    /// Its last accepted version is.
    Kept,
    /// It is not, because something that it needs is not there.
    Waiting,
    /// It is not.
    Rejected,
}

impl ObjectState {
    /// All states, each with its name in the status and in metrics.
    pub const ALL: [(Self, &str); 4] = [
        (Self::Accepted, "accepted"),
        (Self::Kept, "kept"),
        (Self::Waiting, "waiting"),
        (Self::Rejected, "rejected"),
    ];
}

impl PartialEq for Objects {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Objects {}

impl Objects {
    /// Those that an earlier instance stored as [`Self::to_text`], and why some are lost.
    pub fn from_text(text: String, base: &Config) -> (Self, Vec<ConfigProblem>) {
        let (accepted, problems) = file::accepted_from(text, base);
        (Self { accepted: Arc::new(accepted), ..Self::default() }, problems)
    }

    /// The accepted objects of the file, as a configuration file.
    pub fn to_text(&self) -> String {
        file::stored_text(&self.accepted)
    }
}

/// The configuration of the environment and the file.
#[derive(Debug)]
pub struct WithFile {
    /// The configuration. The error: neither the environment nor the file names a link to the fabric.
    pub config: Result<Config, ConfigProblem>,
    /// Every problem with the file.
    pub problems: Vec<ConfigProblem>,
    /// A file cannot be read, or is not valid YAML. What was accepted stays.
    pub is_lost: bool,
}

impl Config {
    /// This configuration plus its file, merged with what was accepted before. Call it on the configuration of the
    /// environment alone.
    pub fn with_file(&self, before: &Objects) -> WithFile {
        self.with_files(&file::SourceFiles::read(self), before)
    }

    /// Like [`Self::with_file`]; `None` if the files are those that `before` was read from.
    pub fn with_changed_file(&self, before: &Objects) -> Option<WithFile> {
        let files = file::SourceFiles::read(self);
        let is_changed = before.files.is_none() || files.identity() != before.files;
        is_changed.then(|| self.with_files(&files, before))
    }

    fn with_files(&self, files: &file::SourceFiles, before: &Objects) -> WithFile {
        let file::FileContents { overlay, accepted, verdicts, problems, is_lost } =
            files.merge(self, &before.accepted);
        let mut whole = self.clone();
        let added = whole.add_overlay(overlay);
        whole.objects = Objects {
            accepted: Arc::new(accepted),
            files: files.identity().filter(|_| problems.is_empty()),
            verdicts: Arc::new(verdicts),
        };
        WithFile { config: added.map(|()| whole), problems, is_lost }
    }

    /// This configuration plus its file, if the file has no problems.
    pub fn with_valid_file(&self, before: &Objects) -> Option<Self> {
        let WithFile { config, problems, .. } = self.with_file(before);
        config.ok().filter(|_| problems.is_empty())
    }

    /// Adds the contents of the file.
    ///
    /// # Errors
    /// Neither the environment nor the file names a link to the fabric.
    pub fn add_overlay(&mut self, overlay: Overlay) -> Result<(), ConfigProblem> {
        if self.fabric_macs.is_empty() && overlay.underlay.interfaces.is_empty() {
            return Err(ConfigProblem(
                "FE_MACS: must be set, because the file has no underlay.interfaces".into(),
            ));
        }
        if let Some((restart, stale)) = overlay.underlay.graceful_restart {
            self.timers.restart_s = restart.unwrap_or(self.timers.restart_s);
            self.timers.stalepath_s = stale.unwrap_or(self.timers.stalepath_s).max(self.timers.restart_s);
        }
        self.overlay = overlay;
        Ok(())
    }
}

/// The BGP session with MetalLB's speaker, and the veth pair that carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetallbConfig {
    /// The VRF of FRR's end.
    pub vrf: VrfName,
    /// The VRF's routing table.
    pub table: TableId,
    /// Local AS number in the VRF.
    pub asn: Asn,
    /// The speaker's AS number.
    pub speaker_asn: Asn,
    /// The IPv6 addresses of the veth pair.
    pub v6: PeerPair,
    /// The IPv4 addresses of the veth pair.
    pub v4: Option<PeerPair>,
    /// Prefixes that the speaker may announce. Empty: every prefix with the length of a host route or of an address
    /// pool.
    pub allowed: Vec<IpNet>,
    /// The most prefixes that the speaker may announce in each address family.
    pub max_prefixes: u32,
    /// TCP-MD5 password of the session.
    pub password: Option<Password>,
    /// How long the speaker's services are retained while its session is down, in seconds.
    pub retention_s: u32,
}

/// The two addresses of a point-to-point link, both in one subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerPair {
    /// FRR's end, in the VRF.
    pub frr: IpAddr,
    /// The speaker's end, in the host namespace.
    pub metallb: IpAddr,
    /// Length of their common prefix in bits.
    pub prefix: u8,
}

impl MetallbConfig {
    /// The addresses of the veth pair.
    pub fn pairs(&self) -> impl Iterator<Item = PeerPair> {
        std::iter::once(self.v6).chain(self.v4)
    }
}

impl PeerPair {
    /// FRR's end with its prefix length.
    pub fn frr_net(self) -> IpNet {
        with_prefix(self.frr, self.prefix)
    }

    /// The speaker's end with its prefix length.
    pub fn metallb_net(self) -> IpNet {
        with_prefix(self.metallb, self.prefix)
    }
}

fn with_prefix(ip: IpAddr, prefix: u8) -> IpNet {
    // The constructor of the pair checked the length against the family. A violation is a programming error, and a host
    // prefix is a harmless result.
    IpNet::new(ip, prefix).unwrap_or_else(|_| IpNet::from(ip))
}

/// BGP and BFD timers, in the units of FRR's commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Timers {
    /// BGP keepalive interval in seconds.
    pub keepalive_s: u32,
    /// BGP hold time in seconds.
    pub hold_s: u32,
    /// BGP connect retry time in seconds.
    pub connect_s: u32,
    /// Announced restart time (RFC 4724) in seconds.
    pub restart_s: u32,
    /// How long the routes of a restarting peer are kept, in seconds.
    pub stalepath_s: u32,
    /// How long a restarted bgpd waits for the End-of-RIB of its peers, in seconds.
    pub select_defer_s: u32,
    /// BFD with the leaves, if enabled.
    pub bfd: Option<Bfd>,
}

/// Timers of a BFD session (RFC 5880).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Bfd {
    /// Required minimum receive interval in milliseconds.
    pub receive_ms: u32,
    /// Desired minimum transmit interval in milliseconds.
    pub transmit_ms: u32,
    /// Detection multiplier.
    pub multiplier: u32,
    /// Whether bgpd reacts to BFD. A detection time above the hold time finds no failure earlier, and it sometimes
    /// costs a session when bgpd crashes (see `frr::bfd`).
    pub coupled: bool,
}
