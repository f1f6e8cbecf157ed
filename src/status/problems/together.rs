//! Problems of one kind are told together: a hundred sessions that go with one cable are one line, and one problem. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Known, News, few};
use crate::status::{Problem, Time};

/// More than so many of one kind are told together.
const ALONE: usize = 3;

/// How often the log says how many they are now.
const AGAIN: Duration = Duration::from_secs(10);

/// A code's place and a noun.
type Kind = (usize, &'static str);

/// What kind of problem it is, for a sentence about many: `148 host sessions are down: VRFs red, blue …`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sort {
    /// What they are.
    pub noun: &'static str,
    /// What is wrong with them.
    pub state: &'static str,
    /// What stands before the names.
    pub of: &'static str,
    /// This one's name in it.
    pub member: String,
}

/// What was logged last of a kind of which there are many.
#[derive(Debug)]
struct Told {
    at: Time,
    problem: Problem,
}

/// What has been told together.
#[derive(Debug, Default)]
pub(super) struct Together {
    told: BTreeMap<Kind, Told>,
}

/// All problems as they are shown, those of one kind in one, with their kinds.
pub(super) fn shown(known: &BTreeMap<(usize, String), Known>) -> Vec<(Option<Kind>, Problem)> {
    let mut kinds: BTreeMap<Kind, Vec<&Known>> = BTreeMap::new();
    for ((place, _), one) in known.iter().filter(|(_, one)| one.raised) {
        if let Some(sort) = &one.sort {
            kinds.entry((*place, sort.noun)).or_default().push(one);
        }
    }
    kinds.retain(|_, all| all.len() > ALONE);
    let mut shown = vec![];
    for ((place, _), one) in known.iter().filter(|(_, one)| one.raised) {
        let kind = one.sort.as_ref().map(|sort| (*place, sort.noun));
        match kind.and_then(|kind| Some((kind, kinds.get(&kind)?))) {
            None => shown.push((None, one.problem.clone())),
            Some((kind, _)) if shown.iter().any(|(there, _)| *there == Some(kind)) => {}
            Some((kind, all)) => shown.push((Some(kind), one_of(all, one))),
        }
    }
    shown
}

/// One problem for all of them.
fn one_of(all: &[&Known], first: &Known) -> Problem {
    let sorts: Vec<&Sort> = all.iter().filter_map(|one| one.sort.as_ref()).collect();
    let mut members: Vec<&str> = sorts.iter().map(|sort| sort.member.as_str()).collect();
    members.sort_unstable();
    members.dedup();
    let (noun, state, of) = sorts.first().map_or(("", "", ""), |sort| (sort.noun, sort.state, sort.of));
    Problem {
        subject: noun.into(),
        what: format!("{} {noun} {state}: {of}{}", all.len(), few(&members)),
        since: all.iter().map(|one| one.problem.since).min().unwrap_or_default(),
        ..first.problem.clone()
    }
}

impl Together {
    /// What is to be logged: of what was raised and what is over by itself, what is not told together; and how many there are now
    /// of what is, now and then. And when to look again.
    pub fn news(
        &mut self,
        news: Vec<(Option<Kind>, News)>,
        known: &BTreeMap<(usize, String), Known>,
        now: Time,
    ) -> (Vec<News>, Option<Duration>) {
        let mut again = None;
        let many: BTreeMap<Kind, Problem> =
            shown(known).into_iter().filter_map(|(kind, problem)| Some((kind?, problem))).collect();
        let is_many = |kind: &Option<Kind>| kind.is_some_and(|kind| many.contains_key(&kind));
        let was_many = |kind: &Option<Kind>| kind.is_some_and(|kind| self.told.contains_key(&kind));
        let mut all: Vec<News> = news
            .into_iter()
            .filter(|(kind, _)| !is_many(kind) && !was_many(kind))
            .map(|(_, news)| news)
            .collect();
        for (kind, problem) in &many {
            match self.told.get_mut(kind) {
                Some(told) if told.problem.what == problem.what => {}
                Some(told) if told.at.ago(now) < AGAIN => {
                    let left = AGAIN.saturating_sub(told.at.ago(now));
                    again = Some(again.map_or(left, |before: Duration| before.min(left)));
                }
                _ => {
                    self.told.insert(*kind, Told { at: now, problem: problem.clone() });
                    all.push(News::Raised(problem.clone()));
                }
            }
        }
        let before = std::mem::take(&mut self.told);
        let (still, few_left): (BTreeMap<_, _>, BTreeMap<_, _>) =
            before.into_iter().partition(|(kind, _)| many.contains_key(kind));
        self.told = still;
        for ((place, noun), told) in few_left {
            let of_kind = |sort: &Option<Sort>| sort.as_ref().is_some_and(|sort| sort.noun == noun);
            let left = known.iter().filter(|((p, _), one)| *p == place && one.raised && of_kind(&one.sort));
            let after = told.problem.since.ago(now);
            all.push(News::Over(told.problem, after));
            all.extend(left.map(|(_, one)| News::Raised(one.problem.clone())));
        }
        (all, again)
    }
}
