//! Retained services: what bgpd announces in the place of MetalLB's speaker, and what is logged of it.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use rustix::event::{PollFd, PollFlags};

use super::part::Part;
use super::retention::Retention;
use super::retention::{RetentionEvent, RetentionOutcome};
use super::{MAX_LOGGED_NAMES, Supervisor, backup};
use crate::config::{Config, MetallbConfig};
use crate::frr::retained::RetainedRouters;
use crate::frr::vty::socket;
use crate::frr::{DaemonKind, state};
use crate::printable::first;

/// Time from the end of the retention until FRR has installed or removed its own routes.
pub(super) const PRUNE_DELAY: Duration = Duration::from_secs(5);

/// Time that backup routes stay installed after the end of the retention.
const RETENTION_MARGIN: Duration = Duration::from_secs(5);

/// The services of MetalLB's speaker.
#[derive(Debug)]
pub(super) struct Services {
    /// Unless `METALLB` is `false`.
    pub(super) retention: Option<Retention>,
    /// Released services, and when to prune their backup routes.
    pub(super) released: Option<(Instant, BTreeSet<IpNet>)>,
}

impl Services {
    pub(super) fn new(config: &Config, now: Instant) -> Self {
        let retention = config.metallb.as_ref().map(|metallb| {
            Retention::new(
                retained_routers(config, metallb),
                socket(DaemonKind::Bgpd),
                Duration::from_secs(metallb.retention_s.into()),
                state::load_state(state::SERVICES),
                now,
            )
        });
        Self { retention, released: None }
    }

    /// Whether services are retained.
    pub(super) fn is_retaining(&self) -> bool {
        self.retention.as_ref().is_some_and(Retention::is_active)
    }
}

/// The queries for services, and their retention.
pub(super) struct ServicePart;

impl Part for ServicePart {
    fn add_fds<'a>(&self, supervisor: &'a Supervisor<'_>, fds: &mut Vec<PollFd<'a>>) {
        let queries = supervisor.services.retention.iter().flat_map(Retention::queries);
        fds.extend(queries.map(|query| PollFd::new(query, PollFlags::IN)));
    }

    fn deadline(&self, supervisor: &Supervisor<'_>) -> Option<Instant> {
        let Services { retention, released } = &supervisor.services;
        let due = retention.as_ref().and_then(Retention::deadline);
        due.into_iter().chain(released.as_ref().map(|(at, _)| *at)).min()
    }

    fn step(&self, supervisor: &mut Supervisor<'_>, now: Instant) -> io::Result<()> {
        supervisor.step_retention(now);
        Ok(())
    }
}

