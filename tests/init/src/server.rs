//! A boot server on loopback, that QEMU's user network shows as 10.0.2.2.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

/// How it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// As it should.
    Good,
    /// 404.
    Missing,
    /// With one byte changed.
    Altered,
    /// The first connection breaks after a third; then as it should, ranges too.
    CutOnce,
    /// With half of the file, as if that were all.
    Truncated,
    /// 503 twice, then as it should.
    Busy,
    /// 10 KB a second.
    Slow,
}

/// A running server; it ends with the test program.
#[derive(Debug)]
pub struct Server {
    host: &'static str,
    port: u16,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Of the file, each one's `Range`.
    ranges: Vec<String>,
    /// By path.
    documents: BTreeMap<String, String>,
    /// Path and body.
    posts: Vec<(String, String)>,
}

impl Server {
    /// Starts one that serves a file whatever the path, but for its documents.
    ///
    /// # Errors
    ///
    /// Those of reading the file and listening.
    pub fn start(file: &Path, manner: Manner) -> Result<Self> {
        Self::listen(file, manner, TcpListener::bind("127.0.0.1:0")?, "10.0.2.2")
    }

    /// The same for IPv6 only.
    ///
    /// # Errors
    ///
    /// Those of reading the file and listening.
    pub fn start_v6(file: &Path, manner: Manner) -> Result<Self> {
        Self::listen(file, manner, TcpListener::bind("[::1]:0")?, "[fec0::2]")
    }

    fn listen(file: &Path, manner: Manner, listener: TcpListener, host: &'static str) -> Result<Self> {
        let body = Arc::new(fs::read(file)?);
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Mutex::new(Shared::default()));
        let seen = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let (body, seen) = (Arc::clone(&body), Arc::clone(&seen));
                thread::spawn(move || answer(stream, &body, manner, &seen));
            }
        });
        Ok(Self { host, port, shared })
    }

    /// Serves a text under this path.
    ///
    /// # Errors
    ///
    /// When a connection's thread panicked.
    pub fn document(&self, path: &str, text: &str) -> Result<()> {
        let mut shared = self.shared.lock().ok().context("the server has panicked")?;
        shared.documents.insert(path.to_owned(), text.to_owned());
        Ok(())
    }

    /// The file's URL as the guest sees it.
    #[must_use]
    pub fn url(&self) -> String {
        self.at("/images/tiny/7/root.squashfs")
    }

    /// Its port on loopback.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a path as the guest sees it.
    #[must_use]
    pub fn at(&self, path: &str) -> String {
        format!("http://{}:{}{path}", self.host, self.port)
    }

    /// What was posted so far: path and body.
    ///
    /// # Errors
    ///
    /// When a connection's thread panicked.
    pub fn posts(&self) -> Result<Vec<(String, String)>> {
        Ok(self.shared.lock().ok().context("the server has panicked")?.posts.clone())
    }

    /// The requests for the file so far: each one's `Range`, empty without.
    ///
    /// # Errors
    ///
    /// When a connection's thread panicked.
    pub fn ranges(&self) -> Result<Vec<String>> {
        Ok(self.shared.lock().ok().context("the server has panicked")?.ranges.clone())
    }
}

/// A client that goes away is its own affair.
fn answer(mut stream: TcpStream, body: &[u8], manner: Manner, shared: &Mutex<Shared>) -> Option<()> {
    let (mut range, mut length, mut request) = (String::new(), 0, String::new());
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    for line in (&mut reader).lines() {
        let line = line.ok()?;
        if request.is_empty() {
            request.clone_from(&line);
        }
        let line = line.to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("range:") {
            value.trim().clone_into(&mut range);
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line.is_empty() {
            break;
        }
    }
    let path = request.split(' ').nth(1)?;
    if request.starts_with("POST ") {
        let mut posted = vec![0; length];
        reader.read_exact(&mut posted).ok()?;
        shared.lock().ok()?.posts.push((path.to_owned(), String::from_utf8_lossy(&posted).into_owned()));
        return status(&mut stream, "200 OK");
    }
    let document = shared.lock().ok()?.documents.get(path).cloned();
    if let Some(text) = document {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", text.len());
        return stream.write_all(format!("{head}{text}").as_bytes()).ok();
    }
    if !path.ends_with(".squashfs") {
        return status(&mut stream, "404 Not Found");
    }
    let number = {
        let ranges = &mut shared.lock().ok()?.ranges;
        ranges.push(range.clone());
        ranges.len() - 1
    };
    let mut body = body.to_vec();
    match manner {
        Manner::Missing => return status(&mut stream, "404 Not Found"),
        Manner::Busy if number < 2 => return status(&mut stream, "503 Service Unavailable"),
        Manner::Altered => *body.get_mut(4711)? ^= 1,
        Manner::Truncated => body.truncate(body.len() / 2),
        Manner::Good | Manner::CutOnce | Manner::Busy | Manner::Slow => {}
    }
    let from: usize = range.strip_prefix("bytes=").and_then(|r| r.trim_end_matches('-').parse().ok()).unwrap_or(0);
    let part = body.get(from..)?;
    let head = if from > 0 {
        format!("206 Partial Content\r\nContent-Range: bytes {from}-{}/{}", body.len() - 1, body.len())
    } else {
        "200 OK".to_owned()
    };
    write!(stream, "HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", part.len()).ok()?;
    if manner == Manner::CutOnce && number == 0 {
        stream.write_all(part.get(..part.len() / 3)?).ok()?;
        // What is on its way arrives.
        thread::sleep(Duration::from_millis(500));
        return None;
    }
    if manner == Manner::Slow {
        for part in part.chunks(1000) {
            stream.write_all(part).ok()?;
            thread::sleep(Duration::from_millis(100));
        }
        return Some(());
    }
    stream.write_all(part).ok()
}

fn status(stream: &mut TcpStream, status: &str) -> Option<()> {
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").ok()
}
