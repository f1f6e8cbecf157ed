//! The status thread: it queries the daemons, maintains the [`Status`] and serves it. It can't delay the main loop: it
//! has its own connections to the daemons, a lower priority, and a limit on its CPU time.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use log::{Level, Record};
use nix::time::{ClockId, clock_gettime};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::frr_state::{FrrState, Topic};
use super::http::{self, HttpServer, Response};
use super::problems::{ProblemChange, ProblemTracker, health};
use super::systemd::Systemd;
use super::{
    BgpSession, DaemonState, DaemonStatus, FILE, NodeFacts, NodePhase, Problem, Program, Publisher, SCHEMA,
    SessionRole, Status, TEXT, Waker, diagnostics, metrics, page, text,
};
use crate::events::EventLog;
use crate::files;
use crate::frr::collect::CollectTimer;
use crate::frr::host::status_access;
use crate::frr::vty::{Query, socket};
use crate::instance;
use crate::printable;
use crate::time::{Time, span};

/// Interval of the query rounds: the long one finds what no log line reports, the short one applies while there is a
/// problem or a viewer.
const ROUND_INTERVAL: Duration = Duration::from_secs(15);
const SHORT_ROUND_INTERVAL: Duration = Duration::from_secs(3);

/// The same in the first seconds of a session that is down, in which the cause becomes visible.
const DIAGNOSIS_ROUND_INTERVAL: Duration = Duration::from_secs(1);
const DIAGNOSIS_TIME: Duration = Duration::from_secs(10);

/// A client counts as a viewer for this time after its last request.
const VIEWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The rounds take at most 1/2000 of a core.
const CPU_DIVISOR: u32 = 2000;

/// Delay of a round after a change of the sessions, and minimum time since the round before.
const CHANGE_DELAY: Duration = Duration::from_millis(100);
const MIN_ROUND_GAP: Duration = Duration::from_millis(500);

/// Time after which a query is given up. The daemon hangs, and the main loop restarts it.
const QUERY_TIMEOUT: Duration = Duration::from_secs(20);

/// Minimum time between two writes of the files.
const WRITE_INTERVAL: Duration = Duration::from_millis(250);

/// Additional delay of the next write after a failed one.
const WRITE_RETRY: Duration = Duration::from_secs(1);

/// Maximum age of a cached response, and minimum time between two renderings of it.
const CACHE_TIME: Duration = Duration::from_secs(1);

/// Interval of the attempts to listen.
const LISTEN_RETRY: Duration = Duration::from_secs(10);

/// Minimum time between two updates of the status. A node with many devices causes thousands of changes while it is set
/// up.
const UPDATE_INTERVAL: Duration = Duration::from_millis(100);

/// Nice value of the thread: FRR and the main loop come first when CPU time is short.
const NICE: i32 = 5;

/// Starts the status thread. It runs until the process ends, and holds the `lock` as long.
///
/// # Errors
/// The thread can't be created.
pub fn start(
    publisher: Arc<Publisher>,
    waker: Waker,
    listen: Option<SocketAddr>,
    lock: Option<fs::File>,
) -> io::Result<()> {
    let observer = Observer {
        publisher,
        waker,
        listen,
        server: None,
        listen_at: Instant::now(),
        has_logged_listen_error: false,
        lock,
        frr_state: FrrState::default(),
        problems: ProblemTracker::default(),
        pending: vec![],
        collect: CollectTimer::default(),
        viewed_at: None,
        round_at: Instant::now(),
        change_round_at: None,
        round_cpu_start: None,
        round_started_at: None,
        session_changes: 0,
        events: 0,
        reevaluate_at: None,
        updated_at: Instant::now(),
        is_stale: false,
        status: Status::default(),
        has_unwritten_changes: true,
        written_at: None,
        cache: BTreeMap::new(),
        systemd: Systemd::new(),
    };
    thread::Builder::new().name("status".into()).spawn(move || observer.run())?;
    Ok(())
}

