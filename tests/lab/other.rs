//! Leaf switches that are not FRR: BIRD, which forwards too, and GoBGP, which only keeps its table.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};

use super::*;

/// The BGP implementation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bird,
    Gobgp,
}

/// `leaf2` with another BGP in the place of FRR's.
pub struct Other {
    pub kind: Kind,
    child: Child,
}

const BIRD_SOCKET: &str = "/tmp/leaf2-bird.ctl";

/// The link-local address that eth2 derives from its MAC address (RFC 4291, appendix A).
const NODE_LINK_LOCAL: &str = "fe80::fa:b0ff:fe00:201";

/// Graceful-restart helper and radv, for FRR's unnumbered neighbors; timers as the FRR leaves have them.
fn bird_config() -> String {
    let (asn, id) = (LEAF_ASN[1], LEAF_ID[1]);
    format!(
        r#"log stderr all;
router id {id};
protocol device {{ scan time 1; }}
protocol radv {{ interface "node" {{ max ra interval 4; }}; }}
protocol direct {{ ipv4; ipv6; interface "client"; }}
protocol kernel {{ ipv4 {{ export where source = RTS_BGP; }}; }}
protocol kernel {{ ipv6 {{ export where source = RTS_BGP; }}; }}
protocol bfd {{ interface "node" {{ interval 3 s; multiplier 5; }}; }}
protocol bgp node {{
    local as {asn};
    interface "node";
    neighbor {NODE_LINK_LOCAL} external;
    hold time 9; connect retry time 1; connect delay time 1; error wait time 1, 2;
    bfd on;
    graceful restart aware;
    ipv4 {{ import all; export all; extended next hop on; }};
    ipv6 {{ import all; export all; }};
}}
"#
    )
}

fn gobgp_config() -> String {
    let (asn, id) = (LEAF_ASN[1], LEAF_ID[1]);
    let family = |name: &str| {
        format!(
            "[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"{name}\"\n\
             [neighbors.afi-safis.mp-graceful-restart.config]\nenabled = true\n"
        )
    };
    format!(
        "[global.config]\nas = {asn}\nrouter-id = \"{id}\"\n[[neighbors]]\n[neighbors.config]\n\
         neighbor-address = \"{NODE_LINK_LOCAL}%node\"\npeer-as = 65001\n\
         [neighbors.timers.config]\nconnect-retry = 1\nhold-time = 9\nkeepalive-interval = 3\n\
         [neighbors.graceful-restart.config]\nenabled = true\nrestart-time = 120\nhelper-only = true\n\
         notification-enabled = true\n{}{}",
        family("ipv4-unicast"),
        family("ipv6-unicast")
    )
}

impl Other {
    /// Stops `leaf2`'s own BGP, removes the routes that it learnt, and starts the other.
    pub fn instead(lab: &mut Lab, kind: Kind) -> Self {
        let leaf = &mut lab.leaves[1];
        for daemon in ["bgpd", "bfdd"] {
            leaf.kill(daemon);
        }
        let argv: Vec<&str> = match kind {
            Kind::Bird => {
                leaf.kill("");
                must("bird.conf", fs::write("/tmp/leaf2-bird.conf", bird_config()));
                vec!["/usr/sbin/bird", "-f", "-c", "/tmp/leaf2-bird.conf", "-s", BIRD_SOCKET]
            }
            Kind::Gobgp => {
                // It sends no router advertisements itself; FRR's zebra does.
                must(
                    "zebra",
                    leaf.configure("interface node\n no ipv6 nd suppress-ra\n ipv6 nd ra-interval 4\nexit\n"),
                );
                must("gobgpd.toml", fs::write("/tmp/leaf2-gobgpd.toml", gobgp_config()));
                vec!["/usr/bin/gobgpd", "-f", "/tmp/leaf2-gobgpd.toml"]
            }
        };
        for version in ["-4", "-6"] {
            let _ = try_exec("leaf2", &["ip", version, "route", "flush", "proto", "bgp"]);
        }
        let log = must("log", File::create("/tmp/leaf2-other.log"));
        let mut command = Command::new(argv[0]);
        command.args(&argv[1..]).stdin(Stdio::null());
        command.stdout(must("log", log.try_clone())).stderr(log);
        Self { kind, child: must(argv[0], in_ns("leaf2", || command.spawn())) }
    }

    /// Its output for the route to a prefix; empty if it has none.
    pub fn route(&self, prefix: &str) -> String {
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        let output = match self.kind {
            Kind::Bird => {
                try_exec("leaf2", &["birdc", "-s", BIRD_SOCKET, "show", "route", "for", prefix, "all"])
            }
            Kind::Gobgp => try_exec("leaf2", &["gobgp", "global", "rib", "-a", family, prefix]),
        };
        output
            .unwrap_or_default()
            .lines()
            .filter(|line| !line.starts_with("BIRD"))
            .collect::<Vec<_>>()
            .join("\n")
    }

    pub fn has(&self, prefix: &str) -> bool {
        // Only a line of a route has an AS number in it.
        self.route(prefix).contains("65001")
    }

    /// Its session with the node.
    pub fn session(&self) -> String {
        match self.kind {
            Kind::Bird => {
                try_exec("leaf2", &["birdc", "-s", BIRD_SOCKET, "show", "protocols", "all", "node"])
            }
            Kind::Gobgp => try_exec("leaf2", &["gobgp", "neighbor", &format!("{NODE_LINK_LOCAL}%node")]),
        }
        .unwrap_or_default()
    }

    pub fn is_established(&self) -> bool {
        let output = self.session().to_lowercase();
        output.contains("established") && !output.contains("bgp state = idle")
    }

    /// Whether its BFD session is up, if it can have one.
    pub fn has_bfd_or_none(&self) -> bool {
        self.kind == Kind::Gobgp
            || try_exec("leaf2", &["birdc", "-s", BIRD_SOCKET, "show", "bfd", "sessions"])
                .is_ok_and(|output| output.contains(" Up "))
    }

    pub fn log_text(&self) -> String {
        fs::read_to_string("/tmp/leaf2-other.log").unwrap_or_default()
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
