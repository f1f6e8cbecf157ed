use super::*;
use std::cell::RefCell;
use std::rc::Rc;

type Commands = Rc<RefCell<Vec<String>>>;

struct FakeDaemon {
    commands: Commands,
    reply: fn(&str) -> io::Result<(bool, String)>,
}

impl Execute for FakeDaemon {
    fn execute(&mut self, command: &str) -> io::Result<Reply> {
        self.commands.borrow_mut().push(command.into());
        (self.reply)(command).map(|(success, text)| Reply { success, text })
    }
}

fn step(daemon: DaemonKind, commands: &[&str]) -> Step {
    let command = |text: &&str| VtyCommand { text: (*text).into(), optional: text.starts_with("set") };
    Step { daemon, commands: commands.iter().map(command).collect() }
}

fn run(reply: fn(&str) -> io::Result<(bool, String)>) -> (Result<(), ChangeError>, Vec<String>) {
    let commands = Commands::default();
    let steps = [
        step(DaemonKind::Zebra, &["set x"]),
        step(DaemonKind::Bgpd, &["neighbor 10.0.0.1 password secret", "b"]),
    ];
    let undo = || vec![step(DaemonKind::Bgpd, &["no a"])];
    let result = apply_steps(&steps, undo, |_| Ok(FakeDaemon { commands: Rc::clone(&commands), reply }));
    (result, commands.take())
}

#[test]
fn an_optional_command_may_be_refused() {
    let (result, commands) = run(|c| Ok((c != "set x", "% Unknown command".into())));
    assert_eq!(result, Ok(()));
    assert_eq!(commands[2..], ["set x", "neighbor 10.0.0.1 password secret", "b"]);
}

#[test]
fn a_refused_command_is_rolled_back_and_named() {
    let (result, commands) = run(|c| Ok((!c.starts_with("neighbor"), "% No".into())));
    let error = result.unwrap_err();
    assert_eq!(error.reason, "bgpd: \"neighbor 10.0.0.1 password …\": % No");
    assert_eq!((error.diverged, error.interrupted), (BTreeSet::new(), false));
    assert_eq!(commands[3..5], ["neighbor 10.0.0.1 password secret", "no a"]);
}

#[test]
fn a_locked_daemon_has_refused_nothing() {
    let (result, commands) = run(|c| Ok((c != "b", "% could not lock".into())));
    let error = result.unwrap_err();
    assert!(error.interrupted && error.locked, "{error:?}");
    assert_eq!(commands.iter().filter(|c| *c == "b").count(), MAX_ATTEMPTS as usize);
}

#[test]
fn an_empty_interface_is_no_difference() {
    let before = "vrf red\n vni 5\nexit-vrf\n!\ninterface eth1\n no ipv6 nd suppress-ra\nexit\n!\nend\n";
    let after = "interface pe-e-100\nexit\n!\ninterface eth1\n no ipv6 nd suppress-ra\nexit\n!\nvrf red\n vni 5\nexit-vrf\n!\nend\n";
    assert_eq!(comparable_lines(before), comparable_lines(after));
    assert_ne!(comparable_lines(before), comparable_lines(&after.replace("no ipv6", "ipv6")));
}

#[test]
fn an_exited_daemon_interrupts_the_change() {
    let exited = |c: &str| {
        if c == "b" { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok((true, String::new())) }
    };
    let (result, _) = run(exited);
    let error = result.unwrap_err();
    assert!(error.reason.starts_with("bgpd: \"b\": ") && error.interrupted, "{error:?}");
}