struct Observer {
    publisher: Arc<Publisher>,
    waker: Waker,
    listen: Option<SocketAddr>,
    server: Option<HttpServer>,
    listen_at: Instant,
    has_logged_listen_error: bool,
    /// The instance lock, held as long as this thread runs.
    lock: Option<fs::File>,
    frr_state: FrrState,
    problems: ProblemTracker,
    pending: Vec<PendingQueries>,
    /// When to collect replies, and the delay of the next poll.
    collect: CollectTimer,
    viewed_at: Option<Instant>,
    round_at: Instant,
    /// When to start a round because of a change, whatever the last round has cost.
    change_round_at: Option<Instant>,
    /// CPU time of this thread at the start of the current round.
    round_cpu_start: Option<Duration>,
    round_started_at: Option<Instant>,
    /// [`NodeFacts::session_changes`] at the last update.
    session_changes: u64,
    /// [`EventLog::total`] at the last update.
    events: u64,
    /// When a fault may have lasted long enough to be a problem.
    reevaluate_at: Option<Instant>,
    /// When the status was updated, and whether something has changed since.
    updated_at: Instant,
    is_stale: bool,
    status: Status,
    /// The status differs from the files.
    has_unwritten_changes: bool,
    written_at: Option<Instant>,
    /// Responses by name, with the time of their rendering.
    cache: BTreeMap<&'static str, (Instant, Response)>,
    systemd: Systemd,
}

/// The queries of one topic. Each has its own connection, so that the daemon replies to all of them at once.
struct PendingQueries {
    topic: Topic,
    queries: Vec<(Query, Option<String>)>,
    since: Instant,
}

impl PendingQueries {
    /// The replies, once all of them have arrived.
    fn collect(&mut self) -> io::Result<Option<Vec<String>>> {
        for (query, reply) in self.queries.iter_mut().filter(|(_, reply)| reply.is_none()) {
            *reply =
                query.poll_replies()?.and_then(|replies| replies.into_iter().last()).map(|reply| reply.text);
        }
        let is_complete = self.queries.iter().all(|(_, reply)| reply.is_some());
        Ok(is_complete.then(|| self.queries.iter_mut().filter_map(|(_, reply)| reply.take()).collect()))
    }
}

impl Observer {
    fn run(mut self) {
        // On failure the thread keeps the priority of the main loop.
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
        self.update_status();
        loop {
            self.step();
        }
    }

    /// Waits for the next event or deadline and handles it.
    fn step(&mut self) {
        let now = Instant::now();
        if self.server.is_none() && self.listen_at <= now {
            self.try_to_listen(now);
        }
        let timeout = self.deadline(now).map(|at| at.saturating_duration_since(now));
        let is_woken = {
            let mut fds = vec![PollFd::new(&self.waker, PollFlags::IN)];
            fds.extend(self.server.iter().flat_map(HttpServer::fds));
            match poll(&mut fds, timeout.and_then(|t| Timespec::try_from(t).ok()).as_ref()) {
                Ok(_) => !fds[0].revents().is_empty(),
                Err(_) => false,
            }
        };
        let now = Instant::now();
        let has_replies = self.collect_replies(now);
        if is_woken {
            self.waker.reset(&self.publisher);
        }
        let is_round_due = self.round_at <= now || self.change_round_at.is_some_and(|at| at <= now);
        if is_round_due && self.pending.is_empty() {
            self.start_round(now);
        }
        let reevaluate = self.reevaluate_at.take_if(|at| *at <= now).is_some();
        self.is_stale |= is_woken || has_replies || reevaluate || self.events != EventLog::total();
        if self.is_stale && now >= self.updated_at + UPDATE_INTERVAL {
            self.update_status();
        }
        let is_stopping = self.status.phase == NodePhase::Stopping;
        if self.has_unwritten_changes
            && (is_stopping || self.written_at.is_none_or(|at| now >= at + WRITE_INTERVAL))
        {
            self.write(now);
        }
        self.systemd.keep_alive(&self.publisher, now);
        if let Some(mut server) = self.server.take() {
            server.step(now, |path| self.respond(path));
            self.server = Some(server);
        }
    }

