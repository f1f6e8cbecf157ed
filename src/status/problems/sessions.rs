//! Sessions that are down: why, and on which side that is. Pure.

use std::net::IpAddr;

use super::{Fault, PASSING, SETTLE, Sort};
use crate::status::fabric::{Fabric, UNKNOWN};
use crate::status::links::LinkLocal;
use crate::status::{BgpSession, Daemon, Interface, Life, Local, Notification, Role, Time};
use std::time::Duration;

/// A neighbor with another password dials at least this often: FRR's longest connect time is 120 s.
const DIALS: Duration = Duration::from_secs(150);

/// bgpd tells since when a session is down in seconds.
const SECOND: Duration = Duration::from_secs(1);

/// BGP's error codes (RFC 4271 §4.5): of an OPEN that is refused, and of a session that is ended on purpose (RFC 4486, RFC 9384).
const OPEN_ERROR: u8 = 2;
const BAD_PEER_AS: (u8, u8) = (OPEN_ERROR, 2);
const BAD_IDENTIFIER: (u8, u8) = (OPEN_ERROR, 3);
const CEASE: u8 = 6;
const MAXIMUM_PREFIXES: (u8, u8) = (CEASE, 1);
const SHUTDOWN: (u8, u8) = (CEASE, 2);
const DECONFIGURED: (u8, u8) = (CEASE, 3);
const REJECTED: (u8, u8) = (CEASE, 5);

/// Ends of sessions that last until someone does something about them.
const LASTING: [(u8, u8); 4] = [MAXIMUM_PREFIXES, SHUTDOWN, DECONFIGURED, REJECTED];

/// Why a session is down whose VRF the kernel does not have (`peer_down_str`, `bgpd/bgp_fsm.c`).
const NO_VRF: &str = "Waiting for VRF to be initialized";

/// What a problem with a session is called by: bgpd's name of the neighbor, which may be the same in several VRFs.
pub(super) fn subject(session: &BgpSession) -> String {
    match session.role {
        Role::Fabric | Role::Metallb => session.peer.clone(),
        _ => format!("{} (VRF {})", session.peer, session.vrf),
    }
}

pub(super) fn runs<'l>(local: &'l Local, name: &str) -> Option<&'l Daemon> {
    local.daemons.iter().find(|daemon| daemon.name == name && daemon.state == Life::Running)
}

fn has_link(interface: &Interface) -> bool {
    !interface.present || interface.carrier
}

/// What is not known now: a problem that there was may be there still.
pub(super) fn is_open(code: &str, about: &str, local: &Local, fabric: &Fabric, now: Time) -> bool {
    let bgpd = runs(local, "bgpd");
    let settles = bgpd.is_none_or(|bgpd| bgpd.since.ago(now) < SETTLE);
    match code {
        "wrong-as" | "wrong-password" | "session-down" | "metallb-down" => {
            let session = fabric.bgp.iter().find(|session| subject(session) == about);
            session.is_some_and(|session| !session.is_up() && (settles || session.state == UNKNOWN))
        }
        "next-hop-inaccessible" => settles,
        "bfd-down" => {
            runs(local, "bfdd").is_none() || fabric.bfd.iter().any(|s| s.state == UNKNOWN) || settles
        }
        _ => false,
    }
}

/// Ports without a link: the kernel knows, whatever bgpd does.
pub(super) fn links(local: &Local, fabric: &Fabric, faults: &mut Vec<Fault>) {
    for interface in local.interfaces.iter().filter(|interface| !has_link(interface)) {
        let name = &interface.name;
        let session = fabric.bgp.iter().find(|session| session.peer == *name);
        faults.push(Fault {
            code: "link-down",
            subject: name.clone(),
            what: format!("{name} has no link: nothing is heard at its other end"),
            traffic: session.map_or_else(
                || traffic(Role::Fabric, "", fabric),
                |session| traffic(session.role, &session.vrf, fabric),
            ),
            remedy: "look at the cable, the transceiver and the switch port".into(),
            grace: PASSING,
            sort: Some(Sort {
                noun: "fabric interfaces",
                state: "have no link",
                of: "",
                member: name.clone(),
            }),
        });
    }
}

