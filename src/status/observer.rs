//! The thread that asks the daemons, keeps the [`Status`] and shows it. Nothing here can hold up the main loop: it has its own
//! connections, a lower priority, and a bound on what it costs.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sd_notify::NotifyState;

use super::board::Bell;
use super::fabric::{Fabric, Topic};
use super::http::{self, Answer, Server};
use super::problems::{News, Problems, health};
use super::{Board, FILE, Life, Local, Phase, Ring, SCHEMA, Status, TEXT, Time, links, metrics, page, text};
use crate::files;
use crate::frr::files::shown;
use crate::frr::vty::{Talk, socket};
use crate::lock;
use crate::printable;

/// Between two rounds of questions: what has no word in a log, and while something is wrong or someone looks at us.
const ROUND: Duration = Duration::from_secs(15);
const CLOSE_ROUND: Duration = Duration::from_secs(3);

/// The same while it is found out why a session is down.
const CLOSEST_ROUND: Duration = Duration::from_secs(1);

/// What can be found out of it is there after so long.
const FOUND_OUT: Duration = Duration::from_secs(10);

/// Someone who has asked within so long looks at us.
const LOOKED_AT: Duration = Duration::from_secs(30);

/// Answers are there after so long, and are looked for again and again after twice that time: a wake-up for each of them would
/// cost more than they do.
const COLLECT: Duration = Duration::from_millis(100);

/// Rounds take a two-thousandth of a core at most.
const SHARE: u32 = 2000;

/// From news of a session until it is asked about, and from then to the next time.
const SOON: Duration = Duration::from_millis(100);
const AGAIN: Duration = Duration::from_millis(500);

/// A daemon that takes longer hangs, and is the main loop's to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// Between two writings of the file.
const WRITE_EVERY: Duration = Duration::from_millis(250);

/// More than that until what could not be written is tried again.
const WRITE_AGAIN: Duration = Duration::from_secs(1);

/// What is shown is not older, and not made anew more often.
const FRESH: Duration = Duration::from_secs(1);

/// Between two attempts to listen.
const LISTEN_EVERY: Duration = Duration::from_secs(10);

/// Between two times that the status is made anew: a node with many devices has thousands of news while it is built.
const RENEW_EVERY: Duration = Duration::from_millis(100);

/// Behind FRR and us, where the CPU is scarce.
const NICE: i32 = 5;

/// Starts it. It ends with the process, and so does the `lock`.
///
/// # Errors
/// There are no threads left.
pub fn start(
    board: Arc<Board>,
    bell: Bell,
    listen: Option<SocketAddr>,
    lock: Option<fs::File>,
) -> io::Result<()> {
    let observer = Observer {
        board,
        bell,
        listen,
        server: None,
        listen_at: Instant::now(),
        listen_said: false,
        lock,
        fabric: Fabric::default(),
        problems: Problems::default(),
        asking: vec![],
        collect_at: Instant::now(),
        patience: COLLECT,
        looked_at: None,
        round_at: Instant::now(),
        news_at: None,
        round_began: None,
        asked_at: None,
        news: 0,
        events: 0,
        look_again: None,
        renewed: Instant::now(),
        stale: false,
        status: Status::default(),
        changed: true,
        written: None,
        faces: BTreeMap::new(),
        systemd: Systemd::new(),
    };
    thread::Builder::new().name("status".into()).spawn(move || observer.run())?;
    Ok(())
}

struct Observer {
    board: Arc<Board>,
    bell: Bell,
    listen: Option<SocketAddr>,
    server: Option<Server>,
    listen_at: Instant,
    listen_said: bool,
    /// Held as long as we live.
    lock: Option<fs::File>,
    fabric: Fabric,
    problems: Problems,
    asking: Vec<Asking>,
    /// When to look for answers, and how long after that.
    collect_at: Instant,
    patience: Duration,
    looked_at: Option<Instant>,
    round_at: Instant,
    /// When to ask since there is news, whatever the last round has cost.
    news_at: Option<Instant>,
    /// The CPU time of this thread when the round under way began.
    round_began: Option<Duration>,
    asked_at: Option<Instant>,
    /// Of the board, as taken in last.
    news: u64,
    /// Of the ring, likewise.
    events: u64,
    /// Problems that may become ones by then.
    look_again: Option<Instant>,
    /// When it was made, and whether there is news since.
    renewed: Instant,
    stale: bool,
    status: Status,
    /// The file is not what the status is.
    changed: bool,
    written: Option<Instant>,
    faces: BTreeMap<&'static str, (Instant, Answer)>,
    systemd: Systemd,
}

/// Questions to a daemon, each by a connection of its own, so that all of them are answered at once.
struct Asking {
    topic: Topic,
    talks: Vec<(Talk, Option<String>)>,
    since: Instant,
}

