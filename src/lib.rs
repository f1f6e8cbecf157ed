//! FRR on a Talos node, in a persistent network namespace, under a supervisor that restarts what
//! dies without touching what forwards.
//!
//! ```text
//! env ─► Config ─► resolve(what the kernel has) ─► Desired ─┬─► kernel: observe ─► plan ─► apply
//!                                                           ├─► frr:    render ─► load
//!                                                           └─► supervisor: the daemons
//! ```
//!
//! `model`, `config` but for reading its file, `resolve`, `kernel::plan`, `frr::render` and `supervisor::policy` are pure;
//! the rest is thin.

pub mod config;
pub mod files;
pub mod frr;
pub mod kernel;
pub mod limits;
pub mod lock;
pub mod logging;
pub mod model;
pub mod node;
pub mod printable;
pub mod resolve;
pub mod run;
pub mod status;
pub mod supervisor;
