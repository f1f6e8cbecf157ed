//! Two texts of frr.conf → the commands that lead daemons that run with the first to what they would be with the second.
//! Pure.
//!
//! What is new comes before what goes away, but within a router, where one may have to make room for the other. What is about the same is overwritten, so that no session ends and no filter is open for a moment.

mod tree;
mod words;

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};

use super::Version;
use super::redact::redact;
use super::split::{Owner, owners};

pub use tree::{Context, opens_default, ways};

/// Commands for one daemon, from its configuration node on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The daemon.
    pub daemon: &'static str,
    /// The commands, in order.
    pub commands: Vec<Command>,
}

/// A command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Its words.
    pub text: String,
    /// It is of a route map that bgpd has as well, and may be known to that only: no harm is done if it is refused.
    pub optional: bool,
}

/// What leads from one configuration to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delta {
    /// These commands, in order; none if both are the same. And those for later, each by itself, when the kernel has changed,
    /// too: a VRF that it has can't go, and mgmtd does not get over that in the same conversation.
    Commands(Vec<Step>, Vec<Step>),
    /// The second is no configuration, for this reason.
    Wrong(String),
    /// No commands, for this reason: these daemons have to start anew, or all of them if there are none.
    Restart(&'static [&'static str], String),
}

/// Why there are no commands for a daemon.
#[derive(Debug)]
struct Unsafe(String);

/// Works out what leads from `old` to `new`.
pub fn delta(old: &str, new: &str, version: Version) -> Delta {
    if old == new {
        return Delta::Commands(vec![], vec![]);
    }
    if let Some((one, other)) = two_of_a_name(new) {
        return Delta::Wrong(format!("{:?} and {:?} can't both be", redact(one), redact(other)));
    }
    let (old, new) = differing(old, new);
    let trees = Context::parse(&old).and_then(|old| Ok((old, Context::parse(&new)?)));
    let (old, new) = match trees {
        Ok((old, new)) => (settled(old), settled(new)),
        Err(line) => return Delta::Restart(&[], format!("{:?} is in no context", redact(&line))),
    };
    let (old, new) = match (Parts::of(old, version), Parts::of(new, version)) {
        (Ok(old), Ok(new)) => (old, new),
        (Err(line), _) | (_, Err(line)) => {
            return Delta::Restart(&[], format!("{:?} is not known to be any daemon's", redact(&line)));
        }
    };
    if let Some(line) = difference(&old.common, &new.common) {
        return Delta::Restart(&[], format!("{:?} is for every daemon", redact(line)));
    }
    // VNIs are taken from VRFs before bgpd's instances of these end, which it would refuse. Profiles are there before
    // bgpd names them, and while it does.
    let (mut steps, mut late, mut of_bgpd) = (vec![], vec![], None);
    for (daemon, part) in [
        ("mgmtd", Part::All),
        ("zebra", Part::All),
        ("staticd", Part::All),
        ("bfdd", Part::New),
        ("bgpd", Part::All),
        ("bfdd", Part::Gone),
    ] {
        let (old, new) = (old.of.get(daemon).unwrap_or(&NOTHING), new.of.get(daemon).unwrap_or(&NOTHING));
        let vrfs = forgotten(old, new).filter(|_| part == Part::All);
        late.extend(vrfs.map(|text| Step { daemon, commands: vec![Command { text, optional: true }] }));
        match commands(daemon, old, new, part, version) {
            Ok(commands) if commands.is_empty() => {}
            Ok(commands) => steps.push(Step { daemon, commands }),
            Err(Unsafe(reason)) if daemon == "bgpd" => of_bgpd = Some(reason),
            Err(Unsafe(reason)) => return Delta::Restart(&[], reason),
        }
    }
    if let Some(reason) = of_bgpd {
        // The others would get nothing of what is for them.
        let alone = steps.is_empty() && late.is_empty();
        return Delta::Restart(if alone { &["bgpd"] } else { &[] }, reason);
    }
    Delta::Commands(steps, late)
}

