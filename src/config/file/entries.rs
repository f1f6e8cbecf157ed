//! The maps and keys of the configuration file, each declared once. The names are those of OpenPERouter's v1alpha1.

use ipnet::IpNet;

use crate::model::{Asn, Password, Ranged, RouteTarget, RouterId, Vni};

use super::read::{EntryList, List, MaybeInvalid, choice, keys};
use super::values::{
    AllNodesSelector, BridgeName, EntryName, HoldTime, InterfaceAddress, ListenRange, NetOf, NodeIndex,
    PeerInterface, Port, RawConfigText, ReferenceName, UnicastAddress, UnicastAddressOf, UnmanagedDevice,
    VniVrfName,
};

/// The most VNIs of each kind, and of both kinds together.
pub(super) const MAX_VNIS: usize = 4096;

/// The most neighbors of the underlay.
pub(super) const MAX_NEIGHBORS: usize = 128;

/// The most links of the underlay.
pub(super) const MAX_INTERFACES: usize = 64;

/// The most entries of raw lines.
pub(super) const MAX_RAW: usize = 64;

/// The highest priority: upstream's type is int32.
const MAX_PRIORITY: u32 = i32::MAX.unsigned_abs();

choice! {
    /// Whether a peer is internal (iBGP) or external (eBGP).
    PeerType { External = "External", Internal = "Internal" }
}

choice! {
    /// An address family of the VTEP.
    IpFamily { V4 = "IPv4", V6 = "IPv6" }
}

choice! {
    /// The kind of a link to the fabric.
    InterfaceType {
        NetworkDevice = "NetworkDevice", Macvlan = "Macvlan"; "CNIDevice": "CNI is not available, use Macvlan"
    }
}

choice! {
    /// A property of a session.
    SessionProperty { Multihop = "ebgpMultiHop" }
}

choice! {
    /// Whether the local end starts a BFD session.
    BfdMode { Active = "Active", Passive = "Passive" }
}

choice! {
    /// A BGP address family.
    FamilyType {
        Ipv4Unicast = "ipv4unicast", Ipv6Unicast = "ipv6unicast", Evpn = "evpn";
        "ipv4vpn": "SRv6, which carries VPNs, is not available",
        "ipv6vpn": "SRv6, which carries VPNs, is not available"
    }
}

choice! {
    /// A property of an address family.
    FamilyProperty { Client = "routeReflectorClient" }
}

choice! {
    /// The kind of routing for a broadcast domain.
    DomainType { L3Vni = "L3VNI"; "L3VPN": "SRv6 is not available, use L3VNI" }
}

choice! {
    /// The kind of a bridge in the host namespace.
    MasterType { Linux = "LinuxBridge"; "OVSBridge": "Open vSwitch is not available, use LinuxBridge" }
}

choice! {
    /// Whether the bridge is created or exists.
    Lifecycle { Managed = "Managed", External = "External" }
}

