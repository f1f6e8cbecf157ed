//! The actions of the restart policy.

use std::time::{Duration, Instant};

use super::Supervisor;
use super::daemons::Process;
use super::policy::{Action, Event};
use super::queries::DaemonQuery;
use crate::frr::vty::socket;
use crate::frr::{DaemonKind, sockets};
use crate::reconciler::Job;

/// Duration of an iteration of the loop after which replies may have arrived that the loop has not read yet.
const LONG_ITERATION: Duration = Duration::from_secs(1);

impl Supervisor<'_> {
    /// Does what the policy has decided, and adds the events that follow.
    pub(super) fn act(&mut self, action: Action) {
        match action {
            Action::Start(i) => {
                let name = self.processes[i].daemon.kind;
                match name {
                    DaemonKind::Bgpd => self.block_connects(),
                    DaemonKind::Zebra => self.await_backup_jobs(),
                    _ => {}
                }
                match self.start_daemon(i) {
                    Ok(child) => {
                        let pid = child.pid;
                        log::info!(daemon = name, pid = pid.as_raw_nonzero().get(); "{name} started (pid {pid})");
                        self.processes[i].child = Some(child);
                        self.processes[i].history.started(&self.publisher);
                        self.queries.starting.push(DaemonQuery {
                            daemon: i,
                            query: None,
                            next_at: Instant::now(),
                        });
                    }
                    Err(e) => {
                        if self.processes[i].history.start_failed(e.to_string()) {
                            log::error!(daemon = name; "{name} cannot be started: {e}; retrying");
                        }
                        self.events.push_back(Event::StartFailed(i));
                    }
                }
            }
            Action::PeriodicCheck => {
                self.queries.checks = self.queries.checks.wrapping_add(1);
                if crate::files::retry() {
                    // Publish that the problem is resolved; the next update may be a minute away.
                    self.publisher.update(|_| ());
                }
                self.publisher.update_reconciler_stuck(self.node.reconciler.stuck_since());
                if self.node.reconciler.is_idle() {
                    self.node.reconciler.send(Job::CheckSysctls);
                }
                self.probe();
                let ready = self
                    .processes
                    .iter()
                    .map(|p| p.daemon)
                    .filter(|daemon| self.ready(daemon.kind).is_some());
                ready.for_each(|daemon| sockets::restore(daemon.kind));
                self.events.extend(
                    self.config.load.running.as_mut().map(|load| Event::Loading { idle: load.is_idle() }),
                );
                // Failed connections are retried. Until then they count as a missing reply.
                let failed = self.queries.pings.iter().filter(|(_, query)| query.is_none()).map(|(i, _)| *i);
                let failed: Vec<usize> = failed.collect();
                self.queries.pings.retain(|(_, query)| query.is_some());
                failed.into_iter().for_each(|i| self.ping(i));
            }
            Action::Ping(i) => {
                if let Some(child) = &mut self.processes[i].child {
                    child.sample_main_thread();
                }
                self.ping(i);
            }
            // Its reply may have arrived during this iteration.
            Action::CheckBusy(i) if self.queries.iteration_started.elapsed() >= LONG_ITERATION => {
                self.events.push_back(Event::PingFailed(i));
            }
            Action::CheckBusy(i) => {
                if let Some(child) = &mut self.processes[i].child {
                    let is_busy = child.is_main_thread_busy();
                    log::debug!(daemon = child.name; "{} has not answered; busy: {is_busy}", child.name);
                    self.events.push_back(if is_busy { Event::Busy(i) } else { Event::Idle(i) });
                }
            }
            Action::Abort(i) => {
                let Process { daemon, child, .. } = &mut self.processes[i];
                if let Some(child) = child {
                    let (name, pid, s) =
                        (daemon.kind, child.pid, self.config.active.config.settings.liveness_timeout.get());
                    if sockets::is_missing(name) {
                        // The daemon may work, so a backtrace would show nothing.
                        log::error!(
                            daemon = name, pid = pid.as_raw_nonzero().get();
                            "{name} (pid {pid}) cannot be reached for {s} s: its socket {} was removed; restarting it",
                            socket(name).display()
                        );
                        child.kill();
                    } else {
                        log::error!(
                            daemon = name, pid = pid.as_raw_nonzero().get();
                            "{name} (pid {pid}) is unresponsive (LIVENESS_TIMEOUT={s} s): aborting it; its backtrace follows"
                        );
                        child.abort();
                    }
                }
            }
            Action::Kill(i) => {
                if let Some(child) = &mut self.processes[i].child {
                    let (name, pid) = (child.name, child.pid);
                    log::info!(daemon = name, pid = pid.as_raw_nonzero().get(); "killing {name} (pid {pid})");
                    child.kill();
                }
            }
            Action::Load(which) => {
                self.config.load.succeeded = true;
                which.iter().for_each(|&i| self.reset_drift(i));
                self.config.load.queue = if which.len() == self.processes.len() {
                    [None].into()
                } else {
                    which.iter().map(|&i| Some(self.processes[i].daemon.kind)).collect()
                };
                self.start_next_load();
            }
            Action::AbortLoad => {
                log::error!("vtysh hangs while it loads frr.conf: killing it");
                self.end_load();
            }
            Action::Complete => {
                log::info!("all daemons answer and have their configuration");
                self.publisher.update(|facts| facts.incomplete = false);
            }
            Action::Incomplete => {
                log::error!("all daemons answer, but lack parts of frr.conf: vtysh's log lines name them");
                self.publisher.update(|facts| facts.incomplete = true);
            }
            Action::MarkGood => {
                self.config.active.store.mark_good();
                self.node.reconciler.send(Job::MarkGood(Box::new(self.config.active.clone())));
            }
            Action::RollBack(i) => self.roll_back(i),
            Action::Finished => self.ending.finished = true,
        }
    }
}
