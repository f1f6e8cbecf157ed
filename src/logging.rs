//! The log: one line per message, as text or as JSON with the fields that Talos extracts.

mod queue;
mod repeats;

use std::io;
use std::sync::{Arc, Mutex, Once, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use log::kv::{Key, Value, VisitSource};
use log::{Level, LevelFilter, Log, Metadata, Record};
use serde_json::Map;

use crate::config::{LogFormat, LogLevel};
use crate::events::EventLog;
use crate::printable::printable;
use crate::time::{Time, span};

use queue::{DroppedLines, Queue};
use repeats::Repeats;

/// The target of this program's own records. A daemon's records have the daemon's name as their target.
const OWN_TARGET: &str = "frr_supervisor";

/// The netlink crates warn about every attribute that they do not know yet. Only their errors are logged.
const ERRORS_ONLY: &str = "netlink";

/// How long the process waits at its exit until the queued lines are written.
const EXIT_DRAIN: Duration = Duration::from_millis(500);

/// The lines to write.
static QUEUE: OnceLock<Arc<Queue>> = OnceLock::new();

/// Installs the logger. Lines are queued until [`start_writer`].
pub fn start(level: LogLevel, format: LogFormat) {
    let level = match level {
        LogLevel::Error => LevelFilter::Error,
        LogLevel::Warn => LevelFilter::Warn,
        LogLevel::Info => LevelFilter::Info,
        LogLevel::Debug => LevelFilter::Debug,
    };
    let queue = Arc::clone(QUEUE.get_or_init(Queue::new));
    let stderr = StderrLog { level, format, queue };
    // Only tests call this twice; the first logger stays.
    if log::set_boxed_logger(Box::new(Logger { stderr, repeats: Mutex::default() })).is_ok() {
        // The status lists events at info level, whatever the log shows.
        log::set_max_level(level.max(LevelFilter::Info));
        std::panic::set_hook(Box::new(|panic| {
            log::error!("{panic}: this is a bug in frr-supervisor, please report it");
            finish();
        }));
    }
}

/// Starts the thread that writes the log. Only the first call does anything. Call it after the capabilities and limits
/// are set, which threads inherit.
pub fn start_writer() {
    static STARTED: Once = Once::new();
    STARTED.call_once(try_start_writer);
}

fn try_start_writer() {
    let Some(queue) = QUEUE.get() else { return };
    let report = |dropped: DroppedLines| {
        log::warn!(
            "{} log lines were dropped within {} because nothing read standard error: check what collects the log",
            dropped.lines,
            span(dropped.since.elapsed())
        );
    };
    if let Err(e) = queue.start_writer(io::stderr(), report) {
        log::warn!("the log has no writer thread: {e}; lines may be delayed until the next line");
    }
}

/// Waits up to [`EXIT_DRAIN`] for the queued lines to be written: the reader may have stopped.
pub fn finish() {
    // The process may exit before it called it.
    start_writer();
    if let Some(queue) = QUEUE.get() {
        queue.drain(EXIT_DRAIN);
    }
}

/// Formats records and writes them to standard error.
struct StderrLog {
    level: LevelFilter,
    format: LogFormat,
    queue: Arc<Queue>,
}

impl StderrLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let limit = if metadata.target().starts_with(ERRORS_ONLY) { LevelFilter::Error } else { self.level };
        metadata.level() <= limit
    }

    fn log(&self, record: &Record<'_>) {
        let daemon = Some(record.target()).filter(|target| !target.starts_with(OWN_TARGET));
        let text = record.args().to_string();
        let fields = match self.format {
            LogFormat::Json => Fields::of(record),
            // The message says the same in words.
            LogFormat::Text => Fields::default(),
        };
        let line =
            line(self.format, &Time::of_wall_clock(), record.level(), daemon, &printable(&text), fields);
        self.queue.push(line.as_bytes(), record.level() == Level::Error, io::stderr());
    }
}

/// The key-value pairs of a record (`pid`, `peer`, `interface` and the like).
#[derive(Debug, Default)]
struct Fields(Map<String, serde_json::Value>);