/// How what `daemon` runs with differs from what it ran with: lines, each with `+` or `-` and without passwords, and the
/// commands that lead back, if any do.
pub fn drift(
    daemon: &str,
    running: &str,
    ours: &str,
    version: Version,
) -> (Vec<String>, Option<Vec<Command>>) {
    let (running, ours) = differing(running, ours);
    let read = |text: &str| {
        let mut tree = settled(Context::parse(text).ok()?);
        // Those are told to bfdd while it runs.
        let bfd = tree.inner.iter_mut().filter(|context| context.head == "bfd");
        bfd.for_each(|bfd| bfd.inner.retain(|context| !context.head.starts_with("peer ")));
        Some(tree)
    };
    let said = |sign: &str, way: &Vec<&str>| {
        let shown: Vec<_> = way.iter().map(|line| redact(line)).collect();
        format!("{sign} {}", shown.join(": "))
    };
    let differences = |here: &BTreeSet<Vec<&str>>, wanted: &BTreeSet<Vec<&str>>| {
        let more = here.difference(wanted).map(|line| said("+", line));
        more.chain(wanted.difference(here).map(|line| said("-", line))).collect()
    };
    let (Some(here), Some(wanted)) = (read(&running), read(&ours)) else {
        // There is a context that is not known: its lines are all that can be said. Those of bfdd are told to it while it runs.
        if daemon == "bfdd" {
            return (vec![], None);
        }
        let (here, wanted) = (plain(&running), plain(&ours));
        return (differences(&here, &wanted), None);
    };
    (differences(&here.meant(), &wanted.meant()), commands(daemon, &here, &wanted, Part::All, version).ok())
}

/// The lines of a text, whatever they are in.
fn plain(text: &str) -> BTreeSet<Vec<&str>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('!'));
    lines.map(|line| vec![line]).collect()
}

/// What remains of a configuration when a daemon has read all of it: of lines about the same the last.
fn settled(mut context: Context) -> Context {
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut lines: Vec<String> = Vec::with_capacity(context.lines.len());
    for line in context.lines {
        match places.entry(words::about(&context.head, &line)) {
            Entry::Occupied(place) => lines[*place.get()] = line,
            Entry::Vacant(place) => {
                place.insert(lines.len());
                lines.push(line);
            }
        }
    }
    context.lines = lines;
    context.inner = context.inner.into_iter().map(settled).collect();
    context
}

/// Which commands are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    All,
    /// Those that add or change.
    New,
    /// Those that take away.
    Gone,
}

/// A configuration by the daemons that have it.
#[derive(Debug, Default)]
struct Parts {
    of: HashMap<&'static str, Context>,
    /// Lines that every daemon reads.
    common: Vec<String>,
}

impl Parts {
    /// Deals the lines and contexts at the margin out. The error is one that is not known.
    fn of(tree: Context, version: Version) -> Result<Self, String> {
        let mut parts = Self::default();
        for line in tree.lines {
            match owners(&line, &[], version) {
                Owner::None => return Err(line),
                Owner::All => parts.common.push(line),
                Owner::Some(daemons) => {
                    for daemon in daemons {
                        parts.of.entry(daemon).or_default().lines.push(line.clone());
                    }
                }
            }
        }
        for context in tree.inner {
            let Owner::Some(daemons) = owners(&context.head, &context.lines, version) else {
                return Err(context.head);
            };
            for daemon in daemons {
                parts.of.entry(daemon).or_default().inner.push(context.clone());
            }
        }
        Ok(parts)
    }
}

fn difference<'a>(old: &'a [String], new: &'a [String]) -> Option<&'a String> {
    old.iter().find(|line| !new.contains(line)).or_else(|| new.iter().find(|line| !old.contains(line)))
}

