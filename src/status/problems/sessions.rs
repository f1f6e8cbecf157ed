//! Sessions that are down: the reason, and the end that has to be corrected. Pure.

use std::net::IpAddr;
use std::time::Duration;

use super::{BGPD_STARTUP, Fault, GroupWording, TRANSIENT};
use crate::status::diagnostics::LinkLocal;
use crate::status::frr_state::{FrrState, UNKNOWN};
use crate::status::{
    BgpNotification, BgpSession, DaemonState, DaemonStatus, InterfaceStatus, NodeFacts, SessionRole, Time,
};

/// A neighbor with another password tries to connect at least this often: FRR's longest connect timer is 120 s.
const CONNECT_RETRY: Duration = Duration::from_secs(150);

/// bgpd reports the time when a session went down in whole seconds.
const SECOND: Duration = Duration::from_secs(1);

/// BGP error codes (RFC 4271 §4.5) of a refused OPEN, and of a session that was ended on purpose (RFC 4486, RFC 9384).
const OPEN_ERROR: u8 = 2;
const BAD_PEER_AS: (u8, u8) = (OPEN_ERROR, 2);
const BAD_IDENTIFIER: (u8, u8) = (OPEN_ERROR, 3);
const CEASE: u8 = 6;
const MAXIMUM_PREFIXES: (u8, u8) = (CEASE, 1);
const SHUTDOWN: (u8, u8) = (CEASE, 2);
const DECONFIGURED: (u8, u8) = (CEASE, 3);
const REJECTED: (u8, u8) = (CEASE, 5);

/// Reasons that persist until an operator corrects something.
const PERSISTENT: [(u8, u8); 4] = [MAXIMUM_PREFIXES, SHUTDOWN, DECONFIGURED, REJECTED];

/// bgpd's reset reason of a session in a VRF that the kernel does not have (`peer_down_str`, `bgpd/bgp_fsm.c`).
const NO_VRF: &str = "Waiting for VRF to be initialized";

/// The subject of a session's problem: bgpd's name of the neighbor. It can be the same in several VRFs.
pub(super) fn subject(session: &BgpSession) -> String {
    match session.role {
        SessionRole::Fabric | SessionRole::Metallb => session.peer.clone(),
        _ => format!("{} (VRF {})", session.peer, session.vrf),
    }
}

pub(super) fn running_daemon<'f>(facts: &'f NodeFacts, name: &str) -> Option<&'f DaemonStatus> {
    facts.daemons.iter().find(|daemon| daemon.name == name && daemon.state == DaemonState::Running)
}

/// Whether the daemon does not run, or is so new that what it reports may not be complete.
pub(super) fn is_starting(facts: &NodeFacts, name: &str, now: Time) -> bool {
    running_daemon(facts, name).is_none_or(|daemon| daemon.since.ago(now) < BGPD_STARTUP)
}

fn has_link(interface: &InterfaceStatus) -> bool {
    !interface.present || interface.carrier
}

/// Whether a raised problem can persist although no fault shows it: the state is not known at the moment.
pub(super) fn can_persist(code: &str, about: &str, facts: &NodeFacts, state: &FrrState, now: Time) -> bool {
    let is_bgpd_starting = is_starting(facts, "bgpd", now);
    match code {
        "wrong-as" | "wrong-password" | "session-down" | "metallb-down" => {
            let session = state.bgp.iter().find(|session| subject(session) == about);
            session.is_some_and(|session| !session.is_up() && (is_bgpd_starting || session.state == UNKNOWN))
        }
        "next-hop-inaccessible" => is_bgpd_starting,
        // While this node's own zebra is not there, one zebra is the other one.
        "second-zebra" => is_starting(facts, "zebra", now),
        "bfd-down" => {
            running_daemon(facts, "bfdd").is_none()
                || state.bfd.iter().any(|s| s.state == UNKNOWN)
                || is_bgpd_starting
        }
        _ => false,
    }
}

/// Ports without a link. The kernel reports them, whatever the state of bgpd.
pub(super) fn links(facts: &NodeFacts, state: &FrrState, faults: &mut Vec<Fault>) {
    for interface in facts.interfaces.iter().filter(|interface| !has_link(interface)) {
        let name = &interface.name;
        let session = state.bgp.iter().find(|session| session.peer == *name);
        faults.push(Fault {
            code: "link-down",
            subject: name.clone(),
            what: format!("{name} has no link (no carrier)"),
            traffic: session.map_or_else(
                || traffic(SessionRole::Fabric, "", state),
                |session| traffic(session.role, &session.vrf, state),
            ),
            remedy: "check the cable, the transceiver and the switch port".into(),
            fields: vec![("interface", name.clone())],
            grace: TRANSIENT,
            group: Some(GroupWording {
                noun: "fabric ports",
                state: "have no link",
                prefix: "",
                member: name.clone(),
            }),
        });
    }
}

