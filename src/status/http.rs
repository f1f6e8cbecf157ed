//! A small HTTP/1.1 server for who looks at us: GET and HEAD, one request for a connection, bounds on everything. It is given its
//! turns by its thread's loop and never waits.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use crate::limits;

/// Connections at a time. A new one takes the place of the oldest: who is slow must not keep others out.
const CONNECTIONS: usize = 32;

/// Bytes of a request with all its header fields.
const REQUEST: usize = 4096;

/// Header fields of a request.
const FIELDS: usize = 32;

/// For a whole request to come in, and for the whole answer to go out.
const REQUEST_TIME: Duration = Duration::from_secs(3);
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// Accepted in one turn, so that a flood leaves the rest of the loop its share.
const AT_ONCE: usize = 16;

/// Between two attempts to accept where no more files can be had: the listener stays readable meanwhile.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

/// What is answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// 200, 404 …
    pub status: u16,
    /// The body's media type.
    pub content: &'static str,
    /// The body.
    pub body: Arc<[u8]>,
}

impl Answer {
    /// A few words.
    pub fn text(status: u16, text: impl Into<String>) -> Self {
        Self { status, content: TEXT, body: text.into().into_bytes().into() }
    }
}

/// Plain text.
pub const TEXT: &str = "text/plain; charset=utf-8";

/// What a browser may do with what it gets from us: show it.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The server.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    connections: Vec<Connection>,
    /// When to accept again.
    accept_at: Option<Instant>,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    /// What is left to send: the head, then the body.
    answer: Option<(Vec<u8>, Arc<[u8]>)>,
    sent: usize,
    until: Instant,
}

/// What has come so far.
#[derive(Debug, PartialEq, Eq)]
enum Request {
    Partial,
    Wrong(u16, &'static str),
    For { path: String, head: bool },
}

impl Server {
    /// Listens there.
    ///
    /// # Errors
    /// The address is not ours, or taken.
    pub fn listen(at: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(at)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, connections: vec![], accept_at: None })
    }

    /// What to poll.
    pub fn fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        let connections = self.connections.iter().map(|connection| {
            let flags = if connection.answer.is_some() { PollFlags::OUT } else { PollFlags::IN };
            PollFd::new(&connection.stream, flags)
        });
        let listener = self.accept_at.is_none().then(|| PollFd::new(&self.listener, PollFlags::IN));
        listener.into_iter().chain(connections)
    }

    /// When a connection's time is over.
    pub fn deadline(&self) -> Option<Instant> {
        self.connections.iter().map(|connection| connection.until).chain(self.accept_at).min()
    }

    /// Goes on with every connection; `face` has the answer for a path.
    pub fn step(&mut self, now: Instant, mut face: impl FnMut(&str) -> Answer) {
        self.accept_at = self.accept_at.filter(|at| *at > now);
        for _ in 0..AT_ONCE {
            if self.accept_at.is_some() {
                break;
            }
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) if limits::is_ours(&e) => {
                    self.accept_at = Some(now + ACCEPT_AGAIN);
                    break;
                }
                Err(_) => break,
            };
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            if self.connections.len() == CONNECTIONS {
                self.connections.remove(0);
            }
            self.connections.push(Connection {
                stream,
                request: vec![],
                answer: None,
                sent: 0,
                until: now + REQUEST_TIME,
            });
        }
        self.connections.retain_mut(|connection| connection.until > now && connection.go_on(now, &mut face));
    }
}

impl Connection {
    /// Whether there is more to do.
    fn go_on(&mut self, now: Instant, face: &mut impl FnMut(&str) -> Answer) -> bool {
        if self.answer.is_none() {
            let mut chunk = [0; 1024];
            loop {
                match self.stream.read(&mut chunk) {
                    Ok(0) => return false,
                    Ok(n) => self.request.extend_from_slice(&chunk[..n]),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    Err(_) => return false,
                }
                if self.request.len() > REQUEST {
                    break;
                }
            }
            let (answer, head) = match parse(&self.request) {
                Request::Partial => return true,
                Request::Wrong(status, words) => (Answer::text(status, format!("{words}\n")), false),
                Request::For { path, head } => (face(&path), head),
            };
            self.request = vec![];
            self.until = now + ANSWER_TIME;
            let body = if head { Arc::from([]) } else { answer.body.clone() };
            self.answer = Some((header(&answer).into_bytes(), body));
        }
        self.send()
    }

