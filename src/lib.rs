//! FRR on a Talos node, in a persistent network namespace. The supervisor restarts daemons in place and leaves the data
//! plane untouched.
//!
//! ```text
//! env ─► Config ─► resolve(observed state) ─► Desired ─┬─► kernel: observe ─► plan ─► apply
//!                                                      ├─► frr:    render ─► load
//!                                                      └─► supervisor: the daemons
//! ```
//!
//! `model`, `config` (except for reading its file), `resolve`, `kernel::plan`, `frr::render` and `supervisor::policy`
//! are pure. The other modules are thin.

pub mod children;
pub mod config;
#[cfg(test)]
mod docs;
pub mod events;
pub mod files;
pub mod frr;
pub mod instance;
pub mod intent;
pub mod kernel;
pub mod limits;
pub mod logging;
pub mod memory;
pub mod model;
pub mod node;
pub mod plan;
pub mod printable;
pub mod reconciler;
pub mod resolve;
pub mod run;
pub mod signals;
pub mod status;
pub mod supervisor;
pub mod time;