pub(super) fn sessions(facts: &NodeFacts, state: &FrrState, now: Time, faults: &mut Vec<Fault>) {
    let Some(bgpd) = running_daemon(facts, "bgpd") else { return };
    let grace = if bgpd.since.ago(now) < BGPD_STARTUP { BGPD_STARTUP } else { TRANSIENT };
    for session in state.bgp.iter().filter(|s| !s.is_up() && s.state != UNKNOWN) {
        let is_own = |interface: &&InterfaceStatus| interface.present && interface.name == session.peer;
        let is_link_down = facts.interfaces.iter().filter(is_own).any(|interface| !has_link(interface));
        let lacks_vrf = session.last_reset.contains(NO_VRF);
        // The problem link-down covers the first case. In the second one, the VRF is just being added.
        if is_link_down || (lacks_vrf && facts.counts.changing) {
            continue;
        }
        let base = Fault {
            subject: subject(session),
            fields: vec![("peer", session.peer.clone()), ("vrf", session.vrf.clone())],
            grace,
            ..Fault::default()
        };
        // An event before the session went down has another cause.
        let is_after_down = |at: Time| at.ago(session.since) <= SECOND;
        let is_recent = |at: Time| at.ago(now) < CONNECT_RETRY && is_after_down(at);
        let md5 = facts.findings.md5.map(|at| at.is_some_and(is_recent));
        let notification = facts.notifications.get(&session.peer).filter(|n| match n.code.0 {
            OPEN_ERROR => is_recent(n.at),
            _ => PERSISTENT.contains(&n.code) && is_after_down(n.at),
        });
        let from_last_reset = last_reset(session);
        let notification = notification.or(from_last_reset.as_ref());
        let fault = match session.role {
            SessionRole::Metallb => metallb(session, facts, notification, md5, base),
            _ if lacks_vrf => without_vrf(session, base),
            _ => down(session, facts, state, notification, md5, base),
        };
        faults.push(Fault { group: group(session, fault.code), ..fault });
    }
    if facts.bfd && running_daemon(facts, "bfdd").is_some() {
        bfd(state, faults);
    }
}

/// The wording for a group of sessions.
fn group(session: &BgpSession, code: &str) -> Option<GroupWording> {
    let state = match code {
        "wrong-as" => "are refused because of an AS number",
        "wrong-password" => "are down because of a password",
        _ => "are down",
    };
    let (noun, prefix, member) = match session.role {
        SessionRole::Host => ("host sessions", "VRFs ", &session.vrf),
        SessionRole::Fabric => ("sessions with the fabric", "", &session.peer),
        SessionRole::Other => ("sessions with other neighbors", "", &session.peer),
        SessionRole::Metallb => return None,
    };
    Some(GroupWording { noun, state, prefix, member: member.clone() })
}

fn bfd(state: &FrrState, faults: &mut Vec<Fault>) {
    let is_bgp_up = |peer: &str, interface: &str| {
        // Several leaves may have one link-local address.
        let is_scoped = !interface.is_empty();
        let is_session =
            |s: &BgpSession| s.peer == interface || s.peer == peer || (s.address == peer && !is_scoped);
        state.bgp.iter().any(|s| s.is_up() && is_session(s))
    };
    // Where BGP is down, that is the problem.
    let down = state.bfd.iter().filter(|s| s.state == "down" && is_bgp_up(&s.peer, &s.interface));
    faults.extend(down.map(|s| {
        let subject = if s.interface.is_empty() { &s.peer } else { &s.interface };
        let on = if s.interface.is_empty() { String::new() } else { format!(" on {}", s.interface) };
        Fault {
            code: "bfd-down",
            subject: subject.clone(),
            what: format!("BFD with {}{on} is down, although BGP is up", s.peer),
            traffic: "no traffic is lost now; a leaf that fails while its link stays up is detected when the BGP hold time expires".into(),
            remedy: "enable BFD for this node at the neighbor, and let no filter drop UDP port 3784 (multihop: 4784); or disable it \
                     on this node (ENABLE_BFD=false, or the bfd settings of this neighbor in the file)"
                .into(),
            fields: vec![
                ("peer", s.peer.clone()),
                ("vrf", s.vrf.clone()),
                ("interface", s.interface.clone()),
            ],
            grace: BGPD_STARTUP,
            group: Some(GroupWording {
                noun: "BFD sessions",
                state: "are down",
                prefix: "",
                member: subject.clone(),
            }),
        }
    }));
}

