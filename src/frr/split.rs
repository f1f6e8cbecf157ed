//! Splits frr.conf into the files that daemons read when they start. Pure.
//!
//! A bgpd that gets its configuration through a vty rejects connections until it has it, and a rejected speaker
//! connects again only after its restart timer. A bgpd that reads a file listens only when it has its whole
//! configuration. The other daemons get their configuration from vtysh (in FRR 10 only mgmtd can pass it on). zebra
//! reads a file only with the settings for routes in the kernel, which it must know before bgpd sends the first route.

use super::{DaemonKind, Version};

/// The daemons that read a file, and the prefixes of the top-level lines in it.
const FILE_LINES: [(DaemonKind, &[&str]); 3] = [
    (
        DaemonKind::Bgpd,
        &[
            "router bgp ",
            "bgp ",
            "route-map ",
            "ip prefix-list ",
            "ipv6 prefix-list ",
            "access-list ",
            "ipv6 access-list ",
            "debug bgp ",
        ],
    ),
    (DaemonKind::Bfdd, &["bfd", "debug bfd "]),
    (DaemonKind::Zebra, &["no zebra ", "zebra "]),
];

/// Prefixes of the top-level lines that are in every file.
const COMMON: &[&str] = &["frr ", "log ", "hostname "];

/// Prefixes of the other known top-level lines, which are in no file.
const VTYSH_ONLY: &[&str] = &["interface ", "vrf ", "ip ", "ipv6 ", "service ", "debug "];

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

/// The owners of a context with this head and these lines if all daemons run: those that read it from a file, and those
/// that vtysh sends it to.
pub fn line_owners(head: &str, lines: &[String], version: Version) -> LineOwner {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| head.starts_with(prefix));
    if starts(COMMON) || starts(SENT_TO_ALL) {
        return LineOwner::All;
    }
    let bgpd = starts(FILE_LINES[0].1) && !lines.iter().any(|line| line.starts_with(SET_SOURCE));
    let mut daemons: Vec<_> = [
        (DaemonKind::Bgpd, bgpd),
        (DaemonKind::Bfdd, starts(FILE_LINES[1].1)),
        (DaemonKind::Zebra, starts(FILE_LINES[2].1)),
    ]
    .into_iter()
    .filter_map(|(daemon, is)| is.then_some(daemon))
    .collect();
    // Prefix lists, access lists and route maps also belong to zebra.
    if starts(ZEBRA_LINES) {
        daemons.push(if version < Version(10, 0) { DaemonKind::Zebra } else { DaemonKind::Mgmtd });
    } else if starts(&["ip route ", "ipv6 route "]) {
        daemons.push(if version < Version(10, 0) { DaemonKind::Staticd } else { DaemonKind::Mgmtd });
    }
    if daemons.is_empty() { LineOwner::Unknown } else { LineOwner::Daemons(daemons) }
}

/// Prefix of a line that only a route map of zebra contains; bgpd does not know it.
const SET_SOURCE: &str = "set src ";

/// Prefixes of the top-level lines that vtysh sends to every daemon.
const SENT_TO_ALL: &[&str] = &["service ", "debug "];

/// Prefixes of zebra's top-level lines, which it gets from mgmtd in FRR 10.
const ZEBRA_LINES: &[&str] = &[
    "interface ",
    "vrf ",
    "ip protocol ",
    "ipv6 protocol ",
    "ip nht ",
    "ipv6 nht ",
    "ip prefix-list ",
    "ipv6 prefix-list ",
    "route-map ",
    "access-list ",
    "ipv6 access-list ",
];

/// The log settings that the reader of the daemons' log requires (`supervisor::output`): each message is written
/// separately, and starts with its priority.
const LOG_SETTINGS: [&str; 2] = ["log immediate-mode", "log record-priority"];

/// `text`, preceded by the lines of [`LOG_SETTINGS`] that it lacks: an operator's template may omit them.
pub fn with_log_settings(text: &str) -> String {
    let missing =
        LOG_SETTINGS.iter().filter(|setting| !text.lines().any(|line| line.trim_end() == **setting));
    missing.map(|line| format!("{line}\n")).chain([text.to_owned()]).collect()
}

/// The part of `text` in the file of each daemon that reads one. Empty if a top-level line is unknown: then a part may
/// be incomplete, and vtysh must send the configuration to the daemons.
pub fn split(text: &str) -> Vec<(DaemonKind, String)> {
    let blocks = blocks(text);
    let starts = |block: &str, prefixes: &[&str]| prefixes.iter().any(|prefix| block.starts_with(prefix));
    let is_known = |block: &str| {
        starts(block, COMMON)
            || starts(block, VTYSH_ONLY)
            || FILE_LINES.iter().any(|(_, prefixes)| starts(block, prefixes))
    };
    if !blocks.iter().all(|block| is_known(block)) {
        return vec![];
    }
    let part = |prefixes: &[&str]| {
        let is_in_part = |block: &&String| starts(block, prefixes) || starts(block, COMMON);
        // bgpd does not know SET_SOURCE.
        blocks
            .iter()
            .filter(is_in_part)
            .filter(|block| !block.contains("\n set src "))
            .map(String::as_str)
            .collect()
    };
    FILE_LINES.iter().map(|(daemon, prefixes)| (*daemon, part(prefixes))).collect()
}

/// The top-level lines of `text`, each with the indented lines after it and the `exit` that closes them.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    // vtysh ignores `end`, but a daemon that reads a file stops at it.
    let is_relevant = |line: &&str| !line.is_empty() && !line.starts_with('!') && line.trim() != "end";
    for line in text.lines().filter(is_relevant) {
        let continues = line.starts_with(' ') || line.starts_with("exit");
        match blocks.last_mut() {
            Some(block) if continues => block.push_str(line),
            _ => blocks.push(line.to_owned()),
        }
        if let Some(block) = blocks.last_mut() {
            block.push('\n');
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_has_the_lines_of_its_daemon() {
        let text = "log stdout\nno zebra nexthop kernel enable\ninterface eth0\n ipv6 nd x\nexit\n!\nip prefix-list a permit any\nip protocol bgp route-map s\n\
                    router bgp 1\n neighbor x\n !\nexit\n!\nbfd\n profile p\n exit\nexit\n!\n\
                    route-map s permit 1\n set src 10.0.0.1\nexit\n";
        let parts = split(text);
        assert_eq!(
            parts[0],
            (
                DaemonKind::Bgpd,
                "log stdout\nip prefix-list a permit any\nrouter bgp 1\n neighbor x\n !\nexit\n".into()
            )
        );
        let text = text.replace("bfd\n", "end\nbfd\n");
        assert_eq!(split(&text), parts, "a daemon would stop reading at \"end\"");
        assert_eq!(parts[1], (DaemonKind::Bfdd, "log stdout\nbfd\n profile p\n exit\nexit\n".into()));
        assert_eq!(parts[2], (DaemonKind::Zebra, "log stdout\nno zebra nexthop kernel enable\n".into()));
    }

    #[test]
    fn missing_log_settings_are_added() {
        let text = "log stdout\nlog record-priority \nrouter bgp 1\n";
        assert_eq!(with_log_settings(text), format!("log immediate-mode\n{text}"));
        assert_eq!(with_log_settings("x\n"), "log immediate-mode\nlog record-priority\nx\n");
        let built_in = include_str!("../../templates/frr.conf.j2");
        assert_eq!(with_log_settings(built_in), built_in);
    }

    #[test]
    fn an_unknown_line_leaves_all_to_vtysh() {
        assert_eq!(split("router bgp 1\nneighbor 1.1.1.1 remote-as 2\n"), []);
    }
}
