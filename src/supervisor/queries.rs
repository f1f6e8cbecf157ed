//! Queries of the daemons: whether they are responsive, and what they know of their sessions.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::Supervisor;
use super::part::Part;
use super::policy::Event;
use super::retention::Retention;
use crate::frr::collect::CollectTimer;
use crate::frr::vty::{PING, Query, Reply, socket};
use crate::frr::{Daemon, DaemonKind, bfd, neighbors, sockets, solicit};
use crate::limits;
use crate::model::IfName;

/// Interval of the queries to a daemon that starts, until its first reply, which takes some 50 ms.
const START_QUERY_INTERVAL: Duration = Duration::from_millis(5);

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

/// The open queries.
#[derive(Debug)]
pub(super) struct QueryState {
    /// Daemons that have not replied since their start.
    pub(super) starting: Vec<DaemonQuery>,
    /// Pinged daemons without a reply; `None` if the connection failed.
    pub(super) pings: Vec<(usize, Option<Query>)>,
    /// Pinged daemons that have replied to the first of several commands, and so are alive.
    pub(super) partial_replies: Vec<(usize, Query)>,
    /// When to collect the replies to the pings.
    pub(super) collect: CollectTimer,
    /// Queries of daemons whose sessions may be new, and the end of these queries.
    pub(super) sessions: Option<(Vec<DaemonQuery>, Instant)>,
    /// Number of periodic checks.
    pub(super) checks: u32,
    /// Earliest next Router Solicitation.
    pub(super) solicit_at: Instant,
    /// Finished queries. They are closed while nothing is being configured: whenever a connection is closed, mgmtd of
    /// FRR 10.3 discards uncommitted changes (`mgmt_fe_session_cfg_txn_cleanup`, `mgmtd/mgmt_fe_adapter.c`; not in
    /// 10.4).
    pub(super) finished: Vec<Query>,
    /// Start of the current iteration of the loop: what has arrived later is not read yet.
    pub(super) iteration_started: Instant,
}

impl QueryState {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            starting: vec![],
            pings: vec![],
            partial_replies: vec![],
            collect: CollectTimer::default(),
            sessions: None,
            checks: 0,
            solicit_at: now,
            finished: vec![],
            iteration_started: now,
        }
    }

    /// The queries that are repeated.
    fn repeated(&self) -> impl Iterator<Item = &DaemonQuery> {
        self.starting.iter().chain(self.sessions.iter().flat_map(|(queries, _)| queries))
    }
}

/// The queries, and their replies.
pub(super) struct QueryPart;

impl Part for QueryPart {
    fn add_fds<'a>(&self, supervisor: &'a Supervisor<'_>, fds: &mut Vec<PollFd<'a>>) {
        let queries = supervisor.queries.repeated().filter_map(|q| q.query.as_ref());
        fds.extend(queries.map(|query| PollFd::new(query, PollFlags::IN)));
    }

    fn deadline(&self, supervisor: &Supervisor<'_>) -> Option<Instant> {
        let queries = &supervisor.queries;
        let next = queries.repeated().filter(|q| q.query.is_none()).map(|q| q.next_at);
        next.chain(queries.collect.deadline()).min()
    }

    fn step(&self, supervisor: &mut Supervisor<'_>, _: Instant) -> io::Result<()> {
        supervisor.poll_queries();
        if !supervisor.is_configuring() {
            supervisor.queries.finished.clear();
        }
        Ok(())
    }
}

