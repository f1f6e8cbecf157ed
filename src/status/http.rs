//! A small HTTP/1.1 server for the status: GET and HEAD, one request per connection, limits on everything. The status
//! thread's loop drives it; it never blocks.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use crate::limits;

/// Limit of open connections. A new connection replaces the oldest: slow clients do not block others.
const MAX_CONNECTIONS: usize = 32;

/// Limit of a request with its header fields, in bytes.
const MAX_REQUEST: usize = 4096;

/// Limit of header fields in a request.
const MAX_FIELDS: usize = 32;

/// Timeout for receiving a whole request, and for sending a whole response.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Limit of connections accepted in one step, so that a flood of them does not delay the rest of the loop.
const ACCEPT_BATCH: usize = 16;

/// Pause before the next accept while no file descriptors are left: the listener stays readable meanwhile.
const ACCEPT_RETRY: Duration = Duration::from_secs(1);

/// An HTTP response.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code: 200, 404 …
    pub status: u16,
    /// Media type of the body.
    pub content: &'static str,
    /// The body.
    pub body: Arc<[u8]>,
}

impl Response {
    /// A response in plain text.
    pub fn text(status: u16, text: impl Into<String>) -> Self {
        Self { status, content: TEXT, body: text.into().into_bytes().into() }
    }
}

/// Media type of plain text.
pub const TEXT: &str = "text/plain; charset=utf-8";

/// Content security policy: a browser may only show the page, and fetch it again.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The HTTP server.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    connections: Vec<Connection>,
    /// When to accept again.
    accept_at: Option<Instant>,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    /// The response: head and body.
    response: Option<(Vec<u8>, Arc<[u8]>)>,
    sent: usize,
    deadline: Instant,
}

/// A parsed request.
#[derive(Debug, PartialEq, Eq)]
enum HttpRequest {
    /// It is not complete yet.
    Partial,
    /// It is invalid: the status code and the error.
    Invalid(u16, &'static str),
    Valid {
        path: String,
        head: bool,
    },
}

impl HttpServer {
    /// Listens on an address.
    ///
    /// # Errors
    /// The address is not assigned to this node, or is in use.
    pub fn listen(at: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(at)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, connections: vec![], accept_at: None })
    }

    /// The file descriptors to poll.
    pub fn fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        let connections = self.connections.iter().map(|connection| {
            let flags = if connection.response.is_some() { PollFlags::OUT } else { PollFlags::IN };
            PollFd::new(&connection.stream, flags)
        });
        let listener = self.accept_at.is_none().then(|| PollFd::new(&self.listener, PollFlags::IN));
        listener.into_iter().chain(connections)
    }

    /// The earliest timeout of a connection, or the next accept.
    pub fn deadline(&self) -> Option<Instant> {
        self.connections.iter().map(|connection| connection.deadline).chain(self.accept_at).min()
    }

    /// Accepts connections and advances all of them. `respond` makes the response for a path.
    pub fn step(&mut self, now: Instant, mut respond: impl FnMut(&str) -> Response) {
        self.accept_at = self.accept_at.filter(|at| *at > now);
        for _ in 0..ACCEPT_BATCH {
            if self.accept_at.is_some() {
                break;
            }
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) if limits::is_own_shortage(&e) => {
                    self.accept_at = Some(now + ACCEPT_RETRY);
                    break;
                }
                Err(_) => break,
            };
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            if self.connections.len() == MAX_CONNECTIONS {
                self.connections.remove(0);
            }
            self.connections.push(Connection {
                stream,
                request: vec![],
                response: None,
                sent: 0,
                deadline: now + REQUEST_TIMEOUT,
            });
        }
        self.connections
            .retain_mut(|connection| connection.deadline > now && connection.advance(now, &mut respond));
    }
}

impl Connection {
    /// Reads the request and sends the response, as far as possible without blocking. Returns whether the connection
    /// stays.
    fn advance(&mut self, now: Instant, respond: &mut impl FnMut(&str) -> Response) -> bool {
        if self.response.is_none() {
            let mut chunk = [0; 1024];
            loop {
                match self.stream.read(&mut chunk) {
                    Ok(0) => return false,
                    Ok(n) => self.request.extend_from_slice(&chunk[..n]),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    Err(_) => return false,
                }
                if self.request.len() > MAX_REQUEST {
                    break;
                }
            }
            let (response, head) = match parse(&self.request) {
                HttpRequest::Partial => return true,
                HttpRequest::Invalid(status, error) => (Response::text(status, format!("{error}\n")), false),
                HttpRequest::Valid { path, head } => (respond(&path), head),
            };
            self.request = vec![];
            self.deadline = now + RESPONSE_TIMEOUT;
            let body = if head { Arc::from([]) } else { response.body.clone() };
            self.response = Some((header(&response).into_bytes(), body));
        }
        self.send()
    }

    fn send(&mut self) -> bool {
        let Some((head, body)) = &self.response else { return true };
        loop {
            let rest = match self.sent.checked_sub(head.len()) {
                None => &head[self.sent..],
                Some(sent) => &body[sent..],
            };
            if rest.is_empty() {
                // Unread data of the client would reset the connection, and the client would discard the response.
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

fn parse(bytes: &[u8]) -> HttpRequest {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) if bytes.len() <= MAX_REQUEST => return HttpRequest::Partial,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return HttpRequest::Invalid(431, "the request is too large");
        }
        Err(_) => return HttpRequest::Invalid(400, "not a valid HTTP request"),
    }
    let path = request.path.unwrap_or_default();
    let path = path.split(['?', '#']).next().unwrap_or_default().to_owned();
    match request.method {
        Some("GET") => HttpRequest::Valid { path, head: false },
        Some("HEAD") => HttpRequest::Valid { path, head: true },
        _ => HttpRequest::Invalid(405, "only GET and HEAD are allowed"),
    }
}

fn header(response: &Response) -> String {
    let Response { status, content, body } = response;
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
mod tests;
