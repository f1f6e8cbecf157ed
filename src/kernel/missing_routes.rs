//! Kernel-made routes that are missing: only those that stay missing are repaired. Pure.
//!
//! The kernel shows an IPv6 address before it adds its routes, which it does in a work queue (`addrconf_dad_work`,
//! `net/ipv6/addrconf.c`). A route that the supervisor adds in between would stay when the address is removed, and then
//! the host would swallow packets to an address that it does not have.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::model::{KernelRoute, Namespaces, Side};

/// How long a route must be missing. The work queue needs milliseconds, and longer on a loaded machine.
pub const CONFIRM_DELAY: Duration = Duration::from_millis(250);

/// The routes that were missing at the last observation, and since when.
#[derive(Debug, Default)]
pub(super) struct MissingRoutes(HashMap<(Side, KernelRoute), Instant>);

impl MissingRoutes {
    /// Leaves in `observed` only the routes that have been missing for [`CONFIRM_DELAY`].
    pub(super) fn confirm(&mut self, observed: &mut Namespaces, now: Instant) {
        let before = std::mem::take(&mut self.0);
        for &side in observed.sides() {
            observed.get_mut(side).missing_kernel_routes.retain(|route| {
                let key = (side, route.clone());
                let since = before.get(&key).copied().unwrap_or(now);
                self.0.insert(key, since);
                since + CONFIRM_DELAY <= now
            });
        }
    }

    /// Whether a route is missing that has not been confirmed.
    pub(super) fn has_unconfirmed(&self, now: Instant) -> bool {
        self.0.values().any(|since| *since + CONFIRM_DELAY > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{KernelRouteKind, NsState};

    #[test]
    fn a_route_is_repaired_when_it_stays_missing() {
        let route = KernelRoute {
            kind: KernelRouteKind::Local,
            dst: "2001:db8::1/128".parse().unwrap(),
            table: 255,
            dev: "eth1".into(),
            src: None,
        };
        let observed = |missing: &[KernelRoute]| {
            let host = NsState { missing_kernel_routes: missing.to_vec(), ..NsState::default() };
            Namespaces { host, router: None }
        };
        let now = Instant::now();
        let (mut missing, all) = (MissingRoutes::default(), [route]);
        let mut confirmed = |present: &[KernelRoute], now| {
            let mut state = observed(present);
            missing.confirm(&mut state, now);
            (state.host.missing_kernel_routes.len(), missing.has_unconfirmed(now))
        };
        assert_eq!(confirmed(&all, now), (0, true));
        assert_eq!(confirmed(&all, now + CONFIRM_DELAY / 2), (0, true));
        assert_eq!(confirmed(&all, now + CONFIRM_DELAY), (1, false));
        // The kernel has added it meanwhile, and someone removes it again.
        assert_eq!(confirmed(&[], now + CONFIRM_DELAY), (0, false));
        assert_eq!(confirmed(&all, now + 2 * CONFIRM_DELAY), (0, true));
    }
}
