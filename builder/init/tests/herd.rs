//! Fifty nodes at one boot server: what it sees of them when all start in the same moment and something goes wrong.
//!
//! The nodes are threads that run the code that fetches a root on a real node, against servers on loopback. Times are
//! shorter than a node's; the proportions are the same.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failure here is a failed test, and numbers are what it is about"
)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use imgbuild_serve::{Access, Server, Tree};
use netboot_init::fetch::{Patience, Wanted, fetch};
use netboot_init::net::dns::Names;
use sha2::{Digest, Sha256};

const NODES: usize = 50;
/// A node's own has 2 s and 30 s.
const PATIENCE: Patience = Patience {
    first: Duration::from_secs(1),
    longest: Duration::from_secs(4),
    rounds: 10,
    speed_window: Duration::from_secs(20),
};
/// What is measured is time, and two herds at once would be each other's load.
static ALONE: Mutex<()> = Mutex::new(());

/// When which node asked.
type Requests = Vec<(usize, Instant)>;

/// All nodes fetch this root in the same moment, each by a path of its own below `url`, and have it in the end.
#[track_caller]
fn herd(url: &str, root: &[u8]) {
    let sha256: String = Sha256::digest(root).iter().map(|byte| format!("{byte:02x}")).collect();
    let start = Barrier::new(NODES);
    let folder = tempfile::tempdir().unwrap();
    let place = |node: usize| folder.path().join(node.to_string());
    thread::scope(|scope| {
        for node in 0..NODES {
            let (start, sha256, place) = (&start, &sha256, &place);
            scope.spawn(move || {
                let urls = [format!("{url}/{node}/root.squashfs")];
                let size = Some(root.len() as u64);
                let wanted = Wanted { urls: &urls, sha256, size, least_speed: 0, connections: 1 };
                start.wait();
                fetch(&wanted, Names::new(vec![], vec![]), PATIENCE, &mut |_| Ok(File::create(place(node)).unwrap()))
                    .unwrap();
            });
        }
    });
    for node in 0..NODES {
        assert!(std::fs::read(place(node)).unwrap() == root, "node {node}");
    }
}

/// A server that is busy for some time from the first request on, says so with these headers, and then has the root.
fn busy_server(outage: Duration, headers: &'static str, root: &'static [u8]) -> (String, Arc<Mutex<Requests>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::new(Mutex::new(Requests::new()));
    let seen = Arc::clone(&requests);
    thread::spawn(move || {
        let mut until = None;
        for stream in listener.incoming() {
            let until = *until.get_or_insert_with(|| Instant::now() + outage);
            let seen = Arc::clone(&seen);
            thread::spawn(move || answer(&stream.unwrap(), until, headers, root, &seen));
        }
    });
    (url, requests)
}

