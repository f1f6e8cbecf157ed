//! The status of the node: the file, HTTP and the log.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::*;

/// `STATUS_LISTEN` where it is not set.
pub const LISTEN: &str = "127.0.0.1:9080";

/// GET that path: the status code and the body.
pub fn get(path: &str) -> std::io::Result<(u16, String)> {
    let (code, _, body) = request(&format!("GET {path} HTTP/1.1\r\nHost: lab\r\n\r\n"))?;
    Ok((code, body))
}

/// Sends that request from the host's namespace: the status code, the header and the body.
pub fn request(text: &str) -> std::io::Result<(u16, String, String)> {
    let mut stream = in_ns("host", || TcpStream::connect(LISTEN))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(text.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    Ok((code, head.to_owned(), body.to_owned()))
}

/// The content of `/run/frr/status.json`.
pub fn status() -> Value {
    let text = std::fs::read_to_string("/run/frr/status.json").unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// One text field of it.
pub fn status_of(name: &str) -> String {
    status()[name].as_str().unwrap_or_default().to_owned()
}

/// The codes of all problems in the file.
pub fn problems() -> Vec<String> {
    let all = status();
    let all = all["problems"].as_array().cloned().unwrap_or_default();
    all.iter().map(|p| p["code"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Waits until the file, the page, the metrics and the log all show this problem; the time that it took, and the
/// problem.
#[track_caller]
pub fn await_problem(node: &Supervisor, code: &str, from: usize) -> (Duration, Value) {
    let begin = Instant::now();
    let problem = wait_until(&format!("the problem {code}"), SOON, || {
        let all = status();
        all["problems"].as_array().and_then(|all| all.iter().find(|p| p["code"] == code).cloned())
    });
    let (what, remedy) = (sentence(&problem, "what"), sentence(&problem, "remedy"));
    // The state of a session that is down changes (Idle, Connect …). It is in parentheses.
    let what = what.split(" (").next().unwrap_or_default().to_owned();
    wait_until(&format!("{code} on the page"), SOON, || {
        // The page escapes markup.
        let page = get("/").map(|(_, page)| page).unwrap_or_default();
        page.contains(escaped(&what).as_str()) && page.contains(escaped(&remedy).as_str())
    });
    wait_until(&format!("{code} in the metrics"), SOON, || {
        let metrics = get("/metrics").map(|(_, text)| text).unwrap_or_default();
        let line = format!("frr_supervisor_problem{{code=\"{code}\",subject=");
        metrics.lines().any(|l| l.starts_with(&line) && l.ends_with(" 1"))
    });
    wait_until(&format!("{code} in the log"), SOON, || {
        node.log()[from..]
            .iter()
            .any(|(_, line)| line.contains(what.as_str()) && line.contains(remedy.as_str()))
    });
    (begin.elapsed(), problem)
}

/// Waits until all of them show that the problem is resolved; the time that it took.
#[track_caller]
pub fn await_end(node: &Supervisor, problem: &Value) -> Duration {
    let begin = Instant::now();
    let (code, what) = (sentence(problem, "code"), sentence(problem, "what"));
    wait_until(&format!("the end of {code}"), Duration::from_secs(120), || !problems().contains(&code));
    wait_until(&format!("the end of {code} in the metrics"), SOON, || {
        let metrics = get("/metrics").map(|(_, text)| text).unwrap_or_default();
        metrics.contains(&format!("frr_supervisor_problem{{code=\"{code}\",subject=\"\"}} 0"))
    });
    wait_until(&format!("the end of {code} in the log"), SOON, || {
        node.log().iter().any(|(_, line)| line.contains("resolved after ") && line.contains(&what))
    });
    begin.elapsed()
}

fn sentence(problem: &Value, name: &str) -> String {
    problem[name].as_str().unwrap_or_default().to_owned()
}

fn escaped(text: &str) -> String {
    let replaced = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    replaced.replace('"', "&quot;").replace('\'', "&#x27;").replace('/', "&#x2f;")
}
