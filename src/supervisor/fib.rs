//! Checks whether the kernel has the routes that zebra has selected, and makes zebra install missing ones again. The
//! kernel removes some routes without an event: together with a next-hop object that someone deletes, or with a link
//! that goes down and comes back before zebra notices. zebra does not install a route again when bgpd announces it
//! unchanged, or when the kernel has refused it because of a missing address that the supervisor repairs.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use rustix::event::{PollFd, PollFlags};

use super::Supervisor;
use super::change::Task;
use super::part::Part;
use super::process::Child;
use crate::frr::DaemonKind;
use crate::frr::rib::{
    InstalledRoute, ROUTE_COMMANDS, SUMMARY_COMMANDS, parse_fib_count, parse_installed_routes,
};
use crate::frr::vty::{Terminal, socket};
use crate::kernel::Fib;
use crate::model::{FibRoute, RouteOwner};
use crate::printable::first;

/// Interval between two checks without a reason. For 10,000 routes, zebra and the kernel need some milliseconds.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// Delay from the removal of a next-hop object to the check: several are removed together.
const NEXT_HOP_DELAY: Duration = Duration::from_millis(20);

/// Delay from a route that the kernel has refused to the check: the supervisor may have repaired the cause by then.
const REFUSED_DELAY: Duration = Duration::from_millis(200);

/// Delay from a change of a session or a port to the check: zebra has its routes by then.
const SESSION_DELAY: Duration = Duration::from_secs(3);

/// Shortest time between two checks, and first delay between two attempts to restore the same routes; it doubles with
/// each further attempt.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// Limit of the doublings.
const MAX_DOUBLINGS: u32 = 4;

/// Attempts to restore the same routes after which they are reported as a problem.
const PROBLEM_ATTEMPTS: u32 = 3;

/// A route is missing if a second check after this delay does not find it either.
const CONFIRM_DELAY: Duration = Duration::from_millis(50);

/// Longest wait for a reply of zebra; after it the check is repeated later.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// Resolution of a route's age, which zebra computes from two times in whole seconds.
const AGE_RESOLUTION: Duration = Duration::from_secs(1);

/// Age of a bgpd after which zebra has no routes of the previous one (`-K60`, and FRR's longest deferral of 360 s).
const NO_STALE_ROUTES_AFTER: Duration = Duration::from_secs(600);

/// Largest number of routes that zebra is asked for: its reply takes 1 KB of memory for each.
const MAX_ROUTES: usize = 50_000;

/// Largest number of routes in a log line.
const MAX_LOGGED_ROUTES: usize = 10;

/// Schedule and state of the checks.
#[derive(Debug)]
pub struct FibCheck {
    due: Instant,
    not_before: Instant,
    running: Option<Task<io::Result<Vec<FibRoute>>>>,
    /// Start of the running or last check.
    started: Instant,
    /// The next check compares the routes even if their numbers are equal: a route was refused, or was missing at the
    /// last check.
    compare_all: bool,
    last_missing: BTreeSet<FibRoute>,
    /// Checks in a row that found a route of the check before missing again.
    failed_attempts: u32,
}

impl FibCheck {
    /// No route is known to be missing.
    pub fn new(now: Instant) -> Self {
        Self {
            due: now + CHECK_INTERVAL,
            not_before: now,
            running: None,
            started: now,
            compare_all: false,
            last_missing: BTreeSet::new(),
            failed_attempts: 0,
        }
    }

    fn check_by(&mut self, at: Instant) {
        self.due = self.due.min(at.max(self.not_before));
    }

    /// A next-hop object was removed.
    pub fn next_hop_removed(&mut self, now: Instant) {
        self.check_by(now + NEXT_HOP_DELAY);
    }

    /// The kernel has refused a route.
    pub fn install_failed(&mut self, now: Instant) {
        self.compare_all = true;
        self.check_by(now + REFUSED_DELAY);
    }

    /// A session or a port has changed.
    pub fn sessions_changed(&mut self, now: Instant) {
        self.check_by(now + SESSION_DELAY);
    }

    /// When to start the next check.
    pub fn deadline(&self) -> Option<Instant> {
        self.running.is_none().then_some(self.due)
    }

    /// A check starts. Returns whether to compare the routes even if their numbers are equal.
    fn start(&mut self, now: Instant) -> bool {
        (self.started, self.due, self.not_before) = (now, now + CHECK_INTERVAL, now + MIN_INTERVAL);
        std::mem::take(&mut self.compare_all)
    }

    /// The check has failed.
    fn failed(&mut self, now: Instant) {
        self.compare_all = true;
        self.check_by(now + SESSION_DELAY);
    }

    /// The check has found these routes missing. Returns those that the last check has not found missing, and whether
    /// to report a problem.
    fn finished(&mut self, missing: &[FibRoute], now: Instant) -> (Vec<FibRoute>, bool) {
        let new: Vec<FibRoute> =
            missing.iter().filter(|route| !self.last_missing.contains(route)).copied().collect();
        self.failed_attempts =
            if new.len() < missing.len() { self.failed_attempts.saturating_add(1) } else { 0 };
        self.last_missing = missing.iter().copied().collect();
        if !missing.is_empty() {
            self.compare_all = true;
            // No event causes an earlier check.
            self.not_before = now + MIN_INTERVAL * 2_u32.pow(self.failed_attempts.min(MAX_DOUBLINGS));
            self.check_by(now);
        }
        (new, self.failed_attempts >= PROBLEM_ATTEMPTS)
    }
}

