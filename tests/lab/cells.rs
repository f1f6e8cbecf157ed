//! One cell of the matrix: something is killed or stopped under traffic, and the lost packets are counted.

use std::fmt;
use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, kill_process};

use super::supervisor::START_OTHER;
use super::traffic::clock;
use super::*;

/// Packets a second in each flow.
pub const RATE: u32 = 250;

/// Flows in both directions between both clients and the service.
pub fn flows() -> Vec<(String, Flow)> {
    flows_of(&["client1", "client2"])
}

/// Flows of some of the clients. They start when every path works: a leaf's BGP may have a route before its kernel has,
/// and the routes of a leaf reach the node a second after the session is established, sometimes later than the services
/// reach that leaf.
pub fn flows_of(clients: &[&'static str]) -> Vec<(String, Flow)> {
    for client in clients {
        for service in SERVICES {
            wait_until(&format!("{service} answers {client}"), SOON, || ping(client, service, 1, 10).1 == 1);
        }
    }
    let mut flows = Vec::new();
    for (i, client) in ["client1", "client2"].into_iter().enumerate().filter(|(_, c)| clients.contains(c)) {
        let port = 20000 + 10 * u16::try_from(i).expect("an address of the lab");
        for (j, (service, back)) in [(SERVICE4, CLIENT4[i]), (SERVICE6, CLIENT6[i])].into_iter().enumerate() {
            let port = port + u16::try_from(j).expect("an address of the lab");
            let address = |ip: &str, port| SocketAddr::new(ip.parse().expect("an address of the lab"), port);
            let there = Flow::start(client, None, "host", address(service, port), RATE);
            let source = Some(service.parse().expect("an address of the lab"));
            let here = Flow::start("host", source, client, address(back, port + 100), RATE);
            flows.push((format!("{client} → {service}"), there));
            flows.push((format!("{service} → {client}"), here));
        }
    }
    flows
}

/// What is killed or stopped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell {
    /// Daemons, by SIGKILL.
    Kill(&'static [&'static str]),
    /// A daemon, stopped for 15 s.
    Freeze(&'static str),
    /// frr-supervisor, by SIGKILL; the daemons keep running until its next start.
    Supervisor,
    /// Everything at once by SIGKILL, as when the container is killed; started again after a second.
    Everything,
    /// SIGTERM, and started again after a second.
    Restart,
}

/// Every daemon alone, and together.
pub const KILLS: [Cell; 7] = [
    Cell::Kill(&["bgpd"]),
    Cell::Kill(&["zebra"]),
    Cell::Kill(&["bfdd"]),
    Cell::Kill(&["staticd"]),
    Cell::Kill(&["mgmtd"]),
    Cell::Kill(&["zebra", "bgpd"]),
    Cell::Kill(&["mgmtd", "zebra", "staticd", "bfdd", "bgpd"]),
];

/// The rest of the matrix.
pub const OTHERS: [Cell; 8] = [
    Cell::Supervisor,
    Cell::Restart,
    Cell::Everything,
    Cell::Freeze("bgpd"),
    Cell::Freeze("zebra"),
    Cell::Freeze("bfdd"),
    Cell::Freeze("staticd"),
    Cell::Freeze("mgmtd"),
];

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill([_, _, _, _, _]) => f.write_str("SIGKILL all daemons"),
            Self::Kill(names) => write!(f, "SIGKILL {}", names.join("+")),
            Self::Freeze(name) => write!(f, "SIGSTOP {name} for 15 s"),
            Self::Supervisor => f.write_str("SIGKILL frr-supervisor"),
            Self::Everything => f.write_str("SIGKILL the container"),
            Self::Restart => f.write_str("SIGTERM the container"),
        }
    }
}

/// The packets of a cell, over all flows.
#[derive(Clone, Debug, Default)]
pub struct Cost {
    pub sent: u64,
    pub received: u64,
    pub lost: u64,
    pub gap: Duration,
    /// The flows that lost something.
    pub flows: Vec<String>,
    /// When the first and the last packet that was lost was due.
    pub lost_at: Option<(SystemTime, SystemTime)>,
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, received, lost, gap, flows, .. } = self;
        write!(f, "sent {sent}, received {received}, lost {lost}, longest gap {} ms", gap.as_millis())?;
        flows.iter().try_for_each(|flow| write!(f, "; {flow}"))
    }
}

