//! From what is known to what is wrong: each fault with what it means for traffic and what to do. Pure.

mod sessions;
mod together;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use super::fabric::Fabric;
use super::{BgpSession, Daemon, Health, Life, Local, Phase, Problem, Role, Time};
use crate::frr::held::Unannounced;
use crate::kernel::SharedTable;
use crate::printable::{first, printable};

use together::{Sort, Together};

/// What passes by itself in so short a time is none: a session while bgpd restarts, a link while a NIC is moved.
const PASSING: Duration = Duration::from_secs(2);

/// A new bgpd takes so long to have its sessions, or a little more on a loaded machine.
const SETTLE: Duration = Duration::from_secs(10);

/// Deaths in a row from which on a daemon is said to keep dying.
const LOOP: u32 = 3;

/// A fault as it is seen at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Fault {
    code: &'static str,
    subject: String,
    what: String,
    traffic: String,
    remedy: String,
    /// How long it has to last.
    grace: Duration,
    /// What it is told of together with.
    sort: Option<Sort>,
}

/// The codes, worst first. They are in the README, and in the alert rules.
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

/// What has become of a problem.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// It has come up.
    Raised(Problem),
    /// It is over, after so long.
    Over(Problem, Duration),
}

/// The problems that there are, and what it takes to know.
#[derive(Debug, Default)]
pub struct Problems {
    known: BTreeMap<(usize, String), Known>,
    together: Together,
}

#[derive(Debug)]
struct Known {
    first: Time,
    raised: bool,
    problem: Problem,
    /// What was logged of it.
    told: Option<String>,
    sort: Option<Sort>,
}

impl Problems {
    /// Takes in how things are now. What is new, and when to look again if nothing else happens.
    pub fn step(&mut self, local: &Local, fabric: &Fabric, now: Time) -> (Vec<News>, Option<Duration>) {
        let (mut news, mut again) = (vec![], None);
        let mut before = std::mem::take(&mut self.known);
        for fault in faults(local, fabric, now) {
            let place = CODES.iter().position(|code| *code == fault.code).unwrap_or(CODES.len());
            let key = (place, fault.subject.clone());
            if self.known.contains_key(&key) {
                continue;
            }
            let was = before.remove(&key);
            let first = was.as_ref().map_or(now, |known| known.first);
            let problem = Problem {
                code: fault.code.into(),
                subject: fault.subject,
                what: fault.what,
                traffic: fault.traffic,
                remedy: fault.remedy,
                since: first,
            };
            let was = was.filter(|known| known.raised);
            let left = fault.grace.saturating_sub(first.ago(now));
            let raised = was.is_some() || left.is_zero();
            // The cause may be known later.
            let says_more = was.as_ref().is_none_or(|known| known.problem.remedy != problem.remedy);
            let mut told = was.and_then(|known| known.told);
            if raised && says_more {
                told = Some(problem.what.clone());
                let kind = fault.sort.as_ref().map(|sort| (place, sort.noun));
                news.push((kind, News::Raised(problem.clone())));
            } else if !raised {
                again = Some(again.map_or(left, |before: Duration| before.min(left)));
            }
            self.known.insert(key, Known { first, raised, problem, told, sort: fault.sort });
        }
        for (key, known) in before.into_iter().filter(|(_, known)| known.raised) {
            let code = CODES.get(key.0).copied().unwrap_or_default();
            let runs = local.phase == Phase::Running;
            if (runs && sessions::is_open(code, &key.1, local, fabric, now))
                || (!runs && !ALWAYS_KNOWN.contains(&code))
            {
                self.known.insert(key, known);
            } else {
                let kind = known.sort.as_ref().map(|sort| (key.0, sort.noun));
                let what = known.told.unwrap_or(known.problem.what);
                let problem = Problem { what, ..known.problem };
                news.push((kind, News::Over(problem, known.first.ago(now))));
            }
        }
        let (news, later) = self.together.news(news, &self.known, now);
        (news, [again, later].into_iter().flatten().min())
    }

