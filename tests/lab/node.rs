//! The node under test: start it, wait for it, inspect it.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use super::*;

/// Long enough for a loaded machine; usually a second or two is enough.
pub const SOON: Duration = Duration::from_secs(60);
pub const SERVICES: [&str; 2] = [SERVICE4, SERVICE6];
pub const DAEMONS_ANSWER: &str = "all daemons answer";

pub fn start(lab: &Lab, extra: &[(&str, &str)]) -> Supervisor {
    let mut env = Lab::node_env();
    // Connection marks need a kernel with nf_tables: see `connmark` in node.rs.
    env.push(("RETURN_PATH", "default-route"));
    env.retain(|(name, _)| !extra.iter().any(|(n, _)| n == name));
    env.extend(extra);
    lab.start_supervisor(&env)
}

/// Starts the node and waits until both leaves have the service's routes.
pub fn up(lab: &Lab, extra: &[(&str, &str)]) -> Supervisor {
    await_up(start(lab, extra))
}

/// The same for a node that was started in another way.
pub fn await_up(node: Supervisor) -> Supervisor {
    node.wait_log(DAEMONS_ANSWER, SOON);
    for prefix in [format!("{SERVICE4}/32"), format!("{SERVICE6}/128")] {
        both_leaves_have(&prefix);
    }
    settle();
    node
}

/// FRR 8.4 may process the peer's OPEN before it has noticed that its own connection is up ("unexpected packet
/// received", notification 5/0), and then doubles the time until its next connect, up to a minute and more. When both
/// ends share a slow machine this happens sometimes; 9 and later do not have this bug.
pub fn reconnect_speaker() {
    if frr_is_8() && !session("speaker", "default", "fda1:b2c3:d4e5:1::").is_empty() {
        wait_until("the speaker's BGP session", SOON, || {
            let up = session("speaker", "default", "fda1:b2c3:d4e5:1::") == "Established";
            if !up {
                vtysh("speaker", "clear bgp *");
                thread::sleep(Duration::from_secs(3));
            }
            up
        });
    }
}

/// Waits until all sessions are up. A route on a leaf may still be that of an earlier instance, and with its timers
/// BFD takes longer to come up than BGP.
pub fn settle() {
    for (router, peer) in [("leaf1", "node"), ("leaf2", "node"), ("speaker", "fda1:b2c3:d4e5:1::")] {
        let up = || session(router, "default", peer) == "Established";
        wait_until(&format!("{router}'s BGP session"), SOON, up);
    }
    for leaf in ["leaf1", "leaf2"].into_iter().filter(|leaf| frr_dir(leaf).join("bfdd.vty").exists()) {
        wait_until(&format!("{leaf}'s BFD session"), SOON, || {
            let peers = show(leaf, "bfdd", "show bfd peers json");
            peers.as_array().is_some_and(|p| !p.is_empty() && p.iter().all(|p| p["status"] == "up"))
        });
    }
}

pub fn both_leaves_have(prefix: &str) {
    reconnect_speaker();
    for leaf in ["leaf1", "leaf2"] {
        wait_until(&format!("{prefix} on {leaf}"), SOON, || has_route(leaf, prefix));
    }
}

/// A leaf's zebra may miss a link flap as short as that of a NIC that is reset or moved, although the leaf's kernel has
/// dropped the routes over it (seen with 10.3). This flap is long enough for zebra to notice it.
pub fn flap(leaves: &[&str]) {
    for state in ["down", "up"] {
        leaves.iter().for_each(|leaf| drop(ip(leaf, &format!("link set node {state}"))));
        thread::sleep(Duration::from_secs(1));
    }
    both_leaves_have(&format!("{SERVICE4}/32"));
    settle();
}

/// Sends a signal to the named daemons of the node, or to all of them if the list is empty.
pub fn signal_daemons(lab: &Lab, ns: &str, names: &[&str], signal: Signal) {
    for (name, pid) in daemons(lab, ns) {
        if names.is_empty() || names.contains(&name.as_str()) {
            let pid = Pid::from_raw(pid.cast_signed()).expect("a process has a number");
            let _ = kill_process(pid, signal);
        }
    }
}

/// The daemons of the node: those in `ns` that are not the speaker's.
pub fn daemons(lab: &Lab, ns: &str) -> BTreeSet<(String, u32)> {
    let speaker = |name: &str| lab.speaker.as_ref().and_then(|s| s.pid(name));
    let all = Lab::processes(ns).into_iter().map(|(pid, name)| (name, pid));
    all.filter(|(name, pid)| daemon(name).exists() && speaker(name) != Some(*pid)).collect()
}

/// Adds routes as FRR installs those of the fabric: `count` in each family, through the first leaf.
pub fn learn_routes(ns: &str, count: usize) {
    let via = "fe80::fa:b0ff:fe00:102";
    let route = |n: usize| {
        let (a, b) = (n >> 8, n & 255);
        format!(
            "route add 10.{}.{}.{b}/32 via inet6 {via} dev eth1 proto bgp metric 20\n\
             route add 2001:db8:f:{a:x}::{b:x}/128 via {via} dev eth1 proto bgp metric 20\n",
            a >> 8,
            a & 255
        )
    };
    let file = "/tmp/many-routes";
    must(file, std::fs::write(file, (0..count).map(route).collect::<String>()));
    ip(ns, &format!("-batch {file}"));
}