impl Supervisor<'_> {
    pub(super) fn ping(&mut self, i: usize) {
        let daemon = self.processes[i].daemon;
        let with_neighbors = self.queries.checks.is_multiple_of(NEIGHBOR_QUERY_CHECKS);
        let commands = status_commands(daemon, self.services.retention.as_ref(), with_neighbors);
        let query = match Query::show(&socket(daemon.kind), commands) {
            Ok(query) => Some(query),
            Err(e) if limits::is_own_shortage(&e) => {
                let name = daemon.kind;
                log::error!(daemon = name; "{name} cannot be queried on its vty: {e}; {}", limits::REMEDY);
                self.events.push_back(Event::PingFailed(i));
                return;
            }
            Err(_) => None,
        };
        self.queries.pings.push((i, query));
        self.queries.collect.start(Instant::now());
    }

    /// Processes a daemon's replies to the status commands.
    fn process_replies(&mut self, i: usize, replies: &[Reply]) {
        match self.processes[i].daemon.kind {
            DaemonKind::Bfdd => self.process_bfd_sessions(replies),
            DaemonKind::Bgpd => {
                if let (Some(summary), Some(retention)) = (replies.first(), &mut self.services.retention)
                    && retention.take_summary(summary, Instant::now())
                {
                    self.publisher.update(|facts| {
                        facts.session_changes += 1;
                        facts.services = retention.received();
                    });
                }
                if let Some(neighbors) = replies.get(1) {
                    let neighbors = neighbors::parse(neighbors).unwrap_or_default();
                    if self.config.active.config.timers.bfd.is_some_and(|bfd| !bfd.coupled) {
                        bfd::update_peers(&mut self.bfd.peers, &neighbors);
                    }
                    self.solicit(&solicit::unknown_peers(&neighbors));
                }
            }
            _ => {}
        }
    }

    /// Sends Router Solicitations on the ports whose peer address bgpd does not know.
    fn solicit(&mut self, ports: &[IfName]) {
        let now = Instant::now();
        if ports.is_empty() || now < self.queries.solicit_at {
            return;
        }
        self.queries.solicit_at = now + SOLICIT_INTERVAL;
        if let Err(e) = self.node.router.ns().within(|| solicit::solicit(ports)) {
            log::debug!("Router Solicitations cannot be sent: {e}");
        }
    }

    /// Queries bfdd and bgpd about their sessions for [`SESSION_QUERY_TIME`].
    pub(super) fn start_session_queries(&mut self, now: Instant) {
        let ready: Vec<_> =
            [DaemonKind::Bfdd, DaemonKind::Bgpd].into_iter().filter_map(|name| self.ready(name)).collect();
        let (queries, until) = self.queries.sessions.get_or_insert((vec![], now));
        *until = now + SESSION_QUERY_TIME;
        for daemon in ready {
            if !queries.iter().any(|q| q.daemon == daemon) {
                queries.push(DaemonQuery { daemon, query: None, next_at: now });
            }
        }
    }

    /// Processes the replies of the daemons, and queries starting daemons again.
    fn poll_queries(&mut self) {
        let now = Instant::now();
        let daemons = &self.daemons();
        let mut started = Vec::new();
        self.queries.starting.retain_mut(|starting| {
            match starting.poll(
                daemons,
                || vec![PING.to_owned()],
                START_QUERY_INTERVAL,
                now,
                &mut self.events,
            ) {
                Some(_) => {
                    started.push(starting.daemon);
                    false
                }
                None => true,
            }
        });
        started.iter().for_each(|i| sockets::add_hard_links(self.processes[*i].daemon.kind));
        if started.iter().any(|i| self.processes[*i].daemon.kind == DaemonKind::Bgpd) {
            self.schedule_connects(now);
        }
        if !started.is_empty() {
            self.start_session_queries(now);
            self.show_notifications();
        }
        self.events.extend(started.into_iter().map(Event::Responded));
        let mut replied = Vec::new();
        if let Some((queries, until)) = &mut self.queries.sessions {
            // A running query ends with its reply: daemons log an error if the other end closes the connection.
            let is_over = |q: &DaemonQuery| *until <= now && q.query.is_none();
            queries.retain_mut(|query| {
                if is_over(query) {
                    return false;
                }
                let daemon = self.processes[query.daemon].daemon;
                let commands = || status_commands(daemon, self.services.retention.as_ref(), true);
                let replies = query.poll(daemons, commands, SESSION_QUERY_INTERVAL, now, &mut self.events);
                replied.extend(replies.map(|replies| (query.daemon, replies)));
                !is_over(query)
            });
            if queries.is_empty() {
                self.queries.sessions = None;
            }
        }
        if self.queries.collect.take_due(now) {
            self.collect_pings(&mut replied);
        }
        self.events.extend(replied.iter().map(|(i, _)| Event::Responded(*i)));
        for (i, replies) in replied {
            self.process_replies(i, &replies);
        }
    }

    /// Collects the replies to the pings.
    fn collect_pings(&mut self, replied: &mut Vec<(usize, Vec<Reply>)>) {
        for (i, query) in std::mem::take(&mut self.queries.pings) {
            let Some(mut query) = query else {
                self.queries.pings.push((i, None));
                continue;
            };
            match query.poll_replies() {
                Ok(Some(replies)) => {
                    replied.push((i, replies));
                    self.queries.finished.push(query);
                }
                Ok(None) if query.has_reply() => {
                    self.events.push_back(Event::Responded(i));
                    self.queries.partial_replies.push((i, query));
                }
                // The policy decides how long to wait for a missing reply.
                Ok(None) => self.queries.pings.push((i, Some(query))),
                Err(_) => self.queries.pings.push((i, None)),
            }
        }
        for (i, mut query) in std::mem::take(&mut self.queries.partial_replies) {
            match query.poll_replies() {
                Ok(Some(replies)) => {
                    replied.push((i, replies));
                    self.queries.finished.push(query);
                }
                Ok(None) => self.queries.partial_replies.push((i, query)),
                Err(_) => {}
            }
        }
        let is_open = self.queries.pings.iter().any(|(_, query)| query.is_some())
            || !self.queries.partial_replies.is_empty();
        if !is_open {
            self.queries.collect.stop();
        }
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
        // After an error, the socket is that of an exited process, or the daemon is not ready: the query is repeated.
        Query::take_ended(&mut self.query).and_then(Result::ok)
    }
}

/// The commands that query the state of a daemon. Any reply shows that the daemon is alive.
fn status_commands(daemon: &Daemon, retention: Option<&Retention>, with_neighbors: bool) -> Vec<String> {
    match daemon.kind {
        DaemonKind::Bfdd => bfd::SHOW_SESSIONS.map(str::to_owned).to_vec(),
        DaemonKind::Bgpd => {
            let neighbors = with_neighbors.then(|| neighbors::SHOW_NEIGHBORS.to_owned());
            let summary = retention.map_or_else(|| PING.to_owned(), Retention::summary_command);
            [summary].into_iter().chain(neighbors).collect()
        }
        _ => vec![PING.to_owned()],
    }
}