impl Asking {
    /// The answers, once all of them are there.
    fn receive(&mut self) -> io::Result<Option<Vec<String>>> {
        for (talk, answer) in self.talks.iter_mut().filter(|(_, answer)| answer.is_none()) {
            *answer =
                talk.receive()?.and_then(|answers| answers.into_iter().last()).map(|answer| answer.text);
        }
        let whole = self.talks.iter().all(|(_, answer)| answer.is_some());
        Ok(whole.then(|| self.talks.iter_mut().filter_map(|(_, answer)| answer.take()).collect()))
    }
}

impl Observer {
    fn run(mut self) {
        // One that can't be had leaves us with the main loop's.
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
        self.renew();
        loop {
            self.wait();
        }
    }

    fn wait(&mut self) {
        let now = Instant::now();
        if self.server.is_none() && self.listen_at <= now {
            self.try_to_listen(now);
        }
        let timeout = self.deadline(now).map(|at| at.saturating_duration_since(now));
        let rung = {
            let mut fds = vec![PollFd::new(&self.bell, PollFlags::IN)];
            fds.extend(self.server.iter().flat_map(Server::fds));
            match poll(&mut fds, timeout.and_then(|t| Timespec::try_from(t).ok()).as_ref()) {
                Ok(_) => !fds[0].revents().is_empty(),
                Err(_) => false,
            }
        };
        let now = Instant::now();
        let heard = self.hear(now);
        if rung {
            self.bell.quiet(&self.board);
        }
        let due = self.round_at <= now || self.news_at.is_some_and(|at| at <= now);
        if due && self.asking.is_empty() {
            self.ask(now);
        }
        let again = self.look_again.take_if(|at| *at <= now).is_some();
        self.stale |= rung || heard || again || self.events != Ring::total();
        if self.stale && now >= self.renewed + RENEW_EVERY {
            self.renew();
        }
        let ending = self.status.phase == Phase::Stopping;
        if self.changed && (ending || self.written.is_none_or(|at| now >= at + WRITE_EVERY)) {
            self.write(now);
        }
        self.systemd.keep_alive(&self.board, now);
        if let Some(mut server) = self.server.take() {
            server.step(now, |path| self.face(path));
            self.server = Some(server);
        }
    }

    fn deadline(&self, now: Instant) -> Option<Instant> {
        let write = self.changed.then(|| self.written.map_or(now, |at| at + WRITE_EVERY));
        let listen = (self.listen.is_some() && self.server.is_none()).then_some(self.listen_at);
        let round = self.news_at.map_or(self.round_at, |at| at.min(self.round_at));
        let round = Some(if self.asking.is_empty() { round } else { self.collect_at });
        let server = self.server.as_ref().and_then(Server::deadline);
        let renew = self.stale.then(|| self.renewed + RENEW_EVERY);
        [write, renew, listen, round, server, self.look_again, self.systemd.due].into_iter().flatten().min()
    }

    fn try_to_listen(&mut self, now: Instant) {
        let Some(at) = self.listen else {
            return;
        };
        self.listen_at = now + LISTEN_EVERY;
        match Server::listen(at) {
            Ok(server) => {
                log::info!("status at http://{at}/");
                self.server = Some(server);
            }
            Err(e) if !self.listen_said => {
                log::warn!(
                    "nothing is shown at http://{at}/ (STATUS_LISTEN): {e}; it is tried again, and {FILE} says the same"
                );
                self.listen_said = true;
            }
            Err(_) => {}
        }
    }

    /// Asks every daemon that runs.
    fn ask(&mut self, now: Instant) {
        let local = self.board.read();
        log::logger().flush();
        self.round_began = Some(cpu_time());
        let looked_at = self.looked_at.is_some_and(|at| now < at + LOOKED_AT);
        let close = looked_at || self.look_again.is_some() || !self.status.problems.is_empty();
        let wall = Time::now();
        let just_down = |s: &super::BgpSession| !s.is_up() && s.since.ago(wall) < FOUND_OUT;
        let closest = self.fabric.bgp.iter().any(just_down);
        self.round_at = now
            + if closest {
                CLOSEST_ROUND
            } else if close {
                CLOSE_ROUND
            } else {
                ROUND
            };
        (self.asked_at, self.news_at) = (Some(now), None);
        (self.collect_at, self.patience) = (now + COLLECT, COLLECT);
        let lives = |name: &str| {
            let there = |d: &&super::Daemon| matches!(d.state, Life::Running | Life::Loading | Life::Silent);
            local.daemons.iter().filter(there).any(|d| d.name == name)
        };
        let wanted = [(Topic::Bgp, true), (Topic::Bfd, local.bfd), (Topic::Evpn, local.is_vtep)];
        for (topic, wanted) in wanted {
            let questions =
                if wanted && lives(topic.daemon()) { topic.questions(&local, &self.fabric) } else { vec![] };
            let begin = |question: String| {
                Some((Talk::show(&socket(topic.daemon()), ["enable".to_owned(), question]).ok()?, None))
            };
            let talks = questions.into_iter().map(begin).collect::<Option<Vec<_>>>();
            match talks.filter(|talks| !talks.is_empty()) {
                Some(talks) => self.asking.push(Asking { topic, talks, since: now }),
                None => self.fabric.forget(topic, Time::now()),
            }
        }
        self.end_round(now);
    }

