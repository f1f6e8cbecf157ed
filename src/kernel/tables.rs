//! VRFs that have one routing table: a zebra that sees two of these ends at once, and so does each that comes after it
//! (`interface_vrf_change`, `zebra/interface.c`: "misconfiguration exiting"). Pure.

use std::collections::BTreeMap;

use crate::model::{LinkKind, Links, Role};
use crate::printable::printable;

/// A routing table that several VRFs have, not all of them ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SharedTable {
    /// Its number.
    pub table: u32,
    /// Our VRF that has it, if one has.
    pub ours: Option<String>,
    /// The others' VRFs that have it.
    pub others: Vec<String>,
}

impl SharedTable {
    /// What is wrong, as far as a comma.
    pub fn what(&self) -> String {
        let names: Vec<_> = self.others.iter().map(|name| printable(name)).collect();
        let table = self.table;
        match &self.ours {
            Some(ours) => {
                format!(
                    "VRF {}, which is not ours, has routing table {table} of VRF {ours}",
                    names.join(" and ")
                )
            }
            None => {
                format!("VRFs {}, which are not ours, have one routing table, {table}", names.join(" and "))
            }
        }
    }
}

/// The tables that are shared among these links, which are those of FRR's namespace.
pub fn shared_tables(links: &Links) -> Vec<SharedTable> {
    let mut tables: BTreeMap<u32, SharedTable> = BTreeMap::new();
    for link in links.iter() {
        let LinkKind::Vrf(table) = link.kind else { continue };
        let shared = tables.entry(table).or_insert_with(|| SharedTable { table, ..SharedTable::default() });
        if link.role() == Some(Role::Made) {
            shared.ours = Some(link.name.clone());
        } else {
            shared.others.push(link.name.clone());
        }
    }
    tables.retain(|_, shared| {
        shared.others.len() + usize::from(shared.ours.is_some()) > 1 && !shared.others.is_empty()
    });
    tables.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Link;

    #[test]
    fn only_what_two_have_is_shared() {
        let vrf = |name: &str, table| Link::new(table, name, LinkKind::Vrf(table));
        let ours = |name: &str, table| {
            let link = vrf(name, table);
            Link { alias: Some(Role::Made.alias()), ..link }
        };
        let links = |all: Vec<Link>| {
            let all = all.into_iter().zip(1..).map(|(link, index)| Link { index, ..link });
            shared_tables(&all.collect())
        };
        assert_eq!(links(vec![ours("metallb", 88), vrf("a", 89), Link::new(9, "b", LinkKind::Dummy)]), []);
        let shared = links(vec![ours("metallb", 88), ours("red", 1000), vrf("foo", 88), vrf("x", 5)]);
        assert_eq!(shared.len(), 1);
        assert_eq!(shared[0].what(), "VRF foo, which is not ours, has routing table 88 of VRF metallb");
        let shared = links(vec![ours("metallb", 88), vrf("a", 5), vrf("b", 5)]);
        assert_eq!(shared[0].what(), "VRFs a and b, which are not ours, have one routing table, 5");
    }
}
