//! Drift of FRR's configuration: compares the running configuration of the daemons with the one that the supervisor has
//! given them, to detect changes by another vtysh.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::Supervisor;
use super::back_off::back_off;
use super::change::{RepairReport, Task, start_repair};
use super::part::Part;
use crate::frr::collect::CollectTimer;
use crate::frr::delta::{self, Step, VtyCommand};
use crate::frr::vty::{Query, socket};
use crate::frr::{Daemon, DaemonKind, Version};
use crate::printable::first;

/// Interval between two checks, and what each byte of a daemon's running configuration adds to it: a daemon needs some
/// 5 ms to print 100 kB.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
const INTERVAL_PER_BYTE: Duration = Duration::from_micros(50);

/// Time from a change by the supervisor until a daemon's running configuration counts as the expected one.
const QUIET_TIME: Duration = Duration::from_secs(2);

/// Delay between a failed repair and the next attempt; it doubles with each further failure.
const REPAIR_RETRY: Duration = CHECK_INTERVAL;
/// Longest delay between two attempts: whoever holds the lock of mgmtd releases it from time to time.
const MAX_REPAIR_RETRY: Duration = Duration::from_secs(30);

/// Repairs that were refused or had no effect after which only a restart can help.
const MAX_REFUSALS: u32 = 3;

/// Number of changes in a row that are all logged. Of the later ones, only those are logged whose number is a power of
/// two.
const LOGGED_CHANGES: u32 = 5;
/// If a daemon has had no change for this long, its next change counts as the first one.
const RESET_AFTER: Duration = Duration::from_secs(600);

/// Largest number of lines in a log line.
const MAX_LOGGED_LINES: usize = 20;

/// Daemons that are checked: those that are configured by vty. mgmtd shows the configuration of zebra and staticd.
const CHECKED_DAEMONS: [DaemonKind; 3] = [DaemonKind::Bgpd, DaemonKind::Bfdd, DaemonKind::Mgmtd];

/// Result of a check or of a repair.
#[derive(Debug, PartialEq, Eq)]
pub enum DriftEvent {
    /// Someone else has changed the daemon's running configuration: the lines, each with `+` or `-`, the number of
    /// changes in a row, and whether to log the change.
    Detected(DaemonKind, Vec<String>, u32, bool),
    /// The repair to do.
    Repair(DriftRepair),
    /// These lines are not repaired, for this reason; the next attempt follows after this delay.
    RepairFailed(DaemonKind, Vec<String>, String, Duration),
    /// The daemon runs with the expected configuration again; whether to log that.
    Resolved(DaemonKind, bool),
}

/// What restores the expected configuration of a daemon.
#[derive(Debug, PartialEq, Eq)]
pub enum DriftRepair {
    /// Commands.
    Commands(Step),
    /// A restart of the daemon.
    Restart(DaemonKind),
}

/// The drift of a daemon that does not run with the expected configuration.
#[derive(Debug)]
struct OpenDrift {
    lines: Vec<String>,
    is_logged: bool,
    /// Failed repairs in a row.
    failures: u32,
    /// Those of them that did not fail for a transient reason.
    refusals: u32,
    /// Earliest next repair.
    not_before: Instant,
    /// Reason of the last failure.
    reason: Option<String>,
}

/// The checks and their state.
#[derive(Debug)]
pub struct DriftMonitor {
    version: Version,
    expected: BTreeMap<DaemonKind, String>,
    queries: Vec<(DaemonKind, Query)>,
    /// Abandoned queries. They are closed while nothing is being configured: see `Supervisor::finished_queries`.
    abandoned: Vec<(DaemonKind, Query)>,
    open: BTreeMap<DaemonKind, OpenDrift>,
    /// For each daemon, when it was last restarted because of a change, and how often in a row.
    restarts: BTreeMap<DaemonKind, (Instant, u32)>,
    /// For each daemon, the number of changes in a row, and when the last one was detected.
    changes: BTreeMap<DaemonKind, (u32, Instant)>,
    next_check_at: Instant,
    collect: CollectTimer,
}

