//! The FRR of the lab itself: the two leaf switches, and the stand-in for MetalLB's speaker.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::sh::{exec, frr_dir, in_ns, must, names, try_vtysh, wait_until};
use super::*;

/// Where the program of a daemon is.
pub fn daemon(name: &str) -> PathBuf {
    Path::new("/usr/lib/frr").join(name)
}

/// Whether the lab's FRR is 8.x: mgmtd came with 9.0.
pub fn frr_is_8() -> bool {
    !daemon("mgmtd").exists()
}

/// One FRR, under its own name in /run/frr (`-N`).
pub struct Router {
    pub name: String,
    ns: String,
    daemons: Vec<(String, Vec<String>)>,
    children: Vec<(String, Child)>,
}

impl Router {
    /// `daemons` with their flags, in the order to start them; mgmtd is added where this FRR has it.
    pub fn new(name: &str, ns: &str, daemons: &[(&str, &str)]) -> Self {
        let mut list = vec![];
        if !frr_is_8() {
            list.push(("mgmtd", "-P 0"));
        }
        list.extend(daemons);
        let words = |flags: &str| flags.split_whitespace().map(str::to_owned).collect();
        let daemons = list.iter().map(|(daemon, flags)| ((*daemon).to_owned(), words(flags))).collect();
        Self { name: name.to_owned(), ns: ns.to_owned(), daemons, children: vec![] }
    }

    /// Starts routers together, and gives each its configuration.
    pub fn start_all(routers: &mut [(&mut Router, String)]) {
        for (router, _) in routers.iter() {
            // FRR 8.4 needs all of them.
            let dirs = ["/run/frr", "/etc/frr", "/var/lib/frr", "/var/tmp/frr"]
                .map(|dir| format!("{dir}/{}", router.name));
            let argv = ["install", "-d", "-o", "frr", "-g", "frr", &dirs[0], &dirs[1], &dirs[2], &dirs[3]];
            exec("", &argv);
            must("vtysh.conf", File::create(format!("{}/vtysh.conf", dirs[1])));
        }
        // mgmtd before zebra before the rest: a daemon that does not find the one it needs retries only after a long
        // time.
        for stage in [&["mgmtd"] as &[&str], &["zebra"], &[]] {
            let in_stage = |daemon: &str| match stage {
                [] => daemon != "mgmtd" && daemon != "zebra",
                [one, ..] => daemon == *one,
            };
            for (router, _) in routers.iter_mut() {
                for (daemon, _) in router.daemons.clone() {
                    if in_stage(&daemon) {
                        router.spawn(&daemon);
                    }
                }
            }
            for (router, _) in routers.iter() {
                for (daemon, _) in router.daemons.iter().filter(|(daemon, _)| in_stage(daemon)) {
                    router.await_socket(daemon);
                }
            }
        }
        for (router, config) in routers.iter() {
            must("its configuration", router.configure(config));
        }
    }

    fn log(&self, daemon: &str) -> PathBuf {
        PathBuf::from(format!("/tmp/{}-{daemon}.log", self.name))
    }

    fn spawn(&mut self, daemon: &str) {
        let flags = self
            .daemons
            .iter()
            .find(|(name, _)| name == daemon)
            .map(|(_, flags)| flags.clone())
            .unwrap_or_default();
        let mut command = Command::new(self::daemon(daemon));
        command.args(["-N", &self.name, "--log", "stdout"]).args(flags).stdin(Stdio::null());
        let log = must("log", File::options().create(true).append(true).open(self.log(daemon)));
        command.stdout(must("log", log.try_clone())).stderr(log);
        let child = must(daemon, in_ns(&self.ns, || command.spawn()));
        self.children.push((daemon.to_owned(), child));
    }

    fn await_socket(&self, daemon: &str) {
        let dir = frr_dir(&self.name);
        wait_until(
            &format!("{daemon} of {} (see {})", self.name, self.log(daemon).display()),
            Duration::from_secs(30),
            || {
                super::vty(&self.name, daemon, "echo PING").is_ok()
                    && (daemon != "zebra" || dir.join("zserv.api").exists())
            },
        );
    }

    /// Sends lines of configuration to the running daemons (`vtysh -f`).
    pub fn configure(&self, config: &str) -> Result {
        let file = format!("/tmp/{}.conf", self.name);
        must(&file, fs::write(&file, config));
        super::try_exec("", &["vtysh", "-N", &self.name, "-f", &file])
    }

    pub fn pid(&self, daemon: &str) -> Option<u32> {
        self.children.iter().find(|(name, _)| name == daemon).map(|(_, child)| child.id())
    }

