//! A boot server on loopback, that QEMU's user network shows as 10.0.2.2.

use std::fs;
use std::io::{BufRead, BufReader, Write};
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
}

/// A running server; it ends with the test program.
#[derive(Debug)]
pub struct Server {
    host: &'static str,
    port: u16,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Starts one that serves a file whatever the path.
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
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let Ok(stream) = stream else { return };
                let (body, seen) = (Arc::clone(&body), Arc::clone(&seen));
                thread::spawn(move || answer(stream, &body, manner, number, &seen));
            }
        });
        Ok(Self { host, port, requests })
    }

    /// The URL as the guest sees it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}:{}/images/tiny/7/root.squashfs", self.host, self.port)
    }

    /// The requests so far: each one's `Range`, empty without.
    ///
    /// # Errors
    ///
    /// When a connection's thread panicked.
    pub fn ranges(&self) -> Result<Vec<String>> {
        Ok(self.requests.lock().ok().context("the server has panicked")?.clone())
    }
}

/// A client that goes away is its own affair.
fn answer(mut stream: TcpStream, body: &[u8], manner: Manner, number: usize, seen: &Mutex<Vec<String>>) -> Option<()> {
    let mut range = String::new();
    for line in BufReader::new(stream.try_clone().ok()?).lines() {
        let line = line.ok()?.to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("range:") {
            value.trim().clone_into(&mut range);
        }
        if line.is_empty() {
            break;
        }
    }
    seen.lock().ok()?.push(range.clone());
    let mut body = body.to_vec();
    match manner {
        Manner::Missing => return status(&mut stream, "404 Not Found"),
        Manner::Busy if number < 2 => return status(&mut stream, "503 Service Unavailable"),
        Manner::Altered => *body.get_mut(4711)? ^= 1,
        Manner::Truncated => body.truncate(body.len() / 2),
        Manner::Good | Manner::CutOnce | Manner::Busy => {}
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
    stream.write_all(part).ok()
}

fn status(stream: &mut TcpStream, status: &str) -> Option<()> {
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").ok()
}
