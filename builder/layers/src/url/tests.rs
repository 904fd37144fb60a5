//! Downloads from a server that misbehaves in every way that servers do.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use imgbuild_progress::Silent;

use super::*;

/// What the server does with its n-th request.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// The whole file, ranges heeded.
    Serve,
    /// The whole file, ranges ignored.
    ServeAll,
    /// So many bytes, then the connection drops.
    Cut(usize),
    /// A status without a body.
    Status(u16),
    /// So many bytes, then nothing more, on a connection that stays.
    Stall(usize),
    /// As many bytes as the file has, but others.
    Alter,
    /// So many bytes of those, then the connection drops.
    CutAltered(usize),
}

struct Server {
    url: String,
    ranges: Arc<Mutex<Vec<Option<usize>>>>,
}

fn server(file: Vec<u8>, acts: Vec<Act>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/file", listener.local_addr().unwrap());
    let ranges = Arc::new(Mutex::new(Vec::new()));
    let (seen, count) = (ranges.clone(), AtomicUsize::new(0));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let act = acts[count.fetch_add(1, Ordering::SeqCst).min(acts.len() - 1)];
            answer(stream.unwrap(), &file, act, &seen);
        }
    });
    Server { url, ranges }
}

fn answer(mut stream: TcpStream, file: &[u8], act: Act, seen: &Mutex<Vec<Option<usize>>>) {
    let mut range = None;
    for line in BufReader::new(stream.try_clone().unwrap()).lines() {
        let line = line.unwrap().to_ascii_lowercase();
        if let Some(from) = line.strip_prefix("range: bytes=") {
            range = from.trim_end_matches('-').parse().ok();
        }
        if line.is_empty() {
            break;
        }
    }
    seen.lock().unwrap().push(range);
    let (from, body) = match (act, range) {
        (Act::Serve | Act::Cut(_) | Act::Stall(_), Some(from)) => (Some(from), file[from..].to_vec()),
        (Act::Alter | Act::CutAltered(_), _) => (None, file.iter().map(|b| b ^ 1).collect()),
        _ => (None, file.to_vec()),
    };
    let head = match (act, from) {
        (Act::Status(code), _) => format!("HTTP/1.1 {code} No\r\nContent-Length: 0\r\n"),
        (_, Some(from)) => format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {from}-{}/{}\r\nContent-Length: {}\r\n",
            file.len() - 1,
            file.len(),
            body.len()
        ),
        (_, None) => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n", body.len()),
    };
    let send = match act {
        Act::Status(_) => &body[..0],
        Act::Cut(bytes) | Act::CutAltered(bytes) | Act::Stall(bytes) => &body[..bytes.min(body.len())],
        _ => &body,
    };
    let _ = stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes());
    let _ = stream.write_all(send);
    if let Act::Stall(_) = act {
        // The client closes it; without a limit of its own it waits as long as this does.
        let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
        let _ = stream.read(&mut [0]);
    }
}

fn file() -> Vec<u8> {
    (0..700_000u32).flat_map(|i| i.to_le_bytes()).collect()
}

fn sum(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn fetch(acts: &[Act]) -> (Result<Vec<u8>, UrlError>, Vec<Option<usize>>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path()).unwrap();
    let server = server(file(), acts.to_vec());
    let got = Downloader::new(&cache, false, None).unwrap().fetch(&server.url, &sum(&file()), "layer x", &Silent);
    let ranges = server.ranges.lock().unwrap().clone();
    (got.map(|path| std::fs::read(path).unwrap()), ranges, dir)
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_was() {
    let (got, ranges, _dir) = fetch(&[Act::Cut(1_000_000), Act::Status(503), Act::Cut(500_000), Act::Serve]);
    assert_eq!(got.unwrap(), file());
    assert_eq!(ranges[0], None);
    let [Some(first), Some(second)] = [ranges[2], ranges[3]] else { panic!("no ranges: {ranges:?}") };
    assert!(first > 0 && second > first, "{ranges:?}");
}

#[test]
fn a_download_that_stalls_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path()).unwrap();
    let server = server(file(), vec![Act::Stall(1_000_000), Act::Serve]);
    let begun = std::time::Instant::now();
    let downloader = Downloader::with_silence(&cache, false, None, Duration::from_millis(300)).unwrap();
    let got = downloader.fetch(&server.url, &sum(&file()), "layer x", &Silent);
    assert_eq!(std::fs::read(got.unwrap()).unwrap(), file());
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert_eq!(*server.ranges.lock().unwrap(), [None, Some(1_000_000)]);
}

#[test]
fn a_server_that_ignores_ranges_is_read_from_the_start() {
    let (got, ranges, _dir) = fetch(&[Act::Cut(1_000_000), Act::ServeAll]);
    assert_eq!(got.unwrap(), file());
    assert_eq!(ranges.len(), 2);
}

#[test]
fn altered_bytes_are_refused_and_not_kept() {
    let (got, _, dir) = fetch(&[Act::Alter]);
    let error = got.unwrap_err();
    assert!(matches!(&error, UrlError::Hash { expected, .. } if *expected == sum(&file())), "{error}");
    let cache = Cache::open(dir.path()).unwrap();
    assert!(cache.bucket("urls-v1").get(&sum(&file())).unwrap().is_none());
    // And the next try is not poisoned by them.
    let server = server(file(), vec![Act::Serve]);
    let got = Downloader::new(&cache, false, None).unwrap().fetch(&server.url, &sum(&file()), "layer x", &Silent);
    assert_eq!(std::fs::read(got.unwrap()).unwrap(), file());
}

#[test]
fn a_wrong_file_is_fetched_once_a_patched_up_one_is_fetched_again() {
    let (got, ranges, _dir) = fetch(&[Act::Alter]);
    assert!(matches!(got.unwrap_err(), UrlError::Hash { .. }));
    assert_eq!(ranges.len(), 1);
    // The first half is of another file than the second.
    let (got, ranges, _dir) = fetch(&[Act::CutAltered(1_000_000), Act::Serve]);
    assert_eq!(got.unwrap(), file());
    assert_eq!(ranges.len(), 3, "{ranges:?}");
}

#[test]
fn a_404_is_final() {
    let (got, ranges, _dir) = fetch(&[Act::Status(404)]);
    let error = got.unwrap_err().to_string();
    assert!(error.ends_with("/file: the server answers 404 Not Found"), "{error}");
    assert_eq!(ranges.len(), 1);
}

#[test]
fn offline_takes_what_is_there_and_names_what_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path()).unwrap();
    let server = server(file(), vec![Act::Serve]);
    let fetch =
        |offline| Downloader::new(&cache, offline, None).unwrap().fetch(&server.url, &sum(&file()), "layer x", &Silent);
    let error = fetch(true).unwrap_err().to_string();
    assert!(error.contains("--offline") && error.contains(&sum(&file())), "{error}");
    fetch(false).unwrap();
    fetch(true).unwrap();
    assert_eq!(server.ranges.lock().unwrap().len(), 1);
}

#[test]
fn certificates_that_are_none() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path()).unwrap();
    let file = dir.path().join("ca.pem");
    std::fs::write(&file, "hello").unwrap();
    let error = Downloader::new(&cache, false, Some(&file)).unwrap_err().to_string();
    assert!(error.contains("ca.pem") && error.contains("no certificate"), "{error}");
}
