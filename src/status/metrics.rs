//! The status for Prometheus (text exposition format 0.0.4). The metrics of sessions have the names of frr-k8s and
//! MetalLB (`internal/bgp/frr` collectors of both), so that their dashboards and alerts work here. Those whose names do
//! not match their types are untyped: `promtool check metrics` would reject them otherwise.

use std::fmt::Write as _;
use std::fs;

use super::frr_state::{BfdPacketCounters, BgpMessageCounters, FrrState};
use super::problems::CODES;
use super::{BgpSession, DaemonState, DaemonStatus, Health, NodePhase, Prefixes, Status, VniStatus};
use crate::config::ObjectState;
use crate::printable::printable;
use crate::time::Time;

/// Prefixes of the session metrics: those of frr-k8s and MetalLB.
const PREFIXES: [&str; 2] = ["frrk8s", "metallb"];

/// BGP's port, as MetalLB appends it to the label `peer`.
const PORT_SUFFIX: &str = ":179";

/// The exposition: the text of all metrics.
struct Exposition(String);

#[derive(Clone, Copy)]
enum MetricType {
    Gauge,
    Counter,
    Untyped,
}

impl Exposition {
    /// Adds the head of a metric family.
    fn family(&mut self, name: &str, metric_type: MetricType, help: &str) {
        let metric_type = match metric_type {
            MetricType::Gauge => "gauge",
            MetricType::Counter => "counter",
            MetricType::Untyped => "untyped",
        };
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {metric_type}");
    }

    /// Adds a sample.
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

    /// Adds a family with one sample without labels.
    fn one(&mut self, name: &str, metric_type: MetricType, help: &str, value: impl std::fmt::Display) {
        self.family(name, metric_type, help);
        self.sample(name, &[], value);
    }

    /// Adds a family with a sample for each item.
    fn each<'a, T: Copy + 'a, V: std::fmt::Display, const LABELS: usize>(
        &mut self,
        (name, metric_type, help): (&str, MetricType, &str),
        items: impl IntoIterator<Item = T>,
        labels: impl Fn(T) -> [(&'static str, &'a str); LABELS],
        value: impl Fn(T) -> V,
    ) {
        self.family(name, metric_type, help);
        for item in items {
            self.sample(name, &labels(item), value(item));
        }
    }
}

/// Renders all metrics. `alive`: whether the main loop works.
pub fn render(status: &Status, state: &FrrState, alive: bool) -> String {
    let mut text = Exposition(String::with_capacity(16 << 10));
    own(&mut text, status, alive);
    daemons(&mut text, status);
    devices(&mut text, status);
    bgp(&mut text, status, state);
    bfd(&mut text, status, state);
    vnis(&mut text, status);
    text.0
}

