//! The desired table as chains, rules and expressions, and the requests that install it.

use super::wire::*;
use crate::kernel::attributes::attributes;
use crate::model::ReturnPath;

use super::{OWNER, TABLE};

/// A base chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) policy: Option<u32>,
    pub(super) hook: Option<u32>,
    pub(super) priority: Option<u32>,
}

impl Chain {
    pub(super) fn new(name: &str, kind: &str, hook: u32, priority: i32) -> Self {
        let (policy, hook, priority) = (Some(NF_ACCEPT), Some(hook), Some(priority.cast_unsigned()));
        Self { name: name.into(), kind: kind.into(), policy, hook, priority }
    }

    pub(super) fn parse(bytes: &[u8]) -> Self {
        let hook = find(bytes, NFTA_CHAIN_HOOK).unwrap_or_default();
        let (hook, priority) = (int(hook, NFTA_HOOK_HOOKNUM), int(hook, NFTA_HOOK_PRIORITY));
        let (name, kind) = (text(bytes, NFTA_CHAIN_NAME), text(bytes, NFTA_CHAIN_TYPE));
        Self { name, kind, policy: int(bytes, NFTA_CHAIN_POLICY), hook, priority }
    }

    pub(super) fn encode(&self, table: &str) -> Attrs {
        let hook = Attrs::default()
            .int(NFTA_HOOK_HOOKNUM, self.hook.unwrap_or(0))
            .int(NFTA_HOOK_PRIORITY, self.priority.unwrap_or(0));
        Attrs::default()
            .text(NFTA_CHAIN_TABLE, table)
            .text(NFTA_CHAIN_NAME, &self.name)
            .put(NFTA_CHAIN_HOOK, &hook.0)
            .int(NFTA_CHAIN_POLICY, self.policy.unwrap_or(NF_ACCEPT))
            .text(NFTA_CHAIN_TYPE, &self.kind)
    }
}

/// One expression of a rule: its name and its attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expr {
    pub(super) name: String,
    pub(super) attrs: Vec<(u16, Vec<u8>)>,
}

impl Expr {
    pub(super) fn new(name: &str, attrs: &[(u16, &[u8])]) -> Self {
        Self { name: name.into(), attrs: attrs.iter().map(|(k, v)| (*k, v.to_vec())).collect() }
    }

    /// Whether the expression `have` from the kernel equals this one. The kernel may add attributes whose value is
    /// zero.
    pub(super) fn matches(&self, have: &Self) -> bool {
        let is_set = |k: u16| self.attrs.iter().any(|a| a.0 == k);
        self.name == have.name
            && (self.name == "counter"
                || self.attrs.iter().all(|a| have.attrs.contains(a))
                    && have.attrs.iter().all(|(k, v)| is_set(*k) || v.iter().all(|b| *b == 0)))
    }
}

/// A rule: its chain and its expressions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NftRule {
    pub(super) chain: String,
    pub(super) exprs: Vec<Expr>,
}

impl NftRule {
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let list = attributes(find(bytes, NFTA_RULE_EXPRESSIONS).unwrap_or_default());
        let expr = |(_, e): (u16, &[u8])| Expr {
            name: text(e, NFTA_EXPR_NAME),
            attrs: attributes(find(e, NFTA_EXPR_DATA).unwrap_or_default())
                .map(|(k, v)| (k, v.to_vec()))
                .collect(),
        };
        Self { chain: text(bytes, NFTA_RULE_CHAIN), exprs: list.map(expr).collect() }
    }

    pub(super) fn encode(&self, table: &str) -> Attrs {
        let list = self.exprs.iter().fold(Attrs::default(), |list, e| {
            let data = e.attrs.iter().fold(Attrs::default(), |data, (k, v)| data.put(*k, v));
            let expr = Attrs::default().text(NFTA_EXPR_NAME, &e.name).put(NFTA_EXPR_DATA, &data.0);
            list.put(NFTA_LIST_ELEM, &expr.0)
        });
        Attrs::default()
            .text(NFTA_RULE_TABLE, table)
            .text(NFTA_RULE_CHAIN, &self.chain)
            .put(NFTA_RULE_EXPRESSIONS, &list.0)
    }

    /// The packet counter of the rule.
    #[cfg(test)]
    pub(super) fn packets(&self) -> u64 {
        const NFTA_COUNTER_PACKETS: u16 = 2;
        let counter = self
            .exprs
            .iter()
            .find(|e| e.name == "counter")
            .and_then(|e| e.attrs.iter().find(|a| a.0 == NFTA_COUNTER_PACKETS));
        counter.and_then(|a| a.1.as_slice().try_into().ok()).map_or(0, u64::from_be_bytes)
    }
}

pub(super) const REG: &[u8] = &1u32.to_be_bytes(); // NFT_REG_1
const NF_ACCEPT: u32 = 1; // netfilter.h
const NF_INET_PRE_ROUTING: u32 = 0;
const NF_INET_LOCAL_OUT: u32 = 3;
const NF_IP_PRI_MANGLE: i32 = -150; // netfilter_ipv4.h: after conntrack, before DNAT
pub(super) const META_MARK: u32 = 3; // enum nft_meta_keys
pub(super) const META_IIFNAME: u32 = 6;
pub(super) const CT_STATE: u32 = 0; // enum nft_ct_keys
pub(super) const CT_DIRECTION: u32 = 1;
pub(super) const CT_MARK: u32 = 3;
pub(super) const STATE_NEW: u32 = 1 << 3; // NF_CT_STATE_BIT(IP_CT_NEW)
const IP_CT_DIR_REPLY: u8 = 1; // nf_conntrack_tuple_common.h
pub(super) const NFT_CMP_EQ: u32 = 0; // enum nft_cmp_ops
pub(super) const NFT_CMP_NEQ: u32 = 1;
const IFNAMSIZ: usize = 16; // linux/if.h

