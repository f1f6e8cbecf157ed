//! The text of a configuration → a tree of contexts. Pure.

use std::collections::{BTreeSet, HashMap};

use super::super::grammar::{EFFECTIVE_WHEN_EMPTY, is_opener_in};

/// A context (`router bgp …`, `address-family …`), or the whole configuration, whose head is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Context {
    /// The line that opens the context.
    pub head: String,
    /// The lines directly in the context, in order.
    pub lines: Vec<String>,
    /// The contexts directly in it, each once, in order.
    pub inner: Vec<Self>,
}

/// The lines of `text`, trimmed, each with its path: the heads of the contexts that contain it, the outermost first.
/// `indented`: the text is indented as FRR prints it, and a line without indentation is at top level. Otherwise the
/// text is a list of commands, and only `exit` closes a context.
pub fn lines_with_path(text: &str, indented: bool) -> impl Iterator<Item = (Vec<&str>, &str)> {
    let mut path: Vec<&str> = vec![];
    text.lines().map(move |raw| {
        let line = raw.trim();
        if line == "exit" || line.starts_with("exit-") {
            path.pop();
        } else if indented && !line.is_empty() && !raw.starts_with([' ', '\t', '!']) {
            path.clear();
        }
        while path.len() > 1
            && !is_opener_in(path[path.len() - 1], line)
            && is_opener_in(path[path.len() - 2], line)
        {
            path.pop();
        }
        let path_of_line = path.clone();
        if is_opener_in(path.last().copied().unwrap_or_default(), line) {
            path.push(line);
        }
        (path_of_line, line)
    })
}

impl Context {
    /// Parses `text`, in which the lines of a context are indented as FRR prints them.
    ///
    /// # Errors
    /// An indented line with no open context.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut root = Self::default();
        // The path to the open context: an index into `inner` at each level.
        let mut path: Vec<usize> = vec![];
        let mut indices: HashMap<(Vec<usize>, String), usize> = HashMap::new();
        for raw in text.lines() {
            let line = raw.trim();
            if line.is_empty() || line.starts_with('!') {
                continue;
            }
            if line == "end" {
                path.clear();
                continue;
            }
            if line == "exit" || line.starts_with("exit-") {
                path.pop();
                continue;
            }
            if !raw.starts_with([' ', '\t']) {
                path.clear();
            } else if path.is_empty() {
                return Err(line.to_owned());
            }
            // A line that opens a sibling of the open context closes the open context.
            while !path.is_empty()
                && !root.at(&path).allows_context(line)
                && root.at(&path[..path.len() - 1]).allows_context(line)
            {
                path.pop();
            }
            let open = root.at_mut(&path);
            if open.allows_context(line) {
                let index = *indices.entry((path.clone(), line.to_owned())).or_insert_with(|| {
                    open.inner.push(Self { head: line.to_owned(), ..Self::default() });
                    open.inner.len() - 1
                });
                path.push(index);
            } else {
                open.lines.push(line.to_owned());
            }
        }
        Ok(root)
    }

    /// Whether `line` opens a context inside this one.
    fn allows_context(&self, line: &str) -> bool {
        is_opener_in(&self.head, line)
    }

    fn at(&self, path: &[usize]) -> &Self {
        path.iter().fold(self, |context, index| &context.inner[*index])
    }

    fn at_mut(&mut self, path: &[usize]) -> &mut Self {
        path.iter().fold(self, |context, index| &mut context.inner[*index])
    }

    /// Every line, each as its path and the line itself.
    pub fn flat(&self) -> BTreeSet<Vec<&str>> {
        let mut lines = BTreeSet::new();
        self.flatten(&[], &[], &mut lines);
        lines
    }

    /// Like [`Context::flat`], with the heads of empty contexts that have an effect.
    pub fn flat_with_empty(&self) -> BTreeSet<Vec<&str>> {
        let mut lines = BTreeSet::new();
        self.flatten(&[], &EFFECTIVE_WHEN_EMPTY, &mut lines);
        lines
    }

    fn flatten<'a>(&'a self, path: &[&'a str], empty: &[&str], lines: &mut BTreeSet<Vec<&'a str>>) {
        let mut path = path.to_vec();
        path.extend(Some(self.head.as_str()).filter(|head| !head.is_empty()));
        let is_empty = self.lines.is_empty() && self.inner.is_empty();
        if is_empty && empty.iter().any(|first| self.head.starts_with(first)) {
            lines.insert(path.clone());
        }
        lines.extend(self.lines.iter().map(|line| [&path[..], &[line]].concat()));
        self.inner.iter().for_each(|inner| inner.flatten(&path, empty, lines));
    }

    /// This context without its content.
    pub fn emptied(&self) -> Self {
        Self { head: self.head.clone(), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_parsed_and_merged() {
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
    fn each_line_has_its_path() {
        let text = "router bgp 1\n timers bgp 3 9\n address-family ipv4 unicast\n  network 10.0.0.0/8\n address-family l2vpn evpn\n  \
                    vni 7\n   rd 1:1\n! x\n  vni 8\n   rd 1:2\ninterface x\n shutdown\nlog stdout\n";
        let path = |line: &str, indented| {
            lines_with_path(text, indented).find(|(_, other)| *other == line).unwrap().0
        };
        assert_eq!(path("timers bgp 3 9", true), ["router bgp 1"]);
        assert_eq!(path("network 10.0.0.0/8", true), ["router bgp 1", "address-family ipv4 unicast"]);
        assert_eq!(path("rd 1:2", true), ["router bgp 1", "address-family l2vpn evpn", "vni 8"]);
        assert_eq!(path("shutdown", true), ["interface x"]);
        assert_eq!(path("log stdout", true), [""; 0]);
        let commands = "router bgp 1\naddress-family ipv4 unicast\nnetwork 10.0.0.0/8\nexit\ntimers bgp 3 9\nexit\nlog stdout\n";
        let depths: Vec<usize> = lines_with_path(commands, false).map(|(path, _)| path.len()).collect();
        assert_eq!(depths, [0, 1, 2, 1, 1, 0, 0]);
    }
}
