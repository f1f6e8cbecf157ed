//! Raw lines for frr.conf: what can't stand in them, and how the lines of one entry are kept apart from those of others. Pure.
//!
//! FRR has no mark for where a part of its configuration ends. A context stays open until a line comes that can't be in it, and
//! `exit` where none is open ends the reading of the whole file.

use std::ops::RangeInclusive;

/// Lines for frr.conf as they are.
#[derive(Debug, Clone)]
pub struct RawLines {
    /// Where they come from, for the log.
    pub source: String,
    /// The lines.
    pub text: String,
}

/// Two are the same if they say the same, wherever.
impl PartialEq for RawLines {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for RawLines {}

/// The longest line, in bytes, that FRR reads as one (`VTY_BUFSIZ`, `lib/vty.h`, less the line break and the terminating null).
pub const LONGEST_LINE: usize = 4094;

/// Contexts at the margin by the words that open them, each with the first words of those in it (`vtysh/vtysh.c`), or nothing
/// where these are not counted, since no daemon of ours has them.
const CONTEXTS: [(&[&str], Option<&[&str]>); 15] = [
    (&["router", "bgp"], Some(&["address-family", "bmp", "segment-routing", "vni", "vnc", "vrf-policy"])),
    (&["route-map"], Some(&[])),
    (&["interface"], Some(&["link-params"])),
    (&["vrf"], Some(&["rpki"])),
    (&["bfd"], Some(&["peer", "profile"])),
    (&["rpki"], Some(&[])),
    (&["key", "chain"], None),
    (&["l2vpn"], None),
    (&["line", "vty"], None),
    (&["mpls", "ldp"], None),
    (&["nexthop-group"], None),
    (&["pbr-map"], None),
    (&["pseudowire"], None),
    (&["router"], None),
    (&["segment-routing"], None),
];

/// Lines that FRR leaves a context by, other than `exit`. It takes each shorter word for one of them as well.
const LEAVE: [&str; 3] = ["exit", "quit", "end"];

/// The contexts that may be open. Lines that end one by not fitting into it are not known, so there may be fewer.
#[derive(Debug, Default)]
struct Open<'a> {
    /// The line that has opened the one at the margin.
    head: &'a str,
    /// What may be in it.
    inner: Option<&'static [&'static str]>,
    /// The words that have opened it and those in it.
    way: Vec<&'static str>,
}

impl<'a> Open<'a> {
    /// Takes in a line. The error is why FRR would not read on.
    fn read(&mut self, line: &'a str) -> Result<(), String> {
        let line = line.trim();
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some(first) = words.first().filter(|_| !line.starts_with(['!', '#'])) else { return Ok(()) };
        if words.len() == 1 && (*first == "exit" || first.starts_with("exit-")) {
            let counted = self.inner.is_some() || self.way.is_empty();
            return if counted && self.way.pop().is_none() {
                Err("\"exit\" closes what none of the lines has opened, and FRR reads no further".into())
            } else {
                Ok(())
            };
        }
        if words.len() == 1 && LEAVE.iter().any(|word| word.starts_with(first)) {
            return Err(format!("{first:?} may leave the whole configuration, only \"exit\" is allowed"));
        }
        // FRR takes abbreviations.
        let inner = || self.inner?.iter().find(|word| word.starts_with(first));
        if let Some(word) = inner().filter(|_| !self.way.is_empty()) {
            if let Some(at) = self.way.iter().skip(1).position(|other| other == word) {
                self.way.truncate(at + 1);
            }
            self.way.push(word);
        } else if let Some((words, inner)) = CONTEXTS.iter().find(|(opener, _)| opens(opener, &words)) {
            *self = Self { head: line, inner: *inner, way: vec![words[0]] };
        }
        Ok(())
    }

    /// Lines after which none is open, whether there are fewer or not: a context at the margin that is opened once more is
    /// the same one.
    fn closing(&self) -> Vec<String> {
        if self.way.is_empty() {
            return vec![];
        }
        // What FRR may refuse opens nothing, and is closed by nothing.
        let head = if is_certain(self.head) { self.head } else { "interface lo" };
        vec![head.into(), "exit".into()]
    }
}