/// The effect of a session that is down on traffic.
fn traffic(role: SessionRole, vrf: &str, state: &FrrState) -> String {
    let mut others = state.bgp.iter().filter(|s| s.role == role && s.is_up());
    match role {
        SessionRole::Fabric if others.next().is_some() => "only the other fabric links carry traffic".into(),
        SessionRole::Fabric => {
            "the fabric does not reach the services of this node, and they do not reach the fabric".into()
        }
        SessionRole::Host if vrf == "default" => {
            "the fabric does not reach what the host announces through the pass-through".into()
        }
        SessionRole::Host => format!("VRF {vrf} does not reach what the host announces"),
        _ => "what this neighbor announces is unreachable".into(),
    }
}

/// The kernel does not have the VRF.
fn without_vrf(session: &BgpSession, base: Fault) -> Fault {
    Fault {
        code: "session-down",
        what: format!("BGP with {} is down: the kernel has no VRF {}", session.peer, session.vrf),
        traffic: format!("no traffic enters or leaves VRF {}", session.vrf),
        remedy: "the VRF has to be created on this node: check the problem device-broken of its devices"
            .into(),
        grace: BGPD_STARTUP,
        ..base
    }
}

/// The notification in bgpd's reset reason. It replaces one in a log line that was missed.
fn last_reset(session: &BgpSession) -> Option<BgpNotification> {
    let code = [
        ("Cease/Maximum Number of Prefixes Reached", MAXIMUM_PREFIXES),
        ("Cease/Administrative Shutdown", SHUTDOWN),
        ("Cease/Administratively Shutdown", SHUTDOWN),
        ("Cease/Peer De-configured", DECONFIGURED),
        ("Cease/Peer Unconfigured", DECONFIGURED),
    ];
    let (reason, code) = code.into_iter().find(|(reason, _)| session.last_reset.contains(reason))?;
    let received = session.last_reset.contains("received");
    Some(BgpNotification { at: session.since, received, code, reason: reason.into() })
}

fn down(
    session: &BgpSession,
    facts: &NodeFacts,
    state: &FrrState,
    notification: Option<&BgpNotification>,
    md5: [bool; 3],
    base: Fault,
) -> Fault {
    let peer = &session.peer;
    let fault = Fault { code: "session-down", traffic: traffic(session.role, &session.vrf, state), ..base };
    let with_cause = |what: String, remedy: String| Fault { what, remedy, grace: TRANSIENT, ..fault.clone() };
    // A cause on this node comes first.
    if let Some((what, remedy)) = local_cause(session, facts, state) {
        return with_cause(what, remedy);
    }
    match notification {
        Some(notification) if notification.code == BAD_PEER_AS => {
            let (what, remedy) = wrong_as(session, facts, notification);
            return Fault { code: "wrong-as", what, remedy, grace: Duration::ZERO, ..fault };
        }
        // The counters are those of the whole namespace; a session with the host has no password.
        _ if md5.contains(&true) && session.role != SessionRole::Host => {
            let is_port = facts.interfaces.iter().any(|interface| interface.name == session.peer);
            let variable = if is_port { "FABRIC_PASSWORD" } else { "its password in underlay.neighbors" };
            return password(session, md5, variable, fault);
        }
        Some(notification) => {
            let (what, remedy) = refused(session, notification);
            let is_certain = [MAXIMUM_PREFIXES, SHUTDOWN].contains(&notification.code);
            let grace = if is_certain { Duration::ZERO } else { TRANSIENT };
            return Fault { grace, ..with_cause(what, remedy) };
        }
        None => {}
    }
    let address = session.address.parse::<IpAddr>().ok();
    let ignores_packets = state
        .diagnostics
        .as_ref()
        .zip(address)
        .is_some_and(|(diagnostics, address)| diagnostics.ignoring_peers.contains(&address));
    if ignores_packets {
        return with_cause(
            format!("BGP with {peer} is down: the neighbor sends packets, and ignores the packets of this node"),
            "the neighbor requires a TTL of 255 (GTSM; FRR: neighbor … ttl-security hops 1), or a filter there drops TCP port \
             179: remove that for this node"
                .into(),
        );
    }
    let last = &session.last_reset;
    let last = if last.is_empty() { String::new() } else { format!(", last reset: {last}") };
    let remedy = match session.role {
        SessionRole::Host => "check that the host's BGP speaker for this VRF runs (kubectl get pods), and that its neighbor is \
                              this node's end of the veth pair"
            .into(),
        _ if address.is_some() && session.address == *peer => format!(
            "check that this node reaches {peer}, and that BGP runs there and has this node as a neighbor with AS {}",
            session.local_as
        ),
        _ => "check that BGP runs at the neighbor, with an unnumbered session and router advertisements on that port; its port \
              needs an IPv6 link-local address, which it does not get if both ports have the same MAC address"
            .into(),
    };
    Fault { what: format!("BGP with {peer} is down ({}{last})", session.state), remedy, ..fault }
}