    /// Kills a daemon, or all of them with "".
    pub fn kill(&mut self, daemon: &str) {
        self.children.retain_mut(|(name, child)| {
            if !daemon.is_empty() && name != daemon {
                return true;
            }
            let _ = child.kill();
            let _ = child.wait();
            false
        });
    }

    /// Starts a killed daemon again with the whole configuration.
    pub fn restart(&mut self, daemon: &str, config: &str) {
        self.spawn(daemon);
        self.await_socket(daemon);
        must("its configuration", self.configure(config));
    }

    pub fn log_text(&self) -> String {
        let one = |daemon: &String| {
            format!(
                "--- {} {daemon}\n{}",
                self.name,
                fs::read_to_string(self.log(daemon)).unwrap_or_default()
            )
        };
        self.daemons.iter().map(|(daemon, _)| one(daemon)).collect()
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.kill("");
        for name in names("/tmp").iter().filter(|name| name.starts_with(&self.name)) {
            let _ = fs::remove_file(Path::new("/tmp").join(name));
        }
    }
}

/// A leaf switch's configuration: unnumbered eBGP to the node, graceful restart as a helper.
pub(super) fn leaf_config(leaf: usize, options: &Options) -> String {
    let (asn, id) = (LEAF_ASN[leaf], LEAF_ID[leaf]);
    let mut peers = vec!["node"];
    if options.interleaf {
        peers.push("peer");
    }
    let (mut neighbors, mut activate, mut bfd) = (String::new(), String::new(), String::new());
    for peer in peers {
        neighbors +=
            &format!(" neighbor {peer} interface remote-as external\n neighbor {peer} timers connect 1\n");
        activate += &format!("  neighbor {peer} activate\n");
    }
    if let Some((interval, multiplier)) = options.bfd {
        neighbors += " neighbor node bfd\n neighbor node bfd profile node\n";
        bfd = bfd_profile("node", interval, multiplier);
    }
    let (client4, client6) = (CLIENT_NET4[leaf], CLIENT_NET6[leaf]);
    format!(
        "frr defaults datacenter
hostname leaf{number}
router bgp {asn}
 bgp router-id {id}
 no bgp ebgp-requires-policy
 no bgp network import-check
 bgp bestpath as-path multipath-relax
 bgp graceful-restart
 bgp graceful-restart preserve-fw-state
 timers bgp 3 9
{neighbors} address-family ipv4 unicast
  network {client4}
  network {SHARED_NET4}
 exit-address-family
 address-family ipv6 unicast
{activate}  network {client6}
  network {SHARED_NET6}
 exit-address-family
exit
{bfd}{extra}",
        number = leaf + 1,
        extra = options.leaf_extra,
    )
}

fn bfd_profile(name: &str, interval: u32, multiplier: u32) -> String {
    format!(
        "bfd\n profile {name}\n  receive-interval {interval}\n  transmit-interval {interval}\n  detect-multiplier {multiplier}\n exit\nexit\n"
    )
}

/// The settings of MetalLB's BGPPeer resource; `Default` has those of the usual lab.
#[derive(Clone, Debug)]
pub struct Speaker {
    pub asn: u32,
    pub peer: String,
    pub peer_asn: u32,
    pub router_id: Option<String>,
    /// `connectTime`, seconds.
    pub connect: Option<u32>,
    /// `keepaliveTime` and `holdTime`, seconds.
    pub timers: (u32, u32),
    /// `enableGracefulRestart`.
    pub graceful_restart: bool,
    /// `bfdProfile`: milliseconds and multiplier; bfdd runs only with it.
    pub bfd: Option<(u32, u32)>,
    pub password: Option<String>,
    /// `dualStackAddressFamily`.
    pub dual_stack: bool,
    /// What is announced from the start.
    pub services: Vec<String>,
    /// Raw lines (`bgpextras`, `rawConfig`), appended.
    pub extra: String,
}

impl Default for Speaker {
    fn default() -> Self {
        Self {
            asn: 4000099999,
            peer: "fda1:b2c3:d4e5:1::".to_owned(),
            peer_asn: 4000099998,
            router_id: Some("10.0.0.11".to_owned()),
            connect: Some(1),
            timers: (30, 90),
            graceful_restart: false,
            bfd: None,
            password: None,
            dual_stack: true,
            services: vec![format!("{SERVICE4}/32"), format!("{SERVICE6}/128")],
            extra: String::new(),
        }
    }
}

