//! The status for Prometheus (text exposition format 0.0.4). The sessions have the names that frr-k8s and MetalLB give them
//! (`internal/bgp/frr` collectors of both), so that their dashboards and alerts go on working; those of them that are no
//! counters by their names are left untyped, as they would not pass `promtool check metrics` otherwise.

use std::fmt::Write as _;
use std::fs;

use super::fabric::Fabric;
use super::problems::CODES;
use super::{BgpSession, Daemon, Health, Life, Phase, Status, Time};
use crate::printable::printable;

/// Whose names the sessions go by.
const PREFIXES: [&str; 2] = ["frrk8s", "metallb"];

/// BGP's, as MetalLB's label has it.
const PORT: &str = ":179";

/// The text, metric by metric.
struct Text(String);

#[derive(Clone, Copy)]
enum Kind {
    Gauge,
    Counter,
    Untyped,
}

impl Text {
    fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            Kind::Untyped => "untyped",
        };
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.0.push_str(name);
        for (i, (label, text)) in labels.iter().enumerate() {
            self.0.push_str(if i == 0 { "{" } else { "," });
            self.0.push_str(label);
            self.0.push_str("=\"");
            let text = printable(text);
            if text.contains(['\\', '"']) {
                self.0.push_str(&text.replace('\\', "\\\\").replace('"', "\\\""));
            } else {
                self.0.push_str(&text);
            }
            self.0.push('"');
        }
        self.0.push_str(if labels.is_empty() { "" } else { "}" });
        let _ = writeln!(self.0, " {value}");
    }

    fn one(&mut self, name: &str, kind: Kind, help: &str, value: impl std::fmt::Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    /// A family with a sample for each of the items.
    fn each<'a, T: Copy + 'a, V: std::fmt::Display, const LABELS: usize>(
        &mut self,
        (name, kind, help): (&str, Kind, &str),
        items: impl IntoIterator<Item = T>,
        labels: impl Fn(T) -> [(&'static str, &'a str); LABELS],
        value: impl Fn(T) -> V,
    ) {
        self.family(name, kind, help);
        for item in items {
            self.sample(name, &labels(item), value(item));
        }
    }
}

/// All of it.
pub fn render(status: &Status, fabric: &Fabric, alive: bool) -> String {
    let mut text = Text(String::with_capacity(16 << 10));
    own(&mut text, status, alive);
    daemons(&mut text, status);
    devices(&mut text, status);
    bgp(&mut text, status, fabric);
    bfd(&mut text, status, fabric);
    vnis(&mut text, status);
    text.0
}

