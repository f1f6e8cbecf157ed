//! Updates of the status by the main loop.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Instant;

use super::Supervisor;
use super::policy::ProcessState;
use super::process::Child;
use super::retention::Retention;
use crate::frr::DaemonKind;
use crate::frr::retained::Unannounced;
use crate::logging;
use crate::status::{
    BgpNotification, DaemonExit, DaemonState, DaemonStatus, MAX_LISTED_SERVICES, NodePhase, Probe, Publisher,
    Rejection,
};
use crate::time::Time;

/// Facts about a daemon that outlive its processes.
#[derive(Debug, Clone, Default)]
pub(super) struct DaemonHistory {
    starts: u64,
    since: Time,
    failures: u64,
    last_exit: Option<DaemonExit>,
    /// Reason of the last failed start, if no start has succeeded since.
    start_error: Option<String>,
}

impl DaemonHistory {
    /// Continues with the published facts about the daemon of that name, which may be of an earlier namespace.
    pub(super) fn load(name: &str, publisher: &Publisher) -> Self {
        let before = publisher.read().daemons.into_iter().find(|daemon| daemon.name == name);
        before.map_or_else(Self::default, |daemon| Self {
            starts: daemon.restarts + 1,
            since: daemon.since,
            failures: daemon.failures,
            last_exit: daemon.last_exit,
            start_error: None,
        })
    }

    pub(super) fn started(&mut self, publisher: &Publisher) {
        (self.starts, self.since) = (self.starts + 1, Time::now());
        self.start_error = None;
        if self.starts > 1 {
            publisher.update(|facts| {
                facts.counts.restarts += 1;
                facts.counts.last_restart = Some(self.since);
            });
        }
    }

    /// Records a failed start. Returns whether the reason is new.
    pub(super) fn start_failed(&mut self, reason: String) -> bool {
        let is_new = self.start_error.as_ref() != Some(&reason);
        self.start_error = Some(reason);
        is_new
    }

    pub(super) fn exited(&mut self, child: &Child, status: ExitStatus) {
        self.since = Time::now();
        self.failures += u64::from(!child.was_killed());
        self.last_exit = Some(DaemonExit {
            at: self.since,
            signal: status.signal(),
            code: status.code(),
            core: status.core_dumped(),
            requested: child.was_killed(),
            last_line: child.last_log_line().into(),
        });
    }
}

/// How the status calls a state of the restart policy.
fn status_of(state: ProcessState) -> DaemonState {
    match state {
        ProcessState::Down => DaemonState::Down,
        ProcessState::Starting => DaemonState::Starting,
        ProcessState::Loading => DaemonState::Loading,
        ProcessState::Running => DaemonState::Running,
        ProcessState::Unresponsive => DaemonState::Unresponsive,
        ProcessState::Stopping => DaemonState::Stopping,
    }
}

impl Supervisor<'_> {
    /// Publishes that a configuration was rejected, with the reasons; or, without reasons, that the last one was
    /// accepted.
    pub(super) fn show_rejection(&self, reasons: &[String]) {
        let rejection = (!reasons.is_empty()).then(|| Rejection {
            at: Time::now(),
            reasons: logging::first_lines(reasons).map(Into::into).collect(),
        });
        self.publisher.update(|facts| {
            facts.counts.rejections += u64::from(rejection.is_some());
            if rejection.is_none() {
                facts.configuration.set_rolled_back(None);
            }
            facts.configuration.rejected = rejection;
        });
    }

    /// Publishes the state of the daemons.
    pub(super) fn show_daemons(&self, now: Instant) {
        self.publisher.heartbeat();
        let daemon_status = |i: usize| {
            let (state, crashes) = self.policy.daemon_state(i, now);
            let state = status_of(state);
            let record = &self.processes[i].history;
            DaemonStatus {
                name: self.processes[i].daemon.kind.to_string(),
                pid: self.processes[i]
                    .child
                    .as_ref()
                    .map(|child| child.pid.as_raw_nonzero().get().unsigned_abs()),
                state,
                since: record.since,
                failures: record.failures,
                restarts: record.starts.saturating_sub(1),
                consecutive_failures: crashes,
                last_exit: record.last_exit.clone(),
            }
        };
        self.publisher.update_daemons((0..self.processes.len()).map(daemon_status).collect());
    }

    /// Publishes which services are retained.
    pub(super) fn show_retained(&self) {
        let is_announced = self.config.active.store.part(DaemonKind::Bgpd).is_some();
        let retention = self.services.retention.as_ref().filter(|_| is_announced);
        let all = || retention.into_iter().flat_map(Retention::retained_prefixes);
        let retained: Vec<String> = all().take(MAX_LISTED_SERVICES).map(ToString::to_string).collect();
        let unlisted = all().count() - retained.len();
        self.publisher.update(|facts| {
            (facts.retained, facts.retained_unlisted) = (retained, unlisted);
            facts.session_changes += 1;
        });
    }

    /// Publishes which services are announced to no leaf.
    pub(super) fn show_unannounced(&self) {
        let mut by_reason: BTreeMap<Unannounced, Vec<String>> = BTreeMap::new();
        for (prefix, why) in self.services.retention.iter().flat_map(Retention::unannounced) {
            by_reason.entry(why.clone()).or_default().push(prefix.to_string());
        }
        self.publisher.update(|facts| facts.unannounced = by_reason);
    }

    /// Reads the counters of the namespace.
    pub(super) fn probe(&mut self) {
        match self.kernel.probe.as_mut().map(Probe::read) {
            Some(Ok(findings)) => self.publisher.update_findings(findings),
            Some(Err(e)) => log::debug!("the counters of the namespace cannot be read: {e}"),
            None => {}
        }
    }

    /// Requests new session states, and publishes the notifications in bgpd's log.
    pub(super) fn show_notifications(&mut self) {
        // Read the counters first: packets that are dropped from now on may be the cause of the change.
        self.probe();
        let lines: Vec<String> = self
            .processes
            .iter_mut()
            .filter_map(|p| p.child.as_mut())
            .flat_map(Child::take_notifications)
            .collect();
        self.publisher.update(|facts| {
            facts.add_notifications(lines.iter().filter_map(|line| BgpNotification::parse(line)));
            facts.session_changes += 1;
        });
    }

    /// Publishes that the supervisor is stopping.
    pub(super) fn show_stop(&self) {
        self.publisher.update(|facts| facts.set_phase(NodePhase::Stopping));
    }
}
