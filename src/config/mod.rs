//! Where intent comes from: environment variables, and a file that adds to them.

mod env;
pub mod file;
mod help;
mod settings;

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::model::{
    Asn, FilePath, MacAddr, Mtu, NamespaceName, Overlay, Password, RebuildToken, RouterId, TableId, VrfName,
};

pub use env::from_vars;
pub use help::{markdown, text};
pub use settings::{LogFormat, LogLevel, OnStop, ReturnMode, SETTINGS, Setting};

/// One thing that is wrong with the configuration: names the variable, the value and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem(pub String);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The validated configuration: every combination of its values is one that can be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Router-id, and in the host namespace the source address of BGP routes.
    pub node_ip: RouterId,
    /// AS number towards the leaves.
    pub asn: Asn,
    /// The fabric NICs.
    pub fabric_macs: Vec<MacAddr>,
    /// How long to wait for the fabric NICs, in seconds.
    pub fabric_timeout_s: u32,
    /// How long to try to set the node up, in seconds.
    pub setup_timeout_s: u32,
    /// TCP-MD5 password of the fabric sessions.
    pub fabric_password: Option<Password>,
    /// The leaves ask for packets with TTL 255.
    pub fabric_ttl_security: bool,
    /// How many routes a leaf may have for us in each address family.
    pub fabric_max_prefixes: Option<u32>,
    /// The namespace that FRR runs in.
    pub namespace: NamespaceName,
    /// Names the last rebuild that was asked for.
    pub rebuild_token: Option<RebuildToken>,
    /// Move a NIC even if that cuts the node off.
    pub force_move: bool,
    /// Put right what someone else changes of the daemons' configuration.
    pub enforce: bool,
    /// The link to MetalLB's speaker.
    pub metallb: Metallb,
    /// MTU of the veth pair; `None`: that of the first fabric interface.
    pub mtu: Option<Mtu>,
    /// How replies of the host find back to the fabric.
    pub return_path: ReturnMode,
    /// The one bit of packet and connection marks that the return path uses.
    pub return_mark: u32,
    /// The routing table of the return path.
    pub return_table: TableId,
    /// Timers of BGP, its graceful restart and BFD.
    pub timers: Timers,
    /// How long a daemon may leave a question unanswered, in seconds.
    pub liveness_s: u32,
    /// What a stop leaves behind.
    pub on_stop: OnStop,
    /// How long the peers may take to turn to other paths before the sessions end, in seconds.
    pub drain_s: u32,
    /// A template to use instead of the built-in one.
    pub template: Option<FilePath>,
    /// The file or directory that adds to the environment.
    pub file: Option<FilePath>,
    /// The node's number, from which the file's per-node addresses are computed.
    pub node_index: u32,
    /// Where the status is shown by HTTP.
    pub status_listen: Option<SocketAddr>,
    /// Least severe message to log.
    pub log_level: LogLevel,
    /// Form of the log.
    pub log_format: LogFormat,
    /// What the configuration file adds.
    pub overlay: Overlay,
}

impl Config {
    /// This and what its file adds, as far as that is valid, and every problem with the file. To be asked of what the
    /// environment alone has said.
    ///
    /// # Errors
    /// The two of them name no link to the fabric.
    pub fn with_file(&self) -> (Result<Self, Problem>, Vec<Problem>) {
        let (overlay, problems) = file::overlay(self);
        let mut whole = self.clone();
        let added = whole.add(overlay);
        (added.map(|()| whole), problems)
    }

    /// Takes in what the file adds.
    ///
    /// # Errors
    /// The two of them name no link to the fabric.
    pub fn add(&mut self, overlay: Overlay) -> Result<(), Problem> {
        if self.fabric_macs.is_empty() && overlay.underlay.interfaces.is_empty() {
            return Err(Problem("FE_MACS: must be set, since the file names no underlay.interfaces".into()));
        }
        if let Some((restart, stale)) = overlay.underlay.graceful_restart {
            self.timers.restart_s = restart.unwrap_or(self.timers.restart_s);
            self.timers.stalepath_s = stale.unwrap_or(self.timers.stalepath_s).max(self.timers.restart_s);
        }
        self.overlay = overlay;
        Ok(())
    }
}

/// The BGP session with MetalLB's speaker and what carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metallb {
    /// The VRF that ends the session.
    pub vrf: VrfName,
    /// The VRF's routing table.
    pub table: TableId,
    /// Our AS number in the VRF.
    pub asn: Asn,
    /// The speaker's AS number.
    pub speaker_asn: Asn,
    /// The IPv6 addresses of the veth pair.
    pub v6: PeerPair,
    /// The IPv4 addresses of the veth pair.
    pub v4: Option<PeerPair>,
    /// What the speaker may announce; empty: whatever has the size of a host or a pool.
    pub allowed: Vec<IpNet>,
    /// How many prefixes it may announce in each address family.
    pub max_prefixes: u32,
    /// TCP-MD5 password of the session.
    pub password: Option<Password>,
    /// How long what the speaker announced is held while it has not come back, in seconds.
    pub hold_s: u32,
}

/// The two addresses of a point-to-point link, both in one subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerPair {
    /// Our end, in the VRF.
    pub frr: IpAddr,
    /// The speaker's end, in the host namespace.
    pub metallb: IpAddr,
    /// Length of their common prefix in bits.
    pub prefix: u8,
}

impl PeerPair {
    /// Our end with its prefix length.
    pub fn frr_net(self) -> IpNet {
        net(self.frr, self.prefix)
    }

    /// The speaker's end with its prefix length.
    pub fn metallb_net(self) -> IpNet {
        net(self.metallb, self.prefix)
    }
}

fn net(ip: IpAddr, prefix: u8) -> IpNet {
    // The constructor of the pair checked the length against the family; an assumption that fails
    // here would be a programming error, and a host prefix is the harmless answer to it.
    IpNet::new(ip, prefix).unwrap_or_else(|_| IpNet::from(ip))
}

/// Timers, in the units of FRR's own commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Timers {
    /// BGP keepalive in seconds.
    pub keepalive_s: u32,
    /// BGP hold time in seconds.
    pub hold_s: u32,
    /// BGP connect retry time in seconds.
    pub connect_s: u32,
    /// Restart time that we announce (RFC 4724), in seconds.
    pub restart_s: u32,
    /// How long we keep a restarting peer's routes, in seconds.
    pub stalepath_s: u32,
    /// How long a restarted bgpd waits for its peers' End-of-RIB, in seconds.
    pub select_defer_s: u32,
    /// BFD with the leaves, if on.
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
    /// Whether bgpd acts upon it: it finds out no more than the hold time does if it is slower, and costs a session now
    /// and then when bgpd dies (see `frr::bfd`).
    pub coupled: bool,
}