fn own(t: &mut Text, status: &Status, alive: bool) {
    let info = "frr_supervisor_info";
    t.family(info, Kind::Gauge, "Versions, and where the daemons run.");
    let labels = [
        ("version", status.supervisor.version.as_str()),
        ("frr_version", &status.frr),
        ("netns", &status.namespace.name),
        ("node_ip", &status.node_ip),
    ];
    t.sample(info, &labels, 1);
    t.each(
        ("frr_supervisor_health", Kind::Gauge, "1 for how the node is on the whole."),
        Health::ALL,
        |which| [("health", which.word())],
        |which| u8::from(status.health == *which),
    );
    t.each(
        ("frr_supervisor_phase", Kind::Gauge, "1 for what the supervisor is doing."),
        Phase::ALL,
        |which| [("phase", which.word())],
        |which| u8::from(status.phase == *which),
    );
    let problem = "frr_supervisor_problem";
    t.family(problem, Kind::Gauge, "1 for each problem that there is, 0 for a sort of which there is none.");
    for code in CODES {
        let mut of = status.problems.iter().filter(|p| p.code == code).peekable();
        if of.peek().is_none() {
            t.sample(problem, &[("code", code), ("subject", "")], 0);
        }
        for p in of {
            t.sample(problem, &[("code", code), ("subject", &p.subject)], 1);
        }
    }
    let time = |time: Option<Time>| time.map_or(0.0, Time::as_secs);
    let counts = &status.counts;
    t.one(
        "frr_supervisor_start_time_seconds",
        Kind::Gauge,
        "When the supervisor was started, since 1970.",
        status.supervisor.since.as_secs(),
    );
    t.one(
        "frr_supervisor_last_restart_timestamp_seconds",
        Kind::Gauge,
        "When a daemon was last restarted, since 1970; 0: never.",
        time(counts.last_restart),
    );
    t.one(
        "frr_supervisor_repairs_total",
        Kind::Counter,
        "Times that the kernel's state was put right.",
        counts.repairs,
    );
    t.one(
        "frr_supervisor_last_repair_timestamp_seconds",
        Kind::Gauge,
        "When the kernel's state was last put right, since 1970; 0: never.",
        time(counts.last_repair),
    );
    t.one(
        "frr_supervisor_plan_operations",
        Kind::Gauge,
        "Changes to the kernel in the last plan that had any.",
        counts.plan_operations,
    );
    let seconds = |ms: u64| format!("{}.{:03}", ms / 1000, ms % 1000);
    t.one("frr_supervisor_plan_duration_seconds", Kind::Gauge, "How long it took.", seconds(counts.plan_ms));
    t.one(
        "frr_supervisor_config_applies_total",
        Kind::Counter,
        "Configurations put in force while the daemons ran.",
        counts.changes,
    );
    t.one(
        "frr_supervisor_config_apply_duration_seconds",
        Kind::Gauge,
        "How long the last one took.",
        seconds(counts.change_ms),
    );
    t.one(
        "frr_supervisor_config_rejections_total",
        Kind::Counter,
        "Configurations that were not taken.",
        counts.rejections,
    );
    t.one(
        "frr_supervisor_config_rollbacks_total",
        Kind::Counter,
        "Changes of the configuration that were begun and taken back.",
        counts.rollbacks,
    );
    let configuration = &status.configuration;
    t.one(
        "frr_supervisor_config_rejected",
        Kind::Gauge,
        "1 while the last configuration is one that was not taken.",
        u8::from(configuration.rejected.is_some()),
    );
    t.one(
        "frr_supervisor_config_timestamp_seconds",
        Kind::Gauge,
        "When the configuration in force was taken, since 1970.",
        configuration.since.as_secs(),
    );
    t.one(
        "frr_supervisor_namespace_rebuilds_total",
        Kind::Counter,
        "Times that the namespace was built anew.",
        status.namespace.rebuilt,
    );
    t.one(
        "frr_supervisor_namespace_rebuild_timestamp_seconds",
        Kind::Gauge,
        "When the namespace was last built anew, since 1970; 0: never.",
        time(status.namespace.last_rebuild.as_ref().map(|(at, _)| *at)),
    );
    t.one(
        "frr_supervisor_main_loop_alive",
        Kind::Gauge,
        "1 while the supervisor's main loop comes round.",
        u8::from(alive),
    );
    t.one(
        "process_resident_memory_bytes",
        Kind::Gauge,
        "Resident memory of the supervisor, without the daemons.",
        resident(),
    );
}

/// Of this process.
fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * u64::try_from(rustix::param::page_size()).unwrap_or(4096)
}

