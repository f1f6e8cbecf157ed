//! VNIs between two nodes and a leaf, on real FRR and a real kernel. Run by `make test` inside the lab's kernel.
#![allow(clippy::unwrap_used)]

mod lab;

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use lab::*;
use rustix::process::{Pid, Signal, kill_process};

/// Every way that a packet can take: from a namespace to an address.
fn ways() -> Vec<(&'static str, &'static str)> {
    let mut ways = Vec::new();
    for (hosts, workloads, client) in [(HOST4, WORKLOAD4, CLIENT4[0]), (HOST6, WORKLOAD6, CLIENT6[0])] {
        ways.extend([
            ("host", hosts[1]),
            ("host2", hosts[0]),
            ("client1", hosts[0]),
            ("host2", client),
            ("w1", workloads[1]),
            ("w2", workloads[0]),
            ("w1", client),
            ("client1", workloads[1]),
            ("host", workloads[1]),
            ("w2", hosts[0]),
        ]);
    }
    // Where both ends of a session dial at once on a slow machine, 8.4 may not get over it: see `dial_again`.
    ways.retain(|(from, to)| {
        !frr_is_8() || !from.starts_with("host") && !HOST4.contains(to) && !HOST6.contains(to)
    });
    ways
}

fn every_way_is_open(count: u32) {
    for (from, to) in ways() {
        wait_until(&format!("{to} answers {from}"), Duration::from_secs(60), || ping(from, to, 1, 10).1 == 1);
    }
    thread::scope(|scope| {
        for (from, to) in ways() {
            scope.spawn(move || {
                assert_eq!(ping(from, to, count, 5), (count, count), "{from} to {to}");
            });
        }
    });
}

#[test]
fn packets_take_every_way_between_two_nodes() {
    let lab = Evpn::with(false, &vnis(false), &[("LIVENESS_TIMEOUT", "30")]);
    every_way_is_open(1000);
    // FRR dies of a VXLAN that it sees too soon (FRR issue 22851).
    for node in &lab.nodes {
        assert!(!node.log_text().contains("exited (pid"), "{}", node.log_text());
    }
}

/// Flows both ways between the hosts (by the routing domain) and the workloads (by the broadcast domain), and between a
/// workload and the external VRF.
fn flows() -> Vec<(String, Flow)> {
    let (mut flows, mut port) = (Vec::new(), 20000);
    for (hosts, workloads, client) in [(HOST4, WORKLOAD4, CLIENT4[0]), (HOST6, WORKLOAD6, CLIENT6[0])] {
        let ways = [
            (["host", "host2"], [hosts[0], hosts[1]]),
            (["w1", "w2"], [workloads[0], workloads[1]]),
            (["w1", "client1"], [workloads[0], client]),
        ];
        for (ends, addresses) in ways {
            for (from, to) in [(0, 1), (1, 0)] {
                port += 1;
                let source = addresses[from].parse().unwrap();
                let to_address = SocketAddr::new(addresses[to].parse().unwrap(), port);
                let flow = Flow::start(ends[from], Some(source), ends[to], to_address, RATE);
                flows.push((format!("{} → {}", addresses[from], addresses[to]), flow));
            }
        }
    }
    flows
}

/// What each flow lost while `what` was done and for 15 s after.
fn lost_while(what: &str, done: impl FnOnce()) -> u64 {
    let flows = flows();
    thread::sleep(Duration::from_secs(1));
    done();
    thread::sleep(Duration::from_secs(15));
    let losses: Vec<(String, Loss)> = flows.into_iter().map(|(name, flow)| (name, flow.stop())).collect();
    let sent: u64 = losses.iter().map(|(_, loss)| loss.sent).sum();
    let lost: u64 = losses.iter().map(|(_, loss)| loss.lost).sum();
    println!("{what}: sent {sent}, lost {lost}");
    for (name, loss) in losses.iter().filter(|(_, loss)| loss.lost > 0) {
        println!("  {name}: {loss}");
    }
    lost
}

#[test]
fn no_packet_is_lost_when_daemons_die() {
    let mut lab = Evpn::new(false);
    every_way_is_open(10);
    let every = std::env::var_os("LAB_EVERY").is_some();
    let all = &["mgmtd", "zebra", "staticd", "bfdd", "bgpd"][..];
    let mut lost = 0;
    for names in [&["bgpd"][..], &["zebra"], all, &["bfdd"], &["staticd"], &["mgmtd"], &["zebra", "bgpd"]]
        .into_iter()
        .take(if every { 7 } else { 3 })
    {
        let measure = || lost_while(&format!("SIGKILL {}", names.join("+")), || lab.kill(0, names));
        // A machine that has other things to do may stand still for longer than a daemon's start takes: what is lost
        // then is lost once, and what we don't prevent every time.
        lost += if every || measure() > 0 { measure() } else { 0 };
    }
    if every {
        lost += lost_while("SIGTERM the service, and a start", || lab.restart(Signal::TERM, &[]));
        lost += lost_while("SIGKILL the service, and a start", || lab.restart(Signal::KILL, &[]));
    }
    assert_eq!(lost, 0);
}

