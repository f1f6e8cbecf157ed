//! Bytes in, bytes out: attributes, requests, batches, answers.

use crate::kernel::attributes::{attributes, put};
use crate::kernel::netlink::messages;

pub(super) const NFPROTO_INET: u8 = 1;
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
pub(super) const REQUEST_ACK: u16 = 0x1 | 0x4; // NLM_F_REQUEST, NLM_F_ACK
pub(super) const DUMP: u16 = 0x300;
pub(super) const CREATE: u16 = 0x400;
pub(super) const CREATE_APPEND: u16 = CREATE | 0x800;
pub(super) const DUMP_INTR: u16 = 0x10;

/// Netlink attributes under construction.
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

/// A request without its sequence number. `step` is what an error calls it.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) step: &'static str,
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) body: Attrs,
}

impl Request {
    pub(super) fn new(step: &'static str, kind: u16, flags: u16, body: Attrs) -> Self {
        Self { step, kind, flags, body }
    }

    pub(super) fn encode(&self, seq: u32, out: &mut Vec<u8>) {
        let kind = SUBSYS_NFTABLES << 8 | self.kind;
        message(out, kind, REQUEST_ACK | self.flags, seq, [NFPROTO_INET, 0, 0, 0], &self.body.0);
    }
}

/// nlmsghdr, nfgenmsg (family, version 0, big-endian resource id), attributes.
pub(super) fn message(out: &mut Vec<u8>, kind: u16, flags: u16, seq: u32, nfgen: [u8; 4], body: &[u8]) {
    out.extend(u32::try_from(20 + body.len()).unwrap_or(u32::MAX).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(seq.to_ne_bytes());
    out.extend([0; 4]);
    out.extend(nfgen);
    out.extend(body);
}

/// A datagram of `requests` that takes effect as a whole or not at all. The n-th request has sequence number n + 1.
pub(super) fn batch(requests: &[Request]) -> Vec<u8> {
    let mut out = vec![];
    let subsystem = [0, 0, 0, 10]; // NFNL_SUBSYS_NFTABLES as resource id
    message(&mut out, BATCH_BEGIN, 1, 0, subsystem, &[]);
    for (request, seq) in requests.iter().zip(1..) {
        request.encode(seq, &mut out);
    }
    message(&mut out, BATCH_END, 1, 0, subsystem, &[]);
    out
}

/// A message from the kernel.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) seq: u32,
    pub(super) payload: &'a [u8],
}

impl Reply<'_> {
    /// The errno of NLMSG_ERROR and NLMSG_DONE; 0 is success.
    pub(super) fn errno(&self) -> i32 {
        self.payload.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code).saturating_neg())
    }

    /// What the kernel adds to an error (NLMSGERR_ATTR_MSG 1): after the failed request, or only its header if capped.
    pub(super) fn text(&self) -> String {
        let request = self.payload.get(4..8).and_then(|l| Some(u32::from_ne_bytes(l.try_into().ok()?)));
        let len = if self.flags & 0x100 != 0 { 16 } else { request.unwrap_or(16) }; // NLM_F_CAPPED
        let tlvs = usize::try_from(len).ok().and_then(|l| self.payload.get(4 + l.next_multiple_of(4)..));
        if self.flags & 0x200 == 0 { String::new() } else { text(tlvs.unwrap_or_default(), 1) } // NLM_F_ACK_TLVS
    }
}

/// The messages of a datagram, up to the first malformed one.
pub(super) fn replies(bytes: &[u8]) -> impl Iterator<Item = Reply<'_>> {
    messages(bytes).map_while(|message| {
        let (&[_, _, _, _, k0, k1, f0, f1, s0, s1, s2, s3, _, _, _, _], payload) =
            message.ok()?.split_first_chunk()?;
        let (kind, flags) = (u16::from_ne_bytes([k0, k1]), u16::from_ne_bytes([f0, f1]));
        Some(Reply { kind, flags, seq: u32::from_ne_bytes([s0, s1, s2, s3]), payload })
    })
}
