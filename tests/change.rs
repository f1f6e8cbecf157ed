//! `make bench`: the time of a configuration change, with frr-supervisor and with frr-reload.py on the same daemons and
//! texts. LAB_VRFS: how many VRFs, comma-separated.
#![allow(clippy::unwrap_used)]

mod lab;

use std::fmt::Write as _;
use std::process::Command;
use std::time::Instant;

use frr_supervisor::frr::Document;
use frr_supervisor::frr::delta::{Delta, delta};
use lab::*;

/// VRFs, each with a VNI and two sessions with the host.
fn yaml(vrfs: std::ops::Range<u32>, host_asn: u32) -> String {
    let mut text = String::from("underlay: {tunnelEndpoint: {cidrs: [100.65.0.0/24]}}\nl3vnis:\n");
    for n in vrfs {
        let (vni, a, b) = (1000 + n, n / 200, n % 200);
        writeln!(text, "- {{vrf: v{vni}, vni: {vni}, hostSession: {{asn: 64514, hostASN: {host_asn}, localCIDR: {{ipv4: 11.{a}.{b}.0/24, ipv6: '2001:db8:{n:x}::/64'}}}}}}").unwrap();
    }
    text
}

struct Ours {
    /// Reading and rendering.
    render: f64,
    /// Comparing.
    compare: f64,
    /// FRR's parser.
    check: f64,
    /// Commands.
    send: f64,
    commands: usize,
}

impl Ours {
    fn all(&self) -> f64 {
        self.render + self.compare + self.check + self.send
    }
}

fn ours(live: &Standalone, old: &Document, new: &str) -> Ours {
    let start = Instant::now();
    let new = text_of(new);
    let render = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let Delta::Commands(steps, late) = delta(old, &Document::parse(&new), version()) else {
        panic!("a restart")
    };
    let compare = start.elapsed().as_secs_f64();
    let commands: Vec<_> = steps.iter().chain(&late).flat_map(|step| &step.commands).collect();
    let start = Instant::now();
    if !commands.is_empty() {
        let lines: String = commands.iter().map(|command| format!("{}\n", command.text)).collect();
        std::fs::write("/tmp/delta.conf", lines).unwrap();
        exec("", &["vtysh", "-C", "-f", "/tmp/delta.conf"]);
    }
    let check = start.elapsed().as_secs_f64();
    let start = Instant::now();
    for step in steps.iter().chain(&late) {
        for (command, status, output) in live.send(step) {
            assert!(status == 0 || command.optional, "{}: {output}", command.text);
        }
    }
    Ours { render, compare, check, send: start.elapsed().as_secs_f64(), commands: commands.len() }
}

/// As OpenPERouter and frr-k8s do: `--test`, and then `--reload`.
fn frr_reload(new: &str) -> f64 {
    std::fs::write("/tmp/reload.conf", text_of(new)).unwrap();
    let start = Instant::now();
    for what in ["--test", "--reload"] {
        let output = Command::new("python3")
            .args(["/usr/lib/frr/frr-reload.py", what, "--bindir", "/usr/bin", "--confdir", "/etc/frr"])
            .args(["--rundir", "/run/frr", "--pathspace", "live", "/tmp/reload.conf"])
            .output()
            .unwrap();
        // It may exit with an error for `bgp graceful-restart`, which bgpd refuses the second time; the rest is applied
        // then.
        assert!(
            output.status.code().is_some_and(|code| code <= 1),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    start.elapsed().as_secs_f64()
}

fn main() {
    let counts = std::env::var("LAB_VRFS").unwrap_or("10,100,500,1000".into());
    println!(
        "VRFs  change          ours: s  (render compare  check   send) commands | frr-reload: s |  ratio"
    );
    for n in counts.split(',').map(|n| n.parse::<u32>().unwrap()) {
        let (base, one_more, other) = (yaml(0..n, 64515), yaml(0..n + 1, 64515), yaml(0..n, 64516));
        let start = text_of(&base);
        let mut lines = vec![];
        let live = Standalone::start("live", &start);
        let mut before = Document::parse(&start);
        for (what, next) in
            [("none", &base), ("one added", &one_more), ("one removed", &base), ("all other", &other)]
        {
            lines.push((what, ours(&live, &before, next)));
            before = Document::parse(&text_of(next));
        }
        drop(live);
        let live = Standalone::start("live", &start);
        // This run applies what frr-reload.py finds different in an equal configuration.
        frr_reload(&base);
        for ((what, ours), next) in lines.iter().zip([&base, &one_more, &base, &other]) {
            let theirs = frr_reload(next);
            println!(
                "{n:4}  {what:12} {:10.4}  ({:6.4}  {:6.4} {:6.4} {:6.4}) {:8} | {theirs:13.3} | {:6.1}",
                ours.all(),
                ours.render,
                ours.compare,
                ours.check,
                ours.send,
                ours.commands,
                theirs / ours.all()
            );
        }
        drop(live);
    }
}
