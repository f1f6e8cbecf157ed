//! `make bench`: from the start of the program to every session Established, from the kill of a daemon to its
//! successor, and the idle cost, with frr-supervisor and with a start-up script that starts watchfrr, on the same FRR
//! in the same run. LAB_PLAIN: on a kernel without VRFs, hence without MetalLB and without the idle cost.
#![allow(clippy::unwrap_used)]

mod lab;

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use lab::*;
use rustix::process::{Pid, Signal, kill_process};

const LIMIT: Duration = RECOVERY_LIMIT;
const DAEMONS: [&str; 2] = ["bgpd", "zebra"];

/// The fabric; on a plain kernel without a speaker, which would be behind the VRF.
fn fabric() -> Lab {
    let options = Options::default();
    Lab::new(Options { speaker: options.speaker.filter(|_| !plain()), ..Options::default() })
}

/// Seconds from `start` until the leaves and the speaker have their sessions with the node.
fn until_established(start: Instant) -> f64 {
    let sessions = [("leaf1", "node"), ("leaf2", "node"), ("speaker", "fda1:b2c3:d4e5:1::")];
    for (router, peer) in sessions.into_iter().filter(|(router, _)| *router != "speaker" || !plain()) {
        wait_until(&format!("{router}'s session"), LIMIT, || {
            session(router, "default", peer) == "Established"
        });
    }
    start.elapsed().as_secs_f64()
}

/// The steps that [`recovery`] measures.
const STEPS: [&str; 4] =
    ["its end, the kernel's part", "successor exec'd", "it answers", "sessions Established"];

/// Seconds from SIGKILL to a daemon until the kernel has ended it, until its successor is exec'd, until that answers,
/// and until the leaves have their sessions again.
fn recovery(daemon: &str) -> [f64; 4] {
    // Whether it is Established, and how often it has been.
    let sessions = || {
        ["leaf1", "leaf2"].map(|leaf| {
            let all = show(leaf, "bgpd", "show bgp neighbors node json");
            (
                all["node"]["bgpState"] == "Established",
                all["node"]["connectionsEstablished"].as_u64().unwrap_or(0),
            )
        })
    };
    wait_until("the sessions before the kill", LIMIT, || sessions().iter().all(|(up, _)| *up));
    let before = sessions();
    let (start, [end, exec]) = kill_until_exec(daemon, daemon);
    while vty("node", daemon, "echo PING").is_err() {
        assert!(start.elapsed() < LIMIT, "{daemon} does not answer");
        thread::sleep(Duration::from_millis(1));
    }
    let ready = start.elapsed();
    wait_until("the sessions again", LIMIT, || {
        sessions().iter().zip(before).all(|((up, count), (_, before))| *up && *count > before)
    });
    [end, exec, ready, start.elapsed()].map(|time| time.as_secs_f64())
}

/// The numbers of routes in the kernel for [`with_routes`].
const ROUTES: [usize; 3] = [0, 1000, 40_000];

/// The first two steps of [`recovery`] for each of [`DAEMONS`], with this number of routes in the kernel, which all
/// need a backup.
fn with_routes(count: usize) -> [[f64; 2]; 2] {
    let lab = fabric();
    let mut env = Lab::node_env();
    env.push(("RETURN_PATH", "default-route"));
    env.extend(plain().then_some(("LAB_PLAIN", "1")));
    let node = lab.start_supervisor(&env);
    until_established(node.started);
    learn_routes("perouter", count / 2);
    DAEMONS.map(|daemon| {
        let [end, exec, ..] = recovery(daemon);
        [end, exec]
    })
}

/// Seconds that this kernel needs to start a daemon at all.
fn bare_exec() -> f64 {
    let mut command = Command::new(lab::daemon("bgpd"));
    command
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    let start = Instant::now();
    let mut child = command.spawn().unwrap();
    let took = start.elapsed().as_secs_f64();
    child.wait().unwrap();
    took
}

