//! Finds the problems in the facts and in FRR's state: each with its effect on traffic and a remedy. Pure.

mod grouping;
mod sessions;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use super::frr_state::FrrState;
use super::{
    BgpSession, DaemonState, DaemonStatus, Health, InterfaceStatus, NodeFacts, NodePhase, Problem,
    SessionRole, Time,
};
use crate::frr::retained::Unannounced;
use crate::kernel::SharedTable;
use crate::printable::{first, printable};

use grouping::{GroupWording, ProblemGroups};

/// A fault that lasts less than this is no problem: a session during a restart of bgpd, a link while a NIC is moved.
const TRANSIENT: Duration = Duration::from_secs(2);

/// How long a new bgpd needs to establish its sessions, with a margin for a loaded machine.
const BGPD_STARTUP: Duration = Duration::from_secs(10);

/// Number of consecutive unexpected exits from which on a daemon is in a crash loop.
const CRASH_LOOP_EXITS: u32 = 3;

/// A fault at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Fault {
    code: &'static str,
    subject: String,
    what: String,
    traffic: String,
    remedy: String,
    /// Key-value pairs of its log lines.
    fields: Vec<(&'static str, String)>,
    /// How long it has to last before it is a problem.
    grace: Duration,
    /// The wording for a group of such faults, if they are grouped.
    group: Option<GroupWording>,
}

/// The codes, worst first. docs/operations.md and the alert rules contain them.
pub const CODES: [&str; 21] = [
    "setup-failed",
    "interface-missing",
    "daemon-crash-loop",
    "daemon-down",
    "daemon-hung",
    "second-zebra",
    "link-down",
    "wrong-as",
    "wrong-password",
    "session-down",
    "bfd-down",
    "metallb-down",
    "next-hop-inaccessible",
    "service-not-announced",
    "prefix-refused",
    "device-broken",
    "repairs-undone",
    "configuration-rejected",
    "configuration-incomplete",
    "configuration-drift",
    "not-saved",
];

/// A change of a problem, for the log.
#[derive(Debug, PartialEq, Eq)]
pub enum ProblemChange {
    /// The problem is new, or its remedy has changed.
    Raised(Problem),
    /// The problem is resolved, after this time.
    Resolved(Problem, Duration),
}

/// Tracks the problems over time.
#[derive(Debug, Default)]
pub struct ProblemTracker {
    tracked: BTreeMap<(usize, String), TrackedProblem>,
    groups: ProblemGroups,
}

#[derive(Debug)]
struct TrackedProblem {
    first_seen: Time,
    raised: bool,
    problem: Problem,
    /// The text that was logged.
    logged: Option<String>,
    group: Option<GroupWording>,
}

impl ProblemTracker {
    /// Evaluates the current state. Returns the changes, and after which time to call this again if nothing else
    /// happens.
    pub fn step(
        &mut self,
        facts: &NodeFacts,
        state: &FrrState,
        now: Time,
    ) -> (Vec<ProblemChange>, Option<Duration>) {
        let (mut changes, mut again) = (vec![], None);
        let mut before = std::mem::take(&mut self.tracked);
        for fault in faults(facts, state, now) {
            let rank = CODES.iter().position(|code| *code == fault.code).unwrap_or(CODES.len());
            let key = (rank, fault.subject.clone());
            if self.tracked.contains_key(&key) {
                continue;
            }
            let was = before.remove(&key);
            let first_seen = was.as_ref().map_or(now, |tracked| tracked.first_seen);
            let problem = Problem {
                code: fault.code.into(),
                subject: fault.subject,
                what: fault.what,
                traffic: fault.traffic,
                remedy: fault.remedy,
                since: first_seen,
                fields: fault.fields,
            };
            let was = was.filter(|tracked| tracked.raised);
            let left = fault.grace.saturating_sub(first_seen.ago(now));
            let raised = was.is_some() || left.is_zero();
            // The cause can become known later than the problem.
            let has_new_remedy = was.as_ref().is_none_or(|tracked| tracked.problem.remedy != problem.remedy);
            let mut logged = was.and_then(|tracked| tracked.logged);
            if raised && has_new_remedy {
                logged = Some(problem.what.clone());
                let group = fault.group.as_ref().map(|group| (rank, group.noun));
                changes.push((group, ProblemChange::Raised(problem.clone())));
            } else if !raised {
                again = Some(again.map_or(left, |before: Duration| before.min(left)));
            }
            self.tracked
                .insert(key, TrackedProblem { first_seen, raised, problem, logged, group: fault.group });
        }
        for (key, tracked) in before.into_iter().filter(|(_, tracked)| tracked.raised) {
            let code = CODES.get(key.0).copied().unwrap_or_default();
            let runs = facts.phase == NodePhase::Running;
            if (runs && sessions::can_persist(code, &key.1, facts, state, now))
                || (!runs && !KNOWN_WITHOUT_DAEMONS.contains(&code))
            {
                self.tracked.insert(key, tracked);
            } else {
                let group = tracked.group.as_ref().map(|group| (key.0, group.noun));
                let what = tracked.logged.unwrap_or(tracked.problem.what);
                let problem = Problem { what, ..tracked.problem };
                changes.push((group, ProblemChange::Resolved(problem, tracked.first_seen.ago(now))));
            }
        }
        let (changes, later) = self.groups.update(changes, &self.tracked, now);
        (changes, [again, later].into_iter().flatten().min())
    }

