//! Leaving so that the peers send traffic elsewhere before we are gone.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::frr::vty::{CONFIGURE, Talk};

/// bgpd may take so long to carry out either half of it, and its words so long to reach the peers.
const LIMIT: Duration = Duration::from_secs(1);

/// A farewell under way: first every route gets the community `GRACEFUL_SHUTDOWN` (RFC 8326), which makes a peer prefer
/// any other path; then every session is shut down, which ends it with a notification after which the peer keeps nothing,
/// graceful restart or not (RFC 8538 §4; `bgp hard-administrative-reset`, on by default).
#[derive(Debug)]
pub struct Farewell {
    socket: PathBuf,
    shutdown: Option<Vec<String>>,
    talk: Option<Talk>,
    next: Instant,
}

impl Farewell {
    /// Begins it with the bgpd that listens at `socket` and runs `text`.
    pub fn begin(socket: PathBuf, text: &str, drain: Duration, now: Instant) -> Self {
        let (prefer_others, shutdown) = commands(text);
        let talk = Talk::begin(&socket, prefer_others).ok();
        let next = now + if talk.is_some() { drain } else { Duration::ZERO };
        Self { socket, shutdown: Some(shutdown), talk, next }
    }

    /// When to look again.
    pub fn deadline(&self) -> Instant {
        self.next
    }

    /// What to poll.
    pub fn talk(&self) -> Option<&Talk> {
        self.talk.as_ref()
    }

    /// Goes on with it. Whether everything was said.
    pub fn is_over(&mut self, now: Instant) -> bool {
        if self.talk.as_mut().is_some_and(|talk| !matches!(talk.receive(), Ok(None))) {
            self.talk = None;
        }
        if now < self.next {
            return false;
        }
        let Some(shutdown) = self.shutdown.take() else { return true };
        self.talk = Talk::begin(&self.socket, shutdown).ok();
        self.next = now + LIMIT;
        self.talk.is_none()
    }
}

/// The commands for both halves, for every BGP instance and neighbor of frr.conf.
fn commands(text: &str) -> (Vec<String>, Vec<String>) {
    let begin = || CONFIGURE.map(str::to_owned).to_vec();
    let (mut prefer_others, mut shutdown) = (begin(), begin());
    let mut neighbors = BTreeSet::new();
    let mut inside = false;
    for line in text.lines() {
        if line.starts_with("router bgp ") {
            inside = true;
            neighbors.clear();
            prefer_others.extend([line.to_owned(), "bgp graceful-shutdown".to_owned(), "exit".to_owned()]);
            shutdown.push(line.to_owned());
        } else if !line.starts_with(' ') && line != "!" {
            if std::mem::take(&mut inside) {
                shutdown.push("exit".to_owned());
            }
        } else if let Some(rest) = line.strip_prefix(" neighbor ")
            && let Some((name, _)) = rest.split_once(' ')
            && inside
            && neighbors.insert(name.to_owned())
        {
            shutdown.push(format!("neighbor {name} shutdown"));
        }
    }
    (prefer_others, shutdown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_neighbor_of_every_instance_hears_of_it() {
        let text = "router bgp 1 vrf m\n neighbor fd00::1 remote-as 2\n neighbor fd00::1 timers 3 9\n !\n \
                    address-family ipv4 unicast\n  neighbor fd00::1 activate\nexit\n!\nrouter bgp 3\n \
                    neighbor fabric peer-group\n neighbor eth1 interface peer-group fabric\nexit\nbfd\n neighbor x y\nexit\n";
        let (first, second) = commands(text);
        let begin = ["enable", "configure terminal"];
        let gshut = "bgp graceful-shutdown";
        assert_eq!(first[2..], ["router bgp 1 vrf m", gshut, "exit", "router bgp 3", gshut, "exit"]);
        assert_eq!(second[..2], begin);
        assert_eq!(
            second[2..],
            [
                "router bgp 1 vrf m",
                "neighbor fd00::1 shutdown",
                "exit",
                "router bgp 3",
                "neighbor fabric shutdown",
                "neighbor eth1 shutdown",
                "exit"
            ]
        );
    }
}