    /// Those that there are, worst first.
    pub fn list(&self) -> Vec<Problem> {
        together::shown(&self.known).into_iter().map(|(_, problem)| problem).collect()
    }
}

/// What is known whether the daemons run or not.
const ALWAYS_KNOWN: [&str; 5] = [
    "setup-failed",
    "interface-missing",
    "configuration-rejected",
    "configuration-incomplete",
    "configuration-drift",
];

/// How it is on the whole. While bgpd is being restarted no session is up, and traffic flows: it takes a problem to be down.
pub fn health(local: &Local, fabric: &Fabric, problems: &[Problem]) -> Health {
    let mut leaves = fabric.bgp.iter().filter(|s| s.role == Role::Fabric).peekable();
    let known = leaves.peek().is_some();
    let reached = leaves.any(BgpSession::is_up);
    let cuts_off = |p: &Problem| {
        ["interface-missing", "link-down", "wrong-as", "wrong-password", "session-down"]
            .contains(&p.code.as_str())
            || p.subject == "bgpd"
            || p.subject.starts_with(TABLE)
    };
    if local.phase != Phase::Running || !known || (!reached && problems.iter().any(cuts_off)) {
        Health::Down
    } else if problems.is_empty() {
        Health::Healthy
    } else {
        Health::Degraded
    }
}

/// Everything that is not as it should be.
fn faults(local: &Local, fabric: &Fabric, now: Time) -> Vec<Fault> {
    let mut faults = Vec::new();
    setup(local, &mut faults);
    if local.phase == Phase::Running {
        faults.extend(local.shared_tables.iter().map(|shared| table(shared, local)));
        sessions::links(local, fabric, &mut faults);
        // What follows from a zebra that can't run is none of a daemon's, a neighbor's or a service's fault.
        if local.shared_tables.is_empty() || sessions::runs(local, "zebra").is_some() {
            faults.extend(local.daemons.iter().filter_map(|daemon| dying(daemon, local)));
            sessions::sessions(local, fabric, now, &mut faults);
            services(local, fabric, now, &mut faults);
        }
        faults.extend(refused(fabric));
        kernel(local, &mut faults);
    }
    configuration(local, &mut faults);
    if !local.unsaved.is_empty() {
        let sentences: Vec<&str> = local.unsaved.iter().map(String::as_str).collect();
        faults.push(Fault {
            code: "not-saved",
            subject: "files".into(),
            what: sentences.join("; "),
            traffic: "nothing is lost, and daemons are restarted as ever; after a restart of this program services may not stay \
                      announced"
                .into(),
            remedy: "make space on the file system (df -h /run, df -i /run), or remove what stands in the file's place; it is tried \
                     again by itself"
                .into(),
            ..Fault::default()
        });
    }
    faults
}

const NO_ROUTER: &str = "the node has no connection to the fabric through FRR";

fn setup(local: &Local, faults: &mut Vec<Fault>) {
    for sentence in &local.failure {
        faults.push(Fault {
            code: "setup-failed",
            subject: sentence.clone(),
            what: format!("the node can't be set up: {sentence}"),
            traffic: NO_ROUTER.into(),
            remedy: "put right what the sentence names; it is tried again by itself".into(),
            ..Fault::default()
        });
    }
    // What is wrong with one that is there is told below.
    let is_told =
        |interface: &super::Interface| local.broken.iter().any(|sentence| sentence.contains(&interface.by));
    for missing in local.interfaces.iter().filter(|interface| !interface.present && !is_told(interface)) {
        let others = local.interfaces.iter().any(|other| other.present) && local.phase == Phase::Running;
        faults.push(Fault {
            code: "interface-missing",
            subject: missing.by.clone(),
            what: format!("the fabric interface {} is missing", missing.by),
            traffic: if others { "traffic has only the other links to the fabric" } else { NO_ROUTER }.into(),
            remedy: "compare FE_MACS with the MAC addresses that the node has (talosctl get links), look for the NIC's \
                     driver in talosctl dmesg; it is taken in when it appears"
                .into(),
            ..Fault::default()
        });
    }
}

/// How the subject of that problem begins.
const TABLE: &str = "routing table ";

