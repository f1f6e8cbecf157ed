//! `make matrix`: whatever is killed or stopped, in either namespace, no packet is lost. LAB_REPEAT (1) times;
//! LAB_NETNS: perouter, host or both (the default); LAB_CELL: only cells with these words in their name; LAB_LEAF: more
//! configuration for the leaves, lines separated by semicolons, and their logs where something is lost. A loss while
//! the machine itself stands still for seconds is shown, and that cell is run again.
//!
//! `make upgrade`: LAB_FROM is the program of another commit. It runs first, and each further start is one of the other
//! program: an upgrade, then a downgrade.

mod lab;

use lab::*;

fn main() {
    let setting = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let repeat: u32 = setting("LAB_REPEAT", "1").parse().expect("LAB_REPEAT is a number");
    let namespaces = match setting("LAB_NETNS", "both").as_str() {
        "perouter" => &["perouter"][..],
        "host" => &["host"],
        _ => &["perouter", "host"],
    };
    let words = setting("LAB_CELL", "");
    let mut total = Cost::default();
    let mut worse = Vec::new();
    for round in 1..=repeat {
        for ns in namespaces {
            let options =
                Options { leaf_extra: setting("LAB_LEAF", "").replace(';', "\n"), ..Options::default() };
            let lab = Lab::new(options);
            let mut node = Runner::new(&lab, &[("NETNS", ns)]);
            let routes = RouteLog::start(&[ns, "leaf1", "leaf2"]);
            let upgrades = [Cell::Restart, Cell::Everything, Cell::Supervisor].map(|cell| [cell; 2]);
            let is_upgrade = std::env::var_os("LAB_FROM").is_some();
            let cells: Vec<Cell> =
                if is_upgrade { upgrades.concat() } else { [&KILLS[..], &OTHERS].concat() };
            for cell in cells.iter().filter(|cell| cell.to_string().contains(&words)) {
                stood_still();
                let mut cost = node.run(cell);
                while cost.lost > 0
                    && !is_upgrade
                    && let Some(time) = stood_still()
                {
                    println!(
                        "{round} {ns:8} {cell:24} {cost}: not counted, the machine stood still for {time:?}"
                    );
                    cost = node.run(cell);
                }
                println!("{round} {ns:8} {cell:24} {cost}");
                total += &cost;
                if cost.lost > 0 {
                    println!("{}", routes.explain(&cost, &node));
                    if std::env::var_os("LAB_LEAF").is_some() {
                        println!("{}", lab.leaves[1].log_text());
                    }
                    worse.push(format!("{round} {ns:8} {cell:24} {cost}"));
                }
            }
        }
    }
    println!("matrix: {total}");
    if total.lost > 0 {
        println!("{}", worse.join("\n"));
        std::process::exit(1);
    }
}
