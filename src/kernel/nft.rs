//! Connection marks by nf_tables: replies leave through the veth through which their connection came in.
//!
//! The managed table has three rules. A connection whose first packet arrives over the veth gets one bit in its
//! conntrack mark. Packets of its *reply* direction get the bit in their packet mark: forwarded ones (pods) before the
//! routing decision, those of local sockets with a second routing decision (`type route`). An `ip rule` on that bit, a
//! separate object, routes them out through the veth. Address translation does not matter, because conntrack tracks the
//! connection on both sides of it. The rules change no other bit. Packets of the original direction and of other
//! connections never get the bit. conntrack assigns an ICMP error to a connection and a direction, so ICMP errors take
//! the same path.
//!
//! The core (`wire`, `rules`, the comparison) is pure; only [`exchange`] and its callers use the socket.
//! The numbers are those of `include/uapi/linux/netlink.h`, `netfilter.h`, `netfilter/nfnetlink.h`,
//! `netfilter/nf_tables.h`, `netfilter/nf_conntrack_common.h`.
//! `type route` in the `inet` family needs Linux 5.2.

use std::{fmt, io};

use libc::{EAFNOSUPPORT, EINVAL, ENOENT, EOPNOTSUPP, EPROTONOSUPPORT, MSG_DONTWAIT, MSG_TRUNC};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use crate::model::ReturnPath;

use rules::*;
use wire::*;

#[cfg(test)]
mod lab;
mod rules;
#[cfg(test)]
mod tests;
mod wire;

/// Name of the managed table, in the `inet` family.
pub const TABLE: &str = "frr-supervisor";
/// The ownership mark: a table comment (nftables' `NFTNL_UDATA_TABLE_COMMENT`), which `nft list table` shows.
const OWNER: &[u8] = b"\0\x15owner=frr-supervisor\0";

/// Size of the receive buffer in bytes.
const RECEIVE_BYTES: usize = 64 * 1024;

/// The observed table of that name.
#[derive(Clone, Debug)]
pub struct ObservedTable {
    is_owned: bool,
    flags: u32,
    uses: u32,
    chains: Vec<Chain>,
    rules: Vec<NftRule>,
}

/// Number of packets that the three rules marked since their installation.
#[cfg(test)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketCounts {
    /// First packets of connections that came in over the veth.
    pub opened: u64,
    /// Replies of pods and other hosts that were routed to the veth.
    pub forwarded: u64,
    /// Replies of this host's own sockets that were routed to the veth.
    pub local: u64,
}

/// A failed request: its name, the error, and the kernel's message.
#[derive(Debug)]
pub struct NftError {
    step: &'static str,
    source: io::Error,
    message: String,
}

impl NftError {
    fn new(step: &'static str, source: io::Error) -> Self {
        Self { step, source, message: String::new() }
    }

    /// The errno, if the kernel returned one.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }

    /// Whether the kernel lacks a required feature. EPROTONOSUPPORT: no nfnetlink (at `open`). EINVAL for GETTABLE and
    /// EOPNOTSUPP for a batch: no nf_tables. EOPNOTSUPP for NEWTABLE, ENOENT for NEWCHAIN: no `inet` family, or a
    /// kernel before 5.2. ENOENT for NEWRULE: an expression is missing (`CONFIG_NFT_CT`). EOPNOTSUPP there: no
    /// conntrack marks.
    pub fn is_unsupported(&self) -> bool {
        match self.errno() {
            Some(EPROTONOSUPPORT | EOPNOTSUPP | EAFNOSUPPORT) => true,
            Some(EINVAL) => self.step == "GETTABLE",
            Some(ENOENT) => self.step.starts_with("NEW"),
            _ => false,
        }
    }
}

impl fmt::Display for NftError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nf_tables, {}: {}", self.step, self.source)?;
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        if self.is_unsupported() {
            f.write_str(" (the kernel lacks nf_tables with inet, ct and connection marks)")?;
        }
        Ok(())
    }
}

impl std::error::Error for NftError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl ObservedTable {
    /// Parses a NEWTABLE message.
    fn table(bytes: &[u8]) -> Self {
        let (flags, uses) =
            (int(bytes, NFTA_TABLE_FLAGS).unwrap_or(0), int(bytes, NFTA_TABLE_USE).unwrap_or(0));
        Self {
            is_owned: find(bytes, NFTA_TABLE_USERDATA) == Some(OWNER),
            flags,
            uses,
            chains: vec![],
            rules: vec![],
        }
    }

