//! `frr-supervisor run`: sets the node up, runs the supervisor, and rebuilds the namespace when it is lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::config::Config;
use crate::frr::{Version, host};
use crate::instance;
use crate::limits;
use crate::logging;
use crate::node::{Node, single_problem};
use crate::signals::Signals;
use crate::status::{self, NodePhase, Publisher};
use crate::supervisor::{End, RollbackHistory, Supervisor, describe, withdraws};
use crate::time::Time;

/// Delay between two attempts to set the node up.
const RETRY: Duration = Duration::from_secs(5);

/// Sets the node up, and runs the daemons until a signal asks for the end. `base` is the configuration from the
/// environment alone. `problems` are those of the configuration file, which it logs first. `signals` must be caught
/// already.
///
/// # Errors
/// All problems, one line each.
pub fn run(
    base: &Config,
    mut config: Config,
    problems: &[String],
    mut signals: Signals,
) -> Result<(), Vec<String>> {
    // Before any change: another instance may run.
    let lock = instance::take().map_err(|e| vec![e])?;
    limits::raise();
    limits::drop_capabilities();
    logging::start_writer();
    logging::problems(problems);
    if lock.is_none() {
        log::warn!("{}: no space left: a second instance can start until there is space", instance::PATH);
    }
    let version = host::version().map_err(single_problem)?;
    let (publisher, waker) = Publisher::new().map_err(single_problem)?;
    publisher.update(|facts| {
        describe(facts, &config, version);
        facts.configuration.left_out = logging::first_lines(problems).map(Into::into).collect();
    });
    host::prepare(&version.daemons(true, false)).map_err(single_problem)?;
    status::start(Arc::clone(&publisher), waker, config.status_listen, lock).map_err(single_problem)?;
    log::info!("FRR {version}, namespace {}", config.namespace);
    let mut history = RollbackHistory::default();
    loop {
        let Some(mut node) = set_up(base, &mut config, version, &mut signals, &publisher)? else {
            return Ok(());
        };
        // Only another bgpd can withdraw the routes that peers keep from an earlier one.
        if signals.stop_requested() && !withdraws(&node.config, &signals) {
            publisher.finish();
            return node.shut_down();
        }
        let supervisor = Supervisor::new(base, &mut node, &mut signals, &publisher, &mut history);
        let end = supervisor.and_then(Supervisor::run).map_err(single_problem)?;
        match end {
            End::Stopped => {
                publisher.finish();
                return node.shut_down();
            }
            End::Reconfigured(other) => config = *other,
            End::NamespaceGone(how) => {
                // The file may have changed meanwhile.
                let other = load_valid(base).filter(|_| !history.is_rolled_back(&node));
                config = other.unwrap_or_else(|| node.config.clone());
                log::warn!("namespace {} {how}: rebuilding it", config.namespace);
                publisher.update(|facts| {
                    facts.set_phase(NodePhase::Starting);
                    facts.namespace.rebuilt += 1;
                    facts.namespace.last_rebuild = Some((Time::now(), format!("it {how}")));
                });
                node.dismantle()?;
            }
        }
    }
}

/// Sets the node up. Retries for `SETUP_TIMEOUT` if that fails: a missing kernel module, for example, may be loaded
/// meanwhile. `None`: a signal asked for the end.
fn set_up(
    base: &Config,
    config: &mut Config,
    version: Version,
    signals: &mut Signals,
    publisher: &Arc<Publisher>,
) -> Result<Option<Node>, Vec<String>> {
    let until = Instant::now() + Duration::from_secs(config.setup_timeout_s.into());
    let mut logged = vec![];
    loop {
        let problems = match Node::set_up(config.clone(), version, signals, publisher) {
            Ok(node) => return Ok(node),
            Err(problems) => problems,
        };
        publisher.update(|facts| {
            facts.set_phase(NodePhase::Failed);
            facts.setup_errors.clone_from(&problems);
        });
        let retry_at = Instant::now() + RETRY;
        if retry_at > until {
            return Err(problems);
        }
        if problems != logged {
            problems.iter().for_each(|problem| log::error!("{problem}"));
            log::warn!("the node is not set up; retrying every {} s", RETRY.as_secs());
            logged = problems;
        }
        loop {
            if signals.stop_requested() {
                return Ok(None);
            }
            publisher.heartbeat();
            let left = retry_at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            // A signal only shortens the wait.
            let _ = poll(&mut [PollFd::new(signals, PollFlags::IN)], Timespec::try_from(left).ok().as_ref());
        }
        // The file may be corrected.
        if let Some(other) = load_valid(base) {
            *config = other;
        }
    }
}

/// The configuration from the environment and the file, if the file has no problems.
fn load_valid(base: &Config) -> Option<Config> {
    let (config, problems) = base.with_file();
    config.ok().filter(|_| problems.is_empty())
}