/// A cause on this node, if the neighbor is on one of its ports.
fn local_cause(session: &BgpSession, facts: &NodeFacts, state: &FrrState) -> Option<(String, String)> {
    let peer = &session.peer;
    let is_port = facts.interfaces.iter().any(|interface| interface.present && interface.name == *peer);
    let diagnostics = state.diagnostics.as_ref().filter(|_| is_port)?;
    let address = session.address.parse::<IpAddr>();
    // The neighbor sends from this port's own address.
    let is_duplicate =
        address.is_ok_and(|address| diagnostics.own_addresses.contains(&(peer.clone(), address)));
    let link_local = diagnostics.link_local.get(peer);
    match link_local.map(|link_local| if is_duplicate { &LinkLocal::Duplicate } else { link_local }) {
        None => Some((
            format!("BGP with {peer} is down: {peer} has no IPv6 link-local address on this node"),
            format!(
                "the cause is on this node, not at the neighbor: enable IPv6 (net.ipv6.conf.{peer}.disable_ipv6=0), then set \
                 the link down and up in namespace {}",
                facts.namespace.name
            ),
        )),
        Some(LinkLocal::Duplicate) => Some((
            format!(
                "BGP with {peer} is down: another station on the link has {peer}'s IPv6 link-local address (duplicate address)"
            ),
            format!(
                "both ends of the link have the same MAC address or the same fe80:: address: change one of them, then set \
                 {peer} down and up"
            ),
        )),
        Some(LinkLocal::Assigned) if session.address.contains('.') => Some((
            format!(
                "BGP with {peer} is down: FRR connects to {}, because {peer} has an IPv4 address in a /31 or /30",
                session.address
            ),
            format!(
                "remove the IPv4 address from {peer} on this node, or add {} to underlay.neighbors",
                session.address
            ),
        )),
        Some(LinkLocal::Assigned) => None,
    }
}

fn wrong_as(session: &BgpSession, facts: &NodeFacts, notification: &BgpNotification) -> (String, String) {
    let (peer, own_as) = (&session.peer, session.local_as);
    let is_port = facts.interfaces.iter().any(|interface| interface.name == *peer);
    if notification.received {
        return (
            format!("the neighbor on {peer} refuses AS number {own_as} of this node: it expects another one"),
            format!(
                "set the remote-as of this node at the neighbor to {own_as}, or set {} to the number that the neighbor expects",
                match session.role {
                    // The pass-through's must stay equal to ASN_LOCAL.
                    SessionRole::Host if session.vrf != "default" => "hostSession.asn",
                    _ => "ASN_LOCAL",
                }
            ),
        );
    }
    if !is_port && (session.remote_as == 0 || session.remote_as == own_as) {
        return (
            format!(
                "the AS number of the neighbor {peer} does not match its type in the file: Internal requires {own_as}, External \
                 another one"
            ),
            "change the type in the file (type in underlay.neighbors, or hostSession.hostType), or the AS number of the neighbor"
                .into(),
        );
    }
    if is_port {
        return (
            format!("the neighbor on {peer} has the same AS number {own_as} as this node (ASN_LOCAL)"),
            "set ASN_LOCAL of this node to a number that its leaves do not have".into(),
        );
    }
    (
        format!("the neighbor {peer} does not have AS number {}, which is configured on this node", session.remote_as),
        "set its AS number in the file on this node (asn in underlay.neighbors, or hostSession.hostASN), or correct the neighbor"
            .into(),
    )
}

