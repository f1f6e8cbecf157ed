//! What we made and moved, in a file of root's. An alias on a link can be written by whoever has the rights to its namespace, as a
//! pod may; so what is fetched out of another namespace, and what a link in the host's gets back, is in here.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::files::{self, Access, Owner};
use crate::model::{Link, Namespaces, Role};

/// Where it is. Like the namespaces it is gone after a reboot.
pub const PATH: &str = "/run/frr/namespaces.json";

/// What of the file is read at most, in bytes: 64 NICs have some 20 kB.
const LARGEST: u64 = 1 << 20;

/// What we made and moved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Namespaces that FRR ran in, by name: the kernel's number, which no other one ever has (`SO_NETNS_COOKIE`, socket(7)).
    namespaces: BTreeMap<String, u64>,
    /// NICs that were moved into them.
    nics: Vec<Moved>,
    /// The links that we made, by the number of their namespace.
    #[serde(default)]
    made: BTreeMap<u64, Made>,
    /// It could not be written last time.
    #[serde(skip)]
    unsaved: bool,
}

/// Links by their index, which no new link is given again, with their names: a link that comes from another namespace brings its index
/// along where that is free (`__dev_change_net_namespace`, `net/core/dev.c`).
pub type Made = BTreeMap<u32, String>;

/// A NIC that was moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Moved {
    namespace: String,
    /// Its index there; 0 while it is on its way.
    index: u32,
    /// Its address, permanent if it has such a one.
    mac: String,
    /// Its mark, which has its addresses at home.
    alias: String,
}

impl Moved {
    fn is(&self, link: &Link) -> bool {
        link.alias.as_ref() == Some(&self.alias) && address(link).as_ref() == Some(&self.mac)
    }
}

fn address(link: &Link) -> Option<String> {
    Some(link.permanent_mac.or(link.mac)?.to_string())
}

impl Record {
    /// What an earlier instance has written; nothing if there is no such file, or none of root's.
    pub fn load() -> Self {
        match read(Path::new(PATH)).and_then(|text| Ok(serde_json::from_str(&text)?)) {
            Ok(record) => record,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Self::default(),
            Err(e) => {
                log::warn!("{PATH} is not used: {e}; NICs in other namespaces stay there");
                Self::default()
            }
        }
    }

    /// Writes it if anything is new, or could not be written before. Without it all works but for what a later configuration, or the
    /// next instance, finds in it.
    pub fn save(&mut self, is_new: bool) {
        if !is_new && !self.unsaved {
            return;
        }
        let text = serde_json::to_string(self).unwrap_or_default();
        let result = files::write(Path::new(PATH), &text, Access::Root);
        if let (Err(e), false) = (&result, self.unsaved) {
            log::warn!(
                "{e}; until that goes, a later start does not know which NICs and links are ours \
                 but by their marks"
            );
        }
        self.unsaved = result.is_err();
    }

    /// FRR's namespace has this name and number. Whether that is new.
    pub fn namespace(&mut self, name: &str, cookie: u64) -> bool {
        self.namespaces.insert(name.into(), cookie) != Some(cookie)
    }

    /// The other namespaces that FRR ran in, with their numbers.
    pub fn others(&self, name: Option<&str>) -> Vec<(String, u64)> {
        let others = self.namespaces.iter().filter(|(other, _)| Some(other.as_str()) != name);
        others.map(|(name, cookie)| (name.clone(), *cookie)).collect()
    }

    /// The mark of a link in that namespace if we moved it there.
    pub fn moved(&self, namespace: &str, link: &Link) -> Option<&str> {
        let here = self.nics.iter().filter(|nic| nic.namespace == namespace && nic.index == link.index);
        here.filter(|nic| address(link).as_ref() == Some(&nic.mac)).map(|nic| nic.alias.as_str()).next()
    }

    /// What a link was to us that carries no mark, in the namespace of that number, or of FRR's by name.
    pub fn lost(&self, cookie: u64, namespace: Option<&str>, link: &Link) -> Option<Role> {
        let made = self.made.get(&cookie).and_then(|made| made.get(&link.index));
        if link.is_makeable() && made == Some(&link.name) {
            return Some(Role::Made);
        }
        Role::of(self.moved(namespace?, link)?)
    }

    /// Notes the links that are ours of those that we make. Whether anything is new.
    pub fn made(&mut self, made: BTreeMap<u64, Made>) -> bool {
        let is_new = made != self.made;
        self.made = made;
        is_new
    }

    /// Whether a link in the host's namespace that has a NIC's mark is one that we moved, or were about to.
    pub fn is_nic(&self, link: &Link) -> bool {
        self.nics.iter().any(|nic| nic.is(link))
    }

