//! Back to the last configuration that held, when a daemon keeps dying under the one in force.

use std::collections::VecDeque;
use std::io;

use super::Supervisor;
use super::policy::Event;

impl Supervisor<'_> {
    /// Goes back to it: every daemon starts anew with it, and nothing else. Daemon `i` dies of the one in force.
    pub(super) fn fall_back(&mut self, i: usize, events: &mut VecDeque<Event>) {
        let name = self.daemons[i].name;
        if self.end.is_some() {
            return;
        }
        // That may be what it dies of, and is taken back by itself then; FRR is still told what is to be forgotten for it.
        if self.change.is_some() || self.tidying.is_some() {
            events.push_back(Event::Changed { may_fall_back: true });
            return;
        }
        if let Err(e) = self.node.texts.fall_back() {
            log::error!("{name} keeps dying, and the last good configuration can't be used: {e}");
            // It is not the configuration that is wrong.
            if e.kind() != io::ErrorKind::InvalidData {
                events.push_back(Event::Changed { may_fall_back: true });
            }
            return;
        }
        log::error!(
            "{name} keeps dying under this configuration: back to the last one that held (the other is /run/frr/frr.conf.bad); \
             all daemons start anew with it"
        );
        self.board.tell(|local| local.configuration.fell_back = true);
        // A vtysh that loads the other one would go on with it in the next daemons.
        self.end_load();
        self.to_enforce.clear();
        self.read_parts();
        events.push_back(Event::Reconfigured { may_fall_back: self.node.texts.may_fall_back() });
    }
}