fn answer(mut stream: &TcpStream, until: Instant, headers: &str, root: &[u8], seen: &Mutex<Requests>) {
    let lines = BufReader::new(stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let head: Vec<String> = lines.collect();
    // A node that is done closes its connection.
    let Some(node) = head.first().and_then(|line| line.split('/').nth(1)?.parse().ok()) else { return };
    let now = Instant::now();
    seen.lock().unwrap().push((node, now));
    let is_busy = now < until;
    let answer = if is_busy {
        format!("503 Service Unavailable\r\nContent-Length: 0\r\n{headers}")
    } else {
        format!("200 OK\r\nContent-Length: {}\r\n", root.len())
    };
    let _ = write!(stream, "HTTP/1.1 {answer}Connection: close\r\n\r\n");
    if !is_busy {
        let _ = stream.write_all(root);
    }
}

/// How many at most came within this time.
fn most_within(times: &[Instant], window: Duration) -> usize {
    let within = |from: &Instant| times.iter().filter(|time| *time >= from && **time < *from + window).count();
    times.iter().map(within).max().unwrap_or_default()
}

/// The first request of each node, and all the others.
fn first_and_later(requests: &[(usize, Instant)]) -> (Vec<Instant>, Vec<Instant>) {
    let mut first: BTreeMap<usize, Instant> = BTreeMap::new();
    for (node, time) in requests {
        let earliest = first.entry(*node).or_insert(*time);
        *earliest = (*earliest).min(*time);
    }
    let later = requests.iter().filter(|(node, time)| first[node] != *time).map(|(_, time)| *time).collect();
    (first.into_values().collect(), later)
}

/// The nodes that came together do not come back together. Returns what came after each one's first request.
#[track_caller]
fn assert_scattered(requests: &[(usize, Instant)]) -> Vec<Instant> {
    let (first, later) = first_and_later(requests);
    let window = PATIENCE.first / 4;
    let (at_first, at_most) = (most_within(&first, PATIENCE.first), most_within(&later, window));
    println!("{at_first} nodes at once; then {} requests, at most {at_most} within {window:?}", later.len());
    assert!(at_first > NODES / 2, "they were to start together: {at_first}");
    // Evenly scattered it is a quarter of them and a few, on a busy machine half; together it is all. How evenly, a test of
    // the pauses tells, without a clock.
    assert!(at_most < NODES * 3 / 4, "{at_most} of {NODES} nodes came back within {window:?}");
    later
}

#[test]
fn a_busy_server_is_not_asked_again_by_all_at_once_nor_often() {
    let _alone = ALONE.lock();
    let (url, requests) = busy_server(Duration::from_secs(4), "", &[7; 50_000]);
    herd(&url, &[7; 50_000]);
    let later = assert_scattered(&requests.lock().unwrap());
    // Pauses double: half a second, one, two on average. If they did not, it would be eight for each node.
    assert!(later.len() < NODES * 5, "{} further requests of {NODES} nodes", later.len());
}

#[test]
fn nodes_that_are_all_told_the_same_second_do_not_all_come_in_it() {
    let _alone = ALONE.lock();
    let (url, requests) = busy_server(Duration::from_secs(1), "Retry-After: 2\r\n", &[7; 50_000]);
    let started = Instant::now();
    herd(&url, &[7; 50_000]);
    let later = assert_scattered(&requests.lock().unwrap());
    assert_eq!(later.len(), NODES, "each comes back once");
    assert!(later.iter().all(|time| *time >= started + Duration::from_secs(2)), "not before it was told to");
}

/// `imgbuild serve` with a root for each node.
struct BootServer {
    folder: tempfile::TempDir,
    log: Arc<Mutex<Vec<Access>>>,
}

impl BootServer {
    fn new(root: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("root"), root).unwrap();
        for node in 0..NODES {
            let own = folder.path().join(node.to_string());
            std::fs::create_dir(&own).unwrap();
            std::fs::hard_link(folder.path().join("root"), own.join("root.squashfs")).unwrap();
        }
        Self { folder, log: Arc::default() }
    }

    fn start(&self, address: &str) -> Option<Server> {
        let log = Arc::clone(&self.log);
        let keep = move |access: &Access| log.lock().unwrap().push(access.clone());
        Server::bind_logged(address, Tree::folder(self.folder.path()).unwrap(), keep).ok()
    }

    /// Cuts everything in the middle, when some have all and most have a part, and starts again some time later.
    fn restart(&self, running: Server) -> Server {
        let address = running.address().to_string();
        while self.log.lock().unwrap().len() < NODES / 10 {
            thread::sleep(Duration::from_millis(1));
        }
        drop(running);
        thread::sleep(PATIENCE.first);
        // Connections of the one before may hold the port for a moment.
        let start = || {
            self.start(&address).or_else(|| {
                thread::sleep(Duration::from_millis(50));
                None
            })
        };
        (0..100).find_map(|_| start()).unwrap()
    }
}

#[test]
fn a_server_that_restarts_sends_each_node_only_what_it_lacks() {
    let _alone = ALONE.lock();
    let root: Vec<u8> = (0..750_000_u32).flat_map(u32::to_le_bytes).collect();
    let server = BootServer::new(&root);
    let running = server.start("127.0.0.1:0").unwrap();
    let url = format!("http://{}", running.address());
    let running = thread::scope(|scope| {
        let restarted = scope.spawn(|| server.restart(running));
        herd(&url, &root);
        restarted.join().unwrap()
    });
    running.stop(Duration::from_secs(1));
    let log = server.log.lock().unwrap();
    let resumed = log.iter().filter(|access| access.status == 206).count();
    let (sent, needed) = (log.iter().map(|access| access.sent).sum::<u64>(), (root.len() * NODES) as u64);
    println!("{} requests, {resumed} of them for the rest; {sent} bytes sent of {needed} needed", log.len());
    assert!(resumed > 0 && log.len() <= NODES * 3, "{} requests, {resumed} of them for the rest", log.len());
    // What was on its way when the server went away is lost.
    assert!(sent < needed * 3 / 2, "{sent} bytes sent, {needed} needed");
}
