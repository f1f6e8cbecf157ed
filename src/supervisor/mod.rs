//! The daemons as our children, and the node as it shall be: one thread, one `poll` over signals, output, answers and
//! the kernel's word of what has changed.

mod build;
mod carrier;
mod change;
mod drift;
mod farewell;
mod fib;
mod fuse;
mod hold;
mod output;
mod policy;
mod process;
mod reload;
mod repairs;
mod reserve;
mod rollback;
mod show;
mod signals;
mod watch;
mod work;

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{WaitOptions, wait};

use crate::config::{Config, OnStop};
use crate::frr::daemons::{BIN_DIR, RUN_DIR, SOCKET_DIR};
use crate::frr::delta::Step;
use crate::frr::handover::Handover;
use crate::frr::held::Place;
use crate::frr::vty::{Answer, PING, Talk, socket};
use crate::frr::{Daemon, bfd, files, neighbors, redact_said, sockets, solicit, with_log};
use crate::kernel::{Dialling, Notified};
use crate::limits;
use crate::model::{FilePath, IfName};
use crate::node::{Check, NAMELESS, Node};
use crate::printable::first;
use crate::status::{Board, Phase, Probe, Time};

use build::Build;
use change::{Change, Enforced, Task};
use drift::Drift;
use farewell::Farewell;
use fuse::Fuse;
use hold::{Hold, News, Outcome};
use policy::{Action, Event, PEERS_NOTICE, Policy, Terms};
use process::Child;
use reload::{Reading, Wanted};
use repairs::{Found, RETRY, Repairs};
pub use rollback::History;
use show::Record;
pub use show::describe;
pub use signals::Signals;
use watch::Watch;

/// How often a starting daemon is asked whether it answers: it takes some 50 ms, and only then is asked at all.
const ASK_EVERY: Duration = Duration::from_millis(5);

/// From the questions of a round until all answers are looked for at once: a wake-up for each of them would cost more than
/// they do.
const COLLECT: Duration = Duration::from_millis(100);

/// How often bfdd and bgpd are asked about their sessions while they may be new.
const FRESH_EVERY: Duration = Duration::from_millis(200);

/// For how long they may be, after a daemon was started or bgpd named a change. Later the rounds see what changes.
const FRESH: Duration = Duration::from_secs(10);

/// Every so many rounds bgpd is asked about its peers, should its log not name them.
const PEERS_ROUNDS: u32 = 10;

/// For how long a new bgpd does not dial after its first answer: within some 10 ms zebra has told it of the ports.
const REGISTER: Duration = Duration::from_millis(500);

/// For how long only it dials: it does so a second after its first attempt. A loaded machine takes longer.
const DIAL: Duration = Duration::from_secs(5);

/// The longest that new sessions wait for backup routes on top of that.
const COVERED: Duration = Duration::from_secs(30);

/// Longer than any bgpd takes to answer: the policy ends it before.
const ANSWER: Duration = Duration::from_secs(60);

/// Between two Router Solicitations; a host would wait for 4 s (RFC 4861 §10).
const SOLICIT_EVERY: Duration = Duration::from_secs(1);

/// Between two looks at silent workloads: well below the 300 s after which a bridge forgets a MAC address.
const WORKLOADS_EVERY: Duration = Duration::from_secs(30);

/// From the end of a hold until FRR's own routes are what they will be.
const RELEASED: Duration = Duration::from_secs(5);

/// How many prefixes a line of the log names.
const SHOWN: usize = 20;

/// A turn of the loop that takes longer has kept us from hearing of daemons what they may have said.
const LATE: Duration = Duration::from_secs(1);

/// Why the loop ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// A signal asked for it.
    Stopped,
    /// This configuration needs other daemons, or the same in another order.
    Reconfigured(Box<Config>),
    /// FRR's namespace is not held any more, and how that came.
    NamespaceGone(&'static str),
}

/// The daemons and everything that the loop looks at.
#[derive(Debug)]
pub struct Supervisor<'a> {
    /// What the environment alone says.
    base: &'a Config,
    node: &'a mut Node,
    signals: &'a mut Signals,
    /// Where it is all shown.
    board: Arc<Board>,
    history: &'a mut History,
    records: Vec<Record>,
    probe: Option<Probe>,
    daemons: Vec<&'static Daemon>,
    /// frr.conf, and what of it daemons read by themselves.
    text: String,
    parts: Vec<(&'static str, String)>,
    policy: Policy,
    children: Vec<Option<Child>>,
    /// Daemons whose first answer we wait for.
    starting: Vec<Waiting>,
    /// Daemons that were asked whether they still answer, `None` where that failed.
    asked: Vec<(usize, Option<Talk>)>,
    /// Those that have answered the first of several questions, and so live.
    answering: Vec<(usize, Talk)>,
    /// When the answers of these are looked for, and again after which pause.
    collect: Option<(Instant, Duration)>,
    /// Those that are asked more often while sessions may be new, and until when.
    fresh: Option<(Vec<Waiting>, Instant)>,
    rounds: u32,
    /// When the turn under way began.
    turn: Instant,
    /// When unknown peers may be asked for their addresses again.
    solicit_at: Instant,
    /// The BFD sessions as bfdd had them last.
    sessions: Vec<bfd::Session>,
    /// The BFD peers that bfdd shall have of us.
    peers: bfd::Peers,
    /// Under way to bfdd.
    giving_peers: Option<Talk>,
    /// What bfdd said when it took one of them last, if it did not.
    refused: Option<String>,
    /// Those of a bfdd that is gone, and when to tell their peers: after bgpd's end, so that BGP is in graceful restart.
    bow_out: Option<(Instant, Vec<bfd::Session>)>,
    hold: Hold,
    carriers: carrier::Ports,
    /// Services that are not held any more, and when to look at what is in reserve for them.
    released: Option<(Instant, BTreeSet<IpNet>)>,
    repairs: Repairs,
    routes: fib::Routes,
    /// Something undoes them.
    fighting: bool,
    /// zebra goes with the bgpd of a VTEP.
    fuse: Option<Fuse>,
    /// When silent workloads are asked for, if there can be any.
    workloads_at: Option<Instant>,
    reserve: reserve::Reserve,
    /// Who may not dial, and until when.
    silent: Vec<(Dialling, Instant)>,
    /// vtysh runs that load the configuration: the one under way, and those after it.
    load: Option<Child>,
    load_queue: VecDeque<Option<&'static str>>,
    load_well: bool,
    /// Where the rest of the configuration comes from, if it can be watched.
    watch: Option<Watch>,
    reading: Option<Reading>,
    wanted: Option<Wanted>,
    /// How often in a row the change under way was cut short before.
    interruptions: u32,
    /// What was said last about what is not taken, so that it is said once.
    rejected: Vec<String>,
    /// When the file is read again, although nothing says that it is another.
    read_again: Option<Instant>,
    /// Whether it was read since it is watched.
    has_read: bool,
    change: Option<Change>,
    build: Option<Build>,
    tidying: Option<Task<()>>,
    /// Talks that are over, and end when no one configures anything: at the end of any connection mgmtd of FRR 10.3 forgets
    /// what is not committed yet (`mgmt_fe_session_cfg_txn_cleanup`, `mgmtd/mgmt_fe_adapter.c`; no longer in 10.4).
    over: Vec<Talk>,
    drift: Drift,
    enforcing: Option<Task<Enforced>>,
    /// What is to be put right after that.
    to_enforce: VecDeque<Step>,
    farewell: Option<Farewell>,
    end: Option<End>,
    finished: bool,
}

