//! bgpd's neighbors, as `show bgp neighbors json` lists them.

use serde_json::Value;

/// The command that lists the neighbors of the default instance.
pub const SHOW_NEIGHBORS: &str = "show bgp neighbors json";

/// Whether the session of `neighbor`, one value of that list, is established.
pub fn is_established(neighbor: &Value) -> bool {
    neighbor.get("bgpState").and_then(Value::as_str) == Some("Established")
}
