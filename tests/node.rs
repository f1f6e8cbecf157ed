//! One node: real FRR on a real kernel, two leaves, MetalLB's stand-in and a client behind each leaf.
//! Run by `make test` inside the lab's kernel, see `tests/lab/run`.
#![allow(clippy::unwrap_used)]

mod lab;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::thread;
use std::time::Duration;

use lab::*;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

include!("backup.rs");
include!("bad.rs");
include!("carrier.rs");
include!("disk.rs");
include!("drift.rs");
include!("log.rs");
include!("many.rs");
include!("peers.rs");
include!("policy.rs");
include!("problems.rs");
include!("retention.rs");
include!("stop.rs");

/// From each client to each address, all at once.
fn every_ping_is_answered(addresses: &[&str], count: u32) {
    pings(&["client1", "client2"], addresses, count);
}

fn pings(clients: &[&str], addresses: &[&str], count: u32) {
    thread::scope(|scope| {
        for client in clients {
            for address in addresses {
                scope.spawn(move || {
                    // The first one resolves neighbours.
                    wait_until(&format!("{address} answers {client}"), SOON, || {
                        ping(client, address, 1, 10).1 == 1
                    });
                    assert_eq!(ping(client, address, count, 2), (count, count), "{client} to {address}");
                });
            }
        }
    });
}

/// Without MetalLB there are the NICs and the sessions with the leaves. What an earlier start has built for MetalLB is
/// removed.
#[test]
fn a_node_may_have_no_link_to_metallb() {
    let lab = Lab::new(Options::default());
    for metallb in ["false", "true", "false"] {
        let mut node = start(&lab, &[("METALLB", metallb)]);
        node.wait_log(DAEMONS_ANSWER, SOON);
        wait_until("a healthy node", SOON, || status()["health"] == "healthy");
        let is_there = [("perouter", "metallb"), ("perouter", "frr-metallb"), ("host", "metallb-frr")]
            .map(|(ns, name)| ip(ns, "-o link show").contains(&format!(": {name}")));
        assert_eq!(is_there, [metallb == "true"; 3]);
        assert_eq!(ip("host", "route show proto 200").is_empty(), metallb == "false");
        let running = vtysh("node", "show running-config");
        assert_eq!(running.to_lowercase().contains("metallb"), metallb == "true", "{running}");
        assert_eq!(status()["bgp"].as_array().unwrap().len(), if metallb == "true" { 3 } else { 2 });
        let (ended, _) = node.terminate();
        assert!(ended.success(), "{ended}");
    }
}

#[test]
fn perouter_and_a_second_start() {
    let lab = Lab::new(Options::default());
    // As from a leaf's router advertisement where these are accepted.
    ip("host", "-6 route add default via fe80::1 dev eth1 proto ra metric 1024");
    let before = settled("host");
    let mut node = up(&lab, &[]);
    every_ping_is_answered(&SERVICES, 1000);

    // The host has lost its two NICs, and has the veth end and the routes through it; nothing else is different.
    let after = snapshot("host");
    for line in difference(&before, &after).lines() {
        let known = ["eth1", "eth2", "metallb-frr", "fda1:b2c3:d4e5:1:", "169.254.88."];
        assert!(known.iter().any(|k| line.contains(k)), "{line}");
    }
    let links = ip_json("perouter", "-d link show");
    let link = |name: &str| links.as_array().unwrap().iter().find(|l| l["ifname"] == name).unwrap().clone();
    assert_eq!(link("metallb")["linkinfo"]["info_data"]["table"], 88);
    assert_eq!(link("frr-metallb")["master"], "metallb");
    for name in ["metallb", "frr-metallb", "eth1", "eth2"] {
        assert_eq!(link(name)["group"], "4242", "{name}");
        assert!(link(name)["ifalias"].as_str().unwrap().starts_with("frr-supervisor"), "{name}");
    }

    // Its memory is within the documented limit.
    let [rss, own] = ["VmRSS", "RssAnon"].map(|name| number_of(&format!("/proc/{}", node.pid()), name));
    println!("idle RSS {rss} kB, {own} of it its own data");
    assert!(rss <= 4224.0 && own <= 768.0, "{rss} kB, {own}");

    // SIGTERM ends all processes; the state of the kernel stays.
    let here = settled("perouter");
    let flows = flows();
    let (status, seconds) = node.terminate();
    assert!(status.success(), "{status}");
    println!("ended {seconds:.1} s after SIGTERM");
    assert!(seconds < 30.0, "{seconds} s");
    assert_eq!(Lab::processes("perouter"), []);
    assert_eq!(difference(&here, &snapshot("perouter")), "");
    every_ping_is_answered(&SERVICES, 20);

    // A second start over the same devices changes no link.
    let monitors = ["host", "perouter"].map(link_monitor);
    let node = up(&lab, &[]);
    node.wait_log("devices: nothing to change", SOON);
    every_ping_is_answered(&SERVICES, 20);
    for (name, flow) in flows {
        let loss = flow.stop();
        println!("over the restart, {name}: sent {}, lost {}", loss.sent, loss.lost);
    }
    for monitor in monitors {
        assert_eq!(monitor.events(), []);
    }
}

