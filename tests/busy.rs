//! `make bench`: from the kill of bgpd to the exec of the first successor, and the packets lost, while the node is idle
//! and while it does something that takes long. That successor is zebra's: on a node with VNIs, bgpd takes zebra with
//! it, and starts when zebra responds. LAB_VNIS (1000): VNIs that are being built; LAB_VRFS (100): VRFs that a change
//! concerns; LAB_REPEAT (3): the number of kills in each situation.
#![allow(clippy::unwrap_used)]

mod lab;

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::thread;
use std::time::Duration;

use lab::*;

const FILE: &str = "/tmp/busy.yaml";
const LIMIT: Duration = Duration::from_secs(600);
/// See the restart policy.
const STABLE_AFTER: Duration = Duration::from_secs(61);

const VTYSH: &str = "/usr/bin/vtysh";
const HANGING: &str = "/tmp/vtysh";
const REAL: &str = "/tmp/vtysh.real";

fn number(name: &str, default: u32) -> u32 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Routing domains, whose hosts have this AS number, and broadcast domains.
fn file(vrfs: u32, host_asn: u32, l2vnis: u32) -> String {
    let mut text = String::from("underlay: {tunnelEndpoint: {cidrs: [100.65.0.0/24]}}\nl3vnis:\n");
    for n in 0..vrfs {
        let (vni, a, b) = (1000 + n, n / 200, n % 200);
        writeln!(text, "- {{vrf: v{vni}, vni: {vni}, hostSession: {{asn: 64514, hostASN: {host_asn}, localCIDR: {{ipv4: 11.{a}.{b}.0/24}}}}}}").unwrap();
    }
    text += "l2vnis:\n";
    (0..l2vnis).for_each(|n| writeln!(text, "- {{vni: {}}}", 100_000 + n).unwrap());
    text
}

fn put(text: &str) {
    std::fs::write("/tmp/.busy", text).unwrap();
    std::fs::rename("/tmp/.busy", FILE).unwrap();
}

/// The number of links in FRR's namespace.
fn links() -> usize {
    in_ns("perouter", || std::fs::read_to_string("/proc/thread-self/net/dev").unwrap().lines().count())
}

/// What is measured at a node in some situation.
struct Row {
    situation: String,
    exec: Vec<Duration>,
    cost: Cost,
}

/// Kills bgpd, in the situation that `begin` brings about, `times` times. `end` waits until that is over.
fn measure(situation: String, times: usize, begin: impl Fn(usize), end: impl Fn(usize)) -> Row {
    let mut row = Row { situation, exec: vec![], cost: Cost::default() };
    for i in 0..times {
        for router in ["leaf1", "leaf2"] {
            wait_until("the sessions", LIMIT, || session(router, "default", "node") == "Established");
        }
        // A second crash within this time is followed by a back-off.
        thread::sleep(STABLE_AFTER);
        let flows = flows();
        begin(i);
        let (_, [_, exec]) = kill_until_exec("bgpd", "zebra");
        row.exec.push(exec);
        end(i);
        thread::sleep(Duration::from_secs(5));
        row.cost += &Cost::of(flows);
    }
    row.exec.sort();
    println!("{}: {:.1?}; {}", row.situation, row.exec, row.cost);
    row
}

fn main() {
    let (vnis, vrfs, times) = (number("LAB_VNIS", 1000), number("LAB_VRFS", 100), number("LAB_REPEAT", 3));
    let times = times as usize;
    let lab = Lab::new(Options { bfd: None, ..Options::default() });
    let base = file(1, 64515, 0);
    put(&base);
    let env = [
        ("CONFIG_FILE", FILE),
        ("ENABLE_BFD", "false"),
        ("BGP_KEEPALIVE_TIME", "30"),
        ("BGP_HOLD_TIME", "90"),
        ("FRR_TEMPLATE", "/tmp/template.j2"),
    ];
    std::fs::write("/tmp/template.j2", include_str!("../templates/frr.conf.j2")).unwrap();
    let node = start(&lab, &env);
    let active = |from: usize| {
        node.wait_log_after(from, "the new configuration is active", LIMIT);
    };
    let mut rows = vec![measure("idle".into(), times, |_| (), |_| ())];

    let before = links();
    let from = std::cell::Cell::new(0);
    rows.push(measure(
        format!("while {vnis} VNIs are built"),
        if vnis > 300 { 1 } else { times },
        |_| {
            from.set(node.log().len());
            put(&file(1, 64515, vnis));
            wait_until("the first VNIs", LIMIT, || links() > before + 20);
        },
        |_| {
            assert!(links() < before + 2 * vnis as usize, "all VNIs were built already");
            active(from.get());
            from.set(node.log().len());
            put(&base);
            active(from.get());
        },
    ));

    let from_start = node.log().len();
    put(&file(vrfs, 64515, 0));
    active(from_start);
    rows.push(measure(
        format!("while {vrfs} VRFs change"),
        times,
        |i| {
            from.set(node.log().len());
            put(&file(vrfs, 64516 + u32::try_from(i).unwrap(), 0));
            wait_until("the change", LIMIT, || status()["counts"]["changing"] == true);
        },
        |_| active(from.get()),
    ));

    // Only a check hangs; vtysh loads configurations as always.
    std::fs::copy(VTYSH, REAL).unwrap();
    let script =
        format!("#!/bin/sh\nfor word; do [ \"$word\" != -C ] || exec sleep 600; done\nexec {REAL} \"$@\"\n");
    std::fs::write(HANGING, script).unwrap();
    std::fs::set_permissions(HANGING, std::fs::Permissions::from_mode(0o755)).unwrap();
    rows.push(measure(
        "while vtysh -C hangs".into(),
        times,
        |i| {
            from.set(node.log().len());
            exec("", &["mount", "--bind", HANGING, VTYSH]);
            put(&file(vrfs, 64530 + u32::try_from(i).unwrap(), 0));
            wait_until("the check", LIMIT, || Lab::processes("host").iter().any(|(_, name)| name == "sleep"));
        },
        |_| {
            exec("", &["umount", VTYSH]);
            active(from.get());
        },
    ));

    println!("bgpd killed to the first successor exec'd, ms      median    most    ÷ idle    packets");
    let idle = rows[0].exec[rows[0].exec.len() / 2].as_secs_f64();
    let mut lost = 0;
    for Row { situation, exec, cost } in rows {
        let [median, most] = [exec[exec.len() / 2], exec[exec.len() - 1]].map(|time| time.as_secs_f64());
        println!("{situation:48} {:8.1} {:7.1} {:8.1}    {cost}", 1e3 * median, 1e3 * most, median / idle);
        lost += cost.lost;
    }
    assert_eq!(lost, 0, "packets were lost");
}
