//! The configuration file: reads it when it may have changed.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};

use super::Supervisor;
use super::change::Task;
use super::part::Part;
use super::reload::{KEPT, PendingConfig, RETRY_DELAY};
use super::watch::FileWatch;
use crate::config::{Config, WithFile};
use crate::logging;
use crate::model::FilePath;
use crate::reconciler::Job;

/// Log message if there is nothing to change.
pub(super) const UNCHANGED: &str = "the configuration file matches the active configuration";

/// A running read of the file. It has a separate thread: a large file, or a slow disk, must not delay the restart of a
/// daemon.
#[derive(Debug)]
pub(super) struct FileRead {
    pub(super) task: Task<Option<WithFile>>,
    /// Apply the configuration even if it equals the active one.
    force: bool,
    /// The file has changed meanwhile and must be read again, with this value of `force`.
    repeat: Option<bool>,
}

/// The configuration file.
#[derive(Debug)]
pub(super) struct ConfigFile {
    /// The watch on the configuration file, if there is one.
    pub(super) watch: Option<FileWatch>,
    pub(super) read: Option<FileRead>,
    pub(super) pending: Option<PendingConfig>,
    /// How often in a row the running change was interrupted before.
    pub(super) interruptions: u32,
    /// The last reported problems of the file, so that they are logged once.
    pub(super) reported_problems: Vec<String>,
    /// The problems of the entries of the last file that was read.
    pub(super) left_out: Vec<String>,
    /// When to read the file again without an event.
    pub(super) reread_at: Option<Instant>,
    /// Whether the file was read since it is watched.
    pub(super) has_read: bool,
}

impl ConfigFile {
    pub(super) fn new(base: &Config, now: Instant) -> Self {
        Self {
            watch: base.settings.config_file.as_ref().and_then(watch_file),
            read: None,
            pending: None,
            interruptions: 0,
            reported_problems: vec![],
            left_out: vec![],
            // The file may have changed before it was watched.
            reread_at: base.settings.config_file.as_ref().map(|_| now),
            has_read: false,
        }
    }
}

/// The file's watch and the running read.
pub(super) struct FilePart;

impl Part for FilePart {
    fn runs_while_stopping(&self) -> bool {
        false
    }

    fn add_fds<'a>(&self, supervisor: &'a Supervisor<'_>, fds: &mut Vec<PollFd<'a>>) {
        let file = &supervisor.config.file;
        fds.extend(file.watch.as_ref().map(|watch| PollFd::new(watch, PollFlags::IN)));
        fds.extend(file.read.as_ref().map(|read| PollFd::new(&read.task, PollFlags::IN)));
    }

    fn deadline(&self, supervisor: &Supervisor<'_>) -> Option<Instant> {
        let file = &supervisor.config.file;
        file.watch.as_ref().and_then(FileWatch::due).into_iter().chain(file.reread_at).min()
    }

    fn step(&self, supervisor: &mut Supervisor<'_>, now: Instant) -> io::Result<()> {
        supervisor.step_file(now);
        Ok(())
    }
}

