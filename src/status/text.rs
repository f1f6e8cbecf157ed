//! The status for a terminal: `frr-supervisor status`.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use crate::files::{self, LARGEST, Owner};
use crate::lock;

use super::{BgpSession, Health, Life, Phase, Status, Time};
use crate::printable::printable;

/// Where the status is.
pub const FILE: &str = "/run/frr/status.json";

/// Where it is for a terminal.
pub const TEXT: &str = "/run/frr/status.txt";

/// How often `--watch` looks whether it has changed.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Exit codes beside 0, "healthy". 3 is what init scripts say for "not running" (LSB), and 2 is a wrong command line.
const DEGRADED: u8 = 1;
const DOWN: u8 = 3;

/// Clears a terminal and goes to its upper left corner (ECMA-48).
const CLEAR: &str = "\x1b[H\x1b[2J\x1b[3J";

/// What to print.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Command {
    /// The file as it is.
    pub json: bool,
    /// Again and again.
    pub watch: bool,
}

/// Does it. The exit code says how the node is.
pub fn command(command: Command) -> ExitCode {
    let out = io::stdout();
    let mut before = String::new();
    loop {
        let read = read_file(TEXT);
        let plain = without_colours(read.as_deref().unwrap_or_default());
        let runs = lock::is_taken();
        let text = match read {
            _ if command.json => read_file(FILE).map(|text| text + "\n").unwrap_or_default(),
            Ok(text) if runs && out.is_terminal() => text,
            Ok(_) if runs => plain.clone(),
            Ok(_) => {
                let last = plain.split_whitespace().nth(1).unwrap_or_default();
                format!("frr-supervisor does not run; it was {last} when it ended\n")
            }
            Err(e) => format!("frr-supervisor does not run, or not here: {TEXT}: {e}\n"),
        };
        if text != before {
            let clear = if command.watch && out.is_terminal() { CLEAR } else { "" };
            if write!(out.lock(), "{clear}{text}").is_err() {
                return ExitCode::SUCCESS;
            }
        }
        if !command.watch {
            return match plain.split_whitespace().next().filter(|_| runs) {
                Some(word) if word == Health::Healthy.word() => ExitCode::SUCCESS,
                Some(word) if word == Health::Degraded.word() => DEGRADED.into(),
                _ => DOWN.into(),
            };
        }
        before = text;
        thread::sleep(WATCH_EVERY);
    }
}

fn read_file(path: &str) -> io::Result<String> {
    files::read(Path::new(path), Owner::Root, LARGEST)
}

/// The text as it is where there are no colours.
pub fn without_colours(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| all + part.split_once('m').map_or("", |(_, rest)| rest))
}

/// All of it in one line.
pub fn line(status: &Status) -> String {
    let line = match &status.problems[..] {
        [] if status.phase != Phase::Running => status.phase.word().into(),
        [] => {
            let up = status.bgp.iter().filter(|s| s.is_up()).count();
            format!("{}: {up} of {} BGP sessions up", status.health.word(), status.bgp.len())
        }
        [problem] => format!("{}: {}", status.health.word(), problem.what),
        [problem, rest @ ..] => {
            format!("{}: {}; and {} more", status.health.word(), problem.what, rest.len())
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
struct Page(String);

impl Page {
    fn line(&mut self, text: impl AsRef<str>) {
        self.painted(&printable(text.as_ref()));
    }

    /// A line with colours in it, whose words are printable already.
    fn painted(&mut self, text: &str) {
        self.0.push_str(text.trim_end());
        self.0.push('\n');
    }

    /// Rows with their columns aligned; the first row is the heading. `good`: whether a row's second column is.
    fn table(&mut self, rows: &[Vec<String>], good: impl Fn(usize) -> bool) {
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
                    (1.., 1) => paint(if good(n - 1) { Colour::Green } else { Colour::Red }, &padded),
                    _ => padded,
                }
            });
            let text = cells.collect::<Vec<_>>().join("  ");
            self.painted(&text);
        }
    }
}