#[test]
fn in_the_hosts_namespace_replies_may_leave_by_another_leaf() {
    let lab = Lab::new(Options { interleaf: true, ..Options::default() });
    for nic in ["eth1", "eth2"] {
        sysctl("host", &format!("net/ipv4/conf/{nic}/rp_filter"), "1");
    }
    let _node = up(&lab, &[("NETNS", "host")]);
    let by_leaf2 = |client| {
        let via = "fe80::fa:b0ff:fe00:202 dev eth2 proto 202 metric 1";
        ip("host", &format!("route replace {} via inet6 {via} onlink", CLIENT_NET4[client]));
        ip("host", &format!("-6 route replace {} via {via}", CLIENT_NET6[client]));
    };
    by_leaf2(0);
    every_ping_is_answered(&SERVICES, 20);
    // With an address the check becomes loose, and overrides a strict one of conf/all.
    ip("host", "addr add 192.0.2.200/32 dev eth1");
    sysctl("host", "net/ipv4/conf/all/rp_filter", "1");
    let value = || exec("host", &["cat", "/proc/sys/net/ipv4/conf/eth1/rp_filter"]);
    wait_until("a loose check", SOON, || value().trim() == "2");
    every_ping_is_answered(&SERVICES, 20);
}

#[test]
fn host_mode_with_an_anycast_address() {
    let lab = Lab::new(Options::default());
    ip_batch(
        "host",
        "link add dummy1 type dummy\nlink set dummy1 up\naddr add 10.0.0.100/32 dev dummy1\naddr add 2001:db8:a::100/128 dev dummy1 nodad\n",
    );
    // As on Talos: a leaf's advertisement makes a default route, until the NIC is a port of the node.
    let advertised = || ip("host", "-6 route show default proto ra");
    for nic in ["eth1", "eth2"] {
        sysctl("host", &format!("net/ipv6/conf/{nic}/accept_ra"), "2");
        ip_batch("host", &format!("link set {nic} down\nlink set {nic} up\n"));
    }
    wait_until("the leaves' advertisements", SOON, || advertised().contains("eth1"));
    // A NIC without a link-local address from the kernel, as with a network daemon that makes its own.
    ip_batch("host", "link set eth2 down\nlink set eth2 addrgenmode none\nlink set eth2 up\n");
    assert!(!ip("host", "-6 addr show dev eth2").contains("fe80:"));
    let before = settled("host");
    let _node = up(&lab, &[("NETNS", "host")]);
    assert_eq!(advertised(), "");
    assert!(ip("host", "-6 addr show dev eth2").contains("fe80:"));
    let anycast = ["10.0.0.100", "2001:db8:a::100"];
    both_leaves_have("10.0.0.100/32");
    both_leaves_have("2001:db8:a::100/128");
    both_leaves_have(&format!("{NODE_IP}/32"));
    every_ping_is_answered(&[SERVICES, anycast].concat(), 1000);
    // The leaves advertise themselves every few seconds.
    assert_eq!(advertised(), "");
    // Routes from the fabric name NODE_IP as their source.
    let route = wait_until("a route from the fabric", SOON, || {
        let routes = ip_json("host", "-4 route show proto bgp");
        routes.as_array().unwrap().iter().find(|r| r["dst"] == SHARED_NET4).cloned()
    });
    assert_eq!(route["prefsrc"], NODE_IP);
    // The node announces no route of one leaf to the other.
    assert!(!has_route("leaf2", CLIENT_NET4[0]));
    // Existing links and addresses are unchanged, except for the one that got an address.
    let removed = |line: &&str| line.starts_with("- ") && !line.starts_with("- addr \"eth2\"");
    for line in difference(&before, &snapshot("host")).lines().filter(removed) {
        assert!(!line.starts_with("- addr") && !line.starts_with("- link"), "{line}");
    }
    // Two zebras in one namespace use the same next hop IDs, so a route with an ID would get a wrong next hop. Not even
    // the routes before zebra has its configuration, for which vtysh is needed, have an ID.
    let bgpd = || daemons(&lab, "host").into_iter().find(|(name, _)| name == "bgpd");
    let old = bgpd();
    exec("", &["mount", "--bind", "/dev/null", "/usr/bin/vtysh"]);
    signal_daemons(&lab, "host", &["zebra"], Signal::KILL);
    wait_until("a new bgpd with the fabric's routes", SOON, || {
        bgpd().is_some_and(|new| Some(new) != old) && CLIENT_NET6.iter().all(|net| has_route("node", net))
    });
    thread::sleep(Duration::from_secs(1));
    for version in ["-4", "-6"] {
        let routes = ip("host", &format!("{version} route show table all proto bgp"));
        assert!(!routes.is_empty() && !routes.contains("nhid"), "{routes}");
    }
    exec("", &["umount", "/usr/bin/vtysh"]);
}

