use super::*;
use crate::model::{Asn, Value as _, VrfName};

fn summary(version: u64, received: usize) -> Summary {
    let text =
        format!(r#"{{"ipv4Unicast":{{"tableVersion":{version},"peers":{{"x":{{"pfxRcd":{received}}}}}}}}}"#);
    retained::summary(&text).unwrap()
}

fn prefixes(count: u8) -> BTreeSet<IpNet> {
    (0..count).map(|n| format!("198.51.100.{n}/32").parse().unwrap()).collect()
}

fn reply(text: String) -> Reply {
    Reply { success: true, text }
}

fn path(prefix: &IpNet, community: &str) -> String {
    format!(
        r#"{{"prefix":"{prefix}","paths":[{{"aspath":{{"string":"1"}},"community":{{"string":"{community}"}},"bestpath":{{"overall":true}}}}]}}"#
    )
}

#[test]
fn no_reply_covers_all_services() {
    let now = Instant::now();
    let asn = Asn::parse("65001").unwrap();
    let routers = RetainedRouters { asn, vrf_asn: asn, vrf: VrfName::parse("metallb").unwrap() };
    let (nowhere, mut known) = (Path::new("/nonexistent"), Services::default());
    let mut learner = Learner::new(routers, now);
    // A few changes are queried together, many one service at a time.
    assert!(learner.take_summary(summary(MAX_CHANGES, 3), nowhere, &known, false, now));
    assert!(!learner.is_waiting_for_prefixes());
    assert!(learner.take_summary(summary(MAX_CHANGES + 1, 200), nowhere, &known, false, now));
    assert!(learner.is_waiting_for_prefixes());
    learner.take_prefixes(prefixes(200), &mut known, false, now);
    let mut rounds = 0;
    while let Some(at) = learner.deadline() {
        // Nothing listens: the test supplies the replies to the queries.
        let queried: Vec<IpNet> = learner.queue.iter().take(CHUNK).copied().collect();
        assert!(!learner.step(nowhere, &mut known, false, at) || learner.is_idle());
        let replies: Vec<Reply> = queried.iter().map(|prefix| reply(path(prefix, "1:1"))).collect();
        learner.process_replies(LearnQuery::Prefixes(queried), &replies, &mut known, false);
        rounds += 1;
    }
    assert_eq!((rounds, known.len()), (200_usize.div_ceil(CHUNK), 200));
    assert!(learner.step(nowhere, &mut known, false, now), "it must be stored");
    // Nothing has changed since; a new bgpd is queried for everything.
    learner.take_summary(summary(MAX_CHANGES + 1, 200), nowhere, &known, false, now);
    assert!(learner.is_idle());
    learner.bgpd_exited(now);
    learner.take_summary(summary(2000, 200), nowhere, &known, false, now);
    assert!(learner.is_waiting_for_prefixes());
    // A service without a route in the kernel is forgotten, unless services are retained.
    learner.take_prefixes(prefixes(150), &mut known, true, now);
    assert_eq!(known.len(), 200);
    learner.queue.clear();
    learner.take_summary(summary(2000, 150), nowhere, &known, true, now + MAX_READ_INTERVAL);
    assert!(!learner.is_waiting_for_prefixes());
    learner.take_summary(summary(2000, 150), nowhere, &known, false, now + MAX_READ_INTERVAL);
    learner.take_prefixes(prefixes(150), &mut known, false, now);
    assert_eq!(known.len(), 150);
}

#[test]
fn withdrawn_and_unparsable_services_are_forgotten() {
    let now = Instant::now();
    let asn = Asn::parse("65001").unwrap();
    let mut learner =
        Learner::new(RetainedRouters { asn, vrf_asn: asn, vrf: VrfName::parse("metallb").unwrap() }, now);
    let mut known = Services::default();
    let queried: Vec<IpNet> = prefixes(3).into_iter().collect();
    let all_known: Vec<Reply> = queried.iter().map(|prefix| reply(path(prefix, "1:1"))).collect();
    let mut take = |replies: &[Reply], known: &mut Services, is_retaining| {
        learner.process_replies(LearnQuery::Prefixes(queried.clone()), replies, known, is_retaining);
    };
    take(&all_known, &mut known, false);
    let withdrawn = [reply("{}".into()), reply(path(&queried[1], "1\\n2")), reply("% no".into())];
    take(&withdrawn, &mut known, true);
    assert_eq!(known.prefixes().collect::<Vec<_>>(), [&queried[0], &queried[2]]);
    take(&withdrawn, &mut known, false);
    assert_eq!(known.prefixes().collect::<Vec<_>>(), [&queried[2]]);
}
