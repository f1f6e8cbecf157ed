//! What the table must say, as chains, rules and expressions, and the requests that make it so.

use super::wire::*;
use crate::kernel::attributes::attributes;
use crate::model::ReturnPath;

use super::{OWNER, TABLE};

/// A base chain: name (NFTA_CHAIN_NAME 3), type (7), policy (5), hook (4: number 1, priority 2).
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
        let (policy, hook, priority) = (Some(1), Some(hook), Some(priority.cast_unsigned())); // 1: NF_ACCEPT
        Self { name: name.into(), kind: kind.into(), policy, hook, priority }
    }

    pub(super) fn parse(bytes: &[u8]) -> Self {
        let hook = find(bytes, 4).unwrap_or_default();
        let (policy, hook, priority) = (int(bytes, 5), int(hook, 1), int(hook, 2));
        Self { name: text(bytes, 3), kind: text(bytes, 7), policy, hook, priority }
    }

    pub(super) fn encode(&self, table: &str) -> Attrs {
        let hook = Attrs::default().int(1, self.hook.unwrap_or(0)).int(2, self.priority.unwrap_or(0));
        let head = Attrs::default().text(1, table).text(3, &self.name).put(4, &hook.0);
        head.int(5, self.policy.unwrap_or(1)).text(7, &self.kind)
    }
}

/// One expression of a rule: its name (NFTA_EXPR_NAME 1) and its attributes (NFTA_EXPR_DATA 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expr {
    pub(super) name: String,
    pub(super) attrs: Vec<(u16, Vec<u8>)>,
}

impl Expr {
    pub(super) fn new(name: &str, attrs: &[(u16, &[u8])]) -> Self {
        Self { name: name.into(), attrs: attrs.iter().map(|(k, v)| (*k, v.to_vec())).collect() }
    }

    /// Whether the kernel's `have` is this one. The kernel may add attributes of its own: no objection if they are zero.
    pub(super) fn is(&self, have: &Self) -> bool {
        let told = |k: u16| self.attrs.iter().any(|a| a.0 == k);
        self.name == have.name
            && (self.name == "counter"
                || self.attrs.iter().all(|a| have.attrs.contains(a))
                    && have.attrs.iter().all(|(k, v)| told(*k) || v.iter().all(|b| *b == 0)))
    }
}

/// A rule: chain (NFTA_RULE_CHAIN 2), expressions (4, a list of NFTA_LIST_ELEM 1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) chain: String,
    pub(super) exprs: Vec<Expr>,
}

impl Rule {
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let list = attributes(find(bytes, 4).unwrap_or_default());
        let expr = |(_, e): (u16, &[u8])| Expr {
            name: text(e, 1),
            attrs: attributes(find(e, 2).unwrap_or_default()).map(|(k, v)| (k, v.to_vec())).collect(),
        };
        Self { chain: text(bytes, 2), exprs: list.map(expr).collect() }
    }

    pub(super) fn encode(&self, table: &str) -> Attrs {
        let list = self.exprs.iter().fold(Attrs::default(), |list, e| {
            let data = e.attrs.iter().fold(Attrs::default(), |data, (k, v)| data.put(*k, v));
            list.put(1, &Attrs::default().text(1, &e.name).put(2, &data.0).0)
        });
        Attrs::default().text(1, table).text(2, &self.chain).put(4, &list.0)
    }

    /// Packets counted (NFTA_COUNTER_PACKETS 2).
    #[cfg(test)]
    pub(super) fn packets(&self) -> u64 {
        let counter =
            self.exprs.iter().find(|e| e.name == "counter").and_then(|e| e.attrs.iter().find(|a| a.0 == 2));
        counter.and_then(|a| a.1.as_slice().try_into().ok()).map_or(0, u64::from_be_bytes)
    }
}

pub(super) const REG: &[u8] = &1u32.to_be_bytes(); // NFT_REG_1
pub(super) const META_MARK: u32 = 3; // enum nft_meta_keys
pub(super) const META_IIFNAME: u32 = 6;
pub(super) const CT_STATE: u32 = 0; // enum nft_ct_keys
pub(super) const CT_DIRECTION: u32 = 1;
pub(super) const CT_MARK: u32 = 3;
pub(super) const STATE_NEW: u32 = 1 << 3; // NF_CT_STATE_BIT(IP_CT_NEW)

