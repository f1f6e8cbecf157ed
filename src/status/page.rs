//! The status page: one HTML page for a browser.

use std::borrow::Cow;
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, context, escape_formatter};

use super::Status;
use crate::printable::printable;
use crate::time::{self, Time, span};

const TEMPLATE: &str = include_str!("../../templates/status.html.j2");

/// Limit of entries shown of a long list. status.json has all of them.
const MAX_SHOWN: usize = 60;

/// Renders the page.
pub fn render(status: &Status) -> String {
    let now = Time::now();
    let mut environment = Environment::new();
    if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        environment.set_syntax(syntax);
    }
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.set_formatter(|out, state, value| match value.as_str().map(printable) {
        Some(Cow::Owned(text)) => escape_formatter(out, state, &text.into()),
        _ => escape_formatter(out, state, value),
    });
    environment.add_filter("ago", move |time: &str| {
        time::parse(time).map_or_else(|| time.to_owned(), |time| span(time.ago(now)))
    });
    let mut vnis: Vec<_> = status.vnis.iter().collect();
    vnis.sort_by_key(|vni| (vni.up, vni.vni));
    vnis.truncate(MAX_SHOWN);
    let mut services: Vec<_> = status.services.iter().collect();
    services.sort_by_key(|service| service.valid);
    services.truncate(MAX_SHOWN);
    let wrong: Vec<_> = status.wrong_devices().take(MAX_SHOWN).collect();
    let context = context! {
        // The template needs only the lists below: a thousand VNIs have thousands of devices.
        status => Serde(Status { devices: Arc::default(), vnis: vec![], services: vec![], ..status.clone() }),
        now => now.to_string(),
        vnis_shown => Serde(vnis),
        vnis_total => status.vnis.len(),
        vnis_up => status.vnis.iter().filter(|vni| vni.up).count(),
        services_shown => Serde(services),
        services_total => status.services.len() + status.services_unlisted,
        devices_wrong => Serde(wrong),
        devices_total => status.devices.len(),
    };
    let page = environment.render_str(TEMPLATE, context).map(|page| page.trim_start().to_owned());
    page.unwrap_or_else(|e| {
        format!("<!doctype html>\n<title>frr-supervisor</title><p>The page can't be rendered: {e}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_escaped() {
        let evil = "</main><script>alert(1)</script>\"'&";
        let status = Status {
            node_ip: evil.into(),
            problems: vec![super::super::Problem {
                what: evil.into(),
                subject: evil.into(),
                ..Default::default()
            }],
            bgp: vec![super::super::BgpSession {
                peer: evil.into(),
                last_reset: evil.into(),
                ..Default::default()
            }],
            events: vec![crate::events::LoggedEvent { text: evil.into(), ..Default::default() }],
            ..Status::default()
        };
        let page = render(&status);
        assert!(!page.contains("<script>alert"), "{page}");
        assert!(
            page.contains("&lt;script&gt;alert(1)") || page.contains("&lt;script&gt;alert(1)&lt;"),
            "{page}"
        );
        assert!(page.starts_with("<!doctype html>\n<html"), "{}", &page[..200.min(page.len())]);
    }

    /// Renders the pages that `make page` checks in a browser. `PAGE_OUT` is the directory to write them to, if it is
    /// set.
    #[test]
    fn sample_pages_are_rendered() {
        let sample = |text| serde_json::from_str::<Status>(text).unwrap();
        let healthy = sample(include_str!("../../tests/page/healthy.json"));
        let broken = sample(include_str!("../../tests/page/broken.json"));
        let mut large = healthy.clone();
        large.bgp = (0..100)
            .map(|n| {
                let mut session = healthy.bgp[n % healthy.bgp.len()].clone();
                session.peer = format!("{} {n}", session.peer);
                session
            })
            .collect();
        large.vnis = (0..1000)
            .map(|n| super::super::VniStatus { vni: n, up: n != 500, ..healthy.vnis[0].clone() })
            .collect();
        for problem in &broken.problems {
            assert!(super::super::CODES.contains(&problem.code.as_str()), "{}", problem.code);
        }
        let out = std::env::var_os("PAGE_OUT").map(std::path::PathBuf::from);
        let all =
            [("healthy", healthy), ("broken", broken), ("large", large), ("starting", Status::default())];
        for (name, status) in all {
            let page = render(&status);
            let title = format!("<title>{} ", status.health.as_str());
            assert!(page.contains(&title), "{name} {title}");
            if name == "large" {
                assert!(page.contains("VNIs: 999 of 1000 up") && page.contains("52 more of 1000 VNIs"));
            }
            if let Some(dir) = &out {
                std::fs::write(dir.join(name).with_extension("html"), page).unwrap();
            }
        }
    }

    #[test]
    fn the_page_loads_nothing_from_other_hosts() {
        let page = render(&Status::default());
        for address in ["http://", "https://", "src=\"/", "@import", "url(/"] {
            let mut rest = page.replace("http://www.w3.org/", "");
            rest.retain(|c| c != '\n');
            assert!(!rest.contains(address), "{address}");
        }
    }
}
