//! `make bench`: from the start of the program to every session Established, ours beside a start-up script that
//! hands over to watchfrr, on the same FRR in the same run.
#![allow(clippy::unwrap_used)]

mod lab;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lab::*;
use rustix::process::{Pid, Signal, kill_process};

const LIMIT: Duration = Duration::from_secs(120);
const RUNS: usize = 5;

/// Seconds from now until the leaves and the speaker have their sessions with the node.
fn until_established(start: Instant) -> f64 {
    for (router, peer) in [("leaf1", "node"), ("leaf2", "node"), ("speaker", "fda1:b2c3:d4e5:1::")] {
        wait_until(&format!("{router}'s session"), LIMIT, || {
            session(router, "default", peer) == "Established"
        });
    }
    start.elapsed().as_secs_f64()
}

fn ours() -> f64 {
    let lab = Lab::new(Options::default());
    let mut env = Lab::node_env();
    env.push(("RETURN_PATH", "default-route"));
    let node = lab.start_supervisor(&env);
    until_established(node.started)
}

/// The same job in the same namespaces, with the same frr.conf but for what depends on how it is started.
fn theirs() -> f64 {
    let _lab = Lab::new(Options::default());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/startup.sh");
    let mut command = Command::new("bash");
    command.arg(format!("/host{script}")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.envs(Lab::node_env());
    let start = Instant::now();
    let mut child = in_ns("host", || command.spawn()).unwrap();
    let seconds = until_established(start);
    kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
    child.wait().unwrap();
    seconds
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let (mut us, mut them) = (Vec::new(), Vec::new());
    for run in 1..=RUNS {
        us.push(ours());
        them.push(theirs());
        println!(
            "run {run}: frr-supervisor {:.2} s, start-up script and watchfrr {:.2} s",
            us[run - 1],
            them[run - 1]
        );
    }
    let (us, them) = (median(&mut us), median(&mut them));
    println!("start to all sessions Established, median of {RUNS}:");
    println!("  frr-supervisor               {us:6.2} s");
    println!("  start-up script and watchfrr {them:6.2} s");
    println!("  ratio                        {:6.2}", them / us);
}
