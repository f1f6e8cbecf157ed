//! The status for a terminal: `frr-supervisor status`.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use serde::Deserialize;

use crate::files::{self, LARGEST, Owner};
use crate::instance;

use super::{BgpSession, DaemonState, Health, NodePhase, Status};
use crate::printable::printable;
use crate::time::Time;

/// Path of the status in JSON.
pub const FILE: &str = "/run/frr/status.json";

/// Path of the status for a terminal.
pub const TEXT: &str = "/run/frr/status.txt";

/// How often `--watch` reads the file.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Exit codes of `frr-supervisor status`, beside 0 for "healthy". Init scripts use 3 for "not running" (LSB); 2 is an
/// invalid command line.
const EXIT_DEGRADED: u8 = 1;
const EXIT_DOWN: u8 = 3;

/// Clears a terminal and moves the cursor to its upper left corner (ECMA-48).
const CLEAR: &str = "\x1b[H\x1b[2J\x1b[3J";

/// Options of `frr-supervisor status`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PrintOptions {
    /// Print status.json.
    pub json: bool,
    /// Print the status again whenever it changes.
    pub watch: bool,
}

/// The fields of status.json that the exit code depends on.
#[derive(Debug, Deserialize, Default)]
#[serde(default)]
struct Summary {
    health: String,
    phase: String,
}

/// Prints the status. The exit code is the health of the node.
pub fn print(options: PrintOptions) -> ExitCode {
    let out = io::stdout();
    let mut before = String::new();
    loop {
        let read = read_file(TEXT);
        let summary: Summary =
            read_file(FILE).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        let runs = instance::is_taken();
        let text = match read {
            _ if options.json => read_file(FILE).map(|text| text + "\n").unwrap_or_default(),
            Ok(text) if runs && out.is_terminal() => text,
            Ok(text) if runs => without_colours(&text),
            Ok(_) => {
                format!("frr-supervisor does not run; its last phase was {}\n", summary.phase)
            }
            Err(e) => format!("frr-supervisor does not run on this node: {TEXT}: {e}\n"),
        };
        if text != before {
            let clear = if options.watch && out.is_terminal() { CLEAR } else { "" };
            if write!(out.lock(), "{clear}{text}").is_err() {
                return ExitCode::SUCCESS;
            }
        }
        if !options.watch {
            return match summary.health {
                health if runs && health == Health::Healthy.as_str() => ExitCode::SUCCESS,
                health if runs && health == Health::Degraded.as_str() => EXIT_DEGRADED.into(),
                _ => EXIT_DOWN.into(),
            };
        }
        before = text;
        thread::sleep(WATCH_INTERVAL);
    }
}

fn read_file(path: &str) -> io::Result<String> {
    files::read(Path::new(path), Owner::Root, LARGEST)
}

/// The text without its colour escapes.
pub fn without_colours(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| all + part.split_once('m').map_or("", |(_, rest)| rest))
}

/// The status in one line, for systemd.
pub fn line(status: &Status) -> String {
    let line = match &status.problems[..] {
        [] if status.phase != NodePhase::Running => status.phase.as_str().into(),
        [] => {
            let up = status.bgp.iter().filter(|s| s.is_up()).count();
            format!("{}: {up} of {} BGP sessions up", status.health.as_str(), status.bgp.len())
        }
        [problem] => format!("{}: {}", status.health.as_str(), problem.what),
        [problem, rest @ ..] => {
            format!("{}: {}; and {} more", status.health.as_str(), problem.what, rest.len())
        }
    };
    printable(&line).into_owned()
}

#[derive(Clone, Copy)]
enum Colour {
    Red = 31,
    Green = 32,
    Yellow = 33,
}

#[derive(Default)]
struct TextPage(String);

impl TextPage {
    /// Adds a line.
    fn line(&mut self, text: impl AsRef<str>) {
        self.coloured_line(&printable(text.as_ref()));
    }

    /// Adds a line that contains colour escapes. Its text must be printable.
    fn coloured_line(&mut self, text: &str) {
        self.0.push_str(text.trim_end());
        self.0.push('\n');
    }

