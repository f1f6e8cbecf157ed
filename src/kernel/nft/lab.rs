//! Tests with the kernel in separate namespaces. They need root, `unshare`, `ip` and `ping`.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr as Addr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::tests::{MARK, want};
use super::*;

/// More messages of `enum nf_tables_msg_types`.
const DELCHAIN: u16 = 5;
const DELRULE: u16 = 8;

/// Runs `body` in a new network and mount namespace: starts this test again under `unshare`.
fn isolated(test: &str, body: fn()) {
    match std::env::var("NFT_ROLE").ok() {
        Some(role) if role == "host" => body(),
        Some(role) => run_role(&role),
        None => {
            let mut inside = rerun(test, "host");
            let out =
                inside.stdout(Stdio::piped()).stderr(Stdio::piped()).output().expect("unshare (util-linux)");
            let (o, e) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
            println!("{o}");
            assert!(out.status.success() && o.contains("1 passed"), "{e}");
        }
    }
}

/// The command that starts this test again: as "host" in new namespaces, or as "<netns> <job>" in a named one.
fn rerun(test: &str, role: &str) -> Command {
    let (program, first) =
        if role == "host" { ("unshare", vec!["-n", "-m"]) } else { ("ip", vec!["netns", "exec"]) };
    let mut command = Command::new(program);
    command.args(first).args(role.split_once(' ').map(|r| r.0)).arg(std::env::current_exe().unwrap());
    let path = module_path!().split_once("::").unwrap().1;
    command
        .args(["--exact", &format!("{path}::{test}"), "--include-ignored", "--nocapture", "--test-threads=1"])
        .env("NFT_ROLE", role);
    command
}

/// Runs a job. "<netns> serve <address>" echoes lines by TCP and UDP. "<netns> ask tcp|udp <address> <n> <ms> <port>"
/// prints how many of n new connections got a reply.
fn run_role(role: &str) {
    let args: Vec<&str> = role.split(' ').collect();
    if let [_, "serve", at] = args[..] {
        let (tcp, udp) = (TcpListener::bind(at).unwrap(), UdpSocket::bind(at).unwrap());
        std::thread::spawn(move || {
            let mut buf = [0; 64];
            while let Ok((n, from)) = udp.recv_from(&mut buf) {
                let _ = udp.send_to(&buf[..n], from);
            }
        });
        println!("ready");
        for stream in tcp.incoming().flatten() {
            std::thread::spawn(move || {
                let mut line = String::new();
                let _ = BufReader::new(&stream)
                    .read_line(&mut line)
                    .and_then(|_| (&stream).write(line.as_bytes()));
            });
        }
    }
    let (at, n, ms) = (args[3].parse::<Addr>().unwrap(), args[4].parse().unwrap(), args[5].parse().unwrap());
    let wait = Duration::from_millis(ms);
    let mut ports = args[6].parse::<u16>().unwrap()..;
    let mut ask = || -> io::Result<usize> {
        let mut buf = [0; 64];
        if args[2] == "udp" {
            // New ports only: conntrack keeps entries of unmarked connections for some time.
            let port = ports.next().unwrap();
            let sock = if at.is_ipv4() {
                UdpSocket::bind(("0.0.0.0", port))
            } else {
                UdpSocket::bind(("::", port))
            }?;
            sock.set_read_timeout(Some(wait))?;
            sock.connect(at)?;
            sock.send(b"hello\n")?;
            return sock.recv(&mut buf);
        }
        let mut stream = TcpStream::connect_timeout(&at, wait)?;
        stream.set_read_timeout(Some(wait))?;
        stream.write_all(b"hello\n")?;
        BufReader::new(stream).read_line(&mut String::new())
    };
    println!("answered {}", (0..n).filter(|_: &usize| matches!(ask(), Ok(6))).count());
}

struct EchoServer(Child);