    /// The problems, worst first.
    pub fn list(&self) -> Vec<Problem> {
        grouping::grouped(&self.tracked).into_iter().map(|(_, problem)| problem).collect()
    }
}

/// Codes of problems that are known even while the daemons do not run.
const KNOWN_WITHOUT_DAEMONS: [&str; 5] = [
    "setup-failed",
    "interface-missing",
    "configuration-rejected",
    "configuration-incomplete",
    "configuration-drift",
];

/// Health of the node. During a restart of bgpd no session is up, and traffic flows: the node is down only with a
/// problem.
pub fn health(facts: &NodeFacts, state: &FrrState, problems: &[Problem]) -> Health {
    let mut leaves = state.bgp.iter().filter(|s| s.role == SessionRole::Fabric).peekable();
    let has_leaves = leaves.peek().is_some();
    let is_reached = leaves.any(BgpSession::is_up);
    let cuts_off = |p: &Problem| {
        ["interface-missing", "link-down", "wrong-as", "wrong-password", "session-down"]
            .contains(&p.code.as_str())
            || p.subject == "bgpd"
            || p.subject.starts_with(TABLE_SUBJECT)
    };
    if facts.phase != NodePhase::Running || !has_leaves || (!is_reached && problems.iter().any(cuts_off)) {
        Health::Down
    } else if problems.is_empty() {
        Health::Healthy
    } else {
        Health::Degraded
    }
}

/// All faults at this moment.
fn faults(facts: &NodeFacts, state: &FrrState, now: Time) -> Vec<Fault> {
    let mut faults = Vec::new();
    setup(facts, &mut faults);
    if facts.phase == NodePhase::Running {
        faults.extend(facts.shared_tables.iter().map(|shared| shared_table(shared, facts)));
        sessions::links(facts, state, &mut faults);
        // The shared table explains the state of zebra, and with it of the other daemons, the sessions and the services.
        if facts.shared_tables.is_empty() || sessions::running_daemon(facts, "zebra").is_some() {
            faults.extend(facts.daemons.iter().filter_map(|daemon| daemon_fault(daemon, facts)));
            sessions::sessions(facts, state, now, &mut faults);
            services(facts, state, now, &mut faults);
        }
        faults.extend(refused_prefixes(state));
        kernel(facts, &mut faults);
    }
    configuration(facts, &mut faults);
    if !facts.unsaved.is_empty() {
        let sentences: Vec<&str> = facts.unsaved.iter().map(String::as_str).collect();
        faults.push(Fault {
            code: "not-saved",
            subject: "files".into(),
            what: sentences.join("; "),
            traffic: "no traffic is lost, and daemons are restarted as usual; after a restart of the supervisor, services \
                      may not stay announced"
                .into(),
            remedy: "free space on the file system (df -h /run, df -i /run), or remove what blocks the file's path; the \
                     supervisor retries automatically"
                .into(),
            ..Fault::default()
        });
    }
    faults
}

