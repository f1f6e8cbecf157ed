//! Changes of the running configuration: changes FRR and the kernel to another configuration.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::back_off::back_off;
use super::change::{Change, Task, start_cleanup};
use super::config_file::UNCHANGED;
use super::part::Part;
use super::policy::Event;
use super::{End, Supervisor};
use crate::config::Config;
use crate::frr::delta::{Delta, Step, delta, restarted};
use crate::frr::{DaemonKind, retained};
use crate::node::{Candidate, single_problem};
use crate::reconciler::{Job, NodeView, Prepared, Rejected, Request, origin};

/// Longest wait of a change for daemons that do not run with their configuration. The change may be the remedy.
const COMPLETE_TIMEOUT: Duration = Duration::from_secs(30);

/// Delay until the next attempt after a failure whose cause is not the content of the file.
pub(super) const RETRY_DELAY: Duration = Duration::from_secs(10);

/// Delay after an interrupted change. The exit of the daemon is noticed by then.
const INTERRUPTED_DELAY: Duration = Duration::from_secs(1);

/// A change that was interrupted this many times in a row may be what makes the daemon exit: its retries back off.
const MAX_INTERRUPTIONS: u32 = 3;

/// The maximum of that back-off.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(600);

/// End of the log messages about a rejected change.
pub(super) const KEPT: &str = "the previous configuration stays active";

/// A configuration that waits until another change is done, or until all daemons run with the active configuration.
#[derive(Debug)]
pub(super) struct PendingConfig {
    config: Arc<Config>,
    /// Earliest start.
    not_before: Instant,
    /// Longest wait for the daemons.
    until: Instant,
    /// How often the change was interrupted by the exit of a daemon.
    interruptions: u32,
}

impl PendingConfig {
    pub(super) fn new(config: Arc<Config>, now: Instant) -> Self {
        Self { config, not_before: now, until: now + COMPLETE_TIMEOUT, interruptions: 0 }
    }

    /// When to start the change. `complete`: all daemons run with the active configuration.
    pub(super) fn due(&self, complete: bool) -> Instant {
        if complete { self.not_before } else { self.until.max(self.not_before) }
    }
}

/// A change of the running configuration.
#[derive(Debug, Default)]
pub(super) struct RunningChange {
    /// The reconciler's part of the change, if that runs now.
    pub(super) job: Option<ChangeJob>,
    pub(super) commands: Option<Change>,
    /// The running removal of what is left of VRFs in FRR's configuration.
    pub(super) cleanup: Option<Task<()>>,
    /// A rollback that waits for the end of a job, because this daemon keeps crashing.
    pub(super) roll_back: Option<DaemonKind>,
}

impl RunningChange {
    /// Whether no other configuration is about to become active.
    pub(super) fn is_adopted(&self) -> bool {
        self.commands.is_none()
            && self.roll_back.is_none()
            && matches!(self.job, None | Some(ChangeJob::Build(_)))
    }
}

/// What the reconciler does for a change.
#[derive(Debug)]
pub(super) enum ChangeJob {
    /// It finds out how to change to this configuration; whether commands are allowed.
    Prepare(PendingConfig, bool),
    /// It changes the kernel.
    Build(Build),
    /// It rolls back to the last-known-good configuration, because this daemon keeps crashing.
    RollBack(DaemonKind),
}

/// The kernel part of a change.
#[derive(Debug)]
pub(super) struct Build {
    started: Instant,
    /// Number of commands that FRR has executed before; `None` after a rollback.
    commands: Option<usize>,
    /// Steps for FRR after the change of the kernel.
    late: Vec<Step>,
}

impl Build {
    /// The change of the kernel in a rollback.
    pub(super) fn after_rollback(now: Instant) -> Self {
        Self { started: now, commands: None, late: vec![] }
    }
}

/// The changes of the running configuration.
pub(super) struct ChangePart;

impl Part for ChangePart {
    fn runs_while_stopping(&self) -> bool {
        false
    }

    fn add_fds<'a>(&self, supervisor: &'a Supervisor<'_>, fds: &mut Vec<PollFd<'a>>) {
        let change = &supervisor.config.change;
        fds.extend(change.commands.as_ref().map(|change| PollFd::new(&change.task, PollFlags::IN)));
        fds.extend(change.cleanup.as_ref().map(|task| PollFd::new(task, PollFlags::IN)));
    }

    fn deadline(&self, supervisor: &Supervisor<'_>) -> Option<Instant> {
        let complete = supervisor.policy.is_complete();
        let pending = supervisor.config.file.pending.as_ref().filter(|_| !supervisor.is_changing());
        pending.map(|pending| pending.due(complete))
    }

    fn step(&self, supervisor: &mut Supervisor<'_>, now: Instant) -> io::Result<()> {
        supervisor.step_changes(now);
        Ok(())
    }
}

