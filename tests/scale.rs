//! `make bench`: the cost of building, checking and changing the devices of many VNIs, with frr-supervisor, with `ip
//! -batch` and with one `ip` process for each command, on the same kernel in the same run. LAB_VNIS: how many,
//! comma-separated; LAB_PLAIN: bridges replace VRFs and dummies.
#![allow(clippy::unwrap_used)]

mod lab;

use std::fmt::Write as _;
use std::process::Command;
use std::time::Instant;

use frr_supervisor::config::{Config, file, from_vars};
use frr_supervisor::kernel::{Kernel, LinkSetting, Op, ops_in_one_message, plan};
use frr_supervisor::model::{Desired, Side, SpecKind};
use frr_supervisor::resolve::resolve;
use lab::*;
use log::Level;

/// The namespace of a measurement, beside the host's.
const ROUTER: &str = "scale";

/// How often the devices are built on a plain kernel (LAB_PLAIN).
const BUILDS: usize = 5;

/// Half of them routing domains with a session of the host, half broadcast domains with a gateway.
fn config(vnis: std::ops::Range<u32>) -> Config {
    let env = [
        ("NODE_IP", "203.0.113.130"),
        ("ASN_LOCAL", "65001"),
        ("FE_MACS", "02:fa:b0:00:01:01"),
        ("RETURN_PATH", "none"),
        ("NETNS", ROUTER),
    ];
    let mut config = from_vars(env.iter().map(|(k, v)| ((*k).into(), (*v).into()))).unwrap();
    let (mut l3, mut l2) = (String::from("l3vnis:\n"), String::from("l2vnis:\n"));
    for n in vnis {
        let (vni, a, b) = (1000 + n, n / 200, n % 200);
        if n % 2 == 0 {
            writeln!(l3, "- {{vrf: v{vni}, vni: {vni}, hostSession: {{asn: 64514, hostASN: 64515, localCIDR: {{ipv4: 11.{a}.{b}.0/24}}}}}}").unwrap();
        } else {
            let domain = format!("{{type: L3VNI, l3vni: {{name: v{}}}}}", vni - 1);
            writeln!(l2, "- {{vni: {vni}, routingDomain: {domain}, gatewayIPs: [11.1{a:02}.{b}.1/24], hostMaster: {{type: LinuxBridge, linuxBridge: {{lifecycle: Managed}}}}}}").unwrap();
        }
    }
    let text = format!("underlay: {{tunnelEndpoint: {{cidrs: [100.65.0.0/24]}}}}\n{l3}{l2}");
    let (overlay, problems) = file::parse_files(&[("scale.yaml".into(), text)], &config);
    assert!(problems.is_empty(), "{}", problems[0]);
    config.overlay = overlay;
    config
}

fn desired(config: &Config, kernel: &mut Kernel) -> Desired {
    let desired = resolve(config, &kernel.observe(None).unwrap(), &[]).desired;
    if plain() { desired.for_plain_kernel() } else { desired }
}

/// Wall-clock seconds, and those of CPU time, user and system, without what a hypervisor takes.
#[derive(Clone, Copy)]
struct Cost {
    wall: f64,
    cpu: f64,
}

fn cost<T>(children: bool, work: impl FnOnce() -> T) -> (Cost, T) {
    // utime and stime, or cutime and cstime, in clock ticks of 10 ms (proc_pid_stat(5)).
    let cpu = || {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let at = if children { 13 } else { 11 };
        fields[at..at + 2].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
    };
    let (before, start) = (cpu(), Instant::now());
    let result = work();
    (Cost { wall: start.elapsed().as_secs_f64(), cpu: cpu() - before }, result)
}

fn median(mut costs: Vec<Cost>) -> Cost {
    costs.sort_by(|a, b| a.wall.total_cmp(&b.wall));
    costs[costs.len() / 2]
}

/// The largest amount of memory that this process has had, in MiB.
fn peak_mib() -> f64 {
    number_of("/proc/self", "VmHWM") / 1024.0
}

