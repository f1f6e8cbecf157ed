use super::*;

fn route(prefix: &str, owner: RouteOwner) -> FibRoute {
    FibRoute { table: 254, prefix: prefix.parse().unwrap(), owner }
}

#[test]
fn routes_of_the_previous_bgpd_are_not_restored() {
    let expected = || {
        let all =
            [("192.0.2.0/25", RouteOwner::Bgpd, Some(3)), ("192.0.2.128/25", RouteOwner::Bgpd, Some(60))];
        let more = [("::/0", RouteOwner::Staticd, None), ("2001:db8::/64", RouteOwner::Bgpd, None)];
        let all = all.into_iter().chain(more);
        all.map(|(prefix, owner, age)| InstalledRoute {
            route: route(prefix, owner),
            age: age.map(Duration::from_secs),
        })
        .collect::<Vec<_>>()
    };
    let none = BTreeSet::new();
    let prefixes = |bgpd_age: Option<u64>, present: &BTreeSet<_>| {
        let missing = missing_routes(expected(), present, bgpd_age.map(Duration::from_secs));
        missing.iter().map(|route| route.prefix.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(prefixes(Some(10), &none), ["192.0.2.0/25", "::/0"]);
    assert_eq!(prefixes(None, &none).len(), 4);
    let present = expected().into_iter().map(|r| (r.route.table, r.route.prefix)).collect();
    assert_eq!(prefixes(None, &present), Vec::<String>::new());
}

#[test]
fn failed_attempts_are_reported_and_back_off() {
    let mut now = Instant::now();
    let mut check = FibCheck::new(now);
    let [a, b, c] = ["192.0.2.0/25", "192.0.2.128/25", "::/0"].map(|p| route(p, RouteOwner::Bgpd));
    let mut delays = vec![];
    for (turn, missing) in [[a, b], [a, c], [a, b], [a, b], [a, b], [a, b], [a, b]].iter().enumerate() {
        check.start(now);
        let (new, is_problem) = check.finished(missing, now);
        let expected: &[FibRoute] = match turn {
            0 => &[a, b],
            1 => &[c],
            2 => &[b],
            _ => &[],
        };
        assert_eq!((new.as_slice(), is_problem), (expected, turn >= 3), "{turn}");
        // zebra logs at once that the route was refused again.
        check.install_failed(now + CONFIRM_DELAY);
        let due = check.deadline().unwrap();
        delays.push((due - now).as_secs());
        now = due;
    }
    assert_eq!(delays, [1, 2, 4, 8, 16, 16, 16]);
    check.start(now);
    assert_eq!(check.finished(&[], now), (vec![], false));
    assert_eq!(check.deadline(), Some(now + CHECK_INTERVAL));
    // No event causes a check before the shortest interval.
    check.next_hop_removed(now);
    assert_eq!(check.deadline(), Some(now + MIN_INTERVAL));
    check.next_hop_removed(now + CHECK_INTERVAL);
    assert_eq!(FibCheck::new(now).deadline(), Some(now + CHECK_INTERVAL));
}