impl Speaker {
    /// The usual one with more services, which no process serves.
    pub fn with_more(services: usize) -> Self {
        let mut speaker = Self::default();
        speaker.services.extend((0..services).map(|n| format!("198.51.{}.{}/32", 101 + n / 100, n % 100)));
        speaker
    }

    /// `capability extended-nexthop`, which MetalLB itself has no field for: IPv4 services over the IPv6 session.
    pub fn extended_nexthop(mut self) -> Self {
        self.extra +=
            &format!("router bgp {}\n neighbor {} capability extended-nexthop\nexit\n", self.asn, self.peer);
        self
    }

    pub(super) fn router(&self) -> Router {
        let mut daemons = vec![
            ("zebra", "-A 127.0.0.1 -s 90000000"),
            ("staticd", "-A 127.0.0.1"),
            ("bgpd", "-A 127.0.0.1 -p 0"),
        ];
        if self.bfd.is_some() {
            daemons.insert(2, ("bfdd", "-A 127.0.0.1"));
        }
        Router::new("speaker", "host", &daemons)
    }

    /// The lines that announce or withdraw a service. MetalLB renumbers its lists each time; the lab only adds and
    /// removes entries.
    fn prefix_lines(&self, prefix: &str, no: &str) -> String {
        let (family, list) = if prefix.contains(':') { ("ipv6", "ipv6") } else { ("ip", "ipv4") };
        let af = if family == "ip" { "ipv4" } else { "ipv6" };
        format!(
            "{no}{family} prefix-list {peer}-allowed-{list} permit {prefix}\nrouter bgp {asn}\n address-family {af} unicast\n  {no}network {prefix}\n exit-address-family\nexit\n",
            peer = self.peer,
            asn = self.asn,
        )
    }

    /// As MetalLB's FRR mode writes it for a single peer (its golden files).
    pub fn config(&self) -> String {
        let p = &self.peer;
        let mut neighbor = format!("  neighbor {p} remote-as {}\n  neighbor {p} port 179\n", self.peer_asn);
        neighbor += &format!("  neighbor {p} timers {} {}\n", self.timers.0, self.timers.1);
        if let Some(connect) = self.connect {
            neighbor += &format!("  neighbor {p} timers connect {connect}\n");
        }
        if let Some(password) = &self.password {
            neighbor += &format!("  neighbor {p} password {password}\n");
        }
        if self.graceful_restart {
            neighbor += &format!("  neighbor {p} graceful-restart\n");
        }
        if self.bfd.is_some() {
            neighbor += &format!("  neighbor {p} bfd\n  neighbor {p} bfd profile local\n");
        }
        if p.contains(':') {
            neighbor += &format!("  neighbor {p} disable-connected-check\n");
        }
        let families = match (self.dual_stack, p.contains(':')) {
            (true, _) => &["ipv4", "ipv6"] as &[&str],
            (false, true) => &["ipv6"],
            (false, false) => &["ipv4"],
        };
        let family = |af: &&str| {
            format!(
                "  address-family {af} unicast\n    neighbor {p} activate\n    neighbor {p} route-map {p}-in in\n    neighbor {p} route-map {p}-out out\n  exit-address-family\n"
            )
        };
        format!(
            "log timestamp precision 3
hostname worker-1
ip nht resolve-via-default
ipv6 nht resolve-via-default
route-map {p}-in deny 20
exit
route-map {p}-out permit 1
  match ip address prefix-list {p}-allowed-ipv4
exit
route-map {p}-out permit 2
  match ipv6 address prefix-list {p}-allowed-ipv6
exit
router bgp {asn}
  no bgp ebgp-requires-policy
  no bgp network import-check
  no bgp default ipv4-unicast
  bgp graceful-restart preserve-fw-state
{id}{neighbor}{families}exit
{services}{bfd}{extra}",
            asn = self.asn,
            id = self.router_id.as_ref().map(|id| format!("  bgp router-id {id}\n")).unwrap_or_default(),
            families = families.iter().map(family).collect::<String>(),
            services = self.services.iter().map(|prefix| self.prefix_lines(prefix, "")).collect::<String>(),
            bfd = self
                .bfd
                .map(|(interval, multiplier)| bfd_profile("local", interval, multiplier))
                .unwrap_or_default(),
            extra = self.extra,
        )
    }

    pub(super) fn change(&self, prefix: &str, announce: bool) {
        let lines = self.prefix_lines(prefix, if announce { "" } else { "no " });
        must(prefix, try_vtysh("speaker", &format!("configure terminal\n{lines}")));
    }
}
