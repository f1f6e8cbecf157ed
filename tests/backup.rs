// Daemons are killed with very many routes in the kernel. Included by node.rs.

/// LAB_ROUTES (2500): the number in each family; 20000 take minutes.
fn number_of_routes() -> usize {
    std::env::var("LAB_ROUTES").map_or(2500, |n| n.parse().unwrap())
}

/// Seconds from the log line about a daemon's exit to that about its restart.
fn until_started(lines: &[Line], name: &str) -> f64 {
    let at = |text: &str| lines.iter().find(|(_, line)| line.contains(text)).map(|(at, _)| at.as_secs_f64());
    at(&format!("{name} started")).unwrap() - at(&format!("{name} exited (pid")).unwrap()
}

#[test]
fn no_daemon_waits_for_thousands_of_backup_routes() {
    let lab = Lab::new(Options::default());
    let node = up(&lab, &[]);
    learn_routes("perouter", number_of_routes());
    let complete = || node.log().iter().filter(|(_, line)| line.contains(DAEMONS_ANSWER)).count();
    let mut lost = vec![];
    for name in ["bgpd", "zebra"] {
        settle();
        let flows = flows();
        thread::sleep(Duration::from_secs(1));
        let (from, before) = (node.log().len(), complete());
        signal_daemons(&lab, "perouter", &[name], Signal::KILL);
        wait_until("the daemons to be back", SOON, || complete() > before);
        settle();
        node.wait_log_after(from, "backup routes installed", SOON);
        let lines = node.log()[from..].to_vec();
        let took = until_started(&lines, name);
        let installed = lines.iter().find(|(_, line)| line.contains("backup routes installed")).unwrap();
        let cost = Cost::of(flows);
        println!("{name}: started after {took:.3} s; {}; {cost}", installed.1);
        // A zebra that damages existing routes waits until they are removed.
        let limit = if name == "zebra" && !node.log_text().contains("FRR 10.7,") { 3.0 } else { 0.3 };
        assert!(took < limit, "{name}: {took:.3} s");
        lost.extend((cost.lost > 0).then(|| format!("{name}: {cost}")));
    }
    assert_eq!(lost, Vec::<String>::new());
}