#[test]
fn ipv4_over_ipv6_with_passwords_and_an_allow_list() {
    let speaker = Speaker { password: Some("s3cret".into()), ..Speaker::default() }.extended_nexthop();
    let leaf_extra = |asn| {
        format!(
            "router bgp {asn}\n neighbor node password f4bric\n neighbor node ttl-security hops 1\nexit\n"
        )
    };
    let lab = Lab::new(Options { speaker: Some(speaker), ..Options::default() });
    for (leaf, asn) in lab.leaves.iter().zip(LEAF_ASN) {
        leaf.configure(&leaf_extra(asn)).unwrap();
    }
    let _node = up(
        &lab,
        &[
            ("PEER_IPV4_FRR", "none"),
            ("METALLB_PASSWORD", "s3cret"),
            ("FABRIC_PASSWORD", "f4bric"),
            ("FABRIC_TTL_SECURITY", "true"),
            ("FABRIC_MAX_PREFIXES", "1000"),
            ("METALLB_ALLOWED_PREFIXES", "198.51.100.0/24,2001:db8:100::/64"),
        ],
    );
    every_ping_is_answered(&SERVICES, 1000);
    // A prefix outside the list stays on the node, one inside is announced.
    lab.announce("203.0.113.200/32");
    lab.announce("198.51.100.101/32");
    both_leaves_have("198.51.100.101/32");
    assert!(!has_route("leaf1", "203.0.113.200/32"));
    lab.withdraw("198.51.100.101/32");
    wait_until("the route to be withdrawn", SOON, || !has_route("leaf1", "198.51.100.101/32"));
}

#[test]
fn a_dead_daemon_is_restarted_in_place() {
    // A new zebra learns its peers from router advertisements, and these leaves send one every half hour if not
    // solicited.
    let leaf_extra = "interface node\n ipv6 nd ra-interval 1800\nexit\n".into();
    let lab = Lab::new(Options { leaf_extra, ..Options::default() });
    let node = up(&lab, &[]);
    let complete = |node: &Supervisor| node.log().iter().filter(|(_, l)| l.contains(DAEMONS_ANSWER)).count();
    let ends = |leaf: &Router| leaf.log_text().matches(" in vrf default Down").count();
    let before_all = lab.leaves.each_ref().map(ends);
    for name in ["bgpd", "zebra", "bfdd", "staticd", "mgmtd"] {
        let (ready, before) = (complete(&node), daemons(&lab, "perouter"));
        let running = || vty("node", name, "show running-config").unwrap_or_default();
        let config = running();
        // FRR 8.4 has no mgmtd.
        let Some((_, pid)) = before.iter().find(|(n, _)| n == name) else { continue };
        kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
        wait_until(&format!("{name} to be restarted"), SOON, || complete(&node) > ready);
        let after = daemons(&lab, "perouter");
        assert_eq!(after.len(), before.len(), "{after:?}");
        assert!(!after.contains(&(name.into(), *pid)));
        // bfdd gets its peers when it has its configuration.
        wait_until(&format!("the configuration of {name}"), SOON, || running() == config);
        for leaf in ["leaf1", "leaf2"] {
            wait_until(&format!("{leaf}'s session after the kill of {name}"), SOON, || {
                session(leaf, "default", "node") == "Established"
            });
        }
        both_leaves_have(&format!("{SERVICE4}/32"));
    }
    every_ping_is_answered(&SERVICES, 20);
    wait_until("all connects to be allowed again", SOON, || {
        !ip("perouter", "-6 rule show").contains("8799:")
    });
    // bgpd exits or is restarted with three of them, and each time a leaf's session ends once: over a second end the
    // leaf would keep no routes.
    if !frr_is_8() {
        assert_eq!(lab.leaves.each_ref().map(ends), before_all.map(|n| n + 3));
    }
    // A daemon whose socket file was removed works, but other daemons cannot connect to it any more.
    let before = daemons(&lab, "perouter");
    for what in ["/run/frr/sockets/*", "/run/frr/sockets"] {
        let from = node.log().len();
        exec("", &["sh", "-c", &format!("rm -rf {what}")]);
        for socket in ["bgpd.vty", "zserv.api"] {
            node.wait_log_after(from, socket, SOON);
        }
        wait_until("bgpd's answer", SOON, || vty("node", "bgpd", "show version").is_ok());
    }
    thread::sleep(Duration::from_secs(8));
    assert_eq!(daemons(&lab, "perouter"), before, "none is restarted for that");
    let ready = complete(&node);
    signal_daemons(&lab, "perouter", &["bgpd"], Signal::KILL);
    wait_until("bgpd to be restarted", SOON, || complete(&node) > ready);
    settle();
    every_ping_is_answered(&SERVICES, 5);
    // If the kept sockets are removed, too, the daemons are restarted, and the log has the reason.
    let (from, ready) = (node.log().len(), complete(&node));
    exec("", &["sh", "-c", "rm -rf /run/frr/sockets /run/frr/kept-sockets"]);
    node.wait_log_after(from, "its socket /run/frr/sockets/", SOON);
    wait_until("all to be restarted", SOON, || {
        complete(&node) > ready && daemons(&lab, "perouter").len() == before.len()
    });
    settle();
    every_ping_is_answered(&SERVICES, 5);
    let zombies = exec("", &["sh", "-c", "ps -eo stat= | grep -c ^Z || true"]);
    assert_eq!(zombies.trim(), "0");
}