fn paint(colour: Colour, text: &str) -> String {
    format!("\x1b[{}m{text}\x1b[0m", colour as u8)
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

/// As a terminal shows it.
pub fn render(status: &Status) -> String {
    let since = |time: Time| time.short();
    let mut page = Page::default();
    let colour = match status.health {
        Health::Healthy => Colour::Green,
        Health::Degraded => Colour::Yellow,
        Health::Down => Colour::Red,
    };
    let health = paint(colour, status.health.word());
    page.painted(&format!(
        "{health}  {} since {}, AS {}, {}, FRR {}, namespace {}",
        status.phase.word(),
        since(status.phase_since),
        status.asn,
        printable(&status.node_ip),
        printable(&status.frr),
        printable(&status.namespace.name)
    ));
    for problem in &status.problems {
        page.line("");
        let what = paint(colour, &printable(&format!("{} ({})", problem.what, problem.code)));
        page.painted(&format!("! {what}, since {}", since(problem.since)));
        page.line(format!("  traffic: {}", problem.traffic));
        page.line(format!("  do:      {}", problem.remedy));
    }
    let mut rows = vec![words(&["DAEMON", "STATE", "PID", "SINCE", "RESTARTS", "LAST EXIT"])];
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
        vec![d.name.clone(), d.state.word().into(), pid, since(d.since), d.restarts.to_string(), exit]
    }));
    page.table(&rows, |i| status.daemons[i].state == Life::Running);
    let mut rows = vec![words(&["BGP", "STATE", "VRF", "AS", "SINCE", "IN", "OUT", "LAST RESET"])];
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
    let mut rows = vec![words(&["BFD", "STATE", "INTERFACE", "VRF", "SINCE"])];
    rows.extend(
        status.bfd.iter().map(|s| {
            vec![s.peer.clone(), s.state.clone(), s.interface.clone(), s.vrf.clone(), since(s.since)]
        }),
    );
    page.table(&rows, |i| status.bfd[i].state == "up");
    let mut rows = vec![words(&["INTERFACE", "STATE", "ASKED FOR BY"])];
    let state = |present, carrier| match (present, carrier) {
        (false, _) => "missing",
        (true, false) => "no link",
        (true, true) => "up",
    };
    rows.extend(
        status
            .interfaces
            .iter()
            .map(|i| vec![i.name.clone(), state(i.present, i.carrier).into(), i.by.clone()]),
    );
    page.table(&rows, |i| status.interfaces[i].present && status.interfaces[i].carrier);
    let mut rows = vec![words(&["VNI", "STATE", "TYPE", "VRF", "REMOTE VTEPS", "MACS", "NEIGHBOURS"])];
    rows.extend(status.vnis.iter().map(|v| {
        let state = if v.up { "up" } else { "down" };
        let counts = [v.remote_vteps, v.macs, v.neighbours].map(|n| n.to_string());
        [vec![v.vni.to_string(), state.into(), v.kind.clone(), v.vrf.clone()], counts.into()].concat()
    }));
    page.table(&rows, |i| status.vnis[i].up);
    let mut rows = vec![words(&["SERVICE", "STATE", "NEXT HOP"])];
    let held = status.held.iter().filter(|prefix| !status.services.iter().any(|s| s.prefix == **prefix));
    let held: Vec<&String> = held.collect();
    rows.extend(status.services.iter().map(|s| {
        vec![s.prefix.clone(), if s.valid { "announced" } else { "inaccessible" }.into(), s.next_hop.clone()]
    }));
    if status.services_unlisted > 0 {
        rows.push(vec![format!("{} more", status.services_unlisted), "announced".into(), String::new()]);
    }
    rows.extend(held.iter().map(|prefix| vec![(*prefix).clone(), "held".into(), String::new()]));
    if status.held_unlisted > 0 {
        rows.push(vec![format!("{} more", status.held_unlisted), "held".into(), String::new()]);
    }
    page.table(&rows, |i| status.services.get(i).is_none_or(|s| s.valid));
    let wrong = status.wrong_devices().count();
    page.line("");
    page.line(format!(
        "{} devices, {wrong} of them not as they shall be; {} repairs, {} restarts, {} configuration changes, {} rejected",
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