keys! {
    /// The whole file.
    lenient ConfigFile {
        "nodeIndex" node_index: optional MaybeInvalid<NodeIndexEntry>, "The node's number.";
        "underlay" underlay: optional UnderlayEntry,
            "The underlay: links, sessions and the VTEP on the fabric.";
        "underlays" underlays: entries EntryList<UnderlayEntry, 64>,
            "`underlay` as a list of at most one entry.";
        "l3vnis" l3vnis: entries EntryList<L3VniEntry, MAX_VNIS>, "Routing domains over EVPN, each a VRF.";
        "l2vnis" l2vnis: entries EntryList<L2VniEntry, MAX_VNIS>, "Broadcast domains over EVPN.";
        "l3passthrough" | "bgppassthrough" passthrough: optional PassthroughEntry,
            "The host's BGP session in the default VRF of FRR's namespace.";
        "rawFRRConfigs" | "rawfrrconfigs" raw: entries EntryList<RawConfigEntry, MAX_RAW>,
            "Raw lines for frr.conf.";
        "l3vpns" l3vpns: unsupported "SRv6, which carries them, is not available", "";
        "nodeName" node_name: unsupported "the node's name is not used", "";
        "logLevel" log_level: unsupported "set LOG_LEVEL in the environment", "";
        "apiVersion" api_version: unsupported "Kubernetes objects are not read here, write the spec as an entry of the list", "";
        "kind" object_kind: unsupported "Kubernetes objects are not read here, write the spec as an entry of the list", "";
        "metadata" metadata: unsupported "Kubernetes objects are not read here, write the spec as an entry of the list", "";
        "spec" spec: unsupported "Kubernetes objects are not read here, write the spec as an entry of the list", "";
        "status" status: unsupported "Kubernetes objects are not read here, write the spec as an entry of the list", "";
        "items" items: unsupported "Kubernetes objects are not read here, write the spec as an entry of the list", "";
    }

    /// The node's number.
    strict NodeIndexEntry {
        "index" index: required NodeIndex, "The number. If `NODE_INDEX` is set, too, both must be equal.";
        "interfaceName" from: unsupported "it is not derived from a NIC's address, set index or NODE_INDEX", "";
        "cidr" cidr: unsupported "it is not derived from a NIC's address, set index or NODE_INDEX", "";
    }

    /// The links and sessions towards the fabric.
    lenient UnderlayEntry {
        "asn" asn: optional Asn, "The local AS number. If set, it must be equal to `ASN_LOCAL`.";
        "routerIDCIDR" router_id: optional NetOf<false>,
            "The subnet of the BGP identifiers. The node uses the address at its index plus one. Default: `NODE_IP`.";
        "neighbors" neighbors: entries EntryList<NeighborEntry, MAX_NEIGHBORS>,
            "Peers in addition to those on the ports of `FE_MACS`.";
        "interfaces" interfaces: entries EntryList<InterfaceEntry, MAX_INTERFACES>,
            "Links in addition to the ports of `FE_MACS`.";
        "tunnelEndpoint" tunnel: optional MaybeInvalid<TunnelEndpoint>, "The addresses of the VTEP.";
        "routeReflector" reflector: optional RouteReflector, "Makes the node a route reflector.";
        "gracefulRestart" restart: optional GracefulRestart,
            "Timers of graceful restart. Default: those of the environment.";
        "isis" isis: unsupported "isisd is not available", "";
        "srv6" srv6: unsupported "SRv6 is not available", "";
        "nics" nics: unsupported "replaced by interfaces", "";
        "routeridcidr" old_router_id: unsupported "renamed to routerIDCIDR", "";
        "vtepcidr" old_cidr: unsupported "replaced by an entry of tunnelEndpoint.cidrs", "";
        "vtepInterface" vtep_interface: unsupported "the VTEP's address comes from tunnelEndpoint.cidrs, not from a NIC", "";
        "evpn" evpn: unsupported "replaced by tunnelEndpoint", "";
        "nodeSelector" selector: optional MaybeInvalid<AllNodesSelector>,
            "The nodes of the entry. Only a selector for all nodes is supported.";
    }

    /// The addresses of the VTEP.
    strict TunnelEndpoint {
        "cidrs" cidrs: required List<IpNet, 1, 2>,
            "At most one subnet of each family. The node uses the address at its index; a host prefix is the address itself.";
        "vtepcidr" old_cidr: unsupported "replaced by an entry of cidrs", "";
        "vtepInterface" interface: unsupported "the VTEP's address comes from cidrs, not from a NIC", "";
    }

    /// The settings of a route reflector.
    strict RouteReflector {
        "clusterID" cluster_id: optional RouterId,
            "The cluster-id (RFC 4456), outside `routerIDCIDR`. Default: 192.0.2.1.";
    }

    /// Timers of graceful restart (RFC 4724).
    strict GracefulRestart {
        "restartTimeSeconds" restart: optional Ranged<1, 4095>,
            "Seconds for which peers keep the node's routes.";
        "stalePathTimeSeconds" stale: optional Ranged<1, 4095>,
            "Seconds for which a peer's routes are kept. At least the restart time.";
    }

    /// A link to the fabric.
    strict InterfaceEntry {
        "type" kind: required InterfaceType, "Which of the other keys is set.";
        "networkDevice" device: optional DeviceEntry,
            "A NIC, or a VLAN on a NIC, that is moved into FRR's namespace.";
        "macvlan" macvlan: optional MacvlanEntry,
            "A managed macvlan on a NIC that stays in the host namespace.";
        "cniDevice" cni: unsupported "CNI is not available, use Macvlan", "";
    }

    /// A NIC.
    strict DeviceEntry {
        "interfaceName" name: required UnmanagedDevice, "The name.";
    }

    /// A macvlan.
    strict MacvlanEntry {
        "parent" parent: required UnmanagedDevice, "The NIC. It stays in the host namespace.";
        "interfaceName" name: optional UnmanagedDevice, "Its name in FRR's namespace. Default: net1.";
        "addresses" addresses: optional List<InterfaceAddress, 0, 8>,
            "Its addresses, each with its prefix length.";
    }

    /// A BGP session with the fabric.
    strict NeighborEntry {
        "asn" asn: optional Asn, "The peer's AS number. Set either `asn` or `type`.";
        "type" kind: optional PeerType,
            "Internal: the peer has the local AS number. External: another one. Set either `asn` or `type`.";
        "address" address: optional UnicastAddress,
            "The peer's address. Set one of `address`, `interface` and `listenRange`.";
        "interface" interface: optional PeerInterface, "The interface of an unnumbered peer.";
        "listenRange" range: optional ListenRange, "The subnet from which peers connect.";
        "port" port: optional Port, "The peer's TCP port. Default: 179.";
        "password" password: optional Password, "TCP-MD5 password (RFC 2385).";
        "passwordSecret" secret: unsupported "Kubernetes Secrets are not available here, use password", "";
        "holdTime" hold_time: unsupported "renamed to holdTimeSeconds", "";
        "keepaliveTime" keepalive_time: unsupported "renamed to keepaliveTimeSeconds", "";
        "connectTime" connect_time: unsupported "renamed to connectTimeSeconds", "";
        "ebgpMultiHop" multihop: unsupported "replaced by an entry of properties", "";
        "hostasn" host_asn: unsupported "use asn for the peer's AS number", "";
        "hostASN" host_asn_too: unsupported "use asn for the peer's AS number", "";
        "holdTimeSeconds" hold: optional HoldTime,
            "Hold time in seconds, 0 or at least 3. Needs `keepaliveTimeSeconds`.";
        "keepaliveTimeSeconds" keepalive: optional Ranged<0, 65535>,
            "Keepalive interval in seconds, at most the hold time. Needs `holdTimeSeconds`.";
        "connectTimeSeconds" connect: optional Ranged<1, 65535>, "Connect retry interval in seconds.";
        "properties" properties: optional List<SessionPropertyEntry, 0, 1>, "Properties of the session.";
        "bfd" bfd: optional BfdEntry, "BFD with the peer.";
        "addressFamilies" families: optional List<AddressFamilyEntry, 0, 3>,
            "The address families of the session. Default: those that the node uses.";
    }

    /// A property of a session.
    strict SessionPropertyEntry {
        "type" kind: required SessionProperty, "The property.";
        "ebgpMultiHop" multihop: optional MultiHopEntry, "For an eBGP peer that is not directly connected.";
    }

    /// The settings of a multihop session.
    strict MultiHopEntry {
        "ttl" ttl: optional Ranged<1, 255>, "Maximum number of hops. Default: 255.";
    }

    /// BFD with a peer (RFC 5880).
    strict BfdEntry {
        "receiveInterval" receive: optional Ranged<10, 60000>, "Minimum receive interval in milliseconds.";
        "transmitInterval" transmit: optional Ranged<10, 60000>, "Minimum transmit interval in milliseconds.";
        "detectMultiplier" multiplier: optional Ranged<2, 255>,
            "Detection multiplier: missed packets until the session is down.";
        "sessionMode" mode: optional BfdMode,
            "Active: the node starts the session. Passive: it waits for the peer. Default: Active.";
        "minimumTTL" ttl: optional Ranged<1, 254>, "Minimum TTL of received packets on multihop sessions.";
        "minimumTtl" old_ttl: unsupported "renamed to minimumTTL", "";
        "passiveMode" passive: unsupported "replaced by sessionMode: Passive", "";
        "echoMode" echo: unsupported "BFD echo is not available, remove it", "";
        "echoInterval" echo_interval: unsupported "BFD echo is not available, remove it", "";
    }

    /// An address family of a session.
    strict AddressFamilyEntry {
        "type" kind: required FamilyType, "The address family.";
        "properties" properties: optional List<FamilyPropertyEntry, 0, 1>,
            "Properties of the address family.";
    }

    /// A property of an address family.
    strict FamilyPropertyEntry {
        "type" kind: required FamilyProperty, "The property. It needs an iBGP peer.";
    }

    /// A routing domain.
    strict L3VniEntry {
        "name" name: optional EntryName, "Name for references from `l2vnis`. Default: the name of the VRF.";
        "vrf" vrf: required VniVrfName, "The name of the VRF.";
        "vni" vni: required Vni, "The VNI.";
        "vxlanPort" port: optional Port, "UDP port of VXLAN. Default: 4789.";
        "underlayAddressFamily" family: optional IpFamily,
            "Address family of the VTEP address for this VNI. Default: IPv4, if the VTEP has an IPv4 address.";
        "hostSession" session: optional HostSessionEntry, "A BGP session with the host over a veth pair.";
        "exportRTs" export: optional List<RouteTarget, 0, 100>,
            "Export route targets. Default: those that FRR derives.";
        "importRTs" import: optional List<RouteTarget, 0, 100>,
            "Import route targets. Default: those that FRR derives.";
        "nodeSelector" selector: optional AllNodesSelector,
            "The nodes of the entry. Only a selector for all nodes is supported.";
        "asn" old_asn: unsupported "moved to hostSession.asn", "";
        "hostasn" old_host_asn: unsupported "moved to hostSession.hostASN", "";
        "localcidr" old_net: unsupported "moved to hostSession.localCIDR", "";
        "hostsession" old_session: unsupported "renamed to hostSession", "";
        "vxlanport" old_port: unsupported "renamed to vxlanPort", "";
    }

    /// A BGP session with the host.
    strict HostSessionEntry {
        "asn" asn: required Asn, "The local AS number of the session.";
        "hostASN" host_asn: optional Asn,
            "The host's AS number, different from `asn`. Set either `hostASN` or `hostType`.";
        "hostType" host_type: optional PeerType,
            "Internal: the host has the AS number `asn`. External: another one. Set either `hostASN` or `hostType`.";
        "localCIDR" net: optional SubnetsEntry, "The subnets of the veth pair, at most one of each family.";
        "localCIDRs" nets: optional List<IpNet, 1, 2>, "`localCIDR` as a list.";
        "hostIP" host_ip: optional AddressesEntry,
            "The host's addresses in these subnets. Default: computed from the node's index.";
        "bfd" bfd: optional BfdEntry, "BFD with the host.";
        "hostasn" old_host_asn: unsupported "renamed to hostASN", "";
        "hosttype" old_host_type: unsupported "renamed to hostType", "";
        "localcidr" old_net: unsupported "renamed to localCIDR", "";
    }

    /// Subnets by family.
    strict SubnetsEntry {
        "ipv4" v4: optional NetOf<false>, "The IPv4 subnet.";
        "ipv6" v6: optional NetOf<true>, "The IPv6 subnet.";
    }

    /// Addresses by family.
    strict AddressesEntry {
        "ipv4" v4: optional UnicastAddressOf<false>, "The IPv4 address.";
        "ipv6" v6: optional UnicastAddressOf<true>, "The IPv6 address.";
    }

    /// A broadcast domain.
    strict L2VniEntry {
        "name" name: optional EntryName, "The name. Default: `l2-` and the VNI.";
        "vni" vni: required Vni, "The VNI.";
        "vxlanPort" port: optional Port, "UDP port of VXLAN. Default: 4789.";
        "underlayAddressFamily" family: optional IpFamily,
            "Address family of the VTEP address for this VNI. Default: IPv4, if the VTEP has an IPv4 address.";
        "routingDomain" domain: optional RoutingDomainEntry, "The routing domain. Default: none.";
        "hostMaster" master: optional HostMasterEntry,
            "The bridge in the host namespace to which the workloads are connected.";
        "gatewayIPs" gateways: optional List<InterfaceAddress, 0, 2>,
            "The gateway's addresses, at most one of each family. They need a `routingDomain`.";
        "vrf" vrf: unsupported "replaced by routingDomain", "";
        "l2gatewayips" | "l2gatewayip" old_gateways: unsupported "renamed to gatewayIPs", "";
        "hostmaster" old_master: unsupported "renamed to hostMaster", "";
        "vxlanport" old_port: unsupported "renamed to vxlanPort", "";
        "nodeSelector" selector: optional AllNodesSelector,
            "The nodes of the entry. Only a selector for all nodes is supported.";
    }

    /// The routing of a broadcast domain.
    strict RoutingDomainEntry {
        "type" kind: required DomainType, "Which of the other keys is set.";
        "l3vni" l3vni: optional L3VniReference, "An entry of `l3vnis`.";
        "l3vpn" l3vpn: unsupported "SRv6 is not available, use L3VNI", "";
    }

    /// A reference to an entry of `l3vnis`.
    strict L3VniReference {
        "name" name: required ReferenceName, "The name.";
    }

    /// A bridge in the host namespace.
    strict HostMasterEntry {
        "type" kind: required MasterType, "Which of the other keys is set.";
        "linuxBridge" linux: optional LinuxBridgeEntry, "A Linux bridge.";
        "ovsBridge" ovs: unsupported "Open vSwitch is not available, use LinuxBridge", "";
        "name" old_name: unsupported "moved to linuxBridge.name", "";
        "autocreate" | "autoCreate" auto_create: unsupported "replaced by linuxBridge.lifecycle: Managed for true, External for false", "";
    }

    /// A Linux bridge.
    strict LinuxBridgeEntry {
        "lifecycle" lifecycle: required Lifecycle,
            "Managed: it is created with the name `br-hs-` and the VNI. External: it exists.";
        "name" name: optional BridgeName, "The name of an External bridge.";
        "autoCreate" auto_create: unsupported "replaced by lifecycle: Managed for true, External for false", "";
    }

    /// The host's session in the default VRF of FRR's namespace.
    strict PassthroughEntry {
        "hostSession" session: required HostSessionEntry,
            "The BGP session with the host over a veth pair. Its `asn` must be equal to `ASN_LOCAL`.";
        "hostsession" old_session: unsupported "renamed to hostSession", "";
        "nodeSelector" selector: optional AllNodesSelector,
            "The nodes of the entry. Only a selector for all nodes is supported.";
    }

    /// Raw lines for frr.conf.
    strict RawConfigEntry {
        "priority" priority: optional Ranged<0, MAX_PRIORITY>,
            "Lines with a lower priority come first. Default: 0.";
        "rawConfig" text: required RawConfigText, "The lines.";
        "nodeSelector" selector: optional AllNodesSelector,
            "The nodes of the entry. Only a selector for all nodes is supported.";
    }
}

/// Whether any map has a key of that name.
pub(super) fn is_known_key(name: &str) -> bool {
    KEYS.iter().any(|(names, _)| names.contains(&name))
}

/// Whether all values of keys of that name are words and not secrets.
pub(super) fn has_public_values(name: &str) -> bool {
    KEYS.iter().any(|(names, shows)| *shows && names.contains(&name))
}
