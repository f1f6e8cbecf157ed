//! Graceful shutdown: before the sessions end, the peers move their traffic to other paths.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Pid;

use crate::frr::neighbors::{self, Neighbors, SHOW_NEIGHBORS};
use crate::frr::vty::{CONFIGURE, Query, Reply};
use crate::frr::{Document, is_default_bgp_instance};

/// Time for bgpd's messages to reach the peers.
const DELIVERY_TIME: Duration = Duration::from_secs(1);

/// Longest time for bgpd to shut down all sessions: some milliseconds for each, and there may be hundreds.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// Longest wait for the sessions of a new bgpd: without sessions it can withdraw nothing. Talos kills the service 10 s
/// after its SIGTERM.
const SESSIONS_TIMEOUT: Duration = Duration::from_secs(4);

/// Longest duration of the whole graceful shutdown: Talos' 10 s must also cover the exit of the daemons.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(8);

/// Interval between two queries for the sessions.
const QUERY_INTERVAL: Duration = Duration::from_millis(100);

/// A running graceful shutdown. First every route gets the community `GRACEFUL_SHUTDOWN` (RFC 8326), so that a peer
/// prefers any other path (drain). Then every session is shut down with a notification after which the peer keeps no
/// route, with or without graceful restart (RFC 8538 §4; `bgp hard-administrative-reset`, on by default). If bgpd exits
/// meanwhile, its peers keep all routes: the shutdown starts again with the next bgpd, as far as time allows.
#[derive(Debug)]
pub struct GracefulShutdown {
    socket: PathBuf,
    stage: Stage,
    drain: Duration,
    drain_commands: Vec<String>,
    shutdown_commands: Vec<String>,
    query: Option<Query>,
    next_step: Instant,
    /// Latest end of the drain.
    drain_deadline: Instant,
    /// The process that executes the shutdown, if bgpd responds.
    bgpd: Option<Pid>,
    /// The neighbors without a session at the last query, if bgpd has neighbors; `None` before the first query.
    missing_sessions: Option<Vec<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Waits for the sessions, until this time.
    Sessions(Instant),
    Drain,
    /// Shuts the sessions down, until this time.
    Shutdown(Instant),
}

/// Result of a graceful shutdown.
#[derive(Debug, PartialEq, Eq)]
pub enum ShutdownOutcome {
    /// Every session was shut down. A new bgpd had no session with these neighbors.
    Complete(Vec<String>),
    /// bgpd did not run, or did not reply in time.
    Failed,
}

impl GracefulShutdown {
    /// Starts the graceful shutdown of the bgpd that listens at `socket` and runs `document`, in process `bgpd` if it
    /// responds. `settled`: bgpd has had time to establish its sessions.
    pub fn start(
        socket: PathBuf,
        document: &Document,
        drain: Duration,
        bgpd: Option<Pid>,
        settled: bool,
        now: Instant,
    ) -> Self {
        let (drain_commands, shutdown_commands) = commands(document);
        let stage = Stage::Sessions(if settled { now } else { now + SESSIONS_TIMEOUT });
        let drain_deadline = now + (TOTAL_TIMEOUT - DELIVERY_TIME);
        let mut shutdown = Self {
            socket,
            stage,
            drain,
            drain_commands,
            shutdown_commands,
            query: None,
            next_step: now,
            drain_deadline,
            bgpd,
            missing_sessions: settled.then(Vec::new),
        };
        if settled {
            shutdown.drain(now);
        }
        shutdown
    }

    /// When to call [`Self::step`] if nothing else happens.
    pub fn deadline(&self) -> Instant {
        self.next_step
    }

    /// The query to poll.
    pub fn query(&self) -> Option<&Query> {
        self.query.as_ref()
    }