fn own(t: &mut Exposition, status: &Status, alive: bool) {
    let info = "frr_supervisor_info";
    t.family(
        info,
        MetricType::Gauge,
        "Versions of the supervisor and of FRR, the network namespace and the address of the node.",
    );
    let labels = [
        ("version", status.supervisor.version.as_str()),
        ("frr_version", &status.frr),
        ("netns", &status.namespace.name),
        ("node_ip", &status.node_ip),
    ];
    t.sample(info, &labels, 1);
    t.each(
        ("frr_supervisor_health", MetricType::Gauge, "1 for the health of the node."),
        Health::ALL,
        |which| [("health", which.as_str())],
        |which| u8::from(status.health == *which),
    );
    t.each(
        ("frr_supervisor_phase", MetricType::Gauge, "1 for the phase of the node."),
        NodePhase::ALL,
        |which| [("phase", which.as_str())],
        |which| u8::from(status.phase == *which),
    );
    let problem = "frr_supervisor_problem";
    t.family(problem, MetricType::Gauge, "1 for each problem; 0 for a code without a problem.");
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
        MetricType::Gauge,
        "Start time of the supervisor since unix epoch in seconds.",
        status.supervisor.since.as_secs(),
    );
    t.one(
        "frr_supervisor_last_restart_timestamp_seconds",
        MetricType::Gauge,
        "Time of the last restart of a daemon since unix epoch in seconds; 0: never.",
        time(counts.last_restart),
    );
    t.one(
        "frr_supervisor_repairs_total",
        MetricType::Counter,
        "Repairs of drift in the kernel.",
        counts.repairs,
    );
    t.one(
        "frr_supervisor_last_repair_timestamp_seconds",
        MetricType::Gauge,
        "Time of the last repair in the kernel since unix epoch in seconds; 0: never.",
        time(counts.last_repair),
    );
    t.one(
        "frr_supervisor_plan_operations",
        MetricType::Gauge,
        "Operations of the last kernel plan that was not empty.",
        counts.plan_operations,
    );
    let seconds = |ms: u64| format!("{}.{:03}", ms / 1000, ms % 1000);
    t.one(
        "frr_supervisor_plan_duration_seconds",
        MetricType::Gauge,
        "Duration of the last kernel plan that was not empty.",
        seconds(counts.plan_ms),
    );
    t.one(
        "frr_supervisor_config_applies_total",
        MetricType::Counter,
        "Configurations activated while the daemons ran.",
        counts.changes,
    );
    t.one(
        "frr_supervisor_config_apply_duration_seconds",
        MetricType::Gauge,
        "Duration of the last activation of a configuration.",
        seconds(counts.change_ms),
    );
    t.one(
        "frr_supervisor_config_rejections_total",
        MetricType::Counter,
        "Rejected configurations.",
        counts.rejections,
    );
    t.one(
        "frr_supervisor_config_rollbacks_total",
        MetricType::Counter,
        "Configuration changes that were rolled back.",
        counts.rollbacks,
    );
    let configuration = &status.configuration;
    t.one(
        "frr_supervisor_config_rejected",
        MetricType::Gauge,
        "1 while the last configuration is rejected.",
        u8::from(configuration.rejected.is_some()),
    );
    t.each(
        (
            "frr_supervisor_objects",
            MetricType::Gauge,
            "Objects of the configuration file, by what became of them.",
        ),
        ObjectState::ALL,
        |(_, name)| [("source", "file"), ("state", name)],
        |(state, _)| configuration.count(state),
    );
    t.one(
        "frr_supervisor_config_timestamp_seconds",
        MetricType::Gauge,
        "Activation time of the active configuration since unix epoch in seconds.",
        configuration.since.as_secs(),
    );
    t.one(
        "frr_supervisor_namespace_rebuilds_total",
        MetricType::Counter,
        "Rebuilds of the network namespace.",
        status.namespace.rebuilt,
    );
    t.one(
        "frr_supervisor_namespace_rebuild_timestamp_seconds",
        MetricType::Gauge,
        "Time of the last rebuild of the network namespace since unix epoch in seconds; 0: never.",
        time(status.namespace.last_rebuild.as_ref().map(|(at, _)| *at)),
    );
    t.one(
        "frr_supervisor_main_loop_alive",
        MetricType::Gauge,
        "1 while the supervisor's main loop works; 0 when it hangs.",
        u8::from(alive),
    );
    t.one(
        "process_resident_memory_bytes",
        MetricType::Gauge,
        "Resident memory of the supervisor, without the daemons.",
        resident_bytes(),
    );
}

/// Resident memory of this process, in bytes.
fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * u64::try_from(rustix::param::page_size()).unwrap_or(4096)
}

