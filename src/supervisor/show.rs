//! What the loop tells the status.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Instant;

use super::process::Child;
use super::{Supervisor, part};
use crate::config::Config;
use crate::frr::Version;
use crate::frr::held::Unannounced;
use crate::logging;
use crate::status::{
    Board, Daemon, Exit, Local, MOST_LISTED, Notification, Peers, Phase, Probe, Rejected, Time,
};

/// What is remembered of a daemon over its deaths.
#[derive(Debug, Clone, Default)]
pub(super) struct Record {
    starts: u64,
    since: Time,
    failures: u64,
    last_exit: Option<Exit>,
    /// Why it could not be started last.
    not_started: Option<String>,
}

impl Record {
    /// Goes on with what is shown of an earlier namespace's daemon.
    pub(super) fn of(name: &str, board: &Board) -> Self {
        let before = board.read().daemons.into_iter().find(|daemon| daemon.name == name);
        before.map_or_else(Self::default, |daemon| Self {
            starts: daemon.restarts + 1,
            since: daemon.since,
            failures: daemon.failures,
            last_exit: daemon.last_exit,
            not_started: None,
        })
    }

    pub(super) fn started(&mut self, board: &Board) {
        (self.starts, self.since) = (self.starts + 1, Time::now());
        self.not_started = None;
        if self.starts > 1 {
            board.tell(|local| {
                local.counts.restarts += 1;
                local.counts.last_restart = Some(self.since);
            });
        }
    }

    /// It can't be started, for that reason. Whether that is new.
    pub(super) fn not_started(&mut self, reason: String) -> bool {
        let new = self.not_started.as_ref() != Some(&reason);
        self.not_started = Some(reason);
        new
    }

    pub(super) fn ended(&mut self, child: &Child, status: ExitStatus) {
        self.since = Time::now();
        self.failures += u64::from(!child.was_killed());
        self.last_exit = Some(Exit {
            at: self.since,
            signal: status.signal(),
            code: status.code(),
            core: status.core_dumped(),
            ordered: child.was_killed(),
            last_line: child.last_words().into(),
        });
    }
}

/// What is shown of the configuration, which has passwords in it.
pub fn describe(local: &mut Local, config: &Config, version: Version) {
    let metallb = &config.metallb;
    local.frr = version.to_string();
    local.node_ip = config.node_ip.to_string();
    local.asn = config.asn.get();
    let ours = std::iter::once(metallb.v6).chain(metallb.v4).map(|pair| pair.frr.to_string());
    local.metallb = (metallb.vrf.to_string(), ours.collect());
    local.speaker = metallb.v6.metallb.to_string();
    local.metallb_v4 = metallb.v4.is_some();
    local.hold_s = metallb.hold_s;
    local.is_vtep = config.overlay.underlay.is_vtep();
    local.bfd = config.timers.bfd.is_some();
    local.liveness_s = config.liveness_s;
    local.namespace.name = config.namespace.to_string();
    local.configuration.sources = std::iter::once("environment".into())
        .chain(config.file.as_ref().map(|file| file.as_str().to_owned()))
        .collect();
}

/// FNV-1a (64 bit): tells texts apart, and is no help in guessing what is in them.
fn fingerprint(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

impl Supervisor<'_> {
    /// Shows which configuration is in force.
    pub(super) fn show_configuration(&self) {
        let hash = fingerprint(&self.text);
        let peers = Peers::new(&self.node.config, &self.text);
        self.board.tell(|local| {
            local.know(peers);
            describe(local, &self.node.config, self.node.version);
            if local.configuration.hash != hash {
                (local.configuration.hash, local.configuration.since) = (hash, Time::now());
            }
        });
    }

    /// Shows that one was not taken, and why; or, with no reasons, that the last one was.
    pub(super) fn show_rejection(&self, reasons: &[String]) {
        let rejected = (!reasons.is_empty()).then(|| Rejected {
            at: Time::now(),
            reasons: logging::first_lines(reasons).map(Into::into).collect(),
        });
        self.board.tell(|local| {
            local.counts.rejections += u64::from(rejected.is_some());
            if rejected.is_none() {
                local.configuration.fell_back = false;
            }
            local.configuration.rejected = rejected;
        });
    }

    /// Shows the daemons as they are now.
    pub(super) fn show_daemons(&self, now: Instant) {
        self.board.turn();
        let one = |i: usize| {
            let (state, deaths) = self.policy.life(i, now);
            let record = &self.records[i];
            Daemon {
                name: self.daemons[i].name.into(),
                pid: self.children[i].as_ref().map(|child| child.pid.as_raw_nonzero().get().unsigned_abs()),
                state,
                since: record.since,
                failures: record.failures,
                restarts: record.starts.saturating_sub(1),
                deaths,
                last_exit: record.last_exit.clone(),
            }
        };
        self.board.tell_daemons((0..self.daemons.len()).map(one).collect());
    }

    /// Shows which services are held.
    pub(super) fn show_held(&self) {
        let in_force = part(&self.parts, "bgpd").is_some();
        let held: Vec<String> =
            self.hold.held().filter(|_| in_force).take(MOST_LISTED).map(ToString::to_string).collect();
        let unlisted = if in_force { self.hold.held().count() - held.len() } else { 0 };
        self.board.tell(|local| {
            (local.held, local.held_unlisted) = (held, unlisted);
            local.news += 1;
        });
    }

    /// Shows which services no leaf is told of.
    pub(super) fn show_unannounced(&self) {
        let mut by_reason: BTreeMap<Unannounced, Vec<String>> = BTreeMap::new();
        for (prefix, why) in self.hold.unannounced() {
            by_reason.entry(why.clone()).or_default().push(prefix.to_string());
        }
        self.board.tell(|local| local.unannounced = by_reason);
    }

    /// Looks at what the namespace's own counters say.
    pub(super) fn probe(&mut self) {
        match self.probe.as_mut().map(Probe::look) {
            Some(Ok(findings)) => self.board.tell_findings(findings),
            Some(Err(e)) => log::debug!("the namespace's counters can't be read: {e}"),
            None => {}
        }
    }

    /// Has the sessions asked for, and shows what bgpd's log has said of them.
    pub(super) fn show_news(&mut self) {
        // What is dropped from now on may be why.
        self.probe();
        let lines: Vec<String> =
            self.children.iter_mut().flatten().flat_map(Child::take_notifications).collect();
        self.board.tell(|local| {
            local.notified(lines.iter().filter_map(|line| Notification::parse(line)));
            local.news += 1;
        });
    }

    /// Shows that we are at the end.
    pub(super) fn show_stop(&self) {
        self.board.tell(|local| local.enter(Phase::Stopping));
    }
}
