// A stop comes before every other end, and what is missing on our side ends no daemon. Included by node.rs.

/// The namespace is replaced, and the stop comes while the daemons are ended for that or it is built anew.
#[test]
fn a_stop_comes_before_every_other_end() {
    let lab = Lab::new(Options::default());
    for (ms, withdraw) in [(0, false), (10, false), (30, true), (200, false)] {
        let mut node = up(&lab, &[("DRAIN_TIME", "1")]);
        ip_batch("host", "netns del perouter\nnetns add perouter\n");
        thread::sleep(Duration::from_millis(ms));
        if withdraw {
            node.signal(Signal::USR1);
        }
        let (status, seconds) = node.terminate();
        println!("stopped {ms} ms after the namespace was replaced: {seconds:.1} s");
        assert!(status.success() && seconds < 20.0, "{status} {seconds}");
        assert_eq!(daemons(&lab, "perouter"), BTreeSet::new());
        if withdraw {
            wait_until("the leaves to have no route", Duration::from_secs(3), || {
                ["leaf1", "leaf2"].iter().all(|leaf| !has_route(leaf, &format!("{SERVICE4}/32")))
            });
        }
    }
    // A bgpd that has just been started again has no sessions to withdraw anything by.
    let mut node = up(&lab, &[("DRAIN_TIME", "1"), ("ON_STOP", "withdraw")]);
    signal_daemons(&lab, "perouter", &["bgpd"], Signal::KILL);
    let (status, seconds) = node.terminate();
    println!("stopped while bgpd was started again: {seconds:.1} s");
    assert!(status.success() && seconds < 10.0, "{status} {seconds}");
    wait_until("the leaves to have no route", Duration::from_secs(3), || {
        ["leaf1", "leaf2"].iter().all(|leaf| !has_route(leaf, &format!("{SERVICE4}/32")))
    });
}

/// A limit on the open files of a process that runs: as many as it has.
fn limit_files(pid: u32, files: Option<u64>) {
    use rustix::process::{Resource, Rlimit, prlimit};
    let open = names(format!("/proc/{pid}/fd")).len() as u64;
    let current = Some(files.unwrap_or(open));
    let pid = Pid::from_raw(pid.cast_signed());
    prlimit(pid, Resource::Nofile, Rlimit { current, maximum: Some(4096) }).unwrap();
}

#[test]
fn want_of_files_on_our_side_ends_no_daemon() {
    let lab = Lab::new(Options::default());
    let node = up(&lab, &[]);
    let before = daemons(&lab, "perouter");
    // Past what is asked more often after a start.
    thread::sleep(Duration::from_secs(12));
    limit_files(node.pid(), None);
    let task = format!("/proc/{}/task", node.pid());
    let ran = || names(&task).iter().map(|thread| ran_for(&format!("{task}/{thread}"))).sum::<f64>();
    let before_that = ran();
    // Someone who wants to connect, all the time.
    let _waits = in_ns("host", || std::net::TcpStream::connect(LISTEN)).unwrap();
    thread::sleep(Duration::from_secs(15));
    let used = ran() - before_that;
    assert_eq!(daemons(&lab, "perouter"), before);
    assert!(node.log_text().contains("cannot be pinged"), "{}", node.log_text());
    println!("{used:.2} s of CPU time in 15 s");
    assert!(used < 3.0, "{used} s");
    // A daemon that dies now is back as soon as there are files.
    signal_daemons(&lab, "perouter", &["staticd"], Signal::KILL);
    node.wait_log("staticd cannot be started", SOON);
    thread::sleep(Duration::from_secs(5));
    limit_files(node.pid(), Some(1024));
    wait_until("staticd to run", Duration::from_secs(6), || daemons(&lab, "perouter").len() == before.len());
}
