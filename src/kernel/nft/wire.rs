//! Serializes and parses nfnetlink messages: attributes, requests, batches, replies.

use crate::kernel::attributes::{attributes, put};
use crate::kernel::netlink::messages;

pub(super) const NFPROTO_INET: u8 = 1; // netfilter.h
pub(super) const NEWTABLE: u16 = 0; // enum nf_tables_msg_types
pub(super) const GETTABLE: u16 = 1;
pub(super) const DELTABLE: u16 = 2;
pub(super) const NEWCHAIN: u16 = 3;
pub(super) const GETCHAIN: u16 = 4;
pub(super) const NEWRULE: u16 = 6;
pub(super) const GETRULE: u16 = 7;
pub(super) const SUBSYS_NFTABLES: u16 = 10;
pub(super) const BATCH_BEGIN: u16 = 0x10; // NFNL_MSG_BATCH_BEGIN, _END: not of a subsystem
pub(super) const BATCH_END: u16 = 0x11;
pub(super) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;
pub(super) const REQUEST: u16 = 0x1; // NLM_F_REQUEST
pub(super) const REQUEST_ACK: u16 = REQUEST | 0x4; // NLM_F_ACK
pub(super) const DUMP: u16 = 0x300; // NLM_F_DUMP
pub(super) const CREATE: u16 = 0x400; // NLM_F_CREATE
pub(super) const CREATE_APPEND: u16 = CREATE | 0x800; // NLM_F_APPEND
pub(super) const DUMP_INTR: u16 = 0x10; // NLM_F_DUMP_INTR
pub(super) const CAPPED: u16 = 0x100; // NLM_F_CAPPED
pub(super) const ACK_TLVS: u16 = 0x200; // NLM_F_ACK_TLVS
pub(super) const NLMSGERR_ATTR_MSG: u16 = 1;
const NLMSG_HDRLEN: u32 = 16;

/// Attributes of tables, chains, hooks, rules, lists and expressions (`nf_tables.h`).
pub(super) const NFTA_TABLE_NAME: u16 = 1;
pub(super) const NFTA_TABLE_FLAGS: u16 = 2;
pub(super) const NFTA_TABLE_USE: u16 = 3;
pub(super) const NFTA_TABLE_USERDATA: u16 = 6;
pub(super) const NFTA_CHAIN_TABLE: u16 = 1;
pub(super) const NFTA_CHAIN_NAME: u16 = 3;
pub(super) const NFTA_CHAIN_HOOK: u16 = 4;
pub(super) const NFTA_CHAIN_POLICY: u16 = 5;
pub(super) const NFTA_CHAIN_TYPE: u16 = 7;
pub(super) const NFTA_HOOK_HOOKNUM: u16 = 1;
pub(super) const NFTA_HOOK_PRIORITY: u16 = 2;
pub(super) const NFTA_RULE_TABLE: u16 = 1;
pub(super) const NFTA_RULE_CHAIN: u16 = 2;
pub(super) const NFTA_RULE_EXPRESSIONS: u16 = 4;
pub(super) const NFTA_LIST_ELEM: u16 = 1;
pub(super) const NFTA_EXPR_NAME: u16 = 1;
pub(super) const NFTA_EXPR_DATA: u16 = 2;

/// Attributes of the expressions meta, ct, cmp and bitwise, and of values in them (`nf_tables.h`).
pub(super) const NFTA_META_DREG: u16 = 1;
pub(super) const NFTA_META_KEY: u16 = 2;
pub(super) const NFTA_META_SREG: u16 = 3;
pub(super) const NFTA_CT_SREG: u16 = 4;
pub(super) const NFTA_CMP_SREG: u16 = 1;
pub(super) const NFTA_CMP_OP: u16 = 2;
pub(super) const NFTA_CMP_DATA: u16 = 3;
pub(super) const NFTA_BITWISE_SREG: u16 = 1;
pub(super) const NFTA_BITWISE_DREG: u16 = 2;
pub(super) const NFTA_BITWISE_LEN: u16 = 3;
pub(super) const NFTA_BITWISE_MASK: u16 = 4;
pub(super) const NFTA_BITWISE_XOR: u16 = 5;
pub(super) const NFTA_DATA_VALUE: u16 = 1;

/// Serialized netlink attributes.
#[derive(Clone, Debug, Default)]
pub(super) struct Attrs(pub(super) Vec<u8>);