#[derive(Debug)]
struct Waiting {
    daemon: usize,
    talk: Option<Talk>,
    ask_at: Instant,
}

/// Backup routes stay for so much longer than what is retained.
const AFTER_RETENTION: Duration = Duration::from_secs(5);

impl<'a> Supervisor<'a> {
    /// Takes a node that is set up.
    ///
    /// # Errors
    /// The configuration in force can't be read.
    pub fn new(
        base: &'a Config,
        node: &'a mut Node,
        signals: &'a mut Signals,
        board: &Arc<Board>,
        history: &'a mut History,
    ) -> io::Result<Self> {
        let now = Instant::now();
        history.begin(node, board);
        let daemons = node.daemons(&node.config);
        let (text, parts) = node.texts.parts(node.version);
        let reads = |d: &&Daemon| d.reads_all() && part(&parts, d.name).is_some();
        let readers: Vec<_> = daemons.iter().copied().filter(reads).collect();
        let sessions: Vec<bfd::Session> = files::recall(files::BFD_SESSIONS);
        let terms = Terms {
            daemons: &daemons,
            with_file: &readers,
            patience: Duration::from_secs(node.config.liveness_s.into()),
            may_fall_back: node.texts.may_fall_back(),
            peers_to_tell: !sessions.is_empty(),
            seed: std::process::id() ^ now.elapsed().subsec_nanos() ^ u32::from(node.config.node_ip.get()),
        };
        Ok(Self {
            policy: Policy::new(terms, now),
            children: daemons.iter().map(|_| None).collect(),
            records: daemons.iter().map(|daemon| Record::of(daemon.name, board)).collect(),
            probe: node
                .kernel
                .router_ns()
                .within(Probe::open)
                .inspect_err(|e| log::warn!("a second zebra or a wrong password can't be told: {e}"))
                .ok(),
            board: Arc::clone(board),
            history,
            daemons,
            text,
            parts,
            starting: vec![],
            asked: vec![],
            answering: vec![],
            collect: None,
            fresh: None,
            rounds: 0,
            turn: now,
            solicit_at: now,
            bow_out: Some((now + PEERS_NOTICE, sessions)),
            sessions: vec![],
            peers: bfd::Peers::new(),
            giving_peers: None,
            refused: None,
            hold: Hold::new(
                place(&node.config),
                socket("bgpd"),
                Duration::from_secs(node.config.metallb.hold_s.into()),
                files::recall(files::SERVICES),
                now,
            ),
            carriers: carrier::Ports::default(),
            released: None,
            repairs: Repairs::default(),
            routes: fib::Routes::new(now),
            fighting: false,
            fuse: None,
            workloads_at: node.config.overlay.has_gateways().then_some(now),
            reserve: reserve::Reserve::default(),
            // An earlier instance may have left them so.
            silent: vec![(Dialling::Ours, now), (Dialling::Theirs, now)],
            load: None,
            load_queue: VecDeque::new(),
            load_well: true,
            watch: base.file.as_ref().and_then(watch_file),
            reading: None,
            wanted: None,
            interruptions: 0,
            rejected: vec![],
            // It may have become another before it was watched.
            read_again: base.file.as_ref().map(|_| now),
            has_read: false,
            change: None,
            build: None,
            tidying: None,
            over: vec![],
            drift: Drift::new(node.version, now),
            enforcing: None,
            to_enforce: VecDeque::new(),
            farewell: None,
            end: None,
            finished: false,
            base,
            node,
            signals,
        })
    }

    /// Runs the daemons until a signal asks for the end, or their namespace is gone, and all of them are gone.
    ///
    /// # Errors
    /// The loop itself can't go on.
    pub fn run(mut self) -> io::Result<End> {
        let mut events = VecDeque::from([Event::Tick]);
        self.show_configuration();
        self.board.tell(|local| local.enter(Phase::Running));
        self.look_at_ports(Instant::now());
        // What an earlier instance left needs cover while the new daemons settle; copies that it left itself may
        // be all that there is of some routes.
        self.hold_services();
        self.cover(true);
        loop {
            while let Some(event) = events.pop_front() {
                let now = Instant::now();
                for action in self.policy.step(event, now) {
                    self.act(action, &mut events);
                }
            }
            self.show_daemons(Instant::now());
            if self.finished {
                self.unhush(Instant::now() + ANSWER + COVERED);
                return Ok(self.end.take().unwrap_or(End::Stopped));
            }
            self.wait(&mut events)?;
        }
    }

    /// How long routes are kept in reserve after a death.
    fn window(&self) -> Duration {
        let config = &self.node.config;
        // What is held must be reached.
        let hold = self
            .hold
            .is_under_way()
            .then(|| Duration::from_secs(config.metallb.hold_s.into()) + AFTER_RETENTION);
        Duration::from_secs(config.timers.restart_s.into()).max(hold.unwrap_or_default())
    }