/// The commands that lead one daemon from `old` to `new`.
fn commands(
    daemon: &str,
    old: &Context,
    new: &Context,
    part: Part,
    version: Version,
) -> Result<Vec<Command>, Unsafe> {
    let mut script = Script { shares_maps: daemon != "bgpd", ..Script::default() };
    // FRR 8.4 passes over an entry of a list that is there under another number.
    let makes_room = version < Version(10, 0);
    let (coming, going) = (part != Part::Gone, part != Part::New);
    let before: HashMap<String, &Context> = old.inner.iter().map(|c| (name(&c.head), c)).collect();
    let after: HashMap<String, &Context> = new.inner.iter().map(|c| (name(&c.head), c)).collect();
    let none = |_: &str| false;
    let (routers, others): (Vec<_>, Vec<_>) =
        new.inner.iter().partition(|context| context.head.starts_with("router bgp "));
    if going && makes_room {
        // Also those whose content another number gets, while theirs gets another content.
        for line in moved(&old.lines, &new.lines) {
            script.say(&[], &words::undo(&new.head, line));
        }
        script.lines(&[], old, new, &none, Part::Gone);
    }
    if coming {
        script.lines(&[], old, new, &none, Part::New);
        for context in others {
            let old = before.get(&name(&context.head)).copied().unwrap_or(&NOTHING);
            script.change(&[], old, context, &none, part);
        }
    }
    for router in routers.into_iter().filter(|_| coming) {
        match before.get(&name(&router.head)) {
            Some(old) if old.head != router.head => {
                let (old, new) = (redact(&old.head), redact(&router.head));
                return Err(Unsafe(format!("{old:?} becomes {new:?}")));
            }
            old => script.router(old.copied().unwrap_or(&NOTHING), router),
        }
    }
    if !going {
        return Ok(script.finish());
    }
    // The default instance can't go before those of VRFs.
    let gone = old.inner.iter().filter(|context| !after.contains_key(&name(&context.head)));
    let (routers, others): (Vec<_>, Vec<_>) =
        gone.partition(|context| context.head.starts_with("router bgp "));
    let (vrfs, default): (Vec<_>, Vec<_>) =
        routers.into_iter().partition(|context| context.head.contains(" vrf "));
    for router in vrfs.into_iter().chain(default) {
        script.say(&[], &format!("no {}", router.head));
    }
    for context in others.into_iter().rev() {
        // A VRF that the kernel has, an interface and BFD itself can't go.
        let stays = ["vrf ", "interface ", "bfd"].iter().any(|first| context.head.starts_with(first));
        if stays {
            script.change(&[], context, &context.emptied(), &none, Part::Gone);
        } else {
            script.say(&[], &format!("no {}", context.head));
        }
    }
    if part == Part::Gone {
        // What is taken from contexts that stay.
        for context in &new.inner {
            if let Some(old) = before.get(&name(&context.head)) {
                script.change(&[], old, context, &none, part);
            }
        }
    }
    if !makes_room {
        script.lines(&[], old, new, &none, Part::Gone);
    }
    Ok(script.finish())
}

/// Entries of prefix lists that are there under another number afterwards, while another entry has theirs.
fn moved<'a>(old: &'a [String], new: &'a [String]) -> impl Iterator<Item = &'a String> {
    fn entry(line: &str) -> Option<(&str, &str, &str)> {
        let (list, rest) = line.split_once(" seq ")?;
        let (number, content) = rest.split_once(' ')?;
        list.contains("prefix-list ").then_some((list, number, content))
    }
    let new = || new.iter().filter_map(|line| entry(line));
    let numbers: HashMap<_, _> = new().map(|(list, number, content)| ((list, content), number)).collect();
    let taken: HashSet<_> = new().map(|(list, number, _)| (list, number)).collect();
    old.iter().filter(move |line| {
        entry(line).is_some_and(|(list, number, content)| {
            let other = numbers.get(&(list, content)).is_some_and(|other| *other != number);
            other && taken.contains(&(list, number))
        })
    })
}

/// Two BGP instances of one VRF, with different AS numbers.
fn two_of_a_name(text: &str) -> Option<(&str, &str)> {
    let mut heads: HashMap<String, &str> = HashMap::new();
    let mut routers = text.lines().filter(|line| line.starts_with("router bgp "));
    routers.find_map(|head| {
        let other = heads.insert(name(head), head)?;
        (other != head).then_some((other, head))
    })
}

/// The texts without the contexts at the margin that both have once and alike: most of it, after most changes.
fn differing(old: &str, new: &str) -> (String, String) {
    let (old, new) = (tree::blocks(old), tree::blocks(new));
    let by_name = |blocks: &[&str]| {
        let mut named: HashMap<String, Option<usize>> = HashMap::with_capacity(blocks.len());
        for (i, block) in blocks.iter().enumerate().filter(|(_, block)| tree::is_context(block)) {
            let head = block.lines().next().unwrap_or_default();
            named.entry(name(head)).and_modify(|place| *place = None).or_insert(Some(i));
        }
        named
    };
    let (named_old, named_new) = (by_name(&old), by_name(&new));
    let (mut same_old, mut same_new) = (HashSet::new(), HashSet::new());
    for (name, place) in named_old {
        if let (Some(i), Some(Some(j))) = (place, named_new.get(&name))
            && old[i] == new[*j]
        {
            same_old.insert(i);
            same_new.insert(*j);
        }
    }
    let rest = |blocks: &[&str], same: &HashSet<usize>| {
        blocks.iter().enumerate().filter(|(i, _)| !same.contains(i)).map(|(_, block)| *block).collect()
    };
    (rest(&old, &same_old), rest(&new, &same_new))
}

