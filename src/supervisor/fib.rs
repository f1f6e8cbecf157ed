//! Whether the kernel has the routes that zebra has chosen. It drops some without a word: with a next-hop object that somebody
//! deletes, or with a link that goes down and comes back before zebra has looked; and what bgpd announces again unchanged zebra
//! does not install again. Nor does it try again what the kernel has refused, for want of an address that we put back.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::Supervisor;
use super::change::Task;
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

/// From one attempt to see to them to the next.
const AGAIN: Duration = Duration::from_secs(1);

/// So many attempts to see to the same routes, and it is a problem.
const ATTEMPTS: u32 = 3;

/// A route is lost if it is still missing after this.
const CONFIRM: Duration = Duration::from_millis(50);

/// zebra answers within this, or it is tried another time.
const PATIENCE: Duration = Duration::from_secs(5);

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
    looking: Option<Task<io::Result<Vec<FibRoute>>>>,
    /// When that began.
    began: Instant,
    /// A route was refused, or missing last time: numbers alone do not tell.
    thorough: bool,
    last: Vec<FibRoute>,
    /// How often in a row the same routes were lost.
    in_vain: u32,
}

impl Routes {
    /// Nothing is known to be lost.
    pub fn new(now: Instant) -> Self {
        Self { due: now + EVERY, looking: None, began: now, thorough: false, last: vec![], in_vain: 0 }
    }

    /// A next-hop object has gone.
    pub fn next_hop_gone(&mut self, now: Instant) {
        self.due = self.due.min(now + NEXT_HOPS);
    }

    /// The kernel has refused a route.
    pub fn install_failed(&mut self, now: Instant) {
        self.thorough = true;
        self.due = self.due.min(now + REFUSED);
    }

    /// A session, or a port, is another than it was.
    pub fn sessions_changed(&mut self, now: Instant) {
        self.due = self.due.min(now + SESSIONS);
    }

    /// When to look.
    pub fn deadline(&self) -> Option<Instant> {
        self.looking.is_none().then_some(self.due)
    }

    /// What to poll.
    pub fn task(&self) -> Option<&Task<io::Result<Vec<FibRoute>>>> {
        self.looking.as_ref()
    }

    /// These were lost, and zebra was told. Whether the same were before, so often that it does not help.
    fn found(&mut self, lost: &[FibRoute], now: Instant) -> bool {
        self.in_vain = if lost.is_empty() || self.last != lost { 0 } else { self.in_vain + 1 };
        let wait = if lost.is_empty() { EVERY } else { AGAIN * 2_u32.pow(self.in_vain.min(5)) };
        self.due = self.due.min(now + wait);
        self.last = lost.to_vec();
        self.thorough |= !lost.is_empty();
        self.in_vain >= ATTEMPTS
    }
}

impl Supervisor<'_> {
    /// Has zebra install again what the kernel has lost.
    pub(super) fn watch_routes(&mut self, now: Instant) {
        if self.routes.looking.as_ref().is_some_and(Task::is_over)
            && let Some(done) = self.routes.looking.take().and_then(Task::join)
        {
            match done {
                Ok(lost) => self.routes_lost(&lost, now),
                Err(e) => log::debug!("zebra's routes can't be compared with the kernel's: {e}"),
            }
        }
        if self.routes.deadline().is_none_or(|due| due > now) {
            return;
        }
        self.routes.due = now + EVERY;
        let bgpd = self.ready("bgpd").and_then(|i| self.children[i].as_ref());
        let Some(bgpd) = bgpd.filter(|_| self.policy.is_complete()) else { return };
        let recent = Some(bgpd.age()).filter(|age| *age < ALONE);
        let thorough = std::mem::take(&mut self.routes.thorough);
        let begun = self
            .node
            .kernel
            .fib()
            .and_then(|fib| Task::begin(move || look(fib, &socket("zebra"), recent, thorough)));
        self.routes.began = now;
        self.routes.looking =
            begun.inspect_err(|e| log::debug!("zebra's routes can't be looked at: {e}")).ok();
    }

    fn routes_lost(&mut self, lost: &[FibRoute], now: Instant) {
        let before = self.routes.in_vain >= ATTEMPTS;
        let in_vain = self.routes.found(lost, now);
        let names = first(SHOWN, lost);
        if in_vain != before {
            self.board.tell(|local| local.lost_routes = in_vain.then(|| names.clone()));
        }
        if !lost.is_empty() && !in_vain {
            log::warn!(
                "put right in {} µs: zebra is told of {} of its routes that the kernel lacked: {}",
                self.routes.began.elapsed().as_micros(),
                lost.len(),
                names
            );
        }
    }
}

/// The routes that the kernel lacks, of which zebra was told. `recent`: bgpd has run for no longer than that; `thorough`: whatever the
/// numbers of routes are.
fn look(mut fib: Fib, zebra: &Path, recent: Option<Duration>, thorough: bool) -> io::Result<Vec<FibRoute>> {
    let mut session = Session::show(zebra, PATIENCE)?;
    let mut lost = vec![];
    for (v6, (counted, listed)) in COUNTS.into_iter().zip(ROUTES).enumerate() {
        let missing = |session: &mut Session, fib: &mut Fib| {
            let believed = count(&session.ask(counted)?.text).unwrap_or(0);
            let there =
                fib.routes()?.iter().filter(|(_, prefix)| usize::from(prefix.addr().is_ipv6()) == v6).count();
            if (believed <= there && !thorough) || believed > MOST {
                return Ok(vec![]);
            }
            let believed = installed(&session.ask(listed)?.text).unwrap_or_default();
            io::Result::Ok(not_there(believed, &fib.routes()?, recent))
        };
        let first = missing(&mut session, &mut fib)?;
        if !first.is_empty() {
            thread::sleep(CONFIRM);
            let second = missing(&mut session, &mut fib)?;
            lost.extend(second.into_iter().filter(|route| first.contains(route)));
        }
    }
    fib.announce_loss(&lost)?;
    Ok(lost)
}

/// The routes that are not `there`. What zebra keeps of a bgpd before this one is not to come back: its next hop may not forward.
fn not_there(
    believed: Vec<Installed>,
    there: &BTreeSet<(u32, ipnet::IpNet)>,
    recent: Option<Duration>,
) -> Vec<FibRoute> {
    let is_current = |route: &Installed| {
        route.route.owner == RouteOwner::Staticd
            || recent.is_none_or(|bgpd| route.age.is_some_and(|age| age <= bgpd))
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
        let now = Instant::now();
        let mut routes = Routes::new(now);
        let lost = [route("192.0.2.0/25", RouteOwner::Bgpd)];
        routes.due = now + EVERY;
        let told: Vec<bool> = (0..5)
            .map(|_| {
                routes.due = now + EVERY;
                routes.found(&lost, now)
            })
            .collect();
        assert_eq!(told, [false, false, false, true, true]);
        assert_eq!(routes.deadline(), Some(now + 16 * AGAIN));
        assert!(!routes.found(&[], now));
        routes.next_hop_gone(now);
        assert_eq!(routes.deadline(), Some(now + NEXT_HOPS));
    }
}
