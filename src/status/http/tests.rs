use super::*;

#[test]
fn requests_are_parsed() {
    let get = |path: &str| HttpRequest::Valid { path: path.into(), head: false };
    assert_eq!(parse(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"), get("/"));
    assert_eq!(parse(b"GET /metrics?a=b HTTP/1.0\r\n\r\n"), get("/metrics"));
    assert_eq!(parse(b"HEAD /x HTTP/1.1\r\n\r\n"), HttpRequest::Valid { path: "/x".into(), head: true });
    for partial in ["", "G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nA: b\r\n"] {
        assert_eq!(parse(partial.as_bytes()), HttpRequest::Partial, "{partial:?}");
    }
    let status = |bytes: &[u8]| match parse(bytes) {
        HttpRequest::Invalid(status, _) => status,
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
    let fields = "A: b\r\n".repeat(MAX_FIELDS + 1);
    assert_eq!(status(format!("GET / HTTP/1.1\r\n{fields}\r\n").as_bytes()), 431);
    assert_eq!(status(format!("GET /{} HTTP/1.1\r\n", "x".repeat(MAX_REQUEST)).as_bytes()), 431);
}

/// Runs the server until the clients are done: each sends bytes and, if set, waits for the response.
fn serve(clients: Vec<(Vec<u8>, bool)>) -> Vec<String> {
    let mut server = HttpServer::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let at = server.listener.local_addr().unwrap();
    let clients: Vec<_> = clients
        .into_iter()
        .map(|(bytes, wait)| {
            std::thread::spawn(move || {
                let mut stream = TcpStream::connect(at).unwrap();
                let _ = stream.write_all(&bytes);
                let mut response = String::new();
                if wait {
                    let _ = stream.read_to_string(&mut response);
                }
                response
            })
        })
        .collect();
    let begin = Instant::now();
    while clients.iter().any(|client| !client.is_finished()) {
        server.step(Instant::now(), |path| Response::text(200, format!("the path is {path}")));
        assert!(server.connections.len() <= MAX_CONNECTIONS);
        assert!(begin.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(1));
    }
    clients.into_iter().map(|client| client.join().unwrap()).collect()
}

#[test]
fn slow_clients_do_not_block_others() {
    let slow = (b"GET / HTTP/1.1\r\nA: ".to_vec(), true);
    let mut clients = vec![slow; 3 * MAX_CONNECTIONS];
    clients.push((b"GET /metrics HTTP/1.1\r\n\r\n".to_vec(), true));
    clients.push((b"HEAD / HTTP/1.1\r\n\r\n".to_vec(), true));
    clients.push((vec![b'x'; 100_000], true));
    let responses = serve(clients);
    let [.., get, head, junk] = &responses[..] else { panic!() };
    assert!(get.starts_with("HTTP/1.1 200 OK\r\n") && get.ends_with("\r\n\r\nthe path is /metrics"), "{get}");
    assert!(head.contains("Content-Length: 13\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(junk.is_empty() || junk.starts_with("HTTP/1.1 4"), "{junk}");
}
