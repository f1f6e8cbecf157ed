//! A record of created links and moved NICs, in a file that only root can write. A program with privileges in a
//! namespace, such as a pod, can write the alias of a link there. So the record decides which NICs are moved out of
//! another namespace and which addresses a NIC gets in the host namespace.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::files::{self, Access, Owner};
use crate::model::{Link, Namespaces, Ownership};

/// Path of the record. A reboot removes it together with the namespaces.
pub const PATH: &str = "/run/frr/namespaces.json";

/// Maximum number of bytes that are read; 64 NICs take about 20 kB.
const MAX_SIZE: u64 = 1 << 20;

/// Created links and moved NICs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnershipRecord {
    /// Namespaces that FRR ran in: the name and the namespace cookie, which the kernel never reuses (`SO_NETNS_COOKIE`,
    /// socket(7)).
    namespaces: BTreeMap<String, u64>,
    /// NICs that were moved into these namespaces.
    nics: Vec<NicRecord>,
    /// The created links, by the cookie of their namespace.
    #[serde(default, rename = "made")]
    created: BTreeMap<u64, CreatedLinks>,
    /// The last attempt to write the record failed.
    #[serde(skip)]
    unsaved: bool,
}

/// Links by index, with their names. The kernel gives no index to a new link twice. But a link that is moved in from
/// another namespace keeps its index if that is free (`__dev_change_net_namespace`, `net/core/dev.c`), so the name is
/// compared, too.
pub type CreatedLinks = BTreeMap<u32, String>;

/// A moved NIC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct NicRecord {
    namespace: String,
    /// Its index in that namespace; 0 until the move is observed.
    index: u32,
    /// Its permanent MAC address; its current one if it has no permanent address.
    mac: String,
    /// Its ownership mark, which contains its addresses in the host namespace.
    alias: String,
}

impl NicRecord {
    /// Whether `link` has the MAC address and the mark of this record.
    fn is_same(&self, link: &Link) -> bool {
        link.alias.as_ref() == Some(&self.alias) && mac_text(link).as_ref() == Some(&self.mac)
    }
}

fn mac_text(link: &Link) -> Option<String> {
    Some(link.permanent_mac.or(link.mac)?.to_string())
}

impl OwnershipRecord {
    /// Loads the record of an earlier instance. It is empty if the file is missing, unreadable, or writable for users
    /// other than root.
    pub fn load() -> Self {
        match read(Path::new(PATH)).and_then(|text| Ok(serde_json::from_str(&text)?)) {
            Ok(record) => record,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Self::default(),
            Err(e) => {
                log::warn!("{PATH} is ignored: {e}; NICs in other namespaces stay there");
                Self::default()
            }
        }
    }

    /// Writes the record if it changed or if the last attempt failed. Only a later configuration or the next instance
    /// needs the file, so a failure is logged and not returned.
    pub fn save(&mut self, is_changed: bool) {
        if !is_changed && !self.unsaved {
            return;
        }
        let text = serde_json::to_string(self).unwrap_or_default();
        let result = files::write(Path::new(PATH), &text, Access::Root);
        if let (Err(e), false) = (&result, self.unsaved) {
            log::warn!(
                "{e}; until the file can be written, a later start recognizes managed NICs and links only by \
                 their ownership marks"
            );
        }
        self.unsaved = result.is_err();
    }

    /// Records the name and the cookie of FRR's namespace. Returns whether the record changed.
    pub fn set_namespace(&mut self, name: &str, cookie: u64) -> bool {
        self.namespaces.insert(name.into(), cookie) != Some(cookie)
    }

    /// The namespaces that FRR ran in, except the named one, with their cookies.
    pub fn other_namespaces(&self, name: Option<&str>) -> Vec<(String, u64)> {
        let others = self.namespaces.iter().filter(|(other, _)| Some(other.as_str()) != name);
        others.map(|(name, cookie)| (name.clone(), *cookie)).collect()
    }

    /// The ownership mark of a NIC that was moved into that namespace.
    pub fn moved_nic_mark(&self, namespace: &str, link: &Link) -> Option<&str> {
        let here = self.nics.iter().filter(|nic| nic.namespace == namespace && nic.index == link.index);
        here.filter(|nic| mac_text(link).as_ref() == Some(&nic.mac)).map(|nic| nic.alias.as_str()).next()
    }

    /// The recorded ownership of a link without a mark, in the namespace with that cookie (created links) or that name
    /// (moved NICs).
    pub fn previous_ownership(&self, cookie: u64, namespace: Option<&str>, link: &Link) -> Option<Ownership> {
        let created = self.created.get(&cookie).and_then(|created| created.get(&link.index));
        if link.is_creatable() && created == Some(&link.name) {
            return Some(Ownership::Created);
        }
        Ownership::from_alias(self.moved_nic_mark(namespace?, link)?)
    }

    /// Records the created links. Returns whether the record changed.
    pub fn set_created(&mut self, created: BTreeMap<u64, CreatedLinks>) -> bool {
        let is_changed = created != self.created;
        self.created = created;
        is_changed
    }

    /// Whether a link in the host namespace with a NIC's mark is a NIC that was moved, or was about to be.
    pub fn is_nic(&self, link: &Link) -> bool {
        self.nics.iter().any(|nic| nic.is_same(link))
    }

