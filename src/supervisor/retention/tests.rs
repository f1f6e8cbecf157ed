use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;

use super::*;
use crate::model::{Asn, Value as _, VrfName};

fn retention(time_limit: Duration, now: Instant) -> Retention {
    let asn = Asn::parse("65001").unwrap();
    let routers = RetainedRouters { asn, vrf_asn: asn, vrf: VrfName::parse("metallb").unwrap() };
    let route = r#"[{"aspath":{"string":"65002"},"bestpath":{"overall":true}}]"#;
    let reply = format!(r#"{{"routes":{{"198.51.100.1/32":{route},"198.51.100.2/32":{route}}}}}"#);
    let mut known = Services::default();
    for (prefix, attributes) in retained::services(&reply) {
        known.insert(prefix, attributes.unwrap());
    }
    Retention::new(routers, "/nonexistent".into(), time_limit, known, now)
}

#[test]
fn only_services_with_a_kernel_route_are_retained() {
    let now = Instant::now();
    let there = BTreeSet::from(["198.51.100.2/32".parse().unwrap(), "198.51.100.3/32".parse().unwrap()]);
    let mut some = retention(Duration::from_secs(10), now);
    assert_eq!(some.deadline(), None);
    assert_eq!(some.bgpd_exited(&there, now), 1);
    assert!(some.configuration().contains("network 198.51.100.2/32"));
    assert_eq!(retention(Duration::ZERO, now).bgpd_exited(&there, now), 0);
}

#[test]
fn a_stored_file_cannot_inject_configuration_lines() {
    let now = Instant::now();
    let prefix: IpNet = "198.51.100.2/32".parse().unwrap();
    for (path, community) in [("1\nrouter bgp 2", ""), ("1", "65000:1\n no x"), ("", ""), ("1", "1:1")] {
        let text = serde_json::json!({prefix.to_string(): {"as_path": path, "origin": "igp", "metric": 0,
            "community": community, "large_community": ""}});
        let routers = retention(Duration::ZERO, now).routers;
        let known = serde_json::from_value(text).unwrap();
        let mut retention =
            Retention::new(routers, "/nonexistent".into(), Duration::from_secs(9), known, now);
        let expected = usize::from(path == "1" && community == "1:1");
        assert_eq!(retention.bgpd_exited(&[prefix].into(), now), expected, "{path:?} {community:?}");
    }
}

#[test]
fn without_bgpd_the_loop_sleeps_and_the_time_limit_runs() {
    let now = Instant::now();
    let time_limit = Duration::from_secs(10);
    let mut retention = retention(time_limit, now);
    let prefix: IpNet = "198.51.100.2/32".parse().unwrap();
    retention.bgpd_exited(&[prefix].into(), now);
    let mut at = now;
    for _ in 0..5 {
        at = retention.deadline().unwrap();
        assert_eq!(retention.step(None, at), []);
        assert!(retention.deadline().unwrap() > at, "a past deadline would make the loop spin");
    }
    let all_late = || {
        [
            RetentionEvent::Released(vec![prefix]),
            RetentionEvent::Finished(RetentionOutcome::TimedOut(vec![prefix], false)),
        ]
    };
    assert_eq!(retention.step(None, now + time_limit), all_late());
    assert_eq!(retention.configuration(), "");
    assert!(
        retention.deadline().unwrap() > now + time_limit,
        "a bgpd that was started before may have the lines"
    );
    // The time limit also applies to a bgpd that never answers.
    retention.bgpd_exited(&[prefix].into(), at);
    assert_eq!(retention.step(Some(&"".into()), at + time_limit / 2), []);
    assert!(retention.deadline().unwrap() > at + time_limit / 2);
    assert_eq!(retention.step(Some(&"".into()), at + time_limit), all_late());
}

/// A fake bgpd with prescribed replies.
struct Bgpd(UnixListener);

impl Bgpd {
    fn of(retention: &mut Retention, name: &str) -> Self {
        retention.socket = std::env::temp_dir().join(format!("retention-{name}-{}", std::process::id()));
        Self(UnixListener::bind(&retention.socket).unwrap())
    }

    /// Answers one connection until it is complete; returns the commands and the events.
    fn serve(
        &self,
        retention: &mut Retention,
        at: Instant,
        reply: impl Fn(&str) -> (String, u8),
    ) -> (Vec<String>, Vec<RetentionEvent>) {
        let (mut sent, mut events) = (vec![], vec![]);
        let (mut bgpd, _) = self.0.accept().unwrap();
        let reader = bgpd.try_clone().unwrap();
        reader.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut commands = BufReader::new(reader).split(0).map_while(Result::ok);
        let (count, busy) = (retention.queries().count(), |retention: &Retention, count| {
            retention.queries().count() == count
        });
        while busy(retention, count) {
            let Some(command) = commands.next() else { break };
            let command = String::from_utf8(command).unwrap();
            let (text, status) = reply(&command);
            bgpd.write_all(text.as_bytes()).unwrap();
            bgpd.write_all(&[0, 0, 0, status]).unwrap();
            sent.push(command);
            events.extend(retention.step(Some(&"".into()), at));
        }
        (sent, events)
    }
}

impl Drop for Bgpd {
    fn drop(&mut self) {
        let path = self.0.local_addr().unwrap().as_pathname().unwrap().to_owned();
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_late_bgpd_gets_the_release_commands() {
    let now = Instant::now();
    let time_limit = Duration::from_secs(10);
    let mut retention = retention(time_limit, now);
    retention.bgpd_exited(&["198.51.100.2/32".parse().unwrap()].into(), now);
    let mut at = now + time_limit;
    assert_eq!(retention.step(None, at).len(), 2);
    // First bgpd does not listen, then its configuration is locked, then it accepts the release.
    at += QUERY_INTERVAL;
    assert_eq!(retention.step(Some(&"".into()), at), []);
    let bgpd = Bgpd::of(&mut retention, "late");
    let mut sent = vec![];
    for status in [1, 0] {
        at = retention.deadline().unwrap();
        assert_eq!(retention.step(Some(&"".into()), at), []);
        let busy = |retention: &Retention| retention.is_active() && retention.deadline().is_none();
        assert!(busy(&retention), "the replies to the release are still to come");
        sent = bgpd.serve(&mut retention, at, |_| (String::new(), status)).0;
    }
    assert!(sent.iter().any(|command| command == "no network 198.51.100.2/32"), "{sent:?}");
    let (sent, _) = bgpd.serve(&mut retention, at, |_| (String::new(), 0));
    assert!(sent.iter().any(|command| command == "no route-map frr-supervisor-held-0"), "{sent:?}");
    assert_eq!((retention.deadline(), retention.is_active()), (None, false));
}

#[test]
fn each_service_is_released_when_the_speakers_path_to_it_is_usable() {
    let now = Instant::now();
    let mut retention = retention(Duration::from_secs(100), now);
    let [one, two]: [IpNet; 2] = ["198.51.100.1/32", "198.51.100.2/32"].map(|p| p.parse().unwrap());
    retention.bgpd_exited(&[one, two].into(), now);
    let bgpd = Bgpd::of(&mut retention, "turn");
    let up = r#"{"fd00::1":{"bgpState":"Established","gracefulRestartInfo":{"endOfRibRecv":{"x":true}}}}"#;
    let imported = r#"{"paths":[{"importedFrom":"x","valid":true,"bestpath":{"overall":true}}]}"#;
    let unresolved = r#"{"paths":[{"importedFrom":"x"},{"valid":true,"bestpath":{"overall":true}}]}"#;
    // The next hop of the first service is resolved, that of the second is not, and stays so; then the second is
    // withdrawn.
    let reply = |second: &'static str, in_vrf: &'static str| {
        move |command: &str| {
            let text = match command {
                _ if command.ends_with("neighbors json") => up,
                _ if command.contains(" vrf ") && command.contains("100.2/32") => in_vrf,
                _ if command.contains("100.2/32") => second,
                _ if command.contains("show") => imported,
                _ => "",
            };
            (text.to_owned(), 0)
        }
    };
    let mut at = now;
    let mut round = |retention: &mut Retention, second, in_vrf| {
        let (mut sent, mut events) = (vec![], vec![]);
        at = at.max(retention.deadline().unwrap());
        events.extend(retention.step(Some(&"".into()), at));
        while retention.queries().count() > 0 {
            let (more_sent, more_events) = bgpd.serve(retention, at, reply(second, in_vrf));
            sent.extend(more_sent);
            events.extend(more_events);
        }
        (sent, events)
    };
    let path = r#"{"prefix":"198.51.100.2/32","paths":[]}"#;
    let (sent, events) = round(&mut retention, unresolved, path);
    assert_eq!(events, [RetentionEvent::Released(vec![])]);
    assert!(sent.contains(&"no network 198.51.100.1/32".to_owned()), "{sent:?}");
    assert!(!sent.iter().any(|command| command.contains("no network 198.51.100.2")), "{sent:?}");
    assert_eq!(retention.retained_prefixes().collect::<Vec<_>>(), [&two]);
    assert!(
        retention.until() > Some(now + Duration::from_secs(100)),
        "the time limit starts again for the other one"
    );
    for _ in 0..5 {
        assert_eq!(round(&mut retention, unresolved, path).1, []);
    }
    // One second after End-of-RIB a service without a path counts as withdrawn.
    let events = round(&mut retention, "{}", "{}").1;
    assert_eq!(
        events,
        [
            RetentionEvent::Released(vec![two]),
            RetentionEvent::Finished(RetentionOutcome::SpeakerBack(1, vec![two]))
        ]
    );
    assert!(!retention.is_active());
}
