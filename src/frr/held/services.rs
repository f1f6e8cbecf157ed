//! The services of a node, in little memory: thousands of prefixes have a handful of sets of attributes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeSeq as _, Serializer};
use serde::{Deserialize, Serialize};

use super::Attributes;

/// Services of a node that are known at most; the others are not retained. Bounds what a speaker can make us keep.
pub const MAX_SERVICES: usize = 100_000;

/// Sets of attributes at most; each is a route map in bgpd while services are retained.
const MAX_SETS: usize = 4096;

/// Fewer sets than these are never looked through for those that no service has any more.
const SWEEP: usize = 64;

/// Services by prefix, with their attributes.
#[derive(Debug, Clone, Default)]
pub struct Services {
    routes: BTreeMap<IpNet, Arc<Attributes>>,
    /// Each set of attributes once.
    sets: BTreeSet<Arc<Attributes>>,
    /// From so many sets on they are looked through.
    sweep_at: usize,
}

impl PartialEq for Services {
    fn eq(&self, other: &Self) -> bool {
        self.routes == other.routes
    }
}

impl Eq for Services {}

/// As it is written to a file.
#[derive(Serialize, Deserialize)]
struct Group {
    attributes: Attributes,
    prefixes: Vec<IpNet>,
}

impl Services {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// Their prefixes, in order.
    pub fn prefixes(&self) -> impl Iterator<Item = &IpNet> {
        self.routes.keys()
    }

    /// The attributes of one of them.
    pub fn get(&self, prefix: &IpNet) -> Option<&Attributes> {
        self.routes.get(prefix).map(Arc::as_ref)
    }

    /// The first prefixes after `prefix`, or from the beginning.
    pub fn after(&self, prefix: Option<IpNet>, count: usize) -> Vec<IpNet> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = prefix.map_or(Unbounded, Excluded);
        self.routes.range((from, Unbounded)).map(|(prefix, _)| *prefix).take(count).collect()
    }

    /// Takes one in, or its new attributes, unless there are too many. Whether anything has changed.
    pub fn insert(&mut self, prefix: IpNet, attributes: Attributes) -> bool {
        match self.routes.get(&prefix) {
            Some(before) if **before == attributes => return false,
            None if self.len() >= MAX_SERVICES => return false,
            _ => {}
        }
        let set = match self.sets.get(&attributes) {
            Some(set) => Arc::clone(set),
            None => {
                self.sweep();
                if self.sets.len() >= MAX_SETS {
                    return false;
                }
                let set = Arc::new(attributes);
                self.sets.insert(Arc::clone(&set));
                set
            }
        };
        self.routes.insert(prefix, set);
        true
    }

    /// Keeps those of which `keep` is true. Whether any other was there.
    pub fn retain(&mut self, mut keep: impl FnMut(&IpNet, &Attributes) -> bool) -> bool {
        let before = self.len();
        self.routes.retain(|prefix, attributes| keep(prefix, attributes));
        before != self.len()
    }

    /// Those among `prefixes`.
    pub fn among(&self, prefixes: &BTreeSet<IpNet>) -> Self {
        let there = self.routes.iter().filter(|(prefix, _)| prefixes.contains(prefix));
        let routes = there.map(|(prefix, attributes)| (*prefix, Arc::clone(attributes))).collect();
        Self { routes, ..Self::default() }
    }

    /// The prefixes of each set of attributes.
    pub fn groups(&self) -> Vec<(&Attributes, Vec<IpNet>)> {
        let mut groups: BTreeMap<&Attributes, Vec<IpNet>> = BTreeMap::new();
        for (prefix, attributes) in &self.routes {
            groups.entry(attributes).or_default().push(*prefix);
        }
        groups.into_iter().collect()
    }

    /// Forgets sets of attributes that no service has any more, when there are many of them.
    fn sweep(&mut self) {
        if self.sets.len() >= self.sweep_at.max(SWEEP) {
            self.sets.retain(|set| Arc::strong_count(set) > 1);
            self.sweep_at = (2 * self.sets.len()).min(MAX_SETS);
        }
    }
}

impl Serialize for Services {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let groups = self.groups();
        let mut list = serializer.serialize_seq(Some(groups.len()))?;
        for (attributes, prefixes) in groups {
            list.serialize_element(&Group { attributes: attributes.clone(), prefixes })?;
        }
        list.end()
    }
}

impl<'de> Deserialize<'de> for Services {
    /// Reads the file of an earlier version, too: attributes by prefix.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Services;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("services")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Services, A::Error> {
                let mut services = Services::default();
                while let Some(Group { attributes, prefixes }) = list.next_element()? {
                    for prefix in prefixes {
                        services.insert(prefix, attributes.clone());
                    }
                }
                Ok(services)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Services, A::Error> {
                let mut services = Services::default();
                while let Some((prefix, attributes)) = map.next_entry()? {
                    services.insert(prefix, attributes);
                }
                Ok(services)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(path: &str) -> Attributes {
        Attributes { as_path: path.into(), origin: "igp".into(), ..Attributes::default() }
    }

    #[test]
    fn the_file_says_the_same_and_that_of_an_earlier_version_is_read() {
        let mut services = Services::default();
        for n in 0..200 {
            let prefix = format!("198.51.100.{n}/32").parse().unwrap();
            assert!(services.insert(prefix, attributes(if n % 2 == 0 { "1" } else { "2" })));
            assert!(!services.insert(prefix, attributes(if n % 2 == 0 { "1" } else { "2" })));
        }
        assert_eq!((services.len(), services.groups().len(), services.sets.len()), (200, 2, 2));
        let text = serde_json::to_string(&services).unwrap();
        assert!(text.len() < 200 * 24, "{}", text.len());
        assert_eq!(serde_json::from_str::<Services>(&text).unwrap(), services);
        let earlier: BTreeMap<IpNet, &Attributes> =
            services.routes.iter().map(|(p, a)| (*p, a.as_ref())).collect();
        let earlier = serde_json::to_string(&earlier).unwrap().replace(r#""local_preference":null,"#, "");
        assert_eq!(serde_json::from_str::<Services>(&earlier).unwrap(), services);
        for bad in ["7", "{\"x\":1}", "[{}]", "[{\"attributes\":{},\"prefixes\":[]}]"] {
            assert!(serde_json::from_str::<Services>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn attributes_that_no_one_has_any_more_are_forgotten() {
        let mut services = Services::default();
        for n in 0..1000 {
            services.insert("198.51.100.1/32".parse().unwrap(), attributes(&n.to_string()));
        }
        assert!(services.sets.len() <= SWEEP, "{}", services.sets.len());
        assert_eq!(services.get(&"198.51.100.1/32".parse().unwrap()), Some(&attributes("999")));
    }
}