impl DriftMonitor {
    /// Starts without an expected configuration.
    pub fn new(version: Version, now: Instant) -> Self {
        Self {
            version,
            expected: BTreeMap::new(),
            queries: vec![],
            abandoned: vec![],
            open: BTreeMap::new(),
            restarts: BTreeMap::new(),
            changes: BTreeMap::new(),
            next_check_at: now + QUIET_TIME,
            collect: CollectTimer::default(),
        }
    }

    /// Forgets the expected configuration of a daemon, which got another one or is a new process.
    pub fn reset(&mut self, daemon: DaemonKind, now: Instant) {
        self.expected.remove(&daemon);
        self.open.remove(&daemon);
        self.abandoned.extend(self.queries.extract_if(.., |(queried, _)| *queried == daemon));
        self.next_check_at = self.next_check_at.min(now + QUIET_TIME);
    }

    /// Forgets the expected configuration of all daemons.
    pub fn reset_all(&mut self, now: Instant) {
        CHECKED_DAEMONS.into_iter().for_each(|daemon| self.reset(daemon, now));
    }

    /// When to collect replies. A check starts when a liveness check wakes the loop anyway.
    pub fn deadline(&self) -> Option<Instant> {
        self.collect.deadline().filter(|_| !self.queries.is_empty())
    }