    fn send(&mut self) -> bool {
        let Some((head, body)) = &self.answer else { return true };
        loop {
            let rest = match self.sent.checked_sub(head.len()) {
                None => &head[self.sent..],
                Some(sent) => &body[sent..],
            };
            if rest.is_empty() {
                // What the client still has to say is read away, or its end would throw our answer away.
                let _ = self.stream.shutdown(std::net::Shutdown::Write);
                let mut chunk = [0; 1024];
                let _ = self.stream.read(&mut chunk);
                return false;
            }
            match self.stream.write(rest) {
                Ok(0) => return false,
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }
}

fn parse(bytes: &[u8]) -> Request {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) if bytes.len() <= REQUEST => return Request::Partial,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Request::Wrong(431, "the request is too large");
        }
        Err(_) => return Request::Wrong(400, "this is no HTTP request"),
    }
    let path = request.path.unwrap_or_default();
    let path = path.split(['?', '#']).next().unwrap_or_default().to_owned();
    match request.method {
        Some("GET") => Request::For { path, head: false },
        Some("HEAD") => Request::For { path, head: true },
        _ => Request::Wrong(405, "only GET and HEAD"),
    }
}

fn header(answer: &Answer) -> String {
    let Answer { status, content, body } = answer;
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "Error",
    };
    let allow = if *status == 405 { "Allow: GET, HEAD\r\n" } else { "" };
    format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: {content}\r\nContent-Length: {}\r\nConnection: close\r\n\
         Cache-Control: no-store\r\nContent-Security-Policy: {POLICY}\r\nX-Content-Type-Options: nosniff\r\n\
         Referrer-Policy: no-referrer\r\n{allow}\r\n",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        let get = |path: &str| Request::For { path: path.into(), head: false };
        assert_eq!(parse(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"), get("/"));
        assert_eq!(parse(b"GET /metrics?a=b HTTP/1.0\r\n\r\n"), get("/metrics"));
        assert_eq!(parse(b"HEAD /x HTTP/1.1\r\n\r\n"), Request::For { path: "/x".into(), head: true });
        for partial in ["", "G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nA: b\r\n"] {
            assert_eq!(parse(partial.as_bytes()), Request::Partial, "{partial:?}");
        }
        let status = |bytes: &[u8]| match parse(bytes) {
            Request::Wrong(status, _) => status,
            other => panic!("{other:?}"),
        };
        for method in ["POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "BREW"] {
            assert_eq!(status(format!("{method} / HTTP/1.1\r\n\r\n").as_bytes()), 405, "{method}");
        }
        for bad in [
            &b"\x16\x03\x01\x02\x00"[..],
            b"GET\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET / HTTP/1.1\r\n: x\r\n\r\n",
        ] {
            assert_eq!(status(bad), 400, "{bad:?}");
        }
        let fields = "A: b\r\n".repeat(FIELDS + 1);
        assert_eq!(status(format!("GET / HTTP/1.1\r\n{fields}\r\n").as_bytes()), 431);
        assert_eq!(status(format!("GET /{} HTTP/1.1\r\n", "x".repeat(REQUEST)).as_bytes()), 431);
    }

    /// Turns the server until the clients are done.
    fn serve(clients: Vec<(Vec<u8>, bool)>) -> Vec<String> {
        let mut server = Server::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let at = server.listener.local_addr().unwrap();
        let clients: Vec<_> = clients
            .into_iter()
            .map(|(bytes, wait)| {
                std::thread::spawn(move || {
                    let mut stream = TcpStream::connect(at).unwrap();
                    let _ = stream.write_all(&bytes);
                    let mut answer = String::new();
                    if wait {
                        let _ = stream.read_to_string(&mut answer);
                    }
                    answer
                })
            })
            .collect();
        let begin = Instant::now();
        while clients.iter().any(|client| !client.is_finished()) {
            server.step(Instant::now(), |path| Answer::text(200, format!("you asked for {path}")));
            assert!(server.connections.len() <= CONNECTIONS);
            assert!(begin.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(1));
        }
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    }

    #[test]
    fn who_is_slow_keeps_no_one_out() {
        let slow = (b"GET / HTTP/1.1\r\nA: ".to_vec(), true);
        let mut clients = vec![slow; 3 * CONNECTIONS];
        clients.push((b"GET /metrics HTTP/1.1\r\n\r\n".to_vec(), true));
        clients.push((b"HEAD / HTTP/1.1\r\n\r\n".to_vec(), true));
        clients.push((vec![b'x'; 100_000], true));
        let answers = serve(clients);
        let [.., get, head, junk] = &answers[..] else { panic!() };
        assert!(
            get.starts_with("HTTP/1.1 200 OK\r\n") && get.ends_with("\r\n\r\nyou asked for /metrics"),
            "{get}"
        );
        assert!(head.contains("Content-Length: 15\r\n") && head.ends_with("\r\n\r\n"), "{head}");
        assert!(junk.is_empty() || junk.starts_with("HTTP/1.1 4"), "{junk}");
    }
}
