//! The daemons that a top-level line or context belongs to.
//!
//! A bgpd that gets its configuration through a vty rejects connections until it has it, and a rejected speaker
//! connects again only after its restart timer. A bgpd that reads a file listens only when it has its whole
//! configuration. The other daemons get their configuration from vtysh (in FRR 10 only mgmtd can pass it on). zebra
//! reads a file only with the settings for routes in the kernel, which it must know before bgpd sends the first route.

use super::super::{DaemonKind, Version};

/// Who reads a top-level line from a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileReader {
    /// No daemon: vtysh sends it.
    None,
    /// This daemon.
    Daemon(DaemonKind),
    /// Every daemon that reads a file.
    All,
}

/// The daemons that a top-level line or context belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LineOwner {
    /// The line is unknown.
    Unknown,
    /// Every daemon.
    All,
    /// These daemons.
    Daemons(Vec<DaemonKind>),
}

/// The daemons that have a line, whoever reads it first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owners {
    Unknown,
    All,
    Bgpd,
    Bfdd,
    Zebra,
    /// zebra, which in FRR 10 gets it from mgmtd.
    ZebraByMgmtd,
    /// bgpd, and zebra as in [`Self::ZebraByMgmtd`].
    BgpdAndZebra,
    /// staticd, which in FRR 10 gets it from mgmtd.
    StaticdByMgmtd,
}

/// The known top-level lines by their beginning. The first matching row counts.
const ROWS: [(&str, FileReader, Owners); 27] = {
    use FileReader::{All, Daemon, None};
    const BGPD: FileReader = Daemon(DaemonKind::Bgpd);
    const BFDD: FileReader = Daemon(DaemonKind::Bfdd);
    const ZEBRA: FileReader = Daemon(DaemonKind::Zebra);
    [
        ("frr ", All, Owners::All),
        ("log ", All, Owners::All),
        ("hostname ", All, Owners::All),
        ("router bgp ", BGPD, Owners::Bgpd),
        ("bgp ", BGPD, Owners::Bgpd),
        ("route-map ", BGPD, Owners::BgpdAndZebra),
        ("ip prefix-list ", BGPD, Owners::BgpdAndZebra),
        ("ipv6 prefix-list ", BGPD, Owners::BgpdAndZebra),
        ("access-list ", BGPD, Owners::BgpdAndZebra),
        ("ipv6 access-list ", BGPD, Owners::BgpdAndZebra),
        ("bfd", BFDD, Owners::Bfdd),
        ("no zebra ", ZEBRA, Owners::Zebra),
        ("zebra ", ZEBRA, Owners::Zebra),
        ("debug bgp ", BGPD, Owners::All),
        ("debug bfd ", BFDD, Owners::All),
        ("debug ", None, Owners::All),
        ("service ", None, Owners::All),
        ("interface ", None, Owners::ZebraByMgmtd),
        ("vrf ", None, Owners::ZebraByMgmtd),
        ("ip protocol ", None, Owners::ZebraByMgmtd),
        ("ipv6 protocol ", None, Owners::ZebraByMgmtd),
        ("ip nht ", None, Owners::ZebraByMgmtd),
        ("ipv6 nht ", None, Owners::ZebraByMgmtd),
        ("ip route ", None, Owners::StaticdByMgmtd),
        ("ipv6 route ", None, Owners::StaticdByMgmtd),
        ("ip ", None, Owners::Unknown),
        ("ipv6 ", None, Owners::Unknown),
    ]
};

/// Prefix of a line that only a route map of zebra contains; bgpd does not know it.
const SET_SOURCE: &str = "set src ";

fn row(head: &str) -> Option<&'static (&'static str, FileReader, Owners)> {
    ROWS.iter().find(|(first, ..)| head.starts_with(first))
}

/// Who reads a context with this head and these lines from a file. `None`: the head is unknown.
pub fn file_reader<'a>(head: &str, mut lines: impl Iterator<Item = &'a str>) -> Option<FileReader> {
    let (_, reader, owners) = *row(head)?;
    let is_of_zebra = owners == Owners::BgpdAndZebra && lines.any(|line| line.starts_with(SET_SOURCE));
    Some(if is_of_zebra { FileReader::None } else { reader })
}

/// The owners of a context with this head and these lines if all daemons run: those that read it from a file, and those
/// that vtysh sends it to.
pub fn line_owners(head: &str, lines: &[String], version: Version) -> LineOwner {
    let by_mgmtd = |daemon| if version < Version(10, 0) { daemon } else { DaemonKind::Mgmtd };
    let zebra = by_mgmtd(DaemonKind::Zebra);
    let owners = row(head).map_or(Owners::Unknown, |(.., owners)| *owners);
    LineOwner::Daemons(match owners {
        Owners::Unknown => return LineOwner::Unknown,
        Owners::All => return LineOwner::All,
        Owners::Bgpd => vec![DaemonKind::Bgpd],
        Owners::Bfdd => vec![DaemonKind::Bfdd],
        Owners::Zebra => vec![DaemonKind::Zebra],
        Owners::ZebraByMgmtd => vec![zebra],
        Owners::BgpdAndZebra if lines.iter().any(|line| line.starts_with(SET_SOURCE)) => vec![zebra],
        Owners::BgpdAndZebra => vec![DaemonKind::Bgpd, zebra],
        Owners::StaticdByMgmtd => vec![by_mgmtd(DaemonKind::Staticd)],
    })
}