impl Drop for EchoServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve(test: &str, netns: &str, at: &str) -> EchoServer {
    let mut child = rerun(test, &format!("{netns} serve {at}")).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let server = EchoServer(child);
    assert!(lines.map_while(Result::ok).any(|l| l.contains("ready")), "no server at {at}");
    server
}

/// Timeout of a reply in milliseconds: an emulated machine on busy cores sometimes stops for a second.
const REPLY_TIMEOUT_MS: usize = 5000;

static NEXT_PORT: AtomicU16 = AtomicU16::new(10_000);

/// How many of `n` connections (or echo requests) from `netns` got a reply.
fn ask(test: &str, netns: &str, how: &str, host: &str, n: usize, ms: usize) -> usize {
    let out = if how == "ping" {
        let (count, wait) = (n.to_string(), format!("{}.{}", ms / 1000, ms % 1000 / 100));
        let args = ["netns", "exec", netns, "ping", "-q", "-i", "0.002", "-c", &count, "-W", &wait, host];
        Command::new("ip").args(args).output().unwrap()
    } else {
        let at = if host.contains(':') { format!("[{host}]:4242") } else { format!("{host}:4242") };
        let port = NEXT_PORT.fetch_add(u16::try_from(n).unwrap(), Relaxed);
        rerun(test, &format!("{netns} ask {how} {at} {n} {ms} {port}")).output().unwrap()
    };
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let (before, after) =
        if how == "ping" { (" packets transmitted, ", " received") } else { ("answered ", "\n") };
    let rest = text.split(before).nth(1).and_then(|r| r.split(after).next());
    rest.and_then(|r| r.trim().parse().ok()).unwrap_or_else(|| panic!("{how} {host}: {text}{out:?}"))
}

