//! Raw lines for frr.conf: which lines are not allowed, and how the lines of one entry are kept apart from those of
//! other entries. Pure.
//!
//! FRR has no marker for the end of a part of its configuration. A context stays open until a line follows that it does
//! not allow. `exit` outside every context ends the reading of the whole file.

use std::ops::RangeInclusive;

/// Lines that are copied to frr.conf.
#[derive(Debug, Clone)]
pub struct RawLines {
    /// The object or file entry that they come from, for the log.
    pub source: String,
    /// The lines.
    pub text: String,
}

/// Compares the text only, not the source.
impl PartialEq for RawLines {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for RawLines {}

/// The longest line, in bytes, that FRR reads as one line (`VTY_BUFSIZ`, `lib/vty.h`, less the line break and the
/// terminating null).
pub const FRR_LINE_MAX: usize = 4094;

/// The top-level contexts: the words that open each, and the first words of the contexts that it allows
/// (`vtysh/vtysh.c`). `None`: the contexts inside are not counted, since no daemon that we start has this context.
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

/// Commands other than `exit` that leave a context. FRR also accepts every abbreviation of them.
const LEAVE_COMMANDS: [&str; 3] = ["exit", "quit", "end"];

/// The contexts that may be open. FRR also closes a context at a line that the context does not allow; such lines are
/// not recognized here, so fewer contexts may be open than this says.
#[derive(Debug, Default)]
struct OpenContexts<'a> {
    /// The line that opened the top-level context.
    head: &'a str,
    /// The first words of the contexts that it allows; `None` if they are not counted.
    allowed: Option<&'static [&'static str]>,
    /// The first words of the open contexts, the outermost first.
    path: Vec<&'static str>,
}

impl<'a> OpenContexts<'a> {
    /// Processes one line. The error is the reason why FRR would stop reading there.
    fn read(&mut self, line: &'a str) -> Result<(), String> {
        let line = line.trim();
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some(first) = words.first().filter(|_| !line.starts_with(['!', '#'])) else { return Ok(()) };
        if words.len() == 1 && (*first == "exit" || first.starts_with("exit-")) {
            let counted = self.allowed.is_some() || self.path.is_empty();
            return if counted && self.path.pop().is_none() {
                Err("\"exit\" closes a context that these lines have not opened, and FRR reads no further"
                    .into())
            } else {
                Ok(())
            };
        }
        if words.len() == 1 && LEAVE_COMMANDS.iter().any(|word| word.starts_with(first)) {
            return Err(format!("{first:?} may leave the whole configuration: only \"exit\" is allowed"));
        }
        // FRR accepts abbreviations.
        let inner = || self.allowed?.iter().find(|word| word.starts_with(first));
        if let Some(word) = inner().filter(|_| !self.path.is_empty()) {
            if let Some(at) = self.path.iter().skip(1).position(|other| other == word) {
                self.path.truncate(at + 1);
            }
            self.path.push(word);
        } else if let Some((words, allowed)) = CONTEXTS.iter().find(|(opener, _)| opens(opener, &words)) {
            *self = Self { head: line, allowed: *allowed, path: vec![words[0]] };
        }
        Ok(())
    }

    /// Lines that close every context, even if fewer are open than counted: to open a top-level context again is to
    /// return to it.
    fn closing_lines(&self) -> Vec<String> {
        if self.path.is_empty() {
            return vec![];
        }
        // A line that FRR may refuse opens no context, so `exit` after it could end the file.
        let head = if is_always_accepted(self.head) { self.head } else { "interface lo" };
        vec![head.into(), "exit".into()]
    }
}

/// Whether FRR accepts this opening line at any place.
fn is_always_accepted(head: &str) -> bool {
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

/// The reason why `text` is not allowed as raw lines. FRR may still refuse a line of an allowed text.
pub fn raw_lines_error(text: &str) -> Option<String> {
    let mut open = OpenContexts::default();
    text.lines().zip(1..).find_map(|(line, number)| {
        if line.len() > FRR_LINE_MAX {
            return Some(format!(
                "raw line {number} is longer than {FRR_LINE_MAX} bytes, the longest line that FRR reads"
            ));
        }
        open.read(line).err().map(|reason| format!("raw line {number}: {reason}"))
    })
}

impl RawLines {
    /// The lines as they stand in frr.conf as entry `number`: without their common indentation, between two comments
    /// that mark the entry, and followed by lines that close every context.
    pub fn framed(&self, number: usize) -> Vec<String> {
        let is_line = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with(['!', '#']);
        let indent = |line: &str| line.len() - line.trim_start_matches(' ').len();
        let margin = self.text.lines().find(is_line).map_or(0, indent);
        let mut open = OpenContexts::default();
        let mut lines = vec![format!("! raw lines {number}")];
        for line in self.text.lines() {
            // The source's reader has already reported errors.
            let _ = open.read(line);
            lines.push(line[indent(line).min(margin)..].to_owned());
        }
        lines.extend(open.closing_lines());
        lines.push(format!("! end of raw lines {number}"));
        lines
    }
}

/// The line numbers, counted from 1, of each entry of `raw` in `text`, which was rendered from all of them. `None`: not
/// found, since an operator's template may print the lines in another form.
pub fn raw_line_ranges(raw: &[RawLines], text: &str) -> Vec<Option<RangeInclusive<usize>>> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let range = |(raw, number): (&RawLines, usize)| {
        let framed = raw.framed(number);
        let same = |there: &[&str]| there.iter().zip(&framed).all(|(there, line)| *there == line.trim());
        let at = lines.windows(framed.len()).position(same)?;
        Some(at + 1..=at + framed.len())
    };
    raw.iter().zip(1..).map(range).collect()
}

#[cfg(test)]
mod tests;
