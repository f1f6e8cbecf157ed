//! A change of the running configuration, on a thread of its own: commands to one daemon after the other, and back if one
//! is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::frr::delta::{Command, Step};
use crate::frr::vty::{Answer, Session, socket};
use crate::frr::{redact, redact_said};
use crate::node::Candidate;

/// How long a daemon may take for one command; a thousand VRFs take FRR seconds in all.
const PATIENCE: Duration = Duration::from_secs(20);

/// bgpd does not let go of a VRF's instance before zebra has told it that the VRF has no VNI any more.
const AGAIN: Duration = Duration::from_millis(10);
const ATTEMPTS: u32 = 300;

/// zebra hears of the kernel's changes within milliseconds.
const TIDY_AGAIN: Duration = Duration::from_millis(100);
const TIDY_ATTEMPTS: u32 = 50;

/// Why a change was taken back.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    /// The daemon, the command and what it said to it, in a sentence.
    pub reason: String,
    /// The command.
    pub command: String,
    /// Daemons that do not run again with what they had: they have to start anew.
    pub unclean: BTreeSet<&'static str>,
    /// No daemon has refused anything: one ended meanwhile, or could not be reached.
    pub interrupted: bool,
    /// The same, since someone else was configuring it all the time.
    pub locked: bool,
}

/// What mgmtd says to one while another has its configuration (`mgmtd/mgmt_fe_adapter.c`).
const LOCKED: &str = "could not lock";

impl From<String> for Refused {
    fn from(reason: String) -> Self {
        Self::before(reason)
    }
}

impl Refused {
    /// Before anything was done.
    fn before(reason: String) -> Self {
        let (command, unclean) = (String::new(), BTreeSet::new());
        Self { reason, command, unclean, interrupted: true, locked: false }
    }
}

/// Work on a thread of its own; readable when it is done.
#[derive(Debug)]
pub struct Task<T> {
    done: UnixStream,
    thread: JoinHandle<T>,
}

impl<T: Send + 'static> Task<T> {
    /// Begins it.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn begin(work: impl FnOnce() -> T + Send + 'static) -> io::Result<Self> {
        let (done, end) = UnixStream::pair()?;
        let thread = thread::Builder::new().name("change".into()).spawn(move || {
            // Its end closes with the thread, whatever becomes of that.
            let _end = end;
            work()
        })?;
        Ok(Self { done, thread })
    }

    /// Whether it is done.
    pub fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// What came of it; `None` if the thread has panicked.
    pub fn join(self) -> Option<T> {
        self.thread.join().ok()
    }
}

impl<T> AsFd for Task<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.done.as_fd()
    }
}

/// A change under way.
#[derive(Debug)]
pub struct Change {
    /// What it leads to.
    pub candidate: Candidate,
    /// How many commands it has.
    pub commands: usize,
    /// What is for when the kernel has followed.
    pub late: Vec<Step>,
    /// When it was begun.
    pub began: Instant,
    /// The commands on their way.
    pub task: Task<Result<(), Refused>>,
}

impl Change {
    /// Begins it: `steps` lead to the candidate, `late` is for when the kernel has followed, and `back` works out what leads
    /// back, should one be refused.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn begin(
        candidate: Candidate,
        steps: Vec<Step>,
        back: impl FnOnce() -> Vec<Step> + Send + 'static,
        late: Vec<Step>,
    ) -> io::Result<Self> {
        let commands = steps.iter().map(|step| step.commands.len()).sum();
        let vrfs: Vec<String> = late.iter().flat_map(|step| &step.commands).filter_map(vrf).collect();
        let task = Task::begin(move || {
            carry_out(&steps, back, session)?;
            // zebra does not get over a VRF that goes while it has work to do on its routes (seen with 10.3: it crashes).
            if let Err(e) = session("zebra").and_then(|mut zebra| await_emptiness(&mut zebra, &vrfs)) {
                log::warn!("zebra: {e}: it may still have routes of a VRF that goes");
            }
            Ok(())
        })?;
        Ok(Self { candidate, commands, late, began: Instant::now(), task })
    }
}

impl<E: From<String>> Task<Result<(), E>> {
    /// What came of it.
    pub fn result(self) -> Result<(), E> {
        self.thread
            .join()
            .unwrap_or_else(|_| Err("the thread that made the change is gone".to_owned().into()))
    }
}

/// The VRF that a command is about.
fn vrf(command: &Command) -> Option<String> {
    command.text.strip_prefix("no vrf ").map(Into::into)
}

/// Waits until bgpd's routes are out of the VRFs.
fn await_emptiness(zebra: &mut impl Ask, vrfs: &[String]) -> io::Result<()> {
    for vrf in vrfs {
        for version in ["ip", "ipv6"] {
            let question = format!("do show {version} route vrf {vrf} bgp json");
            for _ in 0..ATTEMPTS {
                let routes = zebra.ask(&question)?.text;
                if !routes.contains("prefix") {
                    break;
                }
                thread::sleep(AGAIN);
            }
        }
    }
    Ok(())
}

