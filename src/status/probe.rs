//! What a network namespace itself tells of faults that no daemon sees.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};

use super::Time;

/// Groups that zebra alone listens to together on one routing socket: links, addresses, and the settings of IPv4, IPv6 and
/// MPLS (`netlink_socket` for the dataplane's incoming socket, `zebra/kernel_netlink.c`; seen so in 8.4, 10.3 and 10.7).
const ZEBRAS: u32 = group(1) | group(5) | group(9) | group(24) | group(25) | group(29);

const fn group(number: u32) -> u32 {
    1 << (number - 1)
}

/// What was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Findings {
    /// How many zebras work in it.
    pub zebras: usize,
    /// Since when, at the earliest, packets were last dropped since their TCP-MD5 signature was missing, was not expected, or
    /// was wrong.
    pub md5: [Option<Time>; 3],
}

/// What the counters of such packets were at the last look, and since when they may have grown.
#[derive(Debug, Default)]
struct Dropped {
    counts: [u64; 3],
    looked: Time,
    since: [Option<Time>; 3],
}

impl Dropped {
    fn take_in(&mut self, counts: [u64; 3], now: Time) {
        for (i, count) in counts.into_iter().enumerate() {
            if count > self.counts[i] {
                self.since[i] = Some(self.looked);
            }
        }
        (self.counts, self.looked) = (counts, now);
    }
}

/// The namespace's own tables. An open one stays that namespace's.
#[derive(Debug)]
pub struct Probe {
    netlink: File,
    netstat: File,
    dropped: Dropped,
}

impl Probe {
    /// Opens those of the calling thread's namespace.
    ///
    /// # Errors
    /// `/proc` can't be read.
    pub fn open() -> io::Result<Self> {
        let open = |name: &str| File::open(format!("/proc/thread-self/net/{name}"));
        let (netlink, mut netstat) = (open("netlink")?, open("netstat")?);
        let counts = md5(&whole(&mut netstat)?);
        let dropped = Dropped { counts, looked: Time::now(), ..Dropped::default() };
        Ok(Self { netlink, netstat, dropped })
    }

    /// Looks at them.
    ///
    /// # Errors
    /// They can't be read.
    pub fn look(&mut self) -> io::Result<Findings> {
        self.dropped.take_in(md5(&whole(&mut self.netstat)?), Time::now());
        Ok(Findings { zebras: zebras(&whole(&mut self.netlink)?), md5: self.dropped.since })
    }
}

fn whole(file: &mut File) -> io::Result<String> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text).map(|_| text)
}

fn zebras(netlink: &str) -> usize {
    let groups = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let protocol = words.next()?;
        let groups = u32::from_str_radix(words.nth(1)?, 16).ok()?;
        // NETLINK_ROUTE (linux/netlink.h).
        (protocol == "0").then_some(groups)
    };
    netlink.lines().filter_map(groups).filter(|groups| groups & ZEBRAS == ZEBRAS).count()
}

fn md5(netstat: &str) -> [u64; 3] {
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
    fn a_second_zebra_is_told_from_anyone_else() {
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
    fn counters_go_by_their_names() {
        let text = "TcpExt: SyncookiesSent TCPMD5NotFound TCPMD5Unexpected TCPMD5Failure X\nTcpExt: 1 2 3 4 5\nIpExt: A\nIpExt: 9\n";
        assert_eq!(md5(text), [2, 3, 4]);
        assert_eq!(md5("TcpExt: A\nTcpExt: 1\n"), [0; 3]);
        assert_eq!(md5(""), [0; 3]);
    }

    #[test]
    fn what_was_dropped_may_have_been_since_the_look_before() {
        let at = Time::from_secs;
        let mut dropped = Dropped { counts: [7, 0, 0], looked: at(100), ..Dropped::default() };
        dropped.take_in([7, 0, 0], at(103));
        assert_eq!(dropped.since, [None; 3]);
        dropped.take_in([7, 1, 0], at(106));
        dropped.take_in([7, 1, 0], at(109));
        assert_eq!(dropped.since, [None, Some(at(103)), None]);
    }
}
