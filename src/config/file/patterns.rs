//! The composed patterns of the JSON Schema. They match what the parsers of addresses, prefixes and numbers accept.

use serde_json::{Value as Json, json};

use crate::model::VniDevice;

use super::names::FIXED_NAMES;

/// One group of an IPv6 address.
const GROUP: &str = "[0-9A-Fa-f]{1,4}";

/// The definitions that the schema refers to.
pub(super) fn definitions() -> Json {
    let (ip4, ip6) = (ipv4(), ipv6());
    let (len4, len6) = (up_to(32), up_to(128));
    // 0/8 and 127/8 never leave a host, 224/4 is multicast and 240/4 reserved (RFC 6890).
    let host4 = format!(
        "(?:[1-9]|[1-9][0-9]|1[01][0-9]|12[0-689]|1[3-9][0-9]|2[01][0-9]|22[0-3])(?:\\.(?:{})){{3}}",
        up_to(255)
    );
    let whole = |pattern: &str| json!({"type": "string", "pattern": format!("^(?:{pattern})$")});
    let but_for = |pattern: String, special: [String; 5]| {
        let mut schema = whole(&pattern);
        schema["not"] = json!({"anyOf": special.map(|special| json!({"pattern": special}))});
        schema
    };
    let not_special = |pattern| but_for(pattern, special_ipv6(&ip4, "(?:/|$)", ""));
    // A shorter prefix contains other addresses, or has host bits set.
    let peers6 = but_for(format!("(?:{ip6})/(?:{len6})"), special_ipv6(&ip4, "/12[78]$", ".*/[1-9][0-9]"));
    let (u16, u32) = (up_to(u16::MAX.into()), up_to(u32::MAX.into()));
    json!({
        "ipv4Host": whole(&host4),
        "ipv4HostPrefix": whole(&format!("{host4}/(?:{len4})")),
        "ipv4PeerPrefix": whole(&format!("{host4}/(?:{len4})|0\\.0\\.0\\.0/[0-7]")),
        "ipv4Prefix": whole(&format!("{ip4}/(?:{len4})")),
        "ipv6Host": not_special(ip6.clone()),
        "ipv6HostPrefix": not_special(format!("(?:{ip6})/(?:{len6})")),
        "ipv6PeerPrefix": peers6,
        "ipv6Prefix": whole(&format!("(?:{ip6})/(?:{len6})")),
        // Two octets remain next to an address or a 4-octet AS number, four next to a 2-octet one.
        "routeTarget": whole(&format!("(?:{u16}):(?:{u32})|(?:{u32}|{ip4}):(?:{u16})")),
    })
}

/// The pattern of the managed devices' names.
pub(super) fn managed_device_pattern() -> String {
    let numbered = VniDevice::ALL.map(VniDevice::prefix).join("|");
    format!("^(?:{}|(?:{numbered})[0-9]+)$", FIXED_NAMES.join("|"))
}

/// The decimal numbers from 0 to `max`, without leading zeros.
fn up_to(max: u64) -> String {
    let digits = max.to_string();
    let mut ways = vec!["0".to_owned()];
    // Numbers with fewer digits.
    match digits.len() {
        0 | 1 => {}
        2 => ways.push("[1-9]".into()),
        3 => ways.push("[1-9][0-9]?".into()),
        length => ways.push(format!("[1-9][0-9]{{0,{}}}", length - 2)),
    }
    // Numbers with the same count of digits: the first digit that differs is smaller.
    for (i, digit) in digits.bytes().enumerate() {
        let first = if i == 0 { b'1' } else { b'0' };
        let less = match digit.saturating_sub(first) {
            0 => continue,
            1 => char::from(first).to_string(),
            _ => format!("[{}-{}]", char::from(first), char::from(digit - 1)),
        };
        let rest = match digits.len() - i - 1 {
            0 => String::new(),
            1 => "[0-9]".into(),
            rest => format!("[0-9]{{{rest}}}"),
        };
        ways.push(format!("{}{less}{rest}", &digits[..i]));
    }
    ways.push(digits);
    ways.join("|")
}

fn ipv4() -> String {
    let octet = up_to(255);
    format!("(?:{octet})(?:\\.(?:{octet})){{3}}")
}

/// An IPv6 address (RFC 4291 §2.2) as `std` parses it: `::` replaces one group or more.
fn ipv6() -> String {
    let ip4 = ipv4();
    let mut ways = vec![format!("(?:{GROUP}:){{7}}{GROUP}"), format!("(?:{GROUP}:){{6}}{ip4}")];
    for head in 0..=7 {
        let before = if head == 0 { String::new() } else { format!("{GROUP}(?::{GROUP}){{{}}}", head - 1) };
        let mut tails = vec![String::new()];
        if head < 7 {
            tails.push(format!("{GROUP}(?::{GROUP}){{0,{}}}", 6 - head));
        }
        if head <= 5 {
            tails.push(format!("(?:{GROUP}:){{0,{}}}{ip4}", 5 - head));
        }
        ways.push(format!("{before}::(?:{})", tails.join("|")));
    }
    ways.join("|")
}

/// Patterns of the IPv6 addresses that are not a host's or not valid beyond a link, each for the start of a text that
/// is an address: multicast, link-local, unspecified and loopback, and IPv4-mapped addresses in every spelling. `one`
/// matches what follows `::` and `::1`, `link` matches what follows the start of a link-local address.
fn special_ipv6(ip4: &str, one: &str, link: &str) -> [String; 5] {
    let end = "(?:/|$)";
    [
        "^[Ff][Ff][0-9A-Fa-f]{2}:".into(),
        format!("^[Ff][Ee][89ABab][0-9A-Fa-f]:{link}"),
        format!("^[0:]*:(?:0{{0,3}}[01]?|0\\.0\\.0\\.[01]){one}"),
        format!("^[0:]*:[Ff]{{4}}:(?:{GROUP}:{GROUP}|{ip4}){end}"),
        format!("^(?:0{{1,4}}:){{5}}[Ff]{{4}}:(?::(?:{GROUP})?|{GROUP}::){end}"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_the_numbers_up_to_its_limit() {
        for max in [1, 9, 10, 32, 128, 255, 1000, 1999, 65535] {
            let pattern = regex::Regex::new(&format!("^(?:{})$", up_to(max))).unwrap();
            for number in 0..=max + 1100 {
                assert_eq!(pattern.is_match(&number.to_string()), number <= max, "{number} of {max}");
            }
            assert!(!pattern.is_match("00") && !pattern.is_match("01") && !pattern.is_match(""));
        }
        let pattern = regex::Regex::new(&format!("^(?:{})$", up_to(u32::MAX.into()))).unwrap();
        for (number, taken) in [
            ("4294967295", true),
            ("4294967296", false),
            ("4299999999", false),
            ("999999999", true),
            ("10000000000", false),
        ] {
            assert_eq!(pattern.is_match(number), taken, "{number}");
        }
    }
}
