//! From any rendered configuration to any other: the commands lead to the same running configuration as a start with
//! the other one. Real daemons, random pairs. LAB_PAIRS (60), LAB_SEED.
#![allow(clippy::unwrap_used)]

mod grammar;
mod lab;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use frr_supervisor::frr::Document;
use frr_supervisor::frr::Version;
use frr_supervisor::frr::delta::{Delta, delta};
use lab::*;

/// A configuration file with everything that it can have, from so few names that two files have much in common.
fn yaml(dice: &mut Random) -> String {
    let bfd = |dice: &mut Random| match dice.below(4) {
        0 => ", bfd: {}".to_owned(),
        1 => {
            let (rx, mult) = (300 + 100 * dice.below(3), 3 + dice.below(2));
            format!(", bfd: {{receiveInterval: {rx}, detectMultiplier: {mult}}}")
        }
        _ => String::new(),
    };
    let mut text = String::from("underlay:\n  tunnelEndpoint: {cidrs: [100.65.0.0/24]}\n");
    if dice.once_in(3) {
        writeln!(text, "  gracefulRestart: {{restartTimeSeconds: {}}}", 100 + dice.below(2)).unwrap();
    }
    text += "  neighbors:\n";
    for n in 0..5 {
        if dice.once_in(2) {
            continue;
        }
        let (kind, asn) =
            (dice.below(4), dice.of(&["asn: 65101", "asn: 65001", "type: External", "type: Internal"]));
        let peer = match (n, kind) {
            (0 | 1, 0) => format!("listenRange: 198.51.{n}.0/24"),
            (2, _) => format!("interface: up{n}"),
            _ => format!("address: 198.51.100.1{n}"),
        };
        let mut line = format!("  - {{{peer}, {asn}");
        if dice.once_in(3) {
            line += &format!(", holdTimeSeconds: {0}, keepaliveTimeSeconds: 3", 9 + 3 * dice.below(2));
        }
        if dice.once_in(3) {
            line += &format!(", password: secret{}", dice.below(2));
        }
        if dice.once_in(3) && !line.contains("listenRange") {
            line += &format!(", port: {}", 1179 + dice.below(2));
        }
        line += &bfd(dice);
        writeln!(text, "{line}}}").unwrap();
    }
    text += "l3vnis:\n";
    let mut vrfs = vec![];
    for (n, vrf) in (1..).zip(["red", "blue", "green", "grey"]) {
        if dice.once_in(3) {
            continue;
        }
        vrfs.push(vrf);
        let mut line = format!("- {{vrf: {vrf}, vni: {}", 100 * n + dice.below(2));
        if dice.once_in(2) {
            let v6 = if dice.once_in(2) {
                format!(", ipv6: 2001:db8:{n}{}::/64", dice.below(2))
            } else {
                String::new()
            };
            let asn = if dice.once_in(20) { 64500 } else { 65001 };
            line += &format!(
                ", hostSession: {{asn: {asn}, hostASN: 6451{}, localCIDR: {{ipv4: 192.168.{}.0/24{v6}}}{}}}",
                5 + dice.below(2),
                10 * n,
                bfd(dice)
            );
        }
        for side in ["exportRTs", "importRTs"] {
            if dice.once_in(3) {
                line +=
                    &format!(", {side}: [\"65000:{}\", \"65000:{}\"]", 1 + dice.below(2), 3 + dice.below(3));
            }
        }
        writeln!(text, "{line}}}").unwrap();
    }
    text += "l2vnis:\n";
    for n in 0..3 {
        if !vrfs.is_empty() && dice.once_in(2) {
            let vrf = dice.of(&vrfs);
            let domain = format!("{{type: L3VNI, l3vni: {{name: {vrf}}}}}");
            writeln!(
                text,
                "- {{vni: {}, routingDomain: {domain}, gatewayIPs: [10.{n}.{}.1/24]}}",
                5000 + n,
                dice.below(2)
            )
            .unwrap();
        }
    }
    if dice.once_in(3) {
        writeln!(text, "l3passthrough: {{hostSession: {{asn: 65001, hostASN: 64999, localCIDR: {{ipv4: 192.168.99.0/24}}{}}}}}", bfd(dice))
            .unwrap();
    }
    text += "rawFRRConfigs:\n";
    if dice.once_in(2) {
        text += "- rawConfig: |\n";
        for n in 0..4 {
            if dice.once_in(2) {
                writeln!(
                    text,
                    "    ip prefix-list raw seq {} permit 10.{}.0.0/16 le {}",
                    5 * n + 5,
                    // FRR 8.4 refuses the same entry twice in a list.
                    if version() < Version(10, 0) { 3 * n } else { 0 } + dice.below(3),
                    24 + dice.below(2)
                )
                .unwrap();
            }
        }
        for n in [10, 20] {
            if dice.once_in(2) {
                let (action, list) = (dice.of(&["permit", "deny"]), dice.of(&["raw", "metallb"]));
                writeln!(text, "    route-map raw {action} {n}\n     match ip address prefix-list {list}")
                    .unwrap();
                if dice.once_in(2) {
                    writeln!(text, "     set community 65000:{} additive", dice.below(3)).unwrap();
                }
                if dice.once_in(2) {
                    writeln!(text, "     set metric {}", dice.below(3)).unwrap();
                }
                writeln!(text, "    exit").unwrap();
            }
        }
        if dice.once_in(2) {
            writeln!(text, "    router bgp 65001\n     neighbor fabric description {}\n     address-family ipv4 unicast\n      neighbor fabric route-map raw in\n      network 10.{}.0.0/16\n     exit-address-family\n    exit", dice.of(&["one", "two words"]), dice.below(3)).unwrap();
        }
        if dice.once_in(2) {
            writeln!(text, "    ip route 10.{}.0.0/16 Null0", dice.below(3)).unwrap();
        }
        if text.ends_with("|\n") {
            text += "    ip prefix-list last seq 5 permit any\n";
        }
    }
    text
}