    fn act(&mut self, action: Action, events: &mut VecDeque<Event>) {
        match action {
            Action::Start(i) => {
                match self.daemons[i].name {
                    "bgpd" => self.hush(),
                    "zebra" => self.await_reserve(),
                    _ => {}
                }
                match self.start(i) {
                    Ok(child) => {
                        log::info!("{} started, pid {}", child.name, child.pid);
                        self.children[i] = Some(child);
                        self.records[i].started(&self.board);
                        self.starting.push(Waiting { daemon: i, talk: None, ask_at: Instant::now() });
                    }
                    Err(e) => {
                        if self.records[i].not_started(e.to_string()) {
                            log::error!("{} cannot be started: {e}; it is tried again", self.daemons[i].name);
                        }
                        events.push_back(Event::NotStarted(i));
                    }
                }
            }
            Action::Look => {
                self.rounds = self.rounds.wrapping_add(1);
                if crate::files::retry() {
                    // The problem is over, which nothing else may say for a minute.
                    self.board.tell(|_| ());
                }
                if self.node.sysctls_have_changed() {
                    self.repairs.changed(Instant::now());
                }
                self.probe();
                let there = self.daemons.iter().filter(|daemon| self.ready(daemon.name).is_some());
                there.for_each(|daemon| sockets::restore(daemon.name));
                events.extend(self.load.as_mut().map(|load| Event::Loading { rests: load.rests() }));
                // A connection that was refused is tried again, and is no answer meanwhile.
                let refused = self.asked.iter().filter(|(_, talk)| talk.is_none()).map(|(i, _)| *i);
                let refused: Vec<usize> = refused.collect();
                self.asked.retain(|(_, talk)| talk.is_some());
                refused.into_iter().for_each(|i| self.ask(i, events));
            }
            Action::Ask(i) => {
                if let Some(child) = &mut self.children[i] {
                    child.mark();
                }
                self.ask(i, events);
            }
            // Its answer may have come while we had something else to do.
            Action::Examine(i) if self.turn.elapsed() >= LATE => events.push_back(Event::NotAsked(i)),
            Action::Examine(i) => {
                if let Some(child) = &mut self.children[i] {
                    let works = child.has_worked();
                    log::debug!("{} owes an answer; at work: {works}", child.name);
                    events.push_back(if works { Event::Works(i) } else { Event::Idles(i) });
                }
            }
            Action::Abort(i) => {
                if let Some(child) = &mut self.children[i] {
                    let (name, pid, s) = (child.name, child.pid, self.node.config.liveness_s);
                    if sockets::is_gone(name) {
                        // It may be well, and has nothing to say of it.
                        log::error!(
                            "{name} (pid {pid}) can't be asked for {s} s: somebody has removed its socket {}; starting it anew",
                            socket(name).display()
                        );
                        child.kill();
                    } else {
                        log::error!("{name} (pid {pid}) has not answered for {s} s: ending it");
                        child.abort();
                    }
                }
            }
            Action::Kill(i) => {
                if let Some(child) = &mut self.children[i] {
                    log::info!("{}: killing pid {}", child.name, child.pid);
                    child.kill();
                }
            }
            Action::Load(which) => {
                self.load_well = true;
                which.iter().for_each(|&i| self.forget_drift(i));
                self.load_queue = if which.len() == self.daemons.len() {
                    [None].into()
                } else {
                    which.iter().map(|&i| Some(self.daemons[i].name)).collect()
                };
                self.next_load(events);
            }
            Action::AbortLoad => {
                log::error!("vtysh: loading the configuration hangs, ending it");
                self.end_load();
            }
            Action::Complete => {
                log::info!("all daemons answer and have their configuration");
                self.board.tell(|local| local.incomplete = false);
            }
            Action::Incomplete => {
                log::error!(
                    "all daemons answer, but not all of the configuration could be loaded: see vtysh's words above"
                );
                self.board.tell(|local| local.incomplete = true);
            }
            Action::Keep => {
                self.node.texts.keep();
                self.history.held(self.node);
                log::debug!("this configuration has held, and is kept");
            }
            Action::FallBack(i) => self.fall_back(i, events),
            Action::Finished => self.finished = true,
        }
    }

    fn ask(&mut self, i: usize, events: &mut VecDeque<Event>) {
        let daemon = self.daemons[i];
        let peers = self.rounds.is_multiple_of(PEERS_ROUNDS);
        let talk = match Talk::show(&socket(daemon.name), questions(daemon, &self.hold, peers)) {
            Ok(talk) => Some(talk),
            Err(e) if limits::is_ours(&e) => {
                log::error!("{} can't be asked whether it answers: {e}; {}", daemon.name, limits::REMEDY);
                events.push_back(Event::NotAsked(i));
                return;
            }
            Err(_) => None,
        };
        self.asked.push((i, talk));
        self.collect = Some((Instant::now() + COLLECT, COLLECT));
    }

    /// Takes in what a daemon said to our questions.
    fn learn(&mut self, i: usize, answers: &[Answer]) {
        match self.daemons[i].name {
            "bfdd" => self.hear_of_sessions(answers),
            "bgpd" => {
                if answers.first().is_some_and(|summary| self.hold.heard(summary, Instant::now())) {
                    self.board.tell(|local| {
                        local.news += 1;
                        local.services = self.hold.received();
                    });
                }
                if let Some(peers) = answers.get(1) {
                    let peers = serde_json::from_str(&peers.text).unwrap_or_default();
                    if self.node.config.timers.bfd.is_some_and(|bfd| !bfd.coupled) {
                        bfd::take_in_peers(&mut self.peers, &peers);
                    }
                    self.solicit(&solicit::strangers(&peers));
                }
            }
            _ => {}
        }
    }

    /// Asks for the addresses of the peers that bgpd does not know.
    fn solicit(&mut self, ports: &[IfName]) {
        let now = Instant::now();
        if ports.is_empty() || now < self.solicit_at {
            return;
        }
        self.solicit_at = now + SOLICIT_EVERY;
        if let Err(e) = self.node.kernel.router_ns().within(|| solicit::solicit(ports)) {
            log::debug!("peers can't be asked for their addresses: {e}");
        }
    }

