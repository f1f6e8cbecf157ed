//! FRR: which daemons and how they are started, the configuration they get, and talking to them.

pub mod bfd;
pub mod daemons;
pub mod delta;
pub mod files;
pub mod handover;
pub mod held;
mod leftovers;
pub mod neighbors;
mod redact;
mod refusal;
mod render;
pub mod rib;
pub mod sockets;
pub mod solicit;
mod split;
mod texts;
pub mod vty;

pub use daemons::{DAEMONS, Daemon, Version};
pub use leftovers::end_leftovers;
pub use redact::{redact, redact_said};
pub use refusal::{Refusal, blame, sources};
pub use render::{Inputs, render};
pub use split::{split, with_log};
pub use texts::Texts;
