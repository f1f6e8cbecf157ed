// The files below /run: a full file system, and files that others create there. Included by node.rs.

/// A lab without a speaker, which needs less time.
fn quiet() -> Options {
    Options { speaker: None, ..Options::default() }
}

/// Fills /run until neither a byte nor a file more fits.
fn fill_run() {
    exec("", &["mount", "-o", "remount,size=6M", "/run"]);
    let mut file = std::fs::File::create("/run/filler").unwrap();
    for size in [65536, 4096, 1] {
        while std::io::Write::write_all(&mut file, &vec![1; size]).is_ok() {}
    }
    let there = rustix::fs::statvfs("/run").unwrap();
    exec("", &["mount", "-o", &format!("remount,nr_inodes={}", there.f_files - there.f_ffree), "/run"]);
    assert!(std::fs::write("/run/frr/probe", "").is_err(), "/run is not full");
}

fn empty_run() {
    let _ = std::fs::remove_file("/run/filler");
    exec("", &["mount", "-o", "remount,size=50%,nr_inodes=100000", "/run"]);
}

#[test]
fn a_full_run_directory_stops_no_restart() {
    let lab = Lab::new(Options::default());
    let mut node = up(&lab, &[]);
    let flows = flows();
    every_ping_is_answered(&SERVICES, 20);
    fill_run();
    let count = |node: &Supervisor, what: &str| node.log().iter().filter(|(_, l)| l.contains(what)).count();
    for names in [&["bgpd"][..], &[]] {
        let (ready, begin) = (count(&node, DAEMONS_ANSWER), std::time::Instant::now());
        let released = count(&node, "the speaker is back: it announces");
        signal_daemons(&lab, "perouter", names, Signal::KILL);
        wait_until(&format!("{names:?} to be restarted"), SOON, || count(&node, DAEMONS_ANSWER) > ready);
        let seconds = begin.elapsed().as_secs_f64();
        println!("{names:?} restarted after {seconds:.1} s");
        assert!(seconds < 10.0);
        // A leaf keeps routes over one restart of bgpd, not over two.
        wait_until("the speaker", SOON, || count(&node, "the speaker is back: it announces") > released);
        settle();
        thread::sleep(Duration::from_secs(5));
    }
    wait_until("the problem", SOON, || {
        get("/status.json").is_ok_and(|(_, json)| {
            json.contains("\"not-saved\"") && json.contains("cannot write /run/frr/status.json: No space left")
        })
    });
    // The last inodes are reserved for the daemons' sockets: the supervisor writes no file then.
    let there = rustix::fs::statvfs("/run").unwrap();
    exec("", &["mount", "-o", &format!("remount,size=50%,nr_inodes={}", there.f_files - there.f_ffree + 8), "/run"]);
    thread::sleep(Duration::from_secs(3));
    for words in ["/run/frr/status.json can be written again", "Cannot bind path"] {
        assert!(!node.log_text().contains(words), "{words}");
    }
    empty_run();
    // Everything is retried within three seconds.
    wait_until("its end", Duration::from_secs(20), || {
        status()["health"] == "healthy" && get("/status.json").is_ok_and(|(_, json)| !json.contains("\"not-saved\""))
    });
    node.wait_log("/run/frr/status.json can be written again", SOON);
    wait_until("the number of bgpd's process", SOON, || {
        let pid = std::fs::read_to_string("/run/frr/bgpd.pid").unwrap_or_default();
        pid.trim().parse().is_ok_and(|pid| daemons(&lab, "perouter").contains(&("bgpd".into(), pid)))
    });
    let mut lost = vec![];
    for (name, flow) in flows {
        let loss = flow.stop();
        println!("{name}: sent {}, lost {}", loss.sent, loss.lost);
        lost.extend((loss.lost > 0).then_some((name, loss.lost)));
    }
    assert_eq!(lost, []);

    // A start succeeds, too.
    assert!(node.terminate().0.success());
    for name in ["frr.conf", "frr.conf.good", "services.json", "bfd.json", "vtysh.conf", "status.json", "status.txt"] {
        let _ = std::fs::remove_file(format!("/run/frr/{name}"));
    }
    fill_run();
    let node = up(&lab, &[]);
    every_ping_is_answered(&SERVICES, 20);
    empty_run();
    wait_until("the files", SOON, || {
        ["frr.conf", "vtysh.conf", "status.json"].iter().all(|n| std::fs::metadata(format!("/run/frr/{n}")).is_ok())
    });
    drop(node);
}

/// Runs a shell script as FRR's user. Returns whether it succeeded.
fn as_frr(script: &str) -> bool {
    try_exec("", &["setpriv", "--reuid", "frr", "--regid", "frr", "--clear-groups", "sh", "-ec", script]).is_ok()
}

