//! FRR: the daemons and their command lines, their configuration, and their vty sockets.

pub mod bfd;
pub mod check;
mod check_output;
pub mod collect;
pub mod daemons;
pub mod delta;
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
mod split;
pub mod state;
mod store;
pub mod vty;

pub use check_output::{CheckFailure, blame, raw_entries_of};
pub use daemons::{DAEMONS, Daemon, DaemonKind, Version};
pub use leftovers::kill_leftovers;
pub use redact::{redact, redact_output};
pub use render::{Inputs, render};
pub use split::{split, with_log_settings};
pub use store::{ConfigStore, stored_configuration};