impl Supervisor<'_> {
    /// Time that backup routes stay installed after the exit of a daemon.
    pub(super) fn window(&self) -> Duration {
        let config = &self.config.active.config;
        // Retained services need their routes.
        let metallb = config.metallb.as_ref().filter(|_| self.services.is_retaining());
        let retention =
            metallb.map(|metallb| Duration::from_secs(metallb.retention_s.into()) + RETENTION_MARGIN);
        Duration::from_secs(config.timers.restart_s.into()).max(retention.unwrap_or_default())
    }

    /// Retains the speaker's services: they stay announced to the leaves until the speaker announces them again.
    pub(super) fn retain_services(&mut self) {
        let (Some(metallb), Some(retention)) =
            (&self.config.active.config.metallb, &mut self.services.retention)
        else {
            return;
        };
        // A bgpd that gets its configuration from vtysh starts without retained services.
        let is_in_file = self.config.active.store.part(DaemonKind::Bgpd).is_some();
        let is_allowed = |prefix: &IpNet| {
            let all = &metallb.allowed;
            is_in_file && (all.is_empty() || all.iter().any(|net| net.contains(prefix)))
        };
        match self.node.router.bgp_prefixes(metallb.table.get()) {
            Ok(mut prefixes) => {
                prefixes.retain(is_allowed);
                let n = retention.bgpd_exited(&prefixes, Instant::now());
                if n > 0 {
                    log::info!(
                        "{n} retained services stay announced until the speaker is back, for up to {} s",
                        metallb.retention_s
                    );
                }
            }
            Err(e) => {
                log::warn!("the kernel's routes cannot be read: {e}; retaining all known services");
                let known: BTreeSet<IpNet> =
                    retention.known().prefixes().copied().filter(is_allowed).collect();
                retention.bgpd_exited(&known, Instant::now());
            }
        }
        self.show_retained();
        self.show_unannounced();
    }

    /// Continues the retention and the queries for services.
    fn step_retention(&mut self, now: Instant) {
        let bgpd = self.ready(DaemonKind::Bgpd);
        let (Some(metallb), Some(retention)) =
            (&self.config.active.config.metallb, &mut self.services.retention)
        else {
            return;
        };
        let store = &self.config.active.store;
        // A bgpd that gets its configuration from vtysh starts without retained services.
        let is_in_file = bgpd.is_some() && store.part(DaemonKind::Bgpd).is_some();
        let events = retention.step(is_in_file.then(|| store.document()), now);
        if retention.is_waiting_for_prefixes() {
            match self.node.router.bgp_prefixes(metallb.table.get()) {
                Ok(prefixes) => retention.take_prefixes(prefixes, now),
                Err(e) => log::debug!("the routes of the services cannot be read: {e}"),
            }
        }
        for event in events {
            self.process_retention_event(event, now);
        }
        // Retained services need their routes.
        if let Some((until, retained)) =
            self.kernel.backup.until.as_mut().zip(self.services.retention.as_ref().and_then(Retention::until))
        {
            *until = (*until).max(retained + RETENTION_MARGIN);
        }
        if let Some((_, prefixes)) = self.services.released.take_if(|(at, _)| *at <= now) {
            self.queue_backup_job(backup::BackupJob::Prune(prefixes));
        }
    }

    pub(super) fn process_retention_event(&mut self, event: RetentionEvent, now: Instant) {
        match event {
            RetentionEvent::KnownChanged => {
                self.publisher.update(|facts| facts.session_changes += 1);
                if let Some(retention) = &self.services.retention {
                    state::save_state(state::SERVICES, retention.known());
                }
            }
            RetentionEvent::UnannouncedChanged => self.show_unannounced(),
            RetentionEvent::Released(withdrawn) => {
                self.show_retained();
                // Services that were withdrawn before another exit of bgpd are pruned now, too.
                if !withdrawn.is_empty() || self.services.released.is_some() {
                    let mut all = self.services.released.take().map(|(_, before)| before).unwrap_or_default();
                    all.extend(withdrawn);
                    self.services.released = Some((now + PRUNE_DELAY, all));
                }
            }
            RetentionEvent::Finished(RetentionOutcome::SpeakerBack(announced, withdrawn)) => {
                log::info!("the speaker is back: it announces {announced} services again");
                if !withdrawn.is_empty() {
                    log::info!(
                        "the speaker no longer announces {} services: {}",
                        withdrawn.len(),
                        first(MAX_LOGGED_NAMES, &withdrawn)
                    );
                }
            }
            RetentionEvent::Finished(RetentionOutcome::TimedOut(released, is_up)) => log::error!(
                "{} for {} s (METALLB_HOLD_TIME): {} services are no longer announced: {}",
                if is_up {
                    "the speaker is back, but its routes could not be used"
                } else {
                    "the speaker has not come back"
                },
                self.config.active.config.metallb.as_ref().map_or(0, |metallb| metallb.retention_s),
                released.len(),
                first(MAX_LOGGED_NAMES, &released)
            ),
        }
    }
}

/// The BGP instances that announce retained services.
pub(super) fn retained_routers(config: &Config, metallb: &MetallbConfig) -> RetainedRouters {
    RetainedRouters { asn: config.settings.asn_local, vrf_asn: metallb.asn, vrf: metallb.vrf.clone() }
}
