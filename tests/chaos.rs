//! `make chaos`: daemons, the supervisor and the whole container are killed and stopped at random under traffic.
//! LAB_KILLS (50): the number of times; LAB_SECONDS: the longest duration; LAB_SEED: another sequence; LAB_NETNS:
//! perouter (the default) or host; LAB_BFD=off: without BFD; LAB_LEAF: as in the matrix; LAB_DELETIONS (0): how often a
//! device is deleted as well, which loses packets while it is missing; LAB_ROUTES (0): the routes from each leaf;
//! LAB_SERVICES (0): the additional services; LAB_MTU (1500); LAB_INTERLEAF=on: a link between the leaves.

mod lab;

use std::thread;
use std::time::{Duration, Instant};

use lab::*;

/// Daemons that this FRR lacks are skipped.
const DAEMONS: [&str; 5] = ["bgpd", "zebra", "bfdd", "staticd", "mgmtd"];

fn main() {
    let setting = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let number = |name: &str, default: u64| {
        setting(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
    };
    let (kills, deletions) = (number("LAB_KILLS", 50), number("LAB_DELETIONS", 0));
    let limit = Duration::from_secs(number("LAB_SECONDS", 86400));
    let seed = number("LAB_SEED", 1);
    let ns = if setting("LAB_NETNS").as_deref() == Some("host") { "host" } else { "perouter" };
    let mut random = Random::new(seed);

    let bfd = setting("LAB_BFD").as_deref() != Some("off");
    let lab = Lab::new(Options {
        bfd: Options::default().bfd.filter(|_| bfd),
        leaf_extra: setting("LAB_LEAF").unwrap_or_default().replace(';', "\n"),
        mtu: u32::try_from(number("LAB_MTU", 1500)).expect("LAB_MTU is a number of bytes"),
        interleaf: setting("LAB_INTERLEAF").is_some(),
        speaker: Some(Speaker::with_more(
            usize::try_from(number("LAB_SERVICES", 0)).expect("a number of services"),
        )),
        ..Options::default()
    });
    let many = usize::try_from(number("LAB_ROUTES", 0)).expect("a number of routes");
    lab.announce_from_leaves(many);
    let mut env = vec![("NETNS", ns), ("ENABLE_BFD", if bfd { "true" } else { "false" })];
    if many > 0 {
        // The defaults: the lab's short windows end before six FRRs on one slow processor have processed thousands of
        // routes.
        env.extend([
            ("GR_RESTART_TIME", "120"),
            ("GR_SELECT_DEFER_TIME", "15"),
            ("METALLB_HOLD_TIME", "150"),
        ]);
    }
    let mut node = Runner::new(&lab, &env);
    // It would keep a namespace in existence that is to be deleted.
    let routes = RouteLog::start(&[ns, "leaf1", "leaf2"][usize::from(deletions > 0)..]);
    settle();
    let flows = flows();
    let begin = Instant::now();
    let (mut done, mut deleted) = (0, 0);
    while done < kills && begin.elapsed() < limit {
        random.pause(3000);
        let at = begin.elapsed().as_secs_f64();
        let what = if deletions > deleted && random.below(kills) < deletions {
            deleted += 1;
            let device = random.of(&["metallb-frr", "frr-metallb", "metallb"]);
            let place = if device == "metallb-frr" { "host" } else { ns };
            ip(place, &format!("link del {device}"));
            format!("{device} deleted")
        } else {
            done += 1;
            match random.below(10) {
                n @ 0..=2 => {
                    let cell =
                        [Cell::Restart, Cell::Supervisor, Cell::Everything][usize::try_from(n).unwrap_or(0)];
                    node.disturb(&cell);
                    cell.to_string()
                }
                3 | 4 => {
                    let (name, ms) = (random.of(&DAEMONS), 500 + random.below(12000));
                    node.freeze(name, Duration::from_millis(ms));
                    format!("SIGSTOP {name} for {ms} ms")
                }
                5 => {
                    // One after the other, before the first has been restarted.
                    let (first, then) = (random.of(&DAEMONS), random.of(&DAEMONS));
                    node.kill(&[first]);
                    random.pause(300);
                    node.kill(&[then]);
                    format!("SIGKILL {first}, then {then}")
                }
                6 => {
                    node.kill(&DAEMONS);
                    "SIGKILL all daemons".into()
                }
                _ => {
                    let name = random.of(&DAEMONS);
                    node.kill(&[name]);
                    format!("SIGKILL {name}")
                }
            }
        };
        node.wait_complete(if bfd { 5 } else { 4 });
        settle();
        println!("{at:7.1}-{:.1} s: {done} {what}", begin.elapsed().as_secs_f64());
    }
    // The peers' BFD detects a failure after 15 s.
    thread::sleep(Duration::from_secs(20));
    let cost = Cost::of(flows);
    if cost.lost > 0 && setting("LAB_LEAF").is_some() {
        println!("{}", lab.leaves[0].log_text());
        println!("{}", node.node.as_ref().map(Supervisor::log_text).unwrap_or_default());
    }
    print!("{}", routes.explain(&cost, &node));
    for flow in &cost.flows {
        println!("{flow}");
    }
    println!(
        "chaos: kills={done} deletions={deleted} sent={} lost={} worst_gap_ms={} seed={seed}",
        cost.sent,
        cost.lost,
        cost.gap.as_millis()
    );
    if cost.lost > 0 && deleted == 0 {
        std::process::exit(1);
    }
}