/// Whether FRR takes this, wherever it stands.
fn is_certain(head: &str) -> bool {
    let number = |word: &str, most: u32| word.parse().is_ok_and(|number: u32| (1..=most).contains(&number));
    match head.split_whitespace().collect::<Vec<_>>()[..] {
        ["router", "bgp", asn] | ["router", "bgp", asn, "vrf", _] => number(asn, u32::MAX),
        ["route-map", _, "permit" | "deny", entry] => number(entry, 65535),
        ["vrf" | "interface", _] | ["bfd"] => true,
        _ => false,
    }
}

fn opens(opener: &[&str], words: &[&str]) -> bool {
    let alone = ["bfd", "rpki", "segment-routing"].contains(&opener[0]);
    words.len() >= opener.len()
        && (words.len() == 1 || !alone)
        && opener.iter().zip(words).all(|(opener, word)| opener.starts_with(word))
}

/// Why `text` can't be raw lines, whatever FRR makes of each of them.
pub fn objection(text: &str) -> Option<String> {
    let mut open = Open::default();
    text.lines().zip(1..).find_map(|(line, number)| {
        if line.len() > LONGEST_LINE {
            return Some(format!(
                "its line {number} has more than {LONGEST_LINE} characters, which FRR does not read as one"
            ));
        }
        open.read(line).err().map(|reason| format!("in its line {number} {reason}"))
    })
}

impl RawLines {
    /// As frr.conf has them, as its `number`th: at the margin, between two comments by which they are found again, and with
    /// no context left open.
    pub fn framed(&self, number: usize) -> Vec<String> {
        let is_line = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with(['!', '#']);
        let indent = |line: &str| line.len() - line.trim_start_matches(' ').len();
        let margin = self.text.lines().find(is_line).map_or(0, indent);
        let mut open = Open::default();
        let mut lines = vec![format!("! raw lines {number}")];
        for line in self.text.lines() {
            // What is wrong with it was said where it was read.
            let _ = open.read(line);
            lines.push(line[indent(line).min(margin)..].to_owned());
        }
        lines.extend(open.closing());
        lines.push(format!("! end of raw lines {number}"));
        lines
    }
}