/// What came of putting a daemon right by commands.
#[derive(Debug)]
pub struct Enforced {
    /// The daemon.
    pub daemon: &'static str,
    /// What it runs with now; or why that is not known to be ours, and whether the reason passes by itself: it ended meanwhile, or
    /// someone else was configuring it.
    pub result: Result<String, (String, bool)>,
}

/// Puts right what someone else has changed, and looks at once what came of it: later someone may have changed it again.
///
/// # Errors
/// No thread can be had.
pub fn begin_to_enforce(step: Step) -> io::Result<Task<Enforced>> {
    Task::begin(move || {
        let daemon = step.daemon;
        let running = || Ok(session(daemon)?.ask("do show running-config")?.text);
        let gone = |e: io::Error| (format!("{daemon}: {e}"), true);
        let done = speak(&step, session).map_err(|failure| (failure.reason, failure.interrupted));
        Enforced { daemon, result: done.and_then(|()| running().map_err(gone)) }
    })
}

/// Has FRR forget what is left of VRFs, now that the kernel has none of them. `None`: there is nothing to do, or no thread.
pub fn begin_to_tidy(late: Vec<Step>) -> Option<Task<()>> {
    if late.is_empty() {
        return None;
    }
    Task::begin(move || tidy(&late))
        .inspect_err(|e| log::debug!("VRFs that are gone stay in FRR's configuration: {e}"))
        .ok()
}

/// Says what is for later until it is carried out. Nothing depends on it.
fn tidy(late: &[Step]) {
    for (step, command) in
        late.iter().flat_map(|step| step.commands.iter().map(move |command| (step, command)))
    {
        let gone = || -> io::Result<bool> {
            let mut session = session(step.daemon)?;
            session.ask(&command.text)?;
            let running = session.ask("do show running-config")?.text;
            Ok(!running.lines().any(|line| Some(line) == command.text.strip_prefix("no ")))
        };
        for _ in 0..TIDY_ATTEMPTS {
            thread::sleep(TIDY_AGAIN);
            if gone().unwrap_or(false) {
                break;
            }
        }
    }
}

fn session(daemon: &str) -> io::Result<Session> {
    Session::begin(&socket(daemon), PATIENCE)
}

/// A daemon that takes commands; in tests not a real one.
trait Ask {
    fn ask(&mut self, command: &str) -> io::Result<Answer>;
}

impl Ask for Session {
    fn ask(&mut self, command: &str) -> io::Result<Answer> {
        Session::ask(self, command)
    }
}