const NOT_CONNECTED: &str = "the node has no connection to the fabric through FRR";

fn setup(facts: &NodeFacts, faults: &mut Vec<Fault>) {
    for sentence in &facts.setup_errors {
        faults.push(Fault {
            code: "setup-failed",
            subject: sentence.clone(),
            what: format!("the node can't be set up: {sentence}"),
            traffic: NOT_CONNECTED.into(),
            remedy: "fix the named cause; the supervisor retries every 5 s for SETUP_TIMEOUT, then exits and is started again".into(),
            ..Fault::default()
        });
    }
    // An interface that is there and can't be used is a broken device.
    let is_broken = |interface: &InterfaceStatus| {
        facts.broken.iter().any(|sentence| sentence.contains(&interface.selector))
    };
    for missing in facts.interfaces.iter().filter(|interface| !interface.present && !is_broken(interface)) {
        let others = facts.interfaces.iter().any(|other| other.present) && facts.phase == NodePhase::Running;
        faults.push(Fault {
            code: "interface-missing",
            subject: missing.selector.clone(),
            what: format!("the fabric interface {} is missing", missing.selector),
            traffic: if others { "only the other fabric links carry traffic" } else { NOT_CONNECTED }.into(),
            remedy: "compare FE_MACS with the MAC addresses of the node (talosctl get links), and check the NIC's driver \
                     (talosctl dmesg); the supervisor adds the NIC when it appears"
                .into(),
            ..Fault::default()
        });
    }
}

/// Prefix of the subject of the problem of a shared routing table.
const TABLE_SUBJECT: &str = "routing table ";

fn shared_table(shared: &SharedTable, facts: &NodeFacts) -> Fault {
    let others: Vec<_> = shared.unmanaged.iter().map(|name| printable(name)).collect();
    let names = if shared.managed.is_some() {
        others.join(" and ")
    } else {
        format!("one of {}", others.join(" and "))
    };
    let is_metallb = shared.managed.as_ref() == Some(&facts.metallb.0);
    Fault {
        code: "device-broken",
        subject: format!("{TABLE_SUBJECT}{}", shared.table),
        what: format!("{}; zebra is not started, because it exits if two VRFs have one table", shared.description()),
        traffic: "the kernel forwards with the existing routes; changes in the fabric have no effect, and the leaves \
                  remove the routes of this node when GR_RESTART_TIME is over"
            .into(),
        remedy: format!(
            "remove VRF {names} from namespace {}, or give it another table (ip -d link show type vrf){}; the supervisor \
             then starts zebra automatically",
            facts.namespace.name,
            if is_metallb { ", or set another METALLB_VRF_ROUTE_TABLE_ID" } else { "" }
        ),
        ..Fault::default()
    }
}

fn daemon_fault(daemon: &DaemonStatus, facts: &NodeFacts) -> Option<Fault> {
    let name = &daemon.name;
    let exit = daemon.last_exit.as_ref().map_or_else(String::new, |exit| match (exit.signal, exit.code) {
        (Some(signal), _) => format!(" (last exit: signal {signal})"),
        (_, Some(code)) => format!(" (last exit: code {code})"),
        _ => String::new(),
    });
    let fault = Fault {
        subject: name.clone(),
        traffic: match name.as_str() {
            "bgpd" => "the kernel forwards with the existing routes; the leaves keep the routes of this node for \
                       GR_RESTART_TIME over one crash, but not over several in a row"
                .into(),
            "zebra" => "the kernel forwards with the existing routes; route changes have no effect until zebra runs again".into(),
            "bfdd" => "no traffic is lost now; a failed link is detected only when the BGP hold time expires".into(),
            _ => format!("no traffic is lost now; configuration changes have no effect until {name} runs again"),
        },
        fields: vec![("daemon", name.clone())],
        ..Fault::default()
    };
    Some(match daemon.state {
        _ if daemon.consecutive_failures >= CRASH_LOOP_EXITS => Fault {
            code: "daemon-crash-loop",
            what: format!("{name} keeps crashing{exit}"),
            remedy: format!(
                "check {name}'s log lines and /var/tmp/frr/{name}.crashed; undo the last configuration change, or use \
                 another version of FRR"
            ),
            ..fault
        },
        DaemonState::Unresponsive => Fault {
            code: "daemon-hung",
            what: format!("{name} does not respond"),
            remedy: format!(
                "the supervisor restarts it after {} s (LIVENESS_TIMEOUT), or later if its main thread is busy; if this \
                 happens often, check what keeps {name} busy, and whether the node lacks memory or CPU",
                facts.liveness_s
            ),
            ..fault
        },
        DaemonState::Down | DaemonState::Starting | DaemonState::Loading | DaemonState::Stopping => Fault {
            code: "daemon-down",
            what: format!("{name} is {}{exit}", daemon.state.as_str()),
            remedy: format!(
                "the supervisor starts it automatically; if it does not come up, check {name}'s log lines"
            ),
            grace: if daemon.state == DaemonState::Down { TRANSIENT } else { BGPD_STARTUP },
            ..fault
        },
        DaemonState::Running => return None,
    })
}

