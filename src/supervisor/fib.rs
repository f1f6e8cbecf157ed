//! Whether the kernel has the routes that zebra has chosen. It drops some without a word: with a next-hop object that somebody
//! deletes, or with a link that goes down and comes back before zebra has looked; and what bgpd announces again unchanged zebra
//! does not install again. Nor does it try again what the kernel has refused, for want of an address that we put back.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::Supervisor;
use super::change::Task;
use super::process::Child;
use crate::frr::rib::{COUNTS, Installed, ROUTES, count, installed};
use crate::frr::vty::{Session, socket};
use crate::kernel::Fib;
use crate::model::{FibRoute, RouteOwner};
use crate::printable::first;

/// Looked so often although nothing says that something is lost. It takes zebra and the kernel some milliseconds for 10,000 routes.
const EVERY: Duration = Duration::from_secs(30);

/// From the end of a next-hop object until it is looked: several go together.
const NEXT_HOPS: Duration = Duration::from_millis(20);

/// From a route that the kernel has refused until zebra is told of it: what it lacked may be put back by then.
const REFUSED: Duration = Duration::from_millis(200);

/// From a new session, or a port's loss, until zebra has its routes.
const SESSIONS: Duration = Duration::from_secs(3);

/// From one look to the next at least, and from one attempt to see to the same routes to the next; it doubles from there.
const AGAIN: Duration = Duration::from_secs(1);

/// So often it doubles.
const DOUBLED: u32 = 4;

/// So many attempts to see to the same routes, and it is a problem.
const ATTEMPTS: u32 = 3;

/// A route is lost if it is still missing after this.
const CONFIRM: Duration = Duration::from_millis(50);

/// zebra answers within this, or it is tried another time.
const PATIENCE: Duration = Duration::from_secs(5);

/// The age of a route that zebra tells is the difference of two whole seconds.
const SECOND: Duration = Duration::from_secs(1);

/// In a bgpd that has run for so long zebra keeps nothing of the one before (`-K60`, and FRR's longest deferral of 360 s).
const ALONE: Duration = Duration::from_secs(600);

/// zebra is not asked for more routes than these: it takes 1 KB of memory for each to answer.
const MOST: usize = 50_000;

/// How many routes a line of the log names.
const SHOWN: usize = 10;

/// When it is looked, and what became of it.
#[derive(Debug)]
pub struct Routes {
    due: Instant,
    not_before: Instant,
    looking: Option<Task<io::Result<Vec<FibRoute>>>>,
    /// When that began.
    began: Instant,
    /// A route was refused, or missing last time: numbers alone do not tell.
    thorough: bool,
    last: BTreeSet<FibRoute>,
    /// How often in a row some of the routes were those of the last time.
    in_vain: u32,
}

impl Routes {
    /// Nothing is known to be lost.
    pub fn new(now: Instant) -> Self {
        let (due, not_before, began) = (now + EVERY, now, now);
        Self { due, not_before, looking: None, began, thorough: false, last: BTreeSet::new(), in_vain: 0 }
    }

    fn hasten(&mut self, at: Instant) {
        self.due = self.due.min(at.max(self.not_before));
    }

    /// A next-hop object has gone.
    pub fn next_hop_gone(&mut self, now: Instant) {
        self.hasten(now + NEXT_HOPS);
    }

    /// The kernel has refused a route.
    pub fn install_failed(&mut self, now: Instant) {
        self.thorough = true;
        self.hasten(now + REFUSED);
    }

    /// A session, or a port, is another than it was.
    pub fn sessions_changed(&mut self, now: Instant) {
        self.hasten(now + SESSIONS);
    }

    /// When to look.
    pub fn deadline(&self) -> Option<Instant> {
        self.looking.is_none().then_some(self.due)
    }

    /// What to poll.
    pub fn task(&self) -> Option<&Task<io::Result<Vec<FibRoute>>>> {
        self.looking.as_ref()
    }