/// VRFs that are not configured any more, as the commands that make FRR forget them.
fn forgotten<'a>(old: &'a Context, new: &'a Context) -> impl Iterator<Item = String> + 'a {
    let vrfs = old.inner.iter().filter(|context| context.head.starts_with("vrf "));
    let gone = vrfs.filter(|vrf| !new.inner.iter().any(|context| context.head == vrf.head));
    gone.map(|vrf| format!("no {}", vrf.head))
}

/// What a context at the margin or in another is, whatever else its head says.
fn name(head: &str) -> String {
    let words: Vec<&str> = head.split(' ').collect();
    match words[..] {
        ["router", "bgp", _, "vrf", vrf, ..] => format!("router bgp vrf {vrf}"),
        ["router", "bgp", ..] => "router bgp".into(),
        ["route-map", map, _, number] => format!("route-map {map} {number}"),
        _ => head.into(),
    }
}

/// What makes a neighbor what it is; one of another kind is another neighbor.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Peer {
    Address,
    Group,
    Interface,
    /// In a group, directly or as an interface.
    Member(String),
}

fn peers(router: &Context) -> HashMap<&str, Peer> {
    let mut peers = HashMap::new();
    for line in &router.lines {
        let words: Vec<&str> = line.split(' ').collect();
        let (peer, kind) = match words[..] {
            ["neighbor", peer, "peer-group"] => (peer, Peer::Group),
            ["neighbor", peer, "peer-group", group]
            | ["neighbor", peer, "interface", "peer-group", group]
            | ["neighbor", peer, "interface", "v6only", "peer-group", group] => {
                (peer, Peer::Member(group.into()))
            }
            ["neighbor", peer, "interface", ..] => (peer, Peer::Interface),
            ["neighbor", peer, "remote-as", _] => {
                peers.entry(peer).or_insert(Peer::Address);
                continue;
            }
            _ => continue,
        };
        peers.insert(peer, kind);
    }
    peers
}

/// The neighbor that a line is about.
fn peer_of(line: &str) -> Option<&str> {
    line.strip_prefix("no ").unwrap_or(line).strip_prefix("neighbor ")?.split(' ').next()
}

/// Whether a line is of a neighbor that has gone, or is about to.
type Lost<'a> = &'a dyn Fn(&str) -> bool;

static NOTHING: Context = Context { head: String::new(), lines: vec![], inner: vec![] };

fn by_head(context: &Context) -> HashMap<&str, &Context> {
    context.inner.iter().map(|inner| (inner.head.as_str(), inner)).collect()
}

/// Commands, with the contexts entered and left that they need.
#[derive(Debug, Default)]
struct Script {
    commands: Vec<Command>,
    open: Vec<String>,
    /// The daemon is another than the one that its route maps are for.
    shares_maps: bool,
}

impl Script {
    fn say(&mut self, way: &[&str], line: &str) {
        let common = self.open.iter().zip(way).take_while(|(open, wanted)| open == wanted).count();
        while self.open.len() > common {
            self.open.pop();
            self.push("exit");
        }
        for head in &way[common..] {
            self.push(head);
            self.open.push((*head).to_owned());
        }
        if !line.is_empty() {
            self.push(line);
        }
    }

    fn push(&mut self, text: &str) {
        let in_map = self.open.first().is_some_and(|head| head.starts_with("route-map "));
        self.commands.push(Command { text: text.to_owned(), optional: self.shares_maps && in_map });
    }

    fn finish(mut self) -> Vec<Command> {
        self.say(&[], "");
        self.commands
    }

