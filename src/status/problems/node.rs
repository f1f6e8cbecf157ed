//! The set-up of the node, its daemons, its kernel and its configuration. Pure.

use super::{BGPD_STARTUP, CRASH_LOOP_EXITS, Fault, GroupWording, TRANSIENT, first_five};
use crate::kernel::SharedTable;
use crate::printable::printable;
use crate::status::{DaemonState, DaemonStatus, InterfaceStatus, NodeFacts, NodePhase};

const NOT_CONNECTED: &str = "the node has no connection to the fabric through FRR";

pub(super) fn setup(facts: &NodeFacts, faults: &mut Vec<Fault>) {
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
            what: format!("the fabric NIC {} is missing", missing.selector),
            traffic: if others { "only the other fabric links carry traffic" } else { NOT_CONNECTED }.into(),
            remedy: "compare FE_MACS, or underlay.interfaces of the file, with the interfaces of the node (talosctl get links), and check the NIC's driver \
                     (talosctl dmesg); the supervisor adds the NIC when it appears"
                .into(),
            ..Fault::default()
        });
    }
}

/// Prefix of the subject of the problem of a shared routing table.
pub(super) const TABLE_SUBJECT: &str = "routing table ";

pub(super) fn shared_table(shared: &SharedTable, facts: &NodeFacts) -> Fault {
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

pub(super) fn daemon_fault(daemon: &DaemonStatus, facts: &NodeFacts) -> Option<Fault> {
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
            "bfdd" => "no traffic is lost now; a leaf that fails while its link stays up is detected when the BGP hold time expires".into(),
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
                "check {name}'s log lines and /run/frr/tmp/{name}.crashed; undo the last configuration change, or use \
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

pub(super) fn kernel(facts: &NodeFacts, faults: &mut Vec<Fault>) {
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
    if let Some(since) = facts.reconciler_stuck {
        faults.push(Fault {
            code: "device-broken",
            subject: "reconciler".into(),
            what: format!("a check or a change of the node has made no progress since {since}"),
            traffic: "no traffic is lost; drift in the kernel is not repaired, and no change of the configuration is applied"
                .into(),
            remedy: "restart the service, which loses no packet; if it happens again, the kernel may not answer netlink requests"
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

pub(super) fn configuration(facts: &NodeFacts, faults: &mut Vec<Fault>) {
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
            subject: "rollback".into(),
            what: format!(
                "{} kept crashing with the last configuration: rolled back to the last-known-good configuration",
                configuration.crashing_daemon
            ),
            traffic: "traffic follows the last-known-good configuration".into(),
            remedy: "compare /run/frr/frr.conf.bad with /run/frr/frr.conf, and correct FRR_TEMPLATE or the configuration file; a \
                     restart of the service tries the same configuration again"
                .into(),
            ..Fault::default()
        });
    }
    if facts.incomplete || !configuration.left_out.is_empty() {
        let what = match configuration.left_out.len() {
            0 => "daemons refused lines of frr.conf: the log lines of vtysh name them".into(),
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
            remedy: "undo the change in vtysh; with ENFORCE_CONFIG=true the supervisor undoes it, or its log lines say why it \
                     cannot; put permanent changes into the configuration file"
                .into(),
            fields: vec![("daemon", daemon.clone())],
            ..Fault::default()
        });
    }
}
