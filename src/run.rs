//! `frr-supervisor run`: from nothing to a running router.

use std::io;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::config::Config;
use crate::frr::{self, Inputs, files};
use crate::kernel::netns::Origin;
use crate::kernel::{Kernel, Monitor};
use crate::model::Namespaces;
use crate::resolve::{Found, Search, find, resolve};
use crate::supervisor::{Signals, Supervisor};

/// Sets the node up, then runs the daemons until a signal asks for the end.
///
/// # Errors
/// Every problem, each a line of its own.
pub fn run(config: &Config) -> Result<(), Vec<String>> {
    let line = |e: io::Error| vec![e.to_string()];
    let mut signals = Signals::catch().map_err(line)?;
    let version = files::version().map_err(line)?;
    log::info!("FRR {version}, namespace {}", config.namespace);

    let (mut kernel, origin) = Kernel::open(&config.namespace).map_err(line)?;
    let name = config.namespace.to_string();
    match origin {
        Some(Origin::Created) => log::info!("namespace {name} created"),
        Some(Origin::Found) => log::info!("namespace {name} found, with what was left in it"),
        Some(Origin::Repaired) => {
            log::warn!("namespace {name}: its file held nothing, a new one is mounted there")
        }
        None => {}
    }
    kernel.fetch_home(&config.namespace, &config.fabric_macs).map_err(|e| vec![e.to_string()])?;
    let Some((now, found)) = wait_for_fabric(config, &mut kernel, &mut signals)? else {
        log::info!("stopped while waiting for the fabric interfaces");
        return Ok(());
    };
    let resolved = resolve(config, &now, &found)?;
    for note in &resolved.notes {
        log::warn!("{note}");
    }
    files::prepare().map_err(line)?;
    let inputs =
        Inputs { config, ports: &resolved.ports, node_ip_is_local: resolved.node_ip_is_local, version };
    let rendered = files::template(config).and_then(|template| frr::render(&inputs, template.as_deref()));
    if let Err(e) = rendered.and_then(|text| files::install_config(&text).map_err(|e| e.to_string())) {
        if !files::config_path().exists() {
            return Err(vec![e]);
        }
        log::error!("{e}; the last configuration that was accepted stays in force");
    }
    let done = kernel.reconcile(&resolved.desired).map_err(|e| vec![e.to_string()])?;
    if done.is_empty() {
        log::info!("devices: nothing to change");
    }
    let daemons = version.daemons(config.timers.bfd.is_some());
    files::end_leftovers(&daemons).map_err(line)?;
    let with_file = files::write_parts(version, &daemons).map_err(line)?;
    let window = Duration::from_secs(config.timers.restart_s.into());
    Supervisor::new(version, &daemons, &with_file, &mut kernel, window, signals).run().map_err(line)
}

/// Waits until every fabric NIC is there, told by the kernel rather than by asking again and again.
/// `None`: a signal asked for the end; else the state in which all of them were found.
fn wait_for_fabric(
    config: &Config,
    kernel: &mut Kernel,
    signals: &mut Signals,
) -> Result<Option<(Namespaces, Vec<Found>)>, Vec<String>> {
    let line = |e: io::Error| vec![e.to_string()];
    let monitor = Monitor::links(kernel).map_err(line)?;
    let timeout = Duration::from_secs(config.fabric_timeout_s.into());
    let deadline = Instant::now() + timeout;
    let mut said = String::new();
    loop {
        let now = kernel.observe(None).map_err(|e| vec![e.to_string()])?;
        let missing = match find(&config.fabric_macs, &now) {
            Search::Complete(found) => {
                for nic in &found {
                    log::info!("fabric interface {} is {} ({})", nic.mac, nic.name, nic.side);
                }
                return Ok(Some((now, found)));
            }
            Search::Wrong(problems) => return Err(problems),
            Search::Missing(macs, seen) => {
                let macs: Vec<String> = macs.iter().map(ToString::to_string).collect();
                format!("FE_MACS: no interface has {}; seen: {seen}", macs.join(", "))
            }
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(vec![format!("{missing}; gave up after {} s (FE_TIMEOUT)", timeout.as_secs())]);
        }
        if missing != said {
            log::warn!("{missing}; waiting for {} s at most", left.as_secs() + 1);
            said = missing;
        }
        let mut fds = vec![PollFd::new(signals, PollFlags::IN)];
        fds.extend(monitor.fds().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        match poll(&mut fds, Timespec::try_from(left).ok().as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(line(e.into())),
        }
        monitor.drain();
        if signals.stop_requested() {
            return Ok(None);
        }
    }
}
