//! The text of a configuration → its contexts: each a head, lines, and contexts in it. Pure.

use std::collections::{BTreeSet, HashMap};

/// A context, or the whole text, whose head is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Context {
    /// The line that opens it.
    pub head: String,
    /// Its lines, in order.
    pub lines: Vec<String>,
    /// The contexts in it, each once, in order.
    pub inner: Vec<Self>,
}

/// First words of lines that open a context, for each that they open it in ("": the margin).
const OPENERS: [(&str, &str); 10] = [
    ("", "router bgp "),
    ("", "route-map "),
    ("", "vrf "),
    ("", "interface "),
    ("", "bfd"),
    ("router bgp ", "address-family "),
    ("address-family l2vpn evpn", "vni "),
    ("bfd", "profile "),
    ("bfd", "peer "),
    ("router bgp ", "segment-routing "),
];

/// First words of contexts that mean something with nothing in them: an entry of a route map permits everything then.
const MEANT: [&str; 4] = ["router bgp ", "route-map ", "vni ", "profile "];

/// What stands at the margin, each with what is below it.
pub fn blocks(text: &str) -> Vec<&str> {
    let mut blocks = vec![];
    let mut begin = 0;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let inner = line.starts_with([' ', '\t', '!', '\n']) || line.starts_with("exit") || line == "end\n";
        if !inner && at > begin {
            blocks.push(&text[begin..at]);
            begin = at;
        }
        at += line.len();
    }
    if at > begin {
        blocks.push(&text[begin..at]);
    }
    blocks
}

/// Whether a block is a context rather than a line; of one that is not known what is in it shows that.
pub fn is_context(block: &str) -> bool {
    let mut lines = block.lines();
    let first = lines.next().unwrap_or_default();
    opens_in("", first) || lines.any(|line| line.starts_with([' ', '\t']))
}

fn opens(first: &str, line: &str) -> bool {
    line.starts_with(first) && (first.ends_with(' ') || line == first)
}

/// Whether `line` opens bgpd's default instance.
pub fn opens_default(line: &str) -> bool {
    matches!(line.split_whitespace().collect::<Vec<_>>()[..], ["router", "bgp", _, ref more @ ..]
        if !more.iter().any(|word| ["vrf", "view"].contains(word)) || more.contains(&"default"))
}

/// Whether `line` opens a context in the one that `head` has opened.
fn opens_in(head: &str, line: &str) -> bool {
    OPENERS.iter().any(|(within, first)| {
        let here = if within.is_empty() { head.is_empty() } else { head.starts_with(within) };
        here && opens(first, line)
    })
}

/// The lines of `text`, trimmed, each with the heads of the contexts that it is in. `indented`: what is at the margin is in none,
/// as FRR prints it; else only `exit` closes one, as we tell it.
pub fn ways(text: &str, indented: bool) -> impl Iterator<Item = (Vec<&str>, &str)> {
    let mut way: Vec<&str> = vec![];
    text.lines().map(move |line| {
        let word = line.trim();
        if word == "exit" || word.starts_with("exit-") {
            way.pop();
        } else if indented && !word.is_empty() && !line.starts_with([' ', '\t', '!']) {
            way.clear();
        }
        while way.len() > 1 && !opens_in(way[way.len() - 1], word) && opens_in(way[way.len() - 2], word) {
            way.pop();
        }
        let here = way.clone();
        if opens_in(way.last().copied().unwrap_or_default(), word) {
            way.push(word);
        }
        (here, word)
    })
}