    fn deadline(&self, now: Instant) -> Option<Instant> {
        let write = self.has_unwritten_changes.then(|| self.written_at.map_or(now, |at| at + WRITE_INTERVAL));
        let listen = (self.listen.is_some() && self.server.is_none()).then_some(self.listen_at);
        let round = self.change_round_at.map_or(self.round_at, |at| at.min(self.round_at));
        let round = if self.pending.is_empty() { Some(round) } else { self.collect.deadline() };
        let server = self.server.as_ref().and_then(HttpServer::deadline);
        let update = self.is_stale.then(|| self.updated_at + UPDATE_INTERVAL);
        [write, update, listen, round, server, self.reevaluate_at, self.systemd.due]
            .into_iter()
            .flatten()
            .min()
    }

    fn try_to_listen(&mut self, now: Instant) {
        let Some(at) = self.listen else {
            return;
        };
        self.listen_at = now + LISTEN_RETRY;
        match HttpServer::listen(at) {
            Ok(server) => {
                log::info!("serving the status at http://{at}/");
                self.server = Some(server);
            }
            Err(e) if !self.has_logged_listen_error => {
                log::warn!(
                    "cannot serve the status at http://{at}/ (STATUS_LISTEN): {e}; retrying; {FILE} has the status, too"
                );
                self.has_logged_listen_error = true;
            }
            Err(_) => {}
        }
    }

    /// Sends the queries to every daemon that runs.
    fn start_round(&mut self, now: Instant) {
        let facts = self.publisher.read();
        log::logger().flush();
        self.round_cpu_start = Some(cpu_time());
        let has_viewer = self.viewed_at.is_some_and(|at| now < at + VIEWER_TIMEOUT);
        let is_short = has_viewer || self.reevaluate_at.is_some() || !self.status.problems.is_empty();
        let time = Time::now();
        let is_recent = |s: &BgpSession| !s.is_up() && s.since.ago(time) < DIAGNOSIS_TIME;
        let interval = match is_short {
            _ if self.frr_state.bgp.iter().any(is_recent) => DIAGNOSIS_ROUND_INTERVAL,
            true => SHORT_ROUND_INTERVAL,
            false => ROUND_INTERVAL,
        };
        self.round_at = now + interval;
        (self.round_started_at, self.change_round_at) = (Some(now), None);
        self.collect.start(now);
        let runs = |name: &str| {
            let has_process = |d: &&DaemonStatus| {
                matches!(d.state, DaemonState::Running | DaemonState::Loading | DaemonState::Unresponsive)
            };
            facts.daemons.iter().filter(has_process).any(|d| d.name == name)
        };
        let topics = [(Topic::Bgp, true), (Topic::Bfd, facts.bfd), (Topic::Evpn, facts.is_vtep)];
        for (topic, is_wanted) in topics {
            let commands = if is_wanted && runs(topic.daemon().name()) {
                topic.commands(&facts, &self.frr_state)
            } else {
                vec![]
            };
            let send = |command: String| {
                Some((Query::show(&socket(topic.daemon()), ["enable".to_owned(), command]).ok()?, None))
            };
            let queries = commands.into_iter().map(send).collect::<Option<Vec<_>>>();
            match queries.filter(|queries| !queries.is_empty()) {
                Some(queries) => self.pending.push(PendingQueries { topic, queries, since: now }),
                None => self.frr_state.set_unknown(topic, Time::now()),
            }
        }
        self.end_round(now);
    }

