//! A blocking route-netlink socket: one request, one answer, and the kernel's own words in the error.

use std::fmt;
use std::io;

use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage, NetlinkPayload,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::attributes::attributes;
use super::object::Object;

/// What the kernel answered to a request that it refused.
#[derive(Debug)]
pub struct Refusal {
    /// The errno.
    pub error: io::Error,
    /// The kernel's sentence about it (`NLMSGERR_ATTR_MSG`), where it has one.
    pub words: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.words {
            Some(words) => write!(f, "{words} ({})", self.error),
            None => self.error.fmt(f),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self { error, words: None }
    }
}

impl From<Refusal> for io::Error {
    /// Its words; what the errno was matters to no one who takes it so.
    fn from(refusal: Refusal) -> Self {
        Self::other(refusal.to_string())
    }
}

/// A socket in the namespace of the thread that opened it, for good.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    received: Vec<u8>,
}

impl Netlink {
    /// Opens a socket in the calling thread's namespace.
    ///
    /// # Errors
    /// The kernel has no route netlink for us.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        socket.set_netlink_get_strict_chk(true)?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0, received: Vec::with_capacity(DATAGRAM) })
    }

    /// The number of the socket's namespace, which no other one has until the machine is started anew.
    ///
    /// # Errors
    /// A kernel before 5.14 has none.
    pub fn namespace(&self) -> io::Result<u64> {
        super::cookie::of(&self.socket)
    }

    /// Sends a change, `flags` on top of request and acknowledge, and waits until the kernel has made it.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn change(&mut self, message: Object, flags: u16) -> Result<(), Refusal> {
        self.exchange(&mut request(message, NLM_F_ACK | flags), &mut |_| {}).map(drop)
    }

    /// Asks for one object: what `take` makes of its bytes without the netlink header.
    ///
    /// # Errors
    /// The kernel refused; `ENODEV` if a link is not there.
    pub fn get<T>(
        &mut self,
        message: Object,
        take: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, Refusal> {
        let mut answer = None;
        self.exchange(&mut request(message, NLM_F_ACK), &mut |message| answer = take(&message[HEADER..]))?;
        Ok(answer)
    }

    /// Asks for all objects of a kind, and keeps what `take` makes of each. A dump that a change in the kernel disturbed is
    /// taken again: see [`settled`].
    ///
    /// # Errors
    /// The kernel refused.
    pub fn dump<T: PartialEq>(
        &mut self,
        message: Object,
        take: impl Fn(Object) -> Option<T>,
    ) -> Result<Vec<T>, Refusal> {
        self.dump_those(message, |_| true, take)
    }

    /// The same of those objects that are `worth` being parsed, by their bytes without the netlink header.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn dump_those<T: PartialEq>(
        &mut self,
        message: Object,
        worth: impl Fn(&[u8]) -> bool,
        take: impl Fn(Object) -> Option<T>,
    ) -> Result<Vec<T>, Refusal> {
        self.each(message, |message| worth(&message[HEADER..]).then(|| take(object(message)?)).flatten())
    }

    /// The same of all, but `take` has the bytes of each.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn dump_raw<T: PartialEq>(
        &mut self,
        message: Object,
        take: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Refusal> {
        self.each(message, |message| take(&message[HEADER..]))
    }

    /// Asks for all objects of a kind, without keeping any. Returns whether a change in the kernel disturbed the answer, so
    /// that something may be missing or be there twice.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn stream(&mut self, message: Object, take: &mut dyn FnMut(Object)) -> Result<bool, Refusal> {
        self.exchange(&mut request(message, NLM_F_DUMP), &mut |message| {
            object(message).into_iter().for_each(&mut *take);
        })
    }

    /// Sends many changes, some hundred in one datagram, and waits for the last of each datagram only. Returns how many the
    /// kernel refused, and the first of these; `expected` are no refusals.
    ///
    /// # Errors
    /// The socket fails.
    pub fn change_all(
        &mut self,
        mut batch: Batch,
        expected: &[i32],
    ) -> Result<(usize, Option<Refusal>), Refusal> {
        let (mut refused, mut first) = (0, None);
        let mut begin = 0;
        while begin < batch.0.len() {
            let mut end = begin;
            let mut last = begin;
            while end < batch.0.len() && end - begin < BATCH {
                self.sequence = self.sequence.wrapping_add(1);
                batch.number(end, self.sequence);
                last = end;
                end += batch.length_at(end);
            }
            let flags = u16::from_ne_bytes([batch.0[last + 6], batch.0[last + 7]]) | NLM_F_ACK;
            batch.0[last + 6..last + 8].copy_from_slice(&flags.to_ne_bytes());
            self.socket.send(&batch.0[begin..end], 0)?;
            begin = end;
            self.answers(&mut |error| {
                let code = error.to_io().raw_os_error();
                if error.code.is_some() && !code.is_some_and(|code| expected.contains(&code)) {
                    refused += 1;
                    first.get_or_insert_with(|| refusal(error));
                }
            })?;
        }
        Ok((refused, first))
    }

    /// Takes in the answers to a datagram up to that to its last message, which is the last that was numbered.
    fn answers(&mut self, take: &mut dyn FnMut(&ErrorMessage)) -> Result<(), Refusal> {
        loop {
            self.receive()?;
            for message in messages(&self.received) {
                let packet = parse(message?)?;
                if let NetlinkPayload::Error(error) = &packet.payload {
                    take(error);
                    if packet.header.sequence_number == self.sequence {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn each<T: PartialEq>(
        &mut self,
        message: Object,
        take: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Refusal> {
        let mut request = request(message, NLM_F_DUMP);
        settled(|| {
            let mut taken = Vec::new();
            let mut keep = |message: &[u8]| taken.extend(take(message));
            let disturbed = self.exchange(&mut request, &mut keep)?;
            Ok((taken, disturbed))
        })
    }

    /// Takes in a datagram.
    fn receive(&mut self) -> io::Result<()> {
        self.received.clear();
        if self.socket.recv(&mut self.received, libc::MSG_TRUNC)? > self.received.len() {
            return Err(io::Error::other("netlink message too long"));
        }
        Ok(())
    }

    /// Returns whether a change in the kernel disturbed the answer.
    fn exchange(&mut self, request: &mut Batch, take: &mut dyn FnMut(&[u8])) -> Result<bool, Refusal> {
        self.sequence = self.sequence.wrapping_add(1);
        request.number(0, self.sequence);
        self.socket.send(&request.0, 0)?;

        let mut disturbed = false;
        loop {
            self.receive()?;
            for message in messages(&self.received) {
                let message = message?;
                let header = NetlinkBuffer::new(message);
                if header.sequence_number() != self.sequence {
                    continue;
                }
                disturbed |= header.flags() & NLM_F_DUMP_INTR != 0;
                if header.message_type() >= FIRST_OBJECT {
                    take(message);
                    continue;
                }
                match parse(message)?.payload {
                    NetlinkPayload::Error(e) if e.code.is_some() => return Err(refusal(&e)),
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code).into());
                    }
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(disturbed),
                    _ => {}
                }
            }
        }
    }
}

/// The result of a change, where that the kernel refuses it with this errno means that there is nothing to change.
///
/// # Errors
/// The kernel refused for another reason.
pub fn unless(errno: i32, result: Result<(), Refusal>) -> Result<(), Refusal> {
    match result {
        Err(refusal) if refusal.error.raw_os_error() == Some(errno) => Ok(()),
        other => other,
    }
}

/// One request, with these flags on top of it.
fn request(message: Object, flags: u16) -> Batch {
    let mut batch = Batch::default();
    batch.push(message, flags);
    batch
}

/// Many requests, one message after the other, as they are sent.
#[derive(Debug, Default)]
pub struct Batch(Vec<u8>);

impl Batch {
    /// Adds one, `flags` on top of request.
    pub fn push(&mut self, message: Object, flags: u16) {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        request.finalize();
        let (begin, length) = (self.0.len(), request.buffer_len());
        self.0.resize(begin + length.next_multiple_of(4), 0);
        request.serialize(&mut self.0[begin..begin + length]);
    }

    /// Its size in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Numbers the message that begins there.
    fn number(&mut self, at: usize, sequence: u32) {
        self.0[at + 8..at + 12].copy_from_slice(&sequence.to_ne_bytes());
    }

    /// With all padding, the length of the message that begins there.
    fn length_at(&self, at: usize) -> usize {
        let length = u32::from_ne_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]]);
        (length as usize).next_multiple_of(4)
    }
}

