//! A blocking rtnetlink socket. Errors contain the kernel's own message (extended acknowledgement).

use std::fmt;
use std::io;

use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage, NetlinkPayload,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::attributes::attributes;
use super::rtnl::RtnlMessage;

/// A failed netlink request.
#[derive(Debug)]
pub struct NetlinkError {
    /// The errno, or the error of the socket.
    pub source: io::Error,
    /// The kernel's message about the error (`NLMSGERR_ATTR_MSG`), if it sent one.
    pub message: Option<String>,
}

impl fmt::Display for NetlinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.message {
            Some(message) => write!(f, "{message} ({})", self.source),
            None => self.source.fmt(f),
        }
    }
}

impl std::error::Error for NetlinkError {}

impl From<io::Error> for NetlinkError {
    fn from(error: io::Error) -> Self {
        Self { source: error, message: None }
    }
}

impl From<NetlinkError> for io::Error {
    /// Keeps the text only. Callers of this conversion do not need the errno.
    fn from(error: NetlinkError) -> Self {
        Self::other(error.to_string())
    }
}

/// An rtnetlink socket. It stays in the network namespace in which it was opened.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket in the calling thread's namespace.
    ///
    /// # Errors
    /// The socket can't be opened.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        socket.set_netlink_get_strict_chk(true)?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The cookie of the socket's network namespace. It is unique until the next reboot.
    ///
    /// # Errors
    /// A kernel before 5.14 has none.
    pub fn netns_cookie(&self) -> io::Result<u64> {
        super::cookie::of(&self.socket)
    }

    /// Sends a change with `flags` in addition to request and acknowledge. Waits for the acknowledgement.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn change(&mut self, message: RtnlMessage, flags: u16) -> Result<(), NetlinkError> {
        self.exchange(&mut request(message, NLM_F_ACK | flags), &mut |_| {}).map(drop)
    }

    /// Reads one object. `take` gets the bytes of the reply without the netlink header, and returns the result.
    ///
    /// # Errors
    /// The kernel refused; `ENODEV` if a link does not exist.
    pub fn get<T>(
        &mut self,
        message: RtnlMessage,
        take: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, NetlinkError> {
        let mut reply = None;
        self.exchange(&mut request(message, NLM_F_ACK), &mut |message| reply = take(&message[HEADER..]))?;
        Ok(reply)
    }

    /// Dumps all objects of a type, and collects the results of `take`. Repeats a dump that a change interrupted: see
    /// [`dump_until_stable`].
    ///
    /// # Errors
    /// The kernel refused.
    pub fn dump<T: PartialEq>(
        &mut self,
        message: RtnlMessage,
        take: impl Fn(RtnlMessage) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        self.dump_filtered(message, |_| true, take)
    }

    /// Like [`Self::dump`], but parses only messages for which `is_wanted` returns true. It gets the bytes without the
    /// netlink header.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn dump_filtered<T: PartialEq>(
        &mut self,
        message: RtnlMessage,
        is_wanted: impl Fn(&[u8]) -> bool,
        take: impl Fn(RtnlMessage) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        self.dump_messages(message, |message| {
            is_wanted(&message[HEADER..]).then(|| take(object(message)?)).flatten()
        })
    }

    /// Like [`Self::dump`], but `take` gets the bytes of each message without the netlink header.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn dump_raw<T: PartialEq>(
        &mut self,
        message: RtnlMessage,
        take: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        self.dump_messages(message, |message| take(&message[HEADER..]))
    }

    /// Dumps all objects of a type without collecting them. Returns whether a change interrupted the dump: objects may
    /// be missing or duplicate then.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn stream(
        &mut self,
        message: RtnlMessage,
        take: &mut dyn FnMut(RtnlMessage),
    ) -> Result<bool, NetlinkError> {
        self.exchange(&mut request(message, NLM_F_DUMP), &mut |message| {
            object(message).into_iter().for_each(&mut *take);
        })
    }

    /// Sends many changes, some hundred in one datagram. Waits only for the acknowledgement of the last change in each
    /// datagram. Returns the number of failed changes and the first error. Errnos in `expected` do not count as
    /// failures.
    ///
    /// # Errors
    /// The socket fails.
    pub fn change_all(
        &mut self,
        mut batch: Batch,
        expected: &[i32],
    ) -> Result<(usize, Option<NetlinkError>), NetlinkError> {
        let (mut failed, mut first) = (0, None);
        let mut begin = 0;
        while begin < batch.0.len() {
            let mut end = begin;
            let mut last = begin;
            while end < batch.0.len() && end - begin < BATCH_BYTES {
                self.sequence = self.sequence.wrapping_add(1);
                batch.set_sequence(end, self.sequence);
                last = end;
                end += batch.length_at(end);
            }
            let flags = u16::from_ne_bytes([batch.0[last + 6], batch.0[last + 7]]) | NLM_F_ACK;
            batch.0[last + 6..last + 8].copy_from_slice(&flags.to_ne_bytes());
            self.socket.send(&batch.0[begin..end], 0)?;
            begin = end;
            self.read_acks(&mut |error| {
                let code = error.to_io().raw_os_error();
                if error.code.is_some() && !code.is_some_and(|code| expected.contains(&code)) {
                    failed += 1;
                    first.get_or_insert_with(|| netlink_error(error));
                }
            })?;
        }
        Ok((failed, first))
    }

    /// Reads acknowledgements and errors up to that of the last message sent, which has the current sequence number.
    fn read_acks(&mut self, take: &mut dyn FnMut(&ErrorMessage)) -> Result<(), NetlinkError> {
        let mut buffer = Vec::with_capacity(DATAGRAM);
        loop {
            self.receive(&mut buffer)?;
            for message in messages(&buffer) {
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

    /// Dumps all objects of a type until the result is stable. `take` gets each message with its header.
    fn dump_messages<T: PartialEq>(
        &mut self,
        message: RtnlMessage,
        take: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        let mut request = request(message, NLM_F_DUMP);
        dump_until_stable(|| {
            let mut objects = Vec::new();
            let mut keep = |message: &[u8]| objects.extend(take(message));
            let interrupted = self.exchange(&mut request, &mut keep)?;
            Ok((objects, interrupted))
        })
    }

    /// Receives one datagram. The sockets keep no buffer: they are idle most of the time.
    fn receive(&self, buffer: &mut Vec<u8>) -> io::Result<()> {
        buffer.clear();
        if self.socket.recv(buffer, libc::MSG_TRUNC)? > buffer.len() {
            return Err(io::Error::other("netlink message too long"));
        }
        Ok(())
    }

    /// Sends a request, the only message of the batch, and passes each object in the reply to `take`. Returns whether a
    /// change interrupted a dump.
    fn exchange(&mut self, request: &mut Batch, take: &mut dyn FnMut(&[u8])) -> Result<bool, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        request.set_sequence(0, self.sequence);
        self.socket.send(&request.0, 0)?;

        let mut buffer = Vec::with_capacity(DATAGRAM);
        let mut interrupted = false;
        loop {
            self.receive(&mut buffer)?;
            for message in messages(&buffer) {
                let message = message?;
                let header = NetlinkBuffer::new(message);
                if header.sequence_number() != self.sequence {
                    continue;
                }
                interrupted |= header.flags() & NLM_F_DUMP_INTR != 0;
                if header.message_type() >= FIRST_OBJECT {
                    take(message);
                    continue;
                }
                match parse(message)?.payload {
                    NetlinkPayload::Error(e) if e.code.is_some() => return Err(netlink_error(&e)),
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code).into());
                    }
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(interrupted),
                    _ => {}
                }
            }
        }
    }
}

