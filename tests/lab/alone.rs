//! FRR's daemons by themselves, started as ours are, without a network to route for.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use frr_supervisor::frr::delta::Context;
use frr_supervisor::frr::{Version, split};

use super::sh::{exec, must, vty, wait_until};

/// The FRR of this suite.
pub fn version() -> Version {
    match std::env::var("LAB_SUITE").unwrap_or_default().as_str() {
        "bookworm" => Version(8, 4),
        "trixie" => Version(10, 3),
        _ => Version(10, 7),
    }
}

/// Daemons that have been started with a configuration.
pub struct Alone {
    pub name: &'static str,
    children: Vec<(&'static str, Child)>,
}

impl Alone {
    pub fn start(name: &'static str, text: &str) -> Self {
        let dirs =
            ["/run/frr", "/etc/frr", "/var/lib/frr", "/var/tmp/frr"].map(|dir| format!("{dir}/{name}"));
        exec("", &["install", "-d", "-o", "frr", "-g", "frr", &dirs[0], &dirs[1], &dirs[2], &dirs[3]]);
        for file in ["vtysh.conf", "frr.conf"] {
            let text = if file == "frr.conf" { text } else { "service integrated-vtysh-config\n" };
            fs::write(format!("{}/{file}", dirs[1]), text).expect("the lab's own");
        }
        let parts = split(text);
        assert!(!parts.is_empty());
        let mut all = Self { name, children: vec![] };
        let old = version() < Version(10, 0);
        let names: &[&'static str] =
            if old { &["zebra", "staticd", "bgpd", "bfdd"] } else { &["mgmtd", "bgpd", "bfdd"] };
        for &daemon in names {
            let mut command = Command::new(Path::new("/usr/lib/frr").join(daemon));
            command.args(["-N", name, "-P", "0", "--log", &format!("file:/tmp/{name}-{daemon}.log")]);
            if daemon == "bgpd" {
                command.args(["-p", "0"]);
            }
            if let Some((_, part)) =
                parts.iter().find(|(d, _)| *d == daemon).filter(|_| !old && daemon != "mgmtd")
            {
                let file = format!("/tmp/{name}-{daemon}.conf");
                fs::write(&file, part).expect("the lab's own");
                command.args(["-f", &file]);
            }
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            all.children.push((daemon, command.spawn().expect("the lab's own")));
        }
        for (daemon, _) in &all.children {
            wait_until(daemon, Duration::from_secs(30), || vty(name, daemon, "echo PING").is_ok());
        }
        let load = if old {
            vec!["vtysh", "-N", name, "-b"]
        } else {
            vec!["vtysh", "-N", name, "-b", "-d", "mgmtd"]
        };
        exec("", &load);
        all
    }

    /// What they run with, in an order of its own.
    pub fn running(&self) -> Vec<(&'static str, Vec<String>)> {
        let one = |(daemon, _): &(&'static str, Child)| {
            let text = must(daemon, vty(self.name, daemon, "show running-config"));
            let mut lines = vec![];
            flatten("", &Context::parse(&text).expect("the lab's own"), &mut lines);
            lines.retain(|line| {
                !["Building", "Current", "frr version", "log file"].iter().any(|w| line.starts_with(w))
            });
            // FRR 8.4 gives it lists, which are nothing to it.
            lines.retain(|line| *daemon != "bfdd" || line.starts_with("bfd / "));
            lines.sort();
            lines.dedup();
            (*daemon, lines)
        };
        self.children.iter().map(one).collect()
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        for (_, child) in &mut self.children {
            child.kill().expect("the lab's own");
            child.wait().expect("the lab's own");
        }
    }
}

fn flatten(way: &str, context: &Context, lines: &mut Vec<String>) {
    let way = if context.head.is_empty() { way.to_owned() } else { format!("{way}{} / ", context.head) };
    lines.extend(context.lines.iter().map(|line| format!("{way}{line}")));
    context.inner.iter().for_each(|inner| flatten(&way, inner, lines));
}