    /// It is time to look. Whether whatever the numbers of routes are.
    fn begin(&mut self, now: Instant) -> bool {
        (self.began, self.due, self.not_before) = (now, now + EVERY, now + AGAIN);
        std::mem::take(&mut self.thorough)
    }

    /// Nothing came of it.
    fn failed(&mut self, now: Instant) {
        self.thorough = true;
        self.hasten(now + SESSIONS);
    }

    /// These were lost, and zebra was told. Those that were not the last time, and whether it has not helped often enough to be said.
    fn found(&mut self, lost: &[FibRoute], now: Instant) -> (Vec<FibRoute>, bool) {
        let new: Vec<FibRoute> = lost.iter().filter(|route| !self.last.contains(route)).copied().collect();
        self.in_vain = if new.len() < lost.len() { self.in_vain.saturating_add(1) } else { 0 };
        self.last = lost.iter().copied().collect();
        if !lost.is_empty() {
            self.thorough = true;
            // Whatever is said of them meanwhile.
            self.not_before = now + AGAIN * 2_u32.pow(self.in_vain.min(DOUBLED));
            self.hasten(now);
        }
        (new, self.in_vain >= ATTEMPTS)
    }
}

impl Supervisor<'_> {
    /// Has zebra install again what the kernel has lost.
    pub(super) fn watch_routes(&mut self, now: Instant) {
        if self.routes.looking.as_ref().is_some_and(Task::is_over) {
            match self.routes.looking.take().and_then(Task::join) {
                Some(Ok(lost)) => self.routes_lost(&lost, now),
                Some(Err(e)) => {
                    log::debug!("zebra's routes can't be compared with the kernel's: {e}");
                    self.routes.failed(now);
                }
                None => self.routes.failed(now),
            }
        }
        if self.routes.deadline().is_none_or(|due| due > now) {
            return;
        }
        let Some(age) = self.answering("bgpd").filter(|_| self.policy.is_complete()).map(Child::age) else {
            self.routes.due = now + SESSIONS;
            return;
        };
        let thorough = self.routes.begin(now);
        let recent = Some(age).filter(|age| *age < ALONE);
        let fib = self.node.kernel.fib();
        let task = fib.and_then(|fib| Task::begin(move || look(fib, &socket("zebra"), recent, thorough)));
        match task {
            Ok(task) => self.routes.looking = Some(task),
            Err(e) => {
                log::debug!("zebra's routes can't be looked at: {e}");
                self.routes.failed(now);
            }
        }
    }

    fn routes_lost(&mut self, lost: &[FibRoute], now: Instant) {
        let (new, in_vain) = self.routes.found(lost, now);
        self.board.tell_lost_routes(in_vain.then(|| first(SHOWN, lost)));
        if !new.is_empty() {
            log::warn!(
                "put right in {} µs: zebra is told of {} of its routes that the kernel lacked: {}",
                self.routes.began.elapsed().as_micros(),
                new.len(),
                first(SHOWN, &new)
            );
        }
    }
}

/// The routes that the kernel lacks, of which zebra was told. `recent`: bgpd has run for no longer than that; `thorough`: whatever the
/// numbers of routes are.
fn look(mut fib: Fib, zebra: &Path, recent: Option<Duration>, thorough: bool) -> io::Result<Vec<FibRoute>> {
    let mut session = Session::show(zebra, PATIENCE)?;
    let mut missing = || {
        let mut counts = [0; 2];
        for (believed, question) in counts.iter_mut().zip(COUNTS) {
            *believed = count(&session.ask(question)?.text).unwrap_or(0);
        }
        let there = fib.routes()?;
        let v6 = there.iter().filter(|(_, prefix)| prefix.addr().is_ipv6()).count();
        let mut believed = vec![];
        for ((question, counted), there) in ROUTES.into_iter().zip(counts).zip([there.len() - v6, v6]) {
            if (counted > there || thorough) && counted <= MOST {
                believed.extend(installed(&session.ask(question)?.text).unwrap_or_default());
            }
        }
        let lost = if believed.is_empty() { vec![] } else { not_there(believed, &fib.routes()?, recent) };
        io::Result::Ok(lost)
    };
    let mut lost = missing()?;
    if !lost.is_empty() {
        thread::sleep(CONFIRM);
        let still = missing()?;
        lost.retain(|route| still.contains(route));
    }
    // The others were announced all the same.
    if let Err(e) = fib.announce_loss(&lost) {
        log::warn!("zebra can't be told of all routes that the kernel lacks: {e}");
    }
    Ok(lost)
}

