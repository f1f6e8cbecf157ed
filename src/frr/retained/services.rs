//! The services of a node. Thousands of prefixes share a handful of attribute sets, so each set is stored once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeSeq as _, Serializer};
use serde::{Deserialize, Serialize};

use super::PathAttributes;

/// The maximum number of services; further ones are not retained. It limits the memory that a speaker can make us use.
pub const MAX_SERVICES: usize = 100_000;

/// The maximum number of attribute sets. Each is a route map in bgpd while services are retained.
const MAX_SETS: usize = 4096;

/// The minimum number of attribute sets at which unused ones are removed.
const MIN_CLEANUP: usize = 64;

/// Services by prefix, with their attributes.
#[derive(Debug, Clone, Default)]
pub struct Services {
    routes: BTreeMap<IpNet, Arc<PathAttributes>>,
    /// Each attribute set once.
    sets: BTreeSet<Arc<PathAttributes>>,
    /// The number of attribute sets at which unused ones are removed.
    cleanup_at: usize,
}

impl PartialEq for Services {
    fn eq(&self, other: &Self) -> bool {
        self.routes == other.routes
    }
}

impl Eq for Services {}

/// The services with one attribute set, as they are saved.
#[derive(Serialize, Deserialize)]
struct ServiceGroup {
    attributes: PathAttributes,
    prefixes: Vec<IpNet>,
}

impl Services {
    /// The number of services.
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Whether there are no services.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// The prefixes of the services, in order.
    pub fn prefixes(&self) -> impl Iterator<Item = &IpNet> {
        self.routes.keys()
    }

    /// The attributes of the service `prefix`.
    pub fn get(&self, prefix: &IpNet) -> Option<&PathAttributes> {
        self.routes.get(prefix).map(Arc::as_ref)
    }

    /// The first `count` prefixes after `prefix`, or from the first one on.
    pub fn after(&self, prefix: Option<IpNet>, count: usize) -> Vec<IpNet> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = prefix.map_or(Unbounded, Excluded);
        self.routes.range((from, Unbounded)).map(|(prefix, _)| *prefix).take(count).collect()
    }

    /// Adds a service or replaces its attributes, unless there are too many. Returns whether anything changed.
    pub fn insert(&mut self, prefix: IpNet, attributes: PathAttributes) -> bool {
        match self.routes.get(&prefix) {
            Some(before) if **before == attributes => return false,
            None if self.len() >= MAX_SERVICES => return false,
            _ => {}
        }
        let set = match self.sets.get(&attributes) {
            Some(set) => Arc::clone(set),
            None => {
                self.remove_unused_sets();
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

    /// Removes the services for which `keep` returns false. Returns whether any was removed.
    pub fn retain(&mut self, mut keep: impl FnMut(&IpNet, &PathAttributes) -> bool) -> bool {
        let before = self.len();
        self.routes.retain(|prefix, attributes| keep(prefix, attributes));
        before != self.len()
    }

    /// The services whose prefixes are in `prefixes`.
    pub fn subset(&self, prefixes: &BTreeSet<IpNet>) -> Self {
        let selected = self.routes.iter().filter(|(prefix, _)| prefixes.contains(prefix));
        let routes = selected.map(|(prefix, attributes)| (*prefix, Arc::clone(attributes))).collect();
        Self { routes, ..Self::default() }
    }

    /// The prefixes of each attribute set.
    pub fn by_attributes(&self) -> Vec<(&PathAttributes, Vec<IpNet>)> {
        let mut groups: BTreeMap<&PathAttributes, Vec<IpNet>> = BTreeMap::new();
        for (prefix, attributes) in &self.routes {
            groups.entry(attributes).or_default().push(*prefix);
        }
        groups.into_iter().collect()
    }

    /// Removes the attribute sets without a service, if there are at least `cleanup_at` sets.
    fn remove_unused_sets(&mut self) {
        if self.sets.len() >= self.cleanup_at.max(MIN_CLEANUP) {
            self.sets.retain(|set| Arc::strong_count(set) > 1);
            self.cleanup_at = (2 * self.sets.len()).min(MAX_SETS);
        }
    }
}

impl Serialize for Services {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let groups = self.by_attributes();
        let mut list = serializer.serialize_seq(Some(groups.len()))?;
        for (attributes, prefixes) in groups {
            list.serialize_element(&ServiceGroup { attributes: attributes.clone(), prefixes })?;
        }
        list.end()
    }
}

impl<'de> Deserialize<'de> for Services {
    /// Reads the list of groups, or the format of an earlier version: a map from prefix to attributes.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ServicesVisitor;
        impl<'de> Visitor<'de> for ServicesVisitor {
            type Value = Services;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("services")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Services, A::Error> {
                let mut services = Services::default();
                while let Some(ServiceGroup { attributes, prefixes }) = list.next_element()? {
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
        deserializer.deserialize_any(ServicesVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(path: &str) -> PathAttributes {
        PathAttributes { as_path: path.into(), origin: "igp".into(), ..PathAttributes::default() }
    }

    #[test]
    fn services_survive_a_save_and_the_format_of_an_earlier_version_is_read() {
        let mut services = Services::default();
        for n in 0..200 {
            let prefix = format!("198.51.100.{n}/32").parse().unwrap();
            assert!(services.insert(prefix, attributes(if n % 2 == 0 { "1" } else { "2" })));
            assert!(!services.insert(prefix, attributes(if n % 2 == 0 { "1" } else { "2" })));
        }
        assert_eq!((services.len(), services.by_attributes().len(), services.sets.len()), (200, 2, 2));
        let text = serde_json::to_string(&services).unwrap();
        assert!(text.len() < 200 * 24, "{}", text.len());
        assert_eq!(serde_json::from_str::<Services>(&text).unwrap(), services);
        let earlier: BTreeMap<IpNet, &PathAttributes> =
            services.routes.iter().map(|(p, a)| (*p, a.as_ref())).collect();
        let earlier = serde_json::to_string(&earlier).unwrap().replace(r#""local_preference":null,"#, "");
        assert_eq!(serde_json::from_str::<Services>(&earlier).unwrap(), services);
        for bad in ["7", "{\"x\":1}", "[{}]", "[{\"attributes\":{},\"prefixes\":[]}]"] {
            assert!(serde_json::from_str::<Services>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn unused_attribute_sets_are_removed() {
        let mut services = Services::default();
        for n in 0..1000 {
            services.insert("198.51.100.1/32".parse().unwrap(), attributes(&n.to_string()));
        }
        assert!(services.sets.len() <= MIN_CLEANUP, "{}", services.sets.len());
        assert_eq!(services.get(&"198.51.100.1/32".parse().unwrap()), Some(&attributes("999")));
    }
}
