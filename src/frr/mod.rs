//! FRR: the daemons and their command lines, their configuration, and their vty sockets.

pub mod bfd;
pub mod check;
mod check_output;
pub mod collect;
pub mod daemons;
pub mod delta;
mod document;
mod grammar;
pub mod host;
mod leftovers;
pub mod memfd;
pub mod neighbors;
mod redact;
mod render;
pub mod retained;
pub mod rib;
pub mod sockets;
pub mod solicit;
pub mod state;
mod store;
pub mod vty;

pub use check_output::{CheckFailure, blame, raw_entries_of};
pub use daemons::{DAEMONS, Daemon, DaemonKind, Version};
pub use document::{Block, Document};
pub use grammar::is_default_bgp_instance;
pub use leftovers::kill_leftovers;
pub use redact::{redact, redact_output};
pub use render::{Inputs, render};
pub use store::{ConfigStore, stored_configuration};