/// A session that one end refused or ended with a notification.
fn refused(session: &BgpSession, notification: &BgpNotification) -> (String, String) {
    let peer = &session.peer;
    let (what, remedy) = match (notification.code, notification.received) {
        (MAXIMUM_PREFIXES, true) => (
            format!(
                "the neighbor on {peer} ended the session: this node announces more prefixes than it allows (maximum-prefix)"
            ),
            "raise maximum-prefix for this node at the neighbor and clear the session there, or announce fewer prefixes \
             (METALLB_ALLOWED_PREFIXES)",
        ),
        (MAXIMUM_PREFIXES, false) => (
            format!(
                "FRR ended the session with {peer}: the neighbor announces more prefixes than this node allows (maximum-prefix)"
            ),
            "find out why the neighbor announces so many prefixes, or raise the limit of this node (FABRIC_MAX_PREFIXES; \
             in FRR_TEMPLATE or rawFRRConfigs: maximum-prefix)",
        ),
        (SHUTDOWN, true) => (
            format!("the neighbor on {peer} has shut the session down"),
            "remove the administrative shutdown at the neighbor (FRR: no neighbor … shutdown)",
        ),
        (SHUTDOWN, false) => (
            format!("the session with {peer} is shut down on this node"),
            "remove \"neighbor … shutdown\" on this node: someone entered it in vtysh, or a template or raw lines contain it",
        ),
        (DECONFIGURED, true) => (
            format!(
                "the neighbor on {peer} ended the session: the session was removed from its configuration, or its BGP stopped"
            ),
            "check that BGP runs at the neighbor and has a session for this node",
        ),
        (REJECTED, true) => (
            format!("the neighbor on {peer} rejects the connection"),
            "correct the session at the neighbor: it is shut down there, or has another address or interface",
        ),
        (BAD_IDENTIFIER, _) => (
            format!("BGP with {peer} does not come up: both ends have the same BGP identifier"),
            "change the identifier of this node (NODE_IP, routerIDCIDR of the file), or the router-id of the neighbor",
        ),
        (_, received) => (
            format!(
                "BGP with {peer} does not come up: {} sent {}",
                if received { "the neighbor" } else { "this node" },
                notification.reason
            ),
            "compare the configuration of both ends: AS numbers, address families, router-ids",
        ),
    };
    (what, remedy.into())
}

fn password(session: &BgpSession, [missing, unexpected, _]: [bool; 3], variable: &str, base: Fault) -> Fault {
    let peer = &session.peer;
    Fault {
        code: "wrong-password",
        what: if unexpected {
            format!("BGP with {peer} is down: packets have a TCP-MD5 signature, but {variable} is not set")
        } else if missing {
            format!("BGP with {peer} is down: packets have no TCP-MD5 signature, but {variable} is set")
        } else {
            format!(
                "BGP with {peer} is down: packets have a TCP-MD5 signature of another password than {variable}"
            )
        },
        remedy: format!("configure the same password at both ends; on this node, set {variable}"),
        grace: Duration::ZERO,
        ..base
    }
}

fn metallb(
    session: &BgpSession,
    facts: &NodeFacts,
    notification: Option<&BgpNotification>,
    md5: [bool; 3],
    base: Fault,
) -> Fault {
    let retained = facts.retained.len() + facts.retained_unlisted;
    let traffic = if retained > 0 {
        format!(
            "retained services ({retained}) stay announced for up to {} s (METALLB_HOLD_TIME); then the fabric does not reach \
             them through this node",
            facts.retention_s
        )
    } else {
        "MetalLB's services are not announced, and the fabric does not reach them through this node".into()
    };
    let fault = Fault { code: "metallb-down", traffic, ..base };
    match notification {
        Some(notification) if notification.code == MAXIMUM_PREFIXES => Fault {
            what: format!(
                "MetalLB's speaker ({}) announces more services than this node allows (maximum-prefix): its session was ended",
                session.peer
            ),
            remedy: "find out what the speaker announces, or raise METALLB_MAX_PREFIXES".into(),
            grace: TRANSIENT,
            ..fault
        },
        Some(notification) if notification.code.0 == OPEN_ERROR => Fault {
            what: format!(
                "the session with MetalLB's speaker ({}) is refused: {}",
                session.peer,
                if notification.code == BAD_PEER_AS {
                    "the AS numbers do not match"
                } else {
                    &notification.reason
                }
            ),
            remedy: format!(
                "set myASN to {} (ASN_METALLB_SPEAKER) and peerASN to {} (ASN_VRF_METALLB) in the BGPPeer",
                session.remote_as, session.local_as
            ),
            grace: TRANSIENT,
            ..fault
        },
        _ if md5.contains(&true) => {
            Fault { code: "metallb-down", ..password(session, md5, "METALLB_PASSWORD", fault) }
        }
        _ => Fault {
            what: format!("MetalLB's speaker ({}) does not connect", session.peer),
            remedy: format!(
                "check that the speaker runs on this node (kubectl -n metallb-system get pods -o wide) and has a BGPPeer with \
                 peerAddress {}",
                facts.metallb.1.join(" or ")
            ),
            ..fault
        },
    }
}