/// Where in `text`, which was rendered from all of them, each one's lines are, counted from 1. A template of the operator's may
/// print them otherwise.
pub fn places(raw: &[RawLines], text: &str) -> Vec<Option<RangeInclusive<usize>>> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let place = |(raw, number): (&RawLines, usize)| {
        let framed = raw.framed(number);
        let same = |there: &[&str]| there.iter().zip(&framed).all(|(there, line)| *there == line.trim());
        let at = lines.windows(framed.len()).position(same)?;
        Some(at + 1..=at + framed.len())
    };
    raw.iter().zip(1..).map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_the_configuration_is_refused() {
        for (text, line) in [
            ("exit\n", 1),
            ("  exit\n", 1),
            ("end\n", 1),
            ("quit\n", 1),
            ("qui\n", 1),
            ("q\n", 1),
            ("ex\n", 1),
            ("en\n", 1),
            ("router bgp 1\n en\n", 2),
            ("router bgp 1\n quit\n", 2),
            ("router bgp 1\nexit\nexit\n", 3),
            ("router bgp 1\n!\n exit\n! x\n\n exit\n", 6),
            ("router bgp 1\n address-family ipv4 unicast\n exit-address-family\nexit\nexit\n", 5),
            ("route-map a permit 1\nroute-map a permit 2\nexit\nexit\n", 4),
            ("vrf red\n vni 5\nexit-vrf\nexit\n", 4),
            ("bfd\n profile a\n profile b\n exit\nexit\nexit\n", 6),
            ("ip prefix-list a permit any\nexit\n", 2),
            ("interface x\n shutdown\nexit\nexit\n", 4),
            ("no router bgp 1\nexit\n", 2),
        ] {
            let said = objection(text).unwrap_or_else(|| panic!("{text:?}"));
            assert!(said.starts_with(&format!("in its line {line} \"")), "{text:?}: {said}");
        }
        let long = format!("!\nip prefix-list {} permit any\n", "x".repeat(LONGEST_LINE));
        assert!(objection(&long).unwrap().starts_with("its line 2 has more than 4094 characters"));
    }

    #[test]
    fn what_closes_contexts_is_not() {
        for text in [
            "",
            "! exit\n# quit\n",
            "router bgp 1\nexit\n",
            "rou bg 1\nexit\n",
            "int eth0\nexit\n",
            "router bgp 1\n address-family ipv4 unicast\n  network 10.0.0.0/8\n exit-address-family\n !\nexit\n!\n",
            "router bgp 1\n address-family l2vpn evpn\n  vni 7\n   rd 1:1\n  exit-vni\n  vni 8\n  exit\n exit\nexit\n",
            "router bgp 1\n bmp targets x\n exit\n segment-routing srv6\n exit\n vnc defaults\n exit-vnc\nexit\n",
            "bfd\n profile a\n exit\n peer 10.0.0.1\n exit\nexit\nbfd\nexit\n",
            "vrf red\n rpki\n exit\nexit-vrf\nrpki\nexit\n",
            "interface x\n link-params\n exit-link-params\nexit\n",
            "segment-routing\n srv6\n  locators\n   locator x\n   exit\n  exit\n exit\nexit\n",
            "key chain a\n key 1\n exit\nexit\n",
            "line vty\nexit\nrouter ospf\nexit\n",
            "route-map a permit 1\n match ip address x\nroute-map a permit 2\nexit\nip prefix-list x permit any\n",
        ] {
            assert_eq!(objection(text), None, "{text:?}");
        }
    }

    fn raw(text: &str) -> RawLines {
        RawLines { source: String::new(), text: text.into() }
    }

    #[test]
    fn what_is_open_at_the_end_is_closed() {
        for (text, end) in [
            ("router bgp 65001", &["router bgp 65001", "exit"][..]),
            (
                "router bgp 65001\n address-family ipv4 unicast\n  network 10.0.0.0/8",
                &["router bgp 65001", "exit"],
            ),
            (
                "  router  bgp 65001\n  exit\nroute-map a permit 1\n set metric 1\n!",
                &["route-map a permit 1", "exit"],
            ),
            ("vrf red\n rpki", &["vrf red", "exit"]),
            // There, the same word is the beginning of another command.
            ("rpki\n rpki cache", &["interface lo", "exit"]),
            ("router ospf6x\n", &["interface lo", "exit"]),
            ("router bgp x\n", &["interface lo", "exit"]),
            ("route-map x maybe 10\n", &["interface lo", "exit"]),
            ("int eth0\n shut\n", &["interface lo", "exit"]),
            ("router bgp 65001\nexit\n", &[]),
            ("bfd\n profile a\n exit\nexit\n", &[]),
            ("ip prefix-list a permit any\n", &[]),
        ] {
            let framed = raw(text).framed(3);
            let own = text.lines().count();
            assert_eq!(framed[0], "! raw lines 3");
            assert_eq!(framed[1 + own..framed.len() - 1], *end, "{text:?}");
            assert_eq!(framed[framed.len() - 1], "! end of raw lines 3");
        }
        assert_eq!(raw("  vrf a\n   vni 5\n  exit\n").framed(1)[1..4], ["vrf a", " vni 5", "exit"]);
        assert_eq!(raw("!\n  vrf a\n vni 5\nexit").framed(1)[1..5], ["!", "vrf a", "vni 5", "exit"]);
    }

    #[test]
    fn entries_are_found_where_they_are() {
        let all = [raw("exit\n"), raw("router bgp 1\n timers bgp 3 9\n"), raw("exit\n")];
        let blocks: Vec<String> = all
            .iter()
            .zip(1..)
            .map(|(raw, number)| format!("  {}\n!\n", raw.framed(number).join("\n")))
            .collect();
        let text = format!("router bgp 1\n timers bgp 3 9\nexit\n{}bfd\n", blocks.concat());
        let found = places(&all, &text);
        assert_eq!(found, [Some(4..=6), Some(8..=13), Some(15..=17)]);
        // A template may leave comments out.
        let text = text.replace("! raw lines 2\n", "");
        assert_eq!(places(&all, &text)[1], None);
        assert_eq!(places(&[], ""), []);
        assert_eq!(places(&all[..1], "")[0], None);
    }
}