#[test]
fn no_packet_is_lost_when_daemons_are_killed() {
    no_packet_is_lost(&[], &[KILLS[2], KILLS[6]]);
}

#[test]
fn no_packet_is_lost_when_only_bgpd_is_killed() {
    no_packet_is_lost(&[], &[KILLS[0]]);
}

#[test]
fn no_packet_is_lost_in_the_hosts_namespace() {
    no_packet_is_lost(&[("NETNS", "host")], &[KILLS[0], KILLS[1]]);
}

#[test]
fn no_packet_is_lost_when_the_container_is_killed() {
    no_packet_is_lost(&[], &[Cell::Everything]);
}

/// A busy leaf notices late that bgpd has exited, and gets no BFD AdminDown before.
#[test]
fn a_busy_leaf_keeps_its_routes_when_bfdd_is_killed() {
    let lab = Lab::new(Options::default());
    let node = Runner::new(&lab, &[]);
    let flows = flows();
    let leaves = lab.leaves.each_ref().map(|leaf| leaf.pid("bgpd").unwrap());
    let read_connections_last = |policy: &str| {
        for leaf in leaves {
            for task in
                std::fs::read_dir(format!("/proc/{leaf}/task")).unwrap().map(|task| task.unwrap().path())
            {
                if std::fs::read_to_string(task.join("comm")).unwrap().trim() == "bgpd_io" {
                    exec("", &["chrt", policy, "--pid", "0", task.file_name().unwrap().to_str().unwrap()]);
                }
            }
        }
    };
    let signal = |signal| {
        leaves
            .iter()
            .for_each(|leaf| kill_process(Pid::from_raw(leaf.cast_signed()).unwrap(), signal).unwrap());
    };
    read_connections_last("--idle");
    signal(Signal::STOP);
    node.kill(&["bfdd"]);
    thread::sleep(Duration::from_millis(1500));
    let supervisor = node.node.as_ref().unwrap();
    assert!(!supervisor.log_text().contains("BFD AdminDown sent"), "{}", supervisor.log_text());
    signal(Signal::CONT);
    thread::sleep(Duration::from_millis(100));
    read_connections_last("--other");
    supervisor.wait_log("BFD AdminDown sent to 2 peers", SOON);
    thread::sleep(Duration::from_secs(15));
    let result = Cost::of(flows);
    println!("SIGKILL bfdd, busy leaves: {result}");
    assert_eq!(result.lost, 0, "{result}");
}

fn no_packet_is_lost(extra: &[(&str, &str)], cells: &[Cell]) {
    let lab = Lab::new(Options::default());
    let mut node = Runner::new(&lab, extra);
    let ns = if extra.is_empty() { "perouter" } else { "host" };
    let routes = RouteLog::start(&[ns, "leaf1", "leaf2"]);
    every_ping_is_answered(&SERVICES, 20);
    let mut lost = Vec::new();
    for cell in cells {
        let result = node.run(cell);
        println!("{cell}: {result}\n{}", routes.explain(&result, &node));
        lost.extend((result.lost > 0).then(|| format!("{cell}: {result}")));
    }
    assert_eq!(lost, Vec::<String>::new());
    // After the restart time no backup route is left.
    wait_until("the backup routes to be removed", SOON, || {
        ["-4", "-6"].iter().all(|v| ip(ns, &format!("{v} route show table all proto 201")).trim().is_empty())
    });
}

/// Runs the program to its end, which must be a failure that changed nothing. Returns its log.
fn refused(lab: &Lab, extra: &[(&str, &str)]) -> String {
    let before = settled("host");
    let mut node = start(lab, extra);
    let status = node.wait_end(SOON);
    assert!(!status.success(), "{extra:?}\n{}", node.log_text());
    assert_eq!(difference(&before, &snapshot("host")), "", "{extra:?}");
    wait_until("its last log line", SOON, || node.log().iter().any(|(_, line)| line.contains("ERROR")));
    node.log_text()
}

