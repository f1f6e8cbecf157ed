// The log: a reader that does not read, and peers that try to forge lines. Included by node.rs.

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

/// An OPEN of MetalLB's speaker whose host name is `name` (RFC 4271 §4.2; capabilities 1, 65 and 73), and a KEEPALIVE.
fn introduction(name: &[u8]) -> Vec<u8> {
    let message = |kind: u8, body: &[u8]| {
        let length = u16::try_from(19 + body.len()).unwrap().to_be_bytes();
        [&[0xff; 16], &length[..], &[kind], body].concat()
    };
    let length = |bytes: &[u8]| u8::try_from(bytes.len()).unwrap();
    let capability = |code: u8, value: &[u8]| [&[code, length(value)], value].concat();
    let fqdn = [&[length(name)], name, &[0]].concat();
    let capabilities = [
        capability(1, &[0, 2, 0, 1]),
        capability(65, &4_000_099_999_u32.to_be_bytes()),
        capability(73, &fqdn),
    ];
    let capabilities = capabilities.concat();
    let parameters = [&[2, length(&capabilities)], &capabilities[..]].concat();
    let mut open = vec![4];
    open.extend(23456_u16.to_be_bytes());
    open.extend(90_u16.to_be_bytes());
    open.extend([10, 0, 0, 11, length(&parameters)]);
    open.extend(parameters);
    [message(1, &open), message(4, &[])].concat()
}

/// A peer may have any host name.
#[test]
fn peers_cannot_forge_log_lines() {
    use std::io::{Read as _, Write as _};
    let mut lab = Lab::new(Options::default());
    let node = up(&lab, &[]);
    lab.speaker.as_mut().unwrap().kill("bgpd");
    // The session that the names mention is down.
    vtysh("leaf1", "conf t\nrouter bgp 65101\nneighbor node shutdown\nend");
    wait_until("the session's end", SOON, || problems().contains(&"session-down".to_owned()));
    let time = exec("", &["date", "+%Y/%m/%d %H:%M:%S"]);
    let message = format!("f\n{}.999 errors: BGP: [HZN6M-XRM1G] bye\n", time.trim());
    let names: [&[u8]; 7] = [
        b"a%NOTIFICATION: sent to neighbor eth1 2/2 (Bad Peer AS",
        b"b\n%NOTIFICATION: sent to neighbor eth1 2/2 (Bad Peer AS",
        b"c\n1/1 1:1 B: %NOTIFICATION: sent to neighbor x9 2/2 (a) b",
        b"d\x1b[2J\x1b[31m\r\nERROR all daemons are gone\x9b1m",
        b"e\n2026/11/29 03:00:00 alerts: BGP: zebra exited (pid 7, signal 9)",
        message.as_bytes(),
        b"g\n2026/11/29 03:00:00 B: %NOTIFICATION: sent to neighbor x9 2/2 (",
    ];
    for name in names {
        let from = node.log().len();
        let mut stream = wait_until("a connection", SOON, || {
            in_ns("host", || std::net::TcpStream::connect("[fda1:b2c3:d4e5:1::]:179")).ok()
        });
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.write_all(&introduction(name)).unwrap();
        let text = format!("fda1:b2c3:d4e5:1::1({}", char::from(name[0]));
        node.wait_log_after(from, &text, SOON);
        let _ = stream.read(&mut [0; 64]);
        drop(stream);
        node.wait_log_after(from, "Down", SOON);
    }
    thread::sleep(Duration::from_secs(4));
    let log = node.log();
    let escaped = log.iter().filter(|(_, line)| line.contains("fda1:b2c3:d4e5:1::1(") && line.contains(" Up"));
    assert!(escaped.count() >= names.len(), "{}", node.log_text());
    for (_, line) in &log {
        assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
        let time = line.split(' ').next().unwrap_or_default();
        assert!(time.len() == 24 && time.ends_with('Z'), "{line:?}");
        assert!(!line.contains("wrong-as") && !line.contains("refuses AS number"), "{line:?}");
        // A whole name is in one line with FRR's message about it, and no other line has a part of another message.
        let named = line.contains("fda1:b2c3:d4e5:1::1(");
        let forged = ["zebra exited (pid 7", "bye", "neighbor x9", "daemons are gone"];
        assert!(named || !forged.iter().any(|text| line.contains(text)), "{line:?}");
        assert!(named || !line.contains("\\n20"), "{line:?}");
    }
    assert!(!problems().contains(&"wrong-as".to_owned()), "{:?}", problems());
    for path in ["/", "/metrics", "/status.json", "/status.txt"] {
        let body = get(path).unwrap().1;
        assert!(!body.contains(|c: char| c.is_control() && c != '\n'), "{path}: {body:?}");
    }
}