/// Reads a key of "meta" or "ct" into the register (DREG 1, KEY 2), `store` writes it back (KEY 2, SREG 3 or 4).
pub(super) fn load(from: &str, key: u32) -> Expr {
    Expr::new(from, &[(1, REG), (2, &key.to_be_bytes())])
}

pub(super) fn store(to: &str, key: u32) -> Expr {
    Expr::new(to, &[(2, &key.to_be_bytes()), (if to == "ct" { 4 } else { 3 }, REG)])
}

/// Compares the register (SREG 1, OP 2, DATA 3): equal, or (1) not equal.
pub(super) fn cmp(op: u32, value: &[u8]) -> Expr {
    Expr::new("cmp", &[(1, REG), (2, &op.to_be_bytes()), (3, &Attrs::default().put(1, value).0)])
}

/// register = (register & mask) ^ xor (SREG 1, DREG 2, LEN 3, MASK 4, XOR 5): marks and states are in host byte order.
pub(super) fn bitwise(mask: u32, xor: u32) -> Expr {
    let data = |v: u32| Attrs::default().put(1, &v.to_ne_bytes()).0;
    Expr::new("bitwise", &[(1, REG), (2, REG), (3, &4u32.to_be_bytes()), (4, &data(mask)), (5, &data(xor))])
}

/// The chains and rules that `want` stands for.
pub(super) fn program(want: &ReturnPath) -> (Vec<Chain>, Vec<Rule>) {
    let mark = want.mark;
    let mut name = want.dev.as_str().as_bytes().to_vec();
    name.resize(16, 0); // IFNAMSIZ: all 16 bytes are compared
    let counter = || Expr::new("counter", &[]);
    let set = |which: &str, key: u32| [counter(), load(which, key), bitwise(!mark, mark), store(which, key)];
    let mut opened = vec![load("meta", META_IIFNAME), cmp(0, &name)];
    opened.extend([load("ct", CT_STATE), bitwise(STATE_NEW, 0), cmp(1, &[0; 4])]);
    opened.extend(set("ct", CT_MARK));
    let mut local = vec![load("ct", CT_DIRECTION), cmp(0, &[1])]; // IP_CT_DIR_REPLY
    local.extend([load("ct", CT_MARK), bitwise(mark, 0), cmp(0, &mark.to_ne_bytes())]);
    local.extend(set("meta", META_MARK));
    let mut forwarded = vec![load("meta", META_IIFNAME), cmp(1, &name)];
    forwarded.extend(local.clone());
    let rule = |chain: &str, exprs| Rule { chain: chain.into(), exprs };
    (
        vec![
            Chain::new("prerouting", "filter", 0, -150), // NF_INET_PRE_ROUTING, NF_IP_PRI_MANGLE: after conntrack,
            Chain::new("output", "route", 3, -150),      // before DNAT; NF_INET_LOCAL_OUT
        ],
        vec![rule("prerouting", opened), rule("prerouting", forwarded), rule("output", local)],
    )
}

pub(super) fn table_request(step: &'static str, kind: u16, flags: u16) -> Request {
    let name = Attrs::default().text(1, TABLE);
    Request::new(step, kind, flags, if kind == NEWTABLE { name.put(6, OWNER) } else { name })
}

pub(super) fn install_requests(want: &ReturnPath) -> Vec<Request> {
    let (chains, rules) = program(want);
    let mut out = vec![
        table_request("NEWTABLE", NEWTABLE, CREATE), // so that the deletion finds one
        table_request("DELTABLE", DELTABLE, 0),
        table_request("NEWTABLE", NEWTABLE, CREATE),
    ];
    out.extend(chains.iter().map(|c| Request::new("NEWCHAIN", NEWCHAIN, CREATE, c.encode(TABLE))));
    out.extend(rules.iter().map(|r| Request::new("NEWRULE", NEWRULE, CREATE_APPEND, r.encode(TABLE))));
    out
}