/// Bytes of changes that are sent together: the kernel does not turn to anything else before it has carried them out.
const BATCH: usize = 16 << 10;

/// How often a dump is taken at most.
const DUMPS: usize = 5;

/// What a dump says that nothing disturbed, or that says twice in a row what matters to us. Thousands of links that came up a
/// moment ago get an IPv6 address each for seconds, which disturbs every dump of addresses and is none of our business. What
/// is disturbed and different to the end is taken as it is: of what changed meanwhile the kernel tells.
fn settled<T: PartialEq>(
    mut dump: impl FnMut() -> Result<(Vec<T>, bool), Refusal>,
) -> Result<Vec<T>, Refusal> {
    let (mut last, mut disturbed) = dump()?;
    for _ in 1..DUMPS {
        if !disturbed {
            break;
        }
        let again = dump()?;
        disturbed = again.1 && again.0 != last;
        last = again.0;
    }
    Ok(last)
}

/// Room for one datagram in bytes: the kernel fills at most 32 KiB with a dump (`netlink_dump`, `net/netlink/af_netlink.c`).
const DATAGRAM: usize = 64 << 10;
/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Types below are netlink's own (`NLMSG_MIN_TYPE`, `linux/netlink.h`).
const FIRST_OBJECT: u16 = 16;
/// The dump is inconsistent (`NLM_F_DUMP_INTR`, `linux/netlink.h`).
const NLM_F_DUMP_INTR: u16 = 0x10;
/// The attribute of an error that holds a sentence (`NLMSGERR_ATTR_MSG`, `linux/netlink.h`).
const ATTR_MSG: u16 = 1;