    /// Applies the replies that have arrived. Returns whether the state has changed.
    fn collect_replies(&mut self, now: Instant) -> bool {
        if self.pending.is_empty() || !self.collect.take_due(now) {
            return false;
        }
        let mut has_changed = false;
        for mut pending in std::mem::take(&mut self.pending) {
            match pending.collect() {
                Ok(None) if pending.since + QUERY_TIMEOUT > now => self.pending.push(pending),
                Ok(Some(replies)) => {
                    has_changed = true;
                    let facts = self.publisher.read();
                    self.frr_state.apply(pending.topic, &replies, &facts, Time::now());
                    if pending.topic == Topic::Bgp {
                        self.read_diagnostics(&facts);
                    }
                }
                Ok(None) | Err(_) => {
                    has_changed = true;
                    self.frr_state.set_unknown(pending.topic, Time::now());
                }
            }
        }
        self.end_round(now);
        has_changed
    }

    /// Reads the diagnostics from the kernel if a session with the fabric is down.
    fn read_diagnostics(&mut self, facts: &NodeFacts) {
        let is_down = |s: &BgpSession| s.role == SessionRole::Fabric && !s.is_up();
        let pid = facts.daemons.iter().find(|daemon| daemon.name == "bgpd").and_then(|daemon| daemon.pid);
        let pid = pid.filter(|_| self.frr_state.bgp.iter().any(is_down));
        self.frr_state.diagnostics = pid.and_then(diagnostics::read);
    }

    /// If the round is complete, delays the next one according to its CPU time.
    fn end_round(&mut self, now: Instant) {
        if self.pending.is_empty()
            && let Some(start) = self.round_cpu_start.take()
        {
            let cost = cpu_time().saturating_sub(start);
            self.round_at = self.round_at.max(now + cost.saturating_mul(CPU_DIVISOR));
        }
    }

    /// Updates the status from the facts and from FRR's state.
    fn update_status(&mut self) {
        let (now, instant) = (Time::now(), Instant::now());
        (self.updated_at, self.is_stale) = (instant, false);
        let mut facts = self.publisher.read();
        facts.unsaved = files::unsaved();
        if self.session_changes != facts.session_changes {
            self.session_changes = facts.session_changes;
            let earliest = self.round_started_at.map_or(instant, |at| at + MIN_ROUND_GAP);
            self.change_round_at = Some(earliest.max(instant + CHANGE_DELAY));
        }
        let (changes, again) = self.problems.step(&facts, &self.frr_state, now);
        self.reevaluate_at = again.map(|wait| instant + wait + Duration::from_millis(1));
        for change in &changes {
            log_change(change);
        }
        let status = self.status(facts);
        self.systemd.notify_status(&status);
        self.events = EventLog::total();
        if self.status != status {
            self.status = status;
            self.has_unwritten_changes = true;
            self.cache.clear();
        }
    }

    fn status(&self, facts: NodeFacts) -> Status {
        let problems = self.problems.list();
        let health = health(&facts, &self.frr_state, &problems);
        Status {
            schema: SCHEMA,
            health,
            problems,
            phase: facts.phase,
            phase_since: facts.phase_since,
            supervisor: Program {
                version: env!("CARGO_PKG_VERSION").into(),
                pid: std::process::id(),
                since: self.publisher.since,
            },
            frr: facts.frr,
            node_ip: facts.node_ip,
            asn: facts.asn,
            configuration: facts.configuration,
            namespace: facts.namespace,
            interfaces: facts.interfaces,
            devices: facts.devices,
            daemons: facts.daemons,
            bgp: self.frr_state.bgp.clone(),
            bfd: self.frr_state.bfd.clone(),
            vnis: self.frr_state.vnis.clone(),
            services: self.frr_state.services.clone(),
            services_unlisted: self.frr_state.unlisted,
            retained: facts.retained,
            retained_unlisted: facts.retained_unlisted,
            counts: facts.counts,
            events: EventLog::read().0,
        }
    }

