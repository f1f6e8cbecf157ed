//! The kernel's part of a change, a little at a time: no more than FRR takes in, and so that a daemon that ends is started meanwhile.

use std::io;
use std::time::{Duration, Instant};

use crate::frr::delta::Step;
use crate::frr::vty::{PING, Talk, socket};
use crate::kernel::Changes;

/// Those that are told of links, addresses and VRFs.
const TOLD: [&str; 2] = ["zebra", "bgpd"];

/// How often their answers are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// They are waited for no longer: what is to be built is built all the same.
const PATIENCE: Duration = Duration::from_secs(10);

/// Changes of the kernel under way.
#[derive(Debug)]
pub struct Build {
    /// Those that are left, and what came of the others.
    pub changes: Changes,
    /// When they were begun.
    pub began: Instant,
    /// How many commands FRR took before; `None`: it has gone back to an older configuration.
    pub commands: Option<usize>,
    /// What FRR gets when all of it is done.
    pub late: Vec<Step>,
    /// Those that are to be asked, and were not.
    to_ask: Vec<&'static str>,
    asked: Vec<Talk>,
    asked_at: Instant,
    look_at: Instant,
}

impl Build {
    /// Nothing is changed yet.
    pub fn new(changes: Changes, commands: Option<usize>, late: Vec<Step>, now: Instant) -> Self {
        Self {
            changes,
            began: now,
            commands,
            late,
            to_ask: vec![],
            asked: vec![],
            asked_at: now,
            look_at: now,
        }
    }

    /// When to go on.
    pub fn deadline(&self) -> Instant {
        self.look_at
    }

    /// Some changes were made: those who are told of them are asked whether they have come round to answering.
    pub fn told(&mut self, now: Instant) {
        self.to_ask = TOLD.into();
        self.asked.clear();
        self.ask();
        (self.asked_at, self.look_at) = (now, now + LOOK_EVERY);
    }

    fn ask(&mut self) {
        let asked = &mut self.asked;
        self.to_ask.retain(|daemon| match Talk::show(&socket(daemon), [PING]) {
            Ok(talk) => {
                asked.push(talk);
                false
            }
            // It is there, and so busy that it does not even take connections.
            Err(e) => e.kind() == io::ErrorKind::WouldBlock,
        });
    }

    /// Whether they have, or are not there to, or have had their time.
    pub fn is_digested(&mut self, now: Instant) -> bool {
        self.asked.retain_mut(|talk| matches!(talk.receive(), Ok(None)));
        self.ask();
        let digested = (self.asked.is_empty() && self.to_ask.is_empty()) || now >= self.asked_at + PATIENCE;
        if !digested {
            self.look_at = now + LOOK_EVERY;
        }
        digested
    }
}
