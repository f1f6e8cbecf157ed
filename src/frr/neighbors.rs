//! bgpd's neighbors, as `show bgp neighbors json` lists them.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::vty::Reply;

/// The command that lists the neighbors of the default instance.
pub const SHOW_NEIGHBORS: &str = "show bgp neighbors json";

/// The state of an established session in FRR's replies.
pub const ESTABLISHED: &str = "Established";

/// The neighbors of the default instance, by name: an address or an interface.
pub type Neighbors = BTreeMap<String, Neighbor>;

/// A neighbor. The names of the members are FRR's.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Neighbor {
    bgp_state: String,
    /// Its address; `none` while that of an unnumbered neighbor is unknown.
    pub bgp_neighbor_addr: String,
    /// Its peer group; empty without one.
    pub peer_group: String,
    /// Milliseconds since the session was established.
    pub bgp_timer_up_msec: Option<u64>,
    /// Milliseconds since the last message, in whole seconds.
    pub bgp_timer_last_read: Option<u64>,
    graceful_restart_info: GracefulRestartInfo,
}

/// The restart timer, which runs while bgpd waits for a restarting neighbor. The unit depends on FRR's version.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct GracefulRestartInfo {
    graceful_restart_timer_msecs: Option<IgnoredAny>,
    graceful_restart_timer_sec: Option<IgnoredAny>,
}

impl Neighbor {
    /// Whether the session is established.
    pub fn is_established(&self) -> bool {
        self.bgp_state == ESTABLISHED
    }

    /// Whether the neighbor is restarting and bgpd keeps its routes.
    pub fn is_restarting(&self) -> bool {
        let info = &self.graceful_restart_info;
        !self.is_established()
            && (info.graceful_restart_timer_msecs.is_some() || info.graceful_restart_timer_sec.is_some())
    }
}

/// The neighbors in the reply to [`SHOW_NEIGHBORS`]. `None`: the reply is invalid.
pub fn parse(reply: &Reply) -> Option<Neighbors> {
    serde_json::from_str(&reply.text).ok()
}
