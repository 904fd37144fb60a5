//! Against a server that misbehaves as told.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};

use super::*;
use sha2::{Digest, Sha256};

const QUICK: Patience = Patience { first: Duration::from_millis(1), longest: Duration::from_millis(4), rounds: 3 };

/// Writes an answer, given the request's range.
type Answer = Box<dyn FnOnce(&mut TcpStream, Option<String>) + Send>;

/// Answers one request after the other, each as the next function says, given the `Range` header; sends back what was
/// asked for.
fn server(answers: Vec<Answer>) -> (String, Receiver<Option<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/root.squashfs", listener.local_addr().unwrap());
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut range = None;
            for line in BufReader::new(stream.try_clone().unwrap()).lines() {
                let line = line.unwrap();
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("range:") {
                    range = Some(value.trim().to_owned());
                }
                if line.is_empty() {
                    break;
                }
            }
            // Not every test looks.
            let _ = sender.send(range.clone());
            answer(&mut stream, range);
        }
    });
    (url, receiver)
}

fn raw(head: impl Into<String>, body: Vec<u8>) -> Answer {
    let head = head.into();
    Box::new(move |stream, _| {
        let _ = stream.write_all(format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").as_bytes());
        let _ = stream.write_all(&body);
    })
}

fn whole(body: &[u8]) -> Answer {
    raw(format!("200 OK\r\nContent-Length: {}", body.len()), body.to_vec())
}

fn cut(body: &[u8], after: usize) -> Answer {
    raw(format!("200 OK\r\nContent-Length: {}", body.len()), body[..after].to_vec())
}

fn rest(body: &[u8], from: usize) -> Answer {
    let (last, all) = (body.len() - 1, body.len());
    let head =
        format!("206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{last}/{all}", all - from);
    raw(head, body[from..].to_vec())
}

fn data() -> Vec<u8> {
    (0..1_000_000_u32).flat_map(|n| n.to_le_bytes()).take(3_333_333).collect()
}

fn get(urls: &[String], body: &[u8], size: Option<u64>) -> Result<Vec<u8>, Error> {
    let sha256 = hashing::hex(&Sha256::digest(body));
    let wanted = Wanted { urls, sha256: &sha256, size };
    let names = Names::new(vec![], vec![]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("root");
    let mut places = 0;
    let mut place = |_size| {
        places += 1;
        File::create_new(&path).map_err(|e| Error::Place(e.to_string()))
    };
    fetch(&wanted, names, QUICK, &mut place)?;
    assert_eq!(places, 1);
    Ok(std::fs::read(path).unwrap())
}

#[test]
fn a_file_arrives_whole_whether_its_size_is_known_or_not() {
    let body = data();
    for size in [Some(body.len() as u64), None] {
        let (url, _) = server(vec![whole(&body)]);
        assert!(get(&[url], &body, size).unwrap() == body);
    }
}

#[test]
fn a_cut_connection_is_resumed_where_it_broke() {
    let body = data();
    let (url, ranges) = server(vec![cut(&body, 1_000_001), cut(&body, 0), rest(&body, 1_000_001)]);
    // The second answer ignores the range and breaks at once, so that the third starts at the beginning: what is there
    // was thrown away.
    let error = get(&[url], &body, Some(body.len() as u64));
    assert_eq!(ranges.recv().unwrap(), None);
    assert_eq!(ranges.recv().unwrap().as_deref(), Some("bytes=1000001-"));
    assert_eq!(ranges.recv().unwrap(), None);
    assert!(error.is_err());

    let (url, ranges) = server(vec![cut(&body, 1_000_001), rest(&body, 1_000_001)]);
    assert!(get(&[url], &body, Some(body.len() as u64)).unwrap() == body);
    assert_eq!(ranges.iter().take(2).last().unwrap().as_deref(), Some("bytes=1000001-"));
}

#[test]
fn a_server_that_cannot_resume_sends_it_again() {
    let body = data();
    let (url, _) = server(vec![cut(&body, 500_000), whole(&body)]);
    assert!(get(&[url], &body, None).unwrap() == body);
}

#[test]
fn a_resumed_file_that_is_wrong_gets_one_attempt_in_one_piece() {
    let body = data();
    let mut other = body.clone();
    other[0] ^= 1;
    let (url, ranges) = server(vec![cut(&other, 1_000), rest(&body, 1_000), whole(&body)]);
    assert!(get(&[url], &body, Some(body.len() as u64)).unwrap() == body);
    assert_eq!(ranges.iter().take(3).last().unwrap(), None);
}

#[test]
fn the_next_source_takes_over() {
    let body = data();
    let mut other = body.clone();
    other[7] ^= 1;
    let (gone, _) = server(vec![raw("404 Not Found\r\nContent-Length: 0", vec![])]);
    let (altered, _) = server(vec![whole(&other)]);
    let (good, _) = server(vec![whole(&body)]);
    let closed = "http://127.0.0.1:9/root".to_owned();
    assert!(get(&[closed, gone, altered, good], &body, Some(body.len() as u64)).unwrap() == body);
}

#[test]
fn a_passing_trouble_is_waited_out() {
    let body = data();
    let busy = || raw("503 Service Unavailable\r\nContent-Length: 0", vec![]);
    let (url, _) = server(vec![busy(), busy(), whole(&body)]);
    assert!(get(&[url], &body, None).unwrap() == body);
}

#[test]
fn failures_name_url_and_kind() {
    let body = data();
    let size = Some(body.len() as u64);
    let error = |answers, size| {
        let (url, _) = server(answers);
        let error = get(std::slice::from_ref(&url), &body, size).unwrap_err().to_string();
        error.strip_prefix(&format!("{url}: ")).unwrap().to_owned()
    };
    assert_eq!(error(vec![raw("404 Not Found\r\nContent-Length: 0", vec![])], size), "HTTP status 404 Not Found");
    assert_eq!(error(vec![whole(b"short")], size), "the file there has 5 bytes, expected 3333333");
    let mut other = body.clone();
    other[9] ^= 1;
    let text = error(vec![whole(&other)], size);
    assert!(text.starts_with("SHA-256 is ") && text.contains(", expected "), "{text}");
    let chunked = raw("200 OK\r\nTransfer-Encoding: chunked", b"5\r\nabcde\r\n0\r\n\r\n".to_vec());
    assert_eq!(error(vec![chunked], None), "no Content-Length, and the size is not known otherwise");
    let text = error(vec![cut(&body, 0), cut(&body, 0), cut(&body, 0)], size);
    assert!(text.ends_with("(after 0 bytes of 3333333)"), "{text}");
}

#[test]
fn every_source_that_failed_is_named() {
    let (gone, _) = server(vec![raw("403 Forbidden\r\nContent-Length: 0", vec![])]);
    let closed = "http://127.0.0.1:9/root".to_owned();
    let nonsense = "http://".to_owned();
    let error = get(&[gone, closed, nonsense], b"x", Some(1)).unwrap_err();
    let text = error.to_string();
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(text.contains("Connection refused"), "{text}");
    assert_eq!(error.what_to_check().lines().count(), 3);
}
