//! What follows from a configuration file that is another now.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use super::build::Build;
use super::change::{Change, Task, begin_to_tidy};
use super::policy::Event;
use super::{End, Supervisor};
use crate::config::{Config, Problem, file};
use crate::frr::delta::{Delta, Step, delta, ways};
use crate::frr::{Version, files, held, sources};
use crate::logging;
use crate::node::{Candidate, line};

/// How long a change waits for daemons that don't run with their configuration, which it may be the remedy for.
const WAIT: Duration = Duration::from_secs(30);

/// Before what failed for another reason than its content is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// Until the end of a daemon that cut a change short has been seen.
const NOTICED: Duration = Duration::from_secs(1);

/// A change that so many times in a row was cut short by the end of a daemon may be what ends it.
const INTERRUPTIONS: u32 = 3;

/// The first FRR in which a VRF with a VNI can go.
const VRFS_GO: Version = Version(10, 6);

/// What there is to say when there is nothing to do.
const SAME: &str = "the configuration file says what is in force";

/// Where a change stops.
const KEPT: &str = "the configuration in force stays";

/// A configuration that waits until another change is done, or all daemons run with what they have.
#[derive(Debug)]
pub(super) struct Wanted {
    config: Config,
    /// Nothing is done before.
    not_before: Instant,
    /// Daemons are not waited for any longer.
    until: Instant,
    /// How often it was cut short by the end of a daemon.
    interruptions: u32,
}

impl Wanted {
    fn new(config: Config, now: Instant) -> Self {
        Self { config, not_before: now, until: now + WAIT, interruptions: 0 }
    }

    /// When it may be begun.
    pub(super) fn due(&self, complete: bool) -> Instant {
        if complete { self.not_before } else { self.until.max(self.not_before) }
    }
}

/// Why a change is not begun.
enum Rejected {
    /// It will not do.
    Refused(Vec<String>),
    /// Something else is in its way, which may pass.
    Unable(Vec<String>),
}

impl Rejected {
    fn unable(e: impl ToString) -> Self {
        Self::Unable(line(e))
    }

    /// What came of a check of FRR's: that of what was checked, or that there was none.
    fn of_check(e: &io::Error, words: String) -> Self {
        if e.kind() == io::ErrorKind::InvalidData {
            Self::Refused(vec![words])
        } else {
            Self::Unable(vec![words])
        }
    }
}

/// What the file says with the environment.
#[derive(Debug)]
pub(super) struct Contents {
    config: Result<Config, Problem>,
    /// What is wrong with it.
    problems: Vec<Problem>,
    /// It is not the content that is wrong.
    unreadable: bool,
}

impl Contents {
    /// Reads the file that `base`, the environment alone, names.
    fn of(base: &Config) -> Self {
        let (config, problems) = base.with_file();
        let is_wrong = config.is_err() || !problems.is_empty();
        let unreadable = is_wrong && base.file.as_ref().is_some_and(|path| !file::is_readable(path));
        Self { config, problems, unreadable }
    }
}

/// The file is being read, on a thread of its own: a large one, or a slow disk, must not delay the start of a daemon.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) task: Task<Contents>,
    /// It counts even if it says the same.
    again: bool,
    /// It was changed meanwhile, and is read again afterwards; whether that counts even if it says the same.
    outdated: Option<bool>,
}