fn daemons(t: &mut Exposition, status: &Status) {
    fn name(daemon: &DaemonStatus) -> [(&'static str, &str); 1] {
        [("daemon", &daemon.name)]
    }
    let all = &status.daemons;
    let help = "1 while the daemon replies and has its configuration.";
    t.each(("frr_supervisor_daemon_up", MetricType::Gauge, help), all, name, |d| {
        u8::from(d.state == DaemonState::Running)
    });
    let help = "Restarts of the daemon.";
    t.each(("frr_supervisor_daemon_restarts_total", MetricType::Counter, help), all, name, |d| d.restarts);
    let help = "Unexpected exits of the daemon.";
    t.each(("frr_supervisor_daemon_deaths_total", MetricType::Counter, help), all, name, |d| d.failures);
    let help = "Time of the last start of the daemon since unix epoch in seconds.";
    t.each(("frr_supervisor_daemon_start_time_seconds", MetricType::Gauge, help), all, name, |d| {
        d.since.as_secs()
    });
}

fn devices(t: &mut Exposition, status: &Status) {
    let help = "1 while the fabric port is there and has a link.";
    t.each(
        ("frr_supervisor_interface_up", MetricType::Gauge, help),
        &status.interfaces,
        |nic| [("by", nic.selector.as_str()), ("interface", &nic.name)],
        |nic| u8::from(nic.present && nic.carrier),
    );
    let (all, wrong) = (status.devices.len(), status.wrong_devices().count());
    t.one("frr_supervisor_devices", MetricType::Gauge, "Managed devices in the kernel.", all);
    t.one(
        "frr_supervisor_devices_wrong",
        MetricType::Gauge,
        "Managed devices that are not in the desired state.",
        wrong,
    );
    let help = "Repairs of the device; only devices with repairs are listed.";
    t.each(
        ("frr_supervisor_device_repairs_total", MetricType::Counter, help),
        status.devices.iter().filter(|device| device.repaired > 0),
        |device| [("device", device.name.as_str()), ("side", &device.side)],
        |device| device.repaired,
    );
}

fn bgp(t: &mut Exposition, status: &Status, state: &FrrState) {
    type Value = fn(&BgpMessageCounters) -> u64;
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
    let sum = |s: &BgpSession, which: fn(&Prefixes) -> u64| s.families.values().map(which).sum::<u64>();
    // The metrics of frr-k8s and MetalLB have no roles, and a neighbor in the default VRF need not be a leaf.
    t.each(
        ("frr_supervisor_bgp_session_up", MetricType::Gauge, "1 while the BGP session is up."),
        &status.bgp,
        |s| [("peer", s.peer.as_str()), ("vrf", &s.vrf), ("role", s.role.as_str())],
        |s| u8::from(s.is_up()),
    );
    for prefix in PREFIXES {
        // MetalLB appends the port to the address (`frr-tools/metrics/collector/bgp.go`), frr-k8s does not.
        let port = if prefix == "metallb" { PORT_SUFFIX } else { "" };
        let names: Vec<String> = status.bgp.iter().map(|s| format!("{}{port}", s.peer)).collect();
        let all = || status.bgp.iter().zip(&names);
        let name = format!("{prefix}_bgp_session_up");
        let help = "BGP session state (1 is up, 0 is down).";
        t.each((&name, MetricType::Gauge, help), all(), peer, |(s, _)| u8::from(s.is_up()));
        let name = format!("{prefix}_bgp_announced_prefixes_total");
        let help = "Number of prefixes currently being advertised on the BGP session.";
        t.each((&name, MetricType::Untyped, help), all(), peer, |(s, _)| sum(s, |p| p.sent));
        let name = format!("{prefix}_bgp_received_prefixes_total");
        let help = "Number of prefixes currently being received on the BGP session.";
        t.each((&name, MetricType::Untyped, help), all(), peer, |(s, _)| sum(s, |p| p.received));
        for (metric, help, value) in messages {
            let name = format!("{prefix}_bgp_{metric}");
            let both = all().zip(&state.messages);
            t.each((&name, MetricType::Untyped, help), both, |(s, _)| peer(s), |(_, m)| value(m));
        }
    }
    let name = "frr_supervisor_services";
    t.family(name, MetricType::Gauge, "Prefixes that MetalLB's speaker announces to the node.");
    for (state, valid) in [("announced", true), ("inaccessible", false)] {
        let count = status.services.iter().filter(|service| service.valid == valid).count();
        t.sample(name, &[("state", state)], count + if valid { status.services_unlisted } else { 0 });
    }
    t.sample(name, &[("state", "held")], status.retained.len() + status.retained_unlisted);
}

fn bfd(t: &mut Exposition, status: &Status, state: &FrrState) {
    type Value = fn(&BfdPacketCounters) -> u64;
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
            (
                &format!("{prefix}_bfd_session_up"),
                MetricType::Gauge,
                "BFD session state (1 is up, 0 is down).",
            ),
            &status.bfd,
            |s| [("peer", s.peer.as_str()), ("vrf", &s.vrf), ("interface", &s.interface)],
            |s| u8::from(s.state == "up"),
        );
        for (metric, help, value) in packets {
            t.each(
                (&format!("{prefix}_bfd_{metric}"), MetricType::Untyped, help),
                &state.packets,
                |p| [("peer", p.peer.as_str()), ("vrf", &p.vrf), ("interface", &p.interface)],
                value,
            );
        }
    }
}

fn vnis(t: &mut Exposition, status: &Status) {
    type Value = fn(&VniStatus) -> u64;
    let values: [(&str, &str, Value); 4] = [
        ("frr_supervisor_vni_up", "1 while the VNI is up in zebra.", |v| u64::from(v.up)),
        ("frr_supervisor_vni_remote_vteps", "Remote VTEPs of the VNI.", |v| v.remote_vteps),
        ("frr_supervisor_vni_macs", "Known MAC addresses in the VNI.", |v| v.macs),
        ("frr_supervisor_vni_neighbours", "Known neighbours in the VNI.", |v| v.neighbours),
    ];
    for (name, help, value) in values {
        t.family(name, MetricType::Gauge, help);
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
    fn labels_are_escaped_and_every_family_has_a_type() {
        let status = Status {
            problems: vec![super::super::Problem {
                code: "setup-failed".into(),
                subject: "a\\b \"c\"\nd\u{1b}".into(),
                ..Default::default()
            }],
            ..Status::default()
        };
        let text = render(&status, &FrrState::default(), true);
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
    fn peer_labels_match_those_of_frr_k8s_and_metallb() {
        let session = BgpSession { peer: "10.0.0.254".into(), vrf: "red".into(), ..BgpSession::default() };
        let status = Status { bgp: vec![session], ..Status::default() };
        let state = FrrState { messages: vec![BgpMessageCounters::default()], ..FrrState::default() };
        let text = render(&status, &state, true);
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