impl Fields {
    fn of(record: &Record<'_>) -> Self {
        let mut fields = Self::default();
        // The visitor below never fails.
        let _ = record.key_values().visit(&mut fields);
        fields
    }
}

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
        let value = value.to_u64().map_or_else(|| printable(&value.to_string()).into(), Into::into);
        self.0.insert(key.as_str().to_owned(), value);
        Ok(())
    }
}

/// A line of the log, with its line feed. `fields` are for JSON.
fn line(
    format: LogFormat,
    time: &dyn std::fmt::Display,
    level: Level,
    daemon: Option<&str>,
    text: &str,
    fields: Fields,
) -> String {
    match (format, daemon) {
        (LogFormat::Json, _) => {
            // Whatever a field is called, these stay what they are.
            let mut line = fields.0;
            line.insert("time".into(), time.to_string().into());
            line.insert("level".into(), level.as_str().to_lowercase().into());
            line.insert("msg".into(), text.into());
            if let Some(daemon) = daemon {
                line.insert("daemon".into(), daemon.into());
            }
            format!("{}\n", serde_json::Value::from(line))
        }
        (LogFormat::Text, Some(daemon)) => format!("{time} {level:<5} {daemon}: {text}\n"),
        (LogFormat::Text, None) => format!("{time} {level:<5} {text}\n"),
    }
}

/// The single steps of a plan appear only in the log. The status has one event for the whole plan.
const STEPS: &str = "frr_supervisor::kernel::apply";

/// Sends records to standard error, and this program's own records to the status's event log, too.
struct Logger {
    stderr: StderrLog,
    repeats: Mutex<Repeats>,
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.stderr.enabled(metadata) || metadata.level() <= Level::Info
    }

    fn log(&self, record: &Record<'_>) {
        let own = record.target().starts_with(OWN_TARGET);
        let step = record.target() == STEPS && record.level() == Level::Info;
        if own && record.level() <= Level::Info && !step {
            EventLog::push(record.level(), printable(&record.args().to_string()).into_owned());
        }
        if !self.stderr.enabled(record.metadata()) {
            return;
        }
        if own || self.is_new(record) {
            self.stderr.log(record);
        }
    }

    /// Logs the counts of repeated lines.
    fn flush(&self) {
        let due = self.repeats.lock().unwrap_or_else(PoisonError::into_inner).due(Instant::now());
        for line in due {
            let text = line.to_string();
            let mut record = Record::builder();
            record.target(&line.target).level(line.level);
            self.stderr.log(&record.args(format_args!("{text}")).build());
        }
    }
}

impl Logger {
    /// Counts a daemon's line. Returns whether to show it.
    fn is_new(&self, record: &Record<'_>) -> bool {
        let text = record.args().to_string();
        let mut repeats = self.repeats.lock().unwrap_or_else(PoisonError::into_inner);
        repeats.take(record.target(), record.level(), &text, Instant::now())
    }
}

/// Logs the configuration's problems. Only `check` prints a problem's source line and the caret below it: a record is
/// one line.
pub fn problems(problems: &[String]) {
    for problem in first_lines(problems) {
        log::error!("{problem}");
    }
}

/// The first line of each problem, without the source line.
pub fn first_lines(problems: &[String]) -> impl Iterator<Item = &str> {
    problems.iter().map(|problem| problem.lines().next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line_whatever_is_in_it() {
        let text = printable("a\nb \u{1b}[31m");
        let words =
            line(LogFormat::Text, &Time::from_secs(0), Level::Warn, Some("bgpd"), &text, Fields::default());
        assert_eq!(words, "1970-01-01T00:00:00.000Z WARN  bgpd: a\\nb \\u{1b}[31m\n");
        let pairs =
            [("pid", Value::from(7_u32)), ("peer", Value::from("eth1")), ("msg", Value::from("other"))];
        let fields = Fields::of(&Record::builder().key_values(&pairs).build());
        let json = line(LogFormat::Json, &Time::from_secs(0), Level::Info, None, &text, fields);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((json["msg"].as_str(), json["level"].as_str()), (Some("a\\nb \\u{1b}[31m"), Some("info")));
        assert_eq!((json["pid"].as_u64(), json["peer"].as_str()), (Some(7), Some("eth1")));
    }
}
