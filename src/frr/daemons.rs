//! The FRR daemons, the order and dependencies of their starts, and their command lines in each FRR version.

use std::fmt;

/// The directory of the daemons, both in Debian's package and in the official container image.
pub const BIN_DIR: &str = "/usr/lib/frr";

/// The directory of all generated files. It belongs to root, so that no daemon can replace a file in it.
pub const RUN_DIR: &str = "/run/frr";

/// The directory of the daemons' sockets. It belongs to FRR's user and contains nothing else. Only `-N` moves mgmtd's
/// sockets (`frr_runstatedir`, `lib/libfrr.c`), to a directory below [`RUN_DIR`], FRR's compiled-in run directory.
pub const SOCKET_DIR: &str = "/run/frr/sockets";

/// The argument of `-N` for [`SOCKET_DIR`].
const PATHSPACE: &str = "sockets";

/// Seconds for which a new zebra keeps the routes of its predecessor; then it removes those that were not announced
/// again. Longer than the maximum of `GR_SELECT_DEFER_TIME`, so that bgpd has announced its routes by then.
const ZEBRA_GRACEFUL_RESTART_S: u32 = 60;

/// Receive buffer of zebra's netlink socket in bytes; the value of the distribution packages.
const ZEBRA_NETLINK_BUFFER: &str = "90000000";

/// The daemons that we know, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DaemonKind {
    /// Has the configuration of zebra and staticd from FRR 10 on.
    Mgmtd,
    /// Routes in the kernel.
    Zebra,
    /// Static routes.
    Staticd,
    /// BFD.
    Bfdd,
    /// BGP.
    Bgpd,
}

impl DaemonKind {
    /// File name of the program and of its vty socket.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mgmtd => "mgmtd",
            Self::Zebra => "zebra",
            Self::Staticd => "staticd",
            Self::Bfdd => "bfdd",
            Self::Bgpd => "bgpd",
        }
    }
}

impl log::kv::ToValue for DaemonKind {
    fn to_value(&self) -> log::kv::Value<'_> {
        self.name().into()
    }
}

impl fmt::Display for DaemonKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A daemon of FRR.
#[derive(Debug, PartialEq, Eq)]
pub struct Daemon {
    /// Which one it is.
    pub kind: DaemonKind,
    /// The daemons that must be responsive before this one starts.
    pub after: &'static [DaemonKind],
    /// The daemons that must restart when this one crashes. They are killed and started again: bgpd does not announce
    /// its routes again to a new zebra, and the end of a BFD session ends every BGP session that is not already in
    /// graceful restart (see `frr::bfd`).
    pub dependents: &'static [DaemonKind],
    /// Whether a crash or restart of this daemon may remove BGP routes from the kernel.
    pub owns_kernel_routes: bool,
    /// Whether the peers get an AdminDown packet for its BFD sessions after a crash, before its dependents start.
    pub owns_bfd_sessions: bool,
    /// Whether the daemons in `after` must also have their configuration before this one starts.
    pub after_configuration: bool,
    /// Whether other daemons get their configuration from this one. A configuration that is loaded while one of them
    /// connects may get lost.
    pub has_backends: bool,
    /// The first FRR version with this daemon.
    since: Version,
}

/// All daemons, in the order of their start.
pub const DAEMONS: &[Daemon] = &[
    Daemon { since: Version(9, 0), has_backends: true, ..daemon(DaemonKind::Mgmtd, &[]) },
    Daemon {
        dependents: &[DaemonKind::Bgpd],
        owns_kernel_routes: true,
        ..daemon(DaemonKind::Zebra, &[DaemonKind::Mgmtd])
    },
    daemon(DaemonKind::Staticd, &[DaemonKind::Mgmtd, DaemonKind::Zebra]),
    Daemon {
        dependents: &[DaemonKind::Bgpd],
        owns_bfd_sessions: true,
        ..daemon(DaemonKind::Bfdd, &[DaemonKind::Mgmtd, DaemonKind::Zebra])
    },
    Daemon { owns_kernel_routes: true, ..daemon(DaemonKind::Bgpd, &[DaemonKind::Mgmtd, DaemonKind::Zebra]) },
];

