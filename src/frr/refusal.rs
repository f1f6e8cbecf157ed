//! What vtysh says of a configuration that it checks, and whose fault it is. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::model::{LONGEST_LINE, RawLines, raw_places};

use super::delta::ways;
use super::redact::{redact, redact_said};

/// No command of FRR's: that it refuses this as the last line shows that it has read all the others.
const LAST: &str = "end-of-this-configuration";

/// Where vtysh is when it has left the configuration, but not ended (`ENABLE_NODE`, `lib/command.h`).
const LEFT: &str = "[3]";

/// So many complaints are named.
const NAMED: usize = 5;

/// Something that vtysh says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// The line that it is about, counted from 1, if it names one.
    pub line: Option<usize>,
    /// What is wrong, without passwords.
    words: String,
}

/// Why a configuration is not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal(pub Vec<Complaint>);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("vtysh refuses the configuration: ")?;
        for (i, complaint) in self.0.iter().take(NAMED).enumerate() {
            let between = if i == 0 { "" } else { "; " };
            match complaint.line {
                Some(line) => write!(f, "{between}line {line}: {}", complaint.words)?,
                None => write!(f, "{between}{}", complaint.words)?,
            }
        }
        match self.0.len().checked_sub(NAMED) {
            None | Some(0) => Ok(()),
            Some(more) => write!(f, "; and {more} more"),
        }
    }
}

impl std::error::Error for Refusal {}

/// What vtysh has said of a text.
#[derive(Debug, PartialEq, Eq)]
pub struct Said {
    /// All of the text was read, to its last line.
    pub whole: bool,
    /// Everything else that it said.
    pub complaints: Vec<Complaint>,
}

/// `text` with a line at its end that vtysh can't but refuse.
pub fn with_an_end(text: &str) -> String {
    let line_break = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("{text}{line_break}{LAST}\n")
}

/// Lines that FRR would read as several ones, each of which it might quote.
pub fn too_long(text: &str) -> Option<Refusal> {
    let long = text.lines().zip(1..).filter(|(line, _)| line.len() > LONGEST_LINE);
    let words = format!("it has more than {LONGEST_LINE} characters, which FRR does not read as one");
    let all: Vec<_> = long.map(|(_, line)| Complaint { line: Some(line), words: words.clone() }).collect();
    (!all.is_empty()).then_some(Refusal(all))
}

impl Said {
    /// Reads what vtysh has said of `text`, be it with an end or without.
    pub fn of(said: &str, text: &str) -> Self {
        let lines: Vec<&str> = text.lines().collect();
        let (mut whole, mut complaints) = (false, vec![]);
        for said in said.lines().map(str::trim).filter(|said| !said.is_empty()) {
            let numbered = said.strip_prefix("line ").and_then(|rest| rest.split_once(": "));
            let numbered = numbered.and_then(|(number, rest)| Some((number.parse::<usize>().ok()?, rest)));
            match numbered {
                Some((number, rest)) if number > lines.len() && rest.contains(LAST) => {
                    whole = !rest.contains(LEFT);
                }
                Some((number, rest)) => {
                    let quoted = lines.get(number.wrapping_sub(1)).map_or("", |line| line.trim());
                    let words = if rest.ends_with("early exit from config file") {
                        format!("{:?} ends the configuration, and FRR reads no further", redact(quoted))
                    } else {
                        // The line is known here; what vtysh quotes may be cut anywhere.
                        let kind = rest.split(['[', ':']).next().unwrap_or_default();
                        format!("{}: {}", redact_said(kind.trim_end_matches('.')), redact(quoted))
                    };
                    complaints.push(Complaint { line: Some(number), words });
                }
                // That there is a fault in the file is said already.
                None if said.contains("processing failure") => {}
                None => complaints.push(Complaint { line: None, words: redact_said(said).into_owned() }),
            }
        }
        Self { whole, complaints }
    }

    /// The refusal of what was not read to its end.
    pub fn cut_short(mut self) -> Refusal {
        let is_said = self.complaints.iter().any(|complaint| complaint.words.ends_with("reads no further"));
        if !is_said {
            let words = "\"exit\", \"quit\" or the like ends the configuration before its last line, and FRR reads no further";
            self.complaints.push(Complaint { line: None, words: words.into() });
        }
        Refusal(self.complaints)
    }
}

