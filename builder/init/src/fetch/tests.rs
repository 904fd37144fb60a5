//! Against a server that misbehaves as told.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::*;
use sha2::{Digest, Sha256};

mod several;

const QUICK: Patience = Patience {
    first: Duration::from_millis(1),
    longest: Duration::from_millis(4),
    rounds: 3,
    speed_window: Duration::from_millis(300),
};

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
    let (found, places) = get_into(urls, body, size, u64::MAX)?;
    assert_eq!(places, 1);
    Ok(found)
}

/// On a machine that has memory for so much; with the number of places that were made.
fn get_into(urls: &[String], body: &[u8], size: Option<u64>, most: u64) -> Result<(Vec<u8>, u32), Error> {
    get_by(1, urls, body, size, most)
}

/// The same by so many requests at once.
fn get_by(
    connections: u32,
    urls: &[String],
    body: &[u8],
    size: Option<u64>,
    most: u64,
) -> Result<(Vec<u8>, u32), Error> {
    let sha256 = hashing::hex(&Sha256::digest(body));
    let wanted = Wanted { urls, sha256: &sha256, size, least_speed: 200_000, connections };
    let names = Names::new(vec![], vec![]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("root");
    let mut places = 0;
    let mut place = |size| {
        if size > most {
            return Err(Error::Memory { size, available: most, total: most });
        }
        places += 1;
        let _ = std::fs::remove_file(&path);
        File::create_new(&path).map_err(|e| Error::Place(e.to_string()))
    };
    fetch(&wanted, names, QUICK, &mut place)?;
    Ok((std::fs::read(path).unwrap(), places))
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
fn where_only_servers_know_the_length_one_does_not_bind_the_others() {
    let body = data();
    let stale = vec![7; 999_999];
    let whole_of = |body: &[u8]| server(vec![whole(body)]).0;
    let both = [whole_of(&stale), whole_of(&body)];
    assert!(get_into(&both, &body, None, u64::MAX).unwrap() == (body.clone(), 2));
    // The other one broke off, and there is something of it; the good one is asked for the rest, and then for all.
    let (broken, _) = server(vec![cut(&stale, 5_000)]);
    let (good, ranges) = server(vec![whole(&body), whole(&body)]);
    assert!(get_into(&[broken, good], &body, None, u64::MAX).unwrap() == (body.clone(), 2));
    assert_eq!(ranges.iter().collect::<Vec<_>>(), [Some("bytes=5000-".to_owned()), None]);
    // What does not fit is one source's trouble.
    let huge = vec![0; 5_000_000];
    let both = [whole_of(&huge), whole_of(&body)];
    assert!(get_into(&both, &body, None, 4_000_000).unwrap() == (body.clone(), 1));
    let error = get_into(&[whole_of(&huge)], &body, None, 4_000_000).unwrap_err();
    assert!(error.to_string().contains("/root.squashfs: not enough memory: needs 69 MiB"), "{error}");
    assert!(error.what_to_check().contains("budget"), "{}", error.what_to_check());
    // Where the build has said it, it is not negotiable.
    let error = get(&[whole_of(&stale)], &body, Some(body.len() as u64)).unwrap_err();
    assert!(error.to_string().ends_with("the file there has 999999 bytes, expected 3333333"), "{error}");
}

#[test]
fn a_passing_trouble_is_waited_out() {
    let body = data();
    let busy = || raw("503 Service Unavailable\r\nContent-Length: 0", vec![]);
    let (url, _) = server(vec![busy(), busy(), whole(&body)]);
    assert!(get(&[url], &body, None).unwrap() == body);
}

/// So many bytes every tenth of a second, until the client is gone.
fn drip(body: &[u8], bytes: usize) -> Answer {
    let body = body.to_vec();
    Box::new(move |stream, _| {
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        for part in body.chunks(bytes) {
            if stream.write_all(part).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
    })
}

#[test]
fn a_slow_source_is_left_for_the_next_one_which_goes_on_where_it_stopped() {
    let body = data();
    let (slow, _) = server(vec![drip(&body, 1000)]);
    let (good, ranges) = server(vec![Box::new({
        let body = body.clone();
        move |stream, range| {
            let from = range.unwrap().trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap();
            rest(&body, from)(stream, None);
        }
    })]);
    let started = Instant::now();
    assert!(get(&[slow, good], &body, Some(body.len() as u64)).unwrap() == body);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(ranges.recv().unwrap().is_some());
}

#[test]
fn the_only_source_may_be_slow() {
    let body = &data()[..60_000];
    let (slow, _) = server(vec![drip(body, 5_000)]);
    let (gone, _) = server(vec![raw("404 Not Found\r\nContent-Length: 0", vec![])]);
    assert!(get(&[gone, slow], body, Some(body.len() as u64)).unwrap() == body);
}

#[test]
fn a_document_has_a_bound() {
    let get = |answers: Vec<Answer>, most| {
        let (url, _) = server(answers);
        document(&[url], Names::new(vec![], vec![]), QUICK, most)
            .map(|(_, document)| document)
            .map_err(|e| e[0].1.to_string())
    };
    assert_eq!(get(vec![whole(b"{}")], 2).unwrap(), b"{}");
    assert_eq!(get(vec![whole(b"{ }")], 2).unwrap_err(), "more than the 2 bytes that it may have");
    let busy = || raw("429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0", vec![]);
    let started = Instant::now();
    assert_eq!(get(vec![busy(), cut(b"{ }", 1), whole(b"{ }")], 9).unwrap(), b"{ }");
    assert!(started.elapsed() >= Duration::from_secs(1), "Retry-After");
    let gone = || raw("404 Not Found\r\nContent-Length: 0", vec![]);
    assert_eq!(get(vec![gone()], 9).unwrap_err(), "HTTP status 404 Not Found");
}

#[test]
fn a_report_is_posted() {
    let (url, _) =
        server(vec![raw("204 No Content", vec![]), raw("500 Internal Server Error\r\nContent-Length: 0", vec![])]);
    let client = Client::new(Names::new(vec![], vec![]));
    assert!(client.post(&url, b"{}").is_ok());
    assert!(client.post(&url, b"{}").unwrap_err().to_string().starts_with("HTTP status 500"));
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
