//! Properties of the merge over made-up objects of several sources.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::model::{IfName, Value as _, Vni};

type TestOffer = Offer<u32>;

fn origin(name: &str) -> Origin {
    Origin { object: name.into(), location: None }
}

fn key(number: u8) -> Key {
    Key::Name("object", number.to_string())
}

/// What an object wants: VNIs, a value that all share, a subnet, and what it needs.
fn content(name: String) -> impl Strategy<Value = Content<u32>> {
    let few = |most: usize| prop::collection::btree_set(1..6_u8, 0..most);
    (few(3), prop::option::of(0..3_u8), few(2), few(2), any::<u32>()).prop_map(
        move |(vnis, value, nets, needs, fragment)| {
            let origin = origin(&name);
            let own = name.bytes().last().map_or(0, |last| last - b'a');
            let claim = |key, value| Claim { key, value, origin: origin.clone() };
            let vnis = vnis.into_iter().map(|n| claim(Key::Vni(Vni::new(n.into()).unwrap()), None));
            let value = value.map(|n| claim(Key::Kind(IfName::parse("eth0").unwrap()), Some(n.to_string())));
            // Lengths differ, so that one may contain another.
            let net = |n: u8| format!("10.{}.0.0/{}", n * 32, 8 + n % 4).parse::<ipnet::IpNet>().unwrap();
            Content {
                claims: vnis.chain(value).chain([claim(key(own), None)]).collect(),
                subnets: nets.into_iter().map(|n| (Space::Host, net(n).trunc(), origin.clone())).collect(),
                // Objects of a kind need those of another: there is no circle.
                needs: needs
                    .into_iter()
                    .filter(|n| *n < own)
                    .map(|n| Need { key: key(n), origin: origin.clone() })
                    .collect(),
                provides: vec![key(own)],
                fragment,
                position: own.into(),
                source: "".into(),
            }
        },
    )
}

/// An object of one of four sources, the last two of which are of equal precedence.
fn offer() -> impl Strategy<Value = TestOffer> {
    (0..4_usize, 0..6_u8).prop_flat_map(|(source, n)| {
        let name = format!("{source}/{}", char::from(b'a' + n));
        let source =
            [SourceKind::Environment, SourceKind::File, SourceKind::Cluster, SourceKind::Cluster][source];
        let id = OfferId { source, name: name.as_str().into() };
        let valid = content(name).prop_map(|content| Ok(Arc::new(content)));
        let invalid = Just(Err(vec![Reason { origin: None, text: "invalid".into() }]));
        prop_oneof![4 => valid, 1 => invalid].prop_map(move |content| Offer { id: id.clone(), content })
    })
}

fn offers() -> impl Strategy<Value = Vec<TestOffer>> {
    prop::collection::vec(offer(), 0..20).prop_map(|all| {
        let by_id: BTreeMap<OfferId, TestOffer> =
            all.into_iter().map(|offer| (offer.id.clone(), offer)).collect();
        by_id.into_values().collect()
    })
}

/// Offers, and what was accepted of an earlier version of them.
fn history() -> impl Strategy<Value = (Vec<TestOffer>, Accepted<u32>)> {
    (offers(), offers()).prop_map(|(before, now)| (now, merge(&before, &Accepted::new()).accepted))
}

fn verdicts<'a>(offers: &'a [TestOffer], merged: &'a Merged<u32>) -> BTreeMap<&'a OfferId, &'a Verdict> {
    offers.iter().map(|offer| &offer.id).zip(&merged.verdicts).collect()
}

