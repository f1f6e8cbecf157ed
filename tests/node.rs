//! The node comes up: real FRR on a real kernel, two leaves, MetalLB's stand-in and a client behind each leaf.
//! Run by `make test` inside the lab's kernel, see `tests/lab/run`.

mod lab;

use std::time::Duration;

use lab::*;

/// Long enough for a loaded machine; what is waited for comes in a second or two.
const SOON: Duration = Duration::from_secs(60);

fn up(lab: &Lab, extra: &[(&str, &str)]) -> Supervisor {
    let mut env = Lab::node_env();
    env.extend(extra);
    let node = lab.start_supervisor(&env);
    node.wait_log("all daemons answer", SOON);
    for leaf in ["leaf1", "leaf2"] {
        for prefix in [format!("{SERVICE4}/32"), format!("{SERVICE6}/128")] {
            wait_until(&format!("{prefix} on {leaf}"), SOON, || has_route(leaf, &prefix));
        }
    }
    node
}

fn every_ping_is_answered(addresses: &[&str]) {
    for client in ["client1", "client2"] {
        for address in addresses {
            // The first one resolves neighbours.
            wait_until(&format!("{address} answers {client}"), SOON, || ping(client, address, 1, 10).1 == 1);
            assert_eq!(ping(client, address, 1000, 2), (1000, 1000), "{client} to {address}");
        }
    }
}

#[test]
fn perouter_without_a_default_route() {
    let lab = Lab::new(Options::default());
    let node = up(&lab, &[("RETURN_PATH", "default-route")]);
    every_ping_is_answered(&[SERVICE4, SERVICE6]);
    println!("{}", vtysh("node", "show running-config"));
    println!("{}", node.log_text());
}
