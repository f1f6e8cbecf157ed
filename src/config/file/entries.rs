//! The file's maps and keys, declared once. The names are those of OpenPERouter's v1alpha1.

use ipnet::IpNet;

use crate::model::{Asn, Password, Ranged, RouteTarget, RouterId, Vni};

use super::read::{Attempt, Entries, List, choice, keys};
use super::values::{
    Bridge, EveryNode, HoldTime, HostNet, Index, ListenRange, Name, NetOf, OtherDevice, PeerDevice, Port,
    RawText, Reference, Unicast, UnicastOf, Vrf,
};

/// The most VNIs of each kind, and of both together.
pub(super) const MAX_VNIS: usize = 4096;

/// The longest priority: what fits upstream's type.
const MAX_PRIORITY: u32 = i32::MAX.unsigned_abs();

choice! {
    /// Whose AS number a peer has.
    PeerType { External = "External", Internal = "Internal" }
}

choice! {
    /// An address family of the VTEP.
    IpFamily { V4 = "IPv4", V6 = "IPv6" }
}

choice! {
    /// How a link to the fabric is had.
    InterfaceType {
        NetworkDevice = "NetworkDevice", Macvlan = "Macvlan"; "CNIDevice": "there is no CNI here, use Macvlan"
    }
}

choice! {
    /// A property of a session.
    SessionProperty { Multihop = "ebgpMultiHop" }
}

choice! {
    /// Who begins a BFD session.
    BfdMode { Active = "Active", Passive = "Passive" }
}

choice! {
    /// A BGP address family.
    FamilyType {
        Ipv4Unicast = "ipv4unicast", Ipv6Unicast = "ipv6unicast", Evpn = "evpn";
        "ipv4vpn": "there is no SRv6 here, which carries VPNs",
        "ipv6vpn": "there is no SRv6 here, which carries VPNs"
    }
}

choice! {
    /// A property of an address family.
    FamilyProperty { Client = "routeReflectorClient" }
}

choice! {
    /// What routes for a broadcast domain.
    DomainType { L3Vni = "L3VNI"; "L3VPN": "there is no SRv6 here, use L3VNI" }
}

choice! {
    /// What kind of bridge the host has.
    MasterType { Linux = "LinuxBridge"; "OVSBridge": "there is no Open vSwitch here, use LinuxBridge" }
}

choice! {
    /// Who makes the bridge.
    Lifecycle { Managed = "Managed", External = "External" }
}

