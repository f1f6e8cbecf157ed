//! What the kernel knows of sessions that are down: the ports' own addresses, and connections that are half open. It is looked at only
//! while one is down. Parsing is pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// So much is read of a table: the host's namespace may have any number of connections.
const MOST: u64 = 1 << 20;

/// Of an address (`linux/if_addr.h`): someone else has it.
const DAD_FAILED: u32 = 0x08;

/// The scope of link-local addresses (`IPV6_ADDR_LINKLOCAL`, `net/ipv6.h`).
const LINK_SCOPE: u32 = 0x20;

/// States of connections (`net/tcp_states.h`).
const ESTABLISHED: &str = "01";
const SYN_SENT: &str = "02";
const SYN_RECEIVED: &str = "03";

/// Data that was sent so often again is not taken in.
const RETRANSMITTED: u32 = 2;

/// BGP's port (RFC 4271 §8.2.2).
const BGP: u16 = 179;

/// The link-local address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkLocal {
    /// There is one, or will be.
    There,
    /// Another station on the link has the same.
    Duplicate,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Links {
    /// Interfaces that have a link-local address.
    pub link_local: BTreeMap<String, LinkLocal>,
    /// These addresses, with their interfaces.
    pub own: BTreeSet<(String, IpAddr)>,
    /// Peers whose packets reach us, and that do not take in ours: what we send over a connection is not acknowledged, or neither
    /// their attempts to connect nor ours come to an end.
    pub deaf: BTreeSet<IpAddr>,
}

/// Looks at the namespace of a process. `None`: it is gone.
pub fn look(pid: u32) -> Option<Links> {
    let read = |name: &str| {
        let mut text = String::new();
        File::open(format!("/proc/{pid}/net/{name}")).ok()?.take(MOST).read_to_string(&mut text).ok()?;
        Some(text)
    };
    // Without IPv6 there is no such file.
    let [addresses, tcp6] = ["if_inet6", "tcp6"].map(|name| read(name).unwrap_or_default());
    let (link_local, own) = link_local(&addresses);
    Some(Links { link_local, own, deaf: deaf(&[read("tcp")?, tcp6]) })
}

/// `/proc/net/if_inet6`: address, index, prefix length, scope, flags, name.
fn link_local(text: &str) -> (BTreeMap<String, LinkLocal>, BTreeSet<(String, IpAddr)>) {
    let (mut found, mut own) = (BTreeMap::new(), BTreeSet::new());
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [address, _, _, scope, flags, name] = words[..] else { continue };
        let number = |text| u32::from_str_radix(text, 16);
        let (Ok(LINK_SCOPE), Ok(flags)) = (number(scope), number(flags)) else { continue };
        if let Ok(address) = u128::from_str_radix(address, 16) {
            own.insert((name.to_owned(), Ipv6Addr::from_bits(address).into()));
        }
        if flags & DAD_FAILED == 0 {
            found.insert(name.to_owned(), LinkLocal::There);
        } else {
            found.entry(name.to_owned()).or_insert(LinkLocal::Duplicate);
        }
    }
    (found, own)
}

/// `/proc/net/tcp` and `tcp6`: a number, both ends, the state, the lengths of the queues, the timer, retransmissions, and more
/// (`Documentation/networking/proc_net_tcp.rst`).
fn deaf(tables: &[String]) -> BTreeSet<IpAddr> {
    let (mut dials_us, mut dialled, mut unheard) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for line in tables.iter().flat_map(|table| table.lines()) {
        let mut words = line.split_whitespace().skip(1);
        let (Some(local), Some(remote), Some(state)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let (Some((_, ours)), Some((peer, theirs))) = (end(local), end(remote)) else { continue };
        match state {
            SYN_RECEIVED if ours == BGP => drop(dials_us.insert(peer)),
            SYN_SENT if theirs == BGP => drop(dialled.insert(peer)),
            ESTABLISHED if ours == BGP || theirs == BGP => {
                let waiting = words.next().and_then(|queues| queues.split(':').next());
                let again = words.nth(1).and_then(|times| u32::from_str_radix(times, 16).ok());
                let waits = waiting.is_some_and(|bytes| bytes.contains(|c| c != '0'));
                if waits && again.is_some_and(|again| again >= RETRANSMITTED) {
                    unheard.insert(peer);
                }
            }
            _ => {}
        }
    }
    dials_us.intersection(&dialled).copied().chain(unheard).collect()
}

/// An address, as words of 32 bits in the machine's order, and a port.
fn end(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words: Option<Vec<u32>> = (0..address.len() / 8)
        .map(|i| u32::from_str_radix(address.get(8 * i..8 * i + 8)?, 16).ok())
        .collect();
    let octets: Vec<u8> = words?.into_iter().flat_map(u32::to_ne_bytes).collect();
    let address = match octets.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?)),
        16 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?)),
        _ => return None,
    };
    Some((address, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_ports() {
        let text = "00000000000000000000000000000001 01 80 10 80       lo\n\
            fe80000000000000000000fffe000101 02 40 20 80     eth1\n\
            fe80000000000000000000fffe000201 03 40 20 c8     eth2\n\
            fda100000000000000000000000000ff 04 40 00 80     eth3\n\
            fe80000000000000000000fffe000401 05 40 20 c0     eth4\n";
        let (found, own) = link_local(text);
        assert!(own.contains(&("eth1".to_owned(), "fe80::ff:fe00:101".parse().unwrap())) && own.len() == 3);
        assert_eq!(found.get("eth1"), Some(&LinkLocal::There));
        assert_eq!(found.get("eth2"), Some(&LinkLocal::Duplicate));
        assert_eq!(found.get("eth3"), None);
        assert_eq!(found.get("eth4"), Some(&LinkLocal::There), "it is being tried");
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn who_does_not_take_in_what_we_send() {
        let line = |local: &str, remote: &str, state: &str| {
            format!("   0: {local} {remote} {state} 00000000:00000000\n")
        };
        let (us, peer) = ("000080FE000000000000000001010000", "000080FE00000000FF00FA0201020000");
        let dials_us = line(&format!("{us}:00B3"), &format!("{peer}:A001"), SYN_RECEIVED);
        let dialled = line(&format!("{us}:A002"), &format!("{peer}:00B3"), SYN_SENT);
        assert_eq!(deaf(&[dials_us.clone(), String::new()]), BTreeSet::new());
        assert_eq!(deaf(std::slice::from_ref(&dialled)), BTreeSet::new());
        let peer: IpAddr = "fe80::2fa:ff:0:201".parse().unwrap();
        assert_eq!(deaf(&["sl local_address".into(), dials_us + &dialled]), BTreeSet::from([peer]));
        let four = line("0100000A:00B3", "0200000A:1000", SYN_RECEIVED)
            + &line("0100000A:1000", "0200000A:00B3", SYN_SENT);
        assert_eq!(deaf(&[four]), BTreeSet::from(["10.0.0.2".parse().unwrap()]));
        let sent = |tail: &str| format!("   5: 0100000A:00B3 0200000A:1000 01 {tail}\n");
        assert_eq!(deaf(&[sent("0000002B:00000000 01:0000001A 00000003 0 0 1")]).len(), 1);
        assert_eq!(deaf(&[sent("0000002B:00000000 01:0000001A 00000001 0 0 1")]).len(), 0);
        assert_eq!(deaf(&[sent("00000000:00000000 02:0000001A 00000003 0 0 1")]).len(), 0);
        assert_eq!(end("zz:00B3"), None);
        assert_eq!(end("00:00B3"), None);
    }
}
