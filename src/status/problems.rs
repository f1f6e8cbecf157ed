//! Finds the problems in the facts and in FRR's state: each with its effect on traffic and a remedy. Pure.

mod grouping;
mod node;
mod services;
mod sessions;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use super::frr_state::FrrState;
use super::{BgpSession, Health, NodeFacts, NodePhase, Problem, SessionRole, Time};
use crate::printable::first;

use grouping::{GroupWording, ProblemGroups};

/// A fault that lasts less than this is no problem: a session during a restart of bgpd, a link while a NIC is moved.
const TRANSIENT: Duration = Duration::from_secs(2);

/// How long a new bgpd needs to establish its sessions, with a margin for a loaded machine.
const BGPD_STARTUP: Duration = Duration::from_secs(10);

/// Number of consecutive unexpected exits from which on a daemon is in a crash loop.
const CRASH_LOOP_EXITS: u32 = 3;

/// A fault at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Fault {
    code: &'static str,
    subject: String,
    what: String,
    traffic: String,
    remedy: String,
    /// Key-value pairs of its log lines.
    fields: Vec<(&'static str, String)>,
    /// How long it has to last before it is a problem.
    grace: Duration,
    /// The wording for a group of such faults, if they are grouped.
    group: Option<GroupWording>,
}

/// The codes, worst first. docs/operations.md and the alert rules contain them.
pub const CODES: [&str; 21] = [
    "setup-failed",
    "interface-missing",
    "daemon-crash-loop",
    "daemon-down",
    "daemon-hung",
    "second-zebra",
    "link-down",
    "wrong-as",
    "wrong-password",
    "session-down",
    "bfd-down",
    "metallb-down",
    "next-hop-inaccessible",
    "service-not-announced",
    "prefix-refused",
    "device-broken",
    "repairs-undone",
    "configuration-rejected",
    "configuration-incomplete",
    "configuration-drift",
    "not-saved",
];

/// A change of a problem, for the log.
#[derive(Debug, PartialEq, Eq)]
pub enum ProblemChange {
    /// The problem is new, or its remedy has changed.
    Raised(Problem),
    /// The problem is resolved, after this time.
    Resolved(Problem, Duration),
}

/// Tracks the problems over time.
#[derive(Debug, Default)]
pub struct ProblemTracker {
    tracked: BTreeMap<(usize, String), TrackedProblem>,
    groups: ProblemGroups,
}

#[derive(Debug)]
struct TrackedProblem {
    first_seen: Time,
    raised: bool,
    problem: Problem,
    /// The text that was logged.
    logged: Option<String>,
    group: Option<GroupWording>,
}

impl ProblemTracker {
    /// Evaluates the current state. Returns the changes, and after which time to call this again if nothing else
    /// happens.
    pub fn step(
        &mut self,
        facts: &NodeFacts,
        state: &FrrState,
        now: Time,
    ) -> (Vec<ProblemChange>, Option<Duration>) {
        let (mut changes, mut again) = (vec![], None);
        let mut before = std::mem::take(&mut self.tracked);
        for fault in faults(facts, state, now) {
            let rank = CODES.iter().position(|code| *code == fault.code).unwrap_or(CODES.len());
            let key = (rank, fault.subject.clone());
            if self.tracked.contains_key(&key) {
                continue;
            }
            let was = before.remove(&key);
            let first_seen = was.as_ref().map_or(now, |tracked| tracked.first_seen);
            let problem = Problem {
                code: fault.code.into(),
                subject: fault.subject,
                what: fault.what,
                traffic: fault.traffic,
                remedy: fault.remedy,
                since: first_seen,
                fields: fault.fields,
            };
            let was = was.filter(|tracked| tracked.raised);
            let left = fault.grace.saturating_sub(first_seen.ago(now));
            let raised = was.is_some() || left.is_zero();
            // The cause can become known later than the problem.
            let has_new_remedy = was.as_ref().is_none_or(|tracked| tracked.problem.remedy != problem.remedy);
            let mut logged = was.and_then(|tracked| tracked.logged);
            if raised && has_new_remedy {
                logged = Some(problem.what.clone());
                let group = fault.group.as_ref().map(|group| (rank, group.noun));
                changes.push((group, ProblemChange::Raised(problem.clone())));
            } else if !raised {
                again = Some(again.map_or(left, |before: Duration| before.min(left)));
            }
            self.tracked
                .insert(key, TrackedProblem { first_seen, raised, problem, logged, group: fault.group });
        }
        for (key, tracked) in before.into_iter().filter(|(_, tracked)| tracked.raised) {
            let code = CODES.get(key.0).copied().unwrap_or_default();
            let runs = facts.phase == NodePhase::Running;
            if (runs && sessions::can_persist(code, &key.1, facts, state, now))
                || (!runs && !KNOWN_WITHOUT_DAEMONS.contains(&code))
            {
                self.tracked.insert(key, tracked);
            } else {
                let group = tracked.group.as_ref().map(|group| (key.0, group.noun));
                let what = tracked.logged.unwrap_or(tracked.problem.what);
                let problem = Problem { what, ..tracked.problem };
                changes.push((group, ProblemChange::Resolved(problem, tracked.first_seen.ago(now))));
            }
        }
        let (changes, later) = self.groups.update(changes, &self.tracked, now);
        (changes, [again, later].into_iter().flatten().min())
    }