    /// Takes in the answers that have come. Whether there were any.
    fn hear(&mut self, now: Instant) -> bool {
        if self.asking.is_empty() || now < self.collect_at {
            return false;
        }
        self.patience = (self.patience * 2).min(FRESH);
        self.collect_at = now + self.patience;
        let mut heard = false;
        for mut asking in std::mem::take(&mut self.asking) {
            match asking.receive() {
                Ok(None) if asking.since + PATIENCE > now => self.asking.push(asking),
                Ok(Some(answers)) => {
                    heard = true;
                    let local = self.board.read();
                    self.fabric.take_in(asking.topic, &answers, &local, Time::now());
                    if asking.topic == Topic::Bgp {
                        self.look_at_links(&local);
                    }
                }
                Ok(None) | Err(_) => {
                    heard = true;
                    self.fabric.forget(asking.topic, Time::now());
                }
            }
        }
        self.end_round(now);
        heard
    }

    /// Looks at what the kernel knows of sessions with the fabric that are down.
    fn look_at_links(&mut self, local: &Local) {
        let down = |s: &super::BgpSession| s.role == super::Role::Fabric && !s.is_up();
        let pid = local.daemons.iter().find(|daemon| daemon.name == "bgpd").and_then(|daemon| daemon.pid);
        let pid = pid.filter(|_| self.fabric.bgp.iter().any(down));
        self.fabric.links = pid.and_then(links::look);
    }

    /// Sets the time of the next one when this one is over.
    fn end_round(&mut self, now: Instant) {
        if self.asking.is_empty()
            && let Some(began) = self.round_began.take()
        {
            let cost = cpu_time().saturating_sub(began);
            self.round_at = self.round_at.max(now + cost.saturating_mul(SHARE));
        }
    }

    /// Makes the status anew from what is known now.
    fn renew(&mut self) {
        let (now, instant) = (Time::now(), Instant::now());
        (self.renewed, self.stale) = (instant, false);
        let mut local = self.board.read();
        local.unsaved = files::unsaved();
        if self.news != local.news {
            self.news = local.news;
            let earliest = self.asked_at.map_or(instant, |at| at + AGAIN);
            self.news_at = Some(earliest.max(instant + SOON));
        }
        let (news, again) = self.problems.step(&local, &self.fabric, now);
        self.look_again = again.map(|wait| instant + wait + Duration::from_millis(1));
        for news in news {
            match news {
                News::Raised(p) => log::error!("{}; {}; {}", p.what, p.traffic, p.remedy),
                News::Over(p, after) => {
                    log::info!("over after {}: {}", super::time::span(after), p.what);
                }
            }
        }
        let status = self.status(local);
        self.systemd.tell(&status);
        self.events = Ring::total();
        if self.status != status {
            self.status = status;
            self.changed = true;
            self.faces.clear();
        }
    }

    fn status(&self, local: Local) -> Status {
        let problems = self.problems.list();
        let health = health(&local, &self.fabric, &problems);
        Status {
            schema: SCHEMA,
            health,
            problems,
            phase: local.phase,
            phase_since: local.phase_since,
            supervisor: super::Program {
                version: env!("CARGO_PKG_VERSION").into(),
                pid: std::process::id(),
                since: self.board.since,
            },
            frr: local.frr,
            node_ip: local.node_ip,
            asn: local.asn,
            configuration: local.configuration,
            namespace: local.namespace,
            interfaces: local.interfaces,
            devices: local.devices,
            daemons: local.daemons,
            bgp: self.fabric.bgp.clone(),
            bfd: self.fabric.bfd.clone(),
            vnis: self.fabric.vnis.clone(),
            services: self.fabric.services.clone(),
            services_unlisted: self.fabric.unlisted,
            held: local.held,
            held_unlisted: local.held_unlisted,
            counts: local.counts,
            events: Ring::read().0,
        }
    }

