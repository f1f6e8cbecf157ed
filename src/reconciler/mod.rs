//! The reconciler's thread. It has the node: it reads the kernel and changes it, renders FRR's configuration, compares
//! it with the active one and has FRR's parser check it. All of this may take seconds, in which the supervisor's thread
//! restarts daemons. The two threads share nothing but messages: the supervisor sends jobs, which are done one after the
//! other, and gets their outcomes.

mod build;
mod prepare;
mod roll_back;

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::setpriority_process;
use rustix::thread::gettid;

use crate::children;
use crate::config::Config;
use crate::frr::DaemonKind;
use crate::memory;
use crate::model::IfName;
use crate::node::{ActiveConfig, Candidate, CheckOutcome, Node, RollbackHistory};
use crate::time::Time;

pub use prepare::{Prepared, Rejected, Request, origin};
pub use roll_back::{Devices, RollBack};

/// Interval between two times at which free memory is given back to the kernel.
const TRIM_INTERVAL: Duration = Duration::from_secs(60);

/// The nice value of the thread: the supervisor and the daemons come first.
const NICE: i32 = 0;

/// A job that makes no progress for so long is stuck. A check by vtysh takes 30 s at most, and a job has a few of them.
const STUCK_AFTER: Duration = Duration::from_secs(180);

/// What the reconciler is to do.
#[derive(Debug)]
pub enum Job {
    /// Compare the kernel's state with the desired state, and repair drift. The outcome is [`Outcome::Checked`].
    Check,
    /// Compare kernel parameters, whose changes the kernel does not announce. The outcome is [`Outcome::SysctlDrift`],
    /// or nothing.
    CheckSysctls,
    /// Have the kernel probe silent workloads. There is no outcome.
    RefreshNeighbours,
    /// Find out how to change to another configuration. Changes nothing. The outcome is [`Outcome::Prepared`].
    Prepare(Request),
    /// Make the candidate the active configuration, which FRR has already, and change the kernel. The outcome is
    /// [`Outcome::Built`].
    Adopt(Box<Candidate>),
    /// The sources have changed, and what they make up has not. There is no outcome.
    SetSources(Arc<Config>),
    /// Store this configuration as the last-known-good one. There is no outcome.
    MarkGood(Box<ActiveConfig>),
    /// Roll back to the last-known-good configuration, because this daemon keeps crashing with the active one. The
    /// outcome is [`Outcome::RolledBack`], and then perhaps [`Outcome::Built`].
    RollBack(DaemonKind),
}

/// What came of a job.
#[derive(Debug)]
pub enum Outcome {
    /// Of [`Job::Check`].
    Checked(Checked),
    /// A kernel parameter has drifted.
    SysctlDrift,
    /// Of [`Job::Prepare`].
    Prepared(Box<Result<Prepared, Rejected>>),
    /// Of [`Job::RollBack`]; or why there is no rollback.
    RolledBack(Box<io::Result<RollBack>>),
    /// The kernel was changed: the number of changes, or why it cannot be read.
    Built(Result<usize, String>, NodeView),
}

/// The result of a check.
#[derive(Debug)]
pub struct Checked {
    /// What was found and done.
    pub outcome: CheckOutcome,
    /// How long it took.
    pub took: Duration,
    /// The active configuration, which the check may have changed.
    pub active: Box<ActiveConfig>,
    /// What the supervisor needs to know of the node now.
    pub view: NodeView,
}

/// What the supervisor needs to know of the node.
#[derive(Debug, Clone, Default)]
pub struct NodeView {
    /// The links that lead to the fabric, by their names in FRR's namespace.
    pub fabric_ports: Vec<IfName>,
    /// Why zebra can't run, if a shared routing table keeps it from running.
    pub zebra_conflict: Option<String>,
    /// A kernel-made route is missing that is repaired only if it stays missing: check again after
    /// [`CONFIRM_DELAY`](crate::kernel::CONFIRM_DELAY).
    pub has_unconfirmed_routes: bool,
}

impl NodeView {
    /// The present state of the node.
    pub fn new(node: &Node) -> Self {
        Self {
            fabric_ports: node.fabric_ports(),
            zebra_conflict: node.zebra_conflict(),
            has_unconfirmed_routes: node.kernel.has_unconfirmed_routes(),
        }
    }
}

/// The supervisor's end of the reconciler. Its descriptor is readable when there is an outcome.
#[derive(Debug)]
pub struct Reconciler {
    jobs: Sender<Job>,
    /// Number of jobs sent.
    sent: u64,
    outcomes: Receiver<Outcome>,
    wake: UnixStream,
    shared: Arc<Shared>,
    thread: JoinHandle<(Node, Box<RollbackHistory>)>,
}

/// What both threads read and write.
#[derive(Debug, Default)]
struct Shared {
    /// Number of jobs done.
    done: AtomicU64,
    /// The supervisor waits for the end of the thread.
    is_ending: AtomicBool,
    /// The running change of the kernel is to stop.
    is_build_abandoned: AtomicBool,
    /// When the present job has begun, or has made progress.
    progress: Mutex<Option<(Instant, Time)>>,
}