/// The accepted objects share nothing, and what each of them needs is there.
fn is_consistent(accepted: &Accepted<u32>) -> bool {
    let provided: BTreeSet<String> =
        accepted.values().flat_map(|content| &content.provides).map(|key| format!("{key:?}")).collect();
    let pairs =
        accepted.iter().flat_map(|(a, one)| accepted.iter().map(move |(b, other)| (a, one, b, other)));
    let share = |one: &Content<u32>, other: &Content<u32>| {
        one.claims.iter().any(|claim| {
            other.claims.iter().any(|c| c.key == claim.key && (c.value.is_none() || c.value != claim.value))
        }) || one.subnets.iter().any(|(_, net, _)| {
            other.subnets.iter().any(|(_, o, _)| o.contains(&net.network()) || net.contains(&o.network()))
        })
    };
    pairs.into_iter().all(|(a, one, b, other)| a == b || !share(one, other))
        && accepted
            .values()
            .flat_map(|content| &content.needs)
            .all(|need| provided.contains(&format!("{:?}", need.key)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn accepted_objects_fit_together((now, accepted) in history()) {
        let merged = merge(&now, &accepted);
        prop_assert!(is_consistent(&merged.accepted), "{merged:#?}");
        for (offer, verdict) in now.iter().zip(&merged.verdicts) {
            let taken = merged.accepted.get(&offer.id);
            match verdict {
                Verdict::Accepted => prop_assert_eq!(taken, offer.content.as_ref().ok()),
                Verdict::Kept(reasons) => {
                    prop_assert_eq!(taken, accepted.get(&offer.id));
                    prop_assert!(!reasons.is_empty());
                }
                Verdict::Waiting(reasons) | Verdict::Rejected(reasons) => {
                    prop_assert!(taken.is_none() && !reasons.is_empty());
                }
            }
        }
    }

    /// Only the precedence counts, not the order in which the offers arrive.
    #[test]
    fn the_order_of_arrival_does_not_matter((now, accepted) in history(), seed in any::<u64>()) {
        let mut other = now.clone();
        other.sort_by_key(|offer| (offer.position() as u64).wrapping_add(1).wrapping_mul(seed));
        let (one, two) = (merge(&now, &accepted), merge(&other, &accepted));
        prop_assert_eq!(verdicts(&now, &one), verdicts(&other, &two));
        prop_assert_eq!(&one.accepted, &two.accepted);
    }

    /// A merge of the same offers with its own result, as after a crash and a restart, changes nothing.
    #[test]
    fn a_second_merge_changes_nothing((now, accepted) in history()) {
        let one = merge(&now, &accepted);
        let two = merge(&now, &one.accepted);
        prop_assert_eq!(&one.accepted, &two.accepted, "{:#?}", now);
    }

    /// An object that is not accepted affects no other one.
    #[test]
    fn a_bad_object_changes_no_other_verdict((mut now, mut accepted) in history(), bad in offer()) {
        now.retain(|offer| offer.id != bad.id);
        accepted.remove(&bad.id);
        let before = merge(&now, &accepted);
        let with = [now.clone(), vec![bad.clone()]].concat();
        let after = merge(&with, &accepted);
        let mut others = verdicts(&with, &after);
        if !matches!(others.remove(&bad.id), Some(Verdict::Accepted)) {
            prop_assert_eq!(verdicts(&now, &before), others);
            prop_assert_eq!(before.accepted, after.accepted);
        }
    }

    /// A new object of the same or a lower precedence displaces no accepted one.
    #[test]
    fn an_accepted_object_stays(mut now in offers(), new in offer()) {
        now.retain(|offer| offer.id != new.id);
        let before = merge(&now, &Accepted::new());
        let after = merge(&[now.clone(), vec![new.clone()]].concat(), &before.accepted);
        for (id, content) in &before.accepted {
            if id.source <= new.id.source {
                prop_assert_eq!(after.accepted.get(id), Some(content));
            }
        }
    }

    /// A source that is lost offers what was accepted of it. Nothing disappears.
    #[test]
    fn a_lost_source_removes_nothing((now, accepted) in history(), lost in 0..4_usize) {
        let before = merge(&now, &accepted);
        let prefix = format!("{lost}/");
        let of_it = |id: &OfferId| id.name.starts_with(&prefix);
        let mut left: Vec<TestOffer> = now.into_iter().filter(|offer| !of_it(&offer.id)).collect();
        let had = before.accepted.iter().filter(|(id, _)| of_it(id));
        left.extend(had.map(|(id, content)| Offer { id: id.clone(), content: Ok(Arc::clone(content)) }));
        prop_assert_eq!(merge(&left, &before.accepted).accepted, before.accepted);
    }
}