    fn write(&mut self, now: Instant) {
        self.written = Some(now);
        self.changed = false;
        if self.lock.is_none() {
            // Why it could not be had was said at the start.
            self.lock = lock::take().unwrap_or_default();
        }
        let json = printable::to_json(&self.status).unwrap_or_default();
        let text = text::render(&self.status);
        let unsaved = files::unsaved().len();
        let written =
            [(FILE, json), (TEXT, text)].map(|(file, text)| files::show(Path::new(file), &text, shown()));
        // That is news of its own.
        self.stale |= files::unsaved().len() != unsaved;
        if written.contains(&false) {
            (self.written, self.changed) = (Some(now + WRITE_AGAIN), true);
        }
        if self.status.phase == Phase::Stopping {
            self.board.finished();
        }
    }

    /// The answer for a path, made anew when it has changed, and not more often than every [`FRESH`].
    fn face(&mut self, path: &str) -> Answer {
        let now = Instant::now();
        if self.looked_at.is_none_or(|at| now >= at + LOOKED_AT) {
            self.round_at = self.round_at.min(now + CLOSE_ROUND);
        }
        self.looked_at = Some(now);
        let alive = self.board.is_alive();
        match path {
            "/healthz" if alive => return Answer::text(200, "ok\n"),
            "/healthz" => return Answer::text(503, "the main loop does not come round\n"),
            "/readyz" => {
                let lines: Vec<_> = self
                    .status
                    .not_ready()
                    .iter()
                    .map(|line| printable::printable(line).into_owned())
                    .collect();
                return match lines.is_empty() {
                    true => Answer::text(200, "ready\n"),
                    false => Answer::text(503, lines.join("\n") + "\n"),
                };
            }
            _ => {}
        }
        let (name, content, make): (_, _, fn(&Self) -> Vec<u8>) = match path {
            "/" => ("page", "text/html; charset=utf-8", |o| page::render(&o.status).into_bytes()),
            "/metrics" => ("metrics", "text/plain; version=0.0.4; charset=utf-8", |o| {
                metrics::render(&o.status, &o.fabric, o.board.is_alive()).into_bytes()
            }),
            "/status.json" => ("json", "application/json", |o| {
                printable::to_json(&o.status).unwrap_or_default().into_bytes()
            }),
            "/status.txt" => {
                ("text", http::TEXT, |o| text::without_colours(&text::render(&o.status)).into_bytes())
            }
            _ => return Answer::text(404, "/ /healthz /readyz /metrics /status.json /status.txt\n"),
        };
        if let Some((_, answer)) = self.faces.get(name).filter(|(made, _)| now < *made + FRESH) {
            return answer.clone();
        }
        let answer = Answer { status: 200, content, body: make(self).into() };
        self.faces.insert(name, (now, answer.clone()));
        answer
    }
}

/// What this thread has used.
fn cpu_time() -> Duration {
    // Not rustix's, which does not get over a kernel without a vDSO (user-mode Linux).
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

/// What systemd is told, where it has started us.
struct Systemd {
    interval: Option<Duration>,
    due: Option<Instant>,
    ready: bool,
    reloading: bool,
    said: String,
}

impl Systemd {
    fn new() -> Self {
        let interval = sd_notify::watchdog_enabled().map(|interval| interval / 2);
        Self {
            interval,
            due: interval.map(|_| Instant::now()),
            ready: false,
            reloading: false,
            said: String::new(),
        }
    }

    fn notify(states: &[NotifyState<'_>]) {
        // Without a socket there is no one to tell.
        let _ = sd_notify::notify(states);
    }

    fn keep_alive(&mut self, board: &Board, now: Instant) {
        if let Some(interval) = self.interval
            && self.due.is_some_and(|due| due <= now)
        {
            self.due = Some(now + interval);
            if board.is_alive() {
                Self::notify(&[NotifyState::Watchdog]);
            }
        }
    }

    fn tell(&mut self, status: &Status) {
        let line = text::line(status);
        if line != self.said {
            Self::notify(&[NotifyState::Status(&line)]);
            self.said = line;
        }
        let complete = status.daemons.iter().all(|daemon| daemon.state == Life::Running);
        match status.phase {
            Phase::Running if !self.ready && complete => {
                Self::notify(&[NotifyState::Ready]);
                self.ready = true;
            }
            Phase::Stopping if self.ready => {
                Self::notify(&[NotifyState::Stopping]);
                self.ready = false;
            }
            _ => {}
        }
        if self.ready && self.reloading != status.counts.changing {
            self.reloading = status.counts.changing;
            if !self.reloading {
                Self::notify(&[NotifyState::Ready]);
            } else if let Ok(now) = NotifyState::monotonic_usec_now() {
                Self::notify(&[NotifyState::Reloading, now]);
            }
        }
    }
}
