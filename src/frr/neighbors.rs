//! What bgpd says of its neighbors.

use serde_json::Value;

/// The command that asks for those of the default instance.
pub const QUESTION: &str = "show bgp neighbors json";

/// Whether the session of a neighbor, as it is in the answer, is up.
pub fn is_established(neighbor: &Value) -> bool {
    neighbor.get("bgpState").and_then(Value::as_str) == Some("Established")
}
