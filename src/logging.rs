//! The log: one line for one thing, as text or as JSON with the fields that Talos extracts.

mod queue;
mod repeats;

use std::io;
use std::sync::{Arc, Mutex, Once, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::config::{LogFormat, LogLevel};
use crate::printable::printable;
use crate::status::{Ring, Time, span};

use queue::{Dropped, Queue};
use repeats::Repeats;

/// Our own records; others carry the name of the daemon that spoke.
const OWN_TARGET: &str = "frr_supervisor";

/// The netlink crates warn of attributes that are newer than they are; that is no one's business here.
const ERRORS_ONLY: &str = "netlink";

/// How long the end of the process waits for its last lines to be taken.
const LAST_LINES: Duration = Duration::from_millis(500);

/// What waits to be written.
static QUEUE: OnceLock<Arc<Queue>> = OnceLock::new();

/// Starts logging to standard error. What is logged waits there until [`begin`].
pub fn start(level: LogLevel, format: LogFormat) {
    let level = match level {
        LogLevel::Error => LevelFilter::Error,
        LogLevel::Warn => LevelFilter::Warn,
        LogLevel::Info => LevelFilter::Info,
        LogLevel::Debug => LevelFilter::Debug,
    };
    let queue = Arc::clone(QUEUE.get_or_init(Queue::new));
    let shown = Shown { level, format, queue };
    // A second start could only come from a test, and the first one holds.
    if log::set_boxed_logger(Box::new(Tee { shown, repeats: Mutex::default() })).is_ok() {
        // The status has what happened, whatever the log shows.
        log::set_max_level(level.max(LevelFilter::Info));
        std::panic::set_hook(Box::new(|panic| {
            log::error!("{panic}: this is a bug in frr-supervisor, please report it");
            finish();
        }));
    }
}

/// Starts the thread that writes the log, once. It comes after what the threads of this process have in common is settled.
pub fn begin() {
    static BEGUN: Once = Once::new();
    BEGUN.call_once(start_writing);
}

fn start_writing() {
    let Some(queue) = QUEUE.get() else { return };
    let tell = |dropped: Dropped| {
        log::warn!(
            "{} log lines were dropped within {}, since standard error was not read: see what collects the log",
            dropped.lines,
            span(dropped.since.elapsed())
        );
    };
    if let Err(e) = queue.begin(io::stderr(), tell) {
        log::warn!(
            "there is no thread for the log: {e}; a line that is not taken at once comes with the next one"
        );
    }
}

/// Waits for the last lines to be written, but not long: whoever reads them may have stopped.
pub fn finish() {
    // An end may come before everything else.
    begin();
    if let Some(queue) = QUEUE.get() {
        queue.drain(LAST_LINES);
    }
}

/// The log as it is shown.
struct Shown {
    level: LevelFilter,
    format: LogFormat,
    queue: Arc<Queue>,
}

impl Shown {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let limit = if metadata.target().starts_with(ERRORS_ONLY) { LevelFilter::Error } else { self.level };
        metadata.level() <= limit
    }

    fn log(&self, record: &Record<'_>) {
        let daemon = Some(record.target()).filter(|target| !target.starts_with(OWN_TARGET));
        let text = record.args().to_string();
        let line = line(self.format, &Time::of_wall_clock(), record.level(), daemon, &printable(&text));
        self.queue.push(line.as_bytes(), record.level() == Level::Error, io::stderr());
    }
}

/// A line of the log, with its end.
fn line(
    format: LogFormat,
    time: &dyn std::fmt::Display,
    level: Level,
    daemon: Option<&str>,
    text: &str,
) -> String {
    match (format, daemon) {
        (LogFormat::Json, _) => {
            let mut line = serde_json::json!({
                "time": time.to_string(),
                "level": level.as_str().to_lowercase(),
                "msg": text,
            });
            if let Some(daemon) = daemon {
                line["daemon"] = daemon.into();
            }
            format!("{line}\n")
        }
        (LogFormat::Text, Some(daemon)) => format!("{time} {level:<5} {daemon}: {text}\n"),
        (LogFormat::Text, None) => format!("{time} {level:<5} {text}\n"),
    }
}

/// What a plan did, step by step, is for the log: the event is what came of it.
const STEPS: &str = "frr_supervisor::kernel::apply";

/// The log, and the events of the status, which are our own records.
struct Tee {
    shown: Shown,
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
            Ring::push(record.level(), printable(&record.args().to_string()).into_owned());
        }
        if !self.shown.enabled(record.metadata()) {
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
            let text = line.to_string();
            let mut record = Record::builder();
            record.target(&line.target).level(line.level);
            self.shown.log(&record.args(format_args!("{text}")).build());
        }
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
    fn a_record_is_one_line_whatever_is_in_it() {
        let text = printable("a\nb \u{1b}[31m");
        let words = line(LogFormat::Text, &Time::from_secs(0), Level::Warn, Some("bgpd"), &text);
        assert_eq!(words, "1970-01-01T00:00:00.000Z WARN  bgpd: a\\nb \\u{1b}[31m\n");
        let json = line(LogFormat::Json, &Time::from_secs(0), Level::Info, None, &text);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((json["msg"].as_str(), json["level"].as_str()), (Some("a\\nb \\u{1b}[31m"), Some("info")));
    }
}