keys! {
    /// The whole file.
    lenient Document {
        "nodeIndex" node_index: optional Attempt<NodeIndex>, "The node's number.";
        "underlay" underlay: optional Underlay, "What the VNIs stand on: the fabric's side.";
        "underlays" underlays: entries Entries<Underlay, 64>, "The same as a list of at most one.";
        "l3vnis" l3vnis: entries Entries<L3, MAX_VNIS>, "Routing domains over EVPN, each a VRF.";
        "l2vnis" l2vnis: entries Entries<L2, MAX_VNIS>, "Broadcast domains over EVPN.";
        "l3passthrough" | "bgppassthrough" passthrough: optional Passthrough,
            "The host's session with the fabric's own VRF.";
        "rawFRRConfigs" | "rawfrrconfigs" raw: entries Entries<Raw, 64>, "Lines for frr.conf as they are.";
        "l3vpns" l3vpns: refused "there is no SRv6 here, which carries them", "";
        "nodeName" node_name: refused "nothing here goes by the node's name", "";
        "logLevel" log_level: refused "set LOG_LEVEL in the environment", "";
        "apiVersion" api_version: refused "this is no Kubernetes object, write its spec as an entry of the list here", "";
        "kind" object_kind: refused "this is no Kubernetes object, write its spec as an entry of the list here", "";
        "metadata" metadata: refused "this is no Kubernetes object, write its spec as an entry of the list here", "";
        "spec" spec: refused "this is no Kubernetes object, write its spec as an entry of the list here", "";
        "status" status: refused "this is no Kubernetes object, write its spec as an entry of the list here", "";
        "items" items: refused "this is no Kubernetes object, write its spec as an entry of the list here", "";
    }

    /// The node's number.
    strict NodeIndex {
        "index" index: required Index, "The number; it must be that of `NODE_INDEX` if both are given.";
        "interfaceName" from: refused "it is not read off a NIC's address, write it as index or set NODE_INDEX", "";
        "cidr" cidr: refused "it is not read off a NIC's address, write it as index or set NODE_INDEX", "";
    }

    /// The fabric's side.
    lenient Underlay {
        "asn" asn: optional Asn, "Our AS number, if given that of `ASN_LOCAL`.";
        "routerIDCIDR" router_id: optional NetOf<false>,
            "The subnet of the BGP identifiers: the node's is the address at its index plus one. Default: `NODE_IP`.";
        "neighbors" neighbors: entries Entries<Neighbor, 128>, "Peers beside those on the ports of `FE_MACS`.";
        "interfaces" interfaces: entries Entries<Interface, 64>, "Links beside the ports of `FE_MACS`.";
        "tunnelEndpoint" tunnel: optional Attempt<TunnelEndpoint>, "The addresses of the VTEP.";
        "routeReflector" reflector: optional RouteReflector, "Makes the node reflect routes.";
        "gracefulRestart" restart: optional GracefulRestart,
            "Timers of graceful restart, if not those of the environment.";
        "isis" isis: refused "there is no isisd here", "";
        "srv6" srv6: refused "there is no SRv6 here", "";
        "nics" nics: refused "what it named are interfaces now", "";
        "routeridcidr" old_router_id: refused "it is routerIDCIDR now", "";
        "vtepcidr" old_cidr: refused "it is an entry of tunnelEndpoint.cidrs now", "";
        "vtepInterface" vtep_interface: refused "a VTEP has its address of tunnelEndpoint.cidrs, not a NIC's", "";
        "evpn" evpn: refused "what it had is the tunnelEndpoint now", "";
        "nodeSelector" selector: optional Attempt<EveryNode>, "Which nodes it is for: only all of them can be selected.";
    }

    /// The addresses of the VTEP.
    strict TunnelEndpoint {
        "cidrs" cidrs: required List<IpNet, 1, 2>,
            "At most one subnet of each family; the node's address is the one at its index. A host prefix is the address itself.";
        "vtepcidr" old_cidr: refused "it is an entry of cidrs now", "";
        "vtepInterface" interface: refused "a VTEP has its address of cidrs, not a NIC's", "";
    }

    /// The node reflects routes.
    strict RouteReflector {
        "clusterID" cluster_id: optional RouterId, "The cluster-id (RFC 4456), outside `routerIDCIDR`. Default: 192.0.2.1.";
    }

    /// Timers of graceful restart (RFC 4724).
    strict GracefulRestart {
        "restartTimeSeconds" restart: optional Ranged<1, 4095>, "Seconds for which peers keep our routes.";
        "stalePathTimeSeconds" stale: optional Ranged<1, 4095>,
            "Seconds for which we keep a peer's routes; at least the restart time.";
    }

    /// A link to the fabric.
    strict Interface {
        "type" kind: required InterfaceType, "Which of the other keys is given.";
        "networkDevice" device: optional Device, "A NIC, or a VLAN on one, that is moved into the namespace.";
        "macvlan" macvlan: optional Macvlan, "A macvlan of ours on a NIC that stays with the host.";
        "cniDevice" cni: refused "there is no CNI here, use Macvlan", "";
    }

    /// A NIC.
    strict Device {
        "interfaceName" name: required OtherDevice, "Its name.";
    }

    /// A macvlan.
    strict Macvlan {
        "parent" parent: required OtherDevice, "The NIC, which stays with the host.";
        "interfaceName" name: optional OtherDevice, "Its name in the namespace. Default: net1.";
        "addresses" addresses: optional List<HostNet, 0, 8>, "Its addresses, each with its prefix length.";
    }

    /// A BGP session with the fabric.
    strict Neighbor {
        "asn" asn: optional Asn, "The peer's AS number; this or `type`.";
        "type" kind: optional PeerType, "Whether the peer's AS number is ours; this or `asn`.";
        "address" address: optional Unicast, "The peer's address; this, `interface` or `listenRange`.";
        "interface" interface: optional PeerDevice, "The interface that the peer is on (unnumbered).";
        "listenRange" range: optional ListenRange, "The subnet that peers dial from.";
        "port" port: optional Port, "The peer's TCP port. Default: 179.";
        "password" password: optional Password, "TCP-MD5 password (RFC 2385).";
        "passwordSecret" secret: refused "there is no Kubernetes API here, use password", "";
        "holdTime" hold_time: refused "it is holdTimeSeconds now", "";
        "keepaliveTime" keepalive_time: refused "it is keepaliveTimeSeconds now", "";
        "connectTime" connect_time: refused "it is connectTimeSeconds now", "";
        "ebgpMultiHop" multihop: refused "it is an entry of properties now", "";
        "hostasn" host_asn: refused "the peer's AS number is asn", "";
        "hostASN" host_asn_too: refused "the peer's AS number is asn", "";
        "holdTimeSeconds" hold: optional HoldTime,
            "Hold time in seconds, 0 or at least 3; with `keepaliveTimeSeconds`.";
        "keepaliveTimeSeconds" keepalive: optional Ranged<0, 65535>,
            "Keepalive interval in seconds, at most the hold time; with `holdTimeSeconds`.";
        "connectTimeSeconds" connect: optional Ranged<1, 65535>, "Connect retry interval in seconds.";
        "properties" properties: optional List<Property, 0, 1>, "What is special about the session.";
        "bfd" bfd: optional Bfd, "BFD with the peer.";
        "addressFamilies" families: optional List<AddressFamily, 0, 3>,
            "What is exchanged. Default: what the node has use for.";
    }

    /// A property of a session.
    strict Property {
        "type" kind: required SessionProperty, "Which one.";
        "ebgpMultiHop" multihop: optional MultiHop, "For an eBGP peer that is not next door.";
    }

    /// The reach of a multihop session.
    strict MultiHop {
        "ttl" ttl: optional Ranged<1, 255>, "Hops that packets may take. Default: 255.";
    }

    /// BFD with a peer (RFC 5880).
    strict Bfd {
        "receiveInterval" receive: optional Ranged<10, 60000>, "Minimum receive interval in milliseconds.";
        "transmitInterval" transmit: optional Ranged<10, 60000>, "Minimum transmit interval in milliseconds.";
        "detectMultiplier" multiplier: optional Ranged<2, 255>, "Packets that may be missed.";
        "sessionMode" mode: optional BfdMode, "Whether we begin or wait for the peer to. Default: Active.";
        "minimumTTL" ttl: optional Ranged<1, 254>, "Least TTL of received packets, on multihop sessions.";
        "minimumTtl" old_ttl: refused "it is minimumTTL now", "";
        "passiveMode" passive: refused "it is sessionMode: Passive now", "";
        "echoMode" echo: refused "there is no echo here, leave it out", "";
        "echoInterval" echo_interval: refused "there is no echo here, leave it out", "";
    }

    /// An address family that is exchanged.
    strict AddressFamily {
        "type" kind: required FamilyType, "Which one.";
        "properties" properties: optional List<FamilyPropertyEntry, 0, 1>, "What is special about it.";
    }

    /// A property of an address family.
    strict FamilyPropertyEntry {
        "type" kind: required FamilyProperty, "Which one; it needs a peer of our own AS number.";
    }

    /// A routing domain.
    strict L3 {
        "name" name: optional Name, "What `l2vnis` call it. Default: that of its VRF.";
        "vrf" vrf: required Vrf, "Its VRF.";
        "vni" vni: required Vni, "Its number.";
        "vxlanPort" port: optional Port, "UDP port of VXLAN. Default: 4789.";
        "underlayAddressFamily" family: optional IpFamily,
            "Family of the VTEP's address that carries it. Default: IPv4 if there is one.";
        "hostSession" session: optional Session, "A BGP session with the host over a veth pair.";
        "exportRTs" export: optional List<RouteTarget, 0, 100>, "Route targets to announce with. Default: FRR's own.";
        "importRTs" import: optional List<RouteTarget, 0, 100>, "Route targets to take in. Default: FRR's own.";
        "nodeSelector" selector: optional EveryNode, "Which nodes it is for: only all of them can be selected.";
        "asn" old_asn: refused "it is hostSession.asn now", "";
        "hostasn" old_host_asn: refused "it is hostSession.hostASN now", "";
        "localcidr" old_net: refused "it is hostSession.localCIDR now", "";
        "hostsession" old_session: refused "it is hostSession now", "";
        "vxlanport" old_port: refused "it is vxlanPort now", "";
    }

    /// A BGP session with the host.
    strict Session {
        "asn" asn: required Asn, "Our AS number in it.";
        "hostASN" host_asn: optional Asn, "The host's, another; this or `hostType`.";
        "hostType" host_type: optional PeerType, "Whether the host's is ours; this or `hostASN`.";
        "localCIDR" net: optional Nets, "The subnets of the veth pair, one of each family at most.";
        "localCIDRs" nets: optional List<IpNet, 1, 2>, "The same as a list.";
        "hostIP" host_ip: optional Addresses,
            "The host's addresses in these subnets. Default: computed from the node's index.";
        "bfd" bfd: optional Bfd, "BFD with the host.";
        "hostasn" old_host_asn: refused "it is hostASN now", "";
        "hosttype" old_host_type: refused "it is hostType now", "";
        "localcidr" old_net: refused "it is localCIDR now", "";
    }

    /// Subnets by family.
    strict Nets {
        "ipv4" v4: optional NetOf<false>, "The IPv4 subnet.";
        "ipv6" v6: optional NetOf<true>, "The IPv6 subnet.";
    }

    /// Addresses by family.
    strict Addresses {
        "ipv4" v4: optional UnicastOf<false>, "The IPv4 address.";
        "ipv6" v6: optional UnicastOf<true>, "The IPv6 address.";
    }

    /// A broadcast domain.
    strict L2 {
        "name" name: optional Name, "Default: l2- and its number.";
        "vni" vni: required Vni, "Its number.";
        "vxlanPort" port: optional Port, "UDP port of VXLAN. Default: 4789.";
        "underlayAddressFamily" family: optional IpFamily,
            "Family of the VTEP's address that carries it. Default: IPv4 if there is one.";
        "routingDomain" domain: optional Domain, "What routes for it. Default: nothing does.";
        "hostMaster" master: optional Master, "The bridge of the host that the workloads are on.";
        "gatewayIPs" gateways: optional List<HostNet, 0, 2>,
            "The gateway's addresses, one of each family at most; they need a `routingDomain`.";
        "vrf" vrf: refused "its routingDomain says what routes for it", "";
        "l2gatewayips" | "l2gatewayip" old_gateways: refused "they are gatewayIPs now", "";
        "hostmaster" old_master: refused "it is hostMaster now", "";
        "vxlanport" old_port: refused "it is vxlanPort now", "";
        "nodeSelector" selector: optional EveryNode, "Which nodes it is for: only all of them can be selected.";
    }

    /// What routes for a broadcast domain.
    strict Domain {
        "type" kind: required DomainType, "Which of the other keys is given.";
        "l3vni" l3vni: optional DomainRef, "An entry of `l3vnis`.";
        "l3vpn" l3vpn: refused "there is no SRv6 here, use L3VNI", "";
    }

    /// An entry of `l3vnis`.
    strict DomainRef {
        "name" name: required Reference, "Its name.";
    }

    /// A bridge of the host.
    strict Master {
        "type" kind: required MasterType, "Which of the other keys is given.";
        "linuxBridge" linux: optional LinuxBridge, "A bridge of the kernel.";
        "ovsBridge" ovs: refused "there is no Open vSwitch here, use LinuxBridge", "";
        "name" old_name: refused "it is linuxBridge.name now", "";
        "autocreate" | "autoCreate" auto_create: refused "it is linuxBridge.lifecycle now: Managed for true, External for false", "";
    }

    /// A bridge of the kernel.
    strict LinuxBridge {
        "lifecycle" lifecycle: required Lifecycle, "Managed: we make it, as br-hs- and the VNI. External: it is there.";
        "name" name: optional Bridge, "The name of an External one.";
        "autoCreate" auto_create: refused "it is lifecycle now: Managed for true, External for false", "";
    }

    /// The host's session with the fabric's own VRF.
    strict Passthrough {
        "hostSession" session: required Session,
            "The BGP session with the host over a veth pair; its `asn` is that of `ASN_LOCAL`.";
        "hostsession" old_session: refused "it is hostSession now", "";
        "nodeSelector" selector: optional EveryNode, "Which nodes it is for: only all of them can be selected.";
    }

    /// Lines for frr.conf.
    strict Raw {
        "priority" priority: optional Ranged<0, MAX_PRIORITY>, "Lower ones come first. Default: 0.";
        "rawConfig" text: required RawText, "The lines.";
        "nodeSelector" selector: optional EveryNode, "Which nodes it is for: only all of them can be selected.";
    }
}

/// Whether a map may have a key of that name.
pub(super) fn is_key(name: &str) -> bool {
    KEYS.iter().any(|(names, _)| names.contains(&name))
}

/// Whether all values of keys of that name are words, and no secrets.
pub(super) fn has_words(name: &str) -> bool {
    KEYS.iter().any(|(names, shows)| *shows && names.contains(&name))
}