fn table(shared: &SharedTable, local: &Local) -> Fault {
    let others: Vec<_> = shared.others.iter().map(|name| printable(name)).collect();
    let names =
        if shared.ours.is_some() { others.join(" and ") } else { format!("one of {}", others.join(" and ")) };
    let ours = shared.ours.as_ref() == Some(&local.metallb.0);
    Fault {
        code: "device-broken",
        subject: format!("{TABLE}{}", shared.table),
        what: format!("{}, and zebra can't run where two VRFs have one table: it is not started", shared.what()),
        traffic: "what the kernel has goes on being forwarded; changes in the fabric are not seen, and the leaves drop our routes when \
                  GR_RESTART_TIME is over"
            .into(),
        remedy: format!(
            "remove VRF {names} from namespace {}, or give it another table (ip -d link show type vrf){}; zebra is started then by \
             itself",
            local.namespace.name,
            if ours { ", or choose another METALLB_VRF_ROUTE_TABLE_ID" } else { "" }
        ),
        ..Fault::default()
    }
}

fn dying(daemon: &Daemon, local: &Local) -> Option<Fault> {
    let name = &daemon.name;
    let forwarding =
        "what the kernel has goes on being forwarded; changes in the fabric are not seen until it is back";
    let exit = daemon.last_exit.as_ref().map_or_else(String::new, |exit| match (exit.signal, exit.code) {
        (Some(signal), _) => format!(", last by signal {signal}"),
        (_, Some(code)) => format!(", last with exit code {code}"),
        _ => String::new(),
    });
    let fault = Fault { subject: name.clone(), traffic: forwarding.into(), ..Fault::default() };
    Some(match daemon.state {
        _ if daemon.deaths >= LOOP => Fault {
            code: "daemon-crash-loop",
            what: format!("{name} keeps dying{exit}"),
            remedy: format!(
                "look at its lines in the log, and in /var/tmp/frr/{name}.crashed; undo the last change of the configuration, \
                 or take another version of FRR"
            ),
            ..fault
        },
        Life::Silent => Fault {
            code: "daemon-hung",
            what: format!("{name} does not answer"),
            remedy: format!(
                "it is ended and started again after {} s (LIVENESS_TIMEOUT); if that is often, look for what keeps it busy or \
                 the node without memory or CPU",
                local.liveness_s
            ),
            ..fault
        },
        Life::Down | Life::Starting | Life::Loading | Life::Ending => Fault {
            code: "daemon-down",
            what: format!("{name} is {}{exit}", daemon.state.word()),
            remedy: "it is started by itself; its lines in the log say what keeps it".into(),
            grace: if daemon.state == Life::Down { PASSING } else { SETTLE },
            ..fault
        },
        Life::Running => return None,
    })
}

const NEXT_HOP: &str = "MetalLB's speaker names a next hop that is not on the veth pair: it has to peer from the address that PEER_IP_METALLB or \
     PEER_IPV4_METALLB gives the host's end";

fn services(local: &Local, fabric: &Fabric, now: Time, faults: &mut Vec<Fault>) {
    let mut by_hop: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for service in fabric.services.iter().filter(|service| !service.valid) {
        by_hop.entry(&service.next_hop).or_default().push(&service.prefix);
    }
    for (next_hop, prefixes) in by_hop {
        let v4 = next_hop.contains('.') && !local.metallb_v4;
        let remedy = if v4 {
            "the veth pair has no IPv4 (PEER_IPV4_FRR=none): set PEER_IPV4_FRR and PEER_IPV4_METALLB, or give the BGPPeer's \
             session extended next hops"
        } else {
            NEXT_HOP
        };
        faults.push(Fault {
            code: "next-hop-inaccessible",
            subject: next_hop.to_owned(),
            what: format!(
                "{} of MetalLB's services have the next hop {next_hop}, which can't be reached: {}",
                prefixes.len(),
                few(&prefixes)
            ),
            traffic: "they are not announced to the fabric, and not reached from it".into(),
            remedy: remedy.into(),
            grace: PASSING,
            sort: Some(Sort {
                noun: "next hops",
                state: "of MetalLB's services can't be reached",
                of: "",
                member: next_hop.to_owned(),
            }),
        });
    }
    unannounced(local, fabric, now, faults);
}

