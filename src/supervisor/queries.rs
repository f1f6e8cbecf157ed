//! Queries of the daemons: whether they are responsive, and what they know of their sessions.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::frr::vty::{PING, Query, Reply, socket};
use crate::frr::{Daemon, DaemonKind, bfd, neighbors, redact_output, sockets, solicit};
use crate::limits;
use crate::model::IfName;

use super::Supervisor;
use super::policy::Event;
use super::retention::Retention;
/// Interval of the queries to a daemon that starts, until its first reply, which takes some 50 ms.
const START_QUERY_INTERVAL: Duration = Duration::from_millis(5);

/// Delay from the pings to the collection of all replies: a wake-up for each reply would cost more than the reply.
const COLLECT_DELAY: Duration = Duration::from_millis(100);

/// Interval of the queries to bfdd and bgpd about their sessions while sessions may be new.
const SESSION_QUERY_INTERVAL: Duration = Duration::from_millis(200);

/// Duration of these queries after the start of a daemon, or after a change in bgpd's log. Later the pings notice
/// changes.
pub(super) const SESSION_QUERY_TIME: Duration = Duration::from_secs(10);

/// Interval, in periodic checks, of the queries to bgpd about its neighbors, in case its log does not report changes.
const NEIGHBOR_QUERY_CHECKS: u32 = 10;

/// Interval of Router Solicitations. A host would wait for 4 s (RFC 4861 §10).
const SOLICIT_INTERVAL: Duration = Duration::from_secs(1);

/// A daemon that is queried repeatedly.
#[derive(Debug)]
pub(super) struct DaemonQuery {
    pub daemon: usize,
    pub query: Option<Query>,
    pub next_at: Instant,
}

