use super::*;

fn parse(text: &str) -> Result<YamlNode, YamlError> {
    super::parse(text, &mut Budget::default())
}

fn scalars(node: &YamlNode, out: &mut Vec<(String, usize, usize)>) {
    let mut push = |s: &str| out.push((s.into(), node.position.line, node.position.column));
    match &node.kind {
        YamlKind::Null => push("~"),
        YamlKind::Bool(s) => push(&format!("b{s}")),
        YamlKind::Number(s) => push(&format!("n{s}")),
        YamlKind::Scalar(s) => push(s),
        YamlKind::List(list) => list.iter().for_each(|n| scalars(n, out)),
        YamlKind::Map(map) => map.iter().for_each(|(_, n)| scalars(n, out)),
    }
}

#[test]
fn numbers_keep_their_spelling() {
    let text = "a: 007\nb: [0x10, 1e3 , 1.10, 18446744073709551616, -0]\nc: &x 1_0 # no\nd: *x\ne: .nan\nf: 65000:100\ng: yes\nh: !!int '5'\ni: true\nj:\nk: 1.0.0\n";
    let mut out = vec![];
    scalars(&parse(text).unwrap(), &mut out);
    let words: Vec<&str> = out.iter().map(|(s, ..)| s.as_str()).collect();
    let wanted = [
        "n007",
        "n0x10",
        "n1e3",
        "n1.10",
        "n18446744073709551616",
        "n-0",
        "1_0",
        "1_0",
        "n.nan",
        "65000:100",
        "yes",
        "n5",
        "btrue",
        "~",
        "1.0.0",
    ];
    assert_eq!(words, wanted);
    assert_eq!((out[0].1, out[0].2, out[1].2), (1, 4, 5));
    assert_eq!((out[7].1, out[7].2), (4, 4));
}

#[test]
fn every_spelling_of_an_integer_is_accepted() {
    for text in ["100", "+100", "0100", "0x64", "0o144", "1e2", "100.0", "100.", "1E+2", "1000e-1"] {
        assert!(is_number(text), "{text}");
        assert_eq!(plain_integer(text).as_deref(), Some("100"), "{text}");
    }
    for (text, plain) in [
        ("-0", Some("0")),
        ("-0.0", Some("0")),
        ("-7", Some("-7")),
        ("0x1_0", None),
        ("1.5", None),
        (".inf", None),
        (".nan", None),
        ("1e400", None),
        ("99999999999999999999999", Some("99999999999999999999999")),
    ] {
        assert_eq!(plain_integer(text).as_deref(), plain, "{text}");
    }
    for text in ["", "+", ".", "e1", "1e", "0x", "0o8", "1_0", "1.1.1", "-0x1", "12:30", "1 ", "- 1", "inf"] {
        assert!(!is_number(text), "{text}");
    }
}

#[test]
fn keys_and_aliases_have_positions() {
    let tree = parse("a: &x\n  b: 1\nc: *x\n? [k]\n: {null: 2}\n").unwrap();
    let YamlKind::Map(map) = &tree.kind else { panic!() };
    let keys: Vec<_> = map.iter().map(|(key, _)| (&*key.name, key.position.line)).collect();
    assert_eq!(keys, [("a", 1), ("c", 3), ("(no text)", 4)]);
    let alias = &map[1].1;
    assert_eq!((alias.position.line, alias.position.column, alias.end.column), (3, 4, 6));
}

#[test]
fn nesting_is_limited() {
    let nested = |depth: usize, inner: &str| format!("{}{inner}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(parse(&nested(MAX_DEPTH, "1")).is_ok());
    assert!(parse(&nested(MAX_DEPTH + 1, "1")).is_err());
    let chain = |links: usize| {
        let links = (1..=links).map(|i| format!("x{i}: &x{i} [*x{}]\n", i - 1));
        format!("x0: &x0 [1]\n{}", links.collect::<String>())
    };
    assert!(parse(&chain(5)).is_ok());
    for links in [MAX_DEPTH, 60, 500] {
        assert!(parse(&chain(links)).is_err());
    }
}
