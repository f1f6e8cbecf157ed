//! The kernel: what it has (`observe`), what to change (`plan`, pure), and changing it (`apply`).

mod apply;
mod attributes;
mod carrier;
mod cookie;
mod dial;
mod fib;
mod link;
mod lost;
mod message;
mod monitor;
mod neighbours;
mod netlink;
pub mod netns;
mod nft;
mod object;
mod observe;
mod op;
mod plan;
mod record;
mod shadow;
mod tables;

pub use apply::{Changes, Error, Kernel, Outcome};
pub use carrier::Carrier;
pub use dial::Dialling;
pub use fib::Fib;
pub use message::joined;
pub use monitor::{Monitor, Notified};
pub use netns::Netns;
pub use op::{Op, Setting};
pub use plan::{Plan, plan};
pub use shadow::{BackupRoutes, Spoils};
pub use tables::{SharedTable, shared_tables};
