//! The fabric of the tests, built in network namespaces of the kernel that `tests/lab/run` boots:
//!
//! ```text
//!   client1 ── leaf1 ──┐ eth1          (mgmt) eth0
//!                      ├──── host ──────────┘
//!   client2 ── leaf2 ──┘ eth2   │ speaker: MetalLB's stand-in (FRR)
//!                               └── (pod)
//! ```
//!
//! `host` is the node's host namespace, where the program under test starts. Dropping the `Lab` removes everything,
//! also what the node left behind, so that the next test in the same boot starts clean: run with `--test-threads=1`.
#![allow(dead_code, unused_imports, clippy::cast_possible_truncation)]

mod cells;
mod evpn;
mod node;
mod other;
mod random;
mod recovery;
mod router;
mod sh;
mod standalone;
mod status;
mod steady;
mod supervisor;
mod traffic;
mod watch;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

pub use cells::*;
pub use evpn::*;
pub use node::*;
pub use other::{Kind, Other};
pub use random::Random;
pub use recovery::*;
pub use router::{Router, Speaker, daemon, frr_is_8};
pub use sh::*;
pub use standalone::*;
pub use status::*;
pub use steady::stood_still;
pub use supervisor::{Line, Supervisor, program};
pub use traffic::{Flow, Loss};
pub use watch::{LinkEvent, LinkMonitor, difference, link_monitor, settled, snapshot};

/// The node's fabric NICs, `eth1` and `eth2` of `host`.
pub const MACS: [&str; 2] = ["02:fa:b0:00:01:01", "02:fa:b0:00:02:01"];
pub const LEAF_MACS: [&str; 2] = ["02:fa:b0:00:01:02", "02:fa:b0:00:02:02"];
pub const LEAF_ASN: [u32; 2] = [65101, 65102];
pub const LEAF_ID: [&str; 2] = ["203.0.113.1", "203.0.113.2"];
/// Behind leaf 1 and leaf 2: the leaf has the first address, the client the second.
pub const CLIENT_NET4: [&str; 2] = ["192.0.2.0/25", "192.0.2.128/25"];
pub const CLIENT_NET6: [&str; 2] = ["2001:db8:1::/64", "2001:db8:2::/64"];
pub const CLIENT4: [&str; 2] = ["192.0.2.2", "192.0.2.130"];
pub const CLIENT6: [&str; 2] = ["2001:db8:1::2", "2001:db8:2::2"];
/// Announced by both leaves, so that the node has two equal paths; no host has an address in it.
pub const SHARED_NET4: &str = "203.0.113.64/26";
pub const SHARED_NET6: &str = "2001:db8:5::/64";
/// The service that the speaker announces.
pub const SERVICE4: &str = "198.51.100.100";
pub const SERVICE6: &str = "2001:db8:100::100";
/// The node's own address: on `eth0` with a management network, else on `lo`.
pub const NODE_IP: &str = "203.0.113.130";
pub const NODE_IP6: &str = "2001:db8:ffff::2";
pub const MGMT_IP: &str = "203.0.113.129";
pub const MGMT_IP6: &str = "2001:db8:ffff::1";
/// The pod that the service's addresses are translated to.
pub const POD_IP: &str = "10.244.0.10";
pub const POD_IP6: &str = "fd00:10:244::10";

/// The options of the lab; `Options::default()` for the usual one.
#[derive(Clone, Debug)]
pub struct Options {
    /// Of the fabric links; 9000 for jumbo frames.
    pub mtu: u32,
    /// A management network on `eth0`, with the host's default routes through it. Nothing is behind it.
    pub mgmt: bool,
    /// The service's addresses are not on the node: they are translated (DNAT) to a pod, as kube-proxy does.
    pub pod: bool,
    /// BFD of the leaves: milliseconds and multiplier.
    pub bfd: Option<(u32, u32)>,
    /// A link with eBGP between the leaves, so that each client can be reached through either.
    pub interleaf: bool,
    /// More lines for both leaves' configuration.
    pub leaf_extra: String,
    pub speaker: Option<Speaker>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mtu: 1500,
            mgmt: false,
            pod: false,
            bfd: Some((3000, 5)),
            interleaf: false,
            leaf_extra: String::new(),
            speaker: Some(Speaker::default()),
        }
    }
}

