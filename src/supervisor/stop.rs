//! The stop that a signal requests.

use std::io;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::graceful_shutdown::{GracefulShutdown, ShutdownOutcome};
use super::part::Part;
use super::policy::Event;
use super::queries::SESSION_QUERY_TIME;
use super::{End, MAX_LOGGED_NAMES, Supervisor};
use crate::config::{Config, OnStop};
use crate::frr::vty::socket;
use crate::frr::{DaemonKind, state};
use crate::printable::first;
use crate::signals::Signals;

/// The end of the loop.
#[derive(Debug, Default)]
pub(super) struct Ending {
    pub(super) graceful_shutdown: Option<GracefulShutdown>,
    pub(super) end: Option<End>,
    pub(super) finished: bool,
}

/// The signal that requests the stop. The loop of `run` waits for signals at any time.
pub(super) struct SignalPart;

impl Part for SignalPart {
    fn step(&self, supervisor: &mut Supervisor<'_>, now: Instant) -> io::Result<()> {
        if supervisor.signals.stop_requested() && supervisor.ending.end != Some(End::Stopped) {
            supervisor.stop(now);
        }
        Ok(())
    }
}

/// The graceful shutdown before a stop.
pub(super) struct GracefulShutdownPart;

impl Part for GracefulShutdownPart {
    fn add_fds<'a>(&self, supervisor: &'a Supervisor<'_>, fds: &mut Vec<PollFd<'a>>) {
        let query = supervisor.ending.graceful_shutdown.as_ref().and_then(GracefulShutdown::query);
        fds.extend(query.map(|query| PollFd::new(query, PollFlags::IN)));
    }

    fn deadline(&self, supervisor: &Supervisor<'_>) -> Option<Instant> {
        supervisor.ending.graceful_shutdown.as_ref().map(GracefulShutdown::deadline)
    }

    fn step(&self, supervisor: &mut Supervisor<'_>, now: Instant) -> io::Result<()> {
        supervisor.step_graceful_shutdown(now);
        Ok(())
    }
}

impl Supervisor<'_> {
    /// A signal requests the stop, which takes precedence over any other end.
    fn stop(&mut self, now: Instant) {
        let withdraw = withdraws(&self.config.active.config, self.signals);
        if withdraw && self.ending.end.is_some() {
            // The daemons are stopping already, and the peers keep this node's routes: the next bgpd withdraws them.
            return;
        }
        self.ending.end = Some(End::Stopped);
        self.show_stop();
        self.end_load();
        if !withdraw {
            log::info!("stopping: the peers keep this node's routes, and the kernel keeps its own");
            self.events.push_back(Event::Stop);
            return;
        }
        let drain = Duration::from_secs(self.config.active.config.settings.drain_time.get().into());
        log::info!(
            "stopping: graceful shutdown: the peers prefer other paths, and the sessions are shut down in {} s",
            drain.as_secs()
        );
        let bgpd = self.ready_child(DaemonKind::Bgpd);
        let settled = bgpd.is_some_and(|bgpd| bgpd.age() >= SESSION_QUERY_TIME);
        let bgpd = bgpd.map(|bgpd| bgpd.pid);
        self.ending.graceful_shutdown = Some(GracefulShutdown::start(
            socket(DaemonKind::Bgpd),
            self.config.active.store.document(),
            drain,
            bgpd,
            settled,
            now,
        ));
    }

    /// Does the next step of the graceful shutdown, and stops the daemons after the last one.
    fn step_graceful_shutdown(&mut self, now: Instant) {
        let bgpd = self.ready_child(DaemonKind::Bgpd).map(|bgpd| bgpd.pid);
        let Some(outcome) =
            self.ending.graceful_shutdown.as_mut().and_then(|shutdown| shutdown.step(bgpd, now))
        else {
            return;
        };
        self.ending.graceful_shutdown = None;
        let effect = format!(
            "for up to {} s (GR_RESTART_TIME) they may send traffic to this node, which is lost after a reboot; shut down their \
             ports, or wait",
            self.config.active.config.timers.restart_s
        );
        match outcome {
            ShutdownOutcome::Complete(missing) if missing.is_empty() => {}
            ShutdownOutcome::Complete(missing) => {
                let peers = first(MAX_LOGGED_NAMES, &missing);
                log::warn!("stopping: no session with {peers}, so they keep this node's routes: {effect}");
            }
            ShutdownOutcome::Failed => {
                log::error!(
                    daemon = "bgpd";
                    "stopping: the graceful shutdown failed, because bgpd does not run, did not reply in time or refused a \
                     command; every peer keeps this node's routes: {effect}"
                );
            }
        }
        self.events.push_back(Event::Stop);
    }
}

/// Whether a stop at this moment withdraws this node's routes from the peers.
pub fn withdraws(config: &Config, signals: &Signals) -> bool {
    signals.withdraw_requested()
        || state::on_stop_override().unwrap_or(config.settings.on_stop) == OnStop::Withdraw
}