fn daemons(t: &mut Text, status: &Status) {
    fn name(daemon: &Daemon) -> [(&'static str, &str); 1] {
        [("daemon", &daemon.name)]
    }
    let all = &status.daemons;
    let help = "1 while the daemon answers and has its configuration.";
    t.each(("frr_supervisor_daemon_up", Kind::Gauge, help), all, name, |d| {
        u8::from(d.state == Life::Running)
    });
    let help = "Times that the daemon was started again.";
    t.each(("frr_supervisor_daemon_restarts_total", Kind::Counter, help), all, name, |d| d.restarts);
    let help = "Times that the daemon ended without being told to.";
    t.each(("frr_supervisor_daemon_deaths_total", Kind::Counter, help), all, name, |d| d.failures);
    let help = "When the daemon was last started, since 1970.";
    t.each(("frr_supervisor_daemon_start_time_seconds", Kind::Gauge, help), all, name, |d| d.since.as_secs());
}

fn devices(t: &mut Text, status: &Status) {
    let help = "1 while the fabric interface is there and has a link.";
    t.each(
        ("frr_supervisor_interface_up", Kind::Gauge, help),
        &status.interfaces,
        |nic| [("by", nic.by.as_str()), ("interface", &nic.name)],
        |nic| u8::from(nic.present && nic.carrier),
    );
    let (all, wrong) = (status.devices.len(), status.wrong_devices().count());
    t.one("frr_supervisor_devices", Kind::Gauge, "Devices that we keep in the kernel.", all);
    t.one("frr_supervisor_devices_wrong", Kind::Gauge, "Those of them that are not as they shall be.", wrong);
    let help = "Times that something of a device was put right, where that was ever needed.";
    t.each(
        ("frr_supervisor_device_repairs_total", Kind::Counter, help),
        status.devices.iter().filter(|device| device.repaired > 0),
        |device| [("device", device.name.as_str()), ("side", &device.side)],
        |device| device.repaired,
    );
}

fn bgp(t: &mut Text, status: &Status, fabric: &Fabric) {
    type Value = fn(&super::fabric::Messages) -> u64;
    let messages: [(&str, &str, Value); 10] = [
        ("opens_sent", "BGP OPEN messages sent", |m| m.opens_sent),
        ("opens_received", "BGP OPEN messages received", |m| m.opens_recv),
        ("notifications_sent", "BGP NOTIFICATION messages sent", |m| m.notifications_sent),
        ("updates_total", "BGP UPDATE messages sent", |m| m.updates_sent),
        ("updates_total_received", "BGP UPDATE messages received", |m| m.updates_recv),
        ("keepalives_sent", "BGP KEEPALIVE messages sent", |m| m.keepalives_sent),
        ("keepalives_received", "BGP KEEPALIVE messages received", |m| m.keepalives_recv),
        ("route_refresh_sent", "BGP ROUTE-REFRESH messages sent", |m| m.route_refresh_sent),
        ("total_sent", "BGP messages sent", |m| m.total_sent),
        ("total_received", "BGP messages received", |m| m.total_recv),
    ];
    fn peer<'s>((session, name): (&'s BgpSession, &'s String)) -> [(&'static str, &'s str); 2] {
        [("peer", name), ("vrf", &session.vrf)]
    }
    let sum =
        |s: &BgpSession, which: fn(&super::Prefixes) -> u64| s.families.values().map(which).sum::<u64>();
    // Those projects know no roles, and neighbors of VRF default need not be leaves.
    t.each(
        ("frr_supervisor_bgp_session_up", Kind::Gauge, "1 while the BGP session is up."),
        &status.bgp,
        |s| [("peer", s.peer.as_str()), ("vrf", &s.vrf), ("role", s.role.word())],
        |s| u8::from(s.is_up()),
    );
    for prefix in PREFIXES {
        // MetalLB puts the port behind the address (`frr-tools/metrics/collector/bgp.go`), frr-k8s does not.
        let port = if prefix == "metallb" { PORT } else { "" };
        let names: Vec<String> = status.bgp.iter().map(|s| format!("{}{port}", s.peer)).collect();
        let all = || status.bgp.iter().zip(&names);
        let name = format!("{prefix}_bgp_session_up");
        let help = "BGP session state (1 is up, 0 is down).";
        t.each((&name, Kind::Gauge, help), all(), peer, |(s, _)| u8::from(s.is_up()));
        let name = format!("{prefix}_bgp_announced_prefixes_total");
        let help = "Number of prefixes currently being advertised on the BGP session.";
        t.each((&name, Kind::Untyped, help), all(), peer, |(s, _)| sum(s, |p| p.sent));
        let name = format!("{prefix}_bgp_received_prefixes_total");
        let help = "Number of prefixes currently being received on the BGP session.";
        t.each((&name, Kind::Untyped, help), all(), peer, |(s, _)| sum(s, |p| p.received));
        for (metric, help, value) in messages {
            let name = format!("{prefix}_bgp_{metric}");
            let both = all().zip(&fabric.messages);
            t.each((&name, Kind::Untyped, help), both, |(s, _)| peer(s), |(_, m)| value(m));
        }
    }
    let name = "frr_supervisor_services";
    t.family(name, Kind::Gauge, "Prefixes that MetalLB's speaker announces to the node.");
    for (state, valid) in [("announced", true), ("inaccessible", false)] {
        let count = status.services.iter().filter(|service| service.valid == valid).count();
        t.sample(name, &[("state", state)], count + if valid { status.services_unlisted } else { 0 });
    }
    t.sample(name, &[("state", "held")], status.held.len() + status.held_unlisted);
}

