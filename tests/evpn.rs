//! VNIs between two nodes and a leaf, on real FRR and a real kernel. Run by `make test` inside the lab's kernel.
#![allow(clippy::unwrap_used)]

mod lab;

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use lab::*;
use rustix::process::{Pid, Signal, kill_process};

/// Every path of a packet: from a namespace to an address.
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
    // If both ends of a session connect at once on a slow machine, 8.4 may fail for long: see `reconnect_speaker`.
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
    // FRR crashes when it sees a VXLAN too soon (FRR issue 22851).
    for node in &lab.nodes {
        assert!(!node.log_text().contains("exited (pid"), "{}", node.log_text());
    }
}

/// Flows in both directions between the hosts (by the routing domain) and the workloads (by the broadcast domain), and
/// between a workload and the external VRF.
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

/// The packets that all flows lost during `done` and for 15 s after it.
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
fn no_packet_is_lost_when_daemons_are_killed() {
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
        // A busy machine may stand still for longer than a daemon's start takes: such a loss occurs once, and one that
        // the program does not prevent occurs every time.
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
        // As a hypervisor does for a virtual machine that has moved.
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
fn the_routes_of_a_silent_workload_stay() {
    let lab = Evpn::new(false);
    // A bridge's entry ages out after 300 s, and a neighbour is stale after up to 45; both are shortened for the test.
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
        assert!(known(), "lost after {:?}", start.elapsed());
        thread::sleep(Duration::from_secs(5));
    }
    assert_eq!(ping("client1", WORKLOAD4[1], 1, 10), (1, 1));
}

#[test]
fn frr_accepts_the_example() {
    // By the parser of the FRR version under test.
    let example = include_str!("golden/vnis.conf");
    std::fs::write("/tmp/vnis.conf", example).unwrap();
    exec("", &["vtysh", "-C", "-f", "/tmp/vnis.conf"]);
}

/// The links of one node: other links to the fabric, and links that exist only while the file has them.
#[test]
fn the_file_creates_and_deletes_links() {
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
        // A bridge that is created later is used at once.
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
    let managed =
        ["lound", "red", "br-pe-100", "vni100", "br-pe-200", "vni200", "pe-e-200", "vni300", "pt-ns", "net1"];
    // One raw line would end FRR's reading, and for another one FRR's message names no line.
    let long = "h".repeat(300);
    let raw = format!(
        "rawFRRConfigs:\n- rawConfig: xy\n- rawConfig: \"exit\\n\"\n- rawConfig: hostname {long}\n- rawConfig: ip nht resolve-via-default\n- rawConfig: neighbor 10.9.9.9 password:hunter2\n"
    );
    let (host, router, log) = run(&(base.to_owned() + vnis + &raw));
    assert!(
        log.contains("rawFRRConfigs[1].rawConfig: raw line 1: \\\"exit\\\" closes")
            || log.contains("rawFRRConfigs[1].rawConfig: raw line 1: \"exit\" closes"),
        "{log}"
    );
    for (entry, is_out) in [(0, true), (2, true), (3, false), (4, true)] {
        let named = log.lines().any(|line| {
            line.contains(&format!("rawFRRConfigs[{entry}] (/tmp/vnis.yaml:")) && line.contains("is left out")
        });
        assert_eq!(named, is_out, "{entry}: {log}");
    }
    assert!(!log.contains("hunter2"), "{log}");
    assert!(has(&router, &managed) && has(&router, &["eth2.100", "eth1"]), "{router:?}");
    assert!(has(&host, &["eth2", "host-e-200", "br-hs-200", "host-e-300", "pt-host"]), "{host:?}");
    // The host ignores what a workload advertises, even where it accepts router advertisements.
    assert_eq!(ip("host", "-6 addr show dev br-hs-200").trim(), "");
    for end in ["host-e-200", "host-e-300", "pt-host", "metallb-frr"] {
        let accepts = exec("host", &["cat", &format!("/proc/sys/net/ipv6/conf/{end}/accept_ra")]);
        assert_eq!(accepts.trim(), "0", "{end}");
    }
    assert!(ip("perouter", "route show table 10000100").contains("unreachable default"));
    assert_eq!(ip_json("perouter", "-d link show vni200")[0]["mtu"], 1450);

    // With an unreadable file nothing is removed.
    let (host, router, _) = run(&(base.to_owned() + "l3vnis: [{vrf: red, vni: 100\n"));
    assert!(has(&router, &managed), "{router:?}");
    assert!(has(&host, &["br-hs-200", "host-e-300", "pt-host"]), "{host:?}");

    // A valid file without them removes them. Raw lines that FRR does not accept are left out.
    // Each entry is separate: a block that one leaves open is closed, and lines that the template has as well are kept
    // apart.
    let raw = "rawFRRConfigs:\n- rawConfig: \"ip prefix-list tab\\tseq 5 permit any\"\n- rawConfig: no-such-thing\n- rawConfig: router bgp 65001\n\
        - rawConfig: neighbor 9.9.9.9 remote-as 5\n- rawConfig: \"interface x\\n address-family ipv4 unicast\"\n\
        - rawConfig: \"router bgp 65001\\n timers bgp 3 9\"\n- rawConfig: \"interface x\\n timers bgp 3 9\"\n";
    let (host, router, log) =
        run(&format!("underlay: {{tunnelEndpoint: {{cidrs: [100.65.0.0/24]}}}}\n{raw}"));
    assert!(log.contains("rawFRRConfigs[1] (/tmp/vnis.yaml:4): ") && log.contains("no-such-thing"), "{log}");
    assert!(!log.contains("the configuration change is rejected"), "{log}");
    for (entry, is_out) in [(0, false), (1, true), (2, false), (3, true), (4, true), (5, false), (6, true)] {
        assert_eq!(
            log.contains(&format!("rawFRRConfigs[{entry}] (/tmp/vnis.yaml:")),
            is_out,
            "{entry}: {log}"
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
