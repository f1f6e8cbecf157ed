//! The log: one line for one thing, as text or as JSON with the fields that Talos extracts.

use std::io::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use env_logger::{Builder, Logger, Target};
use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::config::{LogFormat, LogLevel};
use crate::status::Ring;

/// Our own records; others carry the name of the daemon that spoke.
const OWN_TARGET: &str = "frr_supervisor";

/// Starts logging to standard error.
pub fn start(level: LogLevel, format: LogFormat) {
    let level = match level {
        LogLevel::Error => LevelFilter::Error,
        LogLevel::Warn => LevelFilter::Warn,
        LogLevel::Info => LevelFilter::Info,
        LogLevel::Debug => LevelFilter::Debug,
    };
    let mut builder = Builder::new();
    // The netlink crates warn of attributes that are newer than they are; that is no one's business here.
    builder.filter_level(level).filter_module("netlink", LevelFilter::Error).target(Target::Stderr);
    builder.format(move |out, record| {
        let time = out.timestamp_millis();
        let level = record.level();
        let from = record.target();
        let daemon = (!from.starts_with(OWN_TARGET)).then_some(from);
        match (format, daemon) {
            (LogFormat::Json, _) => {
                let mut line = serde_json::json!({
                    "time": time.to_string(),
                    "level": level.as_str().to_lowercase(),
                    "msg": record.args().to_string(),
                });
                if let Some(daemon) = daemon {
                    line["daemon"] = daemon.into();
                }
                writeln!(out, "{line}")
            }
            (LogFormat::Text, Some(daemon)) => {
                writeln!(out, "{time} {level:<5} {daemon}: {}", record.args())
            }
            (LogFormat::Text, None) => writeln!(out, "{time} {level:<5} {}", record.args()),
        }
    });
    // A second start could only come from a test, and the first one holds.
    if log::set_boxed_logger(Box::new(Tee { shown: builder.build(), repeats: Mutex::default() })).is_ok() {
        // The status has what happened, whatever the log shows.
        log::set_max_level(level.max(LevelFilter::Info));
    }
}

/// What a plan did, step by step, is for the log: the event is what came of it.
const STEPS: &str = "frr_supervisor::kernel::apply";

/// The log, and the events of the status, which are our own records.
struct Tee {
    shown: Logger,
    repeats: Mutex<Repeats>,
}

impl Log for Tee {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.shown.enabled(metadata) || metadata.level() <= Level::Info
    }

    fn log(&self, record: &Record<'_>) {
        let own = record.target().starts_with(OWN_TARGET);
        let step = record.target() == STEPS && record.level() == Level::Info;
        if own && record.level() <= Level::Info && !step {
            Ring::push(record.level(), record.args().to_string());
        }
        if !self.shown.matches(record) {
            return;
        }
        if own || self.first(record) {
            self.shown.log(record);
        }
    }

    /// Says what was left unsaid.
    fn flush(&self) {
        let due = self.repeats.lock().unwrap_or_else(PoisonError::into_inner).due(Instant::now());
        for line in due {
            let (times, s) = (line.left_out, WINDOW.as_secs());
            let text = format!("{} ({times} times more within {s} s)", line.text);
            let mut record = Record::builder();
            record.target(&line.target).level(line.level);
            self.shown.log(&record.args(format_args!("{text}")).build());
        }
        self.shown.flush();
    }
}

impl Tee {
    /// Whether a daemon's line is to be shown, and not one that it says again and again.
    fn first(&self, record: &Record<'_>) -> bool {
        let text = record.args().to_string();
        let mut repeats = self.repeats.lock().unwrap_or_else(PoisonError::into_inner);
        repeats.take(record.target(), record.level(), &text, Instant::now())
    }
}

/// Within so long ...
const WINDOW: Duration = Duration::from_secs(10);

/// ... the same line is shown so many times, and counted from then on.
const SHOWN: u32 = 3;

/// So many different lines are remembered.
const REMEMBERED: usize = 64;

/// Lines of daemons that were said lately.
#[derive(Debug, Default)]
struct Repeats(Vec<Said>);

#[derive(Debug)]
struct Said {
    target: String,
    level: Level,
    text: String,
    since: Instant,
    times: u32,
    left_out: u32,
}

impl Repeats {
    fn take(&mut self, target: &str, level: Level, text: &str, now: Instant) -> bool {
        let known = self.0.iter_mut().find(|said| said.text == text && said.target == target);
        match known {
            Some(said) if now.duration_since(said.since) < WINDOW || said.left_out > 0 => {
                said.times += 1;
                said.left_out += u32::from(said.times > SHOWN);
                said.times <= SHOWN
            }
            Some(said) => {
                (said.since, said.times) = (now, 1);
                true
            }
            None => {
                if self.0.len() == REMEMBERED
                    && let Some(oldest) = self.0.iter().position(|said| said.left_out == 0)
                {
                    self.0.remove(oldest);
                }
                if self.0.len() < REMEMBERED {
                    let (target, text) = (target.to_owned(), text.to_owned());
                    self.0.push(Said { target, level, text, since: now, times: 1, left_out: 0 });
                }
                true
            }
        }
    }

    /// Those whose time is over.
    fn due(&mut self, now: Instant) -> Vec<Said> {
        let over = |said: &mut Said| now.duration_since(said.since) >= WINDOW;
        self.0.extract_if(.., over).filter(|said| said.left_out > 0).collect()
    }
}

/// Says what is wrong with the configuration. A problem's source line and the caret below it are for `check`: here a record
/// is one line.
pub fn problems(problems: &[String]) {
    for problem in first_lines(problems) {
        log::error!("{problem}");
    }
}

/// The problems, each without its source line.
pub fn first_lines(problems: &[String]) -> impl Iterator<Item = &str> {
    problems.iter().map(|problem| problem.lines().next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_said_again_and_again_is_counted() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        let shown = (0..100).filter(|_| repeats.take("bgpd", Level::Error, "no", now)).count();
        assert_eq!(shown, 3);
        assert!(repeats.take("zebra", Level::Error, "no", now), "another daemon's");
        assert!(repeats.take("bgpd", Level::Error, "yes", now), "another line");
        assert!(repeats.due(now + WINDOW / 2).is_empty());
        let due = repeats.due(now + WINDOW);
        assert_eq!(
            due.iter().map(|said| (said.text.as_str(), said.left_out)).collect::<Vec<_>>(),
            [("no", 97)]
        );
        assert!(repeats.take("bgpd", Level::Error, "no", now + WINDOW), "a new window");
    }

    #[test]
    fn nothing_is_lost_of_many_different_lines() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        assert!((0..1000).all(|i| repeats.take("bgpd", Level::Info, &i.to_string(), now)));
        assert!(repeats.0.len() <= REMEMBERED);
    }
}