fn bfd(t: &mut Text, status: &Status, fabric: &Fabric) {
    type Value = fn(&super::fabric::Packets) -> u64;
    let packets: [(&str, &str, Value); 7] = [
        ("control_packet_input", "BFD control packets received", |p| p.control_packet_input),
        ("control_packet_output", "BFD control packets sent", |p| p.control_packet_output),
        ("echo_packet_input", "BFD echo packets received", |p| p.echo_packet_input),
        ("echo_packet_output", "BFD echo packets sent", |p| p.echo_packet_output),
        ("session_up_events", "BFD sessions that came up", |p| p.session_up),
        ("session_down_events", "BFD sessions that went down", |p| p.session_down),
        ("zebra_notifications", "BFD zebra notifications", |p| p.zebra_notifications),
    ];
    for prefix in PREFIXES {
        t.each(
            (&format!("{prefix}_bfd_session_up"), Kind::Gauge, "BFD session state (1 is up, 0 is down)."),
            &status.bfd,
            |s| [("peer", s.peer.as_str()), ("vrf", &s.vrf), ("interface", &s.interface)],
            |s| u8::from(s.state == "up"),
        );
        for (metric, help, value) in packets {
            t.each(
                (&format!("{prefix}_bfd_{metric}"), Kind::Untyped, help),
                &fabric.packets,
                |p| [("peer", p.peer.as_str()), ("vrf", &p.vrf), ("interface", &p.interface)],
                value,
            );
        }
    }
}

fn vnis(t: &mut Text, status: &Status) {
    type Value = fn(&super::Vni) -> u64;
    let values: [(&str, &str, Value); 4] = [
        ("frr_supervisor_vni_up", "1 while zebra has the VNI up.", |v| u64::from(v.up)),
        ("frr_supervisor_vni_remote_vteps", "VTEPs behind which the VNI has others.", |v| v.remote_vteps),
        ("frr_supervisor_vni_macs", "MAC addresses that are known in the VNI.", |v| v.macs),
        ("frr_supervisor_vni_neighbours", "Neighbours that are known in the VNI.", |v| v.neighbours),
    ];
    for (name, help, value) in values {
        t.family(name, Kind::Gauge, help);
        for vni in &status.vnis {
            let number = vni.vni.to_string();
            t.sample(name, &[("vni", &number), ("type", &vni.kind), ("vrf", &vni.vrf)], value(vni));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_every_family_is_described() {
        let status = Status {
            problems: vec![super::super::Problem {
                code: "setup-failed".into(),
                subject: "a\\b \"c\"\nd\u{1b}".into(),
                ..Default::default()
            }],
            ..Status::default()
        };
        let text = render(&status, &Fabric::default(), true);
        let line = r#"frr_supervisor_problem{code="setup-failed",subject="a\\b \"c\"\\nd\\u{1b}"} 1"#;
        assert!(text.lines().any(|l| l == line), "{text}");
        let names: std::collections::BTreeSet<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .map(|line| line.split(' ').next().unwrap())
            .collect();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(names.contains(line.split(['{', ' ']).next().unwrap()), "{line}");
        }
        assert!(text.contains("frr_supervisor_problem{code=\"link-down\",subject=\"\"} 0\n"));
    }

    #[test]
    fn peers_have_the_labels_that_each_project_gives_them() {
        let session = BgpSession { peer: "10.0.0.254".into(), vrf: "red".into(), ..BgpSession::default() };
        let status = Status { bgp: vec![session], ..Status::default() };
        let fabric =
            Fabric { messages: vec![crate::status::fabric::Messages::default()], ..Fabric::default() };
        let text = render(&status, &fabric, true);
        for line in [
            "frr_supervisor_bgp_session_up{peer=\"10.0.0.254\",vrf=\"red\",role=\"other\"} 0\n",
            "frrk8s_bgp_session_up{peer=\"10.0.0.254\",vrf=\"red\"} 0\n",
            "metallb_bgp_session_up{peer=\"10.0.0.254:179\",vrf=\"red\"} 0\n",
            "metallb_bgp_opens_sent{peer=\"10.0.0.254:179\",vrf=\"red\"} 0\n",
        ] {
            assert!(text.contains(line), "{line}");
        }
    }
}