/// Turns the error `errno` into success: it means that there is nothing to change.
///
/// # Errors
/// The change failed with another error.
pub fn ignore_errno(errno: i32, result: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match result {
        Err(error) if error.source.raw_os_error() == Some(errno) => Ok(()),
        other => other,
    }
}

/// A batch of one request with `flags` in addition to request.
fn request(message: RtnlMessage, flags: u16) -> Batch {
    let mut batch = Batch::default();
    batch.push(message, flags);
    batch
}

/// Serialized requests, one message after the other.
#[derive(Debug, Default)]
pub struct Batch(Vec<u8>);

impl Batch {
    /// Adds a request with `flags` in addition to request.
    pub fn push(&mut self, message: RtnlMessage, flags: u16) {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        request.finalize();
        let (begin, length) = (self.0.len(), request.buffer_len());
        self.0.resize(begin + length.next_multiple_of(4), 0);
        request.serialize(&mut self.0[begin..begin + length]);
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Sets the sequence number of the message at offset `at`.
    fn set_sequence(&mut self, at: usize, sequence: u32) {
        self.0[at + 8..at + 12].copy_from_slice(&sequence.to_ne_bytes());
    }

    /// Length, with padding, of the message at offset `at`.
    fn length_at(&self, at: usize) -> usize {
        let length = u32::from_ne_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]]);
        (length as usize).next_multiple_of(4)
    }
}

