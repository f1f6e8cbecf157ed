//! MetalLB's services that the fabric does not reach through this node. Pure.

use std::collections::BTreeMap;

use super::{BGPD_STARTUP, Fault, GroupWording, TRANSIENT, first_five, sessions};
use crate::frr::retained::Unannounced;
use crate::printable::first;
use crate::status::frr_state::FrrState;
use crate::status::{NodeFacts, SessionRole, Time};

fn next_hop_remedy(facts: &NodeFacts) -> String {
    format!(
        "set sourceAddress of the BGPPeer to {} (PEER_IP_METALLB): the next hop must be on the veth pair",
        facts.speaker
    )
}

/// `1 MetalLB service`, `2 MetalLB services`.
fn count_services(count: usize) -> String {
    format!("{count} MetalLB service{}", if count == 1 { "" } else { "s" })
}

pub(super) fn services(facts: &NodeFacts, state: &FrrState, now: Time, faults: &mut Vec<Fault>) {
    let mut by_next_hop: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for service in state.services.iter().filter(|service| !service.valid) {
        by_next_hop.entry(&service.next_hop).or_default().push(&service.prefix);
    }
    for (next_hop, prefixes) in by_next_hop {
        let needs_ipv4 = next_hop.contains('.') && !facts.metallb_v4;
        let remedy = if needs_ipv4 {
            "the veth pair has no IPv4 addresses (PEER_IPV4_FRR=none): set PEER_IPV4_FRR and PEER_IPV4_METALLB, or use \
             extended next hops on the BGPPeer's session"
                .to_owned()
        } else {
            next_hop_remedy(facts)
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
            remedy,
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
                ("unusable", "their next hop is unreachable".to_owned(), next_hop_remedy(facts))
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
pub(super) fn refused_prefixes(state: &FrrState) -> Option<Fault> {
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
