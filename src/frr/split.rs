//! frr.conf → the parts that daemons read by themselves when they start. Pure.
//!
//! A bgpd that gets its configuration through a vty turns connections away meanwhile, and a speaker that
//! is turned away once does not come back before its restart timer ends. One that reads a file listens
//! when it knows all of it. The other daemons take theirs from vtysh (in FRR 10 only mgmtd can); zebra too, but for
//! how it puts routes into the kernel, which it must know before bgpd brings the first.

use super::Version;

/// Daemons that read a file of their own, and the first words of what is in it.
const OWNERS: [(&str, &[&str]); 3] = [
    (
        "bgpd",
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
    ("bfdd", &["bfd", "debug bfd "]),
    ("zebra", &["no zebra ", "zebra "]),
];

/// First words of lines that every daemon reads.
const COMMON: &[&str] = &["frr ", "log ", "hostname "];

/// First words of what only the others read.
const OTHERS: &[&str] = &["interface ", "vrf ", "ip ", "ipv6 ", "service ", "debug "];

/// Who has a line or a context at the margin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// No one knows.
    None,
    /// Every daemon.
    All,
    /// These daemons.
    Some(Vec<&'static str>),
}

/// Who has it when all of them run: those that read it from a file of theirs, and those that vtysh tells.
pub fn owners(head: &str, lines: &[String], version: Version) -> Owner {
    let starts = |words: &[&str]| words.iter().any(|word| head.starts_with(word));
    if starts(COMMON) || starts(EVERYONES) {
        return Owner::All;
    }
    let bgpd = starts(OWNERS[0].1) && !lines.iter().any(|line| line.starts_with(SOURCE));
    let mut daemons: Vec<_> = [("bgpd", bgpd), ("bfdd", starts(OWNERS[1].1)), ("zebra", starts(OWNERS[2].1))]
        .into_iter()
        .filter_map(|(daemon, is)| is.then_some(daemon))
        .collect();
    // Lists and route maps are zebra's as well.
    if starts(ZEBRAS) {
        daemons.push(if version < Version(10, 0) { "zebra" } else { "mgmtd" });
    } else if starts(&["ip route ", "ipv6 route "]) {
        daemons.push(if version < Version(10, 0) { "staticd" } else { "mgmtd" });
    }
    if daemons.is_empty() { Owner::None } else { Owner::Some(daemons) }
}

/// What a route map for zebra alone says.
const SOURCE: &str = "set src ";

/// First words of lines that vtysh tells every daemon.
const EVERYONES: &[&str] = &["service ", "debug "];

/// First words of what is zebra's, by way of mgmtd where there is one.
const ZEBRAS: &[&str] = &[
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

/// What our reader of the daemons' log relies on: a message is written by itself, and shows that it is one (`supervisor::output`).
const LOG: [&str; 2] = ["log immediate-mode", "log record-priority"];

/// The text with the lines about the log that it lacks in front: it may be of another template than ours.
pub fn with_log(text: &str) -> String {
    let lacking = LOG.iter().filter(|wanted| !text.lines().any(|line| line.trim_end() == **wanted));
    lacking.map(|line| format!("{line}\n")).chain([text.to_owned()]).collect()
}

/// The part of `text` for each daemon that has one, or nothing if a line at the margin is of an unknown sort:
/// then no part can be trusted to be whole, and vtysh must sort it out.
pub fn split(text: &str) -> Vec<(&'static str, String)> {
    let blocks = blocks(text);
    let starts = |block: &str, words: &[&str]| words.iter().any(|word| block.starts_with(word));
    let known = |block: &str| {
        starts(block, COMMON) || starts(block, OTHERS) || OWNERS.iter().any(|(_, words)| starts(block, words))
    };
    if !blocks.iter().all(|block| known(block)) {
        return vec![];
    }
    let part = |words: &[&str]| {
        let mine = |block: &&String| starts(block, words) || starts(block, COMMON);
        // A source address is for zebra to set, and nothing that bgpd knows.
        blocks
            .iter()
            .filter(mine)
            .filter(|block| !block.contains("\n set src "))
            .map(String::as_str)
            .collect()
    };
    OWNERS.iter().map(|(daemon, words)| (*daemon, part(words))).collect()
}

/// A line at the margin, with the indented ones after it and what closes them.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    // vtysh passes over `end`, a daemon that reads its own file goes no further.
    let counts = |line: &&str| !line.is_empty() && !line.starts_with('!') && line.trim() != "end";
    for line in text.lines().filter(counts) {
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
    fn each_gets_its_own() {
        let text = "log stdout\nno zebra nexthop kernel enable\ninterface eth0\n ipv6 nd x\nexit\n!\nip prefix-list a permit any\nip protocol bgp route-map s\n\
                    router bgp 1\n neighbor x\n !\nexit\n!\nbfd\n profile p\n exit\nexit\n!\n\
                    route-map s permit 1\n set src 10.0.0.1\nexit\n";
        let parts = split(text);
        assert_eq!(
            parts[0],
            ("bgpd", "log stdout\nip prefix-list a permit any\nrouter bgp 1\n neighbor x\n !\nexit\n".into())
        );
        let text = text.replace("bfd\n", "end\nbfd\n");
        assert_eq!(split(&text), parts, "a daemon would read no further");
        assert_eq!(parts[1], ("bfdd", "log stdout\nbfd\n profile p\n exit\nexit\n".into()));
        assert_eq!(parts[2], ("zebra", "log stdout\nno zebra nexthop kernel enable\n".into()));
    }

    #[test]
    fn no_template_leaves_the_log_without_what_tells_messages_apart() {
        let text = "log stdout\nlog record-priority \nrouter bgp 1\n";
        assert_eq!(with_log(text), format!("log immediate-mode\n{text}"));
        assert_eq!(with_log("x\n"), "log immediate-mode\nlog record-priority\nx\n");
        let ours = include_str!("../../templates/frr.conf.j2");
        assert_eq!(with_log(ours), ours);
    }

    #[test]
    fn what_is_not_understood_is_left_to_vtysh() {
        assert_eq!(split("router bgp 1\nneighbor 1.1.1.1 remote-as 2\n"), []);
    }
}