    /// Does the next step with the bgpd in process `bgpd`, if it responds. Returns the result at the end.
    pub fn step(&mut self, bgpd: Option<Pid>, now: Instant) -> Option<ShutdownOutcome> {
        if bgpd != self.bgpd {
            if self.bgpd.is_some() {
                log::warn!(
                    daemon = "bgpd";
                    "bgpd exited during the graceful shutdown, which starts again with the next bgpd"
                );
            }
            self.bgpd = bgpd;
            self.stage = Stage::Sessions((now + SESSIONS_TIMEOUT).min(self.drain_deadline));
            (self.query, self.next_step, self.missing_sessions) = (None, now, None);
        }
        let replies = Query::take_ended(&mut self.query).and_then(Result::ok);
        match self.stage {
            Stage::Sessions(until) => {
                let neighbors = replies.as_deref().and_then(parse_neighbors).filter(|all| !all.is_empty());
                if let Some(neighbors) = neighbors {
                    let missing = self.missing_sessions.insert(missing_sessions(&neighbors));
                    if missing.is_empty() {
                        self.drain(now);
                        return None;
                    }
                }
                if now >= until {
                    self.drain(now);
                } else if now >= self.next_step {
                    if self.query.is_none() {
                        self.query = Query::show(&self.socket, [SHOW_NEIGHBORS]).ok();
                    }
                    self.next_step = (now + QUERY_INTERVAL).min(until);
                }
                None
            }
            Stage::Shutdown(_) if replies.is_some() => {
                let success = replies.is_some_and(|replies| replies.iter().all(|reply| reply.success));
                let missing = self.missing_sessions.take().filter(|_| success);
                Some(missing.map_or(ShutdownOutcome::Failed, ShutdownOutcome::Complete))
            }
            _ if now < self.next_step => None,
            Stage::Drain => {
                self.stage = Stage::Shutdown(
                    (now + SHUTDOWN_TIMEOUT).min(self.drain_deadline.max(now) + DELIVERY_TIME),
                );
                self.query = Query::commands(&self.socket, &self.shutdown_commands).ok();
                self.next_step = now + DELIVERY_TIME;
                self.query.is_none().then_some(ShutdownOutcome::Failed)
            }
            Stage::Shutdown(until) if self.query.is_some() && now < until => {
                self.next_step = (now + QUERY_INTERVAL).min(until);
                None
            }
            Stage::Shutdown(_) => Some(ShutdownOutcome::Failed),
        }
    }

    fn drain(&mut self, now: Instant) {
        self.stage = Stage::Drain;
        self.query = Query::commands(&self.socket, &self.drain_commands).ok();
        self.next_step =
            if self.query.is_some() { (now + self.drain).min(self.drain_deadline.max(now)) } else { now };
    }
}

/// The neighbors of the default VRF in bgpd's reply.
fn parse_neighbors(replies: &[Reply]) -> Option<Neighbors> {
    neighbors::parse(replies.first()?)
}

/// The neighbors whose session is not established.
fn missing_sessions(neighbors: &Neighbors) -> Vec<String> {
    let down = neighbors.iter().filter(|(_, neighbor)| !neighbor.is_established());
    down.map(|(name, _)| name.clone()).collect()
}

/// Beginnings of unindented lines that can belong to a BGP instance: FRR ignores the indentation.
const INSTANCE_LINES: [&str; 9] =
    ["!", "address-family ", "bgp ", "bmp ", "exit-", "neighbor ", "network ", "no ", "segment-routing "];

/// The BGP instances of frr.conf with their neighbors. Unknown lines in the text hide no neighbor.
fn instances(document: &Document) -> Vec<(&str, Vec<&str>)> {
    let mut instances: Vec<(&str, Vec<&str>)> = vec![];
    let mut open = None;
    for block in document.blocks() {
        let head = block.head();
        if head.starts_with("router bgp ") {
            // A second block of the same instance continues the first one.
            open = instances.iter().position(|(other, _)| *other == head).or_else(|| {
                instances.push((head, vec![]));
                Some(instances.len() - 1)
            });
        } else if !INSTANCE_LINES.iter().any(|words| head.starts_with(words)) {
            open = None;
        }
        for line in std::iter::once(head).chain(block.lines()) {
            if let Some(rest) = line.strip_prefix("neighbor ")
                && let Some(name) = rest.split(' ').next()
                && let Some((_, neighbors)) = open.map(|at| &mut instances[at])
                && !neighbors.contains(&name)
            {
                neighbors.push(name);
            }
        }
        if block.is_closed() {
            open = None;
        }
    }
    instances
}

/// The commands for the drain and for the shutdown, for every BGP instance and neighbor of frr.conf. The default
/// instance comes first: its neighbors are the leaves, through which all other neighbors are reached.
fn commands(document: &Document) -> (Vec<String>, Vec<String>) {
    let configure = || CONFIGURE.map(str::to_owned).to_vec();
    let (mut drain_commands, mut shutdown_commands) = (configure(), configure());
    let (first, others): (Vec<_>, Vec<_>) =
        instances(document).into_iter().partition(|(instance, _)| is_default_bgp_instance(instance));
    for (instance, neighbors) in first.into_iter().chain(others) {
        drain_commands.extend([instance, "bgp graceful-shutdown", "exit"].map(str::to_owned));
        shutdown_commands.push(instance.to_owned());
        shutdown_commands.extend(neighbors.into_iter().map(|name| format!("neighbor {name} shutdown")));
        shutdown_commands.push("exit".to_owned());
    }
    (drain_commands, shutdown_commands)
}

#[cfg(test)]
mod tests;