impl Attrs {
    pub(super) fn put(mut self, kind: u16, value: &[u8]) -> Self {
        put(&mut self.0, kind, value);
        self
    }

    pub(super) fn int(self, kind: u16, value: u32) -> Self {
        self.put(kind, &value.to_be_bytes())
    }

    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        self.put(kind, &[value.as_bytes(), b"\0"].concat())
    }
}

pub(super) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|a| a.0 == kind).map(|a| a.1)
}

pub(super) fn int(bytes: &[u8], kind: u16) -> Option<u32> {
    Some(u32::from_be_bytes(find(bytes, kind)?.try_into().ok()?))
}

pub(super) fn text(bytes: &[u8], kind: u16) -> String {
    let value = find(bytes, kind).unwrap_or_default();
    String::from_utf8_lossy(value.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
}

/// A request without its sequence number. `step` is its name in errors.
#[derive(Clone, Debug)]
pub(super) struct NftRequest {
    pub(super) step: &'static str,
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) body: Attrs,
}

impl NftRequest {
    pub(super) fn new(step: &'static str, kind: u16, flags: u16, body: Attrs) -> Self {
        Self { step, kind, flags, body }
    }

    pub(super) fn encode(&self, seq: u32, out: &mut Vec<u8>) {
        let kind = SUBSYS_NFTABLES << 8 | self.kind;
        message(out, kind, REQUEST_ACK | self.flags, seq, [NFPROTO_INET, 0, 0, 0], &self.body.0);
    }
}

/// Appends a message: nlmsghdr, nfgenmsg (family, version 0, big-endian resource id), attributes.
pub(super) fn message(out: &mut Vec<u8>, kind: u16, flags: u16, seq: u32, nfgen: [u8; 4], body: &[u8]) {
    out.extend(u32::try_from(20 + body.len()).unwrap_or(u32::MAX).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(seq.to_ne_bytes());
    out.extend([0; 4]);
    out.extend(nfgen);
    out.extend(body);
}

/// A datagram of `requests` that the kernel applies completely or not at all. The request at index n has sequence
/// number n + 1.
pub(super) fn batch(requests: &[NftRequest]) -> Vec<u8> {
    let mut out = vec![];
    let [high, low] = SUBSYS_NFTABLES.to_be_bytes();
    let subsystem = [0, 0, high, low]; // NFNL_SUBSYS_NFTABLES as resource id
    message(&mut out, BATCH_BEGIN, REQUEST, 0, subsystem, &[]);
    for (request, seq) in requests.iter().zip(1..) {
        request.encode(seq, &mut out);
    }
    message(&mut out, BATCH_END, REQUEST, 0, subsystem, &[]);
    out
}

/// A message from the kernel.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NftReply<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) seq: u32,
    pub(super) payload: &'a [u8],
}

impl NftReply<'_> {
    /// The errno of NLMSG_ERROR and NLMSG_DONE; 0 is success.
    pub(super) fn errno(&self) -> i32 {
        self.payload.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code).saturating_neg())
    }

    /// The kernel's message about an error. It follows the failed request, or only the header of the request if that is
    /// capped.
    pub(super) fn message(&self) -> String {
        let request = self.payload.get(4..8).and_then(|l| Some(u32::from_ne_bytes(l.try_into().ok()?)));
        let len = if self.flags & CAPPED != 0 { NLMSG_HDRLEN } else { request.unwrap_or(NLMSG_HDRLEN) };
        let tlvs = usize::try_from(len).ok().and_then(|l| self.payload.get(4 + l.next_multiple_of(4)..));
        match self.flags & ACK_TLVS {
            0 => String::new(),
            _ => text(tlvs.unwrap_or_default(), NLMSGERR_ATTR_MSG),
        }
    }
}

/// The messages of a datagram up to the first malformed one.
pub(super) fn replies(bytes: &[u8]) -> impl Iterator<Item = NftReply<'_>> {
    messages(bytes).map_while(|message| {
        let (&[_, _, _, _, k0, k1, f0, f1, s0, s1, s2, s3, _, _, _, _], payload) =
            message.ok()?.split_first_chunk()?;
        let (kind, flags) = (u16::from_ne_bytes([k0, k1]), u16::from_ne_bytes([f0, f1]));
        Some(NftReply { kind, flags, seq: u32::from_ne_bytes([s0, s1, s2, s3]), payload })
    })
}
