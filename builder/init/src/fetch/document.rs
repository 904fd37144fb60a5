//! A small document, into memory.

use std::io::Read;
use std::thread;

use super::backoff::Queue;
use super::{Client, Failures, Patience, SourceError};
use crate::net::dns::Names;
use crate::{say, warning};

/// Fetches a document of at most `most` bytes from the first URL that gives it; returns which one that was.
///
/// # Errors
///
/// What is wrong with each URL, when every one failed for good or too often.
pub fn document(urls: &[String], names: Names, patience: Patience, most: u64) -> Result<(String, Vec<u8>), Failures> {
    let client = Client::new(names);
    let mut queue = Queue::new(urls, patience);
    loop {
        for turn in queue.turns() {
            let (url, _) = queue.begin(turn);
            say!("GET {url}");
            match get(&client, &url, most) {
                Ok(document) => return Ok((url, document)),
                Err(error) => {
                    warning!("{url}: {error}");
                    queue.failed(turn, error);
                }
            }
        }
        match queue.next_round(false) {
            Some(wait) => thread::sleep(wait),
            None => return Err(queue.errors()),
        }
    }
}

fn get(client: &Client, url: &str, most: u64) -> Result<Vec<u8>, SourceError> {
    let response = client.get(url, 0, None)?;
    let mut document = Vec::new();
    let read = response.body.take(most.saturating_add(1)).read_to_end(&mut document);
    let received = u64::try_from(document.len()).unwrap_or(u64::MAX);
    if received > most {
        return Err(SourceError::TooLarge { most });
    }
    let broken = |why: String| SourceError::Connection { why, received, total: response.total };
    read.map_err(|e| broken(e.to_string()))?;
    match response.total {
        Some(total) if total != received => Err(broken("the connection ended early".into())),
        _ => Ok(document),
    }
}
