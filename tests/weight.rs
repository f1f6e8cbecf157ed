//! `make bench`: the cost of the status on a node with many VNIs and sessions: the time of each HTTP path, the
//! additional memory, and the CPU time without requests. LAB_VNIS: how many (1000), LAB_SESSIONS: how many of them have
//! one with a host (100).
#![allow(clippy::unwrap_used)]

mod lab;

use std::fmt::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use lab::*;

const FILE: &str = "/tmp/weight.yaml";

fn number(name: &str, default: u32) -> u32 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The first VNIs have a session each, the others are broadcast domains.
fn file(vnis: u32, sessions: u32) -> String {
    let (mut l3, mut l2) = (String::from("l3vnis:\n"), String::from("l2vnis:\n"));
    for n in 0..vnis {
        let (vni, a, b) = (1000 + n, n / 200, n % 200);
        if n < sessions {
            writeln!(l3, "- {{vrf: v{vni}, vni: {vni}, hostSession: {{asn: 64514, hostASN: 64515, localCIDR: {{ipv4: 11.{a}.{b}.0/24}}}}}}").unwrap();
        } else {
            writeln!(l2, "- {{vni: {vni}}}").unwrap();
        }
    }
    format!("underlay: {{tunnelEndpoint: {{cidrs: [100.65.0.0/24]}}}}\n{l3}{l2}")
}

/// Resident memory in MiB, and the CPU time of each thread in seconds and how often it has slept, by its name.
fn usage(pid: u32) -> (f64, Vec<(String, f64, f64)>) {
    let rss = number_of(&format!("/proc/{pid}"), "VmRSS") / 1024.0;
    let mut threads = vec![];
    for task in names(format!("/proc/{pid}/task")) {
        let path = format!("/proc/{pid}/task/{task}");
        let name = std::fs::read_to_string(format!("{path}/comm")).unwrap_or_default();
        threads.push((
            name.trim().to_owned(),
            cpu_seconds(&path),
            number_of(&path, "voluntary_ctxt_switches"),
        ));
    }
    (rss, threads)
}

fn main() {
    let (vnis, sessions) = (number("LAB_VNIS", 1000), number("LAB_SESSIONS", 100));
    for (vnis, sessions) in [(0, 0), (vnis, sessions)] {
        let lab = Lab::new(Options::default());
        std::fs::write(FILE, if vnis == 0 { "rawFRRConfigs: []\n".into() } else { file(vnis, sessions) })
            .unwrap();
        let begin = Instant::now();
        let node = start(&lab, &[("CONFIG_FILE", FILE), ("LOG_LEVEL", "warn")]);
        wait_until("the node", Duration::from_secs(600), || status_of("phase") == "running");
        let known = || {
            let all = status();
            let count = |name: &str| all[name].as_array().map_or(0, Vec::len);
            (count("vnis"), count("bgp"))
        };
        wait_until("all VNIs and sessions", Duration::from_secs(600), || {
            known() == (vnis as usize, sessions as usize + 3)
        });
        println!(
            "{vnis} VNIs, {} sessions: known after {:.1} s",
            sessions + 3,
            begin.elapsed().as_secs_f64()
        );
        // New sessions are watched more closely for a while.
        thread::sleep(Duration::from_secs(75));
        let (before, cpu) = usage(node.pid());
        let asleep = Instant::now();
        thread::sleep(Duration::from_secs(60));
        let (_, later) = usage(node.pid());
        let seconds = asleep.elapsed().as_secs_f64();
        for ((name, cpu, slept), (_, cpu_later, slept_later)) in cpu.iter().zip(&later) {
            let (cpu, slept) = (100.0 * (cpu_later - cpu) / seconds, (slept_later - slept) / seconds);
            println!("  idle: thread {name} {cpu:.3} % of a core, {slept:.2} wake-ups a second");
        }
        for path in ["/metrics", "/status.json", "/", "/readyz"] {
            let mut times: Vec<f64> = (0..10)
                .map(|_| {
                    // Longer than a reply is cached.
                    thread::sleep(Duration::from_millis(1100));
                    let begin = Instant::now();
                    let (_, body) = get(path).unwrap();
                    let time = begin.elapsed().as_secs_f64() * 1000.0;
                    assert!(!body.is_empty());
                    time
                })
                .collect();
            times.sort_by(f64::total_cmp);
            println!("  {path}: {:.1} ms ({} bytes)", times[times.len() / 2], get(path).unwrap().1.len());
        }
        let (after, _) = usage(node.pid());
        println!("  memory: {before:.1} MiB, {after:.1} MiB after the requests");
    }
}
