//! Jobs that install, remove and prune the backup routes. They run on a separate thread, since there may be tens of
//! thousands of routes: no daemon waits for them. See `kernel::backup_routes` for what backup routes are.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use rustix::event::{PollFd, PollFlags};

use super::Supervisor;
use super::change::Task;
use super::part::Part;
use crate::frr::Version;
use crate::kernel::{BackupRoutes, RemoveOriginals};

/// The first FRR version whose zebra adopts existing IPv4 routes with an IPv6 next hop unchanged, if they refer to a
/// next-hop object.
const ADOPTS_NEXTHOP_OBJECTS: Version = Version(10, 7);

/// The line of frr.conf that disables next-hop objects. frr.conf has it in the host's namespace.
const NO_NEXTHOP_OBJECTS: &str = "no zebra nexthop kernel enable";

/// Delay until the next attempt if no thread or file descriptor is available.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// A job for the backup routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupJob {
    /// Install copies of the BGP routes; they stay for this long.
    Install(RemoveOriginals, Duration),
    /// Remove all backup routes.
    Remove,
    /// Remove the backup routes to these services, as far as the BGP routes are gone.
    Prune(BTreeSet<IpNet>),
    /// Remove the next hops over the link with this index, which has lost its carrier.
    RemoveLink(u32),
}

/// The queue of jobs and the running job.
#[derive(Debug, Default)]
pub struct BackupRouteJobs {
    /// When to remove the backup routes.
    pub until: Option<Instant>,
    queue: VecDeque<BackupJob>,
    running: Option<Task<FinishedJob>>,
    /// Whether the running job installs routes.
    installing: bool,
    /// When to retry a job that could not be started.
    pub retry_at: Option<Instant>,
}

type FinishedJob = (BackupJob, io::Result<usize>, Duration);

impl BackupRouteJobs {
    /// Queues a job, unless it equals the last one in the queue.
    fn push(&mut self, job: BackupJob) {
        if self.queue.back() != Some(&job) {
            self.queue.push_back(job);
        }
    }

    /// Whether backup routes are being installed.
    pub fn is_installing(&self) -> bool {
        self.running.is_some() && self.installing
            || self.queue.iter().any(|job| matches!(job, BackupJob::Install(..)))
    }

    /// Starts the next job if none is running.
    fn start_next(&mut self, open: impl Fn() -> io::Result<BackupRoutes>, now: Instant) {
        if self.running.is_some() || self.retry_at.is_some_and(|at| now < at) {
            return;
        }
        let failed = self.retry_at.take().is_some();
        let Some(job) = self.queue.pop_front() else { return };
        self.installing = matches!(job, BackupJob::Install(..));
        let retry = job.clone();
        match open().and_then(|routes| Task::start(move || run_job(routes, job))) {
            Ok(task) => self.running = Some(task),
            Err(e) => {
                if !failed {
                    log::error!(
                        "backup routes cannot be changed: {e}; packets may be lost while zebra or bgpd restarts; retrying every second"
                    );
                }
                // A new zebra may be running by then, and the routes that it has installed must not be removed.
                self.queue.push_front(match retry {
                    BackupJob::Install(_, window) => BackupJob::Install(RemoveOriginals::None, window),
                    other => other,
                });
                self.retry_at = Some(now + RETRY_DELAY);
            }
        }
    }

    /// Logs the result of the running job, after waiting for it.
    fn finish_job(&mut self) {
        if let Some(finished) = self.running.take().and_then(Task::join) {
            log_result(finished);
        }
    }
}

fn run_job(mut routes: BackupRoutes, job: BackupJob) -> FinishedJob {
    let started = Instant::now();
    let result = match &job {
        BackupJob::Install(remove_originals, _) => routes.install(*remove_originals),
        BackupJob::Remove => routes.remove(),
        BackupJob::Prune(prefixes) => routes.prune(prefixes),
        BackupJob::RemoveLink(index) => routes.remove_link(*index),
    };
    (job, result, started.elapsed())
}