/// The checks of zebra's routes.
pub(super) struct FibPart;

impl Part for FibPart {
    fn runs_while_stopping(&self) -> bool {
        false
    }

    fn add_fds<'a>(&self, supervisor: &'a Supervisor<'_>, fds: &mut Vec<PollFd<'a>>) {
        fds.extend(supervisor.kernel.fib.running.as_ref().map(|task| PollFd::new(task, PollFlags::IN)));
    }

    fn deadline(&self, supervisor: &Supervisor<'_>) -> Option<Instant> {
        supervisor.kernel.fib.deadline()
    }

    fn step(&self, supervisor: &mut Supervisor<'_>, now: Instant) -> io::Result<()> {
        supervisor.check_fib(now);
        Ok(())
    }
}

impl Supervisor<'_> {
    /// Makes zebra install the routes again that the kernel has lost.
    fn check_fib(&mut self, now: Instant) {
        if self.kernel.fib.running.as_ref().is_some_and(Task::is_finished) {
            match self.kernel.fib.running.take().and_then(Task::join) {
                Some(Ok(missing)) => self.report_missing_routes(&missing, now),
                Some(Err(e)) => {
                    log::debug!("zebra's routes cannot be compared with those of the kernel: {e}");
                    self.kernel.fib.failed(now);
                }
                None => self.kernel.fib.failed(now),
            }
        }
        if self.kernel.fib.deadline().is_none_or(|due| due > now) {
            return;
        }
        let Some(age) =
            self.ready_child(DaemonKind::Bgpd).filter(|_| self.policy.is_complete()).map(Child::age)
        else {
            self.kernel.fib.due = now + SESSION_DELAY;
            return;
        };
        let compare_all = self.kernel.fib.start(now);
        let bgpd_age = Some(age).filter(|age| *age < NO_STALE_ROUTES_AFTER);
        let fib = self.node.router.fib();
        let task = fib.and_then(|fib| {
            Task::start(move || {
                restore_missing_routes(fib, &socket(DaemonKind::Zebra), bgpd_age, compare_all)
            })
        });
        match task {
            Ok(task) => self.kernel.fib.running = Some(task),
            Err(e) => {
                log::debug!("the check of zebra's routes cannot be started: {e}");
                self.kernel.fib.failed(now);
            }
        }
    }

    fn report_missing_routes(&mut self, missing: &[FibRoute], now: Instant) {
        let (new, is_problem) = self.kernel.fib.finished(missing, now);
        self.publisher.update_missing_routes(is_problem.then(|| first(MAX_LOGGED_ROUTES, missing)));
        if !new.is_empty() {
            log::warn!(
                daemon = "zebra";
                "repaired in {} µs: zebra installs {} of its routes again, which the kernel had lost: {}",
                self.kernel.fib.started.elapsed().as_micros(),
                new.len(),
                first(MAX_LOGGED_ROUTES, &new)
            );
        }
    }
}

/// Makes zebra install again the routes that are missing in the kernel, and returns them. `bgpd_age`: the age of a bgpd
/// that may be younger than some of zebra's routes. `compare_all`: compare the routes even if their numbers are equal.
fn restore_missing_routes(
    mut fib: Fib,
    zebra: &Path,
    bgpd_age: Option<Duration>,
    compare_all: bool,
) -> io::Result<Vec<FibRoute>> {
    let mut terminal = Terminal::connect(zebra, REPLY_TIMEOUT)?;
    let mut find_missing = || {
        let mut counts = [0; 2];
        for (count, command) in counts.iter_mut().zip(SUMMARY_COMMANDS) {
            *count = parse_fib_count(&terminal.execute(command)?.text).unwrap_or(0);
        }
        let present = fib.routes()?;
        let v6 = present.iter().filter(|(_, prefix)| prefix.addr().is_ipv6()).count();
        let mut expected = vec![];
        for ((command, count), present) in
            ROUTE_COMMANDS.into_iter().zip(counts).zip([present.len() - v6, v6])
        {
            if (count > present || compare_all) && count <= MAX_ROUTES {
                expected.extend(parse_installed_routes(&terminal.execute(command)?.text).unwrap_or_default());
            }
        }
        let missing =
            if expected.is_empty() { vec![] } else { missing_routes(expected, &fib.routes()?, bgpd_age) };
        io::Result::Ok(missing)
    };
    let mut missing = find_missing()?;
    if !missing.is_empty() {
        thread::sleep(CONFIRM_DELAY);
        let still_missing = find_missing()?;
        missing.retain(|route| still_missing.contains(route));
    }
    // An error for one route does not affect the others.
    if let Err(e) = fib.trigger_reinstall(&missing) {
        log::warn!(daemon = "zebra"; "zebra cannot be made to install all missing routes again: {e}");
    }
    Ok(missing)
}

/// The expected routes that are not `present`. Routes of the bgpd before this one are not restored: their next hop may
/// not forward.
fn missing_routes(
    expected: Vec<InstalledRoute>,
    present: &BTreeSet<(u32, IpNet)>,
    bgpd_age: Option<Duration>,
) -> Vec<FibRoute> {
    let is_current = |route: &InstalledRoute| {
        route.route.owner == RouteOwner::Staticd
            || bgpd_age.is_none_or(|bgpd| route.age.is_some_and(|age| age + AGE_RESOLUTION <= bgpd))
    };
    let current = expected.into_iter().filter(is_current).map(|route| route.route);
    current.filter(|route| !present.contains(&(route.table, route.prefix))).collect()
}

#[cfg(test)]
mod tests;
