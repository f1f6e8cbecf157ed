//! Changes of the running configuration: changes FRR and the kernel to another configuration.

use std::io;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::ActiveConfig;
use super::back_off::back_off;
use super::build::Build;
use super::change::{Change, Task, start_cleanup};
use super::config_file::UNCHANGED;
use super::part::Part;
use super::policy::Event;
use super::{End, Supervisor};
use crate::config::Config;
use crate::frr::delta::{Delta, Step, delta, lines_with_path, restarted};
use crate::frr::{Version, check, raw_entries_of, retained};
use crate::node::{Candidate, single_problem};

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

/// The first FRR version that can remove a VRF with a VNI.
const CAN_REMOVE_VRFS: Version = Version(10, 6);

/// End of the log messages about a rejected change.
pub(super) const KEPT: &str = "the previous configuration stays active";

/// A configuration that waits until another change is done, or until all daemons run with the active configuration.
#[derive(Debug)]
pub(super) struct PendingConfig {
    config: Config,
    /// Earliest start.
    not_before: Instant,
    /// Longest wait for the daemons.
    until: Instant,
    /// How often the change was interrupted by the exit of a daemon.
    interruptions: u32,
}

impl PendingConfig {
    pub(super) fn new(config: Config, now: Instant) -> Self {
        Self { config, not_before: now, until: now + COMPLETE_TIMEOUT, interruptions: 0 }
    }

    /// When to start the change. `complete`: all daemons run with the active configuration.
    pub(super) fn due(&self, complete: bool) -> Instant {
        if complete { self.not_before } else { self.until.max(self.not_before) }
    }
}

/// Why a change is not started. Each text is one sentence.
enum StartError {
    /// The configuration is invalid.
    Invalid(Vec<String>),
    /// The cause may pass.
    Transient(Vec<String>),
}

impl StartError {
    fn transient(e: impl ToString) -> Self {
        Self::Transient(single_problem(e))
    }

    /// The error of a check by FRR's parser: `reason` is the result of the check, or why there was none.
    fn from_check(e: &io::Error, reason: String) -> Self {
        if e.kind() == io::ErrorKind::InvalidData {
            Self::Invalid(vec![reason])
        } else {
            Self::Transient(vec![reason])
        }
    }
}

