//! `frr-supervisor run`: from nothing to a running router, and back after its namespace was taken away.

use crate::config::Config;
use crate::frr::files;
use crate::limits;
use crate::logging;
use crate::node::{Node, line};
use crate::supervisor::{End, Signals, Supervisor};

/// Sets the node up, then runs the daemons until a signal asks for the end. `base` is what the environment alone says; what
/// was left out of the configuration file because of `problems` is said first.
///
/// # Errors
/// Every problem, each a line of its own.
pub fn run(base: &Config, mut config: Config, problems: &[String]) -> Result<(), Vec<String>> {
    limits::raise();
    limits::drop_capabilities();
    logging::problems(problems);
    let mut signals = Signals::catch().map_err(line)?;
    let version = files::version().map_err(line)?;
    log::info!("FRR {version}, namespace {}", config.namespace);
    loop {
        let Some(mut node) = Node::set_up(config, version, &mut signals)? else { return Ok(()) };
        let end = Supervisor::new(base, &mut node, &mut signals).and_then(Supervisor::run).map_err(line)?;
        match end {
            End::Stopped => return Ok(()),
            End::Reconfigured(other) => config = *other,
            End::NamespaceGone(how) => {
                config = node.config.clone();
                log::warn!("namespace {} {how}: building it anew", config.namespace);
                node.dismantle()?;
            }
        }
    }
}
