//! Back to the last configuration that held, when a daemon keeps dying under the one in force.

use std::collections::VecDeque;
use std::io;

use super::policy::Event;
use super::{End, Supervisor};
use crate::config::Config;
use crate::node::Node;
use crate::status::Board;

/// What is remembered of configurations for as long as the program runs, whatever becomes of the namespace.
#[derive(Debug, Default)]
pub struct History {
    /// The last one that held, and the text that it led to.
    good: Option<(Config, String)>,
    /// The one that was taken back.
    bad: Option<Bad>,
}

/// A configuration that was taken back.
#[derive(Debug)]
struct Bad {
    /// What led to its text, if that is known.
    config: Option<Config>,
    text: String,
    /// Who died of it.
    daemon: &'static str,
}

impl History {
    /// The node is set up. What is kept, by an earlier instance for example, has held; what was taken back and comes into force
    /// all the same is tried again.
    pub(super) fn begin(&mut self, node: &Node, board: &Board) {
        if node.texts.are_kept() {
            self.held(node);
        }
        if self.bad.take_if(|bad| bad.text == node.texts.active()).is_some() {
            board.tell(|local| local.configuration.fell_back = false);
        }
    }

    /// The configuration in force has held.
    pub(super) fn held(&mut self, node: &Node) {
        // Of an older text it is not known.
        if !node.texts.are_of_another() {
            self.good = Some((node.config.clone(), node.texts.active().to_owned()));
        }
    }

    /// Another configuration is in force that leads to the same text: where that has held, so does this.
    pub(super) fn same_text(&mut self, node: &Node) {
        if self.good(node.texts.active()).is_some() {
            self.held(node);
        }
    }

    /// A configuration was put in force that is not the one that was taken back.
    pub(super) fn accepted(&mut self) {
        self.bad = None;
    }

    /// Why this one is not put in force.
    pub(super) fn objection(&self, config: &Config, text: &str) -> Option<String> {
        // For other names of ports it leads to another text. A template may be another.
        let same = |bad: &Config| bad == config && config.template.is_none();
        let bad =
            self.bad.as_ref().filter(|bad| bad.text == text || bad.config.as_ref().is_some_and(same))?;
        let daemon = bad.daemon;
        Some(format!(
            "this configuration was taken back, since {daemon} kept dying under it: change it (it is /run/frr/frr.conf.bad), or \
             restart the service to have it tried again"
        ))
    }

    /// Whether the node has the configuration that held instead of the file's.
    pub fn keeps(&self, node: &Node) -> bool {
        self.bad.is_some() && !node.texts.are_of_another()
    }

    /// The configuration that led to this text.
    fn good(&self, text: &str) -> Option<&Config> {
        self.good.as_ref().filter(|(_, good)| good == text).map(|(config, _)| config)
    }
}

/// Daemons that keep what mgmtd has given them when it restarts, and from which the next one takes nothing of it.
const KEEPERS: [&str; 2] = ["zebra", "staticd"];

impl Supervisor<'_> {
    /// What has those start anew that have what `daemon` is to lose.
    pub(super) fn renewed_with(&self, daemon: &'static str) -> impl Iterator<Item = Event> {
        let keepers = KEEPERS.into_iter().filter(move |_| daemon == "mgmtd");
        [daemon].into_iter().chain(keepers).filter_map(|name| self.running(name)).map(Event::Renew)
    }

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
        let text = self.node.texts.active().to_owned();
        let config = (!self.node.texts.are_of_another()).then(|| self.node.config.clone());
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
        self.history.bad = Some(Bad { config, text, daemon: name });
        self.board.tell(|local| local.configuration.fell_back = true);
        // A vtysh that loads the other one would go on with it in the next daemons.
        self.end_load();
        self.to_enforce.clear();
        self.read_parts();
        self.devices_fall_back(events);
        events.push_back(Event::Reconfigured { may_fall_back: self.node.texts.may_fall_back() });
    }

    /// Has the node be what the text in force was made for.
    fn devices_fall_back(&mut self, events: &mut VecDeque<Event>) {
        const STAY: &str = "the devices stay those of the configuration that was taken back";
        let Some(config) = self.history.good(&self.text).cloned() else {
            log::warn!("what led to that configuration was known to an earlier instance only: {STAY}");
            return;
        };
        if self.node.daemons(&config) != self.daemons {
            self.end = Some(End::Reconfigured(Box::new(config)));
            events.push_back(Event::Stop);
            return;
        }
        match self.node.prepare(config) {
            Ok(candidate) => {
                // It is another where the template is, or a port has another name.
                if candidate.text == self.text {
                    self.node.texts.have_theirs();
                }
                self.follow(candidate, None, vec![]);
            }
            Err(problems) => log::error!("{}: {STAY}", problems.join("; ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::from_vars;

    fn config(asn: &str) -> Config {
        let vars = [("NODE_IP", "10.0.0.1"), ("ASN_LOCAL", asn), ("FE_MACS", "02:00:00:00:00:01")];
        from_vars(vars.map(|(name, value)| (name.into(), value.into()))).unwrap()
    }

    #[test]
    fn what_was_taken_back_stays_so_until_another_is_in_force() {
        let mut history = History::default();
        let [config, other] = ["1", "2"].map(config);
        let (a, b) = ("hostname a\n", "hostname b\n");
        assert_eq!(history.objection(&config, a), None);
        history.bad = Some(Bad { config: Some(config.clone()), text: a.into(), daemon: "bgpd" });
        for (config, text) in [(&config, a), (&other, a), (&config, b)] {
            let words = history.objection(config, text);
            assert!(words.is_some_and(|words| words.contains("bgpd kept dying")));
        }
        assert_eq!(history.objection(&other, b), None);
        history.accepted();
        assert_eq!(history.objection(&config, a), None);
    }
}