#[test]
fn bad_configurations_change_nothing() {
    let lab = Lab::new(Options { speaker: None, ..Options::default() });
    let before = settled("host");
    for (name, value) in BAD {
        let mut node = start(&lab, &[(name, value)]);
        assert!(!node.wait_end(SOON).success(), "{name}={value:?}");
        wait_until("its log line", SOON, || !node.log().is_empty());
        let log = node.log();
        assert_eq!(log.len(), 1, "{name}={value:?}: {log:?}");
        assert!(log[0].1.contains(name), "{log:?}");
    }
    assert_eq!(difference(&before, &snapshot("host")), "");
    assert_eq!(names("/run/netns").iter().filter(|n| *n == "perouter").count(), 0);
}

#[test]
fn a_nic_that_carries_the_node_is_not_moved() {
    let lab = Lab::new(Options { speaker: None, ..Options::default() });
    ip_batch("host", "addr add 192.0.2.77/24 dev eth1\nroute add default via 192.0.2.1 dev eth1\n");
    let log = refused(&lab, &[("NODE_IP", "192.0.2.77")]);
    for word in ["eth1", "default route via 192.0.2.1", "NODE_IP 192.0.2.77", "UNDERLAY_FORCE_MOVE=true"] {
        assert!(log.contains(word), "{word}: {log}");
    }
    ip("host", "link add link eth2 name eth2.5 type vlan id 5");
    assert!(refused(&lab, &[]).contains("its upper link eth2.5"));
    ip("host", "link del eth2.5");

    let mut node = start(&lab, &[("NODE_IP", "192.0.2.77"), ("UNDERLAY_FORCE_MOVE", "true")]);
    node.wait_log(DAEMONS_ANSWER, SOON);
    assert!(ip("perouter", "addr show eth1").contains("192.0.2.77/24"));
    node.terminate();
    // When FE_MACS no longer names it, it returns to the host's namespace with its addresses.
    let _node = start(&lab, &[("FE_MACS", MACS[1])]);
    wait_until("eth1 in the host's namespace", SOON, || {
        try_exec("host", &["ip", "addr", "show", "eth1"]).is_ok_and(|s| s.contains("192.0.2.77/24"))
    });
}

#[test]
fn nics_are_found_by_their_address() {
    let lab = Lab::new(Options { speaker: None, ..Options::default() });
    let none = "02:00:00:00:00:99";
    let log = refused(&lab, &[("FE_MACS", none), ("FE_TIMEOUT", "1")]);
    assert!(
        log.contains(none) && log.contains("eth1 02:fa:b0:00:01:01") && log.contains("FE_TIMEOUT"),
        "{log}"
    );

    ip("host", &format!("link add twin address {} type veth peer name twin2", MACS[0]));
    let log = refused(&lab, &[]);
    assert!(log.contains("2 interfaces have this address: eth1") && log.contains("twin"), "{log}");
    ip("host", "link del twin");

    // An interface that can't be moved is refused before anything is changed, whether it is given by its address or by
    // its name.
    ip_batch(
        "host",
        "link add bond0 type bond mode active-backup\nlink set eth1 down\nlink set eth1 master bond0\n",
    );
    ip_batch("host", &format!("link set bond0 address {} up\n", MACS[0]));
    let log = refused(&lab, &[]);
    for word in ["bond0", MACS[0], "is a bond", "remove eth1 from it", "FE_MACS", "NETNS=host"] {
        assert!(log.contains(word), "{word}: {log}");
    }
    ip_batch("host", "link del bond0\nlink set eth1 up\nlink add br0 type bridge\nlink set br0 up\n");
    let file = "/tmp/bridge.yaml";
    std::fs::write(
        file,
        "underlay:\n  interfaces:\n  - {type: NetworkDevice, networkDevice: {interfaceName: br0}}\n",
    )
    .unwrap();
    let log = refused(&lab, &[("CONFIG_FILE", file)]);
    assert!(log.contains("br0 (br0) is a bridge") && log.contains("NETNS=host"), "{log}");
    ip("host", "link del br0");

    // A macvlan has the address, too, and is no NIC; a NIC may appear late.
    ip("host", &format!("link add link eth1 name copy address {} type macvlan mode bridge", MACS[0]));
    let late = "02:00:00:00:00:42";
    let macs = format!("{},{late}", MACS[0]);
    let node = start(&lab, &[("NETNS", "host"), ("FE_MACS", &macs)]);
    node.wait_log("; waiting for ", SOON);
    ip("host", &format!("link add late address {late} type veth peer name other"));
    node.wait_log(&format!("{late} is late"), SOON);
    node.wait_log(&format!("{} is eth1", MACS[0]), SOON);
}

