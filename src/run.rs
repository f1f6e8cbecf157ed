//! `frr-supervisor run`: from nothing to a running router, and back after its namespace was taken away.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::config::Config;
use crate::frr::{Version, files};
use crate::limits;
use crate::lock;
use crate::logging;
use crate::node::{Node, line};
use crate::status::{self, Board, Phase, Time};
use crate::supervisor::{End, History, Signals, Supervisor, describe, withdraws};

/// Between two attempts to set the node up.
const AGAIN: Duration = Duration::from_secs(5);

/// Sets the node up, then runs the daemons until a signal asks for the end. `base` is what the environment alone says; what
/// was left out of the configuration file because of `problems` is said first. `signals` are caught already.
///
/// # Errors
/// Every problem, each a line of its own.
pub fn run(
    base: &Config,
    mut config: Config,
    problems: &[String],
    mut signals: Signals,
) -> Result<(), Vec<String>> {
    // Before anything that another instance has is touched.
    let lock = lock::take().map_err(|e| vec![e])?;
    limits::raise();
    limits::drop_capabilities();
    logging::begin();
    logging::problems(problems);
    if lock.is_none() {
        log::warn!(
            "{}: no space is left: nothing keeps a second instance from starting until there is",
            lock::PATH
        );
    }
    let version = files::version().map_err(line)?;
    let (board, bell) = Board::new().map_err(line)?;
    board.tell(|local| {
        describe(local, &config, version);
        local.configuration.left_out = logging::first_lines(problems).map(Into::into).collect();
    });
    files::prepare(&version.daemons(true, false)).map_err(line)?;
    status::start(Arc::clone(&board), bell, config.status_listen, lock).map_err(line)?;
    log::info!("FRR {version}, namespace {}", config.namespace);
    let mut history = History::default();
    loop {
        let Some(mut node) = set_up(base, &mut config, version, &mut signals, &board)? else { return Ok(()) };
        // What peers keep of an earlier bgpd can be withdrawn by another one only.
        if signals.stop_requested() && !withdraws(&node.config, &signals) {
            board.finish();
            return node.leave();
        }
        let supervisor = Supervisor::new(base, &mut node, &mut signals, &board, &mut history);
        let end = supervisor.and_then(Supervisor::run).map_err(line)?;
        match end {
            End::Stopped => {
                board.finish();
                return node.leave();
            }
            End::Reconfigured(other) => config = *other,
            End::NamespaceGone(how) => {
                // The file may have changed while the namespace went.
                let other = whole(base).filter(|_| !history.keeps(&node));
                config = other.unwrap_or_else(|| node.config.clone());
                log::warn!("namespace {} {how}: building it anew", config.namespace);
                board.tell(|local| {
                    local.enter(Phase::Starting);
                    local.namespace.rebuilt += 1;
                    local.namespace.last_rebuild = Some((Time::now(), format!("it {how}")));
                });
                node.dismantle()?;
            }
        }
    }
}

/// Sets the node up, and tries again for a while if it can't be: what is missing, a kernel module for example, may come.
/// `None`: a signal asked for the end.
fn set_up(
    base: &Config,
    config: &mut Config,
    version: Version,
    signals: &mut Signals,
    board: &Arc<Board>,
) -> Result<Option<Node>, Vec<String>> {
    let until = Instant::now() + Duration::from_secs(config.setup_timeout_s.into());
    let mut said = vec![];
    loop {
        let problems = match Node::set_up(config.clone(), version, signals, board) {
            Ok(node) => return Ok(node),
            Err(problems) => problems,
        };
        board.tell(|local| {
            local.enter(Phase::Failed);
            local.failure.clone_from(&problems);
        });
        let again = Instant::now() + AGAIN;
        if again > until {
            return Err(problems);
        }
        if problems != said {
            problems.iter().for_each(|problem| log::error!("{problem}"));
            log::warn!("the node is not set up; it is tried again every {} s", AGAIN.as_secs());
            said = problems;
        }
        loop {
            if signals.stop_requested() {
                return Ok(None);
            }
            board.turn();
            let left = again.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            // An interrupted wait is a shorter one.
            let _ = poll(&mut [PollFd::new(signals, PollFlags::IN)], Timespec::try_from(left).ok().as_ref());
        }
        // The remedy may be in the file.
        if let Some(other) = whole(base) {
            *config = other;
        }
    }
}

/// What the environment and the file say, if the file is without fault.
fn whole(base: &Config) -> Option<Config> {
    let (config, problems) = base.with_file();
    config.ok().filter(|_| problems.is_empty())
}
