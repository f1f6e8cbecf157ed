//! VRFs that share a routing table. zebra exits when it finds two such VRFs, and so does every new zebra
//! (`interface_vrf_change`, `zebra/interface.c`: "misconfiguration exiting"). Pure.

use std::collections::BTreeMap;

use crate::model::{LinkKind, LinkMap, Ownership};
use crate::printable::printable;

/// A routing table that several VRFs share, at least one of them unmanaged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SharedTable {
    /// Number of the table.
    pub table: u32,
    /// Name of the managed VRF with this table, if there is one.
    pub managed: Option<String>,
    /// Names of the unmanaged VRFs with this table.
    pub unmanaged: Vec<String>,
}

impl SharedTable {
    /// A clause that names the VRFs and the table.
    pub fn description(&self) -> String {
        let names: Vec<_> = self.unmanaged.iter().map(|name| printable(name)).collect();
        let names = names.join(" and ");
        let table = self.table;
        match &self.managed {
            Some(managed) => format!(
                "VRF {names}, which frr-supervisor does not manage, uses routing table {table} of VRF {managed}"
            ),
            None => {
                format!("VRFs {names}, which frr-supervisor does not manage, share routing table {table}")
            }
        }
    }
}

/// The routing tables that several of these links share. The links are those of FRR's namespace.
pub fn shared_tables(links: &LinkMap) -> Vec<SharedTable> {
    let mut tables: BTreeMap<u32, SharedTable> = BTreeMap::new();
    for link in links.iter() {
        let LinkKind::Vrf(table) = link.kind else { continue };
        let shared = tables.entry(table).or_insert_with(|| SharedTable { table, ..SharedTable::default() });
        if link.ownership() == Some(Ownership::Created) {
            shared.managed = Some(link.name.clone());
        } else {
            shared.unmanaged.push(link.name.clone());
        }
    }
    tables.retain(|_, shared| {
        shared.unmanaged.len() + usize::from(shared.managed.is_some()) > 1 && !shared.unmanaged.is_empty()
    });
    tables.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Link;

    #[test]
    fn only_a_table_of_several_vrfs_is_shared() {
        let vrf = |name: &str, table| Link::new(table, name, LinkKind::Vrf(table));
        let managed = |name: &str, table| {
            let link = vrf(name, table);
            Link { alias: Some(Ownership::Created.alias()), ..link }
        };
        let links = |all: Vec<Link>| {
            let all = all.into_iter().zip(1..).map(|(link, index)| Link { index, ..link });
            shared_tables(&all.collect())
        };
        assert_eq!(links(vec![managed("metallb", 88), vrf("a", 89), Link::new(9, "b", LinkKind::Dummy)]), []);
        let shared = links(vec![managed("metallb", 88), managed("red", 1000), vrf("foo", 88), vrf("x", 5)]);
        assert_eq!(shared.len(), 1);
        assert_eq!(
            shared[0].description(),
            "VRF foo, which frr-supervisor does not manage, uses routing table 88 of VRF metallb"
        );
        let shared = links(vec![managed("metallb", 88), vrf("a", 5), vrf("b", 5)]);
        assert_eq!(
            shared[0].description(),
            "VRFs a and b, which frr-supervisor does not manage, share routing table 5"
        );
    }
}
