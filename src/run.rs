//! `frr-supervisor run`: sets the node up, runs the supervisor, and rebuilds the namespace when it is lost. One thread
//! with one loop.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::config::Config;
use crate::frr::host;
use crate::instance;
use crate::limits;
use crate::logging;
use crate::memory;
use crate::node::{Node, RollbackHistory, SetUp, describe, single_problem};
use crate::signals::Signals;
use crate::status::{self, NodePhase, Publisher};
use crate::supervisor::{End, Supervisor, withdraws};
use crate::time::Time;

/// Sets the node up, and runs the daemons until a signal asks for the end. `base` is the configuration from the
/// environment alone. `problems` are those of the configuration file, which it logs first. `signals` must be caught
/// already.
///
/// # Errors
/// All problems, one line each.
pub fn run(base: &Config, config: Config, problems: &[String], signals: Signals) -> Result<(), Vec<String>> {
    // Before any change: another instance may run.
    let lock = instance::take().map_err(|e| vec![e])?;
    memory::share_heap();
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
    status::start(Arc::clone(&publisher), waker, config.settings.status_listen, lock)
        .map_err(single_problem)?;
    log::info!("FRR {version}, namespace {}", config.settings.netns);
    let new_set_up = |config| SetUp::new(base, config, version, &publisher);
    let mut stage = Stage::SetUp(Box::new(new_set_up(config)), Box::default());
    let mut mounts_changed = false;
    loop {
        stage = match stage {
            Stage::SetUp(set_up, _) if set_up.is_waiting() && signals.stop_requested() => {
                log::info!("stopped before the node was set up");
                return Ok(());
            }
            Stage::SetUp(mut set_up, history) => match set_up.step()? {
                None => Stage::SetUp(set_up, history),
                // Only another bgpd can withdraw the routes that peers keep from an earlier one.
                Some((node, _)) if signals.stop_requested() && !withdraws(&node.active.config, &signals) => {
                    publisher.finish();
                    return node.shut_down();
                }
                Some(node) => {
                    let supervisor = Supervisor::start(base, node, &signals, &publisher, history);
                    Stage::Supervise(Box::new(supervisor.map_err(single_problem)?))
                }
            },
            Stage::Supervise(mut supervisor) => {
                match supervisor.step(mounts_changed).map_err(single_problem)? {
                    None => Stage::Supervise(supervisor),
                    Some(end) => {
                        let (node, history) = supervisor.into_node();
                        let config = match end {
                            End::Stopped => {
                                publisher.finish();
                                return node.shut_down();
                            }
                            End::Reconfigured(other) => Arc::unwrap_or_clone(other),
                            End::NamespaceGone(how) => rebuild(base, node, &history, how, &publisher)?,
                        };
                        Stage::SetUp(Box::new(new_set_up(config)), history)
                    }
                }
            }
        };
        mounts_changed = stage.wait(&signals).map_err(single_problem)?;
    }
}

/// What the loop does.
#[derive(Debug)]
enum Stage<'a> {
    /// It sets the node up.
    SetUp(Box<SetUp<'a>>, Box<RollbackHistory>),
    /// It runs the daemons of a node that is set up.
    Supervise(Box<Supervisor<'a>>),
}

impl Stage<'_> {
    /// Waits until there is something to do: this is the only place where the thread waits. Returns whether the table of
    /// mounts has changed.
    fn wait(&self, signals: &Signals) -> io::Result<bool> {
        let mut fds = vec![PollFd::new(signals, PollFlags::IN)];
        let deadline = match self {
            Self::SetUp(set_up, _) => {
                fds.extend(set_up.fds());
                Some(set_up.deadline())
            }
            Self::Supervise(supervisor) => {
                supervisor.add_fds(&mut fds);
                supervisor.deadline()
            }
        };
        let timeout = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        match poll(&mut fds, timeout.and_then(|t| Timespec::try_from(t).ok()).as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        // Only the table of mounts has urgent data.
        Ok(fds.iter().any(|fd| fd.revents().contains(PollFlags::PRI)))
    }
}

/// Prepares the rebuild of a lost namespace. Returns the configuration for it.
fn rebuild(
    base: &Config,
    node: Node,
    history: &RollbackHistory,
    how: &str,
    publisher: &Publisher,
) -> Result<Config, Vec<String>> {
    // The file may have changed meanwhile.
    let other = base.with_valid_file(&node.active.config.objects);
    let other = other.filter(|_| !history.is_rolled_back(&node.active));
    let config = other.unwrap_or_else(|| Config::clone(&node.active.config));
    log::warn!("namespace {} {how}: rebuilding it", config.settings.netns);
    publisher.update(|facts| {
        facts.set_phase(NodePhase::Starting);
        facts.namespace.rebuilt += 1;
        facts.namespace.last_rebuild = Some((Time::now(), format!("it {how}")));
    });
    node.dismantle()?;
    Ok(config)
}
