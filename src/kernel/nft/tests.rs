//! Tests without root and without the kernel.

use crate::kernel::attributes::attributes;
use crate::model::{IfName, Value as _};

use super::*;

pub(super) const MARK: u32 = 0x1000;

pub(super) fn want(veth: &str, mark: u32) -> ReturnPath {
    ReturnPath { dev: IfName::parse(veth).unwrap(), mark }
}

/// The table that the kernel would dump after `requests`.
fn dumped(requests: &[NftRequest]) -> ObservedTable {
    let mut out = ObservedTable::table(
        &table_request("", NEWTABLE, 0).body.int(NFTA_TABLE_FLAGS, 0).int(NFTA_TABLE_USE, 2).0,
    );
    for r in requests {
        match r.kind {
            NEWCHAIN => out.chains.push(Chain::parse(&r.body.0)),
            NEWRULE => out.rules.push(NftRule::parse(&r.body.0)),
            _ => {}
        }
    }
    out
}

#[test]
fn an_installed_table_has_no_drift() {
    let wanted = want("metallb-frr", MARK);
    let seen = dumped(&install_requests(&wanted));
    assert_eq!((&seen.chains, &seen.rules), (&ruleset(&wanted).0, &ruleset(&wanted).1));
    assert_eq!(seen.drift(&wanted), None);
    for other in [want("metallb-fr", MARK), want("metallb-frr0", MARK), want("metallb-frr", 0x2000)] {
        assert!(seen.drift(&other).is_some(), "{other:?}");
    }
}

#[test]
fn every_changed_byte_of_a_rule_is_drift() {
    let wanted = want("fifteen-letters", 0x00c0_1000);
    let seen = dumped(&install_requests(&wanted));
    for (r, rule) in seen.rules.iter().enumerate() {
        for (e, expr) in rule.exprs.iter().enumerate() {
            for (a, (_, value)) in expr.attrs.iter().enumerate() {
                for byte in 0..value.len() {
                    let mut other = seen.clone();
                    other.rules[r].exprs[e].attrs[a].1[byte] ^= 1;
                    assert!(
                        other.drift(&wanted).is_some(),
                        "rule {r} {} attribute {a} byte {byte}",
                        expr.name
                    );
                }
            }
            let mut other = seen.clone();
            other.rules[r].exprs.remove(e);
            assert!(other.drift(&wanted).is_some(), "rule {r} without {}", expr.name);
            let mut other = seen.clone();
            other.rules[r].exprs[e].attrs.push((60, vec![0, 1]));
            assert!(
                expr.name == "counter" || other.drift(&wanted).is_some(),
                "rule {r}, {} has another attribute",
                expr.name
            );
        }
    }
}

#[test]
fn changed_tables_and_chains_are_drift() {
    let wanted = want("v", 1);
    let change = |f: fn(&mut ObservedTable)| {
        let mut seen = dumped(&install_requests(&wanted));
        f(&mut seen);
        seen.drift(&wanted).expect("drift")
    };
    assert!(change(|t| t.is_owned = false).contains("not created by frr-supervisor"));
    assert!(change(|t| t.flags = 1).contains("dormant"));
    assert!(change(|t| t.uses = 3).contains("has 3 chains"));
    assert!(change(|t| t.chains[1].kind = "filter".into()).contains("chain output"));
    assert!(change(|t| t.chains[0].policy = Some(0)).contains("chain prerouting"));
    assert!(change(|t| drop(t.chains.remove(0))).contains("chain prerouting"));
    assert!(change(|t| drop(t.rules.pop())).contains("chain output has 0 rules"));
    assert!(change(|t| t.rules.swap(0, 1)).contains("rule 1 of chain prerouting"));
}

/// Evaluates the bitwise expression of a rule that sets a mark.
#[test]
fn other_bits_of_the_mark_stay_unchanged() {
    for mark in [1, MARK, 0x8000_0000, 0x00c0_1000] {
        for rule in ruleset(&want("v", mark)).1 {
            let set = rule.exprs.iter().rev().find(|e| e.name == "bitwise").unwrap();
            let value = |n: usize| {
                u32::from_ne_bytes(attributes(&set.attrs[n].1).next().unwrap().1.try_into().unwrap())
            };
            for old in [0, u32::MAX, 0x4000, 0xabcd_0123, mark] {
                assert_eq!(old & value(3) ^ value(4), old | mark);
            }
        }
    }
}

#[test]
fn a_batch_has_begin_requests_and_end() {
    let bytes = batch(&install_requests(&want("v", 1)));
    let all: Vec<_> = replies(&bytes).map(|r| (r.kind, r.flags, r.seq)).collect();
    let nft = |k: u16| SUBSYS_NFTABLES << 8 | k;
    let (c, a) = (REQUEST_ACK | CREATE, REQUEST_ACK | CREATE_APPEND);
    let expected = [
        (BATCH_BEGIN, REQUEST, 0),
        (nft(NEWTABLE), c, 1),
        (nft(DELTABLE), REQUEST_ACK, 2),
        (nft(NEWTABLE), c, 3),
        (nft(NEWCHAIN), c, 4),
        (nft(NEWCHAIN), c, 5),
        (nft(NEWRULE), a, 6),
        (nft(NEWRULE), a, 7),
        (nft(NEWRULE), a, 8),
        (BATCH_END, REQUEST, 0),
    ];
    assert_eq!(all, expected);
    assert_eq!(bytes.len() % 4, 0);
}

#[test]
fn malformed_replies_are_parsed_without_panic() {
    let mut bytes = batch(&install_requests(&want("metallb-frr", MARK)));
    for round in 0..2000 {
        for reply in replies(&bytes[..bytes.len().min(round)]) {
            let _ = (reply.errno(), reply.message());
            let body = reply.payload.get(4..).unwrap_or_default();
            let _ = (ObservedTable::table(body), Chain::parse(body), NftRule::parse(body).packets());
        }
        let at = round * 7919 % bytes.len();
        bytes[at] = bytes[at].wrapping_mul(31).wrapping_add(17);
    }
}

#[test]
fn errors_contain_the_step_the_errno_and_the_kernels_message() {
    let payload =
        [&(-2i32).to_ne_bytes()[..], &[0; 16], &Attrs::default().text(NLMSGERR_ATTR_MSG, "no such chain").0]
            .concat();
    let reply = NftReply { kind: NLMSG_ERROR, flags: CAPPED | ACK_TLVS, seq: 4, payload: &payload };
    assert_eq!((reply.errno(), reply.message()), (2, "no such chain".to_string()));
    assert_eq!(NftReply { flags: 0, ..reply }.message(), "");
    let error = |step, code| NftError::new(step, io::Error::from_raw_os_error(code));
    assert!(error("NEWCHAIN", 2).to_string().starts_with("nf_tables, NEWCHAIN: No such file"));
    assert!(error("NEWRULE", 2).is_unsupported() && error("GETTABLE", 22).is_unsupported());
    assert!(!error("DELTABLE", 2).is_unsupported() && !error("NEWRULE", 1).is_unsupported());
}