impl std::ops::AddAssign<&Cost> for Cost {
    /// Adds the counts; the list of flows stays the same.
    fn add_assign(&mut self, other: &Cost) {
        self.sent += other.sent;
        self.received += other.received;
        self.lost += other.lost;
        self.gap = self.gap.max(other.gap);
    }
}

impl Cost {
    /// Stops the flows and adds up their counts.
    pub fn of(flows: Vec<(String, Flow)>) -> Self {
        let mut cost = Self::default();
        for (name, flow) in flows {
            let loss = flow.stop();
            cost.sent += loss.sent;
            cost.received += loss.received;
            cost.lost += loss.lost;
            cost.gap = cost.gap.max(loss.gap);
            if loss.lost > 0 {
                cost.flows.push(format!("{name}: {loss}"));
                let (from, to) = cost.lost_at.unzip();
                cost.lost_at =
                    loss.lost_at.map(|at| (from.unwrap_or(at.0).min(at.0), to.unwrap_or(at.1).max(at.1)));
            }
        }
        if cost.lost > 0 {
            cost.flows
                .push(format!("full queues of the processor have dropped {} since the boot", queue_drops()));
        }
        cost
    }
}

/// Packets dropped because `net.core.netdev_max_backlog` others were queued, as in a burst after a standstill of the
/// machine.
fn queue_drops() -> u64 {
    let stat = must("softnet_stat", std::fs::read_to_string("/proc/net/softnet_stat"));
    let dropped = |line: &str| u64::from_str_radix(line.split(' ').nth(1)?, 16).ok();
    stat.lines().filter_map(dropped).sum()
}

/// The output of `ip monitor` for the routes and neighbours of some namespaces, to explain a loss. It keeps a deleted
/// namespace in existence.
pub struct RouteLog(Vec<(String, PathBuf, Child)>);

impl RouteLog {
    pub fn start(namespaces: &[&str]) -> Self {
        let one = |ns: &&str| {
            let path = PathBuf::from(format!("/tmp/routes-of-{ns}"));
            let file = must("route log", File::create(&path));
            let mut command = Command::new("ip");
            command.args(["-ts", "-d", "monitor", "route", "nexthop", "neigh", "link", "rule"]);
            let child = must("ip monitor", in_ns(ns, || command.stdin(Stdio::null()).stdout(file).spawn()));
            ((*ns).to_owned(), path, child)
        };
        Self(namespaces.iter().map(one).collect())
    }

    /// From a second before the first lost packet was due to one after the last one was, a few hundred lines of each at
    /// most; the supervisor's log, too.
    pub fn explain(&self, cost: &Cost, node: &Runner) -> String {
        let Some((from, to)) = cost.lost_at else { return String::new() };
        let (from, to) = (clock(from - Duration::from_secs(1)), clock(to + Duration::from_secs(1)));
        let mut text = format!("--- supervisor's log from {from} to {to}\n");
        // "2026-11-22T02:36:59.318Z …"
        let ours = node.node.as_ref().map(Supervisor::log).unwrap_or_default();
        let ours: Vec<_> = node.past.iter().cloned().chain(ours).collect();
        let then =
            |line: &&String| line.get(11..23).is_some_and(|at| (from.as_str()..=to.as_str()).contains(&at));
        ours.iter()
            .map(|(_, line)| line)
            .filter(then)
            .take(2000)
            .for_each(|line| text += &format!("{line}\n"));
        for (ns, path, _) in &self.0 {
            text += &format!("--- routes of {ns} from {from} to {to}\n");
            let log = std::fs::read_to_string(path).unwrap_or_default();
            // "[2026-11-22T02:36:59.318000] …", and continuation lines.
            let at = |line: &str| line.strip_prefix('[')?.get(11..23).map(str::to_owned);
            // Only the routes that the flows use, of thousands.
            let concerns = |line: &str| {
                let route = ["unicast ", "Deleted unicast "].iter().any(|word| line.contains(word));
                !route
                    || ["198.51.100.100", "2001:db8:100::100", "192.0.2.", "2001:db8:1::/", "2001:db8:2::/"]
                        .iter()
                        .any(|net| line.contains(net))
            };
            let mut inside = false;
            let lines = log.lines().filter(|line| {
                inside = at(line).map_or(inside, |at| from <= at && at <= to && concerns(line));
                inside
            });
            lines.take(2000).for_each(|line| text += &format!("{line}\n"));
        }
        text
    }
}