    /// Adds a table with aligned columns; the first row is the heading. The second column is green where `is_good` is
    /// true for the row, and red elsewhere.
    fn table(&mut self, rows: &[Vec<String>], is_good: impl Fn(usize) -> bool) {
        if rows.len() < 2 {
            return;
        }
        self.line("");
        let printable = |row: &Vec<String>| row.iter().map(|cell| printable(cell).into_owned()).collect();
        let rows: Vec<Vec<String>> = rows.iter().map(printable).collect();
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |i: usize| {
            rows.iter().filter_map(|row| row.get(i)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (n, row) in rows.iter().enumerate() {
            let cells = row.iter().enumerate().map(|(i, cell)| {
                let padded = format!("{cell:<width$}", width = widths[i]);
                match (n, i) {
                    (1.., 1) => coloured(if is_good(n - 1) { Colour::Green } else { Colour::Red }, &padded),
                    _ => padded,
                }
            });
            let text = cells.collect::<Vec<_>>().join("  ");
            self.coloured_line(&text);
        }
    }
}

fn coloured(colour: Colour, text: &str) -> String {
    format!("\x1b[{}m{text}\x1b[0m", colour as u8)
}

fn cells(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

/// Renders the status for a terminal.
pub fn render(status: &Status) -> String {
    let since = |time: Time| time.short();
    let mut page = TextPage::default();
    let colour = match status.health {
        Health::Healthy => Colour::Green,
        Health::Degraded => Colour::Yellow,
        Health::Down => Colour::Red,
    };
    let health = coloured(colour, status.health.as_str());
    page.coloured_line(&format!(
        "{health}  {} since {}, AS {}, {}, FRR {}, namespace {}",
        status.phase.as_str(),
        since(status.phase_since),
        status.asn,
        printable(&status.node_ip),
        printable(&status.frr),
        printable(&status.namespace.name)
    ));
    for problem in &status.problems {
        page.line("");
        let what = coloured(colour, &printable(&format!("{} ({})", problem.what, problem.code)));
        page.coloured_line(&format!("! {what}, since {}", since(problem.since)));
        page.line(format!("  traffic: {}", problem.traffic));
        page.line(format!("  action:  {}", problem.remedy));
    }
    let mut rows = vec![cells(&["DAEMON", "STATE", "PID", "SINCE", "RESTARTS", "LAST EXIT"])];
    rows.extend(status.daemons.iter().map(|d| {
        let exit = d.last_exit.as_ref().map_or_else(String::new, |exit| {
            let how = match (exit.signal, exit.code) {
                (Some(signal), _) => format!("signal {signal}"),
                (_, Some(code)) => format!("code {code}"),
                _ => "unknown".into(),
            };
            format!("{how}, {}: {}", since(exit.at), exit.last_line)
        });
        let pid = d.pid.map(|pid| pid.to_string()).unwrap_or_default();
        vec![d.name.clone(), d.state.as_str().into(), pid, since(d.since), d.restarts.to_string(), exit]
    }));
    page.table(&rows, |i| status.daemons[i].state == DaemonState::Running);
    let mut rows = vec![cells(&["BGP", "STATE", "VRF", "AS", "SINCE", "IN", "OUT", "LAST RESET"])];
    rows.extend(status.bgp.iter().map(|s| {
        let sum =
            |which: fn(&super::Prefixes) -> u64| s.families.values().map(which).sum::<u64>().to_string();
        let reset = if s.is_up() { String::new() } else { s.last_reset.clone() };
        let (received, sent) = (sum(|p| p.received), sum(|p| p.sent));
        vec![
            s.peer.clone(),
            s.state.clone(),
            s.vrf.clone(),
            s.remote_as.to_string(),
            since(s.since),
            received,
            sent,
            reset,
        ]
    }));
    page.table(&rows, |i| status.bgp.get(i).is_some_and(BgpSession::is_up));
    let mut rows = vec![cells(&["BFD", "STATE", "INTERFACE", "VRF", "SINCE"])];
    rows.extend(
        status.bfd.iter().map(|s| {
            vec![s.peer.clone(), s.state.clone(), s.interface.clone(), s.vrf.clone(), since(s.since)]
        }),
    );
    page.table(&rows, |i| status.bfd[i].state == "up");
    let mut rows = vec![cells(&["INTERFACE", "STATE", "SELECTED BY"])];
    let state = |present, carrier| match (present, carrier) {
        (false, _) => "missing",
        (true, false) => "no link",
        (true, true) => "up",
    };
    rows.extend(
        status
            .interfaces
            .iter()
            .map(|i| vec![i.name.clone(), state(i.present, i.carrier).into(), i.selector.clone()]),
    );
    page.table(&rows, |i| status.interfaces[i].present && status.interfaces[i].carrier);
    let mut rows = vec![cells(&["VNI", "STATE", "TYPE", "VRF", "REMOTE VTEPS", "MACS", "NEIGHBOURS"])];
    rows.extend(status.vnis.iter().map(|v| {
        let state = if v.up { "up" } else { "down" };
        let counts = [v.remote_vteps, v.macs, v.neighbours].map(|n| n.to_string());
        [vec![v.vni.to_string(), state.into(), v.kind.clone(), v.vrf.clone()], counts.into()].concat()
    }));
    page.table(&rows, |i| status.vnis[i].up);
    let mut rows = vec![cells(&["SERVICE", "STATE", "NEXT HOP"])];
    let is_listed = |prefix: &&String| status.services.iter().any(|s| s.prefix == **prefix);
    let retained: Vec<&String> = status.retained.iter().filter(|prefix| !is_listed(prefix)).collect();
    rows.extend(status.services.iter().map(|s| {
        vec![s.prefix.clone(), if s.valid { "announced" } else { "inaccessible" }.into(), s.next_hop.clone()]
    }));
    if status.services_unlisted > 0 {
        rows.push(vec![format!("{} more", status.services_unlisted), "announced".into(), String::new()]);
    }
    rows.extend(retained.iter().map(|prefix| vec![(*prefix).clone(), "retained".into(), String::new()]));
    if status.retained_unlisted > 0 {
        rows.push(vec![format!("{} more", status.retained_unlisted), "retained".into(), String::new()]);
    }
    page.table(&rows, |i| status.services.get(i).is_none_or(|s| s.valid));
    let wrong = status.wrong_devices().count();
    page.line("");
    page.line(format!(
        "{} devices, {wrong} of them not in the desired state; {} repairs, {} restarts, {} configuration changes, {} rejected",
        status.devices.len(),
        status.counts.repairs,
        status.counts.restarts,
        status.counts.changes,
        status.counts.rejections
    ));
    let configuration = &status.configuration;
    page.line(format!(
        "configuration {} from {}, since {}",
        configuration.hash,
        configuration.sources.join(" and "),
        since(configuration.since)
    ));
    page.0
}
