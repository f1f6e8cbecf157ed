//! frr.conf, read once: its text, and where each top-level line and context begins. Everything that needs a part of it
//! takes this: the daemons' files, the delta, the shutdown commands, the roles of the neighbors. Pure.

use std::collections::HashSet;
use std::sync::Arc;

use super::DaemonKind;
use super::grammar::{FileReader, context_key, file_reader, is_default_bgp_instance, is_opener_in};

/// The daemons that read a file.
const FILE_READERS: [DaemonKind; 3] = [DaemonKind::Bgpd, DaemonKind::Bfdd, DaemonKind::Zebra];

/// The log settings that the reader of the daemons' log requires (`supervisor::output`): each message is written
/// separately, and starts with its priority.
const LOG_SETTINGS: [&str; 2] = ["log immediate-mode", "log record-priority"];

/// A configuration of FRR. A clone shares the text.
#[derive(Debug, Clone)]
pub struct Document {
    text: Arc<str>,
    blocks: Arc<[BlockRange]>,
    /// The keys of the contexts that are opened more than once.
    repeated: Arc<HashSet<String>>,
}

/// The place of a block in the text, in bytes.
#[derive(Debug, Clone, Copy)]
struct BlockRange {
    begin: u32,
    end: u32,
    is_context: bool,
}

/// A top-level line with the indented lines, comments and `exit`s that follow it.
#[derive(Debug, Clone, Copy)]
pub struct Block<'a> {
    /// The text, with all line breaks.
    pub text: &'a str,
    /// It is a context, not a single line. An unknown context is recognized by its indented lines.
    pub is_context: bool,
}

impl<'a> Block<'a> {
    /// The first line, which opens the context if the block is one.
    pub fn head(self) -> &'a str {
        self.text.lines().next().unwrap_or_default().trim_end()
    }

    /// The lines of a context, trimmed, without its head.
    pub fn lines(self) -> impl Iterator<Item = &'a str> {
        self.text.lines().skip(1).map(str::trim)
    }

    /// Whether its context is closed by an `exit`, so that what follows is outside.
    pub fn is_closed(self) -> bool {
        self.text.lines().any(|line| line.trim_end() == "exit")
    }
}

impl Document {
    /// Reads a text of up to 4 GiB. Any text is a document.
    pub fn parse(text: &str) -> Self {
        let (mut blocks, mut keys, mut repeated) = (vec![], HashSet::new(), HashSet::new());
        let mut add = |begin: usize, end: usize| {
            let text = &text[begin..end];
            let block = Block { text, is_context: is_context(text) };
            let key = context_key(block.head());
            if block.is_context && !keys.insert(key.clone()) {
                repeated.insert(key);
            }
            let [begin, end] = [begin, end].map(|at| u32::try_from(at).unwrap_or(u32::MAX));
            blocks.push(BlockRange { begin, end, is_context: block.is_context });
        };
        let (mut begin, mut at) = (0, 0);
        for line in text.split_inclusive('\n') {
            let content = line.trim_end();
            let continues = line.starts_with([' ', '\t', '!'])
                || content.is_empty()
                || content == "end"
                || content.starts_with("exit");
            if !continues && at > begin {
                add(begin, at);
                begin = at;
            }
            at += line.len();
        }
        if at > begin {
            add(begin, at);
        }
        Self { text: text.into(), blocks: blocks.into(), repeated: Arc::new(repeated) }
    }