pub(super) fn sessions(local: &Local, fabric: &Fabric, now: Time, faults: &mut Vec<Fault>) {
    let Some(bgpd) = runs(local, "bgpd") else { return };
    let settling = if bgpd.since.ago(now) < SETTLE { SETTLE } else { PASSING };
    for session in fabric.bgp.iter().filter(|s| !s.is_up() && s.state != UNKNOWN) {
        let own = |interface: &&Interface| interface.present && interface.name == session.peer;
        let is_told = local.interfaces.iter().filter(own).any(|interface| !has_link(interface));
        let waits = session.last_reset.contains(NO_VRF);
        // We are at it.
        if is_told || (waits && local.counts.changing) {
            continue;
        }
        let base = Fault { subject: subject(session), grace: settling, ..Fault::default() };
        // What was before it went down was something else.
        let since_then = |at: Time| at.ago(session.since) <= SECOND;
        let now_so = |at: Time| at.ago(now) < DIALS && since_then(at);
        let signed = local.findings.md5.map(|at| at.is_some_and(now_so));
        let said = local.notifications.get(&session.peer).filter(|said| match said.code.0 {
            OPEN_ERROR => now_so(said.at),
            _ => LASTING.contains(&said.code) && since_then(said.at),
        });
        let told = last_reset(session);
        let said = said.or(told.as_ref());
        let fault = match session.role {
            Role::Metallb => metallb(session, local, said, signed, base),
            _ if waits => without_vrf(session, base),
            _ => down(session, local, fabric, said, signed, base),
        };
        faults.push(Fault { sort: sort(session, fault.code), ..fault });
    }
    if local.bfd && runs(local, "bfdd").is_some() {
        bfd(fabric, faults);
    }
}

/// What is told of many together.
fn sort(session: &BgpSession, code: &str) -> Option<Sort> {
    let state = match code {
        "wrong-as" => "are refused for an AS number",
        "wrong-password" => "are down for a password",
        _ => "are down",
    };
    let (noun, of, member) = match session.role {
        Role::Host => ("host sessions", "VRFs ", &session.vrf),
        Role::Fabric => ("sessions with the fabric", "", &session.peer),
        Role::Other => ("sessions with other neighbors", "", &session.peer),
        Role::Metallb => return None,
    };
    Some(Sort { noun, state, of, member: member.clone() })
}

fn bfd(fabric: &Fabric, faults: &mut Vec<Fault>) {
    let up = |peer: &str, interface: &str| {
        fabric.bgp.iter().any(|s| s.is_up() && (s.address == peer || s.peer == interface || s.peer == peer))
    };
    // Where BGP is down it has been said already.
    let down = fabric.bfd.iter().filter(|s| s.state == "down" && up(&s.peer, &s.interface));
    faults.extend(down.map(|s| {
        let subject = if s.interface.is_empty() { &s.peer } else { &s.interface };
        Fault {
            code: "bfd-down",
            subject: subject.clone(),
            what: format!("BFD with {} on {} is down, BGP is up", s.peer, s.interface),
            traffic: "none is lost now; a dead link is found by the hold time alone".into(),
            remedy: "switch BFD on at the leaf with the same timers (BFD_…), or off here (ENABLE_BFD=false)"
                .into(),
            grace: SETTLE,
            sort: Some(Sort { noun: "BFD sessions", state: "are down", of: "", member: subject.clone() }),
        }
    }));
}