fn sh(script: &str) {
    let out = Command::new("sh").args(["-euc", script]).output().unwrap();
    assert!(out.status.success(), "{script}\n{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
#[ignore = "needs root and a kernel with nf_tables"]
fn kernel_install_observe_drift_remove() {
    isolated("kernel_install_observe_drift_remove", || {
        let sock = open().unwrap();
        let wanted = want("metallb-frr", MARK);
        let drift = || observe(&sock).unwrap().map(|t| t.drift(&wanted));
        let name = || Attrs::default().text(NFTA_TABLE_NAME, TABLE);
        let one = |kind, flags, body| commit(&sock, &[NftRequest::new("test", kind, flags, body)]).unwrap();
        assert!(drift().is_none());
        remove(&sock).unwrap();
        for _ in 0..2 {
            install(&sock, &wanted).unwrap();
            assert_eq!(drift(), Some(None), "{:#x?}", observe(&sock));
        }
        let seen = observe(&sock).unwrap().unwrap();
        assert!(
            seen.drift(&want("metallb-frr", 0x2000)).is_some() && seen.drift(&want("eth0", MARK)).is_some()
        );
        assert_eq!(seen.packets(), PacketCounts::default());

        let broken = |what: &str| {
            let difference = drift().expect("a table").expect(what);
            println!("{what}: {difference}");
            install(&sock, &wanted).unwrap();
            assert_eq!(drift(), Some(None), "{what}");
        };
        one(DELRULE, 0, name().text(NFTA_RULE_CHAIN, "output")); // without a handle: all rules of the chain
        broken("rules deleted");
        one(
            NEWRULE,
            CREATE_APPEND,
            NftRule { chain: "output".into(), exprs: vec![load("meta", 0)] }.encode(TABLE),
        );
        broken("rule added");
        one(NEWCHAIN, CREATE, name().text(NFTA_CHAIN_NAME, "stranger"));
        broken("chain added");
        one(DELRULE, 0, name().text(NFTA_RULE_CHAIN, "output"));
        one(DELCHAIN, 0, name().text(NFTA_CHAIN_NAME, "output"));
        broken("chain deleted");
        one(NEWCHAIN, 0, name().text(NFTA_CHAIN_NAME, "prerouting").int(NFTA_CHAIN_POLICY, 0));
        broken("policy drop");
        one(NEWTABLE, 0, name().int(NFTA_TABLE_FLAGS, 1));
        broken("table dormant");
        one(DELRULE, 0, name().text(NFTA_RULE_CHAIN, "output"));
        let mut rule = ruleset(&wanted).1.remove(2);
        rule.exprs[4] = cmp(NFT_CMP_NEQ, &MARK.to_ne_bytes());
        one(NEWRULE, CREATE_APPEND, rule.encode(TABLE));
        broken("comparison inverted");

        // A transaction is atomic: the kernel refuses the last rule, and the table stays unchanged.
        let mut bad = install_requests(&want("other", 1));
        bad.push(NftRequest::new(
            "NEWRULE",
            NEWRULE,
            CREATE_APPEND,
            NftRule { chain: "nowhere".into(), exprs: vec![] }.encode(TABLE),
        ));
        let error = commit(&sock, &bad).unwrap_err();
        println!("{error}");
        assert_eq!((error.step, error.errno()), ("NEWRULE", Some(ENOENT)));
        assert_eq!(drift(), Some(None));

        let mut flush = vec![]; // `nft flush ruleset`
        message(&mut flush, BATCH_BEGIN, 1, 0, [0, 0, 0, 10], &[]);
        message(&mut flush, SUBSYS_NFTABLES << 8 | DELTABLE, REQUEST_ACK, 1, [0; 4], &[]);
        message(&mut flush, BATCH_END, 1, 0, [0, 0, 0, 10], &[]);
        exchange(&sock, &["flush"], &flush).unwrap();
        assert!(drift().is_none());

        one(NEWTABLE, CREATE, name());
        assert!(!observe(&sock).unwrap().unwrap().is_owned());
        assert!(install(&sock, &wanted).is_err() && remove(&sock).is_err());
        one(DELTABLE, 0, name());
        install(&sock, &wanted).unwrap();
        remove(&sock).unwrap();
        assert!(drift().is_none());
    });
}

/// client — router — host, and a pod behind the host. The default route of the host leads to mgmt. 198.51.100.1 and
/// 2001:db8:5::1 are addresses of the host, ….2 and ….3 are translated. mgmt has no route to the client.
const LAB: &str = r#"
mount -t tmpfs tmpfs /run; mkdir /run/netns
for n in client router mgmt pod; do ip netns add $n; ip -n $n link set lo up; done
ip link set lo up
ip link add eth0 netns client type veth peer name c0 netns router
ip link add metallb-frr type veth peer name frr-metallb netns router
ip link add mgmt0 type veth peer name eth0 netns mgmt
ip link add cni0 type veth peer name eth0 netns pod
for n in client router mgmt pod; do ip netns exec $n sh -c 'for f in ipv4/ip_forward ipv6/conf/all/forwarding; do echo 1 >/proc/sys/net/$f; done; echo 0 >/proc/sys/net/ipv4/tcp_synack_retries'; done
echo 0 >/proc/sys/net/ipv4/tcp_synack_retries
for f in ipv4/ip_forward ipv6/conf/all/forwarding; do echo 1 >/proc/sys/net/$f; done
for i in all default metallb-frr cni0 mgmt0; do echo 0 >/proc/sys/net/ipv4/conf/$i/rp_filter; done
a() { ip -n $1 addr add $3 dev $2 nodad; ip -n $1 link set $2 up; }
h() { ip addr add $2 dev $1 nodad; ip link set $1 up; }
a client eth0 192.0.2.2/24; a client eth0 2001:db8:1::2/64; a router c0 192.0.2.1/24; a router c0 2001:db8:1::1/64
a router frr-metallb 10.99.0.0/31; a router frr-metallb fd00:99::/127; h metallb-frr 10.99.0.1/31; h metallb-frr fd00:99::1/127
h mgmt0 172.20.0.2/24; h mgmt0 fd00:20::2/64; a mgmt eth0 172.20.0.1/24; a mgmt eth0 fd00:20::1/64
h cni0 10.244.0.1/24; h cni0 fd00:244::1/64; a pod eth0 10.244.0.2/24; a pod eth0 fd00:244::2/64
a mgmt lo 203.0.113.9/32; a mgmt lo 2001:db8:9::9/128; h lo 198.51.100.1/32; h lo 2001:db8:5::1/128
ip -n client route add default via 192.0.2.1; ip -n client route add default via 2001:db8:1::1
ip -n router route add 198.51.100.0/24 via 10.99.0.1; ip -n router route add 2001:db8:5::/64 via fd00:99::1
ip -n pod route add default via 10.244.0.1; ip -n pod route add default via fd00:244::1
ip route add default via 172.20.0.1; ip route add default via fd00:20::1
for d in 198.51.100.0/24 10.244.0.0/24; do ip -n mgmt route add $d via 172.20.0.2; done
for d in 2001:db8:5::/64 fd00:244::/64; do ip -n mgmt route add $d via fd00:20::2; done
for f in -4 -6; do ip $f rule add pref 100 fwmark 0x1000/0x1000 lookup 880; done
ip route add default via 10.99.0.0 table 880; ip route add default via fd00:99:: table 880
"#;

/// Another table: DNAT of ….2 to the pod, and of ….3 to mgmt with the host's own address as source (as kube-proxy does
/// for a pod on another node). It counts packets to the client through mgmt0 (rules 0, 1) and through the veth (2, 3),
/// and packets to mgmt's own clients through mgmt0 (4, 5).
fn oracle(sock: &Socket) {
    let family = |v6: bool| [load("meta", 15), cmp(0, &[if v6 { 10 } else { 2 }])]; // NFT_META_NFPROTO
    let address = |offset: u32, what: &[u8]| {
        let len = if what.len() == 4 { 4u32 } else { 16 }; // payload: DREG, BASE network, OFFSET, LEN
        let attrs: &[(u16, &[u8])] =
            &[(1, REG), (2, &1u32.to_be_bytes()), (3, &offset.to_be_bytes()), (4, &len.to_be_bytes())];
        [Expr::new("payload", attrs), cmp(0, what)]
    };
    let daddr = |v6: bool, to: &[u8]| address(if v6 { 24 } else { 16 }, to);
    let masquerade = |v6: bool, from: &[u8], to: &[u8]| {
        let mut exprs = [family(v6), address(if v6 { 8 } else { 12 }, from), daddr(v6, to)].concat();
        exprs.push(Expr::new("masq", &[]));
        NftRule { chain: "masq".into(), exprs }
    };
    let v6 = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets().to_vec();
    let dnat = |six: bool, from: &[u8], to: &[u8]| {
        let value = Attrs::default().put(1, to).0;
        let mut exprs = [family(six), daddr(six, from)].concat();
        exprs.push(Expr::new("immediate", &[(1, REG), (2, &value)]));
        let nfproto = if six { 10u32 } else { 2 };
        exprs.push(Expr::new("nat", &[(1, &1u32.to_be_bytes()), (2, &nfproto.to_be_bytes()), (3, REG)])); // NFT_NAT_DNAT
        NftRule { chain: "nat".into(), exprs }
    };
    let count = |dev: &str, six: bool, to: &[u8]| {
        let mut name = dev.as_bytes().to_vec();
        name.resize(16, 0);
        let mut exprs = [family(six), daddr(six, to)].concat();
        exprs.extend([load("meta", 7), cmp(0, &name), Expr::new("counter", &[])]); // NFT_META_OIFNAME
        NftRule { chain: "count".into(), exprs }
    };
    let (c4, c6, m4, m6) =
        (vec![192, 0, 2, 2], v6("2001:db8:1::2"), vec![203, 0, 113, 9], v6("2001:db8:9::9"));
    let rules = [
        dnat(false, &[198, 51, 100, 2], &[10, 244, 0, 2]),
        dnat(true, &v6("2001:db8:5::2"), &v6("fd00:244::2")),
        dnat(false, &[198, 51, 100, 3], &m4),
        dnat(true, &v6("2001:db8:5::3"), &m6),
        masquerade(false, &c4, &m4),
        masquerade(true, &c6, &m6),
        count("mgmt0", false, &c4),
        count("mgmt0", true, &c6),
        count("metallb-frr", false, &c4),
        count("metallb-frr", true, &c6),
        count("mgmt0", false, &m4),
        count("mgmt0", true, &m6),
    ];
    let name = Attrs::default().text(1, "oracle");
    let mut all = vec![NftRequest::new("NEWTABLE", NEWTABLE, CREATE, name)];
    let post = |name, kind, priority| Chain::new(name, kind, 4, priority); // NF_INET_POST_ROUTING
    let chains = [Chain::new("nat", "nat", 0, -100), post("count", "filter", 300), post("masq", "nat", 100)];
    all.extend(chains.map(|c| NftRequest::new("NEWCHAIN", NEWCHAIN, CREATE, c.encode("oracle"))));
    all.extend(rules.map(|r| NftRequest::new("NEWRULE", NEWRULE, CREATE_APPEND, r.encode("oracle"))));
    commit(sock, &all).unwrap();
}

/// Packets since the start: to the client through mgmt0, to the client through the veth, to mgmt's clients through
/// mgmt0.
fn counted(sock: &Socket) -> [u64; 3] {
    let dump = NftRequest::new("GETRULE", GETRULE, DUMP, Attrs::default().text(1, "oracle").text(2, "count"));
    let rules: Vec<_> =
        super::query(sock, &dump).unwrap().iter().flatten().map(|m| NftRule::parse(m).packets()).collect();
    [rules[0] + rules[1], rules[2] + rules[3], rules[4] + rules[5]]
}

#[test]
#[ignore = "needs root and a kernel with nf_tables"]
fn kernel_replies_return_by_the_veth() {
    const T: &str = "kernel_replies_return_by_the_veth";
    isolated(T, || {
        sh(LAB);
        let sock = open().unwrap();
        oracle(&sock);
        // One server per address: a UDP socket without a bound address replies from the address of the route.
        let remote = [("pod", "[::]:4242"), ("mgmt", "203.0.113.9:4242"), ("mgmt", "[2001:db8:9::9]:4242")];
        let _servers = remote.map(|(netns, at)| serve(T, netns, at));
        let local = ["198.51.100.1:4242", "[2001:db8:5::1]:4242"];
        std::thread::spawn(move || run_role(&format!("host serve {}", local[0])));
        std::thread::spawn(move || run_role(&format!("host serve {}", local[1])));
        let started = Instant::now();
        while local.iter().any(|a| TcpStream::connect(a).is_err()) {
            assert!(started.elapsed() < Duration::from_secs(5), "no local server");
        }
        let all = [
            "198.51.100.1",
            "2001:db8:5::1",
            "198.51.100.2",
            "2001:db8:5::2",
            "198.51.100.3",
            "2001:db8:5::3",
        ];
        let services = &all[..4]; // mgmt cannot be a client of itself
        let ways = ["ping", "tcp", "udp"];
        let measure = |netns: &str, services: &[&'static str], n: usize, ms: usize| -> usize {
            let each = |to: &str| ways.map(|how| ask(T, netns, how, to, n, ms));
            let all: Vec<_> = services.iter().map(|to| (*to, each(to))).collect();
            println!("  from {netns}: answered of {n} by ping, tcp, udp: {all:?}");
            all.iter().flat_map(|a| a.1).sum()
        };
        let pod_out = || {
            let to = ["203.0.113.9", "2001:db8:9::9"];
            let all = to.map(|to| ways.map(|how| ask(T, "pod", how, to, 50, REPLY_TIMEOUT_MS)));
            println!("  from the pod to mgmt, of 50: {all:?}");
            assert_eq!(all, [[50; 3]; 2]);
        };
        // Connections that began without the table have no mark, and later connections may use the same ports (every 10
        // s the kernel starts at another port of the range). So their conntrack entries must expire before the
        // measurement.
        let set_conntrack_timeouts = |seconds: [u32; 2]| {
            for (state, seconds) in ["syn_sent", "syn_recv"].into_iter().zip(seconds) {
                std::fs::write(
                    format!("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_{state}"),
                    seconds.to_string(),
                )
                .unwrap();
            }
        };
        println!("without the table");
        set_conntrack_timeouts([1, 1]);
        assert_eq!(measure("client", &all, 3, 100), 0);
        std::thread::sleep(Duration::from_secs(3));
        set_conntrack_timeouts([120, 60]);
        let lost = counted(&sock);
        println!("  to the client by mgmt0, by the veth; to mgmt's clients: {lost:?}");
        assert!(lost[0] > 0 && lost[1] == 0);

        println!("with the table");
        install(&sock, &want("metallb-frr", MARK)).unwrap();
        let before = counted(&sock);
        assert_eq!(measure("client", &all, 100, REPLY_TIMEOUT_MS), 1800);
        let after = counted(&sock);
        let [mgmt, veth, _]: [u64; 3] = std::array::from_fn(|i| after[i] - before[i]);
        let seen = observe(&sock).unwrap().unwrap();
        println!(
            "  to the client by mgmt0: {mgmt}, by the veth: {veth}; the table counts {:?}",
            seen.packets()
        );
        assert_eq!((mgmt, seen.drift(&want("metallb-frr", MARK))), (0, None));
        let marked = seen.packets();
        assert_eq!(marked.forwarded + marked.local, veth);

        assert_eq!(measure("mgmt", services, 50, REPLY_TIMEOUT_MS), 600);
        pod_out();
        let last = observe(&sock).unwrap().unwrap().packets();
        println!("  after mgmt's clients and the pod's own connections: {last:?}");
        assert_eq!(last, marked, "a connection of mgmt's or the pod's was marked");
        assert_eq!(counted(&sock)[0], after[0]);

        // ICMP errors. The host's own "too big" about a request must reach the client through the veth.
        sh("ip link set cni0 mtu 1300; ip -n pod link set eth0 mtu 1300");
        let too_big = |table: &str| {
            sh("for f in -4 -6; do ip -n client $f route flush cache; done");
            services[2..].iter().filter(|to| {
                sh(&format!("ip netns exec client ping -q -c 2 -i 0.2 -s 1350 -M do -W 0.2 {to} >/dev/null 2>&1 || :"));
                let out = Command::new("ip").args(["-n", "client", "route", "get", to]).output().unwrap();
                println!("  {table}: {}", String::from_utf8_lossy(&out.stdout).replace('\n', ""));
                String::from_utf8_lossy(&out.stdout).contains("mtu 1300")
            }).count()
        };
        let before = counted(&sock);
        assert_eq!(too_big("with the table"), 2);
        assert_eq!(counted(&sock)[0], before[0]);
        // A fabric router's "packet too big" about a reply must reach the pod, through the translation.
        sh("ip link set cni0 mtu 1500; ip -n pod link set eth0 mtu 1500; ip -n router link set c0 mtu 1300");
        sh("ip netns exec client ping -q -c 5 -i 0.2 -s 1350 -W 1 2001:db8:5::2 | grep -q ' [45] received'");
        let out = Command::new("ip").args(["-n", "pod", "route", "get", "2001:db8:1::2"]).output().unwrap();
        assert!(String::from_utf8_lossy(&out.stdout).contains("mtu 1300"), "{out:?}");
        remove(&sock).unwrap();
        sh("ip link set cni0 mtu 1300; ip -n pod link set eth0 mtu 1300; ip -n router link set c0 mtu 1500");
        assert_eq!(too_big("without"), 0);
        assert_eq!(measure("client", &all, 3, 100), 0);
    });
}
