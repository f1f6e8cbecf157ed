//! Pure tests: no root, no kernel.

use crate::kernel::attributes::attributes;
use crate::model::{IfName, Value as _};

use super::*;

pub(super) const MARK: u32 = 0x1000;

pub(super) fn want(veth: &str, mark: u32) -> ReturnPath {
    ReturnPath { dev: IfName::parse(veth).unwrap(), mark }
}

/// What the kernel would dump after `requests`: their own bodies.
fn dumped(requests: &[Request]) -> Observed {
    let mut out = Observed::table(&table_request("", NEWTABLE, 0).body.int(2, 0).int(3, 2).0);
    for r in requests {
        match r.kind {
            NEWCHAIN => out.chains.push(Chain::parse(&r.body.0)),
            NEWRULE => out.rules.push(Rule::parse(&r.body.0)),
            _ => {}
        }
    }
    out
}

#[test]
fn what_is_sent_is_what_is_recognised() {
    let wanted = want("metallb-frr", MARK);
    let seen = dumped(&install_requests(&wanted));
    assert_eq!((&seen.chains, &seen.rules), (&program(&wanted).0, &program(&wanted).1));
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
                "rule {r}, {} says more",
                expr.name
            );
        }
    }
}

#[test]
fn changed_tables_and_chains_are_drift() {
    let wanted = want("v", 1);
    let change = |f: fn(&mut Observed)| {
        let mut seen = dumped(&install_requests(&wanted));
        f(&mut seen);
        seen.drift(&wanted).expect("drift")
    };
    assert!(change(|t| t.ours = false).contains("not ours"));
    assert!(change(|t| t.flags = 1).contains("dormant"));
    assert!(change(|t| t.uses = 3).contains("holds 3"));
    assert!(change(|t| t.chains[1].kind = "filter".into()).contains("chain output"));
    assert!(change(|t| t.chains[0].policy = Some(0)).contains("chain prerouting"));
    assert!(change(|t| drop(t.chains.remove(0))).contains("chain prerouting"));
    assert!(change(|t| drop(t.rules.pop())).contains("chain output has 0 rules"));
    assert!(change(|t| t.rules.swap(0, 1)).contains("rule 1 of chain prerouting"));
}

/// Runs the bitwise expressions of a rule that sets a mark.
#[test]
fn bits_of_others_stay() {
    for mark in [1, MARK, 0x8000_0000, 0x00c0_1000] {
        for rule in program(&want("v", mark)).1 {
            let set = rule.exprs.iter().rev().find(|e| e.name == "bitwise").unwrap();
            let word = |n: usize| {
                u32::from_ne_bytes(attributes(&set.attrs[n].1).next().unwrap().1.try_into().unwrap())
            };
            for old in [0, u32::MAX, 0x4000, 0xabcd_0123, mark] {
                assert_eq!(old & word(3) ^ word(4), old | mark);
            }
        }
    }
}

#[test]
fn batch_has_begin_requests_end() {
    let bytes = batch(&install_requests(&want("v", 1)));
    let all: Vec<_> = replies(&bytes).map(|r| (r.kind, r.flags, r.seq)).collect();
    let nft = |k: u16| 10 << 8 | k;
    let (c, a) = (0x405, 0xc05);
    let expected = [
        (BATCH_BEGIN, 1, 0),
        (nft(NEWTABLE), c, 1),
        (nft(DELTABLE), 5, 2),
        (nft(NEWTABLE), c, 3),
        (nft(NEWCHAIN), c, 4),
        (nft(NEWCHAIN), c, 5),
        (nft(NEWRULE), a, 6),
        (nft(NEWRULE), a, 7),
        (nft(NEWRULE), a, 8),
        (BATCH_END, 1, 0),
    ];
    assert_eq!(all, expected);
    assert_eq!(bytes.len() % 4, 0);
}

#[test]
fn broken_answers_are_read_without_panic() {
    let mut bytes = batch(&install_requests(&want("metallb-frr", MARK)));
    for round in 0..2000 {
        for reply in replies(&bytes[..bytes.len().min(round)]) {
            let _ = (reply.errno(), reply.text());
            let body = reply.payload.get(4..).unwrap_or_default();
            let _ = (Observed::table(body), Chain::parse(body), Rule::parse(body).packets());
        }
        let at = round * 7919 % bytes.len();
        bytes[at] = bytes[at].wrapping_mul(31).wrapping_add(17);
    }
}

#[test]
fn errors_name_the_step_the_errno_and_the_kernels_words() {
    let payload =
        [&(-2i32).to_ne_bytes()[..], &[0; 16], &Attrs::default().text(1, "no such chain").0].concat();
    let reply = Reply { kind: NLMSG_ERROR, flags: 0x300, seq: 4, payload: &payload };
    assert_eq!((reply.errno(), reply.text()), (2, "no such chain".to_string()));
    assert_eq!(Reply { flags: 0, ..reply }.text(), "");
    let error = |step, code| Error::new(step, io::Error::from_raw_os_error(code));
    assert!(error("NEWCHAIN", 2).to_string().starts_with("nf_tables, NEWCHAIN: No such file"));
    assert!(error("NEWRULE", 2).is_unsupported() && error("GETTABLE", 22).is_unsupported());
    assert!(!error("DELTABLE", 2).is_unsupported() && !error("NEWRULE", 1).is_unsupported());
}