/// What no leaf is told of although there is one to tell; else that is what is wrong.
fn unannounced(local: &Local, fabric: &Fabric, now: Time, faults: &mut Vec<Fault>) {
    let bgpd = local.daemons.iter().find(|daemon| daemon.name == "bgpd");
    let new = bgpd.is_none_or(|bgpd| bgpd.state != Life::Running || bgpd.since.ago(now) < SETTLE);
    if !fabric.bgp.iter().any(|session| session.role == Role::Fabric && session.is_up()) {
        return;
    }
    let vrf = &local.metallb.0;
    for (why, prefixes) in &local.unannounced {
        let prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
        let (subject, cause, remedy) = match why {
            Unannounced::NotImported => (
                "import",
                format!("they are not in the default instance, which imports them from VRF {vrf}"),
                format!(
                    "look for `import vrf {vrf}` in both address families of the default `router bgp` (vtysh -c 'show \
                     running-config bgpd'): FRR_TEMPLATE, rawFRRConfigs or a hand in vtysh have taken it out, or a route map \
                     on it denies them"
                ),
            ),
            Unannounced::Learned => (
                "learned",
                "a leaf announces the same prefix, and its route is preferred".to_owned(),
                "take the prefix out of MetalLB's pools if it is the fabric's; if it is a service's, name it in \
                 METALLB_ALLOWED_PREFIXES"
                    .to_owned(),
            ),
            Unannounced::NotBest => (
                "other",
                "another route to them is preferred in the default instance".to_owned(),
                "look which one it is (vtysh -c 'show bgp ipv4 unicast <prefix>'): a weight or local preference that \
                 FRR_TEMPLATE or rawFRRConfigs set, or a network of the node's own"
                    .to_owned(),
            ),
            // Where their next hops are known, this is said of each of these.
            Unannounced::Unusable if fabric.services.iter().any(|service| !service.valid) => continue,
            Unannounced::Unusable => (
                "unusable",
                "the next hop that MetalLB's speaker names can't be reached".to_owned(),
                NEXT_HOP.to_owned(),
            ),
            Unannounced::Community(community) => (
                *community,
                format!("MetalLB's speaker marks them with the community {community}"),
                format!("take {community} out of the BGPAdvertisement's communities"),
            ),
            Unannounced::Filtered => (
                "filter",
                "a filter towards the leaves keeps them back".to_owned(),
                "look at the route maps and prefix lists of the neighbors (vtysh -c 'show running-config bgpd') that \
                 FRR_TEMPLATE or rawFRRConfigs set, and at AS paths that do not begin with ASN_METALLB_SPEAKER"
                    .to_owned(),
            ),
        };
        faults.push(Fault {
            code: "service-not-announced",
            subject: subject.into(),
            what: format!(
                "{} of MetalLB's services are announced to no leaf, since {cause}: {}",
                prefixes.len(),
                few(&prefixes)
            ),
            traffic: "they are not reached from the fabric through this node".into(),
            remedy,
            grace: if new { SETTLE } else { PASSING },
            sort: None,
        });
    }
}

/// What MetalLB's speaker may not announce, and does.
fn refused(fabric: &Fabric) -> Option<Fault> {
    const SHOWN: usize = 20;
    let (count, s) = (fabric.refused.len(), if fabric.refused.len() == 1 { "" } else { "es" });
    (count > 0).then(|| Fault {
        code: "prefix-refused",
        subject: "speaker".into(),
        what: format!("{count} prefix{s} of MetalLB's speaker may not be announced: {}", first(SHOWN, &fabric.refused)),
        traffic: "these are not announced to the fabric; all others are".into(),
        remedy: "correct MetalLB's IPAddressPool or aggregationLength, or name the prefix in METALLB_ALLOWED_PREFIXES; never taken are \
                 the addresses of the node, the veth pair and the fabric, and loopback, link-local, multicast and reserved ones"
            .into(),
        grace: PASSING,
        sort: None,
    })
}

