//! Groups problems of one kind: a hundred sessions that are down because of one cable are one problem and one log line.
//! Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{ProblemChange, TrackedProblem, first_five};
use crate::status::Problem;
use crate::time::Time;

/// With more problems of one kind than this, they are grouped.
const MAX_UNGROUPED: usize = 3;

/// Minimum time between two log lines about the size of one group.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Identifies a group: the rank of the code, and the noun.
type GroupKey = (usize, &'static str);

/// The wording for a group of problems: `148 host sessions are down: VRFs red, blue …`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GroupWording {
    /// What they are. Subject of the grouped problem.
    pub noun: &'static str,
    /// What is wrong with them.
    pub state: &'static str,
    /// Text before the names.
    pub prefix: &'static str,
    /// Name of this problem in the group.
    pub member: String,
}

/// The last log line about a group.
#[derive(Debug)]
struct LoggedGroup {
    at: Time,
    problem: Problem,
}

/// The groups that were logged.
#[derive(Debug, Default)]
pub(super) struct ProblemGroups {
    logged: BTreeMap<GroupKey, LoggedGroup>,
}

/// All raised problems, those of one kind as one problem, with the keys of their groups.
pub(super) fn grouped(
    tracked: &BTreeMap<(usize, String), TrackedProblem>,
) -> Vec<(Option<GroupKey>, Problem)> {
    let mut groups: BTreeMap<GroupKey, Vec<&TrackedProblem>> = BTreeMap::new();
    for ((rank, _), one) in tracked.iter().filter(|(_, one)| one.raised) {
        if let Some(group) = &one.group {
            groups.entry((*rank, group.noun)).or_default().push(one);
        }
    }
    groups.retain(|_, all| all.len() > MAX_UNGROUPED);
    let mut list = vec![];
    for ((rank, _), one) in tracked.iter().filter(|(_, one)| one.raised) {
        let key = one.group.as_ref().map(|group| (*rank, group.noun));
        match key.and_then(|key| Some((key, groups.get(&key)?))) {
            None => list.push((None, one.problem.clone())),
            Some((key, _)) if list.iter().any(|(other, _)| *other == Some(key)) => {}
            Some((key, all)) => list.push((Some(key), merge(all, one))),
        }
    }
    list
}

/// One problem for a whole group.
fn merge(all: &[&TrackedProblem], first: &TrackedProblem) -> Problem {
    let wordings: Vec<&GroupWording> = all.iter().filter_map(|one| one.group.as_ref()).collect();
    let mut members: Vec<&str> = wordings.iter().map(|wording| wording.member.as_str()).collect();
    members.sort_unstable();
    members.dedup();
    let (noun, state, prefix) =
        wordings.first().map_or(("", "", ""), |wording| (wording.noun, wording.state, wording.prefix));
    Problem {
        subject: noun.into(),
        what: format!("{} {noun} {state}: {prefix}{}", all.len(), first_five(&members)),
        since: all.iter().map(|one| one.problem.since).min().unwrap_or_default(),
        fields: vec![],
        ..first.problem.clone()
    }
}

impl ProblemGroups {
    /// The changes to log: those of ungrouped problems, and of each group its size, at most every [`LOG_INTERVAL`]. The
    /// second value is the time after which to call this again.
    pub fn update(
        &mut self,
        changes: Vec<(Option<GroupKey>, ProblemChange)>,
        tracked: &BTreeMap<(usize, String), TrackedProblem>,
        now: Time,
    ) -> (Vec<ProblemChange>, Option<Duration>) {
        let mut again = None;
        let groups: BTreeMap<GroupKey, Problem> =
            grouped(tracked).into_iter().filter_map(|(key, problem)| Some((key?, problem))).collect();
        let is_grouped = |key: &Option<GroupKey>| key.is_some_and(|key| groups.contains_key(&key));
        let was_grouped = |key: &Option<GroupKey>| key.is_some_and(|key| self.logged.contains_key(&key));
        let mut all: Vec<ProblemChange> = changes
            .into_iter()
            .filter(|(key, _)| !is_grouped(key) && !was_grouped(key))
            .map(|(_, change)| change)
            .collect();
        for (key, problem) in &groups {
            match self.logged.get_mut(key) {
                Some(logged) if logged.problem.what == problem.what => {}
                Some(logged) if logged.at.ago(now) < LOG_INTERVAL => {
                    let left = LOG_INTERVAL.saturating_sub(logged.at.ago(now));
                    again = Some(again.map_or(left, |before: Duration| before.min(left)));
                }
                _ => {
                    self.logged.insert(*key, LoggedGroup { at: now, problem: problem.clone() });
                    all.push(ProblemChange::Raised(problem.clone()));
                }
            }
        }
        let before = std::mem::take(&mut self.logged);
        let (remaining, dissolved): (BTreeMap<_, _>, BTreeMap<_, _>) =
            before.into_iter().partition(|(key, _)| groups.contains_key(key));
        self.logged = remaining;
        for ((rank, noun), logged) in dissolved {
            let is_member =
                |group: &Option<GroupWording>| group.as_ref().is_some_and(|group| group.noun == noun);
            let left =
                tracked.iter().filter(|((r, _), one)| *r == rank && one.raised && is_member(&one.group));
            let after = logged.problem.since.ago(now);
            all.push(ProblemChange::Resolved(logged.problem, after));
            all.extend(left.map(|(_, one)| ProblemChange::Raised(one.problem.clone())));
        }
        (all, again)
    }
}
