//! Backup routes: when they are made and removed, on a thread of their own, since there may be tens of thousands: no daemon
//! waits for that. See `kernel::shadow` for what they are.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::Supervisor;
use super::change::Task;
use crate::frr::Version;
use crate::kernel::{BackupRoutes, Spoils};

/// The first FRR whose zebra takes IPv4 routes over an IPv6 next hop over as they are, if they name a next-hop object.
const TAKES_OBJECTS: Version = Version(10, 7);

/// The line of frr.conf with which it names none: so it is in the host's namespace.
const WITHOUT_OBJECTS: &str = "no zebra nexthop kernel enable";

/// From one attempt to the next, where there is no thread or descriptor for it.
const AGAIN: Duration = Duration::from_secs(1);

/// Something to do about backup routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// Copy the BGP routes; they stay for so long.
    Install(Spoils, Duration),
    /// Remove them all.
    Remove,
    /// Remove those to these services that are gone.
    RemoveGone(BTreeSet<IpNet>),
    /// Remove next hops over the link with this index, which has lost its carrier.
    RemoveLink(u32),
}

/// What is to be done, and what is under way.
#[derive(Debug, Default)]
pub struct Reserve {
    /// When the backup routes go.
    pub until: Option<Instant>,
    queue: VecDeque<Job>,
    running: Option<Task<Done>>,
    /// What runs copies routes.
    installing: bool,
    /// Nothing could be begun: when it is tried again.
    pub again: Option<Instant>,
}

type Done = (Job, io::Result<usize>, Duration);

impl Reserve {
    /// Something is to be done when all before it is. What is to be done already is not to be done twice.
    fn push(&mut self, job: Job) {
        if self.queue.back() != Some(&job) {
            self.queue.push_back(job);
        }
    }

    /// What to poll.
    pub fn task(&self) -> Option<&Task<Done>> {
        self.running.as_ref()
    }

    /// Whether routes are being copied.
    pub fn is_installing(&self) -> bool {
        self.running.is_some() && self.installing
            || self.queue.iter().any(|job| matches!(job, Job::Install(..)))
    }

    /// Begins the next job if none is under way.
    fn begin(&mut self, open: impl Fn() -> io::Result<BackupRoutes>, now: Instant) {
        if self.running.is_some() || self.again.is_some_and(|at| now < at) {
            return;
        }
        let failed = self.again.take().is_some();
        let Some(job) = self.queue.pop_front() else { return };
        self.installing = matches!(job, Job::Install(..));
        let again = job.clone();
        match open().and_then(|routes| Task::begin(move || carry_out(routes, job))) {
            Ok(task) => self.running = Some(task),
            Err(e) => {
                if !failed {
                    log::error!(
                        "backup routes can't be changed: {e}; some packets may be lost; it is tried again every second"
                    );
                }
                // A new zebra may be at work by then, and what it has installed is not to be taken from it.
                self.queue.push_front(match again {
                    Job::Install(_, window) => Job::Install(Spoils::Nothing, window),
                    other => other,
                });
                self.again = Some(now + AGAIN);
            }
        }
    }

    /// Takes in what is done.
    fn finish(&mut self) {
        if let Some(done) = self.running.take().and_then(Task::join) {
            tell(done);
        }
    }
}

fn carry_out(mut routes: BackupRoutes, job: Job) -> Done {
    let begin = Instant::now();
    let result = match &job {
        Job::Install(spoils, _) => routes.install(*spoils),
        Job::Remove => routes.remove(),
        Job::RemoveGone(prefixes) => routes.remove_gone(prefixes),
        Job::RemoveLink(index) => routes.remove_link(*index),
    };
    (job, result, begin.elapsed())
}

fn tell((job, result, took): Done) {
    match (job, result) {
        (_, Ok(0)) => {}
        (Job::Install(_, window), Ok(n)) => {
            log::info!("{n} routes are in reserve for {} s ({} µs)", window.as_secs(), took.as_micros());
        }
        (Job::Remove, Ok(n)) => log::info!("{n} reserve routes removed"),
        (Job::RemoveGone(_), Ok(n)) => log::info!("{n} reserve routes to services that are gone removed"),
        (Job::RemoveLink(_), Ok(n)) => log::info!("{n} reserve routes over a link without a carrier removed"),
        (Job::Install(..), Err(e)) => {
            log::error!("routes can't be kept in reserve: {e}; some packets may be lost");
        }
        (_, Err(e)) => log::error!("reserve routes can't be removed: {e}"),
    }
}

impl Supervisor<'_> {
    /// Has the BGP routes kept in reserve, before anyone has a chance to remove them: bgpd's successor
    /// changes none before its sessions are up, which wait for this (`Supervisor::unhush`); zebra's sweeps nothing for a minute (`-K60`).
    pub(super) fn cover(&mut self, new_zebra: bool) {
        let window = self.window();
        let spoils = match (new_zebra, self.zebra_spoils()) {
            (false, _) => Spoils::Nothing,
            (true, true) => Spoils::OtherFamily,
            (true, false) => Spoils::WithoutObject,
        };
        self.reserve.until = Some(Instant::now() + window);
        self.reserve_job(Job::Install(spoils, window));
    }

    /// Has the backup routes removed.
    pub(super) fn uncover(&mut self) {
        self.reserve.until = None;
        self.reserve_job(Job::Remove);
    }

    /// Has something done about backup routes.
    pub(super) fn reserve_job(&mut self, job: Job) {
        self.reserve.push(job);
        self.go_on_with_reserve();
    }

    /// Takes in what is done, and begins what is next.
    pub(super) fn go_on_with_reserve(&mut self) {
        if self.reserve.running.as_ref().is_some_and(Task::is_over) {
            self.reserve.finish();
        }
        let kernel = &self.node.kernel;
        self.reserve.begin(|| kernel.backup_routes(), Instant::now());
    }

    /// Whether a new zebra spoils IPv4 routes over an IPv6 next hop that it finds.
    fn zebra_spoils(&self) -> bool {
        self.node.version < TAKES_OBJECTS || self.text.lines().any(|line| line == WITHOUT_OBJECTS)
    }

    /// A new zebra is about to start: where it spoils routes that it finds, it waits until they are gone.
    pub(super) fn await_reserve(&mut self) {
        let waits = self.zebra_spoils();
        while waits && (self.reserve.running.is_some() || !self.reserve.queue.is_empty()) {
            self.reserve.finish();
            let kernel = &self.node.kernel;
            self.reserve.begin(|| kernel.backup_routes(), Instant::now());
            if self.reserve.again.is_some() {
                return;
            }
        }
    }
}