#[test]
fn commands_lead_to_the_same_configuration_as_a_start() {
    let pairs: u32 = std::env::var("LAB_PAIRS").map_or(60, |n| n.parse().unwrap());
    let seed: u64 = std::env::var("LAB_SEED").map_or(1, |n| n.parse().unwrap());
    let mut dice = Random::new(seed);
    let mut before = text_of(&yaml(&mut dice));
    let mut live = Standalone::start("live", &before);
    let (mut sent, mut restarts, mut refused, mut wrong, mut slowest) = (0, 0, 0, 0, Duration::ZERO);
    for pair in 1..=pairs {
        let after = text_of(&yaml(&mut dice));
        let steps = match delta(&Document::parse(&before), &Document::parse(&after), version()) {
            Delta::Commands(steps, late) => [steps, late].concat(),
            Delta::Invalid(reason) => panic!("{reason}"),
            Delta::Restart(which, reason) => {
                println!("pair {pair}: restart of {which:?}: {reason}");
                restarts += 1;
                drop(live);
                live = Standalone::start("live", &after);
                before = after;
                continue;
            }
        };
        let begin = Instant::now();
        let mut replies = String::new();
        for step in &steps {
            sent += step.commands.len();
            for (command, status, output) in live.send(step) {
                let line = format!("{} {status} {} {}", step.daemon, command.text, output.trim());
                if status != 0 && !command.optional {
                    refused += 1;
                    println!("pair {pair}: {line}");
                }
                writeln!(replies, "{line}").unwrap();
            }
        }
        slowest = slowest.max(begin.elapsed());
        let fresh = Standalone::start("fresh", &after);
        let (has, wants) = (live.running(), fresh.running());
        if has != wants {
            wrong += 1;
            for ((daemon, has), (_, wants)) in has.iter().zip(&wants) {
                for line in has.difference(wants) {
                    println!("pair {pair}: {daemon}: too much: {line}");
                }
                for line in wants.difference(has) {
                    println!("pair {pair}: {daemon}: missing: {line}");
                }
            }
            if wrong <= 3 {
                println!("{replies}");
            }
            drop(live);
            live = Standalone::start("live", &after);
        }
        before = after;
    }
    println!(
        "{pairs} pairs: {sent} commands, {restarts} restarts, {refused} refused, {wrong} wrong; the slowest took {slowest:?}"
    );
    assert_eq!((refused, wrong), (0, 0));
}