impl Reconciler {
    /// Starts the thread.
    ///
    /// # Errors
    /// No thread or descriptor is available.
    pub fn start(node: Node, history: Box<RollbackHistory>) -> io::Result<Self> {
        let (jobs, queue) = channel();
        let (outcome_sender, outcomes) = channel();
        let (wake, waker) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        waker.set_nonblocking(true)?;
        let shared = Arc::new(Shared::default());
        let worker = Worker { node, history, outcomes: outcome_sender, waker, shared: Arc::clone(&shared) };
        let thread = thread::Builder::new().name("reconciler".into()).spawn(move || worker.run(&queue))?;
        Ok(Self { jobs, sent: 0, outcomes, wake, shared, thread })
    }

    /// Queues a job.
    pub fn send(&mut self, job: Job) {
        self.sent += 1;
        // Without a receiver the thread has panicked, and `into_node` does so, too.
        let _ = self.jobs.send(job);
    }

    /// Whether no job is queued or running.
    pub fn is_idle(&self) -> bool {
        self.shared.done.load(Ordering::Acquire) == self.sent
    }

    /// Since when the present job has made no progress, if that is longer than [`STUCK_AFTER`] ago.
    pub fn stuck_since(&self) -> Option<Time> {
        let progress = *self.shared.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.filter(|(at, _)| at.elapsed() > STUCK_AFTER).map(|(_, at)| at)
    }

    /// The outcomes since the last call.
    pub fn take_outcomes(&mut self) -> Vec<Outcome> {
        while matches!(self.wake.read(&mut [0; 64]), Ok(1..)) {}
        self.outcomes.try_iter().collect()
    }

    /// Stops a running change of the kernel after its present step: a rollback follows.
    pub fn abandon_build(&self) {
        self.shared.is_build_abandoned.store(true, Ordering::Release);
    }

    /// Has the thread leave out what changes the node. Its present step ends.
    pub fn begin_end(&self) {
        self.shared.is_ending.store(true, Ordering::Release);
        children::kill_all();
    }

    /// Ends the thread, and returns the node.
    pub fn into_node(self) -> (Node, Box<RollbackHistory>) {
        self.begin_end();
        let Self { jobs, thread, .. } = self;
        drop(jobs);
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    }
}

impl AsFd for Reconciler {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

/// The thread's own state.
struct Worker {
    node: Node,
    history: Box<RollbackHistory>,
    outcomes: Sender<Outcome>,
    waker: UnixStream,
    shared: Arc<Shared>,
}

impl Worker {
    fn run(mut self, queue: &Receiver<Job>) -> (Node, Box<RollbackHistory>) {
        // On failure the thread keeps the priority of the supervisor and the daemons.
        let _ = setpriority_process(Some(gettid()), NICE);
        // What the set-up needed is free now.
        let mut trim_at = Instant::now();
        while let Ok(job) = queue.recv() {
            let is_large = matches!(job, Job::Prepare(_) | Job::Adopt(_) | Job::RollBack(_));
            self.progress(true);
            self.execute(job);
            self.progress(false);
            let now = Instant::now();
            if is_large || trim_at <= now {
                memory::trim();
                trim_at = now + TRIM_INTERVAL;
            }
            self.shared.done.fetch_add(1, Ordering::Release);
        }
        (self.node, self.history)
    }

    /// Reports an outcome.
    fn report(&mut self, outcome: Outcome) {
        // The receiver ignores outcomes when it waits for the end.
        let _ = self.outcomes.send(outcome);
        // A full socket has enough to wake the receiver.
        let _ = self.waker.write(&[0]);
    }

    /// Records that the present job has begun or has made progress; `false`: that it has ended.
    fn progress(&self, is_busy: bool) {
        let now = is_busy.then(|| (Instant::now(), Time::now()));
        *self.shared.progress.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    fn is_ending(&self) -> bool {
        self.shared.is_ending.load(Ordering::Acquire)
    }

    /// Whether a change of the kernel stops before its end.
    fn is_build_over(&self) -> bool {
        self.is_ending() || self.shared.is_build_abandoned.load(Ordering::Acquire)
    }

    fn execute(&mut self, job: Job) {
        match job {
            Job::MarkGood(proven) => {
                self.node.active.store.save_good(&proven.store);
                self.history.mark_good(&proven);
                log::debug!("the active configuration is stored as the last-known-good configuration");
            }
            Job::SetSources(config) => {
                self.node.set_sources(config);
                self.node.publish_configuration();
            }
            // What changes the node has no use any more.
            _ if self.is_ending() => {}
            Job::Check => {
                let begin = Instant::now();
                let before = Arc::clone(self.node.active.store.active());
                let outcome = self.node.check();
                let is_other = *self.node.active.store.active() != before;
                if is_other {
                    self.node.publish_configuration();
                }
                let active = Box::new(self.node.active.clone());
                let view = NodeView::new(&self.node);
                self.report(Outcome::Checked(Checked { outcome, took: begin.elapsed(), active, view }));
            }
            Job::CheckSysctls => {
                if self.node.has_sysctl_drift() {
                    self.report(Outcome::SysctlDrift);
                }
            }
            Job::RefreshNeighbours => self.node.refresh_neighbours(),
            Job::Prepare(request) => {
                let prepared = self.prepare(request);
                self.report(Outcome::Prepared(Box::new(prepared)));
            }
            Job::Adopt(candidate) => self.adopt(*candidate),
            Job::RollBack(daemon) => self.roll_back(daemon),
        }
    }
}
