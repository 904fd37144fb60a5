//! Servers on loopback: Debian's docker-registry, and one of ours that does what a test wants.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::images::{Layout, run};

/// A port that nobody has at this moment.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Debian's docker-registry, stopped when it is dropped.
pub(crate) struct DockerRegistry {
    child: Child,
    pub(crate) address: String,
    pub(crate) log: PathBuf,
}

impl DockerRegistry {
    /// Starts it on `host`; `http` and `rest` are added to its configuration.
    pub(crate) fn start(dir: &Path, host: &str, http: &str, rest: &str) -> Self {
        let address = format!("{host}:{}", free_port());
        let (config, log) = (dir.join("registry.yml"), dir.join("registry.log"));
        let root = dir.join("registry");
        let yaml = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp:\n  addr: {address}\n{http}\n{rest}\n",
            root.display()
        );
        std::fs::write(&config, yaml).unwrap();
        let file = || Stdio::from(std::fs::File::options().append(true).create(true).open(&log).unwrap());
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(file())
            .stderr(file())
            .spawn()
            .expect("docker-registry (Debian's package) is needed");
        let registry = Self { child, address, log };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(&registry.address).is_err() {
            assert!(Instant::now() < deadline, "docker-registry: {}", std::fs::read_to_string(&registry.log).unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }

    pub(crate) fn plain(dir: &Path) -> Self {
        Self::start(dir, "127.0.0.1", "", "")
    }

    /// Pushes with skopeo; `from` as skopeo names it.
    pub(crate) fn push(&self, from: &str, to: &str, extra: &[&str]) {
        let to = format!("docker://{}/{to}", self.address);
        let fixed = ["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"];
        let args: Vec<_> = fixed.iter().chain(extra).copied().chain([from, to.as_str()]).collect();
        run("skopeo", &args);
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One request as a server saw it.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    /// By lower-case name.
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The first byte that a Range header asks for.
    pub(crate) fn range(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }

    /// Whether it asks for that blob's content.
    pub(crate) fn wants(&self, digest: &str) -> bool {
        self.method == "GET" && self.path.ends_with(&format!("/blobs/{digest}"))
    }
}

/// What a server does with a request.
pub(crate) enum Answer {
    /// Status, headers, body; with a right Content-Length.
    Whole(u16, Vec<(String, String)>, Vec<u8>),
    /// So many bytes of the body, then the connection is cut; Content-Length is that of the whole.
    Cut(u16, Vec<(String, String)>, Vec<u8>, usize),
    /// So many bytes of the body, then nothing until the client goes away.
    Stall(Vec<u8>, usize),
}

pub(crate) fn text(status: u16, body: &str) -> Answer {
    Answer::Whole(status, Vec::new(), body.as_bytes().to_vec())
}

type Handler = Box<dyn Fn(&Request) -> Answer + Send + Sync>;

/// A server for HTTP/1.1, one request a connection, that answers as `handler` says and remembers what it was asked.
pub(crate) struct Server {
    pub(crate) address: String,
    pub(crate) requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub(crate) fn start(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, handler) = (requests.clone(), Arc::new(Box::new(handler) as Handler));
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, handler) = (seen.clone(), handler.clone());
                std::thread::spawn(move || serve(stream, &seen, &handler));
            }
        });
        Self { address, requests }
    }

    /// A registry that serves a layout's blobs, with a chance to answer otherwise; tags are taken from `tags`.
    pub(crate) fn registry(
        layout: &Layout,
        tags: &[(&str, &str)],
        meddle: impl Fn(&Request, &[u8]) -> Option<Answer> + Send + Sync + 'static,
    ) -> Self {
        let dir = layout.dir.clone();
        let tags: HashMap<String, String> =
            tags.iter().map(|(tag, digest)| ((*tag).to_owned(), (*digest).to_owned())).collect();
        Self::start(move |request| {
            let name = request.path.rsplit('/').next().unwrap_or_default();
            let digest = tags.get(name).cloned().unwrap_or_else(|| name.to_owned());
            let content = std::fs::read(dir.join("blobs").join(digest.replace(':', "/"))).unwrap_or_default();
            if let Some(answer) = meddle(request, &content) {
                return answer;
            }
            if request.path == "/v2/" {
                return text(200, "{}");
            }
            if content.is_empty() {
                return text(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#);
            }
            let mut headers = vec![("Docker-Content-Digest".to_owned(), digest)];
            match request.range() {
                Some(from) if from < content.len() => {
                    let (last, len) = (content.len() - 1, content.len());
                    headers.push(("Content-Range".to_owned(), format!("bytes {from}-{last}/{len}")));
                    Answer::Whole(206, headers, content[from..].to_vec())
                }
                Some(_) => text(416, ""),
                None => Answer::Whole(200, headers, content),
            }
        })
    }

    pub(crate) fn seen(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// The ranges of the requests for one blob, in order.
    pub(crate) fn ranges(&self, digest: &str) -> Vec<Option<usize>> {
        self.seen().iter().filter(|request| request.wants(digest)).map(Request::range).collect()
    }
}

fn serve(mut stream: TcpStream, seen: &Mutex<Vec<Request>>, handler: &Handler) {
    let Some(request) = read_request(&stream) else {
        // Somebody speaks TLS.
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return;
    };
    seen.lock().unwrap().push(request.clone());
    let (status, headers, body, sent, stall) = match handler(&request) {
        Answer::Whole(status, headers, body) => (status, headers, body.clone(), body.len(), false),
        Answer::Cut(status, headers, body, sent) => (status, headers, body, sent, false),
        Answer::Stall(body, sent) => (200, Vec::new(), body, sent, true),
    };
    let mut head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let _ = stream.write_all(format!("{head}\r\n").as_bytes());
    if request.method != "HEAD" {
        let _ = stream.write_all(&body[..sent]);
        let _ = stream.flush();
    }
    if stall {
        let _ = stream.set_read_timeout(Some(Duration::from_secs(30)));
        let _ = std::io::Read::read(&mut stream, &mut [0]);
    }
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    if reader.fill_buf().ok()?.first() == Some(&0x16) {
        return None;
    }
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let len = headers.get("content-length").and_then(|len| len.parse().ok()).unwrap_or(0);
    let mut body = vec![0; len];
    std::io::Read::read_exact(&mut reader, &mut body).ok()?;
    Some(Request { method, path, headers, body })
}
