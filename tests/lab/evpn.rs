//! Two nodes that are VTEPs, and a leaf with EVPN, between them and as the edge to an external VRF:
//!
//! ```text
//!   speaker ─ host ── perouter ──┐               ┌── perouter ── host2 ─ speaker2
//!   w1 ──── br-hs-200            ├──── leaf1 ────┤            br-hs-200 ──── w2
//!                                     VRF ext (VNI 100) ── client1
//! ```

use std::fs;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::sh::{exec, ip, ip_batch, must, wait_until};
use super::steady::watch_the_machine;
use super::supervisor::{Supervisor, program};
use super::{CLIENT4, CLIENT6, LEAF_ASN, LEAF_ID, Router, forward, host_of, names, sweep};

pub const HOSTS: [&str; 2] = ["host", "host2"];
const MACS: [&str; 2] = ["02:fa:b0:00:01:01", "02:fa:b0:00:03:01"];
/// The hosts' ends of VNI 100.
pub const HOST4: [&str; 2] = ["192.169.10.2", "192.169.10.3"];
pub const HOST6: [&str; 2] = ["2001:db8:a::2", "2001:db8:a::3"];
pub const WORKLOADS: [&str; 2] = ["w1", "w2"];
pub const WORKLOAD4: [&str; 2] = ["192.168.200.11", "192.168.200.12"];
pub const WORKLOAD6: [&str; 2] = ["2001:db8:b::11", "2001:db8:b::12"];
const LEAF_VTEP6: &str = "2001:db8:65:1::1";

/// The fabric with both nodes up.
pub struct Evpn {
    pub leaf: Router,
    pub speakers: Vec<Router>,
    pub nodes: Vec<Supervisor>,
    run_before: Vec<String>,
}

/// The VNIs of a node; its addresses follow from its number.
pub fn vnis(v6: bool) -> String {
    let vtep = if v6 { "2001:db8:65::/64" } else { "100.65.0.0/24" };
    format!(
        "underlay:
  tunnelEndpoint: {{cidrs: ['{vtep}']}}
l3vnis:
- vrf: red
  vni: 100
  hostSession:
    asn: 64514
    hostASN: 64515
    localCIDR: {{ipv4: 192.169.10.0/24, ipv6: '2001:db8:a::/64'}}
l2vnis:
- vni: 200
  routingDomain: {{type: L3VNI, l3vni: {{name: red}}}}
  hostMaster: {{type: LinuxBridge, linuxBridge: {{lifecycle: Managed}}}}
  gatewayIPs: [192.168.200.1/24, '2001:db8:b::1/64']
"
    )
}

impl Evpn {
    /// Builds it; `v6`: the VTEPs have IPv6 addresses.
    pub fn new(v6: bool) -> Self {
        Self::with(v6, &vnis(v6), &[])
    }

    pub fn with(v6: bool, file: &str, extra: &[(&str, &str)]) -> Self {
        watch_the_machine();
        sweep();
        let run_before = names("/run");
        build_links(v6);
        let daemons = [("zebra", "-P 0 -s 90000000"), ("staticd", "-P 0"), ("bgpd", "-P 0")];
        let mut leaf = Router::new("leaf1", "leaf1", &daemons);
        let mut speakers: Vec<_> = [("speaker", "host"), ("speaker2", "host2")]
            .iter()
            .map(|(name, ns)| Router::new(name, ns, &[("zebra", "-P 0"), ("bgpd", "-P 0"), ("bfdd", "-P 0")]))
            .collect();
        let mut routers = vec![(&mut leaf, leaf_config(v6))];
        routers.extend(speakers.iter_mut().enumerate().map(|(i, router)| (router, speaker_config(i))));
        Router::start_all(&mut routers);
        drop(routers);
        let mut lab = Self { leaf, speakers, nodes: vec![], run_before };
        for i in 0..HOSTS.len() {
            must("the file", fs::write(format!("/tmp/vnis{i}.yaml"), file));
            lab.nodes.push(start(i, extra));
        }
        for node in &lab.nodes {
            node.wait_log(super::DAEMONS_ANSWER, Duration::from_secs(60));
        }
        for i in 0..HOSTS.len() {
            // The second node's namespace has a name only in that node's own mount namespace.
            if i > 0 {
                let pid = must("pid", fs::read_to_string(lab.run(i, "zebra.pid")));
                exec("", &["ip", "netns", "attach", &lab.router(i), pid.trim()]);
            }
            attach(i, i);
        }
        lab
    }