/// Maximum size of one datagram of changes in bytes. The kernel applies a whole datagram before it handles other
/// requests.
const BATCH_BYTES: usize = 16 << 10;

/// Maximum number of dumps per request.
const MAX_DUMPS: usize = 5;

/// Repeats a dump until no change interrupts it or until two dumps in a row have the same relevant content. For
/// example, thousands of new links get their IPv6 addresses over several seconds, which interrupts every dump of
/// addresses but does not matter here. After [`MAX_DUMPS`] the last dump counts: netlink events announce what changed
/// meanwhile.
fn dump_until_stable<T: PartialEq>(
    mut dump: impl FnMut() -> Result<(Vec<T>, bool), NetlinkError>,
) -> Result<Vec<T>, NetlinkError> {
    let (mut last, mut interrupted) = dump()?;
    for _ in 1..MAX_DUMPS {
        if !interrupted {
            break;
        }
        let again = dump()?;
        interrupted = again.1 && again.0 != last;
        last = again.0;
    }
    Ok(last)
}

/// Buffer size for one datagram in bytes: the kernel fills at most 32 KiB with a dump (`netlink_dump`,
/// `net/netlink/af_netlink.c`).
const DATAGRAM: usize = 64 << 10;
/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Lowest message type of objects; lower types are control messages (`NLMSG_MIN_TYPE`, `linux/netlink.h`).
const FIRST_OBJECT: u16 = 16;
/// The dump is inconsistent (`NLM_F_DUMP_INTR`, `linux/netlink.h`).
const NLM_F_DUMP_INTR: u16 = 0x10;
/// The attribute of an error with the kernel's message (`NLMSGERR_ATTR_MSG`, `linux/netlink.h`).
const NLMSGERR_ATTR_MSG: u16 = 1;

/// The messages of a datagram, each with its header. The last item is an error if the rest of the datagram is
/// malformed.
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

fn parse(message: &[u8]) -> io::Result<NetlinkMessage<RtnlMessage>> {
    NetlinkMessage::deserialize(message).map_err(|e| io::Error::other(e.to_string()))
}

/// The object in a message. A message that the crate can't parse is skipped, so that it does not hide the other
/// objects.
fn object(message: &[u8]) -> Option<RtnlMessage> {
    match NetlinkMessage::deserialize(message) {
        Ok(NetlinkMessage { payload: NetlinkPayload::InnerMessage(object), .. }) => Some(object),
        Ok(_) => None,
        Err(e) => {
            log::debug!(
                "netlink message of type {} skipped: {e}",
                NetlinkBuffer::new(message).message_type()
            );
            None
        }
    }
}

/// Converts an error message. With `NETLINK_CAP_ACK` the attributes follow the header of the request.
fn netlink_error(e: &ErrorMessage) -> NetlinkError {
    let rest = e.header.get(HEADER..).unwrap_or_default();
    let text = |value| String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
    let message = attributes(rest).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG).map(|(_, value)| text(value));
    NetlinkError { source: e.to_io(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The result of these dumps, and how many of them were used. Each has its content and whether it was interrupted.
    fn settle(dumps: &[(&[u8], bool)]) -> (Vec<u8>, usize) {
        let mut used = 0;
        let result = dump_until_stable(|| {
            used += 1;
            Ok((dumps[used - 1].0.to_vec(), dumps[used - 1].1))
        });
        (result.unwrap(), used)
    }

    #[test]
    fn an_interrupted_dump_is_repeated_until_it_is_stable() {
        assert_eq!(settle(&[(b"a", false)]), (b"a".into(), 1));
        assert_eq!(settle(&[(b"a", true), (b"ab", false)]), (b"ab".into(), 2));
        assert_eq!(settle(&[(b"a", true), (b"ab", true), (b"ab", true)]), (b"ab".into(), 3));
        let changing: [(&[u8], bool); MAX_DUMPS] =
            [(b"a", true), (b"b", true), (b"c", true), (b"d", true), (b"e", true)];
        assert_eq!(settle(&changing), (b"e".into(), MAX_DUMPS));
    }
}