impl Context {
    /// Reads `text`, in which what is in a context is indented, as FRR prints it.
    ///
    /// # Errors
    /// A line that no context is open for.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut root = Self::default();
        // The way to the open context: its place in each one's `inner`.
        let mut way: Vec<usize> = vec![];
        let mut places: HashMap<(Vec<usize>, String), usize> = HashMap::new();
        for line in text.lines() {
            let word = line.trim();
            if word.is_empty() || word.starts_with('!') {
                continue;
            }
            if word == "end" {
                way.clear();
                continue;
            }
            if word == "exit" || word.starts_with("exit-") {
                way.pop();
                continue;
            }
            if !line.starts_with([' ', '\t']) {
                way.clear();
            } else if way.is_empty() {
                return Err(word.to_owned());
            }
            // A context ends where one begins that can't be in it.
            while !way.is_empty() && !root.at(&way).opens(word) && root.at(&way[..way.len() - 1]).opens(word)
            {
                way.pop();
            }
            let open = root.at_mut(&way);
            if open.opens(word) {
                let place = *places.entry((way.clone(), word.to_owned())).or_insert_with(|| {
                    open.inner.push(Self { head: word.to_owned(), ..Self::default() });
                    open.inner.len() - 1
                });
                way.push(place);
            } else {
                open.lines.push(word.to_owned());
            }
        }
        Ok(root)
    }

    fn opens(&self, line: &str) -> bool {
        opens_in(&self.head, line)
    }

    fn at(&self, way: &[usize]) -> &Self {
        way.iter().fold(self, |context, place| &context.inner[*place])
    }

    fn at_mut(&mut self, way: &[usize]) -> &mut Self {
        way.iter().fold(self, |context, place| &mut context.inner[*place])
    }

    /// Every line, after the heads of the contexts that it is in.
    pub fn flat(&self) -> BTreeSet<Vec<&str>> {
        let mut lines = BTreeSet::new();
        self.flatten(&[], &[], &mut lines);
        lines
    }

    /// The same, and the heads of contexts in which nothing is, where that means something.
    pub fn meant(&self) -> BTreeSet<Vec<&str>> {
        let mut lines = BTreeSet::new();
        self.flatten(&[], &MEANT, &mut lines);
        lines
    }

    fn flatten<'a>(&'a self, way: &[&'a str], empty: &[&str], lines: &mut BTreeSet<Vec<&'a str>>) {
        let mut way = way.to_vec();
        way.extend(Some(self.head.as_str()).filter(|head| !head.is_empty()));
        let is_empty = self.lines.is_empty() && self.inner.is_empty();
        if is_empty && empty.iter().any(|first| self.head.starts_with(first)) {
            lines.insert(way.clone());
        }
        lines.extend(self.lines.iter().map(|line| [&way[..], &[line]].concat()));
        self.inner.iter().for_each(|inner| inner.flatten(&way, empty, lines));
    }

    /// The same with nothing in it.
    pub fn emptied(&self) -> Self {
        Self { head: self.head.clone(), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_found_and_put_together() {
        let text = "log stdout\n!\nrouter bgp 1\n bgp router-id 1.1.1.1\n !\n address-family ipv4 unicast\n  network 10.0.0.0/8\n \
                    exit-address-family\n address-family l2vpn evpn\n  advertise-all-vni\n  vni 7\n   rd 1:1\n  exit-vni\n \
                    exit-address-family\nexit\nvrf red\n vni 5\nexit-vrf\nrouter bgp 1\n address-family ipv4 unicast\n  network \
                    10.0.0.0/8\n  network 11.0.0.0/8\nbfd\n profile a\n  passive-mode\n profile b\nend\nip route 10.0.0.0/8 Null0\n";
        let tree = Context::parse(text).unwrap();
        assert_eq!(tree.lines, ["log stdout", "ip route 10.0.0.0/8 Null0"]);
        let heads: Vec<&str> = tree.inner.iter().map(|c| c.head.as_str()).collect();
        assert_eq!(heads, ["router bgp 1", "vrf red", "bfd"]);
        let router = &tree.inner[0];
        assert_eq!(router.lines, ["bgp router-id 1.1.1.1"]);
        assert_eq!(router.inner[0].lines, ["network 10.0.0.0/8", "network 10.0.0.0/8", "network 11.0.0.0/8"]);
        assert_eq!(router.inner[1].inner[0].lines, ["rd 1:1"]);
        assert_eq!(tree.inner[2].inner[0].lines, ["passive-mode"]);
        assert_eq!(tree.inner[2].inner[1], tree.inner[2].inner[1].emptied());
        assert_eq!(
            Context::parse(" neighbor 10.0.0.1 remote-as 1\n"),
            Err("neighbor 10.0.0.1 remote-as 1".into())
        );
    }

    #[test]
    fn each_line_has_its_way() {
        let text = "router bgp 1\n timers bgp 3 9\n address-family ipv4 unicast\n  network 10.0.0.0/8\n address-family l2vpn evpn\n  \
                    vni 7\n   rd 1:1\n! x\n  vni 8\n   rd 1:2\ninterface x\n shutdown\nlog stdout\n";
        let way = |line: &str, indented| ways(text, indented).find(|(_, word)| *word == line).unwrap().0;
        assert_eq!(way("timers bgp 3 9", true), ["router bgp 1"]);
        assert_eq!(way("network 10.0.0.0/8", true), ["router bgp 1", "address-family ipv4 unicast"]);
        assert_eq!(way("rd 1:2", true), ["router bgp 1", "address-family l2vpn evpn", "vni 8"]);
        assert_eq!(way("shutdown", true), ["interface x"]);
        assert_eq!(way("log stdout", true), [""; 0]);
        let told = "router bgp 1\naddress-family ipv4 unicast\nnetwork 10.0.0.0/8\nexit\ntimers bgp 3 9\nexit\nlog stdout\n";
        let ways: Vec<usize> = ways(told, false).map(|(way, _)| way.len()).collect();
        assert_eq!(ways, [0, 1, 2, 1, 1, 0, 0]);
    }
}
