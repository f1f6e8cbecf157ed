//! The log: one line for one thing, as text or as JSON with the fields that Talos extracts.

use std::io::Write as _;

use env_logger::{Builder, Target};
use log::LevelFilter;

use crate::config::{LogFormat, LogLevel};

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
    let _ = builder.try_init();
}

/// Says what is wrong with the configuration. A problem's source line and the caret below it are for `check`: here a record
/// is one line.
pub fn problems(problems: &[String]) {
    for problem in problems {
        log::error!("{}", problem.lines().next().unwrap_or_default());
    }
}
