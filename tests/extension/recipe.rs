//! The rules for the recipe, as bldr reads it.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

/// All problems of the recipe in a directory.
pub fn check(dir: &Path) -> Vec<String> {
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut problems = Vec::new();
    let mut want = |well: bool, problem: &str| problems.extend((!well).then(|| problem.to_owned()));
    let pkgfile = read("Pkgfile");
    want(
        pkgfile.starts_with("# syntax = ghcr.io/siderolabs/bldr:v"),
        "Pkgfile: the first line names no bldr",
    );
    let pkgfile: Value = serde_saphyr::from_str(&pkgfile).unwrap();
    want(pkgfile["format"] == "v1alpha2", "Pkgfile: format");

    let mut vars: BTreeMap<String, String> = BTreeMap::from([("ARCH".into(), "x86_64".into())]);
    let files = [pkgfile["vars"].clone(), serde_saphyr::from_str(&read("vars.yaml")).unwrap()];
    for (name, value) in files.iter().flat_map(|file| file.as_object().unwrap()) {
        want(value.is_string(), &format!("{name} is not text"));
        vars.insert(name.clone(), value.as_str().unwrap_or_default().to_owned());
    }
    let render = |text: &str| {
        vars.iter()
            .fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{{ .{name} }}}}"), value))
    };
    let texts = ["pkg.yaml", "manifest.yaml.tmpl", "extension/frr.yaml"].map(|name| render(&read(name)));
    for text in &texts {
        want(!text.contains("{{"), "a variable is not known");
    }
    let own = format!("-v{}", env!("CARGO_PKG_VERSION"));
    let version = format!("{}{own}", vars["FRR_VERSION"]);
    want(vars["VERSION"] == version, "vars.yaml: VERSION is not FRR's and frr-supervisor's");

    let pkg: Value = serde_saphyr::from_str(&texts[0]).unwrap();
    want(pkg["name"] == "frr", "pkg.yaml: name");
    want(["alpine", "scratch"].iter().any(|v| pkg["variant"] == *v), "pkg.yaml: variant");
    let images = pkg["dependencies"].as_array().unwrap().iter().filter_map(|d| d["image"].as_str());
    for image in images.filter(|image| !image.contains("extensions-validator")) {
        let digest = image.split_once("@sha256:").map(|(_, digest)| digest);
        let pinned = digest.is_some_and(|d| d.len() == 64 && d.bytes().all(|b| b.is_ascii_hexdigit()));
        want(pinned, &format!("pkg.yaml: {image} is not pinned by its digest"));
    }
    let steps = pkg["steps"].as_array().unwrap();
    let tests = steps.iter().filter_map(|step| step["test"][0].as_str());
    let validates = |test: &str| {
        test.contains("extensions-validator validate") && test.contains("--pkg-name=\"${PKG_NAME}\"")
    };
    want(tests.clone().any(validates), "pkg.yaml: the validator is not called");
    // Downloads have a step of their own, and the build has no network.
    let builds = steps.iter().filter(|step| step["build"].is_array());
    want(builds.clone().all(|step| step["network"].is_null()), "pkg.yaml: it builds with the network");
    let expected =
        serde_json::json!([{"from": "/rootfs", "to": "/rootfs"}, {"from": "/pkg/manifest.yaml", "to": "/"}]);
    want(pkg["finalize"] == expected, "pkg.yaml: finalize");
    problems
}