    fn hear_of_sessions(&mut self, answers: &[Answer]) {
        if bfd::take_in(&mut self.sessions, answers) {
            files::write_down(files::BFD_SESSIONS, &self.sessions);
        }
        let commands = bfd::commands(&self.peers, &self.sessions);
        if !commands.is_empty() && self.giving_peers.is_none() {
            log::debug!("bfdd: {}", commands.join("; "));
            self.giving_peers =
                self.running("bfdd").and_then(|i| Talk::begin(&socket(self.daemons[i].name), commands).ok());
        }
    }

    /// The daemon of that name, if its process is there.
    fn running(&self, name: &str) -> Option<usize> {
        self.daemons.iter().position(|d| d.name == name).filter(|&i| self.children[i].is_some())
    }

    /// The same, if it has answered since it was started.
    fn ready(&self, name: &str) -> Option<usize> {
        self.running(name).filter(|i| !self.starting.iter().any(|waiting| waiting.daemon == *i))
    }

    /// The process of that daemon, if it has answered since it was started.
    fn answering(&self, name: &str) -> Option<&Child> {
        self.children[self.ready(name)?].as_ref()
    }

    fn read_parts(&mut self) {
        (self.text, self.parts) = self.node.texts.parts(self.node.version);
        self.show_configuration();
    }

    /// Keeps a bgpd that is about to start and its peers from dialling.
    fn hush(&mut self) {
        let until = Instant::now() + ANSWER;
        self.silent = vec![(Dialling::Ours, until), (Dialling::Theirs, until)];
        for (which, _) in &self.silent {
            if let Err(e) = self.node.kernel.forbid(*which) {
                log::warn!("a new session may come up and go again: {e}");
            }
        }
    }

    /// A new bgpd answers: how long it is not to dial, and its peers.
    fn let_dial(&mut self, now: Instant) {
        self.silent = vec![(Dialling::Ours, now + REGISTER), (Dialling::Theirs, now + DIAL)];
    }

    /// For how much longer they may not, since bgpd changes routes as soon as its sessions are up.
    fn covering(&self) -> Duration {
        if self.reserve.is_installing() { COVERED } else { Duration::ZERO }
    }

    /// Lets those dial again whose time has come.
    fn unhush(&mut self, now: Instant) {
        let covering = self.covering();
        let kernel = &mut self.node.kernel;
        self.silent.retain_mut(|(which, at)| {
            if *at + covering > now {
                return true;
            }
            let allowed = kernel.allow(*which);
            if let Err(e) = &allowed {
                log::error!("BGP sessions are still kept from coming up, which is tried again: {e}");
                *at = now + RETRY;
            }
            allowed.is_err()
        });
    }

    fn start(&mut self, i: usize) -> io::Result<Child> {
        let daemon = self.daemons[i];
        if daemon.name == "zebra"
            && let Some(why) = self.node.keeps_from_zebra()
        {
            return Err(io::Error::other(why));
        }
        let more = if daemon.name == "bgpd" { self.hold.configuration() } else { String::new() };
        let config = part(&self.parts, daemon.name)
            .map(|text| Handover::text(daemon.name, &(text.to_owned() + &more)));
        let config = config.transpose()?;
        let pid = Handover::empty("pid")?;
        files::clear(daemon.name);
        let mut command = Command::new(Path::new(BIN_DIR).join(daemon.name));
        let config_path = config.as_ref().map(Handover::path);
        command.args(daemon.arguments(self.node.version, config_path.as_deref(), &pid.path()));
        let inherited: Vec<&Handover> = config.iter().chain([&pid]).collect();
        let victim = daemon.foundations().find_map(|name| self.children[self.running(name)?].as_ref());
        let victim = victim.map(|zebra| zebra.pid);
        let not_linked = |e: io::Error| {
            log::warn!(
                "zebra can't be made to go with bgpd: {e}; if bgpd dies, the VNIs lose packets until it is back"
            );
        };
        let (fuse, ends) = victim.and_then(|_| fuse::lay().map_err(not_linked).ok()).unzip();
        let (input, _last) = ends.map_or((Stdio::null(), None), |ends| (ends.input, Some(ends.last)));
        // A child begins in the namespace of the thread that starts it.
        let child = self
            .node
            .kernel
            .router_ns()
            .within(|| Child::with_input(daemon.name, command, input, &inherited))?;
        if let Some((fuse, victim)) = fuse.zip(victim) {
            self.fuse = fuse.arm(victim).map_err(not_linked).ok().map(|()| fuse);
        }
        files::started(daemon.name, child.pid);
        Ok(child)
    }

    /// A daemon has, or is about to have, our configuration and nothing else.
    fn forget_drift(&mut self, i: usize) {
        let name = self.daemons[i].name;
        self.drift.forget(name, Instant::now());
        self.board.tell(|local| drop(local.drift.remove(name)));
    }

    fn end_load(&mut self) {
        self.load_queue.clear();
        self.load_well = false;
        if let Some(child) = &mut self.load {
            child.kill();
        }
    }

    /// Keeps what the speaker announced in front of the leaves until it can say so again itself.
    fn hold_services(&mut self) {
        let config = &self.node.config;
        // One that gets its configuration from vtysh begins with nothing of ours.
        let begins_with_them = part(&self.parts, "bgpd").is_some();
        let allowed = |prefix: &IpNet| {
            let all = &config.metallb.allowed;
            begins_with_them && (all.is_empty() || all.iter().any(|net| net.contains(prefix)))
        };
        match self.node.kernel.bgp_prefixes(config.metallb.table.get()) {
            Ok(mut prefixes) => {
                prefixes.retain(allowed);
                let n = self.hold.bgpd_is_gone(&prefixes, Instant::now());
                if n > 0 {
                    log::info!(
                        "{n} services stay announced until the speaker is back, for {} s at most",
                        config.metallb.hold_s
                    );
                }
            }
            Err(e) => {
                log::warn!(
                    "the kernel's routes can't be read: {e}; all services that are known stay announced"
                );
                let known: BTreeSet<IpNet> = self.hold.known().prefixes().copied().filter(allowed).collect();
                self.hold.bgpd_is_gone(&known, Instant::now());
            }
        }
        self.show_held();
        self.show_unannounced();
    }