    /// Whether frr-supervisor created the table. If not, `install` and `remove` fail.
    pub fn is_owned(&self) -> bool {
        self.is_owned
    }

    /// Text about the first difference from the table for `want`; `None` without differences.
    pub fn drift(&self, want: &ReturnPath) -> Option<String> {
        let (chains, rules) = ruleset(want);
        if !self.is_owned {
            return Some("the table was not created by frr-supervisor".into());
        }
        if self.flags != 0 {
            return Some(format!("the table has flags {:#x} (dormant?)", self.flags));
        }
        if let Some(c) = chains.iter().find(|c| !self.chains.contains(c)) {
            return Some(format!("chain {} is missing or has other settings", c.name));
        }
        if usize::try_from(self.uses) != Ok(chains.len()) {
            return Some(format!("the table has {} chains and sets, not {}", self.uses, chains.len()));
        }
        for chain in &chains {
            let of = |rules: &[NftRule]| {
                rules.iter().filter(|r| r.chain == chain.name).cloned().collect::<Vec<_>>()
            };
            let (want, have) = (of(&rules), of(&self.rules));
            if want.len() != have.len() {
                return Some(format!("chain {} has {} rules, not {}", chain.name, have.len(), want.len()));
            }
            let same = |(w, h): (&NftRule, &NftRule)| {
                w.exprs.len() == h.exprs.len() && w.exprs.iter().zip(&h.exprs).all(|(w, h)| w.matches(h))
            };
            if let Some(i) = want.iter().zip(&have).position(|pair| !same(pair)) {
                return Some(format!("rule {} of chain {} differs", i + 1, chain.name));
            }
        }
        None
    }

    /// The counters of the rules. They are meaningful only without drift.
    #[cfg(test)]
    pub fn packets(&self) -> PacketCounts {
        let nth = |chain: &str, n| {
            self.rules.iter().filter(|r| r.chain == chain).nth(n).map_or(0, NftRule::packets)
        };
        PacketCounts {
            opened: nth("prerouting", 0),
            forwarded: nth("prerouting", 1),
            local: nth("output", 0),
        }
    }
}

/// Opens a socket for this module. It stays in the network namespace of the calling thread.
pub fn open() -> Result<Socket, NftError> {
    let open = || {
        let mut sock = Socket::new(NETLINK_NETFILTER)?;
        sock.bind_auto()?;
        sock.set_ext_ack(true)?;
        sock.set_cap_ack(true)?;
        Ok(sock)
    };
    open().map_err(|e| NftError::new("socket", e))
}