impl Supervisor<'_> {
    pub(super) fn ping(&mut self, i: usize, events: &mut VecDeque<Event>) {
        let daemon = self.daemons[i];
        let with_neighbors = self.checks.is_multiple_of(NEIGHBOR_QUERY_CHECKS);
        let commands = status_commands(daemon, &self.retention, with_neighbors);
        let query = match Query::show(&socket(daemon.kind), commands) {
            Ok(query) => Some(query),
            Err(e) if limits::is_own_shortage(&e) => {
                let name = daemon.kind;
                log::error!(daemon = name; "{name} cannot be pinged: {e}; {}", limits::REMEDY);
                events.push_back(Event::PingFailed(i));
                return;
            }
            Err(_) => None,
        };
        self.pings.push((i, query));
        self.collect_at = Some((Instant::now() + COLLECT_DELAY, COLLECT_DELAY));
    }

    /// Processes a daemon's replies to the status commands.
    pub(super) fn process_replies(&mut self, i: usize, replies: &[Reply]) {
        match self.daemons[i].kind {
            DaemonKind::Bfdd => self.process_bfd_sessions(replies),
            DaemonKind::Bgpd => {
                if replies.first().is_some_and(|summary| self.retention.take_summary(summary, Instant::now()))
                {
                    self.publisher.update(|facts| {
                        facts.session_changes += 1;
                        facts.services = self.retention.received();
                    });
                }
                if let Some(neighbors) = replies.get(1) {
                    let neighbors = serde_json::from_str(&neighbors.text).unwrap_or_default();
                    if self.node.config.timers.bfd.is_some_and(|bfd| !bfd.coupled) {
                        bfd::update_peers(&mut self.bfd_peers, &neighbors);
                    }
                    self.solicit(&solicit::unknown_peers(&neighbors));
                }
            }
            _ => {}
        }
    }

    /// Sends Router Solicitations on the ports whose peer address bgpd does not know.
    pub(super) fn solicit(&mut self, ports: &[IfName]) {
        let now = Instant::now();
        if ports.is_empty() || now < self.solicit_at {
            return;
        }
        self.solicit_at = now + SOLICIT_INTERVAL;
        if let Err(e) = self.node.kernel.router_ns().within(|| solicit::solicit(ports)) {
            log::debug!("Router Solicitations cannot be sent: {e}");
        }
    }

    /// Queries bfdd and bgpd about their sessions for [`SESSION_QUERY_TIME`].
    pub(super) fn start_session_queries(&mut self, now: Instant) {
        let ready: Vec<_> =
            [DaemonKind::Bfdd, DaemonKind::Bgpd].into_iter().filter_map(|name| self.ready(name)).collect();
        let (queries, until) = self.session_queries.get_or_insert((vec![], now));
        *until = now + SESSION_QUERY_TIME;
        for daemon in ready {
            if !queries.iter().any(|q| q.daemon == daemon) {
                queries.push(DaemonQuery { daemon, query: None, next_at: now });
            }
        }
    }

    /// Processes the replies of the daemons, and queries starting daemons again.
    pub(super) fn poll_queries(&mut self, events: &mut VecDeque<Event>) {
        let now = Instant::now();
        let daemons = &self.daemons;
        let mut started = Vec::new();
        self.starting.retain_mut(|starting| {
            match starting.poll(daemons, || vec![PING.to_owned()], START_QUERY_INTERVAL, now, events) {
                Some(_) => {
                    started.push(starting.daemon);
                    false
                }
                None => true,
            }
        });
        started.iter().for_each(|i| sockets::add_hard_links(self.daemons[*i].kind));
        if started.iter().any(|i| self.daemons[*i].kind == DaemonKind::Bgpd) {
            self.schedule_connects(now);
        }
        if !started.is_empty() {
            self.start_session_queries(now);
            self.show_notifications();
        }
        events.extend(started.into_iter().map(Event::Responded));
        let mut replied = Vec::new();
        if let Some((queries, until)) = &mut self.session_queries {
            // A running query ends with its reply: daemons log an error if the other end closes the connection.
            let is_over = |q: &DaemonQuery| *until <= now && q.query.is_none();
            queries.retain_mut(|query| {
                if is_over(query) {
                    return false;
                }
                let daemon = self.daemons[query.daemon];
                let commands = || status_commands(daemon, &self.retention, true);
                let replies = query.poll(&self.daemons, commands, SESSION_QUERY_INTERVAL, now, events);
                replied.extend(replies.map(|replies| (query.daemon, replies)));
                !is_over(query)
            });
            if queries.is_empty() {
                self.session_queries = None;
            }
        }
        if self.collect_at.is_some_and(|(at, _)| at <= now) {
            self.collect_pings(events, &mut replied, now);
        }
        events.extend(replied.iter().map(|(i, _)| Event::Responded(*i)));
        for (i, replies) in replied {
            self.process_replies(i, &replies);
        }
        match self.bfd_query.as_mut().map(Query::poll_replies) {
            Some(Ok(None)) | None => {}
            Some(Ok(Some(replies))) => {
                self.bfd_query = None;
                let error = replies.into_iter().find(|reply| !reply.success).map(|reply| reply.text);
                if let Some(text) = error.as_ref().filter(|_| error != self.bfd_error) {
                    log::warn!(
                        daemon = "bfdd";
                        "bfdd refuses a peer, which stays without BFD: {}",
                        redact_output(text.trim())
                    );
                }
                self.bfd_error = error;
            }
            Some(Err(_)) => self.bfd_query = None,
        }
    }

    /// Collects the replies to the pings.
    pub(super) fn collect_pings(
        &mut self,
        events: &mut VecDeque<Event>,
        replied: &mut Vec<(usize, Vec<Reply>)>,
        now: Instant,
    ) {
        for (i, query) in std::mem::take(&mut self.pings) {
            let Some(mut query) = query else {
                self.pings.push((i, None));
                continue;
            };
            match query.poll_replies() {
                Ok(Some(replies)) => {
                    replied.push((i, replies));
                    self.finished_queries.push(query);
                }
                Ok(None) if query.has_reply() => {
                    events.push_back(Event::Responded(i));
                    self.partial_replies.push((i, query));
                }
                // The policy decides how long to wait for a missing reply.
                Ok(None) => self.pings.push((i, Some(query))),
                Err(_) => self.pings.push((i, None)),
            }
        }
        for (i, mut query) in std::mem::take(&mut self.partial_replies) {
            match query.poll_replies() {
                Ok(Some(replies)) => {
                    replied.push((i, replies));
                    self.finished_queries.push(query);
                }
                Ok(None) => self.partial_replies.push((i, query)),
                Err(_) => {}
            }
        }
        let is_open = self.pings.iter().any(|(_, query)| query.is_some()) || !self.partial_replies.is_empty();
        self.collect_at =
            self.collect_at.filter(|_| is_open).map(|(_, delay)| (now + delay, delay.saturating_mul(2)));
    }
}

impl DaemonQuery {
    /// Starts a query if it is due, and returns the replies once they have arrived.
    fn poll(
        &mut self,
        daemons: &[&'static Daemon],
        commands: impl FnOnce() -> Vec<String>,
        interval: Duration,
        now: Instant,
        events: &mut VecDeque<Event>,
    ) -> Option<Vec<Reply>> {
        if self.query.is_none() && self.next_at <= now {
            let query = Query::show(&socket(daemons[self.daemon].kind), commands());
            if query.as_ref().is_err_and(limits::is_own_shortage) {
                events.push_back(Event::PingFailed(self.daemon));
            }
            self.query = query.ok();
            self.next_at = now + interval;
        }
        match self.query.as_mut().map(Query::poll_replies) {
            Some(Ok(Some(replies))) => {
                self.query = None;
                Some(replies)
            }
            // The socket is that of an exited process, or the daemon is not ready: the query is repeated.
            Some(Err(_)) => {
                self.query = None;
                None
            }
            Some(Ok(None)) | None => None,
        }
    }
}

/// The commands that query the state of a daemon. Any reply shows that the daemon is alive.
fn status_commands(daemon: &Daemon, retention: &Retention, with_neighbors: bool) -> Vec<String> {
    match daemon.kind {
        DaemonKind::Bfdd => bfd::SHOW_SESSIONS.map(str::to_owned).to_vec(),
        DaemonKind::Bgpd => {
            let neighbors = with_neighbors.then(|| neighbors::SHOW_NEIGHBORS.to_owned());
            [retention.summary_command()].into_iter().chain(neighbors).collect()
        }
        _ => vec![PING.to_owned()],
    }
}
