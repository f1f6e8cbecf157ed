//! A list of commands, written context by context.

use std::collections::{HashMap, HashSet};

use super::{Context, Pass, VtyCommand, grammar};
/// The neighbor that a line configures.
pub(super) fn neighbor_of(line: &str) -> Option<&str> {
    line.strip_prefix("no ").unwrap_or(line).strip_prefix("neighbor ")?.split(' ').next()
}

/// Whether a line configures a neighbor that is removed, or removed and added.
pub(super) type IsRemoved<'a> = &'a dyn Fn(&str) -> bool;

pub(super) static EMPTY: Context = Context { head: String::new(), lines: vec![], inner: vec![] };

pub(super) fn by_head(context: &Context) -> HashMap<&str, &Context> {
    context.inner.iter().map(|inner| (inner.head.as_str(), inner)).collect()
}

/// How a neighbor is defined. bgpd cannot change this: the neighbor is removed and added.
#[derive(Debug, Clone, PartialEq, Eq)]
enum NeighborKind {
    Address,
    Group,
    Interface,
    /// The neighbor, an address or an interface, is a member of this group.
    Member(String),
}

fn neighbor_kinds(router: &Context) -> HashMap<&str, NeighborKind> {
    let mut kinds = HashMap::new();
    for line in &router.lines {
        let words: Vec<&str> = line.split(' ').collect();
        let (neighbor, kind) = match words[..] {
            ["neighbor", neighbor, "peer-group"] => (neighbor, NeighborKind::Group),
            ["neighbor", neighbor, "peer-group", group]
            | ["neighbor", neighbor, "interface", "peer-group", group]
            | ["neighbor", neighbor, "interface", "v6only", "peer-group", group] => {
                (neighbor, NeighborKind::Member(group.into()))
            }
            ["neighbor", neighbor, "interface", ..] => (neighbor, NeighborKind::Interface),
            ["neighbor", neighbor, "remote-as", _] => {
                kinds.entry(neighbor).or_insert(NeighborKind::Address);
                continue;
            }
            _ => continue,
        };
        kinds.insert(neighbor, kind);
    }
    kinds
}

/// A list of commands that enter and leave contexts as needed.
#[derive(Debug, Default)]
pub(super) struct Script {
    pub(super) commands: Vec<VtyCommand>,
    /// The heads of the open contexts, the outermost first.
    pub(super) open: Vec<String>,
    /// The daemon is not bgpd: it gets bgpd's route maps, too.
    pub(super) shares_route_maps: bool,
}

impl Script {
    /// Appends `line` in the context at `path`; only enters the context if `line` is empty.
    pub(super) fn emit(&mut self, path: &[&str], line: &str) {
        let common = self.open.iter().zip(path).take_while(|(open, wanted)| open == wanted).count();
        while self.open.len() > common {
            self.open.pop();
            self.push("exit");
        }
        for head in &path[common..] {
            self.push(head);
            self.open.push((*head).to_owned());
        }
        if !line.is_empty() {
            self.push(line);
        }
    }

    pub(super) fn push(&mut self, text: &str) {
        let in_map = self.open.first().is_some_and(|head| head.starts_with("route-map "));
        self.commands.push(VtyCommand { text: text.to_owned(), optional: self.shares_route_maps && in_map });
    }

    /// Leaves the open contexts, and returns the commands.
    pub(super) fn finish(mut self) -> Vec<VtyCommand> {
        self.emit(&[], "");
        self.commands
    }

    /// Changes a context and the contexts inside. For a line with `is_removed`, the removal of its neighbor has removed
    /// it: it is not removed, but added again even if it has not changed.
    pub(super) fn change_context(
        &mut self,
        path: &[&str],
        old: &Context,
        new: &Context,
        is_removed: IsRemoved<'_>,
        pass: Pass,
    ) {
        let path = [path, &[new.head.as_str()]].concat();
        if old.head != new.head && pass != Pass::Remove {
            self.emit(&path, "");
        }
        self.change_lines(&path, old, new, is_removed, pass);
        let (before, after) = (by_head(old), by_head(new));
        for inner in &new.inner {
            match before.get(inner.head.as_str()) {
                None if pass == Pass::Remove => {}
                old => self.change_context(&path, old.copied().unwrap_or(&EMPTY), inner, is_removed, pass),
            }
        }
        for inner in old.inner.iter().filter(|c| pass != Pass::Add && !after.contains_key(c.head.as_str())) {
            self.emit(&path, &format!("no {}", inner.head));
        }
    }

