//! The FRR daemons that we run, and all that differs between FRR's versions in how they are run.

use std::fmt;

/// Where the distribution puts the daemons (Debian's package and the official container image agree).
pub const BIN_DIR: &str = "/usr/lib/frr";

/// Where everything generated lives. It is root's: no daemon can put anything in another's place there.
pub const RUN_DIR: &str = "/run/frr";

/// Where FRR's user has its sockets, and nothing else is. mgmtd's can be moved by `-N` alone (`frr_runstatedir`,
/// `lib/libfrr.c`), which is below what FRR has compiled in as its run directory, [`RUN_DIR`].
pub const SOCKET_DIR: &str = "/run/frr/sockets";

/// The same, for `-N`.
const PATHSPACE: &str = "sockets";

/// Seconds for which a new zebra keeps the routes of the last one before it removes what was not
/// announced again. Longer than `GR_SELECT_DEFER_TIME` may be, so that bgpd has spoken by then.
const ZEBRA_KEEP_S: u32 = 60;

/// Receive buffer of zebra's netlink socket in bytes, as the packages set it.
const ZEBRA_NETLINK_BUFFER: &str = "90000000";

/// One of FRR's programs.
#[derive(Debug, PartialEq, Eq)]
pub struct Daemon {
    /// File name, which is also the name of its vty socket.
    pub name: &'static str,
    /// Those that must answer before it is started.
    pub after: &'static [&'static str],
    /// Those that can't go on after it died, and are killed to be restarted with it: bgpd does not
    /// announce its routes again to a new zebra, and when a BFD session ends only a BGP session that
    /// is already in graceful restart survives (see `frr::bfd`).
    pub takes_along: &'static [&'static str],
    /// Whether its death, or its successor's start, may cost the kernel BGP routes.
    pub holds_routes: bool,
    /// Whether peers have to be told of its death, before those that it takes along come back.
    pub holds_sessions: bool,
    /// Whether those before it must also have their configuration when it is started.
    pub after_configuration: bool,
    /// Whether others come to it for their configuration, and what is loaded into it meanwhile may get lost.
    pub has_backends: bool,
    /// The first FRR version that has it.
    since: Version,
}

/// All of them, in the order in which they are started.
pub const DAEMONS: &[Daemon] = &[
    Daemon { since: Version(9, 0), has_backends: true, ..daemon("mgmtd", &[]) },
    Daemon { takes_along: &["bgpd"], holds_routes: true, ..daemon("zebra", &["mgmtd"]) },
    daemon("staticd", &["mgmtd", "zebra"]),
    Daemon { takes_along: &["bgpd"], holds_sessions: true, ..daemon("bfdd", &["mgmtd", "zebra"]) },
    Daemon { holds_routes: true, ..daemon("bgpd", &["mgmtd", "zebra"]) },
];

/// bgpd where the node is a VTEP. zebra clears what a bgpd gave it for EVPN out of the kernel when that is gone, graceful
/// restart or not (`zebra_evpn_vrf_cfg_cleanup`, `zebra/zebra_vxlan.c`; from 10.6 on because of bgpd's second
/// connection), so it is not left the time: it goes first (see `supervisor::fuse`). And a VNI that becomes a VRF's only
/// after bgpd has asked for all of them is cleared once more (`zebra_vxlan_handle_vni_transition`).
static BGPD_OF_VTEP: Daemon = Daemon {
    takes_along: &["zebra"],
    after_configuration: true,
    holds_routes: true,
    ..daemon("bgpd", &["mgmtd", "zebra"])
};

const fn daemon(name: &'static str, after: &'static [&'static str]) -> Daemon {
    Daemon {
        name,
        after,
        takes_along: &[],
        holds_routes: false,
        holds_sessions: false,
        after_configuration: false,
        has_backends: false,
        since: Version(0, 0),
    }
}

/// Major and minor version of FRR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u16, pub u16);

impl Version {
    /// The newest that is tested.
    pub const NEWEST: Self = Self(10, 7);

    /// Reads it from what `zebra --version` prints: `zebra version 10.3`.
    pub fn parse(output: &str) -> Option<Self> {
        let number = output.split_whitespace().skip_while(|word| *word != "version").nth(1)?;
        let mut parts = number.split(|c: char| !c.is_ascii_digit());
        Some(Self(parts.next()?.parse().ok()?, parts.next().and_then(|p| p.parse().ok()).unwrap_or(0)))
    }

    /// The daemons to run with this version: bfdd only `with_bfd`, since its death would cost bgpd's sessions.
    pub fn daemons(self, with_bfd: bool, is_vtep: bool) -> Vec<&'static Daemon> {
        let wanted = |daemon: &&Daemon| daemon.since <= self && (with_bfd || daemon.name != "bfdd");
        let of_vtep =
            |daemon: &'static Daemon| if is_vtep && daemon.name == "bgpd" { &BGPD_OF_VTEP } else { daemon };
        DAEMONS.iter().filter(wanted).map(of_vtep).collect()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

impl Daemon {
    /// Those before it that it takes along: they go as it goes, and are back before it.
    pub fn foundations(&self) -> impl Iterator<Item = &'static str> {
        self.after.iter().copied().filter(|name| self.takes_along.contains(name))
    }

    /// Whether the file that it reads, if there is one, holds all of its configuration.
    pub fn reads_all(&self) -> bool {
        self.name != "zebra"
    }

    /// Its command line after the program's name: in the foreground, logging to our pipe, without a TCP vty. `config` is the
    /// file that it reads, if it reads one, and `pid` the one that it locks and writes its number to.
    pub fn arguments(&self, version: Version, config: Option<&str>, pid: &str) -> Vec<String> {
        let mut args: Vec<String> =
            ["--log", "stdout", "--log-level", "informational", "-P", "0"].map(Into::into).into();
        args.extend(["-N", PATHSPACE, "--vty_socket", SOCKET_DIR, "-i", pid].map(Into::into));
        if let Some(config) = config {
            args.extend(["-f".into(), config.into()]);
        }
        if self.name == "zebra" {
            if config.is_none() {
                // It would look for a file of its own and complain.
                args.extend(["-f".into(), "/dev/null".into()]);
            }
            args.extend(["-s".into(), ZEBRA_NETLINK_BUFFER.into()]);
            // From 10.0 the value must stick to the flag: with a blank it is silently 500 s.
            if version < Version(10, 0) {
                args.extend(["-K".into(), ZEBRA_KEEP_S.to_string()]);
            } else {
                args.push(format!("-K{ZEBRA_KEEP_S}"));
            }
        }
        args
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(Version::parse("zebra version 10.3\nCopyright"), Some(Version(10, 3)));
        assert_eq!(Version::parse("zebra version 8.4.4\n"), Some(Version(8, 4)));
        assert_eq!(Version::parse("zebra version 10.7.1-1 (x)"), Some(Version(10, 7)));
        assert_eq!(Version::parse("no such file"), None);
        assert!(Version(8, 4).daemons(true, false).iter().all(|d| d.name != "mgmtd"));
        assert!(Version(10, 3).daemons(false, false).iter().any(|d| d.name == "mgmtd"));
    }

    #[test]
    fn keep_time_sticks_to_its_flag_from_ten_on() {
        let zebra = DAEMONS.iter().find(|d| d.name == "zebra").unwrap();
        assert!(zebra.arguments(Version(10, 3), None, "pid").contains(&"-K60".to_owned()));
        assert_eq!(SOCKET_DIR, format!("{RUN_DIR}/{PATHSPACE}"));
        assert!(zebra.arguments(Version(8, 4), None, "pid").windows(2).any(|w| w == ["-K", "60"]));
    }
}