impl Supervisor<'_> {
    /// Reads the file if it may have changed.
    fn step_file(&mut self, now: Instant) {
        if self.signals.take_reload() {
            // A template may have changed, too.
            self.read_file(self.config.base.settings.frr_template.is_some(), now);
        }
        if self.config.file.reread_at.is_some_and(|at| at <= now) {
            self.read_file(false, now);
        }
        if let Some(watch) = &mut self.config.file.watch {
            watch.read_events(now);
            if watch.take_due(now) {
                self.read_file(false, now);
            }
        }
        if let Some(read) = self.config.file.read.take_if(|read| read.task.is_finished()) {
            match read.task.join() {
                Some(Some(contents)) => self.process_contents(contents, read.force, now),
                Some(None) if self.can_set_sources() && self.config.active.is_complete() => {
                    self.file_unchanged();
                }
                // Another configuration is about to become active.
                Some(None) => self.start_read(read.force, true, now),
                // The thread has panicked.
                None => self.read_at_once(read.force, now),
            }
            if let Some(force) = read.repeat {
                self.read_file(force, now);
            }
        }
    }

    /// Starts to read the file. `force`: apply the configuration even if it equals the active one.
    fn read_file(&mut self, force: bool, now: Instant) {
        self.config.file.reread_at = None;
        if let Some(read) = &mut self.config.file.read {
            read.repeat = Some(force || read.repeat.unwrap_or_default());
            return;
        }
        self.start_read(force, force, now);
    }

    /// Starts to read the file. `whole`: even if the files are those that the active configuration was read from.
    fn start_read(&mut self, force: bool, whole: bool, now: Instant) {
        let (base, accepted) = (self.config.base.clone(), self.config.active.config.objects.clone());
        let read =
            move || if whole { Some(base.with_file(&accepted)) } else { base.with_changed_file(&accepted) };
        match Task::start(read) {
            Ok(task) => self.config.file.read = Some(FileRead { task, force, repeat: None }),
            // No thread is available.
            Err(_) => self.read_at_once(force, now),
        }
    }

    fn read_at_once(&mut self, force: bool, now: Instant) {
        let contents = self.config.base.with_file(&self.config.active.config.objects);
        self.process_contents(contents, force, now);
    }

    /// Processes what was read. What the file has lost, and what is invalid in it, stays as it is; everything else is
    /// applied. `force`: apply the configuration even if it equals the active one.
    fn process_contents(&mut self, contents: WithFile, force: bool, now: Instant) {
        let WithFile { config, problems, is_lost } = contents;
        let is_first = !std::mem::replace(&mut self.config.file.has_read, true);
        let is_active = !self.config.active.store.is_substitute();
        // What was left out of the configuration at the start was reported then.
        if is_first
            && is_active
            && config.as_ref().is_ok_and(|config| self.config.active.is_current(config))
            && !force
        {
            return;
        }
        let mut problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let config = config.map_err(|problem| problems.push(problem.to_string())).ok();
        let has_new_problems = self.config.file.reported_problems != problems;
        if has_new_problems {
            logging::problems(&problems);
            self.config.file.reported_problems.clone_from(&problems);
        }
        // An unreadable file may become readable without an event.
        self.config.file.reread_at = is_lost.then_some(now + RETRY_DELAY);
        let Some(config) = config.filter(|_| !is_lost) else {
            if has_new_problems {
                let path = self.config.base.settings.config_file.as_ref().map_or("", FilePath::as_str);
                log::error!("the configuration file is rejected (CONFIG_FILE={path}): {KEPT}");
                self.show_rejection(&problems);
            }
            return;
        };
        self.config.file.left_out = problems;
        // What was kept because of errors can be removed now.
        let is_corrected = self.config.active.config.overlay.incomplete && !config.overlay.incomplete;
        if is_active
            && config == *self.config.active.config
            && !is_corrected
            && self.can_set_sources()
            && !force
        {
            self.config.file.pending = None;
            self.set_sources(Arc::new(config));
            self.show_rejection(&[]);
            self.show_left_out();
            match self.config.file.left_out.is_empty() {
                true => log::info!("{UNCHANGED}"),
                false if has_new_problems => {
                    log::error!("nothing else has changed in the configuration file: {KEPT}")
                }
                false => {}
            }
        } else {
            self.config.file.pending = Some(PendingConfig::new(Arc::new(config), now));
        }
    }

    /// Whether no job of the reconciler can replace the active configuration at this moment.
    fn can_set_sources(&self) -> bool {
        self.config.change.is_adopted() && self.kernel.check.is_none()
    }

    /// The files are those that the active configuration was read from.
    fn file_unchanged(&mut self) {
        self.config.file.pending = None;
        self.config.file.reported_problems.clear();
        self.config.file.left_out.clear();
        self.config.file.reread_at = None;
        if !std::mem::replace(&mut self.config.file.has_read, true) {
            return;
        }
        self.show_rejection(&[]);
        self.show_left_out();
        log::info!("{UNCHANGED}");
    }

    /// The sources have changed, and what they make up has not. No job of the reconciler may replace the active
    /// configuration at the same time.
    pub(super) fn set_sources(&mut self, config: Arc<Config>) {
        self.config.active.config = Arc::clone(&config);
        self.node.reconciler.send(Job::SetSources(config));
    }

    /// Publishes what of the file is left out, or keeps its last accepted version.
    pub(super) fn show_left_out(&self) {
        let problems = logging::first_lines(&self.config.file.left_out).map(Into::into).collect();
        self.publisher.update(|facts| facts.configuration.left_out = problems);
    }
}

fn watch_file(path: &FilePath) -> Option<FileWatch> {
    FileWatch::new(Path::new(path.as_str()))
        .inspect_err(|e| {
            log::warn!("CONFIG_FILE: cannot be watched for changes: {e}; send SIGHUP to read it again")
        })
        .ok()
}