/// What a session that is down means.
fn traffic(role: Role, vrf: &str, fabric: &Fabric) -> String {
    let mut others = fabric.bgp.iter().filter(|s| s.role == role && s.is_up());
    match role {
        Role::Fabric if others.next().is_some() => "traffic has only the other links to the fabric".into(),
        Role::Fabric => "nothing outside the node reaches its services, and they nothing outside".into(),
        Role::Host if vrf == "default" => {
            "what the host announces by the pass-through is not reached from the fabric".into()
        }
        Role::Host => format!("what the host announces in VRF {vrf} is not reached from there"),
        _ => "what this neighbor announces is not reached".into(),
    }
}

/// The VRF is not in the kernel.
fn without_vrf(session: &BgpSession, base: Fault) -> Fault {
    Fault {
        code: "session-down",
        what: format!("BGP with {} is down: the kernel has no VRF {}", session.peer, session.vrf),
        traffic: format!("nothing reaches VRF {}, and nothing leaves it", session.vrf),
        remedy: "the VRF is made on this node: see what is said of its devices (device-broken)".into(),
        grace: SETTLE,
        ..base
    }
}

/// What bgpd itself says of why the session ended, should its log have been missed.
fn last_reset(session: &BgpSession) -> Option<Notification> {
    let code = [
        ("Cease/Maximum Number of Prefixes Reached", MAXIMUM_PREFIXES),
        ("Cease/Administrative Shutdown", SHUTDOWN),
        ("Cease/Administratively Shutdown", SHUTDOWN),
        ("Cease/Peer De-configured", DECONFIGURED),
        ("Cease/Peer Unconfigured", DECONFIGURED),
    ];
    let (words, code) = code.into_iter().find(|(words, _)| session.last_reset.contains(words))?;
    let received = session.last_reset.contains("received");
    Some(Notification { at: session.since, received, code, words: words.into() })
}

fn down(
    session: &BgpSession,
    local: &Local,
    fabric: &Fabric,
    said: Option<&Notification>,
    signed: [bool; 3],
    base: Fault,
) -> Fault {
    let peer = &session.peer;
    let fault = Fault { code: "session-down", traffic: traffic(session.role, &session.vrf, fabric), ..base };
    let passing = |what: String, remedy: String| Fault { what, remedy, grace: PASSING, ..fault.clone() };
    // What is wrong on this node comes first.
    if let Some((what, remedy)) = here(session, local, fabric) {
        return passing(what, remedy);
    }
    match said {
        Some(said) if said.code == BAD_PEER_AS => {
            let (what, remedy) = wrong_as(session, local, said);
            return Fault { code: "wrong-as", what, remedy, grace: Duration::ZERO, ..fault };
        }
        _ if signed.contains(&true) => return password(session, signed, "FABRIC_PASSWORD", fault),
        Some(said) => {
            let (what, remedy) = refused(session, said);
            let lasts = [MAXIMUM_PREFIXES, SHUTDOWN].contains(&said.code);
            return Fault { grace: if lasts { Duration::ZERO } else { PASSING }, ..passing(what, remedy) };
        }
        None => {}
    }
    let address = session.address.parse::<IpAddr>().ok();
    let deaf =
        fabric.links.as_ref().zip(address).is_some_and(|(links, address)| links.deaf.contains(&address));
    if deaf {
        return passing(
            format!("BGP with {peer} is down: its packets arrive here, and it does not take in ours"),
            "the neighbor asks for a TTL of 255 (GTSM; FRR: neighbor … ttl-security hops 1), or a filter there drops TCP port 179: take \
             it away for this node"
                .into(),
        );
    }
    let last = &session.last_reset;
    let last = if last.is_empty() { String::new() } else { format!(", last reset: {last}") };
    let remedy = match session.role {
        Role::Host => "look whether the host's BGP speaker for this VRF runs (kubectl get pods), and whether its neighbor is \
                       this node's end of the veth pair"
            .into(),
        _ if address.is_some() && session.address == *peer => format!(
            "look whether {peer} is reached from this node, and whether it runs and has this node as a neighbor with AS {}",
            session.local_as
        ),
        _ => "look whether the neighbor runs and has a session for this node: an unnumbered one on that port, with router \
              advertisements on, and an IPv6 link-local address there (a copy of this port's MAC address leaves it without one)"
            .into(),
    };
    Fault { what: format!("BGP with {peer} is down ({}{last})", session.state), remedy, ..fault }
}