/// A change of the running configuration.
#[derive(Debug, Default)]
pub(super) struct RunningChange {
    pub(super) commands: Option<Change>,
    pub(super) build: Option<Build>,
    /// The running removal of what is left of VRFs in FRR's configuration.
    pub(super) cleanup: Option<Task<()>>,
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
        let ActiveConfig { file, change, .. } = &supervisor.config;
        let complete = supervisor.policy.is_complete();
        let pending = file.pending.as_ref().filter(|_| !supervisor.is_changing());
        let pending = pending.map(|pending| pending.due(complete));
        pending.into_iter().chain(change.build.as_ref().map(Build::deadline)).min()
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
        if self.config.change.build.as_mut().is_some_and(|build| build.is_processed(now)) {
            self.build_batch();
        }
        self.config.change.cleanup.take_if(|task| task.is_finished());
        let complete = self.policy.is_complete();
        if !self.is_changing()
            && let Some(pending) = self.config.file.pending.take_if(|pending| pending.due(complete) <= now)
        {
            self.config.file.interruptions = pending.interruptions;
            let (problems, retry) = match self.start_change(pending.config.clone()) {
                Ok(()) => return,
                Err(StartError::Invalid(problems)) => (problems, false),
                Err(StartError::Transient(problems)) => (problems, true),
            };
            if self.config.file.reported_problems != problems {
                problems.iter().for_each(|problem| log::error!("{problem}"));
                let then = if retry { "; retrying every 10 s" } else { "" };
                log::error!("the configuration change is rejected: {KEPT}{then}");
                self.show_rejection(&problems);
                self.config.file.reported_problems = problems;
            }
            if retry {
                self.config.file.pending = Some(PendingConfig { not_before: now + RETRY_DELAY, ..pending });
            }
        }
    }

    /// Whether the supervisor sends commands to daemons, or changes the kernel.
    pub(super) fn is_changing(&self) -> bool {
        self.config.change.commands.is_some()
            || self.config.change.build.is_some()
            || self.config.change.cleanup.is_some()
            || self.config.drift.repair.is_some()
    }

    /// Whether anything configures a daemon: a change, vtysh, or the removal of stale paths.
    pub(super) fn is_configuring(&self) -> bool {
        self.config.load.running.is_some() || self.is_changing() || self.kernel.carriers.is_configuring()
    }

    /// Starts the change to `config`. A change without commands is done at once.
    fn start_change(&mut self, config: Config) -> Result<(), StartError> {
        let candidate = self.node.prepare(config).map_err(StartError::Transient)?;
        if let Some(reason) = self.config.history.rejection_reason(&candidate.config, &candidate.text) {
            return Err(StartError::Invalid(vec![reason]));
        }
        if candidate.text == self.config.text {
            let is_corrected = self.node.config.overlay.incomplete && !candidate.config.overlay.incomplete;
            if candidate.config == self.node.config
                && !is_corrected
                && !self.node.config_store.is_substitute()
            {
                self.show_rejection(&[]);
                log::info!("{UNCHANGED}");
            } else {
                self.adopt(candidate, 0, vec![]);
                self.config.history.same_text_activated(&self.node);
            }
            return Ok(());
        }
        let needs_other_daemons = self.node.daemons(&candidate.config) != self.daemons();
        let method = match delta(&self.config.text, &candidate.text, self.node.version) {
            Delta::Invalid(reason) => Delta::Invalid(reason),
            _ if needs_other_daemons => {
                Delta::Restart(&[], "other daemons are needed, or another start order".into())
            }
            _ if !self.policy.is_complete() || !self.policy.has_full_configuration() => {
                Delta::Restart(&[], "not all daemons run with the active configuration".into())
            }
            // zebra crashes, or bgpd does not remove the VRF's instance: seen with 10.3, not with 10.7.
            Delta::Commands(_, late) if !late.is_empty() && self.node.version < CAN_REMOVE_VRFS => {
                Delta::Restart(
                    &[],
                    format!("zebra of FRR {} may crash when a VRF is removed", self.node.version),
                )
            }
            method => method,
        };
        match method {
            Delta::Commands(mut steps, late) => {
                // The commands do not show that FRR accepts the whole of an operator's template at the next start.
                if candidate.config.settings.frr_template.is_some() {
                    let text = &candidate.text;
                    check::check(text).map_err(|e| check_error(&e, &candidate, text, true))?;
                }
                if self.services.is_retaining() {
                    retained::remove_import_check(&mut steps);
                }
                steps.iter().chain(&late).for_each(|step| log::debug!("planned: {step}"));
                let commands = text(&steps);
                check::check(&commands).map_err(|e| check_error(&e, &candidate, &commands, false))?;
                let (from, to, version) =
                    (candidate.text.clone(), self.config.text.clone(), self.node.version);
                let undo = move || match delta(&from, &to, version) {
                    Delta::Commands(undo, late) => [undo, late].concat(),
                    Delta::Restart(..) | Delta::Invalid(_) => vec![],
                };
                self.config.change.commands =
                    Some(Change::start(candidate, steps, undo, late).map_err(StartError::transient)?);
                self.publisher.update(|facts| facts.counts.changing = true);
            }
            Delta::Invalid(reason) => return Err(StartError::Invalid(vec![reason])),
            Delta::Restart(which, reason) => {
                let text = &candidate.text;
                check::check(text).map_err(|e| check_error(&e, &candidate, text, true))?;
                self.activate_text(&candidate);
                if needs_other_daemons {
                    log::warn!("{reason}: restarting all daemons; the kernel continues to forward");
                    self.ending.end = Some(End::Reconfigured(Box::new(candidate.config)));
                    self.events.push_back(Event::Stop);
                    return Ok(());
                }
                log::warn!("commands cannot apply this change: {reason}; restarting {}", restarted(which));
                // A running load would continue with the new processes.
                self.end_load();
                self.read_parts();
                self.adopt(candidate, 0, vec![]);
                self.events
                    .push_back(Event::Changed { can_roll_back: self.node.config_store.can_roll_back() });
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
                self.activate_text(&candidate);
                self.read_parts();
                self.adopt(candidate, commands, late);
                self.events
                    .push_back(Event::Changed { can_roll_back: self.node.config_store.can_roll_back() });
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
                    let pending = PendingConfig::new(candidate.config, now);
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

    /// Activates the text of the candidate.
    fn activate_text(&mut self, candidate: &Candidate) {
        self.node.config_store.activate(candidate.text.clone());
        self.config.history.other_activated();
    }

    /// Makes the candidate the node's configuration after FRR runs with it, and starts the change of the kernel. `late`
    /// are FRR's steps after that.
    fn adopt(&mut self, candidate: Candidate, commands: usize, late: Vec<Step>) {
        self.node.config_store.clear_substitute();
        self.show_rejection(&[]);
        self.change_kernel(candidate, Some(commands), late);
    }

    /// Starts the change of the kernel to the configuration that FRR runs with. `commands`: see [`Build::commands`].
    pub(super) fn change_kernel(&mut self, candidate: Candidate, commands: Option<usize>, late: Vec<Step>) {
        let now = Instant::now();
        match self.node.adopt(candidate) {
            Ok(changes) => self.config.change.build = Some(Build::new(changes, commands, late, now)),
            Err(e) => {
                log::error!(
                    "the kernel cannot be changed to the new configuration: {e}; FRR has it already; retrying at the next check of the \
                     kernel"
                );
                self.kernel.repairs.state_changed(now);
                self.config.change.cleanup = start_cleanup(late);
            }
        }
        self.show_configuration();
        // Without commands to the daemons, drift of their configuration remains.
        let has_no_commands = commands == Some(0);
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
        self.kernel.workloads_at = self.node.config.overlay.has_gateways().then_some(now);
        self.build_batch();
    }

    /// Makes the next batch of kernel changes, and logs the result after the last one.
    fn build_batch(&mut self) {
        let Some(mut build) = self.config.change.build.take() else { return };
        match self.node.build(&mut build.changes) {
            Ok(false) => {
                log::debug!("{} kernel changes remain", build.changes.remaining());
                build.batch_done(Instant::now());
                self.config.change.build = Some(build);
                return;
            }
            Ok(true) => {}
            Err(e) => log::error!("{e}"),
        }
        let Build { changes, started, commands, late, .. } = build;
        let changes = self.node.finish_build(changes, started);
        self.config.change.cleanup = start_cleanup(late);
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

/// The error of a check of `checked` by FRR's parser, with the source of the refused line. `indented`: the lines of
/// `checked` are indented.
fn check_error(e: &io::Error, candidate: &Candidate, checked: &str, indented: bool) -> StartError {
    let refused =
        check::refused_line(e).and_then(|line| lines_with_path(checked, indented).nth(line.checked_sub(1)?));
    let (path, line) = refused.unwrap_or_default();
    StartError::from_check(e, format!("{e}{}", origin(candidate, line, Some(&path))))
}

/// The source of a refused command, as the end of a sentence. `path`: the contexts of the command, if known.
fn origin(candidate: &Candidate, command: &str, path: Option<&[&str]>) -> String {
    let raw = &candidate.config.overlay.raw;
    let sources = raw_entries_of(raw, &candidate.text, command, path);
    let sources: Vec<&str> = sources.into_iter().map(|i| raw[i].source.as_str()).collect();
    if sources.is_empty() { String::new() } else { format!(", from {}", sources.join(" or ")) }
}

/// The commands as a file for vtysh.
fn text(steps: &[Step]) -> String {
    let commands = steps.iter().flat_map(|step| &step.commands);
    commands.map(|command| format!("{}\n", command.text)).collect()
}