    fn hear_of_services(&mut self, now: Instant) {
        let bgpd = self.ready("bgpd");
        let news = self.hold.step(bgpd.and_then(|_| part(&self.parts, "bgpd")), now);
        if self.hold.wants_prefixes() {
            match self.node.kernel.bgp_prefixes(self.node.config.metallb.table.get()) {
                Ok(prefixes) => self.hold.take_prefixes(prefixes, now),
                Err(e) => log::debug!("the services can't be read: {e}"),
            }
        }
        for news in news {
            self.take_services(news, now);
        }
        // What is retained must be reached.
        if let Some((until, retained)) = self.reserve.until.as_mut().zip(self.hold.until()) {
            *until = (*until).max(retained + AFTER_RETENTION);
        }
        if let Some((_, prefixes)) = self.released.take_if(|(at, _)| *at <= now) {
            self.reserve_job(reserve::Job::RemoveGone(prefixes));
        }
    }

    fn take_services(&mut self, news: News, now: Instant) {
        match news {
            News::Learnt => {
                self.board.tell(|local| local.news += 1);
                files::write_down(files::SERVICES, self.hold.known());
            }
            News::Announced => self.show_unannounced(),
            News::Released(gone) => {
                self.show_held();
                // What was gone before another death is looked at now, too.
                if !gone.is_empty() || self.released.is_some() {
                    let mut all = self.released.take().map(|(_, before)| before).unwrap_or_default();
                    all.extend(gone);
                    self.released = Some((now + RELEASED, all));
                }
            }
            News::Over(Outcome::Back(back, gone)) => {
                log::info!("the speaker is back: {back} services are announced by it again");
                if !gone.is_empty() {
                    log::info!(
                        "the speaker does not announce {} services any more: {}",
                        gone.len(),
                        first(SHOWN, &gone)
                    );
                }
            }
            News::Over(Outcome::Late(late, is_up)) => log::error!(
                "{} for {} s (METALLB_HOLD_TIME): {} services are no longer announced: {}",
                if is_up {
                    "the speaker is back, but its routes could not be used"
                } else {
                    "the speaker has not come back"
                },
                self.node.config.metallb.hold_s,
                late.len(),
                first(SHOWN, &late)
            ),
        }
    }

    /// Tells the BFD peers that bfdd is away on purpose.
    fn bow_out(&mut self, sessions: &[bfd::Session]) {
        let told = self.node.kernel.router_ns().within(|| Ok(bfd::bow_out(sessions)));
        match told.and_then(|told| told) {
            Ok(0) => {}
            Ok(n) => log::info!("{n} BFD peers know that bfdd is away"),
            Err(e) => log::warn!("BFD peers can't be told that bfdd is away: {e}; they may tear BGP down"),
        }
    }

    /// Starts the next vtysh, or reports that the last one is done.
    fn next_load(&mut self, events: &mut VecDeque<Event>) {
        while let Some(daemon) = self.load_queue.pop_front() {
            let start = || {
                let text = Handover::text("frr.conf", &with_log(&self.text))?;
                let mut command = Command::new("/usr/bin/vtysh");
                command.args(["--vty_socket", SOCKET_DIR, "--config_dir", RUN_DIR, "-f", &text.path()]);
                command.args(daemon.iter().flat_map(|name| ["-d", name]));
                Child::with_input("vtysh", command, Stdio::null(), &[&text])
            };
            match start() {
                Ok(child) => {
                    self.load = Some(child);
                    return;
                }
                Err(e) => {
                    log::error!("vtysh: cannot be started: {e}");
                    self.load_well = false;
                }
            }
        }
        events.push_back(Event::Loaded(self.load_well));
    }

    /// Whether the kernel is about to follow a change of FRR's configuration.
    fn follows(&self) -> bool {
        self.change.is_some() || self.build.is_some()
    }

    /// When there is something to do although nothing happens.
    fn next_deadline(&self) -> Option<Instant> {
        let waiting = self.starting.iter().chain(self.fresh.iter().flat_map(|(waiting, _)| waiting));
        let silent_daemon = self.policy.silent_at(Instant::now());
        let asks = waiting.filter(|w| w.talk.is_none()).map(|w| w.ask_at);
        let bow_out = self.bow_out.as_ref().map(|(at, _)| *at);
        let repairs = self.repairs.due().filter(|_| self.end.is_none() && !self.follows());
        let others = [
            silent_daemon,
            self.policy.next_deadline(),
            self.reserve.until,
            self.reserve.again,
            repairs,
            bow_out,
            self.workloads_at,
            self.collect.map(|(at, _)| at),
        ];
        let farewell = self.farewell.as_ref().map(Farewell::deadline);
        let released = self.released.as_ref().map(|(at, _)| *at);
        let covering = self.covering();
        let silent = self.silent.iter().map(|(_, at)| *at + covering);
        let file = self.watch.as_ref().and_then(Watch::due).filter(|_| self.end.is_none());
        let carriers = self.carriers.deadline().filter(|_| self.end.is_none());
        let drift = self.drift.deadline().filter(|_| self.end.is_none() && self.policy.is_complete());
        let complete = self.policy.is_complete();
        let wanted = self.wanted.as_ref().filter(|_| !self.is_changing() && self.end.is_none());
        let wanted = wanted.map(|wanted| wanted.due(complete));
        let build = self.build.as_ref().map(Build::deadline).filter(|_| self.end.is_none());
        let read_again = self.read_again.filter(|_| self.end.is_none());
        let routes = self.routes.deadline().filter(|_| self.end.is_none());
        let farewell = farewell
            .into_iter()
            .chain(self.hold.deadline())
            .chain(released)
            .chain(carriers)
            .chain(silent)
            .chain(file)
            .chain(wanted)
            .chain(read_again)
            .chain(build)
            .chain(routes)
            .chain(drift);
        asks.chain(others.into_iter().flatten()).chain(farewell).min()
    }