/// The messages of a datagram, each with its header; the last is the error if the rest is none.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = io::Result<&[u8]>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*rest.get(..HEADER)?.first_chunk()?) as usize;
        let Some(message) = rest.get(..length).filter(|message| message.len() >= HEADER) else {
            rest = &[];
            return Some(Err(io::Error::other("malformed netlink message")));
        };
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        Some(Ok(message))
    })
}

fn parse(message: &[u8]) -> io::Result<NetlinkMessage<Object>> {
    NetlinkMessage::deserialize(message).map_err(|e| io::Error::other(e.to_string()))
}

/// What the message describes. One exotic object that the crate can't read must not hide the others.
fn object(message: &[u8]) -> Option<Object> {
    match NetlinkMessage::deserialize(message) {
        Ok(NetlinkMessage { payload: NetlinkPayload::InnerMessage(object), .. }) => Some(object),
        Ok(_) => None,
        Err(e) => {
            log::debug!(
                "netlink message of type {} left out: {e}",
                NetlinkBuffer::new(message).message_type()
            );
            None
        }
    }
}

/// With capped acknowledgements the attributes follow the request's header.
fn refusal(e: &ErrorMessage) -> Refusal {
    let rest = e.header.get(HEADER..).unwrap_or_default();
    let text = |value| String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
    let words = attributes(rest).find(|(kind, _)| *kind == ATTR_MSG).map(|(_, value)| text(value));
    Refusal { error: e.to_io(), words }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is made of dumps that say this, and how many were taken.
    fn settle(dumps: &[(&[u8], bool)]) -> (Vec<u8>, usize) {
        let mut taken = 0;
        let result = settled(|| {
            taken += 1;
            Ok((dumps[taken - 1].0.to_vec(), dumps[taken - 1].1))
        });
        (result.unwrap(), taken)
    }

    #[test]
    fn a_disturbed_dump_is_taken_again_until_it_is_sure() {
        assert_eq!(settle(&[(b"a", false)]), (b"a".into(), 1));
        assert_eq!(settle(&[(b"a", true), (b"ab", false)]), (b"ab".into(), 2));
        assert_eq!(settle(&[(b"a", true), (b"ab", true), (b"ab", true)]), (b"ab".into(), 3));
        let changing: [(&[u8], bool); DUMPS] =
            [(b"a", true), (b"b", true), (b"c", true), (b"d", true), (b"e", true)];
        assert_eq!(settle(&changing), (b"e".into(), DUMPS));
    }
}
