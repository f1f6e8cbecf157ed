//! Lines that daemons say again and again are counted rather than repeated. Pure.

use std::fmt;
use std::time::{Duration, Instant};

use log::Level;

/// Within so long ...
const WINDOW: Duration = Duration::from_secs(10);

/// ... the same line is shown so many times, and counted from then on.
const SHOWN: u32 = 3;

/// So many lines of one kind are shown: with hundreds of sessions, all of them end in one second.
const SHOWN_OF_KIND: u32 = 20;

/// So many different lines are remembered, and as many kinds.
const REMEMBERED: usize = 64;

/// FRR's identifier of a kind of message is so long, with the brackets around it (`lib/xref.c`).
const IDENTIFIER: usize = "[XXXXX-XXXXX]".len();

/// Lines of daemons that were said lately.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    lines: Vec<Said>,
    kinds: Vec<Said>,
}

/// What was said more than once.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) target: String,
    pub(super) level: Level,
    /// The line, or the last of its kind.
    text: String,
    /// What is compared: the line, or the identifier of its kind.
    key: String,
    since: Instant,
    times: u32,
    left_out: u32,
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.key == self.text { "times more" } else { "of this kind not shown" };
        write!(f, "{} ({} {what} within {} s)", self.text, self.left_out, WINDOW.as_secs())
    }
}

impl Repeats {
    /// Whether a line is to be shown.
    pub(super) fn take(&mut self, target: &str, level: Level, text: &str, now: Instant) -> bool {
        let shown = count(&mut self.lines, text, SHOWN, target, level, text, now);
        match text.get(..IDENTIFIER).filter(|word| word.starts_with('[') && word.ends_with(']')) {
            Some(kind) if shown => count(&mut self.kinds, kind, SHOWN_OF_KIND, target, level, text, now),
            _ => shown,
        }
    }

    /// Those whose time is over.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Said> {
        let over = |said: &mut Said| now.duration_since(said.since) >= WINDOW;
        let lines = self.lines.extract_if(.., over);
        lines.chain(self.kinds.extract_if(.., over)).filter(|said| said.left_out > 0).collect()
    }
}

/// Counts what is compared by `key`, and tells whether it is one of the first `most`.
fn count(
    known: &mut Vec<Said>,
    key: &str,
    most: u32,
    target: &str,
    level: Level,
    text: &str,
    now: Instant,
) -> bool {
    match known.iter_mut().find(|said| said.key == key && said.target == target) {
        Some(said) if now.duration_since(said.since) < WINDOW || said.left_out > 0 => {
            said.times += 1;
            if said.times > most {
                said.left_out += 1;
                said.text.replace_range(.., text);
            }
            said.times <= most
        }
        Some(said) => {
            (said.since, said.times) = (now, 1);
            true
        }
        None => {
            if known.len() == REMEMBERED
                && let Some(oldest) = known.iter().position(|said| said.left_out == 0)
            {
                known.remove(oldest);
            }
            if known.len() < REMEMBERED {
                let [target, text, key] = [target, text, key].map(str::to_owned);
                known.push(Said { target, level, text, key, since: now, times: 1, left_out: 0 });
            }
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(due: Vec<Said>) -> Vec<String> {
        due.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_line_that_is_said_again_and_again_is_counted() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        let shown = (0..100).filter(|_| repeats.take("bgpd", Level::Error, "no", now)).count();
        assert_eq!(shown, 3);
        assert!(repeats.take("zebra", Level::Error, "no", now), "another daemon's");
        assert!(repeats.take("bgpd", Level::Error, "yes", now), "another line");
        assert!(repeats.due(now + WINDOW / 2).is_empty());
        assert_eq!(told(repeats.due(now + WINDOW)), ["no (97 times more within 10 s)"]);
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
        assert_eq!(told(repeats.due(now + WINDOW)), [last]);
    }

    #[test]
    fn nothing_is_lost_of_many_different_lines() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        assert!((0..1000).all(|i| repeats.take("bgpd", Level::Info, &i.to_string(), now)));
        assert!((0..1000).all(|i| repeats.take("bgpd", Level::Info, &format!("[{i:05}-XXXXX] a"), now)));
        assert!(repeats.lines.len().max(repeats.kinds.len()) <= REMEMBERED);
    }
}
