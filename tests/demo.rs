//! The main job, step by step: `make demo`.
#![allow(clippy::unwrap_used)]

mod lab;

use std::time::{Duration, Instant};

use lab::*;

const LIMIT: Duration = Duration::from_secs(60);
const SESSIONS: [(&str, &str, &str); 3] = [
    ("leaf1", "default", "node"),
    ("leaf2", "default", "node"),
    ("speaker", "default", "fda1:b2c3:d4e5:1::"),
];

fn step(title: &str) {
    println!("\n=== {title}");
}

fn show(lines: &str) {
    lines.lines().filter(|line| !line.trim().is_empty()).for_each(|line| println!("    {line}"));
}

/// The wanted lines of the log, with the time since the start.
fn log(node: &Supervisor, wanted: impl Fn(&str) -> bool) {
    for (at, line) in node.log().into_iter().filter(|(_, line)| wanted(line)) {
        println!(
            "    {:6.3} s {}",
            at.as_secs_f64(),
            line.split_once(' ').map_or(&line[..], |(_, rest)| rest)
        );
    }
}

fn main() {
    let begin = Instant::now();
    step("The lab: two leaf switches, a client behind each, and MetalLB's speaker on the node");
    let lab = Lab::new(Options::default());
    show(&ip("host", "-br link"));
    println!("    the node has two fabric NICs and no route but to itself");

    step("frr-supervisor starts with four variables");
    let mut env = Lab::node_env();
    env.push(("RETURN_PATH", "default-route"));
    env.iter().for_each(|(name, value)| println!("    {name}={value}"));
    let node = lab.start_supervisor(&env);
    node.wait_log("all daemons answer", LIMIT);

    step("It finds the NICs by MAC address and makes the devices");
    log(&node, |line| line.contains("INFO  ") && !line.contains(": [") && !line.contains("vtysh"));

    step("The namespace `perouter` now has the fabric; the host keeps one end of the veth pair");
    show(&ip("perouter", "-br addr"));
    println!("    --");
    show(&ip("host", "-br addr"));

    step("BGP sessions, as the leaves and the speaker see them");
    let mut times = Vec::new();
    for (router, vrf, peer) in SESSIONS {
        wait_until(&format!("{router}'s session"), LIMIT, || session(router, vrf, peer) == "Established");
        let at = node.started.elapsed().as_secs_f64();
        println!("    {at:6.3} s {router}: {peer} Established");
        times.push((router, at));
    }

    step("The service addresses on both leaves");
    for (family, prefix) in [("ip", format!("{SERVICE4}/32")), ("ipv6", format!("{SERVICE6}/128"))] {
        for leaf in ["leaf1", "leaf2"] {
            wait_until(&format!("{prefix} on {leaf}"), LIMIT, || has_route(leaf, &prefix));
            let routes = vtysh(leaf, &format!("show {family} route {prefix}"));
            let route = routes.lines().find(|line| line.trim_start().starts_with('*')).unwrap_or_default();
            println!("    {leaf}: {prefix} via {}", route.trim_start_matches(['*', ' ']));
        }
    }

    step("Pings from the clients to the service, 200 each");
    let mut table = Vec::new();
    for client in ["client1", "client2"] {
        for address in [SERVICE4, SERVICE6] {
            wait_until("the first answer", LIMIT, || ping(client, address, 1, 10).1 == 1);
            let (sent, received) = ping(client, address, 200, 5);
            println!("    {client} → {address}: sent {sent}, answered {received}");
            table.push((client, address, sent, received));
        }
    }

    step("Summary");
    println!("    {:<10} {:<22} {:>5} {:>9}", "from", "to", "sent", "answered");
    for (client, address, sent, received) in &table {
        println!("    {client:<10} {address:<22} {sent:>5} {received:>9}");
    }
    for (router, at) in times {
        println!("    {router:<10} Established {at:.1} s after the start");
    }
    println!("    demo took {:.0} s", begin.elapsed().as_secs_f64());
    assert!(table.iter().all(|(_, _, sent, received)| sent == received), "packets were lost");
}