/// The idle cost of a process: its wake-ups a second, and its use of a CPU in percent.
fn idle(pid: u32) -> [f64; 2] {
    // Sessions are queried more often for 10 s after they have changed, and the speaker's comes up later.
    thread::sleep(Duration::from_secs(60));
    let path = format!("/proc/{pid}");
    let count = || (number_of(&path, "voluntary_ctxt_switches"), cpu_seconds(&path));
    let (before, start) = (count(), Instant::now());
    thread::sleep(Duration::from_secs(30));
    let (after, seconds) = (count(), start.elapsed().as_secs_f64());
    [(after.0 - before.0) / seconds, 100.0 * (after.1 - before.1) / seconds]
}

/// Seconds until all sessions are up, the result of [`recovery`] for each of [`DAEMONS`], and, in the first run, that
/// of [`idle`].
type Run = (f64, [[f64; 4]; 2], Option<[f64; 2]>);

fn ours(first: bool) -> Run {
    let lab = fabric();
    let mut env = Lab::node_env();
    env.push(("RETURN_PATH", "default-route"));
    env.extend(plain().then_some(("LAB_PLAIN", "1")));
    let node = lab.start_supervisor(&env);
    let up = until_established(node.started);
    (up, DAEMONS.map(recovery), first.then(|| idle(node.pid())))
}

/// The same job in the same namespaces, with the same frr.conf except for what depends on the way of starting.
fn theirs(first: bool) -> Run {
    let _lab = fabric();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/startup.sh");
    let mut command = Command::new("bash");
    command.arg(format!("/host{script}")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.envs(Lab::node_env());
    let start = Instant::now();
    let mut child = in_ns("host", || command.spawn()).unwrap();
    let seconds = until_established(start);
    let recoveries = DAEMONS.map(recovery);
    let idle = first.then(|| idle(pid_of("watchfrr").unwrap()));
    kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
    child.wait().unwrap();
    (seconds, recoveries, idle)
}

/// [`theirs`], repeated when sessions stay down, as sometimes after watchfrr has started bgpd, which then has no
/// configuration.
fn theirs_with_retries(first: bool, failures: &mut usize) -> Run {
    loop {
        match std::panic::catch_unwind(|| theirs(first)) {
            Ok(run) => return run,
            Err(_) => *failures += 1,
        }
        assert!(*failures < 5, "watchfrr fails too often");
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let (mut us, mut them, mut failures) = (Vec::new(), Vec::new(), 0);
    let runs = std::env::var("LAB_REPEAT").map_or(3, |n| n.parse().expect("LAB_REPEAT is a number"));
    for run in 1..=runs {
        us.push(ours(run == 1));
        them.push(theirs_with_retries(run == 1, &mut failures));
        println!("run {run}: frr-supervisor {:.3?}", us[run - 1]);
        println!("run {run}: watchfrr       {:.3?}", them[run - 1]);
    }
    if failures > 0 {
        println!("watchfrr: {failures} more, not counted, whose sessions stayed down for {LIMIT:?}");
    }
    println!("median of {runs}, seconds                       frr-supervisor    watchfrr    ratio");
    let line = |what: String, value: &dyn Fn(&Run) -> f64| {
        let [us, them] = [&us, &them].map(|all| median(all.iter().map(value).collect()));
        println!("{what:44} {us:14.3} {them:11.3} {:8.1}", them / us);
    };
    line("start to all sessions Established".into(), &|run| run.0);
    for (i, daemon) in DAEMONS.iter().enumerate() {
        for (j, what) in STEPS.into_iter().enumerate() {
            line(format!("{daemon} killed to {what}"), &|run| run.1[i][j]);
        }
    }
    for count in ROUTES {
        for (daemon, [end, exec]) in DAEMONS.iter().zip(with_routes(count)) {
            println!(
                "{:44} {exec:14.3}   (its end: {end:.3})",
                format!("{daemon} with {count} routes: successor exec'd")
            );
        }
    }
    println!(
        "{:44} {:14.3}",
        "to exec a daemon at all, on this kernel",
        median((0..21).map(|_| bare_exec()).collect())
    );
    for (i, what) in ["idle: wake-ups a second", "idle: percent of a CPU"].into_iter().enumerate() {
        if let (Some(us), Some(them)) = (us[0].2, them[0].2) {
            println!("{what:44} {:14.3} {:11.3} {:8.1}", us[i], them[i], them[i] / us[i]);
        }
    }
}