/// Sends `bytes`, whose requests have the sequence numbers 1 … `steps.len()`. Receives until all requests are
/// acknowledged, and returns the attributes of the replies or the first error. The kernel processes requests within
/// `send` and queues its replies (and the next part of a dump within `recv`), so this function never waits: a missing
/// reply is an error, not a hang.
fn exchange(sock: &Socket, steps: &[&'static str], bytes: &[u8]) -> Result<Vec<Vec<u8>>, NftError> {
    let first = steps.first().copied().unwrap_or("batch");
    let mut buf = Vec::with_capacity(RECEIVE_BYTES);
    let mut recv = || loop {
        buf.clear();
        match sock.recv(&mut buf, MSG_DONTWAIT | MSG_TRUNC) {
            Ok(n) if n > buf.len() => return Err(io::Error::other("the reply is longer than 64 KiB")),
            Ok(_) => return Ok(buf.clone()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    };
    for _ in 0..64 {
        if matches!(recv(), Err(e) if e.kind() == io::ErrorKind::WouldBlock) {
            break; // no more replies to an earlier request that failed
        }
    }
    sock.send_to(bytes, &SocketAddr::new(0, 0), 0).map_err(|e| NftError::new(first, e))?;
    let (mut pending, mut out, mut interrupted) = (steps.len(), vec![], false);
    while pending > 0 {
        let datagram = recv().map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => NftError::new(first, io::Error::other("the kernel did not reply")),
            _ => NftError::new(first, e), // includes ENOBUFS: the result is unknown, the caller observes again
        })?;
        for reply in replies(&datagram) {
            interrupted |= reply.flags & DUMP_INTR != 0;
            if !matches!(reply.kind, NLMSG_ERROR | NLMSG_DONE) {
                out.push(reply.payload.get(4..).unwrap_or_default().to_vec()); // after nfgenmsg
                continue;
            }
            if reply.errno() != 0 {
                let step = usize::try_from(reply.seq).ok().and_then(|s| steps.get(s.checked_sub(1)?));
                let source = io::Error::from_raw_os_error(reply.errno());
                return Err(NftError { step: step.unwrap_or(&"batch"), source, message: reply.message() });
            }
            pending = pending.saturating_sub(1);
        }
    }
    if interrupted {
        return Err(NftError::new(first, io::ErrorKind::Interrupted.into()));
    }
    Ok(out)
}

/// Sends one query; `None` if the object does not exist. Repeats a dump that a change interrupted, at most 5 times.
fn query(sock: &Socket, request: &NftRequest) -> Result<Option<Vec<Vec<u8>>>, NftError> {
    let mut bytes = vec![];
    request.encode(1, &mut bytes);
    let mut tries = 0;
    loop {
        match exchange(sock, &[request.step], &bytes) {
            Err(e) if e.errno() == Some(ENOENT) => return Ok(None),
            Err(e) if e.source.kind() == io::ErrorKind::Interrupted && tries < 5 => tries += 1,
            other => return other.map(Some),
        }
    }
}

/// Reads the table without its chains and rules.
fn observe_table(sock: &Socket) -> Result<Option<ObservedTable>, NftError> {
    let found = query(sock, &table_request("GETTABLE", GETTABLE, 0))?;
    Ok(found.and_then(|m| m.first().map(|m| ObservedTable::table(m))))
}

/// Reads the managed table; `None` if it does not exist. The kernel dumps only this table, however many chains
/// kube-proxy has. The use count shows chains and sets that other programs added.
pub fn observe(sock: &Socket) -> Result<Option<ObservedTable>, NftError> {
    let Some(mut seen) = observe_table(sock)? else { return Ok(None) };
    let of_table = || Attrs::default().text(NFTA_CHAIN_TABLE, TABLE);
    for chain in ["prerouting", "output"] {
        let found =
            query(sock, &NftRequest::new("GETCHAIN", GETCHAIN, 0, of_table().text(NFTA_CHAIN_NAME, chain)))?;
        seen.chains.extend(found.iter().flatten().map(|m| Chain::parse(m)));
    }
    let of_table = Attrs::default().text(NFTA_RULE_TABLE, TABLE);
    let rules = query(sock, &NftRequest::new("GETRULE", GETRULE, DUMP, of_table))?;
    seen.rules = rules
        .iter()
        .flatten()
        .filter(|m| text(m, NFTA_RULE_TABLE) == TABLE)
        .map(|m| NftRule::parse(m))
        .collect();
    Ok(Some(seen))
}

/// Sends `requests` as one transaction.
fn commit(sock: &Socket, requests: &[NftRequest]) -> Result<(), NftError> {
    let steps: Vec<_> = requests.iter().map(|r| r.step).collect();
    exchange(sock, &steps, &batch(requests)).map(|_| ())
}

/// Fails if another program created the table.
fn check_not_foreign(seen: Option<&ObservedTable>) -> Result<(), NftError> {
    let foreign = io::Error::new(
        io::ErrorKind::AlreadyExists,
        "table inet frr-supervisor exists and was not created by frr-supervisor",
    );
    if seen.is_some_and(|t| !t.is_owned) { Err(NftError::new("GETTABLE", foreign)) } else { Ok(()) }
}

/// Replaces the table in one transaction, so that the rules are never missing.
pub fn install(sock: &Socket, want: &ReturnPath) -> Result<(), NftError> {
    check_not_foreign(observe_table(sock)?.as_ref())?;
    commit(sock, &install_requests(want))
}

/// Removes the managed table, if it exists.
pub fn remove(sock: &Socket) -> Result<(), NftError> {
    let seen = observe_table(sock)?;
    check_not_foreign(seen.as_ref())?;
    match seen.map(|_| commit(sock, &[table_request("DELTABLE", DELTABLE, 0)])) {
        Some(Err(e)) if e.errno() != Some(ENOENT) => Err(e),
        _ => Ok(()),
    }
}