    /// The text.
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// The top-level lines and contexts, in order. The first one may consist of comments.
    pub fn blocks(&self) -> impl Iterator<Item = Block<'_>> {
        self.blocks.iter().map(|block| Block {
            text: &self.text[block.begin as usize..block.end as usize],
            is_context: block.is_context,
        })
    }

    /// All lines, trimmed.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.text.lines().map(str::trim)
    }

    /// The blocks of the default BGP instance.
    pub fn default_instance(&self) -> impl Iterator<Item = Block<'_>> {
        self.blocks().filter(|block| is_default_bgp_instance(block.head()))
    }

    /// Whether this is a top-level line.
    pub fn has_line(&self, line: &str) -> bool {
        self.blocks().any(|block| block.head() == line)
    }

    /// Whether the context with this head is opened more than once.
    pub fn is_repeated(&self, head: &str) -> bool {
        !self.repeated.is_empty() && self.repeated.contains(&context_key(head))
    }

    /// The log settings that the text lacks: an operator's template may omit them.
    fn missing_log_settings(&self) -> impl Iterator<Item = String> {
        let missing = LOG_SETTINGS.iter().filter(|setting| !self.has_line(setting));
        missing.map(|line| format!("{line}\n"))
    }

    /// The text, preceded by the log settings that it lacks.
    pub fn with_log_settings(&self) -> String {
        self.missing_log_settings().chain([self.text.to_string()]).collect()
    }

    /// The part of the text in the file of each daemon that reads one, with the log settings. Empty if a top-level line
    /// is unknown: then a part may be incomplete, and vtysh must send the configuration to the daemons.
    pub fn parts(&self) -> Vec<(DaemonKind, String)> {
        let log_settings: String = self.missing_log_settings().collect();
        let mut parts = FILE_READERS.map(|daemon| (daemon, log_settings.clone()));
        // vtysh ignores `end`, but a daemon that reads a file stops at it.
        let is_relevant =
            |line: &&str| !line.trim().is_empty() && !line.starts_with('!') && line.trim() != "end";
        for block in self.blocks() {
            let mut lines = block.text.lines().filter(is_relevant).peekable();
            let Some(head) = lines.peek() else { continue };
            let Some(reader) = file_reader(head, block.lines()) else { return vec![] };
            for (daemon, part) in &mut parts {
                if reader == FileReader::All || reader == FileReader::Daemon(*daemon) {
                    lines.clone().for_each(|line| part.extend([line, "\n"]));
                }
            }
        }
        parts.into()
    }
}

impl From<&str> for Document {
    fn from(text: &str) -> Self {
        Self::parse(text)
    }
}

impl PartialEq for Document {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

/// Whether a block is a context, not a single line.
fn is_context(text: &str) -> bool {
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    is_opener_in("", first) || lines.any(|line| line.starts_with([' ', '\t']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> Vec<(DaemonKind, String)> {
        Document::parse(text).parts()
    }

    #[test]
    fn each_part_has_the_lines_of_its_daemon() {
        let text = "log immediate-mode\nlog record-priority\nno zebra nexthop kernel enable\ninterface eth0\n ipv6 nd x\nexit\n!\n\
                    ip prefix-list a permit any\nip protocol bgp route-map s\nrouter bgp 1\n neighbor x\n !\nexit\n!\nbfd\n profile p\n \
                    exit\nexit\n!\nroute-map s permit 1\n set src 10.0.0.1\nexit\n";
        let log = "log immediate-mode\nlog record-priority\n";
        let wanted = [
            (
                DaemonKind::Bgpd,
                format!("{log}ip prefix-list a permit any\nrouter bgp 1\n neighbor x\n !\nexit\n"),
            ),
            (DaemonKind::Bfdd, format!("{log}bfd\n profile p\n exit\nexit\n")),
            (DaemonKind::Zebra, format!("{log}no zebra nexthop kernel enable\n")),
        ];
        assert_eq!(parts(text), wanted);
        assert_eq!(
            parts(&text.replace("bfd\n", "end\nbfd\n")),
            wanted,
            "a daemon would stop reading at \"end\""
        );
        assert_eq!(parts(&format!("! comment\n\n{text}")), wanted);
        let with_cr = text.replace(" neighbor x\n", " neighbor x\n\n").replace('\n', "\r\n");
        assert_eq!(parts(&with_cr), wanted, "FRR accepts any line break");
        assert_eq!(parts(text.strip_prefix(log).unwrap()), wanted, "missing log settings are added");
    }

    #[test]
    fn missing_log_settings_are_added() {
        let added = |text: &str| Document::parse(text).with_log_settings();
        let text = "log stdout\nlog record-priority \nrouter bgp 1\n";
        assert_eq!(added(text), format!("log immediate-mode\n{text}"));
        assert_eq!(added("x\n"), "log immediate-mode\nlog record-priority\nx\n");
        let built_in = include_str!("../../templates/frr.conf.j2");
        assert_eq!(added(built_in), built_in);
    }

    #[test]
    fn an_unknown_line_leaves_all_to_vtysh() {
        assert_eq!(parts("router bgp 1\nneighbor 1.1.1.1 remote-as 2\n"), []);
        assert_eq!(parts("segment-routing\n srv6\nexit\n"), []);
    }

    #[test]
    fn contexts_that_are_opened_twice_are_known() {
        let document =
            Document::parse("router bgp 1\n a\nexit\nvrf x\nexit\nrouter bgp 2\n b\nexit\nlog a\nlog a\n");
        assert!(document.is_repeated("router bgp 1") && document.is_repeated("router bgp 2"));
        assert!(!document.is_repeated("vrf x") && !document.is_repeated("log a"));
    }
}