const NEXT_HOP_REMEDY: &str = "configure MetalLB's speaker to peer from the host's address of the veth pair (PEER_IP_METALLB or \
     PEER_IPV4_METALLB); its next hop must be on the veth pair";

/// `1 MetalLB service`, `2 MetalLB services`.
fn count_services(count: usize) -> String {
    format!("{count} MetalLB service{}", if count == 1 { "" } else { "s" })
}

fn services(facts: &NodeFacts, state: &FrrState, now: Time, faults: &mut Vec<Fault>) {
    let mut by_next_hop: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for service in state.services.iter().filter(|service| !service.valid) {
        by_next_hop.entry(&service.next_hop).or_default().push(&service.prefix);
    }
    for (next_hop, prefixes) in by_next_hop {
        let needs_ipv4 = next_hop.contains('.') && !facts.metallb_v4;
        let remedy = if needs_ipv4 {
            "the veth pair has no IPv4 addresses (PEER_IPV4_FRR=none): set PEER_IPV4_FRR and PEER_IPV4_METALLB, or use \
             extended next hops on the BGPPeer's session"
        } else {
            NEXT_HOP_REMEDY
        };
        faults.push(Fault {
            code: "next-hop-inaccessible",
            subject: next_hop.to_owned(),
            what: format!(
                "the next hop {next_hop} of {} is unreachable: {}",
                count_services(prefixes.len()),
                first_five(&prefixes)
            ),
            traffic: "these services are not announced to the fabric, and the fabric does not reach them through this node"
                .into(),
            remedy: remedy.into(),
            grace: TRANSIENT,
            group: Some(GroupWording {
                noun: "next hops",
                state: "of MetalLB's services are unreachable",
                prefix: "",
                member: next_hop.to_owned(),
            }),
            ..Fault::default()
        });
    }
    unannounced(facts, state, now, faults);
}