    /// The problems, worst first.
    pub fn list(&self) -> Vec<Problem> {
        grouping::grouped(&self.tracked).into_iter().map(|(_, problem)| problem).collect()
    }
}

/// Codes of problems that are known even while the daemons do not run.
const KNOWN_WITHOUT_DAEMONS: [&str; 5] = [
    "setup-failed",
    "interface-missing",
    "configuration-rejected",
    "configuration-incomplete",
    "configuration-drift",
];

/// Health of the node. During a restart of bgpd no session is up, and traffic flows: the node is down only with a
/// problem.
pub fn health(facts: &NodeFacts, state: &FrrState, problems: &[Problem]) -> Health {
    let mut leaves = state.bgp.iter().filter(|s| s.role == SessionRole::Fabric).peekable();
    let has_leaves = leaves.peek().is_some();
    let is_reached = leaves.any(BgpSession::is_up);
    let cuts_off = |p: &Problem| {
        ["interface-missing", "link-down", "wrong-as", "wrong-password", "session-down"]
            .contains(&p.code.as_str())
            || p.subject == "bgpd"
            || p.subject.starts_with(node::TABLE_SUBJECT)
    };
    if facts.phase != NodePhase::Running || !has_leaves || (!is_reached && problems.iter().any(cuts_off)) {
        Health::Down
    } else if problems.is_empty() {
        Health::Healthy
    } else {
        Health::Degraded
    }
}

/// All faults at this moment.
fn faults(facts: &NodeFacts, state: &FrrState, now: Time) -> Vec<Fault> {
    let mut faults = Vec::new();
    node::setup(facts, &mut faults);
    if facts.phase == NodePhase::Running {
        faults.extend(facts.shared_tables.iter().map(|shared| node::shared_table(shared, facts)));
        sessions::links(facts, state, &mut faults);
        // The shared table explains the state of zebra, and with it of the other daemons, the sessions and the services.
        if facts.shared_tables.is_empty() || sessions::running_daemon(facts, "zebra").is_some() {
            faults.extend(facts.daemons.iter().filter_map(|daemon| node::daemon_fault(daemon, facts)));
            sessions::sessions(facts, state, now, &mut faults);
            services::services(facts, state, now, &mut faults);
        }
        faults.extend(services::refused_prefixes(state));
        node::kernel(facts, &mut faults);
    }
    node::configuration(facts, &mut faults);
    if !facts.unsaved.is_empty() {
        let sentences: Vec<&str> = facts.unsaved.iter().map(String::as_str).collect();
        faults.push(Fault {
            code: "not-saved",
            subject: "files".into(),
            what: sentences.join("; "),
            traffic: "no traffic is lost, and daemons are restarted as usual; after a restart of the supervisor, services \
                      may not stay announced"
                .into(),
            remedy: "free space on the file system (df -h /run, df -i /run), or remove what blocks the file's path; the \
                     supervisor retries automatically"
                .into(),
            ..Fault::default()
        });
    }
    faults
}

/// The first five, and the number of the others.
fn first_five(list: &[impl Display]) -> String {
    first(5, list)
}

#[cfg(test)]
mod tests;