    /// Changes a context, and those in it. Of lines that are `lost`, something else has seen to their going, and they come
    /// again even if they have not changed.
    fn change(&mut self, way: &[&str], old: &Context, new: &Context, lost: Lost<'_>, part: Part) {
        let way = [way, &[new.head.as_str()]].concat();
        if old.head != new.head && part != Part::Gone {
            self.say(&way, "");
        }
        self.lines(&way, old, new, lost, part);
        let (before, after) = (by_head(old), by_head(new));
        for inner in &new.inner {
            match before.get(inner.head.as_str()) {
                None if part == Part::Gone => {}
                old => self.change(&way, old.copied().unwrap_or(&NOTHING), inner, lost, part),
            }
        }
        for inner in old.inner.iter().filter(|c| part != Part::New && !after.contains_key(c.head.as_str())) {
            self.say(&way, &format!("no {}", inner.head));
        }
    }

    /// Lines that go, the last one first, and then lines that come; what serves the same end as one that comes goes after it.
    fn lines(&mut self, way: &[&str], old: &Context, new: &Context, lost: Lost<'_>, part: Part) {
        let head = &new.head;
        let before: HashSet<&str> = old.lines.iter().map(String::as_str).collect();
        let about: HashSet<String> = new.lines.iter().map(|line| words::about(head, line)).collect();
        let coming = new.lines.iter().filter(|line| !before.contains(line.as_str()) || lost(line));
        let sorts: HashSet<String> = coming.clone().filter_map(|line| words::sort(head, line)).collect();
        let (mut first, mut last) = (vec![], vec![]);
        let mut replaced: HashMap<String, &str> = HashMap::new();
        for line in old.lines.iter().rev().filter(|line| !lost(line)) {
            let key = words::about(head, line);
            if about.contains(&key) {
                replaced.insert(key, line);
            } else if words::sort(head, line).is_some_and(|sort| sorts.contains(&sort)) {
                last.push(words::undo(head, line));
            } else {
                first.push(words::undo(head, line));
            }
        }
        if part != Part::New {
            first.iter().for_each(|line| self.say(way, line));
        }
        if part != Part::Gone {
            for line in coming {
                let other = replaced.get(&words::about(head, line));
                if let Some(undo) = other.and_then(|other| words::in_the_way(head, other, line)) {
                    self.say(way, &undo);
                }
                self.say(way, line);
            }
            last.iter().for_each(|line| self.say(way, line));
        }
    }

    /// Changes a BGP instance, or makes it.
    fn router(&mut self, old: &Context, new: &Context) {
        let (peers_old, peers_new) = (peers(old), peers(new));
        let lost = |peer: &str| peers_old.get(peer).is_some_and(|kind| peers_new.get(peer) != Some(kind));
        let is_lost = |line: &str| peer_of(line).is_some_and(lost);
        let way = [new.head.as_str()];
        if old.head.is_empty() {
            self.say(&way, "");
        }
        let (before, after) = (by_head(old), by_head(new));
        // What goes: a family's lines one by one, it itself can't.
        for inner in old.inner.iter().rev() {
            let new = after.get(inner.head.as_str()).map_or_else(|| inner.emptied(), |new| (*new).clone());
            self.change(&way, inner, &new, &is_lost, Part::Gone);
        }
        self.lines(&way, old, new, &is_lost, Part::Gone);
        // Members before their groups, each with all that is said of it; or with its group, if that goes, too.
        let mut going: Vec<(&str, &Peer)> =
            peers_old.iter().filter(|(peer, _)| lost(peer)).map(|(peer, kind)| (*peer, kind)).collect();
        going.sort_by_key(|(peer, kind)| (**kind == Peer::Group, *peer));
        for (peer, kind) in &going {
            let group = if **kind == Peer::Group { " peer-group" } else { "" };
            let with_its_group =
                matches!(kind, Peer::Member(group) if going.contains(&(group.as_str(), &Peer::Group)));
            if !with_its_group {
                self.say(&way, &format!("no neighbor {peer}{group}"));
            }
        }
        // What comes.
        self.lines(&way, old, new, &is_lost, Part::New);
        for inner in &new.inner {
            let old = before.get(inner.head.as_str()).copied().unwrap_or(&NOTHING);
            self.change(&way, old, inner, &is_lost, Part::New);
        }
    }
}

#[cfg(test)]
mod tests;