#[test]
fn another_namespace_takes_everything_over() {
    // With a second link-local address BGP and BFD may choose different ones.
    let lab = Lab::new(Options { bfd: None, ..Options::default() });
    ip_batch("host", "addr add 192.0.2.77/32 dev eth1\naddr add fe80::77/64 dev eth1 nodad\n");
    let mut node = up(&lab, &[("ENABLE_BFD", "false")]);
    let eth1 = ip("perouter", "addr show eth1");
    assert!(eth1.contains("192.0.2.77/32") && eth1.contains("fe80::77/64"), "{eth1}");
    // The state is checked after each change, and none of these is drift.
    assert!(!node.log_text().contains("repaired in"), "{}", node.log_text());
    node.terminate();
    // A program with rights in a namespace can write any mark on its links. A pod's link does not get into the host's
    // namespace, nor does one that was not moved, and the host's own link gets no address.
    let mark = |n: u8| format!("alias \"frr-supervisor nic 198.51.100.{n}/32\" group 4242");
    ip_batch("", "netns add cni-1\n");
    ip_batch(
        "cni-1",
        &format!(
            "link add pod type veth peer name podhost netns host\nlink set pod address {} {}\n",
            MACS[0],
            mark(7)
        ),
    );
    ip_batch(
        "perouter",
        &format!("link add fake type veth peer name fake2\nlink set fake address {} {}\n", MACS[1], mark(8)),
    );
    ip_batch("host", &format!("link add back type dummy\nlink set back up {}\n", mark(9)));
    let mut node = up(&lab, &[("NETNS", "host"), ("ENABLE_BFD", "false")]);
    assert!(ip("cni-1", "link show").contains("pod@") && ip("perouter", "link show").contains("fake@"));
    let host = ip("host", "addr show");
    assert!(
        !["pod@", "fake@", "198.51.100.7/32", "198.51.100.8/32", "198.51.100.9/32"]
            .iter()
            .any(|w| host.contains(w)),
        "{host}"
    );
    ip("", "netns del cni-1");
    ip("perouter", "link del fake");
    ip("host", "link del back");
    flap(&["leaf1", "leaf2"]);
    every_ping_is_answered(&SERVICES, 20);
    let eth1 = ip("host", "-d addr show eth1");
    assert!(["192.0.2.77/32", "fe80::77/64"].iter().all(|net| eth1.contains(net)), "{eth1}");
    assert!(!eth1.contains("frr-supervisor"), "{eth1}");
    assert!(!ip("host", "route show table all").contains("proto 200"));
    node.terminate();
    let _node = up(&lab, &[("ENABLE_BFD", "false")]);
    flap(&["leaf1", "leaf2"]);
    every_ping_is_answered(&SERVICES, 20);
}

#[test]
fn an_instance_that_was_killed_is_replaced_by_the_next_start() {
    let lab = Lab::new(Options::default());
    let mut node = up(&lab, &[]);
    let before = daemons(&lab, "perouter");
    node.kill9();
    assert_eq!(daemons(&lab, "perouter"), before);
    let node = up(&lab, &[]);
    node.wait_log("killing bgpd", SOON);
    let after = daemons(&lab, "perouter");
    assert!(after.len() == before.len() && after.is_disjoint(&before), "{before:?} {after:?}");
    every_ping_is_answered(&SERVICES, 20);
}

#[test]
fn a_broken_template_leaves_the_last_configuration_active() {
    let lab = Lab::new(Options { speaker: None, ..Options::default() });
    std::fs::write("/run/own.j2", "router bgp {{ asn }}\n bgp no-such-thing\n").unwrap();
    let log = refused(&lab, &[("FRR_TEMPLATE", "/run/own.j2")]);
    assert!(log.contains("vtysh refuses the configuration: line 2: % Unknown command: bgp"), "{log}");
    // FRR itself accepts a configuration that ends early, and reads no further.
    for end in ["exit\n", "quit\nquit\n"] {
        std::fs::write("/run/short.j2", format!("log stdout\n{end}router bgp {{{{ asn }}}}\n")).unwrap();
        let log = refused(&lab, &[("FRR_TEMPLATE", "/run/short.j2")]);
        assert!(log.contains("ends the configuration") && log.contains("reads no further"), "{log}");
    }
    let log = refused(&lab, &[("FRR_TEMPLATE", "/run/none.j2")]);
    assert!(log.contains("FRR_TEMPLATE=/run/none.j2: No such file"), "{log}");
    start(&lab, &[]).wait_log(DAEMONS_ANSWER, SOON);
    let config = std::fs::read_to_string("/run/frr/frr.conf").unwrap();
    let node = start(&lab, &[("FRR_TEMPLATE", "/run/own.j2"), ("LIVENESS_TIMEOUT", "30")]);
    node.wait_log("the previous configuration stays active", SOON);
    node.wait_log(DAEMONS_ANSWER, SOON);
    assert_eq!(std::fs::read_to_string("/run/frr/frr.conf").unwrap(), config);
    // A valid template becomes active without a restart.
    let better = include_str!("../templates/frr.conf.j2")
        .replace(" bgp bestpath", " bgp listen limit 77\n bgp bestpath");
    std::fs::write("/run/own.j2", better).unwrap();
    wait_until("the new template", SOON, || {
        let from = node.log().len();
        node.signal(Signal::HUP);
        node.wait_log_after(from, "active", SOON).contains("is active")
    });
    assert!(vty("node", "bgpd", "show running-config").unwrap().contains("bgp listen limit 77"));
    // A template of which the next start would read only a part does not become active.
    let better = std::fs::read_to_string("/run/own.j2").unwrap();
    std::fs::write("/run/own.j2", better.replace("limit 77", "limit 78").replacen("!\n", "exit\n", 1))
        .unwrap();
    let from = node.log().len();
    node.signal(Signal::HUP);
    node.wait_log_after(from, "\"exit\" ends the configuration, and FRR reads no further", SOON);
    node.wait_log_after(from, "the previous configuration stays active", SOON);
    assert!(vty("node", "bgpd", "show running-config").unwrap().contains("bgp listen limit 77"));
    assert!(!node.log_text().contains("exited (pid"));
}