/// The `ip` command for changes that go into one message. `ip` cannot set kernel parameters.
fn command(ops: &[Op]) -> Option<(Side, String)> {
    let (side, name) = ops[0].link().unwrap_or((Side::Router, ""));
    let mut line = String::new();
    for op in ops {
        line += &match op {
            Op::Create { name, kind, mac, master, .. } => {
                let mut line = format!("link add name {name} group 4242");
                if let Some(mac) = mac {
                    line += &format!(" address {mac}");
                }
                if let Some(master) = master {
                    line += &format!(" master {master}");
                }
                line + &match kind {
                    SpecKind::Vrf(table) => format!(" type vrf table {table}"),
                    SpecKind::Veth(_, peer) => format!(" type veth peer name {peer} group 4242 netns 1"),
                    SpecKind::Dummy => " type dummy".into(),
                    SpecKind::Bridge => " type bridge".into(),
                    SpecKind::Vxlan(t) => {
                        format!(
                            " type vxlan id {} dstport {} local {} nolearning dev lo",
                            t.vni, t.port, t.local
                        )
                    }
                    _ => return None,
                }
            }
            Op::Set { what, .. } => match what {
                LinkSetting::Mark { ownership, .. } => format!(" alias {} group 4242", ownership.alias()),
                LinkSetting::Mtu(mtu) => format!(" mtu {mtu}"),
                LinkSetting::Mac(mac) => format!(" address {mac}"),
                LinkSetting::Master(Some(master)) => format!(" master {master}"),
                LinkSetting::AddrGenNone => " addrgenmode none".into(),
                LinkSetting::Port => " type bridge_slave neigh_suppress on learning off".into(),
                LinkSetting::Up => " up".into(),
                LinkSetting::Master(None) | LinkSetting::Vxlan { .. } => return None,
            },
            Op::AddAddress { net, .. } => {
                let dad = if net.addr().is_ipv6() { " nodad" } else { "" };
                return Some((side, format!("address add {net} dev {name}{dad}")));
            }
            Op::AddRoute { side, route } if route.dev.is_empty() => {
                let family = if route.dst.addr().is_ipv6() { "::/0" } else { "0.0.0.0/0" };
                let (table, metric) = (route.table, route.metric);
                return Some((
                    *side,
                    format!("route add unreachable {family} table {table} metric {metric} proto 200"),
                ));
            }
            Op::Delete { .. } => return Some((side, format!("link del {name}"))),
            _ => return None,
        };
    }
    if line.starts_with("link add") {
        return Some((side, line));
    }
    // iproute2 expects the options of a port at the end.
    if let Some(at) = line.find(" type bridge_slave") {
        let rest = line.split_off(at);
        let end = " type bridge_slave neigh_suppress on learning off";
        line = format!("{line}{}{end}", &rest[end.len()..]);
    }
    Some((side, format!("link set dev {name}{line}")))
}

fn commands(mut ops: &[Op]) -> Vec<(Side, String)> {
    let mut commands = Vec::new();
    while !ops.is_empty() {
        let (now, later) = ops.split_at(ops_in_one_message(ops));
        ops = later;
        commands.extend(command(now));
    }
    commands
}

fn ns(side: Side) -> &'static str {
    if side == Side::Host { "" } else { ROUTER }
}

/// One `ip -batch` for each run of commands in one namespace, the veth pairs' first ends before their other ends.
fn by_batch(commands: &[(Side, String)]) {
    for side in [Side::Router, Side::Host] {
        // A host's bridge comes before its port.
        let lines: String =
            commands.iter().filter(|(s, _)| *s == side).map(|(_, line)| format!("{line}\n")).collect();
        let mut argv = vec!["ip"];
        let name = ns(side);
        if !name.is_empty() {
            argv.extend(["-n", name]);
        }
        argv.extend(["-batch", "/tmp/scale.batch"]);
        std::fs::write("/tmp/scale.batch", lines).unwrap();
        exec("", &argv);
    }
}

fn one_by_one(commands: &[(Side, String)]) {
    for (side, line) in commands {
        let mut command = Command::new("ip");
        if !ns(*side).is_empty() {
            command.args(["-n", ns(*side)]);
        }
        assert!(command.args(line.split(' ')).status().unwrap().success(), "{line}");
    }
}

fn clean(kernel: Kernel) {
    drop(kernel);
    exec("", &["ip", "netns", "del", ROUTER]);
    // The kernel removes veth ends with their peers, asynchronously.
    wait_until("the namespace to be removed", std::time::Duration::from_secs(120), || {
        !ip("", "-br link").contains("host-e-")
    });
    let bridges: String = ip("", "-br link show type bridge")
        .lines()
        .filter_map(|line| Some(format!("link del {}\n", line.split_whitespace().next()?)))
        .collect();
    ip_batch("", &bridges);
    wait_until("MetalLB's pair to be removed", std::time::Duration::from_secs(120), || {
        !ip("", "-br link").contains("metallb-frr")
    });
}

