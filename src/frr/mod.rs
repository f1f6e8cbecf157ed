//! FRR: which daemons and how they are started, the configuration they get, and talking to them.

pub mod bfd;
pub mod daemons;
pub mod delta;
pub mod files;
pub mod held;
mod render;
pub mod solicit;
mod split;
pub mod vty;

pub use daemons::{DAEMONS, Daemon, Version};
pub use files::without_password;
pub use render::{Inputs, render};
pub use split::split;