#[test]
fn the_log_can_be_json() {
    let lab = Lab::new(Options { speaker: None, ..Options::default() });
    let node = start(&lab, &[("LOG_FORMAT", "json")]);
    node.wait_log(DAEMONS_ANSWER, SOON);
    let lines: Vec<serde_json::Value> =
        node.log().iter().map(|(_, line)| serde_json::from_str(line).expect(line)).collect();
    assert!(lines.iter().all(|l| l["time"].is_string() && l["level"].is_string() && l["msg"].is_string()));
    assert!(lines.iter().any(|l| l["daemon"] == "bgpd"));
}

#[test]
fn a_stale_namespace_file_is_repaired() {
    let lab = Lab::new(Options { speaker: None, ..Options::default() });
    let path = "/run/netns/perouter";
    let mount = |from: &str| {
        std::fs::write(path, "").unwrap();
        exec("", &["mount", "--bind", from, path]);
    };
    let clean = || {
        let _ = rustix::mount::unmount(path, rustix::mount::UnmountFlags::NOFOLLOW);
        let _ = std::fs::remove_file(path).or_else(|_| std::fs::remove_dir(path));
    };
    // A namespace that the program does not manage is not changed.
    let mut other = Command::new("unshare").args(["-n", "sleep", "600"]).spawn().unwrap();
    let of_other = format!("/proc/{}/ns/net", other.id());
    let own =
        std::fs::metadata("/proc/self/ns/net").map(|m| std::os::unix::fs::MetadataExt::ino(&m)).unwrap();
    wait_until("a namespace of another program", SOON, || {
        std::fs::metadata(&of_other).is_ok_and(|m| std::os::unix::fs::MetadataExt::ino(&m) != own)
    });
    let pid = other.id().to_string();
    for (what, words) in [
        ("link", ["is a symbolic link", "NETNS"]),
        ("dangling", ["is a symbolic link", "NETNS"]),
        ("directory", ["is a directory", "NETNS"]),
        ("/proc/self/ns/uts", ["a namespace of another type", "umount /run/netns/perouter"]),
        ("/run/netns/host", ["the host's own network namespace", "NETNS=host"]),
        (
            "/run/netns/client1",
            ["network namespace of another program: it is also mounted as \"client1\"", "umount"],
        ),
        (of_other.as_str(), ["network namespace of another program: ", &format!("(pid {pid}) runs in it")]),
    ] {
        match what {
            "link" => std::os::unix::fs::symlink("/run/netns/client1", path).unwrap(),
            "dangling" => std::os::unix::fs::symlink("/run/nowhere", path).unwrap(),
            "directory" => std::fs::create_dir(path).unwrap(),
            from => mount(from),
        }
        let before = settled("client1");
        let log = refused(&lab, &[]);
        assert!(words.iter().all(|word| log.contains(word)), "{what}: {log}");
        assert_eq!(difference(&before, &snapshot("client1")), "");
        clean();
    }
    assert!(!std::fs::exists("/run/nowhere").unwrap());
    let _ = other.kill();
    let _ = other.wait();

    std::fs::write(path, "").unwrap();
    let node = start(&lab, &[]);
    node.wait_log("nothing was mounted at its file", SOON);
    node.wait_log(DAEMONS_ANSWER, SOON);
    // A symbolic link in its place is replaced: the namespace is mounted again.
    rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH).unwrap();
    std::fs::remove_file(path).unwrap();
    std::os::unix::fs::symlink("/run/nowhere", path).unwrap();
    node.wait_log("mounted it under its name again", SOON);
    assert!(!std::fs::exists("/run/nowhere").unwrap());
}

