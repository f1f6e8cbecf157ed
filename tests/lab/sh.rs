//! Run programs in a namespace, query an FRR router, and wait for a result.

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

/// A command that failed, with its output.
pub struct Failed {
    pub command: String,
    pub reason: String,
    pub output: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}\n{}", self.command, self.reason, self.output)
    }
}

impl fmt::Debug for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

pub type Result<T = String> = std::result::Result<T, Failed>;

/// Unwraps, or panics with the error at the line of the caller.
#[track_caller]
pub fn must<T, E: fmt::Display>(what: &str, result: std::result::Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{what}: {error}"),
    }
}

/// Moves the calling thread (only) into the network namespace `ns`; "" is the present one.
pub fn enter(ns: &str) {
    if ns.is_empty() {
        return;
    }
    let file = must(ns, File::open(netns_path(ns)));
    must(ns, move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)));
}

pub fn netns_path(ns: &str) -> PathBuf {
    Path::new("/run/netns").join(ns)
}

/// Runs `f` on a thread of its own that is in the network namespace `ns`. A process that `f` starts is in it too, and
/// in the test's own mount namespace (unlike with `ip netns exec`): the test sees what it mounts.
pub fn in_ns<T: Send>(ns: &str, f: impl FnOnce() -> T + Send) -> T {
    let result = thread::scope(|scope| {
        scope
            .spawn(|| {
                enter(ns);
                f()
            })
            .join()
    });
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Runs a program in `ns` with `input` on its standard input; its standard output.
pub fn try_exec_input(ns: &str, argv: &[&str], input: &str) -> Result {
    let failed = |reason: String, output: String| Failed {
        command: format!("{ns}# {}", argv.join(" ")),
        reason,
        output,
    };
    let run = || -> std::io::Result<_> {
        let mut command = Command::new(argv[0]);
        command.args(&argv[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        // Inputs are small: they fit into the pipe. The program need not read them.
        if let Some(mut stdin) = child.stdin.take() {
            let _ = stdin.write_all(input.as_bytes());
        }
        child.wait_with_output()
    };
    let output = in_ns(ns, run).map_err(|error| failed(error.to_string(), String::new()))?;
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(out);
    }
    Err(failed(output.status.to_string(), format!("{out}{}{input}", String::from_utf8_lossy(&output.stderr))))
}

pub fn try_exec(ns: &str, argv: &[&str]) -> Result {
    try_exec_input(ns, argv, "")
}

#[track_caller]
pub fn exec(ns: &str, argv: &[&str]) -> String {
    must("exec", try_exec(ns, argv))
}

/// `ip("host", "link set eth1 up")`.
#[track_caller]
pub fn ip(ns: &str, args: &str) -> String {
    let argv: Vec<&str> = std::iter::once("ip").chain(args.split_whitespace()).collect();
    must("ip", try_exec(ns, &argv))
}

/// Many `ip` commands, one per line, in one process: a fork is expensive in user-mode Linux.
#[track_caller]
pub fn ip_batch(ns: &str, lines: &str) {
    must("ip -batch", try_exec_input(ns, &["ip", "-batch", "-"], lines));
}

/// `ip_json("host", "-d link show")`, always an array.
#[track_caller]
pub fn ip_json(ns: &str, args: &str) -> Value {
    let text = ip(ns, &format!("-j {args}"));
    must(args, serde_json::from_str(if text.trim().is_empty() { "[]" } else { &text }))
}

/// Writes a sysctl of the namespace: `sysctl("host", "net/ipv4/ip_forward", "1")`.
#[track_caller]
pub fn sysctl(ns: &str, name: &str, value: &str) {
    let path = Path::new("/proc/sys").join(name);
    must(name, in_ns(ns, || std::fs::write(path, value)));
}

/// The directory of a router's sockets; `node` is the one that the supervisor runs.
pub fn frr_dir(router: &str) -> PathBuf {
    let base = Path::new("/run/frr");
    if router == "node" { base.to_path_buf() } else { base.join(router) }
}

/// The real vtysh, one `-c` for each line of `cmd`. `router`: leaf1, leaf2, speaker, node.
pub fn try_vtysh(router: &str, cmd: &str) -> Result {
    let mut argv = vec!["vtysh"];
    if router != "node" {
        argv.extend(["-N", router]);
    }
    for line in cmd.lines() {
        argv.extend(["-c", line]);
    }
    try_exec("", &argv)
}

#[track_caller]
pub fn vtysh(router: &str, cmd: &str) -> String {
    must("vtysh", try_vtysh(router, cmd))
}

/// Sends commands to one daemon by its own socket, one after the other: the status and the output of each.
pub fn query_all(router: &str, daemon: &str, cmds: &[impl AsRef<str>]) -> std::io::Result<Vec<(u8, String)>> {
    let mut socket = UnixStream::connect(frr_dir(router).join(format!("{daemon}.vty")))?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut one = |cmd: &str| {
        socket.write_all(&[cmd.as_bytes(), &[0]].concat())?;
        // The reply ends with three NULs and a status.
        let (mut answer, mut buffer) = (Vec::new(), [0; 65536]);
        while answer.len() < 4 || answer[answer.len() - 4..answer.len() - 1] != [0; 3] {
            match socket.read(&mut buffer)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                n => answer.extend_from_slice(&buffer[..n]),
            }
        }
        let status = answer[answer.len() - 1];
        Ok((status, String::from_utf8_lossy(&answer[..answer.len() - 4]).into_owned()))
    };
    // Some commands need the enable mode.
    one("enable")?;
    cmds.iter().map(|cmd| one(cmd.as_ref())).collect()
}

/// Sends a command to one daemon, without vtysh: for polling.
pub fn vty(router: &str, daemon: &str, cmd: &str) -> Result {
    let failed = |reason, output| Failed { command: format!("{router} {daemon}: {cmd}"), reason, output };
    match query_all(router, daemon, &[cmd]).map(|mut answers| answers.remove(0)) {
        Ok((0, answer)) => Ok(answer),
        Ok((status, answer)) => Err(failed(format!("status {status}"), answer)),
        Err(error) => Err(failed(error.to_string(), String::new())),
    }
}

/// `show("leaf1", "bgpd", "show bgp summary json")`; null while the daemon does not answer.
pub fn show(router: &str, daemon: &str, cmd: &str) -> Value {
    vty(router, daemon, cmd).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or(Value::Null)
}

/// The state of the BGP session with `peer` (interface or address) as `router` shows it, "" if there is none.
pub fn session(router: &str, vrf: &str, peer: &str) -> String {
    let all = show(router, "bgpd", &format!("show bgp vrf {vrf} neighbors {peer} json"));
    all[peer]["bgpState"].as_str().unwrap_or_default().to_owned()
}

/// Whether `router` has a best path for `prefix`.
pub fn has_route(router: &str, prefix: &str) -> bool {
    let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
    let route = show(router, "bgpd", &format!("show bgp {family} unicast {prefix} json"));
    route["paths"]
        .as_array()
        .is_some_and(|paths| paths.iter().any(|path| path["bestpath"]["overall"] == true))
}

/// A result that ends `wait_until`: `true`, or `Some`.
pub trait Ready {
    type Value;
    fn ready(self) -> Option<Self::Value>;
}

impl Ready for bool {
    type Value = ();
    fn ready(self) -> Option<()> {
        self.then_some(())
    }
}

impl<T> Ready for Option<T> {
    type Value = T;
    fn ready(self) -> Option<T> {
        self
    }
}

/// The longest time that one turn of [`wait_until`] counts: when the machine stands still, the processes under test do,
/// too.
const TURN: Duration = Duration::from_millis(500);

/// Calls `ask` until it has a result; panics with the state of the lab when `limit` is over.
#[track_caller]
pub fn wait_until<R: Ready>(what: &str, limit: Duration, mut ask: impl FnMut() -> R) -> R::Value {
    let (start, mut waited) = (Instant::now(), Duration::ZERO);
    // An emulated processor takes ten times as long.
    let limit =
        if std::env::var("LAB_KERNEL").is_ok_and(|kernel| kernel == "qemu") { 5 * limit } else { limit };
    loop {
        let (turn, last) = (Instant::now(), waited > limit);
        if let Some(value) = ask().ready() {
            return value;
        }
        if last {
            panic!("waited {:.1} s without success for {what}\n{}", start.elapsed().as_secs_f64(), state());
        }
        // Most of the time is left for the processes under test: there is one processor.
        thread::sleep((3 * turn.elapsed()).clamp(Duration::from_millis(50), TURN));
        waited += turn.elapsed().min(TURN);
    }
}

/// The names in a directory, none if it can't be read.
pub fn names(dir: impl AsRef<Path>) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The state of the lab, for the analysis of a failure.
pub fn state() -> String {
    let mut text = String::new();
    let mut add = |title: String, result: Result| {
        let body = result.unwrap_or_else(|error| error.to_string());
        text += &format!("--- {title}\n{}\n", body.trim_end());
    };
    let summary = |text: &str| -> String {
        let words = ["BGP neighbor ", "BGP state", "Last reset", "otification", "Timer due"];
        let lines = text.lines().filter(|line| words.iter().any(|word| line.contains(word)));
        lines.map(|line| format!("{line}\n")).collect()
    };
    let routers = ["leaf1", "leaf2", "speaker", "node"];
    let routers = routers.into_iter().filter(|router| frr_dir(router).join("bgpd.vty").exists());
    let ask = |router| vty(router, "bgpd", "show bgp vrf all neighbors").unwrap_or_else(|e| e.to_string());
    let neighbors: Vec<(&str, String)> = routers.map(|router| (router, ask(router))).collect();
    for (router, text) in &neighbors {
        add(format!("{router}: sessions"), Ok(summary(text)));
    }
    for ns in names("/run/netns").iter().filter(|ns| !ns.starts_with("client")) {
        add(format!("{ns}: addresses"), try_exec(ns, &["ip", "-br", "addr"]));
        add(
            format!("{ns}: routes"),
            try_exec(ns, &["ip", "-4", "route", "show", "table", "all", "type", "unicast"]),
        );
        add(
            format!("{ns}: routes, IPv6"),
            try_exec(ns, &["ip", "-6", "route", "show", "table", "all", "type", "unicast"]),
        );
        add(
            format!("{ns}: BGP's sockets"),
            try_exec(ns, &["ss", "-Hatnp", "( sport = 179 or dport = 179 )"]),
        );
        add(format!("{ns}: neighbours"), try_exec(ns, &["ip", "neigh"]));
    }
    for (router, neighbors) in neighbors {
        add(format!("{router}: BGP"), vty(router, "bgpd", "show bgp vrf all summary"));
        add(format!("{router}: neighbors"), Ok(neighbors));
        add(format!("{router}: NHT"), vty(router, "zebra", "show ipv6 nht vrf all"));
        add(format!("{router}: RIB"), vty(router, "zebra", "show ipv6 route vrf all"));
    }
    text
}

/// A number of the status of a process or thread, whose directory is `path` (proc_pid_status(5)); memory in KiB.
pub fn number_of(path: &str, name: &str) -> f64 {
    let text = must(path, std::fs::read_to_string(format!("{path}/status")));
    let of_name = |line: &str| line.strip_prefix(name)?.strip_prefix(':').map(str::to_owned);
    let line = must(name, text.lines().find_map(of_name).ok_or("no such line"));
    must(&line, line.trim().trim_end_matches(" kB").parse())
}

/// The CPU time of a process or thread in seconds.
pub fn cpu_seconds(path: &str) -> f64 {
    let text = must(path, std::fs::read_to_string(format!("{path}/schedstat")));
    let nanoseconds: f64 = must(&text, text.split(' ').next().unwrap_or_default().parse());
    nanoseconds / 1e9
}

/// Gives the calling thread and its children real-time priority, if the machine allows it.
pub fn raise_priority() {
    let me = rustix::thread::gettid().as_raw_nonzero().to_string();
    let _ = try_exec("", &["chrt", "--fifo", "--pid", "50", &me]);
}

/// Sends `count` pings, `interval_ms` apart: how many were sent and answered. (0, 0) when there is no route at all.
#[track_caller]
pub fn ping(ns: &str, dst: &str, count: u32, interval_ms: u32) -> (u32, u32) {
    let interval = format!("{}.{:03}", interval_ms / 1000, interval_ms % 1000);
    let count = count.to_string();
    // Not -w: with it, -c counts the answers instead.
    let argv = ["ping", "-nq", "-c", &count, "-i", &interval, "-W", "2", dst];
    let text = match try_exec(ns, &argv) {
        Ok(text) => text,
        Err(failed) => failed.output, // not all were answered
    };
    // "1000 packets transmitted, 1000 received, 0% packet loss, time 2013ms"
    let line = text.lines().find(|line| line.contains("packets transmitted"));
    let number = |word: &str| {
        let parts = line?.split(", ").find(|part| part.contains(word))?;
        parts.split(' ').next()?.parse::<u32>().ok()
    };
    match (number("transmitted"), number("received")) {
        (Some(sent), Some(received)) => (sent, received),
        _ if text.contains("unreachable") => (0, 0),
        _ => panic!("`{}` in {ns} printed:\n{text}", argv.join(" ")),
    }
}
