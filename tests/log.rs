// The log: who reads it, and what others would like to have in it.

/// A pipe that is full, and that no one reads.
fn full_pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    use std::io::Write as _;
    let (reader, mut writer) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while writer.write(&[b'x'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    (reader, writer)
}

/// The node starts, restarts a daemon, and ends at a signal.
#[test]
fn a_log_that_no_one_reads_stops_nothing() {
    let lab = Lab::new(Options::default());
    let (_reader, writer) = full_pipe();
    let mut command = Command::new(program());
    command.arg("run").env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").envs(Lab::node_env());
    command.env("RETURN_PATH", "default-route").env("LOG_LEVEL", "debug").stderr(writer);
    let mut node = in_ns("host", || command.spawn()).unwrap();
    drop(command);
    both_leaves_have(&format!("{SERVICE4}/32"));
    settle();
    let bgpd = || daemons(&lab, "perouter").into_iter().find(|(name, _)| name == "bgpd").map(|(_, pid)| pid);
    let before = bgpd().unwrap();
    signal_daemons(&lab, "perouter", &["bgpd"], Signal::KILL);
    wait_until("another bgpd", Duration::from_secs(10), || bgpd().is_some_and(|pid| pid != before));
    settle();
    wait_until("a healthy node", SOON, || status()["health"] == "healthy");
    let begin = std::time::Instant::now();
    kill_process(Pid::from_child(&node), Signal::TERM).unwrap();
    wait_until("its end", Duration::from_secs(10), || node.try_wait().unwrap());
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert_eq!(daemons(&lab, "perouter"), BTreeSet::new());
}