#[test]
fn a_conflicting_unmanaged_device_is_reported() {
    let lab = Lab::new(Options { speaker: None, ..Options::default() });
    ip("host", "link add metallb-frr type dummy");
    let log = refused(&lab, &[]);
    assert!(log.contains("interface metallb-frr exists and was not created by frr-supervisor"), "{log}");
    ip("host", "link del metallb-frr");
    // Another VRF has the table of a managed one: zebra exits, and each restarted zebra would exit, too.
    let foreign = "link add foo type vrf table 88\nlink set foo up\n";
    for ns in ["perouter", "host"] {
        let mut node = start(&lab, &[("NETNS", ns)]);
        node.wait_log(DAEMONS_ANSWER, SOON);
        let up = || ["leaf1", "leaf2"].iter().all(|leaf| session(leaf, "default", "node") == "Established");
        wait_until("the sessions", SOON, up);
        let from = node.log().len();
        ip_batch(ns, foreign);
        let (after, problem) = await_problem(&node, "device-broken", from);
        println!("a VRF with the table of a managed one: reported after {} ms", after.as_millis());
        let what = problem["what"].as_str().unwrap();
        assert!(
            what.starts_with(
                "VRF foo, which frr-supervisor does not manage, uses routing table 88 of VRF metallb"
            ),
            "{problem}"
        );
        // Longer than three starts in a crash loop.
        thread::sleep(Duration::from_secs(4));
        let others = problems();
        let misleading = ["daemon-crash-loop", "daemon-down", "session-down"];
        assert!(!others.iter().any(|code| misleading.contains(&code.as_str())), "{others:?}");
        let ends = node.log()[from..].iter().filter(|(_, line)| line.contains("zebra exited (pid")).count();
        assert!((1..=2).contains(&ends), "zebra ended {ends} times");
        // Managed devices are repaired nevertheless.
        ip(ns, "link set metallb down");
        wait_until("the managed VRF", SOON, || !ip(ns, "link show dev metallb").contains("state DOWN"));
        ip(ns, "link del foo");
        await_end(&node, &problem);
        node.wait_log_after(from, DAEMONS_ANSWER, SOON);
        wait_until("the sessions again", SOON, up);
        node.terminate();
    }
}

#[test]
fn a_kernel_without_vrf_is_reported_with_the_remedy() {
    let lab = Lab::new(Options { speaker: None, ..Options::default() });
    // As on Talos 1.14: the module exists (here: LAB_WITHOUT=vrf) and is not loaded automatically.
    assert!(!std::path::Path::new("/sys/module/vrf").exists(), "run with LAB_WITHOUT=vrf");
    let modprobe = std::fs::read_to_string("/proc/sys/kernel/modprobe").unwrap();
    std::fs::write("/proc/sys/kernel/modprobe", "/bin/false").unwrap();
    let mut node = start(&lab, &[]);
    let status = node.wait_end(SOON);
    assert!(!status.success());
    let line = node.wait_log("create VRF metallb, table 88: ", SOON).1;
    assert!(
        line.contains("KernelModuleConfig, name: vrf") && line.contains("modules: [{name: vrf}]"),
        "{line}"
    );
    // A start that waits for the module reports the same meanwhile, and continues when the module is loaded.
    let node = start(&lab, &[("SETUP_TIMEOUT", "60")]);
    let (after, problem) = await_problem(&node, "setup-failed", 0);
    println!("setup-failed: reported after {} ms", after.as_millis());
    assert!(problem["what"].as_str().unwrap().contains("KernelModuleConfig"), "{problem}");
    assert_eq!((status_of("health"), status_of("phase")), ("down".into(), "failed".into()));
    std::fs::write("/proc/sys/kernel/modprobe", modprobe.trim()).unwrap();
    await_end(&node, &problem);
    node.wait_log(DAEMONS_ANSWER, SOON);
}

/// These tests need nf_tables, which user-mode Linux does not have.
mod connmark {
    use super::*;

    fn replies_return(options: Options) {
        let mgmt = options.mgmt;
        let lab = Lab::new(options);
        let _node = up(&lab, &[("RETURN_PATH", "connmark")]);
        every_ping_is_answered(&SERVICES, 200);
        if mgmt {
            assert_eq!(lab.mgmt_lost(), 0);
            assert_eq!(ping("host", MGMT_IP, 5, 10).1, 5);
            assert_eq!(ping("mgmt", NODE_IP, 5, 10).1, 5);
        }
    }

    #[test]
    fn with_a_management_default_route() {
        replies_return(Options { mgmt: true, ..Options::default() });
    }

    #[test]
    fn with_the_service_translated_to_a_pod() {
        replies_return(Options { mgmt: true, pod: true, ..Options::default() });
    }

    #[test]
    fn without_a_default_route() {
        replies_return(Options::default());
    }
}
