// A stop overrides every other shutdown, and the supervisor's lack of resources ends no daemon. Included by node.rs.

/// The namespace is replaced, and the stop comes while the daemons are stopped for that, or during the rebuild.
#[test]
fn a_stop_overrides_every_other_shutdown() {
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
    // A bgpd that has just been restarted has no sessions over which it could withdraw routes.
    let mut node = up(&lab, &[("DRAIN_TIME", "1"), ("ON_STOP", "withdraw")]);
    signal_daemons(&lab, "perouter", &["bgpd"], Signal::KILL);
    let (status, seconds) = node.terminate();
    println!("stopped while bgpd was restarted: {seconds:.1} s");
    assert!(status.success() && seconds < 10.0, "{status} {seconds}");
    wait_until("the leaves to have no route", Duration::from_secs(3), || {
        ["leaf1", "leaf2"].iter().all(|leaf| !has_route(leaf, &format!("{SERVICE4}/32")))
    });
}

/// Sets the limit on the open files of a running process: `files`, or as many as it has open.
fn limit_files(pid: u32, files: Option<u64>) {
    use rustix::process::{Resource, Rlimit, prlimit};
    let open = names(format!("/proc/{pid}/fd")).len() as u64;
    let current = Some(files.unwrap_or(open));
    let pid = Pid::from_raw(pid.cast_signed());
    prlimit(pid, Resource::Nofile, Rlimit { current, maximum: Some(4096) }).unwrap();
}

#[test]
fn a_shortage_of_file_descriptors_ends_no_daemon() {
    let lab = Lab::new(Options::default());
    let node = up(&lab, &[]);
    let before = daemons(&lab, "perouter");
    // After the time in which queries are more frequent after a start.
    thread::sleep(Duration::from_secs(12));
    limit_files(node.pid(), None);
    let task = format!("/proc/{}/task", node.pid());
    let cpu_time = || names(&task).iter().map(|thread| cpu_seconds(&format!("{task}/{thread}"))).sum::<f64>();
    let before_that = cpu_time();
    // A client that waits for its connection all the time.
    let _waits = in_ns("host", || std::net::TcpStream::connect(LISTEN)).unwrap();
    thread::sleep(Duration::from_secs(15));
    let used = cpu_time() - before_that;
    assert_eq!(daemons(&lab, "perouter"), before);
    assert!(node.log_text().contains("cannot be queried on its vty"), "{}", node.log_text());
    println!("{used:.2} s of CPU time in 15 s");
    assert!(used < 3.0, "{used} s");
    // A daemon that is killed now is restarted as soon as there are file descriptors.
    signal_daemons(&lab, "perouter", &["staticd"], Signal::KILL);
    node.wait_log("staticd cannot be started", SOON);
    thread::sleep(Duration::from_secs(5));
    limit_files(node.pid(), Some(1024));
    wait_until("staticd to run", Duration::from_secs(6), || daemons(&lab, "perouter").len() == before.len());
}