/// Services that are announced to no leaf although a session with a leaf is up. Without such a session, that is the
/// problem.
fn unannounced(facts: &NodeFacts, state: &FrrState, now: Time, faults: &mut Vec<Fault>) {
    let mut up =
        state.bgp.iter().filter(|session| session.role == SessionRole::Fabric && session.is_up()).peekable();
    if up.peek().is_none() {
        return;
    }
    // A new session gets its routes a little later.
    let is_new =
        sessions::is_starting(facts, "bgpd", now) || up.all(|session| session.since.ago(now) < BGPD_STARTUP);
    let vrf = &facts.metallb.0;
    for (why, prefixes) in &facts.unannounced {
        let prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
        let (subject, cause, remedy) = match why {
            Unannounced::NotImported => (
                "import",
                format!("the default BGP instance does not import them from VRF {vrf}"),
                format!(
                    "check `import vrf {vrf}` in both address families of the default `router bgp` (vtysh -c 'show \
                     running-config bgpd'): FRR_TEMPLATE, rawFRRConfigs or a change in vtysh removed it, or a route map on \
                     it denies these services"
                ),
            ),
            Unannounced::Learned => (
                "learned",
                "a leaf announces the same prefix, and its route is preferred".to_owned(),
                "if the prefix belongs to the fabric, remove it from MetalLB's pools; if it belongs to a service, add it to \
                 METALLB_ALLOWED_PREFIXES"
                    .to_owned(),
            ),
            Unannounced::NotBest => (
                "other",
                "the default BGP instance prefers another route to them".to_owned(),
                "find that route (vtysh -c 'show bgp ipv4 unicast <prefix>'): FRR_TEMPLATE or rawFRRConfigs set a weight or \
                 a local preference, or the prefix is a network of the node"
                    .to_owned(),
            ),
            // Problems of their next hops cover these services already.
            Unannounced::Unusable if state.services.iter().any(|service| !service.valid) => continue,
            Unannounced::Unusable => {
                ("unusable", "their next hop is unreachable".to_owned(), NEXT_HOP_REMEDY.to_owned())
            }
            Unannounced::Community(community) => (
                *community,
                format!("MetalLB's speaker sends them with the community {community}"),
                format!("remove {community} from the communities of the BGPAdvertisement"),
            ),
            Unannounced::Filtered => (
                "filter",
                "an outbound filter to the leaves denies them".to_owned(),
                "check the route maps and prefix lists of the neighbors (vtysh -c 'show running-config bgpd') that \
                 FRR_TEMPLATE or rawFRRConfigs set, and AS paths that do not start with ASN_METALLB_SPEAKER"
                    .to_owned(),
            ),
        };
        faults.push(Fault {
            code: "service-not-announced",
            subject: subject.into(),
            what: format!(
                "{} {} announced to no leaf, because {cause}: {}",
                count_services(prefixes.len()),
                if prefixes.len() == 1 { "is" } else { "are" },
                first_five(&prefixes)
            ),
            traffic: "the fabric does not reach these services through this node".into(),
            remedy,
            grace: if is_new { BGPD_STARTUP } else { TRANSIENT },
            ..Fault::default()
        });
    }
}

/// Prefixes of MetalLB's speaker that the import filter refuses.
fn refused_prefixes(state: &FrrState) -> Option<Fault> {
    const MAX_SHOWN: usize = 20;
    let (count, s) = (state.refused.len(), if state.refused.len() == 1 { "" } else { "es" });
    (count > 0).then(|| Fault {
        code: "prefix-refused",
        subject: "speaker".into(),
        what: format!(
            "this node refuses {count} prefix{s} from MetalLB's speaker: {}",
            first(MAX_SHOWN, &state.refused)
        ),
        traffic: "these prefixes are not announced to the fabric; all others are".into(),
        remedy: "correct MetalLB's IPAddressPool or aggregationLength, or add the prefix to METALLB_ALLOWED_PREFIXES; \
                 addresses of the node, the veth pair and the fabric, and loopback, link-local, multicast and reserved \
                 addresses are always refused"
            .into(),
        grace: TRANSIENT,
        ..Fault::default()
    })
}

/// The first five, and the number of the others.
fn first_five(list: &[impl Display]) -> String {
    first(5, list)
}

