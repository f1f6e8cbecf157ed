//! Counters of the network namespace that show faults which no daemon reports: a second zebra, and wrong TCP-MD5
//! signatures.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};

use crate::time::Time;

/// Multicast groups that only zebra subscribes together on one routing socket: links, addresses, and the settings of
/// IPv4, IPv6 and MPLS (`netlink_socket` for the dataplane's incoming socket, `zebra/kernel_netlink.c`; measured in
/// 8.4, 10.3 and 10.7).
const ZEBRA_GROUPS: u32 = group(1) | group(5) | group(9) | group(24) | group(25) | group(29);

/// Protocol number of routing sockets (`linux/netlink.h`).
const NETLINK_ROUTE: &str = "0";

const fn group(number: u32) -> u32 {
    1 << (number - 1)
}

/// The result of reading the counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Findings {
    /// Number of zebra processes in the namespace.
    pub zebras: usize,
    /// Earliest time of the last packets that the kernel dropped because their TCP-MD5 signature was missing,
    /// unexpected or wrong, in this order.
    pub md5: [Option<Time>; 3],
}

/// Counters of packets dropped for their TCP-MD5 signature.
#[derive(Debug, Default)]
struct Md5Drops {
    counts: [u64; 3],
    /// When `counts` were read.
    read_at: Time,
    /// Earliest time of the last increase of each counter.
    since: [Option<Time>; 3],
}

impl Md5Drops {
    fn update(&mut self, counts: [u64; 3], now: Time) {
        for (i, count) in counts.into_iter().enumerate() {
            if count > self.counts[i] {
                self.since[i] = Some(self.read_at);
            }
        }
        (self.counts, self.read_at) = (counts, now);
    }
}

/// Reads the counters of one network namespace. The open files stay bound to that namespace.
#[derive(Debug)]
pub struct Probe {
    netlink: File,
    netstat: File,
    drops: Md5Drops,
}

impl Probe {
    /// Opens the counters of the calling thread's namespace.
    ///
    /// # Errors
    /// `/proc` can't be read.
    pub fn open() -> io::Result<Self> {
        let open = |name: &str| File::open(format!("/proc/thread-self/net/{name}"));
        let (netlink, mut netstat) = (open("netlink")?, open("netstat")?);
        let counts = md5_counters(&read_all(&mut netstat)?);
        let drops = Md5Drops { counts, read_at: Time::now(), ..Md5Drops::default() };
        Ok(Self { netlink, netstat, drops })
    }

    /// Reads the counters.
    ///
    /// # Errors
    /// `/proc` can't be read.
    pub fn read(&mut self) -> io::Result<Findings> {
        self.drops.update(md5_counters(&read_all(&mut self.netstat)?), Time::now());
        Ok(Findings { zebras: zebras(&read_all(&mut self.netlink)?), md5: self.drops.since })
    }
}

fn read_all(file: &mut File) -> io::Result<String> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text).map(|_| text)
}

/// Number of zebra processes in `/proc/net/netlink`.
fn zebras(netlink: &str) -> usize {
    let groups = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let protocol = fields.next()?;
        let groups = u32::from_str_radix(fields.nth(1)?, 16).ok()?;
        (protocol == NETLINK_ROUTE).then_some(groups)
    };
    netlink.lines().filter_map(groups).filter(|groups| groups & ZEBRA_GROUPS == ZEBRA_GROUPS).count()
}

/// Counters of packets dropped for a missing, an unexpected and a wrong TCP-MD5 signature, in `/proc/net/netstat`.
fn md5_counters(netstat: &str) -> [u64; 3] {
    let mut lines = netstat.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let value = |name: &str| {
        let mut pairs = names.split(' ').zip(values.split(' '));
        pairs.find(|(n, _)| *n == name).and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
    };
    ["TCPMD5NotFound", "TCPMD5Unexpected", "TCPMD5Failure"].map(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sockets_of_zebra_are_counted() {
        let table = "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n\
            000000008a9e1a83 0   1010       800404e0 0        0        0     2        0        1007\n\
            00000000a66157eb 0   3730027664 018405d1 0        0        0     2        0        920\n\
            000000003de70dda 0   3876706511 1180011d 0        0        0     2        0        1010\n\
            0000000066a77777 0   3848055162 11800111 0        0        0     2        0        1168\n\
            00000000dc19e579 9   0          11800111 0        0        0     2        0        894\n";
        assert_eq!(zebras(table), 2);
        assert_eq!(zebras(""), 0);
    }

    #[test]
    fn counters_are_found_by_name() {
        let text = "TcpExt: SyncookiesSent TCPMD5NotFound TCPMD5Unexpected TCPMD5Failure X\nTcpExt: 1 2 3 4 5\nIpExt: A\nIpExt: 9\n";
        assert_eq!(md5_counters(text), [2, 3, 4]);
        assert_eq!(md5_counters("TcpExt: A\nTcpExt: 1\n"), [0; 3]);
        assert_eq!(md5_counters(""), [0; 3]);
    }

    #[test]
    fn packets_can_have_been_dropped_since_the_read_before() {
        let at = Time::from_secs;
        let mut drops = Md5Drops { counts: [7, 0, 0], read_at: at(100), ..Md5Drops::default() };
        drops.update([7, 0, 0], at(103));
        assert_eq!(drops.since, [None; 3]);
        drops.update([7, 1, 0], at(106));
        drops.update([7, 1, 0], at(109));
        assert_eq!(drops.since, [None, Some(at(103)), None]);
    }
}