    /// Does the next step. While not `quiet`, the running configuration may contain lines that are not part of the
    /// expected one. With `enforce`, differences are repaired.
    pub fn step(
        &mut self,
        quiet: bool,
        enforce: bool,
        daemons: &[&'static Daemon],
        now: Instant,
    ) -> Vec<DriftEvent> {
        if !quiet {
            self.abandoned.append(&mut self.queries);
            self.next_check_at = self.next_check_at.max(now + QUIET_TIME);
            return vec![];
        }
        self.abandoned.clear();
        if self.next_check_at <= now {
            self.next_check_at = now + CHECK_INTERVAL;
            let queried =
                daemons.iter().map(|daemon| daemon.kind).filter(|name| CHECKED_DAEMONS.contains(name));
            let start = |name: DaemonKind| {
                Some((name, Query::show(&socket(name), ["enable", "show running-config"]).ok()?))
            };
            self.queries = queried.filter_map(start).collect();
            self.collect.start(now);
        }
        if !self.collect.take_due(now) {
            return vec![];
        }
        let mut events = vec![];
        for (daemon, mut query) in std::mem::take(&mut self.queries) {
            match query.poll_replies() {
                Ok(None) => self.queries.push((daemon, query)),
                Ok(Some(replies)) => {
                    if let Some(running) = replies.into_iter().nth(1).filter(|reply| reply.success) {
                        let length = u32::try_from(running.text.len()).unwrap_or(u32::MAX);
                        self.next_check_at += INTERVAL_PER_BYTE.saturating_mul(length);
                        events.extend(self.compare(daemon, running.text, enforce, now));
                    }
                    self.abandoned.push((daemon, query));
                }
                Err(_) => {}
            }
        }
        if !self.queries.is_empty() {
            // The configuration of a node with many VNIs arrives in parts: the delay stays short.
            self.collect.start(now);
        }
        events
    }

    fn compare(
        &mut self,
        daemon: DaemonKind,
        running: String,
        enforce: bool,
        now: Instant,
    ) -> Vec<DriftEvent> {
        if let Entry::Vacant(expected) = self.expected.entry(daemon) {
            expected.insert(running);
            return vec![];
        }
        let Some((lines, commands)) = self.difference(daemon, &running) else {
            return self.resolve(daemon).into_iter().collect();
        };
        let mut events = vec![];
        if self.open.get(&daemon).is_none_or(|open| open.lines != lines) {
            let (count, last) = self.changes.get(&daemon).copied().unwrap_or((0, now));
            let count = if now - last < RESET_AFTER { count.saturating_add(1) } else { 1 };
            self.changes.insert(daemon, (count, now));
            let is_logged = count <= LOGGED_CHANGES || count.is_power_of_two();
            events.push(DriftEvent::Detected(daemon, lines.clone(), count, is_logged));
            let open =
                OpenDrift { lines, is_logged, failures: 0, refusals: 0, not_before: now, reason: None };
            self.open.insert(daemon, open);
        }
        if let Some(open) = self.open.get(&daemon).filter(|open| enforce && open.not_before <= now) {
            match commands {
                Some(commands) if open.refusals < MAX_REFUSALS => {
                    events.push(DriftEvent::Repair(DriftRepair::Commands(Step { daemon, commands })));
                }
                _ => events.push(self.restart(daemon, now)),
            }
        }
        events
    }

    /// Restarts the daemon. The restarts back off, so that a conflicting writer does not cause a restart loop.
    fn restart(&mut self, daemon: DaemonKind, now: Instant) -> DriftEvent {
        let (last, count) = self.restarts.get(&daemon).copied().unwrap_or((now, 0));
        let delay = back_off(REPAIR_RETRY, count, RESET_AFTER);
        let since = now - last;
        if count > 0
            && since < delay
            && let Some(open) = self.open.get_mut(&daemon)
        {
            open.not_before = last + delay;
            let reason =
                format!("{daemon} was already restarted for such a change {} s ago", since.as_secs());
            return DriftEvent::RepairFailed(daemon, open.lines.clone(), reason, delay - since);
        }
        self.restarts.insert(daemon, (now, if since < 2 * RESET_AFTER { count + 1 } else { 1 }));
        DriftEvent::Repair(DriftRepair::Restart(daemon))
    }

    /// The lines in which the running configuration differs from the expected one, and the commands that repair it.
    /// `None` if there is no difference.
    fn difference(
        &self,
        daemon: DaemonKind,
        running: &str,
    ) -> Option<(Vec<String>, Option<Vec<VtyCommand>>)> {
        let expected = self.expected.get(&daemon).filter(|expected| *expected != running)?;
        let (lines, commands) = delta::drift(daemon, running, expected, self.version);
        (!lines.is_empty()).then_some((lines, commands))
    }

    fn resolve(&mut self, daemon: DaemonKind) -> Option<DriftEvent> {
        self.open.remove(&daemon).map(|open| DriftEvent::Resolved(daemon, open.is_logged))
    }

    /// Processes the result of a repair by commands.
    pub fn repair_finished(&mut self, report: RepairReport, now: Instant) -> Option<DriftEvent> {
        let RepairReport { daemon, result } = report;
        let (reason, is_transient) = match result {
            Ok(running) if self.difference(daemon, &running).is_none() => return self.resolve(daemon),
            Ok(_) => {
                let reason =
                    format!("{daemon} accepted all commands, but its running configuration still differs");
                (reason, false)
            }
            Err(failure) => failure,
        };
        let open = self.open.get_mut(&daemon)?;
        let delay = back_off(REPAIR_RETRY, open.failures, MAX_REPAIR_RETRY);
        open.failures = open.failures.saturating_add(1);
        open.refusals += u32::from(!is_transient);
        open.not_before = now + delay;
        self.next_check_at = self.next_check_at.min(open.not_before);
        let last_reason = open.reason.replace(reason.clone());
        (last_reason.as_ref() != Some(&reason))
            .then(|| DriftEvent::RepairFailed(daemon, open.lines.clone(), reason, delay))
    }
}

/// Drift of the daemons' configuration.
#[derive(Debug)]
pub(super) struct ConfigDrift {
    pub(super) monitor: DriftMonitor,
    /// The running repair of a daemon's configuration.
    pub(super) repair: Option<Task<RepairReport>>,
    /// The next repairs.
    pub(super) queued: VecDeque<Step>,
}

impl ConfigDrift {
    pub(super) fn new(version: Version, now: Instant) -> Self {
        Self { monitor: DriftMonitor::new(version, now), repair: None, queued: VecDeque::new() }
    }
}

/// The checks for drift, and the repairs.
pub(super) struct DriftPart;

impl Part for DriftPart {
    fn runs_while_stopping(&self) -> bool {
        false
    }

