//! Several requests at once.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex};

use super::*;

const SECONDS_30: Duration = Duration::from_secs(30);

/// The `Range` headers in the order in which they came.
type Asked = Arc<Mutex<Vec<Option<String>>>>;

fn large() -> Vec<u8> {
    (0..2_500_000_u32).flat_map(u32::to_le_bytes).collect()
}

/// Answers each connection on a thread of its own, given the number of requests before it and the bytes asked for; none
/// where it is for all of them.
fn crowd(
    body: &[u8],
    answer: impl Fn(&mut TcpStream, usize, Option<Range<usize>>) + Send + Sync + 'static,
) -> (String, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/root.squashfs", listener.local_addr().unwrap());
    let (all, answer, asked) = (body.len(), Arc::new(answer), Asked::default());
    let seen = Arc::clone(&asked);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (answer, seen, mut stream) = (Arc::clone(&answer), Arc::clone(&seen), stream.unwrap());
            thread::spawn(move || {
                let lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
                let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
                if head.is_empty() {
                    return;
                }
                let value = |line: &String| line.to_ascii_lowercase().strip_prefix("range: ").map(str::to_owned);
                let asked = head.iter().find_map(value);
                let range = asked.as_ref().map(|asked| {
                    let (first, last) = asked.trim_start_matches("bytes=").split_once('-').unwrap();
                    first.parse().unwrap()..last.parse().map_or(all, |last: usize| last + 1)
                });
                let before = {
                    let mut seen = seen.lock().unwrap();
                    seen.push(asked);
                    seen.len() - 1
                };
                answer(&mut stream, before, range);
            });
        }
    });
    (url, asked)
}

fn head(range: &Option<Range<usize>>, all: usize) -> String {
    let close = "Connection: close\r\n\r\n";
    match range {
        None => format!("HTTP/1.1 200 OK\r\nContent-Length: {all}\r\n{close}"),
        Some(Range { start, end }) => format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {start}-{}/{all}\r\n{close}",
            end - start,
            end - 1
        ),
    }
}

/// As a server should.
fn send(stream: &mut TcpStream, body: &[u8], range: Option<Range<usize>>) {
    let _ = stream.write_all(head(&range, body.len()).as_bytes());
    let _ = stream.write_all(&body[range.unwrap_or(0..body.len())]);
}

/// Four at once, of a file whose length is known.
#[track_caller]
fn arrives(url: String, body: &[u8]) {
    let (found, places) = get_by(4, &[url], body, Some(body.len() as u64), u64::MAX).unwrap();
    assert!(found == body && places == 1);
}

#[test]
fn as_many_as_wanted_are_under_way_together_and_the_file_is_in_order() {
    let body = large();
    let under_way = Arc::new((Mutex::new(0), Condvar::new()));
    let (served, counted) = (body.clone(), Arc::clone(&under_way));
    let (url, asked) = crowd(&body, move |stream, before, range| {
        let range = range.unwrap();
        let middle = range.start + range.len() / 2;
        let _ = stream.write_all(head(&Some(range.clone()), served.len()).as_bytes());
        let _ = stream.write_all(&served[range.start..middle]);
        // Each of the first four waits for the others in the middle.
        let (count, changed) = &*counted;
        *count.lock().unwrap() += 1;
        changed.notify_all();
        if before < 4 {
            drop(changed.wait_timeout_while(count.lock().unwrap(), SECONDS_30, |count| *count < 4).unwrap());
        }
        let _ = stream.write_all(&served[middle..range.end]);
    });
    let started = Instant::now();
    arrives(url, &body);
    assert!(started.elapsed() < SECONDS_30, "there were never four");
    let mut asked: Vec<String> = asked.lock().unwrap().iter().flatten().cloned().collect();
    asked.sort_by_key(|range| range.trim_start_matches("bytes=").split_once('-').unwrap().0.parse::<u64>().unwrap());
    let expected = ["0-2097151", "2097152-4194303", "4194304-6291455", "6291456-8388607", "8388608-9999999"];
    assert_eq!(asked, expected.map(|range| format!("bytes={range}")));
}