/// The routes that are not `there`. What zebra keeps of a bgpd before this one is not to come back: its next hop may not forward.
fn not_there(
    believed: Vec<Installed>,
    there: &BTreeSet<(u32, IpNet)>,
    recent: Option<Duration>,
) -> Vec<FibRoute> {
    let is_current = |route: &Installed| {
        route.route.owner == RouteOwner::Staticd
            || recent.is_none_or(|bgpd| route.age.is_some_and(|age| age + SECOND <= bgpd))
    };
    let lost = believed.into_iter().filter(is_current).map(|route| route.route);
    lost.filter(|route| !there.contains(&(route.table, route.prefix))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(prefix: &str, owner: RouteOwner) -> FibRoute {
        FibRoute { table: 254, prefix: prefix.parse().unwrap(), owner }
    }

    #[test]
    fn what_is_left_of_another_bgpd_does_not_come_back() {
        let believed = || {
            let all =
                [("192.0.2.0/25", RouteOwner::Bgpd, Some(3)), ("192.0.2.128/25", RouteOwner::Bgpd, Some(60))];
            let more = [("::/0", RouteOwner::Staticd, None), ("2001:db8::/64", RouteOwner::Bgpd, None)];
            let all = all.into_iter().chain(more);
            all.map(|(prefix, owner, age)| Installed {
                route: route(prefix, owner),
                age: age.map(Duration::from_secs),
            })
            .collect::<Vec<_>>()
        };
        let none = BTreeSet::new();
        let names = |recent: Option<u64>, there: &BTreeSet<_>| {
            let lost = not_there(believed(), there, recent.map(Duration::from_secs));
            lost.iter().map(|route| route.prefix.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names(Some(10), &none), ["192.0.2.0/25", "::/0"]);
        assert_eq!(names(None, &none).len(), 4);
        let there = believed().into_iter().map(|r| (r.route.table, r.route.prefix)).collect();
        assert_eq!(names(None, &there), Vec::<String>::new());
    }

    #[test]
    fn what_does_not_help_is_told_and_tried_ever_less() {
        let mut now = Instant::now();
        let mut routes = Routes::new(now);
        let [a, b, c] = ["192.0.2.0/25", "192.0.2.128/25", "::/0"].map(|p| route(p, RouteOwner::Bgpd));
        let mut waits = vec![];
        for (turn, lost) in [[a, b], [a, c], [a, b], [a, b], [a, b], [a, b], [a, b]].iter().enumerate() {
            routes.begin(now);
            let (new, in_vain) = routes.found(lost, now);
            let expected: &[FibRoute] = match turn {
                0 => &[a, b],
                1 => &[c],
                2 => &[b],
                _ => &[],
            };
            assert_eq!((new.as_slice(), in_vain), (expected, turn >= 3), "{turn}");
            // zebra says at once that it was refused again.
            routes.install_failed(now + CONFIRM);
            let due = routes.deadline().unwrap();
            waits.push((due - now).as_secs());
            now = due;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 16, 16]);
        routes.begin(now);
        assert_eq!(routes.found(&[], now), (vec![], false));
        assert_eq!(routes.deadline(), Some(now + EVERY));
        // Nor is it looked more often than that, whatever goes.
        routes.next_hop_gone(now);
        assert_eq!(routes.deadline(), Some(now + AGAIN));
        routes.next_hop_gone(now + EVERY);
        assert_eq!(Routes::new(now).deadline(), Some(now + EVERY));
    }
}