fn carry_out<S: Ask>(
    steps: &[Step],
    back: impl FnOnce() -> Vec<Step>,
    connect: impl Fn(&'static str) -> io::Result<S>,
) -> Result<(), Refused> {
    let running = |daemon| -> io::Result<Vec<String>> {
        Ok(comparable(&connect(daemon)?.ask("do show running-config")?.text))
    };
    let mut before = BTreeMap::new();
    for daemon in steps.iter().map(|step| step.daemon) {
        let lines = running(daemon).map_err(|e| Refused::before(format!("{daemon}: {e}")))?;
        before.insert(daemon, lines);
    }
    let refused = steps.iter().find_map(|step| speak(step, &connect).err());
    let Some(Failure { command, reason, interrupted }) = refused else { return Ok(()) };
    // Some of it may not have been done, and can't be undone: what counts is what they run with in the end.
    for step in back() {
        if let Ok(mut session) = connect(step.daemon) {
            let gone = |command: &Command| session.ask(&command.text).is_err();
            let _ = step.commands.iter().any(gone);
        }
    }
    let differs =
        |(daemon, lines): &(&'static str, Vec<String>)| running(daemon).map_or(true, |now| now != *lines);
    let unclean = before.into_iter().filter(differs).map(|(daemon, _)| daemon).collect();
    let locked = interrupted && reason.contains(LOCKED);
    Err(Refused { reason, command, unclean, interrupted, locked })
}

/// The lines of a running configuration in an order of their own: what is taken away and given back may stand elsewhere. An
/// interface with nothing in it stays in FRR's configuration and means nothing.
fn comparable(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = vec![];
    for line in text.lines() {
        if line == "exit" && lines.last().is_some_and(|last| last.starts_with("interface ")) {
            lines.pop();
        } else {
            lines.push(line.into());
        }
    }
    lines.retain(|line| line != "!");
    lines.sort();
    lines
}

/// A command that was not carried out.
struct Failure {
    command: String,
    reason: String,
    /// For want of a daemon that answers.
    interrupted: bool,
}

/// Sends a step to its daemon: if a command is refused, that one, and a sentence.
fn speak<S: Ask>(step: &Step, connect: impl Fn(&'static str) -> io::Result<S>) -> Result<(), Failure> {
    let gone = |e: io::Error| Failure { command: String::new(), reason: e.to_string(), interrupted: true };
    connect(step.daemon).map_err(gone).and_then(|mut session| send(&mut session, step)).map_err(|failure| {
        let said: Vec<_> = failure.reason.lines().map(redact_said).collect();
        let reason = format!("{}: {:?}: {}", step.daemon, redact(&failure.command), said.join("; "));
        Failure { reason, ..failure }
    })
}

/// Sends the commands, until one is refused: that one, and why.
fn send(session: &mut impl Ask, step: &Step) -> Result<(), Failure> {
    for command in &step.commands {
        let failed = |interrupted| {
            move |reason: String| Failure { command: command.text.clone(), reason, interrupted }
        };
        for attempt in 1.. {
            let answer = session.ask(&command.text).map_err(|e| failed(true)(e.to_string()))?;
            if answer.well || command.optional {
                break;
            }
            // mgmtd has one configuration to be changed, and someone with a vtysh may hold it for a moment.
            let passes = command.text.starts_with("no router bgp ") || answer.text.contains(LOCKED);
            if !passes || attempt >= ATTEMPTS {
                return Err(failed(passes)(answer.text.trim().to_owned()));
            }
            thread::sleep(AGAIN);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    type Said = Rc<RefCell<Vec<String>>>;

    struct Fake {
        said: Said,
        answer: fn(&str) -> io::Result<(bool, String)>,
    }

    impl Ask for Fake {
        fn ask(&mut self, command: &str) -> io::Result<Answer> {
            self.said.borrow_mut().push(command.into());
            (self.answer)(command).map(|(well, text)| Answer { well, text })
        }
    }

    fn step(daemon: &'static str, commands: &[&str]) -> Step {
        let command = |text: &&str| Command { text: (*text).into(), optional: text.starts_with("set") };
        Step { daemon, commands: commands.iter().map(command).collect() }
    }

    fn run(answer: fn(&str) -> io::Result<(bool, String)>) -> (Result<(), Refused>, Vec<String>) {
        let said = Said::default();
        let steps = [step("zebra", &["set x"]), step("bgpd", &["neighbor 10.0.0.1 password secret", "b"])];
        let back = || vec![step("bgpd", &["no a"])];
        let result = carry_out(&steps, back, |_| Ok(Fake { said: Rc::clone(&said), answer }));
        (result, said.take())
    }

    #[test]
    fn what_only_another_daemon_knows_is_passed_over() {
        let (result, said) = run(|c| Ok((c != "set x", "% Unknown command".into())));
        assert_eq!(result, Ok(()));
        assert_eq!(said[2..], ["set x", "neighbor 10.0.0.1 password secret", "b"]);
    }

    #[test]
    fn what_is_refused_is_taken_back_and_named() {
        let (result, said) = run(|c| Ok((!c.starts_with("neighbor"), "% No".into())));
        let refused = result.unwrap_err();
        assert_eq!(refused.reason, "bgpd: \"neighbor 10.0.0.1 password …\": % No");
        assert_eq!((refused.unclean, refused.interrupted), (BTreeSet::new(), false));
        assert_eq!(said[3..5], ["neighbor 10.0.0.1 password secret", "no a"]);
    }

    #[test]
    fn who_is_configured_by_someone_else_has_refused_nothing() {
        let (result, said) = run(|c| Ok((c != "b", "% could not lock".into())));
        let refused = result.unwrap_err();
        assert!(refused.interrupted && refused.locked, "{refused:?}");
        assert_eq!(said.iter().filter(|c| *c == "b").count(), ATTEMPTS as usize);
    }

    #[test]
    fn an_empty_interface_is_no_difference() {
        let before = "vrf red\n vni 5\nexit-vrf\n!\ninterface eth1\n no ipv6 nd suppress-ra\nexit\n!\nend\n";
        let after = "interface pe-e-100\nexit\n!\ninterface eth1\n no ipv6 nd suppress-ra\nexit\n!\nvrf red\n vni 5\nexit-vrf\n!\nend\n";
        assert_eq!(comparable(before), comparable(after));
        assert_ne!(comparable(before), comparable(&after.replace("no ipv6", "ipv6")));
    }

    #[test]
    fn who_is_gone_has_to_start_anew() {
        let gone = |c: &str| {
            if c == "b" { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok((true, String::new())) }
        };
        let (result, _) = run(gone);
        let refused = result.unwrap_err();
        assert!(refused.reason.starts_with("bgpd: \"b\": ") && refused.interrupted, "{refused:?}");
    }
}