#[test]
fn packets_take_every_way_over_ipv6() {
    let _lab = Evpn::new(true);
    every_way_is_open(1000);
}

#[test]
fn a_workload_that_moves_answers_again() {
    let _lab = Evpn::new(false);
    every_way_is_open(10);
    for (from, to) in [(0, 1), (1, 0)] {
        detach(0, from);
        attach(0, to);
        // As a hypervisor does for a machine that has moved.
        ping("w1", "192.168.200.1", 1, 10);
        ping("w1", "2001:db8:b::1", 1, 10);
        let start = Instant::now();
        for client in ["client1", "w2"] {
            for address in [WORKLOAD4[0], WORKLOAD6[0]] {
                wait_until(&format!("{address} answers {client}"), SOON, || {
                    ping(client, address, 1, 10).1 == 1
                });
            }
        }
        println!("from node {from} to {to}: answers again after {} ms", start.elapsed().as_millis());
        assert!(start.elapsed() < Duration::from_secs(5));
        every_way_is_open(100);
    }
}

#[test]
fn a_silent_workload_is_not_forgotten() {
    let lab = Evpn::new(false);
    // A bridge forgets after 300 s, and a neighbour is doubtful after up to 45; both shall be so in the time of a test.
    let router = lab.router(1);
    for (ns, bridge) in [("host2", "br-hs-200"), (&router[..], "br-pe-200")] {
        ip(ns, &format!("link set {bridge} type bridge ageing_time 6000"));
    }
    sysctl(&router, "net/ipv4/neigh/br-pe-200/base_reachable_time_ms", "4000");
    sysctl(&router, "net/ipv6/neigh/br-pe-200/base_reachable_time_ms", "4000");
    every_way_is_open(10);
    let known = || {
        let routes = vtysh("leaf1", "show bgp l2vpn evpn route type macip");
        WORKLOAD4[1..].iter().chain(&WORKLOAD6[1..]).all(|ip| routes.contains(&format!("[{ip}]")))
    };
    wait_until("the workload's routes", SOON, known);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(75) {
        assert!(known(), "forgotten after {:?}", start.elapsed());
        thread::sleep(Duration::from_secs(5));
    }
    assert_eq!(ping("client1", WORKLOAD4[1], 1, 10), (1, 1));
}

#[test]
fn frr_takes_the_example() {
    // Its own parser, of the version that is here.
    let example = include_str!("golden/vnis.conf");
    std::fs::write("/tmp/vnis.conf", example).unwrap();
    exec("", &["vtysh", "-C", "-f", "/tmp/vnis.conf"]);
}

