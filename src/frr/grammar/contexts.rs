//! The lines that open a context, and what identifies a context.

/// The first words of lines that open a context, each with the first words of the head of the outer context ("": top
/// level).
const OPENERS: [(&str, &str); 10] = [
    ("", "router bgp "),
    ("", "route-map "),
    ("", "vrf "),
    ("", "interface "),
    ("", "bfd"),
    ("router bgp ", "address-family "),
    ("address-family l2vpn evpn", "vni "),
    ("bfd", "profile "),
    ("bfd", "peer "),
    ("router bgp ", "segment-routing "),
];

/// The first words of contexts that have an effect even without content: an empty entry of a route map permits every
/// route.
pub const EFFECTIVE_WHEN_EMPTY: [&str; 4] = ["router bgp ", "route-map ", "vni ", "profile "];

fn is_opener(first: &str, line: &str) -> bool {
    line.starts_with(first) && (first.ends_with(' ') || line == first)
}

/// Whether `line` opens the default BGP instance.
pub fn is_default_bgp_instance(line: &str) -> bool {
    matches!(line.split_whitespace().collect::<Vec<_>>()[..], ["router", "bgp", _, ref more @ ..]
        if !more.iter().any(|word| ["vrf", "view"].contains(word)) || more.contains(&"default"))
}

/// Whether `line` opens a context inside the context that `head` opens.
pub fn is_opener_in(head: &str, line: &str) -> bool {
    OPENERS.iter().any(|(within, first)| {
        let here = if within.is_empty() { head.is_empty() } else { head.starts_with(within) };
        here && is_opener(first, line)
    })
}

/// The part of a context's head that identifies the context.
pub fn context_key(head: &str) -> String {
    let words: Vec<&str> = head.split(' ').collect();
    match words[..] {
        ["router", "bgp", _, "vrf", vrf, ..] => format!("router bgp vrf {vrf}"),
        ["router", "bgp", ..] => "router bgp".into(),
        ["route-map", map, _, number] => format!("route-map {map} {number}"),
        _ => head.into(),
    }
}