fn kernel(facts: &NodeFacts, faults: &mut Vec<Fault>) {
    if facts.findings.zebras > 1 {
        faults.push(Fault {
            code: "second-zebra",
            subject: facts.namespace.name.clone(),
            what: format!(
                "{} zebra processes run in namespace {}; only one of them belongs to the supervisor",
                facts.findings.zebras, facts.namespace.name
            ),
            traffic: "each zebra removes the routes of the other; packets can be lost at any time".into(),
            remedy: if facts.namespace.name == "host" {
                "stop the other FRR: look for pods with FRR and hostNetwork (frr-k8s, MetalLB's FRR mode, OpenPERouter); if \
                 it has to stay, set NETNS=perouter for this FRR"
                    .into()
            } else {
                format!(
                    "stop the other zebra in namespace {0} (ip netns pids {0} lists the processes): OpenPERouter, or an FRR \
                     that someone started there",
                    facts.namespace.name
                )
            },
            grace: TRANSIENT,
            ..Fault::default()
        });
    }
    for sentence in &facts.broken {
        faults.push(Fault {
            code: "device-broken",
            subject: sentence.clone(),
            what: sentence.clone(),
            traffic: "what needs this device or address does not work; everything else does".into(),
            remedy: "fix the named cause; the supervisor retries every 5 s".into(),
            grace: TRANSIENT,
            group: Some(GroupWording {
                noun: "devices and addresses",
                state: "can't be repaired",
                prefix: "",
                member: sentence.clone(),
            }),
            ..Fault::default()
        });
    }
    if let Some(routes) = &facts.missing_routes {
        faults.push(Fault {
            code: "device-broken",
            subject: "routes".into(),
            what: format!("the kernel lacks routes that zebra has selected: {routes}"),
            traffic: "packets to these prefixes take another route or are dropped".into(),
            remedy: "check zebra's log lines, which say why it does not install the routes; the supervisor keeps notifying \
                     zebra; a restart of the service installs all routes again"
                .into(),
            ..Fault::default()
        });
    }
    if let Some(last) = &facts.conflicting_writer {
        faults.push(Fault {
            code: "repairs-undone",
            subject: "kernel".into(),
            what: format!(
                "another program (conflicting writer) keeps reverting the supervisor's repairs in the kernel; last repair: {last}"
            ),
            traffic: "what it removes is missing for seconds at a time".into(),
            remedy: "find the program that manages the same object (a CNI, another agent), and stop it from doing so".into(),
            ..Fault::default()
        });
    }
}

fn configuration(facts: &NodeFacts, faults: &mut Vec<Fault>) {
    let configuration = &facts.configuration;
    if let Some(rejected) = &configuration.rejected {
        faults.push(Fault {
            code: "configuration-rejected",
            subject: "file".into(),
            what: format!("the last configuration was rejected: {}", rejected.reasons.join("; ")),
            traffic: "the previous configuration stays active; no traffic is lost".into(),
            remedy: "correct what the reasons name: the configuration file (frr-supervisor check prints its errors), FRR_TEMPLATE, the \
                     environment, or the device in the way; a changed file is read at once, a template at SIGHUP or a restart \
                     of the service"
                .into(),
            ..Fault::default()
        });
    }
    if configuration.rolled_back {
        faults.push(Fault {
            code: "configuration-rejected",
            subject: "fallback".into(),
            what: "a daemon kept crashing with the last configuration (the log names it): rolled back to the last-known-good \
                   configuration"
                .into(),
            traffic: "traffic follows the last-known-good configuration".into(),
            remedy: "compare /run/frr/frr.conf.bad with /run/frr/frr.conf, and correct FRR_TEMPLATE or the configuration file; a \
                     restart of the service tries the same configuration again"
                .into(),
            ..Fault::default()
        });
    }
    if facts.incomplete || !configuration.left_out.is_empty() {
        let what = match configuration.left_out.len() {
            0 => "daemons refused lines of frr.conf".into(),
            _ => {
                format!("parts of the configuration file are left out: {}", configuration.left_out.join("; "))
            }
        };
        faults.push(Fault {
            code: "configuration-incomplete",
            subject: "file".into(),
            what,
            traffic: "these parts of the configuration do not work; everything else does".into(),
            remedy: if configuration.left_out.is_empty() {
                "find the refused lines in vtysh's log lines, correct FRR_TEMPLATE or rawFRRConfigs, then restart the service"
                    .into()
            } else {
                "correct the named parts; frr-supervisor check finds such errors before a change".into()
            },
            ..Fault::default()
        });
    }
    for (daemon, lines) in &facts.drift {
        faults.push(Fault {
            code: "configuration-drift",
            subject: daemon.clone(),
            what: format!("someone changed the running configuration of {daemon}: {}", first_five(lines)),
            traffic: "traffic follows the changed lines".into(),
            remedy: "undo the change in vtysh, or set ENFORCE_CONFIG=true; put permanent changes into the configuration file"
                .into(),
            fields: vec![("daemon", daemon.clone())],
            ..Fault::default()
        });
    }
}

#[cfg(test)]
mod tests;