/// A running fabric.
pub struct Lab {
    pub options: Options,
    /// `leaf1`, `leaf2`.
    pub leaves: [Router; 2],
    pub speaker: Option<Router>,
    run_before: Vec<String>,
}

impl Lab {
    /// Builds the fabric, with the leaves and the speaker configured and running.
    pub fn new(options: Options) -> Self {
        assert!(
            std::env::var_os("LAB_KERNEL").is_some(),
            "a lab needs a kernel of its own: see tests/lab/run"
        );
        steady::watch_the_machine();
        sweep(); // after a test that was killed
        let leaf_daemons = |bfd: bool| {
            let mut daemons = vec![("zebra", "-P 0 -s 90000000"), ("staticd", "-P 0"), ("bgpd", "-P 0")];
            if bfd {
                daemons.push(("bfdd", "-P 0"));
            }
            daemons
        };
        let leaf = |name| Router::new(name, name, &leaf_daemons(options.bfd.is_some()));
        let speaker = options.speaker.as_ref().map(Speaker::router);
        let mut lab =
            Self { leaves: [leaf("leaf1"), leaf("leaf2")], speaker, run_before: names("/run"), options };
        lab.build_links();
        let options = &lab.options;
        let [leaf1, leaf2] = &mut lab.leaves;
        let mut routers =
            vec![(leaf1, router::leaf_config(0, options)), (leaf2, router::leaf_config(1, options))];
        if let (Some(router), Some(speaker)) = (&mut lab.speaker, &options.speaker) {
            routers.push((router, speaker.config()));
        }
        Router::start_all(&mut routers);
        // What a test compares must not change by itself: link-local addresses appear after a second.
        wait_until("the host's addresses to settle", Duration::from_secs(20), || {
            ip("host", "-6 addr show tentative").trim().is_empty()
        });
        lab
    }

    /// Removes the first NIC from the node's namespace, as when its driver is unloaded. The leaf's port has no link
    /// then.
    pub fn unload_nic() {
        ip("", "netns add attic");
        ip("perouter", "link set eth1 netns attic");
    }

    /// Puts that NIC into the host's namespace, as its driver creates it.
    pub fn reload_nic() {
        ip_batch("attic", "link set eth1 alias \"\" group 0\nlink set eth1 netns host\n");
        ip("", "netns del attic");
    }

    /// Starts the daemons of a leaf that has been killed.
    pub fn boot_leaf(&mut self, leaf: usize) {
        let config = router::leaf_config(leaf, &self.options);
        Router::start_all(&mut [(&mut self.leaves[leaf], config)]);
    }