/// The raw lines that are to be left out of `text`, which vtysh refuses, each with the reason; none if it is not for them.
/// `with` says what is refused if only these of them are in it.
pub fn blame(
    raw: &[RawLines],
    text: &str,
    refusal: &Refusal,
    mut with: impl FnMut(&[usize]) -> Option<Refusal>,
) -> Vec<(usize, Refusal)> {
    if raw.is_empty() {
        return vec![];
    }
    let places = raw_places(raw, text);
    let entry =
        |line: usize| places.iter().position(|place| place.as_ref().is_some_and(|p| p.contains(&line)));
    let mut named: BTreeMap<usize, Vec<Complaint>> = BTreeMap::new();
    let mut others = false;
    for complaint in &refusal.0 {
        match complaint.line.and_then(entry) {
            Some(entry) => named.entry(entry).or_default().push(complaint.clone()),
            None => others = true,
        }
    }
    let named: Vec<_> = named.into_iter().map(|(entry, complaints)| (entry, Refusal(complaints))).collect();
    if !others {
        return named;
    }
    // What is wrong with one may show elsewhere.
    if with(&[]).is_some() {
        return vec![];
    }
    let bad: Vec<_> = (0..raw.len()).filter_map(|i| Some((i, with(&[i])?))).collect();
    if !bad.is_empty() {
        return bad;
    }
    if named.is_empty() { (0..raw.len()).map(|i| (i, refusal.clone())).collect() } else { named }
}