    /// Waits until something happens and turns it into events.
    fn wait(&mut self, events: &mut VecDeque<Event>) -> io::Result<()> {
        let now = Instant::now();
        let timeout = self.next_deadline().map(|at| at.saturating_duration_since(now));
        let mounts_changed = {
            let mut fds = vec![PollFd::new(&*self.signals, PollFlags::IN)];
            fds.extend(self.node.fds());
            fds.extend(self.reserve.task().map(|task| PollFd::new(task, PollFlags::IN)));
            // No one goes on with these at the end, and what is readable and not read would wake us at once, again and again.
            let goes_on = self.end.is_none();
            if goes_on {
                fds.extend(self.watch.as_ref().map(|watch| PollFd::new(watch, PollFlags::IN)));
                fds.extend(self.reading.as_ref().map(|reading| PollFd::new(&reading.task, PollFlags::IN)));
                fds.extend(self.change.as_ref().map(|change| PollFd::new(&change.task, PollFlags::IN)));
                fds.extend(self.tidying.as_ref().map(|task| PollFd::new(task, PollFlags::IN)));
                fds.extend(self.routes.task().map(|task| PollFd::new(task, PollFlags::IN)));
                fds.extend(self.enforcing.as_ref().map(|task| PollFd::new(task, PollFlags::IN)));
            }
            let children = self.children.iter().chain([&self.load]).flatten();
            let outputs = children.filter_map(|child| child.output.as_ref());
            fds.extend(outputs.map(|output| PollFd::new(output, PollFlags::IN)));
            let waiting = self.starting.iter().chain(self.fresh.iter().flat_map(|(waiting, _)| waiting));
            let talks =
                waiting.filter_map(|w| w.talk.as_ref()).chain(&self.giving_peers).chain(self.hold.talks());
            let talks = talks.chain(self.carriers.talks().filter(|_| goes_on));
            fds.extend(
                talks
                    .chain(self.farewell.iter().filter_map(Farewell::talk))
                    .map(|talk| PollFd::new(talk, PollFlags::IN)),
            );
            match poll(&mut fds, timeout.and_then(|t| Timespec::try_from(t).ok()).as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            fds.iter().any(|fd| fd.revents().contains(PollFlags::PRI))
        };
        let now = Instant::now();
        self.turn = now;
        for child in self.children.iter_mut().chain([&mut self.load]).flatten() {
            child.read();
        }
        // Every one of them, so that none is taken in later.
        let mut changed = false;
        for child in self.children.iter_mut().flatten() {
            changed |= child.take_sessions_changed();
            if child.take_install_failed() {
                self.routes.install_failed(now);
            }
        }
        if changed {
            self.refresh(now);
            self.show_news();
            self.routes.sessions_changed(now);
        }
        if self.signals.stop_requested() && self.end != Some(End::Stopped) {
            self.stop(events, now);
        }
        self.reap(events)?;
        self.hear(events);
        self.go_on_with_farewell(events, now);
        if let Some((_, sessions)) = self.bow_out.take_if(|(at, _)| *at <= now) {
            self.bow_out(&sessions);
        }
        self.hear_of_services(now);
        let Notified { ours: changed, next_hop_gone } = self.node.what_changed();
        if next_hop_gone {
            self.routes.next_hop_gone(now);
        }
        if changed || mounts_changed {
            self.repairs.changed(now);
        }
        if mounts_changed && let Some(watch) = &mut self.watch {
            watch.mounts_changed(now);
        }
        if self.end.is_none() {
            if changed {
                self.look_at_ports(now);
            }
            self.follow_ports(now);
            self.follow_file(events, now);
            self.watch_for_drift(events, now);
            self.watch_routes(now);
        }
        // What a change is about to take away is still wanted until it has.
        if self.end.is_none() && !self.follows() && self.repairs.due().is_some_and(|due| due <= now) {
            self.look(events);
        }
        if self.reserve.until.is_some_and(|until| until <= now) {
            self.uncover();
        }
        if self.workloads_at.is_some_and(|at| at <= now) {
            self.node.ask_workloads();
            self.workloads_at = Some(now + WORKLOADS_EVERY);
        }
        self.go_on_with_reserve();
        self.unhush(now);
        if !self.is_configuring() {
            self.over.clear();
        }
        events.push_back(Event::Tick);
        Ok(())
    }

    /// A signal asks for the end, which comes before any other.
    fn stop(&mut self, events: &mut VecDeque<Event>, now: Instant) {
        let withdraw = withdraws(&self.node.config, self.signals);
        if withdraw && self.end.is_some() {
            // The daemons are being ended already, and the peers keep our routes: the next bgpd withdraws them.
            return;
        }
        self.end = Some(End::Stopped);
        self.show_stop();
        self.end_load();
        if !withdraw {
            log::info!("stopping: the peers keep our routes and the kernel its own");
            events.push_back(Event::Stop);
            return;
        }
        let drain = Duration::from_secs(self.node.config.drain_s.into());
        log::info!(
            "stopping: asking the peers to prefer other paths, shutting the sessions down in {} s",
            drain.as_secs()
        );
        let bgpd = self.answering("bgpd");
        let settled = bgpd.is_some_and(|bgpd| bgpd.age() >= FRESH);
        let bgpd = bgpd.map(|bgpd| bgpd.pid);
        self.farewell = Some(Farewell::begin(socket("bgpd"), &self.text, drain, bgpd, settled, now));
    }

    /// Goes on telling the peers of the stop.
    fn go_on_with_farewell(&mut self, events: &mut VecDeque<Event>, now: Instant) {
        let bgpd = self.answering("bgpd").map(|bgpd| bgpd.pid);
        let Some(outcome) = self.farewell.as_mut().and_then(|farewell| farewell.step(bgpd, now)) else {
            return;
        };
        self.farewell = None;
        let keep = format!(
            "it may send traffic here for {} s (GR_RESTART_TIME), unless its port goes down",
            self.node.config.timers.restart_s
        );
        match outcome {
            farewell::Outcome::Told(absent) if absent.is_empty() => {}
            farewell::Outcome::Told(absent) => {
                log::warn!("stopping: no session with {}: {keep}", first(SHOWN, &absent));
            }
            farewell::Outcome::NotTold => {
                log::error!(
                    "stopping: bgpd could not tell its peers of it, and each keeps our routes: {keep}"
                );
            }
        }
        events.push_back(Event::Stop);
    }

    /// Looks after the kernel's state, and puts right what is not as it should be.
    fn look(&mut self, events: &mut VecDeque<Event>) {
        let begin = Instant::now();
        let found = match self.node.check() {
            Check::Sound => Found::Nothing,
            Check::Repaired(last) => {
                log::warn!("put right in {} µs, at last: {last}", begin.elapsed().as_micros());
                Found::Repaired
            }
            Check::Reconfigured => {
                log::warn!("a fabric interface has another name: FRR gets another configuration");
                self.reconfigure(events);
                Found::Repaired
            }
            // It mixes them up (`set_ifindex`, `zebra/interface.c`: "results are uncertain").
            Check::Renamed(reconfigured) => {
                log::warn!(
                    "a fabric interface was given another name: zebra, which knows it by the old one, starts anew"
                );
                if reconfigured {
                    self.reconfigure(events);
                }
                events.extend(self.running("zebra").map(Event::Renew));
                Found::Repaired
            }
            Check::Partly => Found::Later(RETRY),
            Check::Failed => Found::Failed,
            Check::Nameless => Found::Later(NAMELESS),
            Check::Gone(how) => {
                self.end = Some(End::NamespaceGone(how));
                self.end_load();
                events.push_back(Event::Stop);
                Found::Nothing
            }
        };
        let fight = self.repairs.looked(found, Instant::now());
        if found == Found::Repaired || fight.is_some() != self.fighting {
            self.fighting = fight.is_some();
            self.board.tell(|local| {
                local.fight = fight.is_some();
                if found == Found::Repaired {
                    local.counts.repairs += 1;
                    local.counts.last_repair = Some(Time::now());
                }
            });
        }
        if let Some(wait) = fight {
            log::error!(
                "too many repairs: another program undoes them (see what was put right above); the next look is in {} s",
                wait.as_secs()
            );
        }
    }

    /// Another configuration is in force, because of the ports.
    fn reconfigure(&mut self, events: &mut VecDeque<Event>) {
        // They would go on in the next daemons.
        self.end_load();
        self.to_enforce.clear();
        self.read_parts();
        events.push_back(Event::Reconfigured { may_fall_back: self.node.texts.may_fall_back() });
    }

    /// Collects every dead child, ours and, as PID 1, those that others left to us.
    fn reap(&mut self, events: &mut VecDeque<Event>) -> io::Result<()> {
        let mut dead = vec![];
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => dead.push((pid, ExitStatus::from_raw(status.as_raw()))),
                Ok(None) | Err(Errno::CHILD) => break,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        // Who has taken others along comes before them, in whatever order the kernel tells of them.
        dead.sort_by_key(|(pid, _)| {
            let daemon = self.children.iter().position(|child| child.as_ref().is_some_and(|c| c.pid == *pid));
            daemon.is_none_or(|i| self.daemons[i].foundations().next().is_none())
        });
        for (pid, status) in dead {
            let is = |child: &Option<Child>| child.as_ref().is_some_and(|c| c.pid == pid);
            if let Some(i) = self.children.iter().position(is) {
                if let Some(mut child) = self.children[i].take() {
                    if self.daemons[i].name == "bgpd" && self.end.is_none() {
                        self.hold_services();
                    }
                    // At a stop no one is left who could take them away.
                    if self.daemons[i].holds_routes && self.end.is_none() {
                        // A service whose route is away now may not be gone.
                        if let Some((at, _)) = &mut self.released {
                            *at = Instant::now()
                                + Duration::from_secs(self.node.config.metallb.hold_s.into())
                                + RELEASED;
                        }
                        self.cover(self.running("zebra").is_none());
                    }
                    child.finish();
                    self.records[i].ended(&child, status);
                    self.forget_drift(i);
                    self.starting.retain(|w| w.daemon != i);
                    self.asked.retain(|(daemon, _)| *daemon != i);
                    self.answering.retain(|(daemon, _)| *daemon != i);
                    if let Some((fresh, _)) = &mut self.fresh {
                        fresh.retain(|w| w.daemon != i);
                    }
                    if self.daemons[i].holds_sessions {
                        self.giving_peers = None;
                        let sessions = std::mem::take(&mut self.sessions);
                        self.bow_out = Some((Instant::now() + PEERS_NOTICE, sessions));
                    }
                    log::log!(
                        child.level(),
                        "{} (pid {pid}) is gone: {status}{}",
                        child.name,
                        child.epitaph()
                    );
                    files::ended(child.name);
                    sockets::forget(child.name);
                    files::sweep(child.name, pid);
                    events.push_back(Event::Exited(i));
                }
            } else if is(&self.load) {
                if let Some(mut child) = self.load.take() {
                    child.finish();
                    if child.was_killed() {
                        log::debug!("vtysh was ended");
                        self.load_well = false;
                    } else if !status.success() {
                        log::error!("vtysh: loading the configuration failed: {status}{}", child.epitaph());
                        self.load_well = false;
                    } else if child.is_refused() {
                        log::error!("vtysh: not all of the configuration was taken: see its words above");
                        self.load_well = false;
                    } else if child.is_undone() {
                        log::warn!("vtysh: another change came between: the configuration is loaded again");
                        self.load_well = false;
                    }
                }
                self.next_load(events);
            } else {
                log::debug!("reaped orphan {pid}: {status}");
            }
        }
        Ok(())
    }

    /// Has the sessions watched for a while.
    fn refresh(&mut self, now: Instant) {
        let there: Vec<_> = ["bfdd", "bgpd"].iter().filter_map(|name| self.ready(name)).collect();
        let (waiting, until) = self.fresh.get_or_insert((vec![], now));
        *until = now + FRESH;
        for daemon in there {
            if !waiting.iter().any(|w| w.daemon == daemon) {
                waiting.push(Waiting { daemon, talk: None, ask_at: now });
            }
        }
    }

    /// Takes in what daemons have to say, and asks those again that are not there yet.
    fn hear(&mut self, events: &mut VecDeque<Event>) {
        let now = Instant::now();
        let daemons = &self.daemons;
        let mut answered = Vec::new();
        self.starting.retain_mut(|waiting| {
            match waiting.hear(daemons, || vec![PING.to_owned()], ASK_EVERY, now, events) {
                Some(_) => {
                    answered.push(waiting.daemon);
                    false
                }
                None => true,
            }
        });
        answered.iter().for_each(|i| sockets::keep(self.daemons[*i].name));
        if answered.iter().any(|i| self.daemons[*i].name == "bgpd") {
            self.let_dial(now);
        }
        if !answered.is_empty() {
            self.refresh(now);
            self.show_news();
        }
        events.extend(answered.into_iter().map(Event::Answered));
        let mut heard = Vec::new();
        if let Some((waiting, until)) = &mut self.fresh {
            // Who is asked already may answer: a daemon complains of one who does not listen.
            let over = |w: &Waiting| *until <= now && w.talk.is_none();
            waiting.retain_mut(|waiting| {
                if over(waiting) {
                    return false;
                }
                let daemon = self.daemons[waiting.daemon];
                let questions = || questions(daemon, &self.hold, true);
                let answers = waiting.hear(&self.daemons, questions, FRESH_EVERY, now, events);
                heard.extend(answers.map(|answers| (waiting.daemon, answers)));
                !over(waiting)
            });
            if waiting.is_empty() {
                self.fresh = None;
            }
        }
        if self.collect.is_some_and(|(at, _)| at <= now) {
            self.collect(events, &mut heard, now);
        }
        events.extend(heard.iter().map(|(i, _)| Event::Answered(*i)));
        for (i, answers) in heard {
            self.learn(i, &answers);
        }
        match self.giving_peers.as_mut().map(Talk::receive) {
            Some(Ok(None)) | None => {}
            Some(Ok(Some(answers))) => {
                self.giving_peers = None;
                let said = answers.into_iter().find(|answer| !answer.well).map(|answer| answer.text);
                if let Some(words) = said.as_ref().filter(|_| said != self.refused) {
                    log::warn!(
                        "bfdd does not take a peer, which stays without BFD: {}",
                        redact_said(words.trim())
                    );
                }
                self.refused = said;
            }
            Some(Err(_)) => self.giving_peers = None,
        }
    }

    /// Takes in what the daemons that were asked in a round have answered.
    fn collect(&mut self, events: &mut VecDeque<Event>, heard: &mut Vec<(usize, Vec<Answer>)>, now: Instant) {
        for (i, talk) in std::mem::take(&mut self.asked) {
            let Some(mut talk) = talk else {
                self.asked.push((i, None));
                continue;
            };
            match talk.receive() {
                Ok(Some(answers)) => {
                    heard.push((i, answers));
                    self.over.push(talk);
                }
                Ok(None) if talk.is_heard() => {
                    events.push_back(Event::Answered(i));
                    self.answering.push((i, talk));
                }
                // The policy knows how long to wait for an answer that does not come.
                Ok(None) => self.asked.push((i, Some(talk))),
                Err(_) => self.asked.push((i, None)),
            }
        }
        for (i, mut talk) in std::mem::take(&mut self.answering) {
            match talk.receive() {
                Ok(Some(answers)) => {
                    heard.push((i, answers));
                    self.over.push(talk);
                }
                Ok(None) => self.answering.push((i, talk)),
                Err(_) => {}
            }
        }
        let open = self.asked.iter().any(|(_, talk)| talk.is_some()) || !self.answering.is_empty();
        self.collect = self.collect.filter(|_| open).map(|(_, pause)| (now + pause, pause.saturating_mul(2)));
    }
}

impl Waiting {
    /// Asks if it is time to, and returns the answers when they have come.
    fn hear(
        &mut self,
        daemons: &[&'static Daemon],
        questions: impl FnOnce() -> Vec<String>,
        every: Duration,
        now: Instant,
        events: &mut VecDeque<Event>,
    ) -> Option<Vec<Answer>> {
        if self.talk.is_none() && self.ask_at <= now {
            let talk = Talk::show(&socket(daemons[self.daemon].name), questions());
            if talk.as_ref().is_err_and(limits::is_ours) {
                events.push_back(Event::NotAsked(self.daemon));
            }
            self.talk = talk.ok();
            self.ask_at = now + every;
        }
        match self.talk.as_mut().map(Talk::receive) {
            Some(Ok(Some(answers))) => {
                self.talk = None;
                Some(answers)
            }
            // A socket that a dead predecessor left, or a daemon not quite there: ask anew.
            Some(Err(_)) => {
                self.talk = None;
                None
            }
            Some(Ok(None)) | None => None,
        }
    }
}

/// Whether a stop that comes now takes our routes away from the peers.
pub fn withdraws(config: &Config, signals: &Signals) -> bool {
    signals.withdraw_requested() || files::on_stop().unwrap_or(config.on_stop) == OnStop::Withdraw
}

/// What we want to know of a daemon; any answer shows that it lives.
fn questions(daemon: &Daemon, hold: &Hold, peers: bool) -> Vec<String> {
    match daemon.name {
        "bfdd" => bfd::QUESTIONS.map(str::to_owned).to_vec(),
        "bgpd" => {
            [hold.question()].into_iter().chain(peers.then(|| neighbors::QUESTION.to_owned())).collect()
        }
        _ => vec![PING.to_owned()],
    }
}

/// What a daemon reads by itself, without what is added when it starts.
fn part<'p>(parts: &'p [(&str, String)], name: &str) -> Option<&'p str> {
    parts.iter().find(|(daemon, _)| *daemon == name).map(|(_, text)| text.as_str())
}

fn watch_file(path: &FilePath) -> Option<Watch> {
    Watch::on(Path::new(path.as_str()))
        .inspect_err(|e| {
            log::warn!("CONFIG_FILE can't be watched for changes: {e}; SIGHUP has it read again")
        })
        .ok()
}

fn place(config: &Config) -> Place {
    let metallb = &config.metallb;
    Place { asn: config.asn, vrf_asn: metallb.asn, vrf: metallb.vrf.clone() }
}