    fn build_links(&self) {
        let Options { mtu, mgmt, pod, interleaf, .. } = self.options;
        let mut spaces = vec!["leaf1", "leaf2", "client1", "client2", "host"];
        spaces.extend(mgmt.then_some("mgmt"));
        spaces.extend(pod.then_some("pod"));
        let mut batch: String = spaces.iter().map(|ns| format!("netns add {ns}\n")).collect();
        for leaf in [0, 1] {
            let n = leaf + 1;
            let (mac, leaf_mac) = (MACS[leaf], LEAF_MACS[leaf]);
            batch += &format!(
                "link add eth{n} netns host mtu {mtu} address {mac} type veth peer name node netns leaf{n} mtu {mtu} address {leaf_mac}\n\
                 link add client netns leaf{n} type veth peer name eth0 netns client{n}\n"
            );
        }
        if interleaf {
            batch += "link add peer netns leaf1 type veth peer name peer netns leaf2\n";
        }
        if mgmt {
            batch += "link add eth0 netns host type veth peer name host netns mgmt\n";
        }
        if pod {
            batch += "link add pod netns host type veth peer name eth0 netns pod\n";
        }
        ip_batch("", &batch);

        for leaf in [0, 1] {
            let n = leaf + 1;
            let ns = format!("leaf{n}");
            forward(&ns);
            let (net4, net6) = (CLIENT_NET4[leaf], CLIENT_NET6[leaf]);
            let (gateway4, gateway6) = (host_of(net4, 1), host_of(net6, 1));
            let up = if interleaf { "link set peer up\n" } else { "" };
            ip_batch(
                &ns,
                &format!(
                    "link set lo up\nlink set node up\n{up}link set client up\naddr add {id}/32 dev lo\n\
                     addr add {gateway4}/25 dev client\naddr add {gateway6}/64 dev client nodad\n",
                    id = LEAF_ID[leaf],
                ),
            );
            ip_batch(
                &format!("client{n}"),
                &format!(
                    "link set lo up\nlink set eth0 up\naddr add {c4}/25 dev eth0\naddr add {c6}/64 dev eth0 nodad\n\
                     route add default via {gateway4}\nroute add default via {gateway6}\n",
                    c4 = CLIENT4[leaf],
                    c6 = CLIENT6[leaf],
                ),
            );
        }

        forward("host"); // as on every Kubernetes node
        let dummy = if plain() { "bridge" } else { "dummy" };
        let mut host = format!(
            "link set lo up\nlink set eth1 up\nlink set eth2 up\nlink add name kube-ipvs0 type {dummy}\n"
        );
        if mgmt {
            host += &format!(
                "link set eth0 up\naddr add {NODE_IP}/25 dev eth0\naddr add {NODE_IP6}/64 dev eth0 nodad\n\
                 route add default via {MGMT_IP}\nroute add default via {MGMT_IP6}\n"
            );
            // What is sent beyond it ends in a dummy, which counts the packets.
            forward("mgmt");
            ip_batch(
                "mgmt",
                &format!(
                    "link set lo up\nlink set host up\naddr add {MGMT_IP}/25 dev host\naddr add {MGMT_IP6}/64 dev host nodad\n\
                     link add name sink type dummy\nlink set sink addrgenmode none up\nroute add default dev sink\nroute add ::/0 dev sink\n"
                ),
            );
        } else {
            host += &format!("addr add {NODE_IP}/32 dev lo\naddr add {NODE_IP6}/128 dev lo nodad\n");
        }
        if pod {
            host +=
                "link set pod up\naddr add 10.244.0.1/24 dev pod\naddr add fd00:10:244::1/64 dev pod nodad\n";
            ip_batch(
                "pod",
                &format!(
                    "link set lo up\nlink set eth0 up\naddr add {POD_IP}/24 dev eth0\naddr add {POD_IP6}/64 dev eth0 nodad\n\
                     route add default via 10.244.0.1\nroute add default via fd00:10:244::1\n"
                ),
            );
        } else {
            // kube-proxy leaves its dummy down. The addresses answer nevertheless, but the IPv6 one only on a link that
            // is up.
            host += &format!(
                "link set kube-ipvs0 arp off up\naddr add {SERVICE4}/32 dev kube-ipvs0\naddr add {SERVICE6}/128 dev kube-ipvs0 nodad\n"
            );
        }
        ip_batch("host", &host);
        if pod {
            translate();
        }
    }

    /// The variables that every configuration of the node needs.
    pub fn node_env() -> Vec<(&'static str, &'static str)> {
        vec![
            ("NODE_IP", NODE_IP),
            ("ASN_LOCAL", "65001"),
            ("FE_MACS", "02:fa:b0:00:01:01,02:fa:b0:00:02:01"),
            ("SETUP_TIMEOUT", "0"),
        ]
    }

    /// Starts the program under test (`run`) in the host namespace, with these variables and no others.
    pub fn start_supervisor(&self, env: &[(&str, &str)]) -> Supervisor {
        Supervisor::start("host", &["run"], env)
    }

    pub fn start_supervisor_with(&self, args: &[&str], env: &[(&str, &str)]) -> Supervisor {
        Supervisor::start("host", args, env)
    }

    /// Makes each leaf announce this number of routes of its own.
    pub fn announce_from_leaves(&self, routes: usize) {
        for (n, (leaf, asn)) in self.leaves.iter().zip(LEAF_ASN).enumerate().filter(|_| routes > 0) {
            let network = |i: usize| format!("  network 10.{}.{}.0/24\n", 100 * n + i / 250, i % 250);
            let networks: String = (0..routes).map(network).collect();
            let block = format!(
                "router bgp {asn}\n address-family ipv4 unicast\n{networks} exit-address-family\nexit\n"
            );
            must("routes at a leaf", leaf.configure(&block));
        }
    }

    /// Makes the speaker announce a service prefix.
    pub fn announce(&self, prefix: &str) {
        self.speaker_options().change(prefix, true);
    }

    pub fn withdraw(&self, prefix: &str) {
        self.speaker_options().change(prefix, false);
    }

