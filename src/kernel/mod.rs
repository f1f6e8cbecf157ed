//! The kernel: read its state (`observe`), plan changes (`plan`, pure), apply them (`apply`).

mod apply;
mod attributes;
mod backup_routes;
mod carrier;
mod connect_guard;
mod cookie;
mod fib;
mod kernel_made;
mod link;
mod message;
mod monitor;
mod neighbours;
mod netlink;
pub mod netns;
mod nft;
mod observe;
mod op;
mod plan;
mod record;
mod rtnl;
mod tables;
mod tcp;

pub use apply::{Changes, Error, Kernel, ReconcileOutcome};
pub use backup_routes::{BackupRoutes, RemoveOriginals};
pub use carrier::Carrier;
pub use connect_guard::Connects;
pub use fib::Fib;
pub use message::ops_in_one_message;
pub use monitor::{KernelEvents, Monitor};
pub use netns::Netns;
pub use op::{LinkSetting, Op};
pub use plan::{Plan, plan};
pub use tables::{SharedTable, shared_tables};
pub use tcp::{BgpConnection, TcpState, bgp_connections};