impl Supervisor<'_> {
    /// Reads the file if it may be another, and goes on with what changes because of it.
    pub(super) fn follow_file(&mut self, events: &mut VecDeque<Event>, now: Instant) {
        if self.signals.take_reload() {
            // A template may be another, too.
            self.read_file(true, now);
        }
        if self.read_again.is_some_and(|at| at <= now) {
            self.read_file(false, now);
        }
        if let Some(watch) = &mut self.watch {
            watch.drain(now);
            if watch.take_due(now) {
                self.read_file(false, now);
            }
        }
        if let Some(reading) = self.reading.take_if(|reading| reading.task.is_over()) {
            let contents = reading.task.join();
            self.take_in(contents.unwrap_or_else(|| Contents::of(self.base)), reading.again, now);
            if let Some(again) = reading.outdated {
                self.read_file(again, now);
            }
        }
        if let Some(change) = self.change.take_if(|change| change.task.is_over()) {
            self.changed(change, events);
        }
        if self.build.as_mut().is_some_and(|build| build.is_digested(now)) {
            self.build();
        }
        self.tidying.take_if(|task| task.is_over());
        let complete = self.policy.is_complete();
        if !self.is_changing()
            && let Some(wanted) = self.wanted.take_if(|wanted| wanted.due(complete) <= now)
        {
            self.interruptions = wanted.interruptions;
            let (problems, again) = match self.change_to(wanted.config.clone(), events) {
                Ok(()) => return,
                Err(Rejected::Refused(problems)) => (problems, false),
                Err(Rejected::Unable(problems)) => (problems, true),
            };
            if self.rejected != problems {
                problems.iter().for_each(|problem| log::error!("{problem}"));
                let then = if again { "; it is tried again every 10 s" } else { "" };
                log::error!("the configuration is not changed: {KEPT}{then}");
                self.show_rejection(&problems);
                self.rejected = problems;
            }
            if again {
                self.wanted = Some(Wanted { not_before: now + AGAIN, ..wanted });
            }
        }
    }

    /// Whether commands of ours are on their way to daemons.
    pub(super) fn is_changing(&self) -> bool {
        self.change.is_some() || self.build.is_some() || self.tidying.is_some() || self.enforcing.is_some()
    }

    /// The same, or vtysh loads what a daemon is to have.
    pub(super) fn is_configuring(&self) -> bool {
        self.load.is_some() || self.is_changing() || self.carriers.is_configuring()
    }

    /// Begins to read the file. `again`: it counts even if it says the same.
    fn read_file(&mut self, again: bool, now: Instant) {
        self.read_again = None;
        if let Some(reading) = &mut self.reading {
            reading.outdated = Some(again || reading.outdated.unwrap_or_default());
            return;
        }
        let base = self.base.clone();
        match Task::begin(move || Contents::of(&base)) {
            Ok(task) => self.reading = Some(Reading { task, again, outdated: None }),
            // No thread can be had.
            Err(_) => self.take_in(Contents::of(self.base), again, now),
        }
    }

    /// Takes in what the file says: all of it, or nothing. `again`: even if it says the same.
    fn take_in(&mut self, contents: Contents, again: bool, now: Instant) {
        let Contents { config, problems, unreadable } = contents;
        let first = !std::mem::replace(&mut self.has_read, true);
        let in_force = !self.node.texts.are_of_another();
        // What was left out of it at the start is known.
        if first && in_force && config.as_ref().is_ok_and(|config| self.node.has_taken(config)) && !again {
            return;
        }
        let mut problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let config = config.map_err(|problem| problems.push(problem.to_string())).ok();
        match config.filter(|_| problems.is_empty()) {
            Some(config) if in_force && config == self.node.config && self.change.is_none() && !again => {
                self.wanted = None;
                self.rejected.clear();
                self.show_rejection(&[]);
                log::info!("{SAME}");
            }
            Some(config) => {
                self.rejected.clear();
                self.wanted = Some(Wanted::new(config, now));
            }
            None => {
                if self.rejected != problems {
                    self.show_rejection(&problems);
                    logging::problems(&problems);
                    log::error!("the configuration file is not taken: {KEPT}");
                    self.rejected = problems;
                }
                // No one may touch it again where the fault was not the file's.
                self.read_again = unreadable.then_some(now + AGAIN);
            }
        }
    }

    /// Begins to change to `config`, or does all of it if that takes no commands.
    fn change_to(&mut self, config: Config, events: &mut VecDeque<Event>) -> Result<(), Rejected> {
        let candidate = self.node.prepare(config).map_err(Rejected::Unable)?;
        if let Some(objection) = self.history.objection(&candidate.config, &candidate.text) {
            return Err(Rejected::Refused(vec![objection]));
        }
        if candidate.text == self.text {
            if candidate.config == self.node.config && !self.node.texts.are_of_another() {
                self.show_rejection(&[]);
                log::info!("{SAME}");
            } else {
                self.adopt(candidate, 0, vec![]);
                self.history.same_text(self.node);
            }
            return Ok(());
        }
        let other_daemons = self.node.daemons(&candidate.config) != self.daemons;
        let way = match delta(&self.text, &candidate.text, self.node.version) {
            Delta::Wrong(reason) => Delta::Wrong(reason),
            _ if other_daemons => Delta::Restart(&[], "other daemons are needed, or in another order".into()),
            _ if !self.policy.is_complete() || !self.policy.is_whole() => {
                Delta::Restart(&[], "not all daemons run with the configuration in force".into())
            }
            // It crashes, or bgpd does not let go of the VRF: seen with 10.3, and not with 10.7.
            Delta::Commands(_, late) if !late.is_empty() && self.node.version < VRFS_GO => Delta::Restart(
                &[],
                format!("zebra of FRR {} does not get over the end of a VRF", self.node.version),
            ),
            way => way,
        };
        match way {
            Delta::Commands(mut steps, late) => {
                // Commands alone do not show that FRR reads all of a template of the operator's at the next start.
                if candidate.config.template.is_some() {
                    let text = &candidate.text;
                    files::check(text).map_err(|e| rejected(&e, &candidate, text, true))?;
                }
                if self.hold.is_under_way() {
                    held::spare(&mut steps);
                }
                let commands = text(&steps);
                files::check(&commands).map_err(|e| rejected(&e, &candidate, &commands, false))?;
                let (from, to, version) = (candidate.text.clone(), self.text.clone(), self.node.version);
                let back = move || match delta(&from, &to, version) {
                    Delta::Commands(back, forget) => [back, forget].concat(),
                    Delta::Restart(..) | Delta::Wrong(_) => vec![],
                };
                self.change = Some(Change::begin(candidate, steps, back, late).map_err(Rejected::unable)?);
                self.board.tell(|local| local.counts.changing = true);
            }
            Delta::Wrong(reason) => return Err(Rejected::Refused(vec![reason])),
            Delta::Restart(which, reason) => {
                let text = &candidate.text;
                files::check(text).map_err(|e| rejected(&e, &candidate, text, true))?;
                self.accept(&candidate);
                if other_daemons {
                    log::warn!(
                        "{reason}: all daemons start anew, and the kernel goes on forwarding meanwhile"
                    );
                    self.end = Some(End::Reconfigured(Box::new(candidate.config)));
                    events.push_back(Event::Stop);
                    return Ok(());
                }
                let who = if which.is_empty() { "all daemons".into() } else { which.join(" and ") };
                log::warn!("this can't be changed by commands: {reason}; {who} start anew with it");
                // It would go on in those that start.
                self.end_load();
                self.read_parts();
                self.adopt(candidate, 0, vec![]);
                events.push_back(Event::Changed { may_fall_back: self.node.texts.may_fall_back() });
                let named = |i: &usize| which.is_empty() || which.contains(&self.daemons[*i].name);
                events.extend((0..self.daemons.len()).filter(named).map(Event::Renew));
            }
        }
        Ok(())
    }

    /// A change by commands is over.
    fn changed(&mut self, change: Change, events: &mut VecDeque<Event>) {
        let Change { candidate, commands, late, began, task } = change;
        let result = task.result();
        self.board.tell(|local| local.counts.changing = false);
        match result {
            Ok(()) => {
                self.accept(&candidate);
                self.read_parts();
                self.adopt(candidate, commands, late);
                events.push_back(Event::Changed { may_fall_back: self.node.texts.may_fall_back() });
            }
            Err(refused) => {
                let source = origin(&candidate, &refused.command, None);
                self.board.tell(|local| local.counts.rollbacks += 1);
                let interruptions = self.interruptions.saturating_add(1);
                let often = interruptions >= INTERRUPTIONS;
                // What someone else's vtysh holds up ends no daemon.
                if refused.interrupted && (!often || refused.locked) {
                    let reason = refused.reason;
                    let pause = if often {
                        if interruptions == INTERRUPTIONS {
                            log::error!("{reason}: {KEPT}; it is tried again every {} s", AGAIN.as_secs());
                        }
                        self.show_rejection(&[reason]);
                        AGAIN
                    } else {
                        log::warn!(
                            "{reason}: the change was cut short and is taken back; it is made again when all daemons run"
                        );
                        NOTICED
                    };
                    // Unless the file says something else by now.
                    let now = Instant::now();
                    let wanted = Wanted::new(candidate.config, now);
                    let again = Wanted { interruptions, not_before: now + pause, ..wanted };
                    self.wanted.get_or_insert(again);
                } else {
                    let often = if refused.interrupted { ", several times in a row" } else { "" };
                    log::error!("{}{source}{often}: taken back, {KEPT}", refused.reason);
                    self.show_rejection(&[format!("{}{source}{often}", refused.reason)]);
                }
                for (i, daemon) in self.daemons.iter().enumerate() {
                    // One that was started meanwhile has what it had before.
                    let child = self.children[i].as_ref();
                    let was_there = child.is_some_and(|child| child.age() >= began.elapsed());
                    if refused.unclean.contains(daemon.name) && was_there {
                        log::warn!("{} does not run with what it had before: it starts anew", daemon.name);
                        events.extend(self.renewed_with(daemon.name));
                    }
                }
            }
        }
    }

    /// Puts its text in force.
    fn accept(&mut self, candidate: &Candidate) {
        self.node.texts.accept(candidate.text.clone());
        self.history.accepted();
    }

    /// What FRR runs with, and the file says, is the node's: the kernel follows; `late` is for FRR when it has.
    fn adopt(&mut self, candidate: Candidate, commands: usize, late: Vec<Step>) {
        self.node.texts.have_theirs();
        self.show_rejection(&[]);
        self.follow(candidate, Some(commands), late);
    }

    /// Has the kernel follow what FRR runs with.
    pub(super) fn follow(&mut self, candidate: Candidate, commands: Option<usize>, late: Vec<Step>) {
        let begin = Instant::now();
        match self.node.adopt(candidate) {
            Ok(changes) => self.build = Some(Build::new(changes, commands, late, begin)),
            Err(e) => {
                log::error!("{e}; the kernel follows as soon as it can");
                self.repairs.changed(begin);
                self.tidying = begin_to_tidy(late);
            }
        }
        self.show_configuration();
        // Where no daemon was told of anything, what someone else has changed is still his.
        let untold = commands == Some(0);
        if !untold {
            self.drift.forget_all(begin);
            self.to_enforce.clear();
        }
        self.board.tell(|local| {
            if !untold {
                local.drift.clear();
            }
            local.configuration.left_out.clear();
        });
        self.workloads_at = self.node.config.overlay.has_gateways().then_some(begin);
        self.build();
    }

    /// Makes some changes of the kernel, and says so when all are made.
    fn build(&mut self) {
        let Some(mut build) = self.build.take() else { return };
        match self.node.build(&mut build.changes) {
            Ok(false) => {
                log::debug!("{} changes in the kernel are left", build.changes.left());
                build.told(Instant::now());
                self.build = Some(build);
                return;
            }
            Ok(true) => {}
            Err(e) => log::error!("{e}"),
        }
        let Build { changes, began, commands, late, .. } = build;
        let changes = self.node.built(changes, began);
        self.tidying = begin_to_tidy(late);
        let ms = began.elapsed().as_millis();
        self.board.tell(|local| {
            local.counts.changes += 1;
            local.counts.change_ms = u64::try_from(ms).unwrap_or(u64::MAX);
        });
        match commands {
            Some(commands) => log::info!(
                "the configuration file is in force: {commands} commands to FRR, {changes} changes in the kernel ({ms} ms)"
            ),
            None => log::info!(
                "the devices are those of the configuration that held: {changes} changes ({ms} ms)"
            ),
        }
    }
}

/// What came of a check of `told`, which is indented or not, with the origin of what is refused.
fn rejected(e: &io::Error, candidate: &Candidate, told: &str, indented: bool) -> Rejected {
    let named = files::named_line(e).and_then(|line| ways(told, indented).nth(line.checked_sub(1)?));
    let (way, line) = named.unwrap_or_default();
    Rejected::of_check(e, format!("{e}{}", origin(candidate, line, Some(&way))))
}

/// Where a command comes from that is refused, in words; `way`: the contexts that it is in, if they are known.
fn origin(candidate: &Candidate, command: &str, way: Option<&[&str]>) -> String {
    let raw = &candidate.config.overlay.raw;
    let sources = sources(raw, &candidate.text, command, way);
    let sources: Vec<&str> = sources.into_iter().map(|i| raw[i].source.as_str()).collect();
    if sources.is_empty() { String::new() } else { format!(", of {}", sources.join(" or ")) }
}

/// The commands as a file for vtysh.
fn text(steps: &[Step]) -> String {
    let commands = steps.iter().flat_map(|step| &step.commands);
    commands.map(|command| format!("{}\n", command.text)).collect()
}