    fn speaker_options(&self) -> &Speaker {
        match &self.options.speaker {
            Some(speaker) => speaker,
            None => panic!("this lab has no speaker"),
        }
    }

    /// The number of packets that left through the management network for destinations beyond it.
    pub fn mgmt_lost(&self) -> u64 {
        ip_json("mgmt", "-s link show dev sink")[0]["stats64"]["tx"]["packets"].as_u64().unwrap_or_default()
    }

    /// The pids of the processes in a namespace (other than this one), with their names.
    pub fn processes(ns: &str) -> Vec<(u32, String)> {
        let inode = fs::metadata(netns_path(ns)).map(|file| file.ino()).unwrap_or_default();
        processes_where(|net| net == inode)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if thread::panicking() && std::env::var_os("LAB_VERBOSE").is_some() {
            for router in self.leaves.iter().chain(&self.speaker) {
                println!("{}", router.log_text());
            }
        }
        for router in self.leaves.iter_mut().chain(&mut self.speaker) {
            router.kill("");
        }
        sweep();
        for name in names("/run").iter().filter(|name| !self.run_before.contains(name)) {
            let path = Path::new("/run").join(name);
            let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
        }
    }
}

/// Whether the kernel has neither VRFs nor dummies, and bridges replace them: see `Desired::for_plain_kernel`.
pub fn plain() -> bool {
    std::env::var_os("LAB_PLAIN").is_some()
}

/// Kills the processes in all other network namespaces, removes the namespaces, and empties FRR's run directory.
fn sweep() {
    let own = fs::metadata("/proc/self/ns/net").map(|file| file.ino()).unwrap_or_default();
    // Repeated for processes that were being forked.
    for _ in 0..100 {
        let pids = processes_where(|net| net != own);
        if pids.is_empty() {
            break;
        }
        for pid in pids.iter().filter_map(|(pid, _)| Pid::from_raw(pid.cast_signed())) {
            let _ = kill_process(pid, Signal::KILL);
        }
        thread::sleep(Duration::from_millis(20));
    }
    for ns in names("/run/netns") {
        let path = netns_path(&ns);
        // It may have been mounted more than once.
        while unmount(&path, UnmountFlags::DETACH).is_ok() {}
        let _ = fs::remove_file(path);
    }
    for name in names("/run/frr") {
        let path = Path::new("/run/frr").join(name);
        let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
    }
}

fn processes_where(wanted: impl Fn(u64) -> bool) -> Vec<(u32, String)> {
    let own = std::process::id();
    let pids =
        names("/proc").into_iter().filter_map(|name| name.parse::<u32>().ok()).filter(|pid| *pid != own);
    pids.filter_map(|pid| {
        // A zombie has no namespace any more, and a kernel thread has no program.
        let net = fs::metadata(format!("/proc/{pid}/ns/net")).ok()?.ino();
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        wanted(net).then(|| (pid, name.trim_end().to_owned()))
    })
    .collect()
}

fn forward(ns: &str) {
    sysctl(ns, "net/ipv4/ip_forward", "1");
    sysctl(ns, "net/ipv6/conf/all/forwarding", "1");
}

/// The n-th address of a subnet.
fn host_of(net: &str, n: u32) -> String {
    let base = net.split('/').next().unwrap_or(net);
    match base.strip_suffix("::") {
        Some(_) => format!("{base}{n}"),
        None => base
            .rsplit_once('.')
            .map(|(head, tail)| format!("{head}.{}", tail.parse().unwrap_or(0) + n))
            .unwrap_or_default(),
    }
}

/// What kube-proxy does: the service's address becomes the pod's, for packets that come in and for the node's own.
fn translate() {
    let nft = format!(
        "add table inet svc
add chain inet svc in {{ type nat hook prerouting priority dstnat; }}
add chain inet svc out {{ type nat hook output priority -100; }}
add rule inet svc in ip daddr {SERVICE4} dnat ip to {POD_IP}
add rule inet svc in ip6 daddr {SERVICE6} dnat ip6 to {POD_IP6}
add rule inet svc out ip daddr {SERVICE4} dnat ip to {POD_IP}
add rule inet svc out ip6 daddr {SERVICE6} dnat ip6 to {POD_IP6}
"
    );
    must("nft", try_exec_input("host", &["nft", "-f", "-"], &nft));
}
