//! Replies leave by the veth through which their connection came in: connection marks, by nf_tables.
//!
//! Three rules in a table of our own. A connection whose first packet arrives over the veth gets our bit in its
//! conntrack mark; packets of its *reply* direction get the bit in their packet mark, before the routing decision
//! (forwarded: pods) or with a new one (`type route`: local sockets). An `ip rule` on that bit, made elsewhere, leads
//! them out by the veth. Address translation doesn't matter, because conntrack knows the connection on both sides of it.
//! Only our bit is changed. Packets of the original direction never carry it, nor do connections that began elsewhere.
//! ICMP errors belong to the direction of the connection they travel in, so they are led the same way.
//!
//! The core (`wire`, `rules`, the comparison) is pure; only [`talk`] and its callers touch the socket.
//! The numbers are those of `include/uapi/linux/netlink.h`, `netfilter.h`, `netfilter/nfnetlink.h`,
//! `netfilter/nf_tables.h`, `netfilter/nf_conntrack_common.h`; an attribute's number is written beside its name.
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

/// The table's name, in the `inet` family.
pub const TABLE: &str = "frr-supervisor";
/// The mark of ownership: a table comment (nftables' `NFTNL_UDATA_TABLE_COMMENT`), shown by `nft list table`.
const OWNER: &[u8] = b"\0\x15owner=frr-supervisor\0";

const RECEIVE: usize = 64 * 1024;

/// What the kernel has under our table's name.
#[derive(Clone, Debug)]
pub struct Observed {
    ours: bool,
    flags: u32,
    uses: u32,
    chains: Vec<Chain>,
    rules: Vec<Rule>,
}

/// Packets that the three rules have marked since they were installed.
#[cfg(test)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packets {
    /// First packets of connections that came in over the veth.
    pub opened: u64,
    /// Replies of pods and other hosts that were led to the veth.
    pub forwarded: u64,
    /// Replies of this host's own sockets that were led to the veth.
    pub local: u64,
}

/// A request that failed: which one, why, and what the kernel said about it.
#[derive(Debug)]
pub struct Error {
    step: &'static str,
    source: io::Error,
    text: String,
}

impl Error {
    fn new(step: &'static str, source: io::Error) -> Self {
        Self { step, source, text: String::new() }
    }

    /// The errno, if the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }

    /// Whether the kernel lacks what we need. EPROTONOSUPPORT: no nfnetlink (at `open`). EINVAL for GETTABLE and
    /// EOPNOTSUPP for a batch: no nf_tables. EOPNOTSUPP for NEWTABLE, ENOENT for NEWCHAIN: no `inet` family, or a kernel
    /// before 5.2. ENOENT for NEWRULE: an expression is missing (`CONFIG_NFT_CT`). EOPNOTSUPP there: no conntrack marks.
    pub fn is_unsupported(&self) -> bool {
        match self.errno() {
            Some(EPROTONOSUPPORT | EOPNOTSUPP | EAFNOSUPPORT) => true,
            Some(EINVAL) => self.step == "GETTABLE",
            Some(ENOENT) => self.step.starts_with("NEW"),
            _ => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nf_tables, {}: {}", self.step, self.source)?;
        if !self.text.is_empty() {
            write!(f, ": {}", self.text)?;
        }
        if self.is_unsupported() {
            f.write_str(" (the kernel lacks nf_tables with inet, ct and connection marks)")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl Observed {
    /// Parses a NEWTABLE message (NFTA_TABLE_FLAGS 2, USE 3, USERDATA 6).
    fn table(bytes: &[u8]) -> Self {
        let (flags, uses) = (int(bytes, 2).unwrap_or(0), int(bytes, 3).unwrap_or(0));
        Self { ours: find(bytes, 6) == Some(OWNER), flags, uses, chains: vec![], rules: vec![] }
    }

    /// Whether we made the table. If not, `install` and `remove` refuse.
    pub fn is_ours(&self) -> bool {
        self.ours
    }

    /// The first thing that is not as `want` has it, in words; `None` if all is right.
    pub fn drift(&self, want: &ReturnPath) -> Option<String> {
        let (chains, rules) = program(want);
        if !self.ours {
            return Some("the table is not ours".into());
        }
        if self.flags != 0 {
            return Some(format!("the table has flags {:#x} (dormant?)", self.flags));
        }
        if let Some(c) = chains.iter().find(|c| !self.chains.contains(c)) {
            return Some(format!("chain {} is missing or of another kind", c.name));
        }
        if usize::try_from(self.uses) != Ok(chains.len()) {
            return Some(format!("the table holds {} chains and sets, not {}", self.uses, chains.len()));
        }
        for chain in &chains {
            let of =
                |rules: &[Rule]| rules.iter().filter(|r| r.chain == chain.name).cloned().collect::<Vec<_>>();
            let (want, have) = (of(&rules), of(&self.rules));
            if want.len() != have.len() {
                return Some(format!("chain {} has {} rules, not {}", chain.name, have.len(), want.len()));
            }
            let same = |(w, h): (&Rule, &Rule)| {
                w.exprs.len() == h.exprs.len() && w.exprs.iter().zip(&h.exprs).all(|(w, h)| w.is(h))
            };
            if let Some(i) = want.iter().zip(&have).position(|pair| !same(pair)) {
                return Some(format!("rule {} of chain {} says something else", i + 1, chain.name));
            }
        }
        None
    }

    /// What the rules have counted; meaningful if there is no drift.
    #[cfg(test)]
    pub fn packets(&self) -> Packets {
        let nth =
            |chain: &str, n| self.rules.iter().filter(|r| r.chain == chain).nth(n).map_or(0, Rule::packets);
        Packets { opened: nth("prerouting", 0), forwarded: nth("prerouting", 1), local: nth("output", 0) }
    }
}

/// A socket for this module. It belongs to the network namespace of the calling thread, for good.
pub fn open() -> Result<Socket, Error> {
    let open = || {
        let mut sock = Socket::new(NETLINK_NETFILTER)?;
        sock.bind_auto()?;
        sock.set_ext_ack(true)?;
        sock.set_cap_ack(true)?;
        Ok(sock)
    };
    open().map_err(|e| Error::new("socket", e))
}

/// Sends `bytes`, whose requests carry the sequence numbers 1 … `steps.len()`, and collects what comes until each is
/// answered: the attributes of the replies, or the first error. The kernel works within `send` and queues its answers
/// (and the next part of a dump within `recv`), so we never wait: no answer is an error, not a hang.
fn talk(sock: &Socket, steps: &[&'static str], bytes: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    let first = steps.first().copied().unwrap_or("batch");
    let mut buf = Vec::with_capacity(RECEIVE);
    let mut recv = || loop {
        buf.clear();
        match sock.recv(&mut buf, MSG_DONTWAIT | MSG_TRUNC) {
            Ok(n) if n > buf.len() => return Err(io::Error::other("an answer longer than 64 KiB")),
            Ok(_) => return Ok(buf.clone()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    };
    for _ in 0..64 {
        if matches!(recv(), Err(e) if e.kind() == io::ErrorKind::WouldBlock) {
            break; // nothing (more) is left of an earlier request that failed
        }
    }
    sock.send_to(bytes, &SocketAddr::new(0, 0), 0).map_err(|e| Error::new(first, e))?;
    let (mut open, mut out, mut interrupted) = (steps.len(), vec![], false);
    while open > 0 {
        let datagram = recv().map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => Error::new(first, io::Error::other("the kernel gave no answer")),
            _ => Error::new(first, e), // ENOBUFS too: the outcome is unknown, observe again
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
                return Err(Error { step: step.unwrap_or(&"batch"), source, text: reply.text() });
            }
            open = open.saturating_sub(1);
        }
    }
    if interrupted {
        return Err(Error::new(first, io::ErrorKind::Interrupted.into()));
    }
    Ok(out)
}

/// Asks one question; `None` if the kernel knows no such thing. A dump that a change interrupted is asked again.
fn ask(sock: &Socket, request: &Request) -> Result<Option<Vec<Vec<u8>>>, Error> {
    let mut bytes = vec![];
    request.encode(1, &mut bytes);
    let mut tries = 0;
    loop {
        match talk(sock, &[request.step], &bytes) {
            Err(e) if e.errno() == Some(ENOENT) => return Ok(None),
            Err(e) if e.source.kind() == io::ErrorKind::Interrupted && tries < 5 => tries += 1,
            other => return other.map(Some),
        }
    }
}

/// The table's own message, without its chains and rules.
fn observe_table(sock: &Socket) -> Result<Option<Observed>, Error> {
    let found = ask(sock, &table_request("GETTABLE", GETTABLE, 0))?;
    Ok(found.and_then(|m| m.first().map(|m| Observed::table(m))))
}

/// Reads our table; `None` if there is none. Only our table is dumped, however many chains kube-proxy has; chains and
/// sets that others put into it show in its use count.
pub fn observe(sock: &Socket) -> Result<Option<Observed>, Error> {
    let Some(mut seen) = observe_table(sock)? else { return Ok(None) };
    let of_table = || Attrs::default().text(1, TABLE);
    for chain in ["prerouting", "output"] {
        let found = ask(sock, &Request::new("GETCHAIN", GETCHAIN, 0, of_table().text(3, chain)))?;
        seen.chains.extend(found.iter().flatten().map(|m| Chain::parse(m)));
    }
    let rules = ask(sock, &Request::new("GETRULE", GETRULE, DUMP, of_table()))?;
    seen.rules = rules.iter().flatten().filter(|m| text(m, 1) == TABLE).map(|m| Rule::parse(m)).collect();
    Ok(Some(seen))
}

/// Sends `requests` as one transaction.
fn commit(sock: &Socket, requests: &[Request]) -> Result<(), Error> {
    let steps: Vec<_> = requests.iter().map(|r| r.step).collect();
    talk(sock, &steps, &batch(requests)).map(|_| ())
}

fn refuse_foreign(seen: Option<&Observed>) -> Result<(), Error> {
    let foreign =
        io::Error::new(io::ErrorKind::AlreadyExists, "table inet frr-supervisor exists and is not ours");
    if seen.is_some_and(|t| !t.ours) { Err(Error::new("GETTABLE", foreign)) } else { Ok(()) }
}

/// Makes the table say `want`, in one transaction: there is no moment without the rules.
pub fn install(sock: &Socket, want: &ReturnPath) -> Result<(), Error> {
    refuse_foreign(observe_table(sock)?.as_ref())?;
    commit(sock, &install_requests(want))
}

/// Removes our table, if there is one.
pub fn remove(sock: &Socket) -> Result<(), Error> {
    let seen = observe_table(sock)?;
    refuse_foreign(seen.as_ref())?;
    match seen.map(|_| commit(sock, &[table_request("DELTABLE", DELTABLE, 0)])) {
        Some(Err(e)) if e.errno() != Some(ENOENT) => Err(e),
        _ => Ok(()),
    }
}