    fn write(&mut self, now: Instant) {
        self.written_at = Some(now);
        self.has_unwritten_changes = false;
        if self.lock.is_none() {
            // The reason why the lock could not be taken was logged at the start.
            self.lock = instance::take().unwrap_or_default();
        }
        let json = printable::to_json(&self.status).unwrap_or_default();
        let text = text::render(&self.status);
        let unsaved = files::unsaved().len();
        let written = [(FILE, json), (TEXT, text)]
            .map(|(file, text)| files::publish(Path::new(file), &text, status_access()));
        // The status lists the files that can't be written.
        self.is_stale |= files::unsaved().len() != unsaved;
        if written.contains(&false) {
            (self.written_at, self.has_unwritten_changes) = (Some(now + WRITE_RETRY), true);
        }
        if self.status.phase == NodePhase::Stopping {
            self.publisher.set_finished();
        }
    }

    /// The response for a path. Rendered responses are cached until the status changes, for [`CACHE_TIME`] at most.
    fn respond(&mut self, path: &str) -> Response {
        let now = Instant::now();
        if self.viewed_at.is_none_or(|at| now >= at + VIEWER_TIMEOUT) {
            self.round_at = self.round_at.min(now + SHORT_ROUND_INTERVAL);
        }
        self.viewed_at = Some(now);
        let alive = self.publisher.is_alive();
        match path {
            "/healthz" if alive => return Response::text(200, "ok\n"),
            "/healthz" => return Response::text(503, "the main loop hangs\n"),
            "/readyz" => {
                let lines: Vec<_> = self
                    .status
                    .not_ready()
                    .iter()
                    .map(|line| printable::printable(line).into_owned())
                    .collect();
                return match lines.is_empty() {
                    true => Response::text(200, "ready\n"),
                    false => Response::text(503, lines.join("\n") + "\n"),
                };
            }
            _ => {}
        }
        let (name, content, render): (_, _, fn(&Self) -> Vec<u8>) = match path {
            "/" => ("page", "text/html; charset=utf-8", |o| page::render(&o.status).into_bytes()),
            "/metrics" => ("metrics", "text/plain; version=0.0.4; charset=utf-8", |o| {
                metrics::render(&o.status, &o.frr_state, o.publisher.is_alive()).into_bytes()
            }),
            "/status.json" => ("json", "application/json", |o| {
                printable::to_json(&o.status).unwrap_or_default().into_bytes()
            }),
            "/status.txt" => {
                ("text", http::TEXT, |o| text::without_colours(&text::render(&o.status)).into_bytes())
            }
            _ => return Response::text(404, "/ /healthz /readyz /metrics /status.json /status.txt\n"),
        };
        if let Some((_, response)) = self.cache.get(name).filter(|(made, _)| now < *made + CACHE_TIME) {
            return response.clone();
        }
        let response = Response { status: 200, content, body: render(self).into() };
        self.cache.insert(name, (now, response.clone()));
        response
    }
}

fn log_change(change: &ProblemChange) {
    match change {
        ProblemChange::Raised(p) => {
            log_problem(
                Level::Error,
                p,
                &format!("{}; traffic: {}; action: {}", p.what, p.traffic, p.remedy),
            );
        }
        ProblemChange::Resolved(p, after) => {
            log_problem(Level::Info, p, &format!("resolved after {}: {}", span(*after), p.what));
        }
    }
}

/// Logs a line about a problem with its key-value pairs, which differ from problem to problem: the macros of `log`
/// can't do that.
fn log_problem(level: Level, problem: &Problem, text: &str) {
    if log::log_enabled!(level) {
        let fields: Vec<(&str, &str)> =
            problem.fields.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let mut record = Record::builder();
        record.level(level).target(module_path!());
        log::logger().log(&record.key_values(&fields.as_slice()).args(format_args!("{text}")).build());
    }
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    // rustix's function fails on a kernel without a vDSO (user-mode Linux).
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}
