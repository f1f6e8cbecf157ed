//! Processing time per VNI without the kernel. `make bench` prints it.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::tests::{config, desired, fresh, simulate_all};
use super::*;
use crate::config::{Config, file};
use crate::frr::{Inputs, Version, render};
use crate::model::{Namespaces, Value as _};

/// A configuration file: half of the VNIs are routing domains with a session, the others broadcast domains in them with
/// a gateway.
fn text(vnis: u32) -> String {
    let (mut l3, mut l2) = (String::from("l3vnis:\n"), String::from("l2vnis:\n"));
    for n in 0..vnis / 2 {
        let (vni, a, b) = (1000 + 2 * n, n / 200, n % 200);
        writeln!(l3, "- {{vrf: v{vni}, vni: {vni}, hostSession: {{asn: 64514, hostASN: 64515, localCIDR: {{ipv4: 11.{a}.{b}.0/24}}}}}}").unwrap();
        writeln!(l2, "- {{vni: {}, routingDomain: {{type: L3VNI, l3vni: {{name: v{vni}}}}}, gatewayIPs: [11.1{a:02}.{b}.1/24], hostMaster: {{type: LinuxBridge, linuxBridge: {{lifecycle: Managed}}}}}}", vni + 1).unwrap();
    }
    format!("underlay: {{tunnelEndpoint: {{cidrs: [100.65.0.0/24]}}}}\n{l3}{l2}")
}

/// The shortest time of five runs, and the result of the last run.
fn shortest<T>(mut work: impl FnMut() -> T) -> (Duration, T) {
    let mut once = || {
        let begin = Instant::now();
        let made = work();
        (begin.elapsed(), made)
    };
    (0..4).fold(once(), |best, _| {
        let (time, made) = once();
        (best.0.min(time), made)
    })
}

#[test]
#[ignore = "figures, not a test: make bench"]
fn each_vni_costs_the_same_time() {
    println!(
        "µs per VNI, by number of VNIs: reading the file, planning everything, planning without changes, rendering"
    );
    for vnis in [125, 250, 500, 1000, 2000] {
        let files = [("growth.yaml".to_owned(), text(vnis))];
        let (reading, (overlay, problems)) = shortest(|| file::parse_files(&files, &config(&[])));
        assert!(problems.is_empty(), "{}", problems[0]);
        let config = Config { overlay, ..config(&[]) };
        let now = fresh(true);
        let build = |now: &Namespaces| plan(&desired(&config, now).unwrap(), now.clone()).ops;
        let (planning, ops) = shortest(|| build(&now));
        let built = simulate_all(&ops, now);
        let (unchanged, remaining) = shortest(|| build(&built));
        assert!(remaining.is_empty(), "{}", remaining[0]);
        let ports = [IfName::parse("eth1").unwrap()];
        let inputs = Inputs {
            config: &config,
            ports: &ports,
            node_ip_is_local: false,
            port_addresses: &[],
            version: Version::NEWEST,
        };
        let (rendering, _) = shortest(|| render(&inputs, None).unwrap());
        let each = [reading, planning, unchanged, rendering].map(|time| time.as_micros() / u128::from(vnis));
        println!("{vnis:5} {:5} {:5} {:5} {:5}", each[0], each[1], each[2], each[3]);
    }
}
