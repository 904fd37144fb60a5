//! The server, asked by a client over a real socket.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use imgbuild_serve::{Access, Cut, Error, Server, Tree};

const BODY: &[u8] = b"0123456789abcdefghij";

fn site() -> (tempfile::TempDir, Server) {
    let temp = tempfile::tempdir().unwrap();
    fs_err::create_dir_all(temp.path().join("images/w/1")).unwrap();
    fs_err::write(temp.path().join("images/w/1/root.squashfs"), BODY).unwrap();
    fs_err::write(temp.path().join("boot.ipxe"), "#!ipxe\n").unwrap();
    fs_err::write(temp.path().join("empty"), "").unwrap();
    let server = Server::bind("127.0.0.1:0", Tree::folder(temp.path()).unwrap()).unwrap();
    (temp, server)
}

struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// Speaks HTTP by hand: a client library would tidy the path and hide what is on the wire.
fn ask(server: &Server, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n");
    for (key, value) in headers {
        request.push_str(&format!("{key}: {value}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    let end = all.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(all[..end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines.map(|line| line.split_once(": ").unwrap()).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    Answer { status, headers, body: all[end + 4..].to_vec() }
}

#[test]
fn a_file_is_served_whole_with_length_and_validators() {
    let (_temp, server) = site();
    let answer = ask(&server, "GET", "/images/w/1/root.squashfs", &[]);
    assert_eq!((answer.status, answer.body.as_slice()), (200, BODY));
    assert_eq!(answer.header("content-length"), Some("20"));
    assert_eq!(answer.header("accept-ranges"), Some("bytes"));
    assert!(answer.header("last-modified").is_some());
    let etag = answer.header("etag").unwrap();
    let again = ask(&server, "GET", "/images/w/1/root.squashfs", &[("If-None-Match", etag)]);
    assert_eq!((again.status, again.body.len()), (304, 0));
    let dotted = ask(&server, "GET", "/images/w/1/boot.ipxe/../root.squashfs?x=1", &[]);
    assert_eq!((dotted.status, dotted.body.as_slice()), (200, BODY));
    assert_eq!(ask(&server, "GET", "/empty", &[]).header("content-length"), Some("0"));
    assert_eq!(ask(&server, "GET", "/boot.ipxe", &[]).header("content-type"), Some("text/plain; charset=utf-8"));
}

#[test]
fn head_has_the_length_and_no_body() {
    let (_temp, server) = site();
    let answer = ask(&server, "HEAD", "/images/w/1/root.squashfs", &[]);
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert_eq!(answer.header("content-length"), Some("20"));
}

#[test]
fn ranges_resume_a_download() {
    let (_temp, server) = site();
    let path = "/images/w/1/root.squashfs";
    let rest = ask(&server, "GET", path, &[("Range", "bytes=15-")]);
    assert_eq!((rest.status, rest.body.as_slice()), (206, &BODY[15..]));
    assert_eq!(rest.header("content-range"), Some("bytes 15-19/20"));
    assert_eq!(rest.header("content-length"), Some("5"));
    assert_eq!(ask(&server, "GET", path, &[("Range", "bytes=2-4")]).body, &BODY[2..5]);
    assert_eq!(ask(&server, "GET", path, &[("Range", "bytes=-3")]).body, &BODY[17..]);
    let past = ask(&server, "GET", path, &[("Range", "bytes=20-")]);
    assert_eq!((past.status, past.header("content-range")), (416, Some("bytes */20")));
    // Several ranges in one answer are not offered; the whole file is a right answer to any range request.
    let several = ask(&server, "GET", path, &[("Range", "bytes=0-1,4-5")]);
    assert_eq!((several.status, several.body.as_slice()), (200, BODY));
}

#[test]
fn a_range_of_a_changed_file_is_answered_with_the_whole_new_one() {
    let (temp, server) = site();
    let path = "/images/w/1/root.squashfs";
    let etag = ask(&server, "HEAD", path, &[]).header("etag").unwrap().to_owned();
    let same = ask(&server, "GET", path, &[("Range", "bytes=10-"), ("If-Range", &etag)]);
    assert_eq!((same.status, same.body.as_slice()), (206, &BODY[10..]));
    fs_err::write(temp.path().join("images/w/1/root.squashfs"), "another, longer than that one").unwrap();
    let changed = ask(&server, "GET", path, &[("Range", "bytes=10-"), ("If-Range", &etag)]);
    assert_eq!((changed.status, changed.body.as_slice()), (200, b"another, longer than that one".as_slice()));
}

#[test]
fn what_is_not_there_or_not_inside_is_refused() {
    let (temp, server) = site();
    fs_err::os::unix::fs::symlink("/etc/passwd", temp.path().join("out")).unwrap();
    for (path, status) in
        [("/none", 404), ("/", 404), ("/images", 404), ("/out", 404), ("/../etc/passwd", 400), ("/%2e%2e/x", 400)]
    {
        let answer = ask(&server, "GET", path, &[]);
        assert_eq!(answer.status, status, "{path}");
        assert!(!answer.body.starts_with(b"root:"), "{path}");
    }
    let put = ask(&server, "PUT", "/boot.ipxe", &[("Content-Length", "0")]);
    assert_eq!((put.status, put.header("allow")), (405, Some("GET, HEAD")));
}

#[test]
fn requests_are_logged_with_what_was_sent() {
    let (temp, _) = site();
    let big = vec![7_u8; 64 << 20];
    fs_err::write(temp.path().join("big"), &big).unwrap();
    let (send, receive) = mpsc::channel::<Access>();
    let send = Mutex::new(send);
    let log = move |access: &Access| send.lock().unwrap().send(access.clone()).unwrap();
    let server = Server::bind_logged("127.0.0.1:0", Tree::folder(temp.path()).unwrap(), log).unwrap();
    ask(&server, "GET", "/boot.ipxe", &[]);
    let whole = receive.recv_timeout(Duration::from_secs(5)).unwrap();
    assert_eq!((whole.status, whole.length, whole.sent), (200, 7, 7));
    assert_eq!((whole.method.as_str(), whole.path.as_str()), ("GET", "/boot.ipxe"));
    // A client that leaves in the middle is seen as such.
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.write_all(b"GET /big HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
    stream.read_exact(&mut [0; 1000]).unwrap();
    drop(stream);
    let cut = receive.recv_timeout(Duration::from_secs(5)).unwrap();
    assert_eq!((cut.status, cut.length), (200, 64 << 20));
    assert!(cut.sent < cut.length, "{cut:?}");
}

#[test]
fn many_clients_at_once_get_whole_files() {
    let (temp, server) = site();
    let data: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    fs_err::write(temp.path().join("data"), &data).unwrap();
    let data = Arc::new(data);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            let (server, data) = (&server, Arc::clone(&data));
            scope.spawn(move || assert!(ask(server, "GET", "/data", &[]).body == *data));
        }
    });
}

#[test]
fn stopping_lets_a_download_end_and_frees_the_port() {
    let (temp, server) = site();
    fs_err::write(temp.path().join("big"), vec![7_u8; 32 << 20]).unwrap();
    let address = server.address();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /big HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").unwrap();
    stream.read_exact(&mut [0; 1000]).unwrap();
    let reader = std::thread::spawn(move || {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        rest.len()
    });
    server.stop(Duration::from_secs(20));
    assert!(reader.join().unwrap() > (32 << 20) - 1000);
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn an_idle_client_does_not_hold_up_the_stop() {
    let (_temp, server) = site();
    let stream = TcpStream::connect(server.address()).unwrap();
    let began = std::time::Instant::now();
    server.stop(Duration::from_secs(20));
    assert!(began.elapsed() < Duration::from_secs(10));
    drop(stream);
}

#[test]
fn a_taken_port_and_a_bad_address_are_told_apart() {
    let (_temp, server) = site();
    let taken = Server::bind(&server.address().to_string(), Tree::empty());
    assert!(matches!(taken, Err(Error::Listen { address, .. }) if address == server.address()));
    assert!(matches!(Server::bind("nonsense", Tree::empty()), Err(Error::Address { .. })));
}

#[test]
fn a_download_that_is_to_be_cut_breaks_once_and_can_go_on() {
    let temp = tempfile::tempdir().unwrap();
    let data: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    fs_err::write(temp.path().join("data"), &data).unwrap();
    fs_err::write(temp.path().join("other"), &data).unwrap();
    let (send, receive) = mpsc::channel::<Access>();
    let send = Mutex::new(send);
    let log = move |access: &Access| send.lock().unwrap().send(access.clone()).unwrap();
    let tree = Tree::folder(temp.path()).unwrap();
    let server = Server::bind_cutting("127.0.0.1:0", tree, Cut::new("data", 1_234_567), log).unwrap();
    let got = |path: &str, headers: &[(&str, &str)]| {
        let answer = ask(&server, "GET", path, headers);
        let access = receive.recv_timeout(Duration::from_secs(5)).unwrap();
        (answer.status, answer.body, access.sent)
    };
    assert_eq!(got("/other", &[]), (200, data.clone(), 3_000_000));
    // A part is not what is to be cut.
    assert_eq!(got("/data", &[("Range", "bytes=2999999-")]), (206, data[2_999_999..].to_vec(), 1));
    assert_eq!(got("/x/../data", &[]), (200, data[..1_234_567].to_vec(), 1_234_567));
    assert_eq!(got("/data", &[("Range", "bytes=1234567-")]), (206, data[1_234_567..].to_vec(), 1_765_433));
    assert_eq!(got("/data", &[]), (200, data.clone(), 3_000_000));
}