#[test]
fn a_length_that_only_the_server_knows_is_learned_from_the_first_piece() {
    let body = large();
    let served = body.clone();
    let (url, asked) = crowd(&body, move |stream, _, range| send(stream, &served, range));
    let (found, _) = get_by(2, &[url], &body, None, u64::MAX).unwrap();
    assert!(found == body);
    assert_eq!(asked.lock().unwrap().len(), 5);
}

#[test]
fn a_server_without_ranges_sends_it_whole() {
    let body = large();
    let (url, ranges) = server(vec![whole(&body)]);
    arrives(url, &body);
    assert_eq!(ranges.iter().collect::<Vec<_>>(), [Some("bytes=0-2097151".to_owned())]);
}

#[test]
fn a_server_that_refuses_several_is_asked_by_one() {
    let body = large();
    let served = body.clone();
    let (url, asked) = crowd(&body, move |stream, before, range| {
        let open = range.as_ref().is_none_or(|range| range.end == served.len() && range.start < 8_000_000);
        if before == 0 || open {
            send(stream, &served, range);
        } else {
            let busy = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            let _ = stream.write_all(busy.as_bytes());
        }
    });
    arrives(url, &body);
    let asked = asked.lock().unwrap();
    // Not always the last one: the server may see what was given up only after it.
    let rest = asked.iter().flatten().any(|range| range == "bytes=2097152-");
    assert!(rest, "what the first one brought is kept: {asked:?}");
}

#[test]
fn a_piece_that_is_cut_is_asked_for_from_there_on() {
    let body = large();
    let served = body.clone();
    let (url, asked) = crowd(&body, move |stream, _, range| {
        let range = range.unwrap();
        if range.start == 2_097_152 && range.end == 4_194_304 {
            let _ = stream.write_all(head(&Some(range.clone()), served.len()).as_bytes());
            let _ = stream.write_all(&served[range.start..range.start + 1000]);
        } else {
            send(stream, &served, Some(range));
        }
    });
    arrives(url, &body);
    assert!(asked.lock().unwrap().iter().flatten().any(|range| range == "bytes=2098152-4195303"), "two at once");
}

#[test]
fn a_piece_of_another_file_gives_it_one_attempt_in_one_piece() {
    let body = large();
    let served = body.clone();
    let (url, asked) = crowd(&body, move |stream, _, range| {
        let mut served = served.clone();
        if range.as_ref().is_some_and(|range| range.start > 0) {
            served[5_000_000] ^= 1;
        }
        send(stream, &served, range);
    });
    arrives(url, &body);
    assert_eq!(asked.lock().unwrap().last().unwrap(), &None);
}

#[test]
fn a_server_that_sends_more_than_a_piece_is_not_believed() {
    let body = large();
    let served = body.clone();
    let (url, _) = crowd(&body, move |stream, _, range| match range {
        Some(range) if range.start == 0 && range.end < served.len() => {
            let _ = stream
                .write_all(head(&Some(range), served.len()).replace("Length: 2097152", "Length: 2097162").as_bytes());
            let _ = stream.write_all(&served[..2_097_162]);
        }
        range => send(stream, &served, range),
    });
    let error = get_by(4, &[url], &body, Some(body.len() as u64), u64::MAX);
    // Two and then one at once: the last one gets what it asks for.
    assert!(error.unwrap().0 == body);
}

#[test]
fn after_a_slow_server_the_next_one_is_asked_by_as_many() {
    let body = large();
    let served = body.clone();
    let (slow, _) = server(vec![drip(&body, 1000)]);
    let (url, asked) = crowd(&body, move |stream, _, range| send(stream, &served, range));
    let (found, _) = get_by(2, &[slow, url], &body, Some(body.len() as u64), u64::MAX).unwrap();
    assert!(found == body);
    assert_eq!(asked.lock().unwrap().len(), 5, "pieces, and not the rest at once");
}