/// What is wrong with the port, if it is one, on this node.
fn here(session: &BgpSession, local: &Local, fabric: &Fabric) -> Option<(String, String)> {
    let peer = &session.peer;
    let is_port = local.interfaces.iter().any(|interface| interface.present && interface.name == *peer);
    let links = fabric.links.as_ref().filter(|_| is_port)?;
    let address = session.address.parse::<IpAddr>();
    // What we hear of there is called as we are.
    let twin = address.is_ok_and(|address| links.own.contains(&(peer.clone(), address)));
    match links.link_local.get(peer).map(|own| if twin { &LinkLocal::Duplicate } else { own }) {
        None => Some((
            format!("BGP with {peer} is down: {peer} has no IPv6 link-local address on this node"),
            format!(
                "the address is missing here, not at the neighbor: see that IPv6 is on (net.ipv6.conf.{peer}.disable_ipv6=0), then set \
                 the link down and up in namespace {}",
                local.namespace.name
            ),
        )),
        Some(LinkLocal::Duplicate) => Some((
            format!(
                "BGP with {peer} is down: another station on the link has {peer}'s IPv6 link-local address (duplicate address)"
            ),
            format!(
                "two ends of the link have the same MAC address or the same fe80:: address: give one of them another, then set {peer} \
                 down and up"
            ),
        )),
        Some(LinkLocal::There) if session.address.contains('.') => Some((
            format!(
                "BGP with {peer} is down: it goes to {}, since {peer} has an IPv4 address of a /31 or /30",
                session.address
            ),
            format!(
                "take the IPv4 address from {peer} on this node, or name {} under underlay.neighbors",
                session.address
            ),
        )),
        Some(LinkLocal::There) => None,
    }
}

fn wrong_as(session: &BgpSession, local: &Local, said: &Notification) -> (String, String) {
    let (peer, ours) = (&session.peer, session.local_as);
    let is_port = local.interfaces.iter().any(|interface| interface.name == *peer);
    if said.received {
        return (
            format!("the neighbor on {peer} refuses our AS number {ours}: it expects another one"),
            format!(
                "set the remote-as of this node at the neighbor to {ours}, or ASN_LOCAL to what it expects"
            ),
        );
    }
    if is_port || session.remote_as == 0 || session.remote_as == ours {
        return (
            format!(
                "the neighbor on {peer} has our own AS number {ours}: it has to be another one than ASN_LOCAL"
            ),
            "set ASN_LOCAL of this node to a number that its leaves do not have".into(),
        );
    }
    (
        format!("the neighbor {peer} has another AS number than {}, which the configuration here says", session.remote_as),
        "set its asn in the file here (underlay.neighbors, hostSession.hostASN) to what it has, or correct the neighbor".into(),
    )
}

