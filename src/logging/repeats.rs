//! Counts log lines that a daemon repeats instead of showing each of them. Pure.

use std::fmt;
use std::time::{Duration, Instant};

use log::Level;

/// The period in which repeated lines are counted.
const WINDOW: Duration = Duration::from_secs(10);

/// How many copies of one line are shown within [`WINDOW`]. The rest are counted.
const SHOWN: u32 = 3;

/// How many lines with one message identifier are shown within [`WINDOW`]: hundreds of sessions can end in one second.
const SHOWN_OF_KIND: u32 = 20;

/// How many different lines are counted at a time, and how many message identifiers.
const REMEMBERED: usize = 64;

/// The length of FRR's message identifier with its brackets (`lib/xref.c`).
const IDENTIFIER: usize = "[XXXXX-XXXXX]".len();

/// Counters for the daemons' recent lines.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    lines: Vec<LineCounter>,
    kinds: Vec<LineCounter>,
}

/// A counter for one line, or for one message identifier.
#[derive(Debug)]
pub(super) struct LineCounter {
    pub(super) target: String,
    pub(super) level: Level,
    /// The line, or the last line with the identifier.
    text: String,
    /// The line, or the message identifier.
    key: String,
    since: Instant,
    times: u32,
    left_out: u32,
}

impl fmt::Display for LineCounter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.key == self.text { "times more" } else { "of this kind not shown" };
        write!(f, "{} ({} {what} within {} s)", self.text, self.left_out, WINDOW.as_secs())
    }
}

impl Repeats {
    /// Counts a line. Returns whether to show it.
    pub(super) fn take(&mut self, target: &str, level: Level, text: &str, now: Instant) -> bool {
        let shown = count(&mut self.lines, text, SHOWN, target, level, text, now);
        match text.get(..IDENTIFIER).filter(|word| word.starts_with('[') && word.ends_with(']')) {
            Some(kind) if shown => count(&mut self.kinds, kind, SHOWN_OF_KIND, target, level, text, now),
            _ => shown,
        }
    }

    /// Removes the counters whose window is over. Returns those that left lines out.
    pub(super) fn due(&mut self, now: Instant) -> Vec<LineCounter> {
        let over = |counter: &mut LineCounter| now.duration_since(counter.since) >= WINDOW;
        let lines = self.lines.extract_if(.., over);
        lines.chain(self.kinds.extract_if(.., over)).filter(|counter| counter.left_out > 0).collect()
    }
}

/// Counts a line under `key`. Returns whether it is one of the first `most`.
fn count(
    known: &mut Vec<LineCounter>,
    key: &str,
    most: u32,
    target: &str,
    level: Level,
    text: &str,
    now: Instant,
) -> bool {
    match known.iter_mut().find(|counter| counter.key == key && counter.target == target) {
        Some(counter) if now.duration_since(counter.since) < WINDOW || counter.left_out > 0 => {
            counter.times += 1;
            if counter.times > most {
                counter.left_out += 1;
                counter.text.replace_range(.., text);
            }
            counter.times <= most
        }
        Some(counter) => {
            (counter.since, counter.times) = (now, 1);
            true
        }
        None => {
            if known.len() == REMEMBERED
                && let Some(oldest) = known.iter().position(|counter| counter.left_out == 0)
            {
                known.remove(oldest);
            }
            if known.len() < REMEMBERED {
                let [target, text, key] = [target, text, key].map(str::to_owned);
                known.push(LineCounter { target, level, text, key, since: now, times: 1, left_out: 0 });
            }
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(due: Vec<LineCounter>) -> Vec<String> {
        due.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_repeated_line_is_counted() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        let shown = (0..100).filter(|_| repeats.take("bgpd", Level::Error, "no", now)).count();
        assert_eq!(shown, 3);
        assert!(repeats.take("zebra", Level::Error, "no", now), "another daemon's");
        assert!(repeats.take("bgpd", Level::Error, "yes", now), "another line");
        assert!(repeats.due(now + WINDOW / 2).is_empty());
        assert_eq!(texts(repeats.due(now + WINDOW)), ["no (97 times more within 10 s)"]);
        assert!(repeats.take("bgpd", Level::Error, "no", now + WINDOW), "a new window");
    }

    #[test]
    fn many_lines_of_one_kind_are_counted() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        let line = |n: u32| format!("[M59KS-A3ZXZ] %ADJCHANGE: neighbor 10.0.0.{n} Down");
        let shown = (0..150).filter(|n| repeats.take("bgpd", Level::Info, &line(*n), now)).count();
        assert_eq!(shown, 20);
        assert!(repeats.take("bgpd", Level::Info, "[AAAAA-BBBBB] another kind", now));
        let last =
            "[M59KS-A3ZXZ] %ADJCHANGE: neighbor 10.0.0.149 Down (130 of this kind not shown within 10 s)";
        assert_eq!(texts(repeats.due(now + WINDOW)), [last]);
    }

    #[test]
    fn different_lines_are_all_shown() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        assert!((0..1000).all(|i| repeats.take("bgpd", Level::Info, &i.to_string(), now)));
        assert!((0..1000).all(|i| repeats.take("bgpd", Level::Info, &format!("[{i:05}-XXXXX] a"), now)));
        assert!(repeats.lines.len().max(repeats.kinds.len()) <= REMEMBERED);
    }
}
