//! FRR: which daemons and how they are started, the configuration they get, and talking to them.

pub mod daemons;
pub mod files;
mod render;
mod split;
pub mod vty;

pub use daemons::{DAEMONS, Daemon, Version};
pub use render::{Inputs, render};
pub use split::split;