/// The raw lines from which a line of `text`, rendered from all of them, may come; none if it is there without them, too. `way`:
/// the contexts that it is in, if they are known.
pub fn sources(raw: &[RawLines], text: &str, line: &str, way: Option<&[&str]>) -> Vec<usize> {
    let places = raw_places(raw, text);
    let same = |other: &str| !other.is_empty() && other.split_whitespace().eq(line.split_whitespace());
    let lines = ways(text, true).zip(1..);
    let there = lines.filter(|((here, other), _)| same(other) && way.is_none_or(|way| way == here));
    let entry =
        |line: usize| places.iter().position(|place| place.as_ref().is_some_and(|p| p.contains(&line)));
    let entries: Option<BTreeSet<usize>> = there.map(|(_, number)| entry(number)).collect();
    entries.unwrap_or_default().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_of_the_raw_lines_that_have_all_of_it() {
        let raw: Vec<_> = [
            "route-map x permit 1\n set metric 1\n",
            "router bgp 65001\n neighbor 10.0.0.1 remote-as 1\n timers bgp 3 9\n",
            "route-map x permit 10\n set  metric 10\n neighbor 10.0.0.1 remote-as 12\n",
            "interface x\n timers bgp 3 9\n",
        ]
        .map(|text| RawLines { source: String::new(), text: text.into() })
        .into();
        let blocks = raw.iter().zip(1..).map(|(raw, number)| raw.framed(number).join("\n") + "\n");
        let text = format!("router bgp 65001\nexit\n{}", blocks.collect::<String>());
        for (line, way, entries) in [
            ("route-map x permit 10", None, &[2][..]),
            ("set metric 10", None, &[2]),
            ("set metric 1", None, &[0]),
            ("neighbor 10.0.0.1 remote-as 12", None, &[2]),
            ("neighbor 10.0.0.1 remote-as 1", None, &[1]),
            ("timers bgp 3 9", None, &[1, 3]),
            ("timers bgp 3 9", Some(&["interface x"][..]), &[3]),
            ("timers bgp 3 9", Some(&["router bgp 65001"]), &[1]),
            ("timers bgp 3 9", Some(&[]), &[]),
            // It is the template's as well.
            ("router bgp 65001", None, &[]),
            ("set metric", None, &[]),
            ("", None, &[]),
        ] {
            assert_eq!(sources(&raw, &text, line, way), entries, "{line:?} in {way:?}");
        }
    }

    #[test]
    fn what_vtysh_says_is_read() {
        let text = "hostname x\n neighbor 10.0.0.1 password:s3cret\nip route s3cret x\nexit\n";
        let said = "line 2: % Unknown command[21]:  neighbor 10.0.0.1 password:s3cret\n\
                    line 3: Warning[4]...: ip route s3cret x\n\nline 4: % Ambiguous command[4]: exit\n\n\
                    line 5: % Unknown command[4]: end-of-this-configuration\nHostname length should be less than 255 chars\n\
                    Configuration file[/run/frr/frr.conf] processing failure: 2\n";
        let said = Said::of(said, text);
        assert!(said.whole);
        let refusal = Refusal(said.complaints).to_string();
        assert_eq!(
            refusal,
            "vtysh refuses the configuration: line 2: % Unknown command: neighbor 10.0.0.1 …; line 3: Warning: ip route …; \
             line 4: % Ambiguous command: exit; Hostname length should be less than 255 chars"
        );
        let many: Vec<_> = (1..9).map(|line| Complaint { line: Some(line), words: "x".into() }).collect();
        assert!(Refusal(many).to_string().ends_with("line 5: x; and 3 more"));
    }

    /// Each as 10.7, 10.3 and 8.4 say it.
    #[test]
    fn an_early_end_is_noticed() {
        for (said, whole, words) in [
            ("line 3: % Unknown command[4]: end-of-this-configuration", true, ""),
            ("line 3: % Unknown command[28]: end-of-this-configuration", true, ""),
            (
                "line 2: Warning[4]...: early exit from config file",
                false,
                "line 2: \"exit\" ends the configuration",
            ),
            ("line 3: % Unknown command[3]: end-of-this-configuration", false, "\"quit\" or the like ends"),
            ("", false, "\"quit\" or the like ends"),
            // It is the text's own.
            ("line 1: % Unknown command[4]: end-of-this-configuration", false, "\"quit\" or the like ends"),
        ] {
            let said = Said::of(said, "end-of-this-configuration\nexit\n");
            assert_eq!(said.whole, whole, "{said:?}");
            assert!(whole || said.cut_short().to_string().contains(words), "{words}");
        }
        assert_eq!(with_an_end("a"), "a\nend-of-this-configuration\n");
        assert_eq!(with_an_end("a\n"), "a\nend-of-this-configuration\n");
        let long = format!("a\n{}\n", "x".repeat(LONGEST_LINE + 1));
        assert_eq!(too_long(&long).unwrap().0[0].line, Some(2));
        assert_eq!(too_long(&long[..LONGEST_LINE]), None);
    }

    fn all() -> Vec<RawLines> {
        let raw = |text: &str| RawLines { source: String::new(), text: text.into() };
        vec![
            raw("ip prefix-list good seq 5 permit 192.0.2.0/24\n"),
            raw("interface x\n address-family ipv4 unicast\n"),
            raw("router bgp 65001\n timers bgp 3 9\n"),
            raw("interface x\n timers bgp 3 9\n"),
        ]
    }

    fn at(line: Option<usize>) -> Complaint {
        Complaint { line, words: "% Unknown command".into() }
    }

    #[test]
    fn the_entry_in_which_a_line_is_left_out() {
        let raw = all();
        let blocks: Vec<String> =
            raw.iter().zip(1..).map(|(raw, number)| raw.framed(number).join("\n") + "\n!\n").collect();
        // The template has the same lines.
        let text = format!(
            "router bgp 65001\n timers bgp 3 9\n address-family ipv4 unicast\n exit-address-family\nexit\n{}bfd\n",
            blocks.concat()
        );
        let number = |line: &str, nth: usize| {
            text.lines().zip(1..).filter(|(other, _)| *other == line).nth(nth).map(|(_, number)| number)
        };
        let never = |_: &[usize]| -> Option<Refusal> { panic!("there is nothing to try") };
        let family = at(number(" address-family ipv4 unicast", 1));
        let timers = at(number(" timers bgp 3 9", 2));
        let refusal = Refusal(vec![family.clone()]);
        assert_eq!(blame(&raw, &text, &refusal, never), [(1, refusal.clone())]);
        let refusal = Refusal(vec![family.clone(), timers.clone()]);
        let both = [(1, Refusal(vec![family])), (3, Refusal(vec![timers]))];
        assert_eq!(blame(&raw, &text, &refusal, never), both);
        assert_eq!(blame(&[], &text, &refusal, never), []);

        // One that says nothing of a line, or of one that is the template's.
        for other in [at(None), at(Some(2)), at(Some(999))] {
            let refusal = Refusal(vec![other, both[0].1.0[0].clone()]);
            let because = |i: usize| Refusal(vec![at(Some(i))]);
            let two = |which: &[usize]| which.iter().find(|i| [0, 2].contains(*i)).map(|i| because(*i));
            assert_eq!(blame(&raw, &text, &refusal, two), [(0, because(0)), (2, because(2))]);
            // The template itself is wrong.
            assert_eq!(blame(&raw, &text, &refusal, |_| Some(because(1))), []);
            // None alone.
            assert_eq!(blame(&raw, &text, &refusal, |_| None), both[..1]);
            let refusal = Refusal(vec![at(None)]);
            assert_eq!(blame(&raw, &text, &refusal, |_| None).len(), 4);
        }
    }
}