impl Drop for RouteLog {
    fn drop(&mut self) {
        for (_, path, child) in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A node that is killed again and again.
pub struct Runner<'a> {
    lab: &'a Lab,
    env: Vec<(String, String)>,
    ns: &'static str,
    pub node: Option<Supervisor>,
    /// The logs of earlier instances.
    past: Vec<Line>,
    /// Number of starts. With LAB_FROM, the first and every other instance is one of that program.
    starts: usize,
}

impl<'a> Runner<'a> {
    /// Starts the node. The windows are short, so that they end within a cell.
    pub fn new(lab: &'a Lab, extra: &[(&str, &str)]) -> Self {
        let ns = if extra.contains(&("NETNS", "host")) { "host" } else { "perouter" };
        let base = [("GR_RESTART_TIME", "30"), ("GR_SELECT_DEFER_TIME", "5"), ("METALLB_HOLD_TIME", "20")];
        let env = base.iter().chain(extra).map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let mut runner = Self { lab, env, ns, node: None, past: vec![], starts: 0 };
        runner.start();
        runner
    }

    fn start(&mut self) {
        let env: Vec<(&str, &str)> = self.env.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let is_other = std::env::var_os("LAB_FROM").is_some() && self.starts.is_multiple_of(2);
        START_OTHER.store(is_other, Ordering::Relaxed);
        self.node = Some(up(self.lab, &env));
        self.starts += 1;
    }

    /// Ends daemons by SIGKILL.
    pub fn kill(&self, names: &[&str]) {
        self.signal(names, Signal::KILL);
    }

    fn signal(&self, names: &[&str], signal: Signal) {
        signal_daemons(self.lab, self.ns, names, signal);
    }

    fn complete(&self) -> usize {
        let log = self.node.as_ref().map(Supervisor::log).unwrap_or_default();
        log.iter().filter(|(_, line)| line.contains(DAEMONS_ANSWER)).count()
    }

    /// Waits until `count` daemons run.
    pub fn wait_complete(&self, count: usize) {
        wait_until("all daemons to run", SOON, || daemons(self.lab, self.ns).len() == count);
    }

    /// Stops a daemon for a while.
    pub fn freeze(&self, name: &str, time: Duration) {
        self.signal(&[name], Signal::STOP);
        thread::sleep(time);
        self.signal(&[name], Signal::CONT);
    }

    /// Kills or stops what the cell names, and starts again what has to be started.
    pub fn disturb(&mut self, cell: &Cell) {
        match cell {
            Cell::Kill(names) => self.kill(names),
            Cell::Freeze(name) => self.freeze(name, Duration::from_secs(15)),
            Cell::Restart => {
                if let Some(mut node) = self.node.take() {
                    node.terminate();
                    self.past.extend(node.log());
                }
            }
            Cell::Supervisor | Cell::Everything => {
                if let Some(mut node) = self.node.take() {
                    node.kill9();
                    self.past.extend(node.log());
                }
                if *cell == Cell::Everything {
                    self.kill(&[]);
                }
            }
        }
        if self.node.is_none() {
            thread::sleep(Duration::from_secs(1));
            self.start();
        }
    }

    /// Runs the cell under traffic, and counts the packets.
    pub fn run(&mut self, cell: &Cell) -> Cost {
        settle();
        let flows = flows();
        thread::sleep(Duration::from_secs(1));
        let before = self.complete();
        let killed = Instant::now();
        self.disturb(cell);
        if matches!(cell, Cell::Kill(_) | Cell::Freeze(_)) {
            wait_until(&format!("the daemons to be back after {cell}"), SOON, || self.complete() > before);
        }
        settle();
        // Past the detection time of the leaves' BFD for the killed daemon's sessions, and the end of bgpd's deferral.
        thread::sleep((killed + Duration::from_secs(20)).saturating_duration_since(Instant::now()));
        Cost::of(flows)
    }
}