/// A session that one of both sides has refused or ended, with what it said.
fn refused(session: &BgpSession, said: &Notification) -> (String, String) {
    let peer = &session.peer;
    let (what, remedy) = match (said.code, said.received) {
        (MAXIMUM_PREFIXES, true) => (
            format!(
                "the neighbor on {peer} has ended the session: this node announces more prefixes than it takes (maximum-prefix)"
            ),
            "raise maximum-prefix for this node at the neighbor and clear the session there, or announce less \
             (METALLB_ALLOWED_PREFIXES)",
        ),
        (MAXIMUM_PREFIXES, false) => (
            format!(
                "the session with {peer} is ended: it announces more prefixes than are allowed here (maximum-prefix)"
            ),
            "find out why the neighbor announces so many, or raise the limit in the configuration here",
        ),
        (SHUTDOWN, true) => (
            format!("the neighbor on {peer} has shut the session down"),
            "it is administratively shut down there: take that away at the neighbor (FRR: no neighbor … shutdown)",
        ),
        (SHUTDOWN, false) => (
            format!("the session with {peer} is shut down on this node"),
            "someone has typed it into vtysh here, or a template or raw lines have it: take \"neighbor … shutdown\" away",
        ),
        (DECONFIGURED, true) => (
            format!(
                "the neighbor on {peer} has ended the session: it is not in its configuration any more, or its BGP has ended"
            ),
            "see that BGP runs at the neighbor, with a session for this node",
        ),
        (REJECTED, true) => (
            format!("the neighbor on {peer} rejects the connection"),
            "at the neighbor the session is shut down, or has another address or interface: correct it there",
        ),
        (BAD_IDENTIFIER, _) => (
            format!("BGP with {peer} does not come up: both ends have the same BGP identifier"),
            "give this node another one (NODE_IP, routerIDCIDR of the file), or the neighbor another router-id",
        ),
        (_, received) => (
            format!(
                "BGP with {peer} does not come up: {} {}",
                if received { "the neighbor says" } else { "we say" },
                said.words
            ),
            "compare both ends' configuration: AS numbers, address families, router-ids",
        ),
    };
    (what, remedy.into())
}

fn password(session: &BgpSession, [missing, unexpected, _]: [bool; 3], variable: &str, base: Fault) -> Fault {
    let peer = &session.peer;
    Fault {
        code: "wrong-password",
        what: if unexpected {
            format!(
                "BGP with {peer} is down: packets come with a TCP-MD5 signature, and {variable} is not set"
            )
        } else if missing {
            format!(
                "BGP with {peer} is down: packets come without a TCP-MD5 signature, and {variable} is set"
            )
        } else {
            format!(
                "BGP with {peer} is down: packets come with a TCP-MD5 signature of another password than {variable}"
            )
        },
        remedy: format!("give both ends the same password; here it is {variable}"),
        grace: Duration::ZERO,
        ..base
    }
}

fn metallb(
    session: &BgpSession,
    local: &Local,
    said: Option<&Notification>,
    signed: [bool; 3],
    base: Fault,
) -> Fault {
    let held = local.held.len() + local.held_unlisted;
    let traffic = if held > 0 {
        format!(
            "{held} services stay announced for {} s at most (METALLB_HOLD_TIME), then they are not reached",
            local.hold_s
        )
    } else {
        "MetalLB's services are not announced, and not reached from the fabric".into()
    };
    let fault = Fault { code: "metallb-down", traffic, ..base };
    match said {
        Some(said) if said.code == MAXIMUM_PREFIXES => Fault {
            what: format!(
                "MetalLB's speaker ({}) announces more services than are allowed (maximum-prefix): its session is ended",
                session.peer
            ),
            remedy: "find out what it announces, or raise the limit in the configuration here".into(),
            grace: PASSING,
            ..fault
        },
        Some(said) if said.code.0 == OPEN_ERROR => Fault {
            what: format!(
                "MetalLB's speaker ({}) is refused: {}",
                session.peer,
                if said.code == BAD_PEER_AS { "the AS numbers do not fit" } else { &said.words }
            ),
            remedy: format!(
                "the BGPPeer needs myASN {} (ASN_METALLB_SPEAKER) and peerASN {} (ASN_VRF_METALLB)",
                session.remote_as, session.local_as
            ),
            grace: PASSING,
            ..fault
        },
        _ if signed.contains(&true) => {
            Fault { code: "metallb-down", ..password(session, signed, "METALLB_PASSWORD", fault) }
        }
        _ => Fault {
            what: format!("MetalLB's speaker ({}) does not connect", session.peer),
            remedy: format!(
                "look whether the speaker runs on this node (kubectl -n metallb-system get pods -o wide) and has a BGPPeer with \
                 peerAddress {}",
                local.metallb.1.join(" or ")
            ),
            ..fault
        },
    }
}