/// bgpd on a VTEP. When bgpd ends, zebra removes its EVPN state from the kernel, despite graceful restart
/// (`zebra_evpn_vrf_cfg_cleanup`, `zebra/zebra_vxlan.c`; from 10.6 on because of bgpd's second connection). Therefore
/// zebra is killed before it can do that (see `supervisor::linked_kill`). zebra also removes the state of a VNI that
/// becomes the L3 VNI of a VRF after bgpd has requested all VNIs (`zebra_vxlan_handle_vni_transition`); therefore bgpd
/// starts after zebra has its configuration.
static VTEP_BGPD: Daemon = Daemon {
    dependents: &[DaemonKind::Zebra],
    after_configuration: true,
    owns_kernel_routes: true,
    ..daemon(DaemonKind::Bgpd, &[DaemonKind::Mgmtd, DaemonKind::Zebra])
};

const fn daemon(kind: DaemonKind, after: &'static [DaemonKind]) -> Daemon {
    Daemon {
        kind,
        after,
        dependents: &[],
        owns_kernel_routes: false,
        owns_bfd_sessions: false,
        after_configuration: false,
        has_backends: false,
        since: Version(0, 0),
    }
}

/// Major and minor version of FRR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u16, pub u16);

impl Version {
    /// The newest version that is tested.
    pub const NEWEST: Self = Self(10, 7);

    /// Parses the output of `zebra --version`: `zebra version 10.3`.
    pub fn parse(output: &str) -> Option<Self> {
        let number = output.split_whitespace().skip_while(|word| *word != "version").nth(1)?;
        let mut parts = number.split(|c: char| !c.is_ascii_digit());
        Some(Self(parts.next()?.parse().ok()?, parts.next().and_then(|p| p.parse().ok()).unwrap_or(0)))
    }

    /// The daemons to run with this version. bfdd runs only `with_bfd`: its crash would end bgpd's sessions.
    pub fn daemons(self, with_bfd: bool, is_vtep: bool) -> Vec<&'static Daemon> {
        let is_needed =
            |daemon: &&Daemon| daemon.since <= self && (with_bfd || daemon.kind != DaemonKind::Bfdd);
        let variant = |daemon: &'static Daemon| {
            if is_vtep && daemon.kind == DaemonKind::Bgpd { &VTEP_BGPD } else { daemon }
        };
        DAEMONS.iter().filter(is_needed).map(variant).collect()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

impl Daemon {
    /// The daemons in `after` that are also dependents: they end when this daemon ends, and start before it.
    pub fn required_dependents(&self) -> impl Iterator<Item = DaemonKind> {
        self.after.iter().copied().filter(|name| self.dependents.contains(name))
    }

    /// Whether its configuration file, if it has one, contains its whole configuration.
    pub fn is_configured_by_file(&self) -> bool {
        self.kind != DaemonKind::Zebra
    }

    /// Its command line after the program's name: it runs in the foreground, logs to our pipe and opens no TCP vty.
    /// `config` is the configuration file to read, if any. `pid` is the file that it locks and writes its PID to.
    pub fn arguments(&self, version: Version, config: Option<&str>, pid: &str) -> Vec<String> {
        let mut args: Vec<String> =
            ["--log", "stdout", "--log-level", "informational", "-P", "0"].map(Into::into).into();
        args.extend(["-N", PATHSPACE, "--vty_socket", SOCKET_DIR, "-i", pid].map(Into::into));
        if let Some(config) = config {
            args.extend(["-f".into(), config.into()]);
        }
        if self.kind == DaemonKind::Zebra {
            if config.is_none() {
                // Without `-f` zebra reads its default file, and reports that it is missing.
                args.extend(["-f".into(), "/dev/null".into()]);
            }
            args.extend(["-s".into(), ZEBRA_NETLINK_BUFFER.into()]);
            // From 10.0 on the value must follow the flag without a blank; otherwise zebra silently uses 500 s.
            if version < Version(10, 0) {
                args.extend(["-K".into(), ZEBRA_GRACEFUL_RESTART_S.to_string()]);
            } else {
                args.push(format!("-K{ZEBRA_GRACEFUL_RESTART_S}"));
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
        assert!(Version(8, 4).daemons(true, false).iter().all(|d| d.kind != DaemonKind::Mgmtd));
        assert!(Version(10, 3).daemons(false, false).iter().any(|d| d.kind == DaemonKind::Mgmtd));
    }

    #[test]
    fn graceful_restart_time_follows_its_flag_without_a_blank_from_ten_on() {
        let zebra = DAEMONS.iter().find(|d| d.kind == DaemonKind::Zebra).unwrap();
        assert!(zebra.arguments(Version(10, 3), None, "pid").contains(&"-K60".to_owned()));
        assert_eq!(SOCKET_DIR, format!("{RUN_DIR}/{PATHSPACE}"));
        assert!(zebra.arguments(Version(8, 4), None, "pid").windows(2).any(|w| w == ["-K", "60"]));
    }
}