    /// Removes lines, the last one first, and then adds lines. A line with the make-before-break group of an added line
    /// is removed after the additions.
    pub(super) fn change_lines(
        &mut self,
        path: &[&str],
        old: &Context,
        new: &Context,
        is_removed: IsRemoved<'_>,
        pass: Pass,
    ) {
        let head = &new.head;
        let before: HashSet<&str> = old.lines.iter().map(String::as_str).collect();
        let keys: HashSet<String> = new.lines.iter().map(|line| grammar::key(head, line)).collect();
        let added = new.lines.iter().filter(|line| !before.contains(line.as_str()) || is_removed(line));
        let groups: HashSet<String> =
            added.clone().filter_map(|line| grammar::make_before_break_group(head, line)).collect();
        let (mut first, mut last) = (vec![], vec![]);
        let mut replaced: HashMap<String, &str> = HashMap::new();
        for line in old.lines.iter().rev().filter(|line| !is_removed(line)) {
            let key = grammar::key(head, line);
            if keys.contains(&key) {
                replaced.insert(key, line);
            } else if grammar::make_before_break_group(head, line)
                .is_some_and(|group| groups.contains(&group))
            {
                last.push(grammar::negate(head, line));
            } else {
                first.push(grammar::negate(head, line));
            }
        }
        if pass != Pass::Add {
            first.iter().for_each(|line| self.emit(path, line));
        }
        if pass != Pass::Remove {
            for line in added {
                let other = replaced.get(&grammar::key(head, line));
                if let Some(negation) = other.and_then(|other| grammar::negate_before(head, other, line)) {
                    self.emit(path, &negation);
                }
                self.emit(path, line);
            }
            last.iter().for_each(|line| self.emit(path, line));
        }
    }

    /// Changes or adds a BGP instance.
    pub(super) fn change_router(&mut self, old: &Context, new: &Context) {
        let (kinds_old, kinds_new) = (neighbor_kinds(old), neighbor_kinds(new));
        let removed = |neighbor: &str| {
            kinds_old.get(neighbor).is_some_and(|kind| kinds_new.get(neighbor) != Some(kind))
        };
        let is_removed = |line: &str| neighbor_of(line).is_some_and(removed);
        let path = [new.head.as_str()];
        if old.head.is_empty() {
            self.emit(&path, "");
        }
        let (before, after) = (by_head(old), by_head(new));
        // Removals: the lines of an address family one by one, since bgpd cannot remove the family itself.
        for inner in old.inner.iter().rev() {
            let new = after.get(inner.head.as_str()).map_or_else(|| inner.emptied(), |new| (*new).clone());
            self.change_context(&path, inner, &new, &is_removed, Pass::Remove);
        }
        self.change_lines(&path, old, new, &is_removed, Pass::Remove);
        // Removed neighbors, members before their groups. bgpd removes all lines of a neighbor with it, and all members
        // with a group.
        let mut removals: Vec<(&str, &NeighborKind)> = kinds_old
            .iter()
            .filter(|(neighbor, _)| removed(neighbor))
            .map(|(neighbor, kind)| (*neighbor, kind))
            .collect();
        removals.sort_by_key(|(neighbor, kind)| (**kind == NeighborKind::Group, *neighbor));
        for (neighbor, kind) in &removals {
            let group = if **kind == NeighborKind::Group { " peer-group" } else { "" };
            let with_its_group = matches!(
                kind,
                NeighborKind::Member(group) if removals.contains(&(group.as_str(), &NeighborKind::Group))
            );
            if !with_its_group {
                self.emit(&path, &format!("no neighbor {neighbor}{group}"));
            }
        }
        // Additions.
        self.change_lines(&path, old, new, &is_removed, Pass::Add);
        for inner in &new.inner {
            let old = before.get(inner.head.as_str()).copied().unwrap_or(&EMPTY);
            self.change_context(&path, old, inner, &is_removed, Pass::Add);
        }
    }
}