fn open(config: &Config) -> Kernel {
    Kernel::open(&config.settings.netns).unwrap().0
}

fn main() {
    let counts = std::env::var("LAB_VNIS").unwrap_or("1,100,500,1000".into());
    println!(
        "VNIs   what          ours: wall s    CPU s |  ip -batch: wall s    CPU s | ip: wall s | ours/ip -batch"
    );
    for n in counts.split(',').map(|n| n.parse::<u32>().unwrap()) {
        let whole = config(0..n.max(2));
        let mut kernel = open(&whole);
        let wanted = desired(&whole, &mut kernel);
        let ops = plan(&wanted, kernel.observe(Some(&wanted)).unwrap()).ops;
        let script = commands(&ops);
        let (mut builds, mut batches) = (vec![], vec![]);
        let mut build = |kernel: &mut Kernel| {
            let (ours, outcome) = cost(false, || kernel.reconcile(&wanted, Level::Debug).unwrap());
            assert!(outcome.refused.is_empty(), "{}", outcome.refused[0]);
            builds.push(ours);
        };
        let mut batch = || {
            exec("", &["ip", "netns", "add", ROUTER]);
            batches.push(cost(true, || by_batch(&script)).0);
            clean(open(&whole));
        };
        // With several CPUs, the time varies with how their work overlaps.
        for _ in 1..if plain() { BUILDS } else { 1 } {
            build(&mut kernel);
            clean(kernel);
            batch();
            kernel = open(&whole);
        }
        build(&mut kernel);
        let check = |_| {
            let (cost, outcome) = cost(false, || kernel.reconcile_once(&wanted, None, Level::Debug).unwrap());
            assert!(outcome.done.is_empty(), "{}", outcome.done[0]);
            cost
        };
        let noop = median((0..9).map(check).collect());
        // One more of each, and removed again, as on a running node, which observes again after the kernel's events.
        let more = config(0..n.max(2) + 2);
        let more = desired(&more, &mut kernel);
        let script_to =
            |to: &Desired, kernel: &mut Kernel| commands(&plan(to, kernel.observe(Some(to)).unwrap()).ops);
        let (mut add, mut remove, mut add_ip, mut remove_ip) = (vec![], vec![], vec![], vec![]);
        for _ in 0..5 {
            let adding = script_to(&more, &mut kernel);
            add.push(cost(false, || kernel.reconcile_once(&more, None, Level::Debug).unwrap()).0);
            let removing = script_to(&wanted, &mut kernel);
            remove.push(cost(false, || kernel.reconcile_once(&wanted, None, Level::Debug).unwrap()).0);
            add_ip.push(cost(true, || by_batch(&adding)).0);
            remove_ip.push(cost(true, || by_batch(&removing)).0);
        }
        let [add, remove, add_ip, remove_ip] = [add, remove, add_ip, remove_ip].map(median);
        let memory = peak_mib();
        clean(kernel);

        batch();
        let single = (n <= 100).then(|| {
            exec("", &["ip", "netns", "add", ROUTER]);
            let (single, ()) = cost(true, || one_by_one(&script));
            clean(open(&whole));
            single
        });
        let line = |what: &str, a: Cost, b: Option<Cost>, c: Option<Cost>| {
            let b_text = b.map_or(format!("{:>27}", "-"), |b| format!("{:18.3} {:8.2}", b.wall, b.cpu));
            let c_text = c.map_or(format!("{:>11}", "-"), |c| format!("{:11.3}", c.wall));
            let ratio = b.map_or("-".into(), |b| format!("{:.2}", a.wall / b.wall));
            println!("{n:5}  {what:12}  {:12.3} {:8.2} | {b_text} | {c_text} | {ratio}", a.wall, a.cpu);
        };
        line("build", median(builds), Some(median(batches)), single);
        line("nothing", noop, None, None);
        line("add two", add, Some(add_ip), None);
        line("remove two", remove, Some(remove_ip), None);
        println!("{n:5}  memory        {memory:.1} MiB at most; {} messages", script.len());
    }
}