/// What a node without VNIs of its own can show: other links to the fabric, and what comes and goes with the file.
#[test]
fn links_come_and_go_with_the_file() {
    let lab = Lab::new(Options { speaker: None, bfd: None, ..Options::default() });
    ip_batch(
        "host",
        "link add link eth2 name eth2.100 type vlan id 100\nlink set eth2.100 up\naddr add 192.0.2.50/31 dev eth2.100\n",
    );
    let base = "underlay:
  tunnelEndpoint: {cidrs: [100.65.0.0/24]}
  interfaces:
  - {type: NetworkDevice, networkDevice: {interfaceName: eth2.100}}
  - {type: Macvlan, macvlan: {parent: eth2, interfaceName: net1, addresses: [192.0.2.60/31]}}
";
    let vnis = "l3passthrough: {hostSession: {asn: 65001, hostASN: 65002, localCIDR: {ipv4: 192.169.12.0/24}}}
l3vnis:
- {vrf: red, vni: 100}
l2vnis:
- {vni: 200, routingDomain: {type: L3VNI, l3vni: {name: red}}, gatewayIPs: [192.168.200.1/24], hostMaster: {type: LinuxBridge, linuxBridge: {lifecycle: Managed}}}
- {vni: 300, hostMaster: {type: LinuxBridge, linuxBridge: {lifecycle: External, name: br0}}}
";
    let file = "/tmp/vnis.yaml";
    let run = |text: &str| {
        std::fs::write(file, text).unwrap();
        let mut env = Lab::node_env();
        env.retain(|(name, _)| *name != "FE_MACS");
        env.extend([
            ("FE_MACS", MACS[0]),
            ("RETURN_PATH", "none"),
            ("ENABLE_BFD", "false"),
            ("CONFIG_FILE", file),
        ]);
        let mut node = lab.start_supervisor(&env);
        node.wait_log(DAEMONS_ANSWER, SOON);
        let links = |ns: &str| -> Vec<String> {
            ip(ns, "-br link").lines().filter_map(|l| Some(l.split([' ', '@']).next()?.to_owned())).collect()
        };
        // A bridge that comes later is taken in at once.
        if text.contains("br0") && !links("host").contains(&"br0".into()) {
            node.wait_log("VNI 300: host: host-e-300 needs bridge br0", SOON);
            ip("host", "link add br0 type bridge");
            wait_until("the port", SOON, || ip("host", "link show master br0").contains("host-e-300"));
        }
        // The file is read once more as soon as the daemons run.
        if text.contains("no-such-thing") {
            thread::sleep(Duration::from_secs(3));
        }
        node.terminate();
        (links("host"), links("perouter"), node.log_text())
    };
    let has =
        |links: &[String], names: &[&str]| names.iter().all(|name| links.iter().any(|link| link == name));
    let ours =
        ["lound", "red", "br-pe-100", "vni100", "br-pe-200", "vni200", "pe-e-200", "vni300", "pt-ns", "net1"];
    // One raw line would end FRR's reading, and of another FRR says nothing of a line.
    let long = "h".repeat(300);
    let raw = format!(
        "rawFRRConfigs:\n- rawConfig: xy\n- rawConfig: \"exit\\n\"\n- rawConfig: hostname {long}\n- rawConfig: ip nht resolve-via-default\n- rawConfig: neighbor 10.9.9.9 password:hunter2\n"
    );
    let (host, router, said) = run(&(base.to_owned() + vnis + &raw));
    assert!(
        said.contains("rawFRRConfigs[1].rawConfig: raw line 1: \\\"exit\\\" closes")
            || said.contains("rawFRRConfigs[1].rawConfig: raw line 1: \"exit\" closes"),
        "{said}"
    );
    for (entry, is_out) in [(0, true), (2, true), (3, false), (4, true)] {
        let named = said.lines().any(|line| {
            line.contains(&format!("rawFRRConfigs[{entry}] (/tmp/vnis.yaml:")) && line.contains("is left out")
        });
        assert_eq!(named, is_out, "{entry}: {said}");
    }
    assert!(!said.contains("hunter2"), "{said}");
    assert!(has(&router, &ours) && has(&router, &["eth2.100", "eth1"]), "{router:?}");
    assert!(has(&host, &["eth2", "host-e-200", "br-hs-200", "host-e-300", "pt-host"]), "{host:?}");
    // What a workload advertises is nothing to the host, even where it takes a router's word.
    assert_eq!(ip("host", "-6 addr show dev br-hs-200").trim(), "");
    for end in ["host-e-200", "host-e-300", "pt-host", "metallb-frr"] {
        let takes = exec("host", &["cat", &format!("/proc/sys/net/ipv6/conf/{end}/accept_ra")]);
        assert_eq!(takes.trim(), "0", "{end}");
    }
    assert!(ip("perouter", "route show table 10000100").contains("unreachable default"));
    assert_eq!(ip_json("perouter", "-d link show vni200")[0]["mtu"], 1450);

    // With a file that can't be read nothing goes.
    let (host, router, _) = run(&(base.to_owned() + "l3vnis: [{vrf: red, vni: 100\n"));
    assert!(has(&router, &ours), "{router:?}");
    assert!(has(&host, &["br-hs-200", "host-e-300", "pt-host"]), "{host:?}");

    // One that says so is believed. Of raw lines those are left out that FRR does not take.
    // Each is by itself: what one leaves open is closed, and what the template has as well is told from it.
    let raw = "rawFRRConfigs:\n- rawConfig: \"ip prefix-list tab\\tseq 5 permit any\"\n- rawConfig: no-such-thing\n- rawConfig: router bgp 65001\n\
        - rawConfig: neighbor 9.9.9.9 remote-as 5\n- rawConfig: \"interface x\\n address-family ipv4 unicast\"\n\
        - rawConfig: \"router bgp 65001\\n timers bgp 3 9\"\n- rawConfig: \"interface x\\n timers bgp 3 9\"\n";
    let (host, router, said) =
        run(&format!("underlay: {{tunnelEndpoint: {{cidrs: [100.65.0.0/24]}}}}\n{raw}"));
    assert!(
        said.contains("rawFRRConfigs[1] (/tmp/vnis.yaml:4): ") && said.contains("no-such-thing"),
        "{said}"
    );
    assert!(!said.contains("the configuration change is rejected"), "{said}");
    for (entry, is_out) in [(0, false), (1, true), (2, false), (3, true), (4, true), (5, false), (6, true)] {
        assert_eq!(
            said.contains(&format!("rawFRRConfigs[{entry}] (/tmp/vnis.yaml:")),
            is_out,
            "{entry}: {said}"
        );
    }
    let stored = std::fs::read_to_string("/run/frr/frr.conf").unwrap();
    assert!(stored.contains("\nrouter bgp 65001\n timers bgp 3 9\nrouter bgp 65001\nexit\n"), "{stored}");
    assert!(stored.contains("\nip prefix-list tab seq 5 permit any\n") && !stored.contains("no-such-thing"));
    let mut left = router;
    left.sort();
    assert_eq!(left, ["eth1", "frr-metallb", "lo", "lound", "metallb"], "{host:?}");
    assert!(
        has(&host, &["eth2.100", "br0"]) && !host.iter().any(|l| l.contains("-e-") || l.starts_with("pt-"))
    );
    assert!(ip("host", "addr show eth2.100").contains("192.0.2.50/31"));
}

include!("live.rs");
include!("sessions.rs");
include!("underlay.rs");