    /// Notes the NICs that are, or are about to be, in FRR's namespace: each link as it is, whether it is there, and its role. Whether
    /// anything is new.
    pub fn nics<'a>(
        &mut self,
        namespace: Option<&str>,
        ours: impl Iterator<Item = (&'a Link, bool, &'a Role)>,
        now: &Namespaces,
    ) -> bool {
        let mut nics: Vec<Moved> = vec![];
        for (link, is_there, role) in ours {
            if let (Some(namespace), Some(mac)) = (namespace, address(link)) {
                let index = if is_there { link.index } else { 0 };
                nics.push(Moved { namespace: namespace.into(), index, mac, alias: role.alias() });
            }
        }
        let is_visible = |known: &Moved| {
            now.sides().iter().any(|&side| now.get(side).links.iter().any(|link| known.is(link)))
        };
        for known in &self.nics {
            let stays = namespace != Some(&known.namespace) || is_visible(known);
            if stays && !nics.iter().any(|nic| nic.mac == known.mac && nic.alias == known.alias) {
                nics.push(known.clone());
            }
        }
        let is_new = nics != self.nics;
        self.nics = nics;
        is_new
    }
}

/// Reads a file of root's that nobody else can write.
fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = files::open(path, Owner::Root)?;
    if file.metadata()?.mode() & 0o022 != 0 {
        return Err(io::Error::other("others than root can write it"));
    }
    file.take(LARGEST).read_to_string(&mut text)?;
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
    fn what_has_lost_its_mark_is_known_by_its_index() {
        let mut record = Record::default();
        let link = |index, kind| Link::new(index, "metallb", kind);
        assert!(record.made([(7, [(3, "metallb".into())].into())].into()));
        assert!(!record.made([(7, [(3, "metallb".into())].into())].into()));
        assert_eq!(record.lost(7, None, &link(3, LinkKind::Vrf(88))), Some(Role::Made));
        assert_eq!(record.lost(7, None, &link(3, LinkKind::Device)), None, "nothing that we make");
        assert_eq!(record.lost(7, None, &link(4, LinkKind::Vrf(88))), None);
        let moved_in = Link::new(3, "eth1", LinkKind::Veth(9));
        assert_eq!(record.lost(7, None, &moved_in), None, "it has the index of one that went");
        assert_eq!(record.lost(8, None, &link(3, LinkKind::Vrf(88))), None, "another namespace");
        let (role, there) = (Role::Nic(vec!["192.0.2.1/32".parse().unwrap()]), nic(5, A, None));
        record.nics(Some("perouter"), [(&there, true, &role)].into_iter(), &Namespaces::default());
        assert_eq!(record.lost(9, Some("perouter"), &there), Some(role));
        assert_eq!(record.lost(9, None, &there), None);
    }

    #[test]
    fn only_what_was_moved_is_known() {
        let mut record = Record::default();
        record.namespace("perouter", 7);
        let role = Role::Nic(vec!["192.0.2.1/32".parse().unwrap()]);
        let alias = "frr-supervisor nic 192.0.2.1/32";
        let at_home = nic(2, A, None);
        assert!(record.nics(Some("perouter"), [(&at_home, false, &role)].into_iter(), &seen(&at_home)));
        // On its way it is known by its address and what its mark says.
        assert!(record.is_nic(&nic(2, A, Some(alias))));
        assert!(!record.is_nic(&nic(2, B, Some(alias))) && !record.is_nic(&nic(2, A, None)));
        assert!(!record.is_nic(&nic(2, A, Some("frr-supervisor nic 198.51.100.1/32"))));
        assert_eq!(record.moved("perouter", &nic(2, A, Some(alias))), None);
        let there = nic(5, A, Some(alias));
        let ours = || [(&there, true, &role)].into_iter();
        assert!(record.nics(Some("perouter"), ours(), &seen(&there)));
        assert!(!record.nics(Some("perouter"), ours(), &seen(&there)));
        assert_eq!(record.moved("perouter", &there), Some(alias));
        assert_eq!(
            record.moved("perouter", &nic(6, A, Some(alias))),
            None,
            "another with its address and mark"
        );
        assert_eq!(record.moved("pod", &there), None);
        // From another namespace it is still to be fetched, and what is read again is the same.
        assert!(!record.nics(None, [].into_iter(), &Namespaces::default()));
        assert_eq!(record.others(None), [("perouter".to_owned(), 7)]);
        assert_eq!(record.others(Some("perouter")), []);
        assert_eq!(serde_json::from_str::<Record>(&serde_json::to_string(&record).unwrap()).unwrap(), record);
        // At home and without its mark it is the host's.
        assert!(!record.nics(Some("perouter"), [].into_iter(), &seen(&there)));
        assert!(record.nics(Some("perouter"), [].into_iter(), &seen(&at_home)));
        assert_eq!(record.nics, []);
    }
}