/// The first few, and how many more.
fn few(list: &[impl Display]) -> String {
    first(5, list)
}

fn kernel(local: &Local, faults: &mut Vec<Fault>) {
    if local.findings.zebras > 1 {
        faults.push(Fault {
            code: "second-zebra",
            subject: local.namespace.name.clone(),
            what: format!("{} zebras work in namespace {}, one of them not ours", local.findings.zebras, local.namespace.name),
            traffic: "each removes the routes of the other: packets may be lost at any time".into(),
            remedy: "end the other one: look for pods with FRR and hostNetwork (frr-k8s, MetalLB's FRR mode, OpenPERouter); one that has to \
                     stay in the host's namespace needs NETNS=perouter here"
                .into(),
            grace: PASSING,
            sort: None,
        });
    }
    for sentence in &local.broken {
        faults.push(Fault {
            code: "device-broken",
            subject: sentence.clone(),
            what: sentence.clone(),
            traffic: "what needs this device or address does not work; all else does".into(),
            remedy: "put right what the sentence names; it is tried again every 5 s".into(),
            grace: PASSING,
            sort: Some(Sort {
                noun: "devices and addresses",
                state: "can't be put right",
                of: "",
                member: sentence.clone(),
            }),
        });
    }
    if let Some(routes) = &local.lost_routes {
        faults.push(Fault {
            code: "device-broken",
            subject: "routes".into(),
            what: format!("the kernel lacks routes that zebra has chosen: {routes}"),
            traffic: "packets to these take another way, or are dropped".into(),
            remedy: "zebra is told again and again; its lines in the log say why it does not install them; a restart of the \
                     service does all of it anew"
                .into(),
            ..Fault::default()
        });
    }
    if local.fight {
        faults.push(Fault {
            code: "repairs-undone",
            subject: "kernel".into(),
            what: "another program undoes what is put right in the kernel, again and again".into(),
            traffic: "what it takes away is missing for seconds at a time".into(),
            remedy: "the events name what was put right last: find who else manages it (a CNI, another agent) and keep it off".into(),
            ..Fault::default()
        });
    }
}

fn configuration(local: &Local, faults: &mut Vec<Fault>) {
    let configuration = &local.configuration;
    if let Some(rejected) = &configuration.rejected {
        faults.push(Fault {
            code: "configuration-rejected",
            subject: "file".into(),
            what: format!("the last configuration was not taken: {}", rejected.reasons.join("; ")),
            traffic: "the one before stays in force, and nothing is lost".into(),
            remedy: "correct the file (frr-supervisor check says what is wrong with it); it is read as soon as it changes".into(),
            ..Fault::default()
        });
    }
    if configuration.fell_back {
        faults.push(Fault {
            code: "configuration-rejected",
            subject: "fallback".into(),
            what: "daemons kept dying under the last configuration: the one before is in force again".into(),
            traffic: "that of the older configuration is forwarded".into(),
            remedy: "compare /run/frr/frr.conf.bad with /run/frr/frr.conf".into(),
            ..Fault::default()
        });
    }
    if local.incomplete || !configuration.left_out.is_empty() {
        let what = match configuration.left_out.len() {
            0 => "not all of frr.conf could be loaded".into(),
            _ => {
                format!("parts of the configuration file are left out: {}", configuration.left_out.join("; "))
            }
        };
        faults.push(Fault {
            code: "configuration-incomplete",
            subject: "file".into(),
            what,
            traffic: "what these parts describe does not work; all else does".into(),
            remedy: "correct what is named; frr-supervisor check says the same beforehand".into(),
            ..Fault::default()
        });
    }
    for (daemon, lines) in &local.drift {
        faults.push(Fault {
            code: "configuration-drift",
            subject: daemon.clone(),
            what: format!("someone else has changed what {daemon} runs with: {}", few(lines)),
            traffic: "as these lines say".into(),
            remedy: "undo it by vtysh, or set ENFORCE_CONFIG=true; what shall stay belongs in the configuration file".into(),
            ..Fault::default()
        });
    }
}

#[cfg(test)]
mod tests;