/// Loads a key of "meta" or "ct" into the register. Both expressions use the same attribute numbers for this.
pub(super) fn load(from: &str, key: u32) -> Expr {
    Expr::new(from, &[(NFTA_META_DREG, REG), (NFTA_META_KEY, &key.to_be_bytes())])
}

/// Stores the register into a key of "meta" or "ct".
pub(super) fn store(to: &str, key: u32) -> Expr {
    let sreg = if to == "ct" { NFTA_CT_SREG } else { NFTA_META_SREG };
    Expr::new(to, &[(NFTA_META_KEY, &key.to_be_bytes()), (sreg, REG)])
}

/// Compares the register with a value ([`NFT_CMP_EQ`] or [`NFT_CMP_NEQ`]).
pub(super) fn cmp(op: u32, value: &[u8]) -> Expr {
    let value = Attrs::default().put(NFTA_DATA_VALUE, value).0;
    Expr::new("cmp", &[(NFTA_CMP_SREG, REG), (NFTA_CMP_OP, &op.to_be_bytes()), (NFTA_CMP_DATA, &value)])
}

/// register = (register & mask) ^ xor. Marks and states have host byte order.
pub(super) fn bitwise(mask: u32, xor: u32) -> Expr {
    let data = |v: u32| Attrs::default().put(NFTA_DATA_VALUE, &v.to_ne_bytes()).0;
    let (length, mask, xor) = (4u32.to_be_bytes(), data(mask), data(xor));
    let attrs: [(u16, &[u8]); 5] = [
        (NFTA_BITWISE_SREG, REG),
        (NFTA_BITWISE_DREG, REG),
        (NFTA_BITWISE_LEN, &length),
        (NFTA_BITWISE_MASK, &mask),
        (NFTA_BITWISE_XOR, &xor),
    ];
    Expr::new("bitwise", &attrs)
}

/// The desired chains and rules.
pub(super) fn ruleset(want: &ReturnPath) -> (Vec<Chain>, Vec<NftRule>) {
    let mark = want.mark;
    let mut name = want.dev.as_str().as_bytes().to_vec();
    name.resize(IFNAMSIZ, 0); // the rule compares all 16 bytes
    let counter = || Expr::new("counter", &[]);
    let set = |which: &str, key: u32| [counter(), load(which, key), bitwise(!mark, mark), store(which, key)];
    let mut opened = vec![load("meta", META_IIFNAME), cmp(NFT_CMP_EQ, &name)];
    opened.extend([load("ct", CT_STATE), bitwise(STATE_NEW, 0), cmp(NFT_CMP_NEQ, &[0; 4])]);
    opened.extend(set("ct", CT_MARK));
    let mut local = vec![load("ct", CT_DIRECTION), cmp(NFT_CMP_EQ, &[IP_CT_DIR_REPLY])];
    local.extend([load("ct", CT_MARK), bitwise(mark, 0), cmp(NFT_CMP_EQ, &mark.to_ne_bytes())]);
    local.extend(set("meta", META_MARK));
    let mut forwarded = vec![load("meta", META_IIFNAME), cmp(NFT_CMP_NEQ, &name)];
    forwarded.extend(local.clone());
    let rule = |chain: &str, exprs| NftRule { chain: chain.into(), exprs };
    (
        vec![
            Chain::new("prerouting", "filter", NF_INET_PRE_ROUTING, NF_IP_PRI_MANGLE),
            Chain::new("output", "route", NF_INET_LOCAL_OUT, NF_IP_PRI_MANGLE),
        ],
        vec![rule("prerouting", opened), rule("prerouting", forwarded), rule("output", local)],
    )
}

/// A request about the managed table.
pub(super) fn table_request(step: &'static str, kind: u16, flags: u16) -> NftRequest {
    let name = Attrs::default().text(NFTA_TABLE_NAME, TABLE);
    NftRequest::new(
        step,
        kind,
        flags,
        if kind == NEWTABLE { name.put(NFTA_TABLE_USERDATA, OWNER) } else { name },
    )
}

/// The requests that replace the managed table.
pub(super) fn install_requests(want: &ReturnPath) -> Vec<NftRequest> {
    let (chains, rules) = ruleset(want);
    let mut out = vec![
        table_request("NEWTABLE", NEWTABLE, CREATE), // so that the deletion never fails
        table_request("DELTABLE", DELTABLE, 0),
        table_request("NEWTABLE", NEWTABLE, CREATE),
    ];
    out.extend(chains.iter().map(|c| NftRequest::new("NEWCHAIN", NEWCHAIN, CREATE, c.encode(TABLE))));
    out.extend(rules.iter().map(|r| NftRequest::new("NEWRULE", NEWRULE, CREATE_APPEND, r.encode(TABLE))));
    out
}