#[test]
fn what_others_put_in_the_run_directory_is_not_followed() {
    let lab = Lab::new(quiet());
    // As if an earlier version, in whose directory FRR's user could do anything, had left all of this.
    let secret = "/run/secret";
    std::fs::write(secret, "router bgp 4200000999\n").unwrap();
    let plant = "cd /run/frr; mkfifo on-stop bgpd.pid zebra.pid watchfrr.pid; ln -s /run/secret frr.conf; ln -s /run/secret frr.conf.good; \
                 ln -s /run/secret services.json; mkfifo bfd.json status.lock; ln -s /run/secret bgpd.tmp; mkdir sockets; \
                 ln -s /run/secret sockets/bgpd.vty; ln -s /run/secret status.json; ln -s /run/secret bfdd.pid";
    exec("", &["chown", "frr:frr", "/run/frr"]);
    assert!(as_frr(plant));
    std::fs::write("/run/frr/mgmtd.pid", "1\n").unwrap();
    std::fs::set_permissions("/run/frr/mgmtd.pid", std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::create_dir("/run/frr/sockets/zebra.vty").unwrap();
    let mut node = start(&lab, &[]);
    node.wait_log(DAEMONS_ANSWER, SOON);
    both_leaves_are_up();
    assert_eq!(std::fs::read_to_string(secret).unwrap(), "router bgp 4200000999\n");
    assert!(!node.log_text().contains("4200000999"), "{}", node.log_text());
    assert!(std::fs::read_to_string("/run/frr/frr.conf").unwrap().contains("router bgp"));
    // Now FRR's user may change nothing except its own sockets.
    for attempt in ["touch new", "ln -sf /run/secret on-stop2", "rm -f status.json", "mv sockets other", "echo x >frr.conf", "cat frr.conf"] {
        assert!(!as_frr(&format!("cd /run/frr; {attempt}")), "{attempt}");
    }
    // The usual paths exist: vtysh finds the daemons by them.
    let output = exec("", &["vtysh", "--vty_socket", "/run/frr", "-c", "show version"]);
    assert!(output.contains("FRRouting"), "{output}");

    // A second instance changes nothing, and its log names the first.
    let before = daemons(&lab, "perouter");
    let mut second = start(&lab, &[]);
    assert!(!second.wait_end(Duration::from_secs(5)).success());
    second.wait_log(&format!("another frr-supervisor (pid {}) runs on this node", node.pid()), SOON);
    let log = second.log_text();
    assert_eq!(log.lines().count(), 1, "{log}");
    assert_eq!(daemons(&lab, "perouter"), before);
    assert_eq!(status()["supervisor"]["pid"], node.pid());
    signal_daemons(&lab, "perouter", &["bgpd"], Signal::KILL);
    wait_until("bgpd to be restarted", SOON, || {
        node.log().iter().filter(|(_, line)| line.contains(DAEMONS_ANSWER)).count() == 2
    });

    // The file on-stop counts only if it is a regular file.
    exec("", &["mkfifo", "/run/frr/on-stop"]);
    let (status, seconds) = node.terminate();
    assert!(status.success() && seconds < 5.0, "{status} {seconds}");
    node.wait_log("/run/frr/on-stop: not a regular file but a FIFO; ON_STOP applies", SOON);
    assert!(!std::fs::exists("/run/frr/bgpd.pid").unwrap());
    std::fs::remove_file("/run/frr/on-stop").unwrap();

    // The stored configuration becomes active only if it is a valid one.
    let config = std::fs::read_to_string("/run/frr/frr.conf").unwrap();
    std::fs::write("/run/frr/frr.conf.good", "rubbish\n").unwrap();
    let node = start(&lab, &[]);
    for starts in 1..=3 {
        wait_until("all to run", SOON, || {
            node.log().iter().filter(|(_, line)| line.contains(DAEMONS_ANSWER)).count() == starts
        });
        signal_daemons(&lab, "perouter", &["bgpd"], Signal::KILL);
    }
    node.wait_log("the last-known-good configuration cannot be used: vtysh refuses", SOON);
    wait_until("all to run", SOON, || {
        node.log().iter().filter(|(_, line)| line.contains(DAEMONS_ANSWER)).count() == 4
    });
    assert_eq!(std::fs::read_to_string("/run/frr/frr.conf").unwrap(), config);

    // A daemon that cannot be started is no crash by its configuration, and it is started as soon as possible.
    let bgpd = daemons(&lab, "perouter").into_iter().find(|(name, _)| name == "bgpd").unwrap().1;
    let (program, aside) = (daemon("bgpd"), std::path::PathBuf::from("/usr/lib/frr/aside"));
    std::fs::rename(&program, &aside).unwrap();
    let from = node.log().len();
    kill_process(Pid::from_raw(bgpd.cast_signed()).unwrap(), Signal::KILL).unwrap();
    node.wait_log("bgpd cannot be started: No such file or directory", SOON);
    thread::sleep(Duration::from_secs(5));
    std::fs::rename(&aside, &program).unwrap();
    let begin = std::time::Instant::now();
    let log = node.wait_log_after(from, "bgpd started", SOON);
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    assert_eq!(log.matches("cannot be started").count(), 1, "{log}");
    assert!(!log.contains("cannot be used"), "{log}");
    std::fs::remove_file(secret).unwrap();
}

fn both_leaves_are_up() {
    for leaf in ["leaf1", "leaf2"] {
        wait_until(&format!("{leaf}'s session"), SOON, || session(leaf, "default", "node") == "Established");
    }
}

#[test]
fn only_a_regular_file_is_a_template_or_a_configuration() {
    let lab = Lab::new(quiet());
    exec("", &["mkfifo", "/run/fifo"]);
    std::fs::File::create("/run/endless").unwrap().set_len(1 << 40).unwrap();
    for (path, why) in [
        ("/run/fifo", "a FIFO"),
        ("/dev/zero", "a device"),
        ("/run", "a directory"),
        ("/run/endless", "larger than"),
    ] {
        let log = refused(&lab, &[("FRR_TEMPLATE", path)]);
        assert!(log.contains(&format!("FRR_TEMPLATE={path}: ")) && log.contains(why), "{log}");
        // A wrong configuration file does not stop the rest from running; here only the file is checked.
        let args = ["check"];
        let env: Vec<_> = Lab::node_env().into_iter().chain([("CONFIG_FILE", path)]).collect();
        let output = Command::new(program()).args(args).env_clear().envs(env).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        let expected = path == "/run" || errors.contains(&format!("CONFIG_FILE: {path}: ")) && errors.contains(why);
        assert!(expected, "{errors}");
    }
}