    /// The namespace that node `i`'s FRR runs in.
    pub fn router(&self, i: usize) -> String {
        if i == 0 { "perouter".into() } else { format!("perouter{}", i + 1) }
    }

    /// A file of node `i`'s FRR.
    pub fn run(&self, i: usize, name: &str) -> String {
        format!("/proc/{}/root/run/frr/{name}", self.nodes[i].pid())
    }

    /// Kills daemons of node `i`.
    pub fn kill(&self, i: usize, names: &[&str]) {
        for name in names {
            let pid: i32 = must(
                "pid",
                must("pid", fs::read_to_string(self.run(i, &format!("{name}.pid")))).trim().parse(),
            );
            let pid = Pid::from_raw(pid).expect("a process has a number");
            // The daemon may already have been stopped as a dependent of another one.
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// Ends the first node's program and starts it again. (The second one's mounts go with it.)
    pub fn restart(&mut self, signal: Signal, extra: &[(&str, &str)]) {
        if signal == Signal::KILL {
            self.nodes[0].kill9();
        } else {
            self.nodes[0].terminate();
        }
        self.nodes[0] = start(0, extra);
    }
}

impl Drop for Evpn {
    fn drop(&mut self) {
        self.nodes.clear();
        self.leaf.kill("");
        self.speakers.iter_mut().for_each(|router| router.kill(""));
        sweep();
        for name in names("/run").iter().filter(|name| !self.run_before.contains(name)) {
            let _ = fs::remove_dir_all(format!("/run/{name}"));
        }
    }
}

fn start(i: usize, extra: &[(&str, &str)]) -> Supervisor {
    let mut command = Command::new(program());
    if i > 0 {
        command = Command::new("unshare");
        let own = "mount -t tmpfs run /run && mount -t tmpfs lib /var/lib/frr && mkdir -p /run/netns && exec \"$0\" run";
        command.args(["-m", "--propagation", "private", "sh", "-c", own, &program()]);
    } else {
        command.arg("run");
    }
    let (ip, file, index) = (format!("203.0.113.{}", 130 + i), format!("/tmp/vnis{i}.yaml"), i.to_string());
    let env = [
        ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
        ("NODE_IP", &ip),
        ("ASN_LOCAL", "65001"),
        ("FE_MACS", MACS[i]),
        ("RETURN_PATH", "none"),
        ("CONFIG_FILE", &file),
        ("NODE_INDEX", &index),
    ];
    command.env_clear().envs(env).envs(extra.iter().copied());
    Supervisor::of(HOSTS[i], command)
}

fn build_links(v6: bool) {
    let mut batch: String =
        ["leaf1", "client1", "host", "host2", "w1", "w2"].map(|ns| format!("netns add {ns}\n")).concat();
    for (i, host) in HOSTS.iter().enumerate() {
        let n = ["node", "node2"][i];
        batch += &format!(
            "link add eth1 netns {host} mtu 9000 address {mac} type veth peer name {n} netns leaf1 mtu 9000\n",
            mac = MACS[i]
        );
    }
    batch += "link add client netns leaf1 type veth peer name eth0 netns client1\n";
    ip_batch("", &batch);
    forward("leaf1");
    let local = if v6 { LEAF_VTEP6 } else { LEAF_ID[0] };
    let (c4, c6) = (host_of("192.0.2.0/25", 1), host_of("2001:db8:1::/64", 1));
    ip_batch(
        "leaf1",
        &format!(
            "link set lo up\nlink set node up\nlink set node2 up\naddr add {id}/32 dev lo\naddr add {LEAF_VTEP6}/128 dev lo nodad\n\
             link add ext type vrf table 1100\nlink set ext up\nlink add br100 type bridge\nlink set br100 master ext addrgenmode none\n\
             link add vxlan100 type vxlan id 100 dstport 4789 local {local} nolearning\n\
             link set vxlan100 master br100 addrgenmode none\nlink set vxlan100 up\nlink set br100 up\n\
             link set client master ext\nlink set client up\naddr add {c4}/25 dev client\naddr add {c6}/64 dev client nodad\n",
            id = LEAF_ID[0],
        ),
    );
    ip_batch(
        "client1",
        &format!(
            "link set lo up\nlink set eth0 up\naddr add {}/25 dev eth0\naddr add {}/64 dev eth0 nodad\n\
             route add default via {c4}\nroute add default via {c6}\n",
            CLIENT4[0], CLIENT6[0]
        ),
    );
    for (i, host) in HOSTS.iter().enumerate() {
        forward(host);
        ip_batch(
            host,
            &format!("link set lo up\nlink set eth1 up\naddr add 203.0.113.{}/32 dev lo\n", 130 + i),
        );
        ip_batch(WORKLOADS[i], "link set lo up\n");
    }
}

/// Puts workload `w` on node `i`'s bridge, with the MAC address that it has everywhere.
pub fn attach(w: usize, i: usize) {
    let name = WORKLOADS[w];
    wait_until("the host's bridge", Duration::from_secs(10), || {
        ip(HOSTS[i], "-br link").contains("br-hs-200")
    });
    ip_batch(
        "",
        &format!(
            "link add {name} netns {} type veth peer name eth0 netns {name} address 02:aa:00:00:00:0{}\n",
            HOSTS[i],
            w + 1
        ),
    );
    ip_batch(HOSTS[i], &format!("link set {name} master br-hs-200\nlink set {name} up\n"));
    ip_batch(
        name,
        &format!(
            "link set eth0 mtu 1500\nlink set eth0 up\naddr add {}/24 dev eth0\naddr add {}/64 dev eth0 nodad\n\
             route add default via 192.168.200.1\nroute add default via 2001:db8:b::1\n",
            WORKLOAD4[w], WORKLOAD6[w]
        ),
    );
}

/// Removes workload `w` from node `i`'s bridge.
pub fn detach(w: usize, i: usize) {
    ip(HOSTS[i], &format!("link del {}", WORKLOADS[w]));
}

fn leaf_config(v6: bool) -> String {
    let (asn, id) = (LEAF_ASN[0], LEAF_ID[0]);
    let (mut peers, mut activate) = (String::new(), String::new());
    for n in ["node", "node2"] {
        peers += &format!(" neighbor {n} interface remote-as external\n neighbor {n} timers connect 1\n");
        activate += &format!("  neighbor {n} activate\n");
    }
    let _ = v6;
    format!(
        "frr defaults datacenter
hostname leaf1
vrf ext
 vni 100
exit-vrf
router bgp {asn} vrf ext
 bgp router-id {id}
 no bgp network import-check
 address-family ipv4 unicast
  network 192.0.2.0/25
 exit-address-family
 address-family ipv6 unicast
  network 2001:db8:1::/64
 exit-address-family
 address-family l2vpn evpn
  advertise ipv4 unicast
  advertise ipv6 unicast
 exit-address-family
exit
router bgp {asn}
 bgp router-id {id}
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 bgp graceful-restart
 bgp graceful-restart preserve-fw-state
 timers bgp 30 90
{peers} address-family ipv4 unicast
{activate}  network {id}/32
 exit-address-family
 address-family ipv6 unicast
{activate}  network {LEAF_VTEP6}/128
 exit-address-family
 address-family l2vpn evpn
{activate}  advertise-all-vni
 exit-address-family
exit
"
    )
}

fn speaker_config(i: usize) -> String {
    format!(
        "router bgp 64515
 bgp router-id 203.0.113.{id}
 no bgp ebgp-requires-policy
 bgp graceful-restart
 bgp graceful-restart preserve-fw-state
 timers bgp 30 90
 neighbor 192.169.10.1 remote-as 64514
 neighbor 192.169.10.1 timers connect 1
 neighbor 2001:db8:a::1 remote-as 64514
 neighbor 2001:db8:a::1 timers connect 1
 address-family ipv4 unicast
  no neighbor 2001:db8:a::1 activate
 exit-address-family
 address-family ipv6 unicast
  neighbor 2001:db8:a::1 activate
 exit-address-family
exit
",
        id = 130 + i
    )
}