fn log_result((job, result, took): FinishedJob) {
    match (job, result) {
        (_, Ok(0)) => {}
        (BackupJob::Install(_, window), Ok(n)) => {
            log::info!(
                "{n} backup routes installed for {} s (took {} µs)",
                window.as_secs(),
                took.as_micros()
            );
        }
        (BackupJob::Remove, Ok(n)) => log::info!("{n} backup routes removed"),
        (BackupJob::Prune(_), Ok(n)) => log::info!("{n} backup routes to withdrawn services removed"),
        (BackupJob::RemoveLink(_), Ok(n)) => {
            log::info!("{n} backup routes over a link without carrier removed")
        }
        (BackupJob::Install(..), Err(e)) => {
            log::error!(
                "backup routes cannot be installed: {e}; packets may be lost until the restarted daemon has its routes"
            );
        }
        (_, Err(e)) => log::error!(
            "backup routes cannot be removed: {e}; they are those with protocol 201 (ip route show table all proto 201)"
        ),
    }
}

/// The jobs for the backup routes, and their removal.
pub(super) struct BackupPart;

impl Part for BackupPart {
    fn add_fds<'a>(&self, supervisor: &'a Supervisor<'_>, fds: &mut Vec<PollFd<'a>>) {
        fds.extend(supervisor.kernel.backup.running.as_ref().map(|task| PollFd::new(task, PollFlags::IN)));
    }

    fn deadline(&self, supervisor: &Supervisor<'_>) -> Option<Instant> {
        let BackupRouteJobs { until, retry_at, .. } = supervisor.kernel.backup;
        until.into_iter().chain(retry_at).min()
    }

    fn step(&self, supervisor: &mut Supervisor<'_>, now: Instant) -> io::Result<()> {
        if supervisor.kernel.backup.until.is_some_and(|until| until <= now) {
            supervisor.kernel.backup.until = None;
            supervisor.kernel.backup.push(BackupJob::Remove);
        }
        supervisor.run_backup_jobs();
        Ok(())
    }
}

impl Supervisor<'_> {
    /// Installs backup routes before a daemon can remove the BGP routes: bgpd's successor changes none before its
    /// sessions are established, which wait for this job (`Supervisor::allow_due_connects`); zebra's successor sweeps
    /// none for a minute (`-K60`).
    pub(super) fn install_backup_routes(&mut self, new_zebra: bool) {
        let window = self.window();
        let remove_originals = match (new_zebra, self.can_zebra_damage_routes()) {
            (false, _) => RemoveOriginals::None,
            (true, true) => RemoveOriginals::Ipv4ViaIpv6,
            (true, false) => RemoveOriginals::WithoutNexthopObject,
        };
        self.kernel.backup.until = Some(Instant::now() + window);
        self.queue_backup_job(BackupJob::Install(remove_originals, window));
    }

    /// Queues a job for the backup routes.
    pub(super) fn queue_backup_job(&mut self, job: BackupJob) {
        self.kernel.backup.push(job);
        self.run_backup_jobs();
    }

    /// Processes a finished job and starts the next one.
    fn run_backup_jobs(&mut self) {
        if self.kernel.backup.running.as_ref().is_some_and(Task::is_finished) {
            self.kernel.backup.finish_job();
        }
        let router = &self.node.router;
        self.kernel.backup.start_next(|| router.backup_routes(), Instant::now());
    }

    /// Whether a new zebra damages existing IPv4 routes with an IPv6 next hop.
    fn can_zebra_damage_routes(&self) -> bool {
        self.node.version < ADOPTS_NEXTHOP_OBJECTS
            || self.config.active.store.document().has_line(NO_NEXTHOP_OBJECTS)
    }

    /// Called before zebra starts. If a new zebra damages existing routes, this waits until the jobs have removed them.
    pub(super) fn await_backup_jobs(&mut self) {
        let must_wait = self.can_zebra_damage_routes();
        while must_wait && (self.kernel.backup.running.is_some() || !self.kernel.backup.queue.is_empty()) {
            self.kernel.backup.finish_job();
            let router = &self.node.router;
            self.kernel.backup.start_next(|| router.backup_routes(), Instant::now());
            if self.kernel.backup.retry_at.is_some() {
                return;
            }
        }
    }
}