    /// Records the NICs that are in FRR's namespace or are about to be moved into it: each link, whether it was moved
    /// already, and its ownership. Keeps older records of NICs that are still visible or in other namespaces. Returns
    /// whether the record changed.
    pub fn set_nics<'a>(
        &mut self,
        namespace: Option<&str>,
        managed: impl Iterator<Item = (&'a Link, bool, &'a Ownership)>,
        now: &Namespaces,
    ) -> bool {
        let mut nics: Vec<NicRecord> = vec![];
        for (link, is_moved, ownership) in managed {
            if let (Some(namespace), Some(mac)) = (namespace, mac_text(link)) {
                let index = if is_moved { link.index } else { 0 };
                nics.push(NicRecord { namespace: namespace.into(), index, mac, alias: ownership.alias() });
            }
        }
        let is_visible = |known: &NicRecord| {
            now.sides().iter().any(|&side| now.get(side).links.iter().any(|link| known.is_same(link)))
        };
        for known in &self.nics {
            let is_kept = namespace != Some(&known.namespace) || is_visible(known);
            if is_kept && !nics.iter().any(|nic| nic.mac == known.mac && nic.alias == known.alias) {
                nics.push(known.clone());
            }
        }
        let is_changed = nics != self.nics;
        self.nics = nics;
        is_changed
    }
}

/// Reads a file that belongs to root and that only root can write.
fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = files::open(path, Owner::Root)?;
    if file.metadata()?.mode() & 0o022 != 0 {
        return Err(io::Error::other("users other than root can write it"));
    }
    file.take(MAX_SIZE).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{LinkKind, MacAddr, NsState, Value as _};

    fn nic(index: u32, mac: &str, alias: Option<&str>) -> Link {
        Link {
            mac: MacAddr::parse(mac).ok(),
            alias: alias.map(Into::into),
            ..Link::new(index, "eth1", LinkKind::Device)
        }
    }

    fn seen(link: &Link) -> Namespaces {
        let host = NsState { links: [link.clone()].into_iter().collect(), ..NsState::default() };
        Namespaces { host, router: None }
    }

    const A: &str = "02:00:00:00:00:0a";
    const B: &str = "02:00:00:00:00:0b";

    #[test]
    fn a_link_without_a_mark_is_recognized_by_its_index() {
        let mut record = OwnershipRecord::default();
        let link = |index, kind| Link::new(index, "metallb", kind);
        assert!(record.set_created([(7, [(3, "metallb".into())].into())].into()));
        assert!(!record.set_created([(7, [(3, "metallb".into())].into())].into()));
        assert_eq!(record.previous_ownership(7, None, &link(3, LinkKind::Vrf(88))), Some(Ownership::Created));
        assert_eq!(
            record.previous_ownership(7, None, &link(3, LinkKind::Device)),
            None,
            "not a kind that is created"
        );
        assert_eq!(record.previous_ownership(7, None, &link(4, LinkKind::Vrf(88))), None);
        let moved_in = Link::new(3, "eth1", LinkKind::Veth(9));
        assert_eq!(
            record.previous_ownership(7, None, &moved_in),
            None,
            "another link with the index of a removed one"
        );
        assert_eq!(
            record.previous_ownership(8, None, &link(3, LinkKind::Vrf(88))),
            None,
            "another namespace"
        );
        let (ownership, moved) =
            (Ownership::MovedNic(vec!["192.0.2.1/32".parse().unwrap()]), nic(5, A, None));
        record.set_nics(Some("perouter"), [(&moved, true, &ownership)].into_iter(), &Namespaces::default());
        assert_eq!(record.previous_ownership(9, Some("perouter"), &moved), Some(ownership));
        assert_eq!(record.previous_ownership(9, None, &moved), None);
    }

    #[test]
    fn only_moved_nics_are_recognized() {
        let mut record = OwnershipRecord::default();
        record.set_namespace("perouter", 7);
        let ownership = Ownership::MovedNic(vec!["192.0.2.1/32".parse().unwrap()]);
        let alias = "frr-supervisor nic 192.0.2.1/32";
        let in_host = nic(2, A, None);
        assert!(record.set_nics(
            Some("perouter"),
            [(&in_host, false, &ownership)].into_iter(),
            &seen(&in_host)
        ));
        // Until the move is observed, its MAC address and its mark identify it.
        assert!(record.is_nic(&nic(2, A, Some(alias))));
        assert!(!record.is_nic(&nic(2, B, Some(alias))) && !record.is_nic(&nic(2, A, None)));
        assert!(!record.is_nic(&nic(2, A, Some("frr-supervisor nic 198.51.100.1/32"))));
        assert_eq!(record.moved_nic_mark("perouter", &nic(2, A, Some(alias))), None);
        let moved = nic(5, A, Some(alias));
        let managed = || [(&moved, true, &ownership)].into_iter();
        assert!(record.set_nics(Some("perouter"), managed(), &seen(&moved)));
        assert!(!record.set_nics(Some("perouter"), managed(), &seen(&moved)));
        assert_eq!(record.moved_nic_mark("perouter", &moved), Some(alias));
        assert_eq!(
            record.moved_nic_mark("perouter", &nic(6, A, Some(alias))),
            None,
            "another NIC with the same MAC address and mark"
        );
        assert_eq!(record.moved_nic_mark("pod", &moved), None);
        // With NETNS=host the record stays until the NIC is moved back. It also survives a round trip through JSON.
        assert!(!record.set_nics(None, [].into_iter(), &Namespaces::default()));
        assert_eq!(record.other_namespaces(None), [("perouter".to_owned(), 7)]);
        assert_eq!(record.other_namespaces(Some("perouter")), []);
        assert_eq!(
            serde_json::from_str::<OwnershipRecord>(&serde_json::to_string(&record).unwrap()).unwrap(),
            record
        );
        // In the host namespace and without its mark, it is no longer managed.
        assert!(!record.set_nics(Some("perouter"), [].into_iter(), &seen(&moved)));
        assert!(record.set_nics(Some("perouter"), [].into_iter(), &seen(&in_host)));
        assert_eq!(record.nics, []);
    }
}
