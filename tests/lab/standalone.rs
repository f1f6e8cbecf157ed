//! Standalone FRR daemons, started as the program starts them, without a network.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use frr_supervisor::config::{file, from_vars};
use frr_supervisor::frr::delta::{self, Context, Step};
use frr_supervisor::frr::{Document, Inputs, Version, render};
use frr_supervisor::model::{IfName, Value as _};

use super::sh::{exec, must, query_all, vty, wait_until};

/// The FRR of this suite.
pub fn version() -> Version {
    match std::env::var("LAB_SUITE").unwrap_or_default().as_str() {
        "bookworm" => Version(8, 4),
        "trixie" => Version(10, 3),
        _ => Version(10, 7),
    }
}

/// Renders a configuration file to the text of frr.conf, as the program does.
pub fn text_of(yaml: &str) -> String {
    let env = [("NODE_IP", "203.0.113.130"), ("ASN_LOCAL", "65001"), ("FE_MACS", "02:fa:b0:00:01:01")];
    let config = from_vars(env.iter().map(|(k, v)| ((*k).into(), (*v).into())));
    let mut config = config.expect("the lab's own");
    let (overlay, problems) = file::parse_files(&[("lab.yaml".into(), yaml.into())], &config);
    assert!(problems.is_empty(), "{}\n{yaml}", problems[0]);
    config.add_overlay(overlay).expect("the lab's own");
    let ports = ["eth1", "eth2"].map(|name| IfName::parse(name).expect("the lab's own"));
    let inputs = Inputs {
        config: &config,
        ports: &ports,
        node_ip_is_local: false,
        port_addresses: &[],
        version: version(),
    };
    render(&inputs, None).expect("the lab's own")
}

/// Daemons that have been started with a configuration.
pub struct Standalone {
    pub name: &'static str,
    children: Vec<(&'static str, Child)>,
}

impl Standalone {
    pub fn start(name: &'static str, text: &str) -> Self {
        let dirs =
            ["/run/frr", "/etc/frr", "/var/lib/frr", "/var/tmp/frr"].map(|dir| format!("{dir}/{name}"));
        exec("", &["install", "-d", "-o", "frr", "-g", "frr", &dirs[0], &dirs[1], &dirs[2], &dirs[3]]);
        for file in ["vtysh.conf", "frr.conf"] {
            let text = if file == "frr.conf" { text } else { "service integrated-vtysh-config\n" };
            fs::write(format!("{}/{file}", dirs[1]), text).expect("the lab's own");
        }
        let parts = Document::parse(text).parts();
        assert!(!parts.is_empty());
        let mut all = Self { name, children: vec![] };
        let old = version() < Version(10, 0);
        let names: &[&'static str] =
            if old { &["zebra", "staticd", "bgpd", "bfdd"] } else { &["mgmtd", "bgpd", "bfdd"] };
        for &daemon in names {
            let mut command = Command::new(super::daemon(daemon));
            command.args(["-N", name, "-P", "0", "--log", &format!("file:/tmp/{name}-{daemon}.log")]);
            if daemon == "bgpd" {
                command.args(["-p", "0"]);
            }
            if let Some((_, part)) =
                parts.iter().find(|(d, _)| d.name() == daemon).filter(|_| !old && daemon != "mgmtd")
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

    /// Sends a step to its daemon, also past a refused command: each command with its status and output.
    pub fn send<'s>(&self, step: &'s Step) -> Vec<(&'s delta::VtyCommand, u8, String)> {
        let texts = step.commands.iter().map(|command| command.text.as_str());
        let all: Vec<&str> = ["configure terminal"].into_iter().chain(texts).collect();
        let replies =
            query_all(self.name, step.daemon.name(), &all).expect("the daemon answers").into_iter().skip(1);
        step.commands
            .iter()
            .zip(replies)
            .map(|(command, (status, output))| (command, status, output))
            .collect()
    }

    /// The running configuration of each daemon, as a sorted set of lines.
    pub fn running(&self) -> Vec<(&'static str, BTreeSet<String>)> {
        let one = |(daemon, _): &(&'static str, Child)| {
            let text = must(daemon, vty(self.name, daemon, "show running-config"));
            let tree = Context::parse(&text).expect("the lab's own");
            let mut lines: BTreeSet<String> = tree.flat().iter().map(|way| way.join(": ")).collect();
            lines.retain(|line| {
                !["Building", "Current", "frr version", "log file"].iter().any(|w| line.starts_with(w))
            });
            // FRR 8.4 also gives lists to bfdd, which does not use them.
            lines.retain(|line| *daemon != "bfdd" || line.starts_with("bfd: "));
            (*daemon, lines)
        };
        self.children.iter().map(one).collect()
    }
}

impl Drop for Standalone {
    fn drop(&mut self) {
        for (_, child) in &mut self.children {
            child.kill().expect("the lab's own");
            child.wait().expect("the lab's own");
        }
    }
}
