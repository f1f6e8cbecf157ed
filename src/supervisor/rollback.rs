//! Rollback to the last-known-good configuration when a daemon keeps crashing with the active one.

use std::io;
use std::time::Instant;

use super::policy::Event;
use super::reload::{Build, ChangeJob, RunningChange};
use super::{End, Supervisor};
use crate::frr::DaemonKind;
use crate::reconciler::{Devices, Job, RollBack};

/// Daemons that keep the configuration from mgmtd when mgmtd restarts. The next mgmtd does not learn it from them.
const MGMTD_BACKENDS: [DaemonKind; 2] = [DaemonKind::Zebra, DaemonKind::Staticd];

impl Supervisor<'_> {
    /// Restarts every daemon that has the running configuration of `daemon`.
    pub(super) fn restart_with_backends(&mut self, daemon: DaemonKind) {
        let backends = MGMTD_BACKENDS.into_iter().filter(|_| daemon == DaemonKind::Mgmtd);
        for name in [daemon].into_iter().chain(backends) {
            self.events.extend(self.running(name).map(Event::Restart));
        }
    }

    /// Has the reconciler roll back to the last-known-good configuration. Daemon `i` keeps crashing with the active one.
    pub(super) fn roll_back(&mut self, i: usize) {
        if self.ending.end.is_some() {
            return;
        }
        // A running change may cause the crashes, and is then rolled back itself. A cleanup must finish first.
        if self.config.change.commands.is_some() || self.config.change.cleanup.is_some() {
            self.events.push_back(Event::Changed { can_roll_back: true });
            return;
        }
        self.config.change.roll_back = Some(self.processes[i].daemon.kind);
        if matches!(self.config.change.job, Some(ChangeJob::Build(_))) {
            self.node.reconciler.abandon_build();
        }
        self.start_roll_back();
    }

    /// Starts the rollback that waits, if no job runs.
    pub(super) fn start_roll_back(&mut self) {
        let RunningChange { job, commands, roll_back, .. } = &mut self.config.change;
        if job.is_none()
            && commands.is_none()
            && let Some(daemon) = roll_back.take()
        {
            *job = Some(ChangeJob::RollBack(daemon));
            self.node.reconciler.send(Job::RollBack(daemon));
        }
    }

    /// Restarts all daemons with the last-known-good configuration.
    pub(super) fn rolled_back(&mut self, result: io::Result<RollBack>, now: Instant) {
        let Some(ChangeJob::RollBack(name)) = self.config.change.job.take() else { return };
        let RollBack { active, devices } = match result {
            Ok(done) => done,
            Err(e) => {
                log::error!(
                    daemon = name;
                    "{name} keeps crashing, and the last-known-good configuration cannot be used: {e}"
                );
                // For any other error, the configuration itself may be valid.
                if e.kind() != io::ErrorKind::InvalidData {
                    self.events.push_back(Event::Changed { can_roll_back: true });
                }
                return;
            }
        };
        log::error!(
            daemon = name;
            "{name} keeps crashing with this configuration: rolled back to the last-known-good configuration (the \
             rejected one is /run/frr/frr.conf.bad); restarting all daemons"
        );
        self.publisher.update(|facts| facts.configuration.set_rolled_back(Some(name.name())));
        self.config.active.adopt(active);
        match devices {
            Devices::Kept => {}
            Devices::Built => self.kernel_change_started(Build::after_rollback(now), now),
            Devices::OtherDaemons(config) => {
                self.ending.end = Some(End::Reconfigured(config));
                self.end_load();
                self.events.push_back(Event::Stop);
                return;
            }
        }
        // A vtysh that loads the rejected configuration would continue with the new processes.
        self.reconfigure();
    }
}