impl Supervisor<'_> {
    /// Continues the changes in progress, and starts the one that waits.
    fn step_changes(&mut self, now: Instant) {
        if let Some(change) = self.config.change.commands.take_if(|change| change.task.is_finished()) {
            self.change_finished(change);
        }
        self.config.change.cleanup.take_if(|task| task.is_finished());
        self.start_roll_back();
        let complete = self.policy.is_complete();
        if !self.is_changing()
            && let Some(pending) = self.config.file.pending.take_if(|pending| pending.due(complete) <= now)
        {
            self.config.file.interruptions = pending.interruptions;
            let allow_commands = self.can_use_commands();
            let config = Arc::clone(&pending.config);
            self.node.reconciler.send(Job::Prepare(Request { config, allow_commands }));
            self.config.change.job = Some(ChangeJob::Prepare(pending, allow_commands));
        }
    }

    /// Whether every daemon runs with the active configuration, so that commands can change it.
    fn can_use_commands(&self) -> bool {
        self.policy.is_complete() && self.policy.has_full_configuration()
    }

    /// Whether the supervisor sends commands to daemons, or changes the kernel.
    pub(super) fn is_changing(&self) -> bool {
        self.config.change.commands.is_some()
            || self.config.change.job.is_some()
            || self.config.change.roll_back.is_some()
            || self.config.change.cleanup.is_some()
            || self.config.drift.repair.is_some()
    }

    /// Whether anything configures a daemon: a change, vtysh, or the removal of stale paths.
    pub(super) fn is_configuring(&self) -> bool {
        self.config.load.running.is_some() || self.is_changing() || self.kernel.carriers.is_configuring()
    }

    /// Starts a change that the reconciler has prepared.
    pub(super) fn change_prepared(&mut self, prepared: Result<Prepared, Rejected>, now: Instant) {
        let Some(ChangeJob::Prepare(pending, allow_commands)) = self.config.change.job.take() else { return };
        let (problems, retry) = match prepared {
            // A daemon has exited meanwhile, or all of them run again; or a rollback comes first.
            Ok(Prepared::Commands { .. } | Prepared::Restart { .. })
                if allow_commands != self.can_use_commands() || self.config.change.roll_back.is_some() =>
            {
                self.config.file.pending.get_or_insert(pending);
                return;
            }
            Ok(prepared) => match self.start_change(prepared) {
                Ok(()) => return,
                Err(e) => (single_problem(e), true),
            },
            Err(Rejected::Invalid(problems)) => (problems, false),
            Err(Rejected::Transient(problems)) => (problems, true),
        };
        if self.config.file.reported_problems != problems {
            problems.iter().for_each(|problem| log::error!("{problem}"));
            let then = if retry { "; retrying every 10 s" } else { "" };
            log::error!("the configuration change is rejected: {KEPT}{then}");
            self.show_rejection(&problems);
            self.config.file.reported_problems = problems;
        }
        if retry {
            // A newer configuration of the file takes precedence.
            self.config
                .file
                .pending
                .get_or_insert(PendingConfig { not_before: now + RETRY_DELAY, ..pending });
        }
    }

    /// Starts a change.
    ///
    /// # Errors
    /// No thread is available.
    fn start_change(&mut self, prepared: Prepared) -> io::Result<()> {
        match prepared {
            Prepared::Unchanged(config) => {
                self.set_sources(config);
                self.show_rejection(&[]);
                self.show_left_out();
                // Otherwise what is left out was logged.
                if self.config.file.left_out.is_empty() {
                    log::info!("{UNCHANGED}");
                }
            }
            Prepared::SameText(candidate) => self.adopt(candidate, 0, vec![]),
            Prepared::Commands { candidate, mut steps, late } => {
                if self.services.is_retaining() {
                    retained::remove_import_check(&mut steps);
                }
                let [from, to] = [&candidate.active, &self.config.active].map(|a| a.store.document().clone());
                let version = self.node.version;
                let undo = move || match delta(&from, &to, version) {
                    Delta::Commands(undo, late) => [undo, late].concat(),
                    Delta::Restart(..) | Delta::Invalid(_) => vec![],
                };
                self.config.change.commands = Some(Change::start(candidate, steps, undo, late)?);
                self.publisher.update(|facts| facts.counts.changing = true);
            }
            Prepared::OtherDaemons(candidate) => {
                log::warn!(
                    "other daemons are needed, or another start order: restarting all daemons; the kernel continues to forward"
                );
                self.ending.end = Some(End::Reconfigured(candidate.active.config));
                self.events.push_back(Event::Stop);
            }
            Prepared::Restart { candidate, daemons: which, reason } => {
                log::warn!("commands cannot apply this change: {reason}; restarting {}", restarted(which));
                // A running load would continue with the new processes.
                self.end_load();
                self.adopt(candidate, 0, vec![]);
                let is_named =
                    |i: &usize| which.is_empty() || which.contains(&self.processes[*i].daemon.kind);
                self.events.extend((0..self.processes.len()).filter(is_named).map(Event::Restart));
            }
        }
        Ok(())
    }

    /// Processes the result of a change by commands.
    fn change_finished(&mut self, change: Change) {
        let Change { candidate, commands, late, started, task } = change;
        let result = task.result();
        self.publisher.update(|facts| facts.counts.changing = false);
        match result {
            Ok(()) => {
                self.adopt(candidate, commands, late);
            }
            Err(error) => {
                let source = origin(&candidate, &error.command, None);
                self.publisher.update(|facts| facts.counts.rollbacks += 1);
                let interruptions = self.config.file.interruptions.saturating_add(1);
                let is_repeated = interruptions >= MAX_INTERRUPTIONS;
                if error.interrupted {
                    let reason = error.reason;
                    let delay = if is_repeated {
                        let more = interruptions.saturating_sub(MAX_INTERRUPTIONS);
                        // A change that only waits for the lock of another vtysh makes no daemon exit.
                        let delay = if error.locked {
                            RETRY_DELAY
                        } else {
                            back_off(RETRY_DELAY, more, MAX_RETRY_DELAY)
                        };
                        if more == 0 || !error.locked {
                            log::error!("{reason}{source}: {KEPT}; retrying in {} s", delay.as_secs());
                        }
                        self.show_rejection(&[format!("{reason}{source}")]);
                        delay
                    } else {
                        log::warn!(
                            "{reason}: the change was interrupted and rolled back; retrying when all daemons run"
                        );
                        INTERRUPTED_DELAY
                    };
                    // A newer configuration of the file takes precedence.
                    let now = Instant::now();
                    let pending = PendingConfig::new(candidate.active.config, now);
                    let again = PendingConfig { interruptions, not_before: now + delay, ..pending };
                    self.config.file.pending.get_or_insert(again);
                } else {
                    log::error!("{}{source}: rolled back, {KEPT}", error.reason);
                    self.show_rejection(&[format!("{}{source}", error.reason)]);
                }
                for (i, daemon) in self.daemons().into_iter().enumerate() {
                    // A daemon that was started meanwhile has the previous configuration.
                    let child = self.processes[i].child.as_ref();
                    let is_older = child.is_some_and(|child| child.age() >= started.elapsed());
                    if error.diverged.contains(&daemon.kind) && is_older {
                        let name = daemon.kind;
                        log::warn!(
                            daemon = name;
                            "{name} does not run with the previous configuration after the rollback: restarting {name}"
                        );
                        self.restart_with_backends(name);
                    }
                }
            }
        }
    }

    /// Makes the candidate the active configuration after FRR runs with it, and starts the change of the kernel. `late`
    /// are FRR's steps after that.
    fn adopt(&mut self, candidate: Candidate, commands: usize, late: Vec<Step>) {
        let now = Instant::now();
        let is_same_text = candidate.active.store.active() == self.config.active.store.active();
        self.config.active.adopt(candidate.active.clone());
        // Another configuration is active than the one that daemons keep crashing with.
        self.config.change.roll_back = None;
        self.show_rejection(&[]);
        self.node.reconciler.send(Job::Adopt(Box::new(candidate)));
        self.kernel_change_started(Build { started: now, commands: Some(commands), late }, now);
        if !is_same_text {
            let can_roll_back = self.config.active.store.can_roll_back();
            self.events.push_back(Event::Changed { can_roll_back });
        }
    }

    /// The reconciler changes the kernel to the active configuration.
    pub(super) fn kernel_change_started(&mut self, build: Build, now: Instant) {
        // Without commands to the daemons, drift of their configuration remains.
        let has_no_commands = build.commands == Some(0);
        if !has_no_commands {
            self.config.drift.monitor.reset_all(now);
            self.config.drift.queued.clear();
        }
        self.publisher.update(|facts| {
            if !has_no_commands {
                facts.drift.clear();
            }
        });
        self.show_left_out();
        self.kernel.workloads_at = self.config.active.config.overlay.has_gateways().then_some(now);
        self.config.change.job = Some(ChangeJob::Build(build));
    }

    /// Logs the result of the kernel's change.
    pub(super) fn kernel_built(&mut self, result: Result<usize, String>, view: NodeView, now: Instant) {
        self.node_changed(view);
        let Some(ChangeJob::Build(Build { started, commands, late })) = self.config.change.job.take() else {
            return;
        };
        if self.config.change.roll_back.is_some() {
            // The change was abandoned.
            return;
        }
        self.config.change.cleanup = start_cleanup(late);
        let changes = match result {
            Ok(changes) => changes,
            Err(e) => {
                log::error!(
                    "the kernel cannot be changed to the new configuration: {e}; FRR has it already; retrying at the next check of \
                     the kernel"
                );
                self.kernel.state_changed(now);
                return;
            }
        };
        let ms = started.elapsed().as_millis();
        self.publisher.update(|facts| {
            facts.counts.changes += 1;
            facts.counts.change_ms = u64::try_from(ms).unwrap_or(u64::MAX);
        });
        match commands {
            Some(commands) => log::info!(
                "the new configuration is active: {commands} commands to FRR, {changes} kernel changes ({ms} ms)"
            ),
            None => log::info!(
                "the devices match the last-known-good configuration: {changes} kernel changes ({ms} ms)"
            ),
        }
    }
}
