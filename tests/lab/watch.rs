//! What changed in a namespace: the kernel's own notifications about links, and snapshots of everything to compare.

use std::collections::BTreeSet;
use std::fmt;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use serde_json::Value;

use super::node::SOON;
use super::sh::{in_ns, ip, ip_json, must, wait_until};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTMGRP_LINK: u32 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_OPERSTATE: u16 = 16;

/// One RTM_NEWLINK or RTM_DELLINK. The bridge's own messages about a port are AF_BRIDGE (7) in `family`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkEvent {
    pub deleted: bool,
    pub family: u8,
    pub index: u32,
    pub name: String,
    pub flags: u32,
    pub mtu: u32,
    pub master: u32,
    pub operstate: u8,
}

impl fmt::Display for LinkEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { index, name, flags, mtu, master, operstate, .. } = self;
        let kind = if self.deleted { "DELLINK" } else { "NEWLINK" };
        write!(f, "{kind} {index} {name} flags {flags:#x} mtu {mtu} master {master} operstate {operstate}")
    }
}

/// Collects every link notification of a namespace, from the moment it is made.
pub struct LinkMonitor {
    socket: OwnedFd,
    ns: String,
}

pub fn link_monitor(ns: &str) -> LinkMonitor {
    let open = || -> rustix::io::Result<OwnedFd> {
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?; // NETLINK_ROUTE is 0
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 4 << 20)?;
        bind(&socket, &SocketAddrNetlink::new(0, RTMGRP_LINK))?;
        Ok(socket)
    };
    LinkMonitor { socket: must("netlink", in_ns(ns, open)), ns: ns.to_owned() }
}

impl LinkMonitor {
    /// The notifications since the last call.
    pub fn events(&self) -> Vec<LinkEvent> {
        let (mut events, mut buffer) = (vec![], vec![0; 65536]);
        loop {
            match recv(&self.socket, &mut buffer, RecvFlags::DONTWAIT) {
                Ok((length, _)) => parse(&buffer[..length], &mut events),
                Err(Errno::AGAIN) => return events,
                Err(error) => panic!("link notifications of {}: {error}", self.ns),
            }
        }
    }
}

fn parse(mut bytes: &[u8], events: &mut Vec<LinkEvent>) {
    let u16_at = |b: &[u8], at: usize| u16::from_ne_bytes([b[at], b[at + 1]]);
    let u32_at = |b: &[u8], at: usize| u32::from_ne_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
    while bytes.len() >= 32 {
        let (length, kind) = (u32_at(bytes, 0) as usize, u16_at(bytes, 4));
        if length < 32 || length > bytes.len() {
            return;
        }
        if kind == RTM_NEWLINK || kind == RTM_DELLINK {
            let mut event = LinkEvent {
                deleted: kind == RTM_DELLINK,
                family: bytes[16],
                index: u32_at(bytes, 20),
                name: String::new(),
                flags: u32_at(bytes, 24),
                mtu: 0,
                master: 0,
                operstate: 0,
            };
            let mut attributes = &bytes[32..length];
            while attributes.len() >= 4 {
                let size = usize::from(u16_at(attributes, 0)).clamp(4, attributes.len());
                let value = &attributes[4..size];
                match u16_at(attributes, 2) {
                    IFLA_IFNAME => {
                        event.name = String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
                    }
                    IFLA_MTU if value.len() == 4 => event.mtu = u32_at(value, 0),
                    IFLA_MASTER if value.len() == 4 => event.master = u32_at(value, 0),
                    IFLA_OPERSTATE if value.len() == 1 => event.operstate = value[0],
                    _ => {}
                }
                attributes = &attributes[size.next_multiple_of(4).min(attributes.len())..];
            }
            events.push(event);
        }
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
    }
}

/// Everything in a namespace that a program could have changed, a line for each link, address, rule and route, without
/// what changes by itself (lifetimes, timers, the rules of the connect guard, which last seconds).
pub fn snapshot(ns: &str) -> BTreeSet<String> {
    let queries = [
        ("link", "-d link show"),
        ("addr", "-d addr show"),
        ("rule", "-4 rule show"),
        ("rule6", "-6 rule show"),
        ("route", "-d -4 route show table all"),
        ("route6", "-d -6 route show table all"),
        ("nexthop", "nexthop show"),
    ];
    let mut lines = BTreeSet::new();
    for (kind, args) in queries {
        for mut item in ip_json(ns, args).as_array().cloned().unwrap_or_default() {
            if item["priority"] == 8799 {
                continue;
            }
            normalize(&mut item);
            let name = ["ifname", "dst", "priority", "id"].iter().find_map(|key| item.get(key));
            lines.insert(format!("{kind} {} {item}", name.map(Value::to_string).unwrap_or_default()));
        }
    }
    lines
}

/// A snapshot after nothing has changed for a moment: a link that has just come up gets routes, and more of them when
/// duplicate address detection for its addresses is over.
pub fn settled(ns: &str) -> BTreeSet<String> {
    wait_until(&format!("{ns} to settle"), SOON, || {
        let before = snapshot(ns);
        thread::sleep(Duration::from_millis(500));
        let tentative = ip(ns, "-6 addr show tentative");
        (tentative.trim().is_empty() && snapshot(ns) == before).then_some(before)
    })
}

fn normalize(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| {
                let timer = name.ends_with("_timer") || name == "timer" || name.ends_with("_life_time");
                !timer
                    && !["expires", "cache", "stats", "stats64", "used", "age", "tentative"]
                        .contains(&name.as_str())
            });
            fields.values_mut().for_each(normalize);
        }
        Value::Array(items) => {
            items.iter_mut().for_each(normalize);
            items.sort_by_key(Value::to_string);
        }
        _ => {}
    }
}

/// The removed (`-`) and added (`+`) lines; empty when nothing changed.
pub fn difference(before: &BTreeSet<String>, after: &BTreeSet<String>) -> String {
    let removed = before.difference(after).map(|line| format!("- {line}\n"));
    let added = after.difference(before).map(|line| format!("+ {line}\n"));
    removed.chain(added).collect()
}
