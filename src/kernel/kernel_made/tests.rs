use super::*;
use crate::kernel::attributes::put;
use crate::kernel::link::DevConf;
use crate::model::Link;

fn parsed(index: u32, name: &str, kind: LinkKind, master: Option<u32>) -> ParsedLink {
    let link = Link { up: true, running: true, ..Link::new(index, name, kind) };
    ParsedLink { link, master, parent: None, vrf_table: None, carrier_losses: 0, conf: DevConf::default() }
}

fn address(index: u32, net: &str, flags: u32) -> ObservedAddress {
    let net: IpNet = net.parse().unwrap();
    ObservedAddress { index, ip: net.addr(), length: net.prefix_len(), flags, peer: false, protocol: None }
}

#[test]
fn only_the_kernels_own_link_local_address_is_recognized() {
    let read = |ip: &str, protocol: u8| {
        let mut bytes = vec![AF_INET6, 64, 0, 0, 2, 0, 0, 0];
        let ip: Ipv6Addr = ip.parse().unwrap();
        put(&mut bytes, IFA_ADDRESS, &ip.octets());
        put(&mut bytes, IFA_PROTO, &[protocol]);
        ObservedAddress::read(&bytes).unwrap().is_kernels_link_local()
    };
    assert!(read("fe80::1", IFAPROT_KERNEL_LL));
    assert!(!read("fe80::1", 0) && !read("2001:db8::1", 2));
}

fn missing(
    links: &[ParsedLink],
    addresses: &[ObservedAddress],
    present: &HashSet<KernelRouteKey>,
) -> Vec<String> {
    routes(links, addresses, present).iter().map(ToString::to_string).collect()
}

#[test]
fn each_address_has_its_routes_in_the_table_of_its_vrf() {
    let links = [
        parsed(1, "lo", LinkKind::Device, None),
        parsed(2, "eth1", LinkKind::Device, None),
        parsed(3, "red", LinkKind::Vrf(88), None),
        parsed(4, "veth", LinkKind::Veth(9), Some(3)),
    ];
    let addresses = [
        address(1, "127.0.0.1/8", 0),
        address(2, "fe80::1/64", 0),
        address(2, "192.0.2.1/32", 0),
        address(4, "169.254.88.0/31", 0),
        address(3, "192.0.2.9/32", 0),
        address(9, "192.0.2.9/24", 0),
    ];
    let all = missing(&links, &addresses, &HashSet::new());
    assert_eq!(
        all,
        [
            "local 127.0.0.1/32 dev lo table 255",
            "local fe80::1/128 dev eth1 table 255",
            "fe80::/64 dev eth1 table 254",
            "multicast ff00::/8 dev eth1 table 255",
            "local 192.0.2.1/32 dev eth1 table 255",
            "local 169.254.88.0/32 dev veth table 88",
            "169.254.88.0/31 dev veth table 88",
            "local 192.0.2.9/32 dev red table 88",
        ]
    );
    let present = routes(&links, &addresses, &HashSet::new()).into_iter().map(|route| {
        let index = links.iter().find(|parsed| parsed.link.name == route.dev).unwrap().link.index;
        (route.kind, route.dst, route.table, index)
    });
    assert_eq!(missing(&links, &addresses, &present.collect()), Vec::<String>::new());
}

#[test]
fn routes_that_the_kernel_does_not_create_are_not_missing() {
    let links = [parsed(2, "eth1", LinkKind::Device, None)];
    let none = HashSet::new();
    let count = |address| missing(&links, &[address], &none).len();
    assert_eq!(count(address(2, "fe80::1/64", IFA_F_TENTATIVE)), 0);
    assert_eq!(count(address(2, "2001:db8::1/64", IFA_F_NOPREFIXROUTE)), 1);
    assert_eq!(count(address(2, "192.0.2.2/24", IFA_F_SECONDARY)), 1);
    let mut down = parsed(2, "eth1", LinkKind::Device, None);
    down.link.running = false;
    assert_eq!(missing(&[down], &[address(2, "2001:db8::1/64", 0)], &none).len(), 0);
}

#[test]
fn rules_with_another_priority_are_not_missing() {
    let all = |tables: &[KernelTable]| {
        let of = |v6| tables.iter().map(move |to| KernelRule { v6, to: *to });
        of(false).chain(of(true)).collect::<Vec<_>>()
    };
    use KernelTable::{Default, Local, Main, Vrf};
    assert_eq!(rules(&all(&[Local, Main, Default]), false), []);
    // A program may remove the rules one by one: the first may be added again before the last is removed.
    assert_eq!(rules(&all(&[Local, Main]), false), [KernelRule { v6: false, to: Default }]);
    let missing = |present: &[KernelTable]| {
        rules(&all(present), true).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        missing(&[Local, Main, Default]),
        ["1000: IPv4 lookup [l3mdev-table]", "1000: IPv6 lookup [l3mdev-table]"]
    );
    assert_eq!(
        missing(&[Local, Vrf]),
        ["32766: IPv4 lookup main", "32767: IPv4 lookup default", "32766: IPv6 lookup main"]
    );
}