    fn add_fds<'a>(&self, supervisor: &'a Supervisor<'_>, fds: &mut Vec<PollFd<'a>>) {
        fds.extend(supervisor.config.drift.repair.as_ref().map(|task| PollFd::new(task, PollFlags::IN)));
    }

    fn deadline(&self, supervisor: &Supervisor<'_>) -> Option<Instant> {
        supervisor.config.drift.monitor.deadline().filter(|_| supervisor.policy.is_complete())
    }

    fn step(&self, supervisor: &mut Supervisor<'_>, now: Instant) -> io::Result<()> {
        supervisor.check_drift(now);
        Ok(())
    }
}

impl Supervisor<'_> {
    /// Checks whether the daemons run with the expected configuration, and repairs it.
    fn check_drift(&mut self, now: Instant) {
        let mut drift_events = vec![];
        if let Some(task) = self.config.drift.repair.take_if(|task| task.is_finished()) {
            // If the thread has panicked, the next check finds the result.
            drift_events.extend(
                task.join().and_then(|report| self.config.drift.monitor.repair_finished(report, now)),
            );
        }
        let is_settling = self.services.is_retaining()
            || self.services.released.is_some()
            || self.ending.graceful_shutdown.is_some();
        let configuring = self.is_configuring() || !self.config.drift.queued.is_empty();
        let quiet = self.policy.is_complete() && !configuring && !is_settling;
        let enforce = self.config.active.config.settings.enforce_config;
        drift_events.extend(self.config.drift.monitor.step(quiet, enforce, &self.daemons(), now));
        for event in drift_events {
            self.process_drift_event(event, enforce);
        }
        if !self.is_configuring()
            && let Some(step) = self.config.drift.queued.pop_front()
        {
            self.config.drift.repair = start_repair(step)
                .inspect_err(|e| log::error!("the repair of FRR's configuration cannot be started: {e}"))
                .ok();
        }
    }

    fn process_drift_event(&mut self, event: DriftEvent, enforce: bool) {
        match event {
            DriftEvent::Resolved(daemon, is_logged) => {
                let level = if is_logged { log::Level::Info } else { log::Level::Debug };
                log::log!(level, daemon = daemon; "{daemon} runs with the expected configuration again");
                self.publisher.update(|facts| drop(facts.drift.remove(daemon.name())));
            }
            DriftEvent::Detected(daemon, lines, count, is_logged) => {
                let level = if is_logged { log::Level::Warn } else { log::Level::Debug };
                let again =
                    if count > 1 { format!(" again ({count} times in a row)") } else { String::new() };
                let then =
                    if enforce { "repairing it" } else { "not repaired, because ENFORCE_CONFIG=false" };
                log::log!(
                    level,
                    daemon = daemon;
                    "{daemon}: the running configuration was changed by someone else{again}: {}; {then}",
                    first(MAX_LOGGED_LINES, &lines)
                );
                // Drift that is repaired at once is no problem.
                if !enforce {
                    self.publisher.update(|facts| drop(facts.drift.insert(daemon.to_string(), lines)));
                }
            }
            DriftEvent::Repair(DriftRepair::Commands(step)) => self.config.drift.queued.push_back(step),
            DriftEvent::Repair(DriftRepair::Restart(daemon)) => {
                log::warn!(
                    daemon = daemon;
                    "{daemon}: commands cannot repair the running configuration: restarting {daemon}"
                );
                self.restart_with_backends(daemon);
            }
            DriftEvent::RepairFailed(daemon, lines, reason, delay) => {
                log::error!(
                    daemon = daemon;
                    "{daemon}: the running configuration cannot be repaired: {reason}; retrying in {} s (after \
                     {MAX_REFUSALS} refused attempts by a restart of {daemon})",
                    delay.as_secs()
                );
                self.publisher.update(|facts| drop(facts.drift.insert(daemon.to_string(), lines)));
            }
        }
    }
}

#[cfg(test)]
mod tests;
