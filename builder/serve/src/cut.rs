//! A connection that breaks in mid-answer, for tests of those who download.

use std::{
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Between the last byte and the end of the connection, so that what was sent has left.
const PAUSE: Duration = Duration::from_millis(300);

/// Where the first whole download of a file breaks off. Later requests are answered as ever, so that the client can go on.
#[derive(Debug)]
pub struct Cut {
    /// The file's path below the root of the tree, as `images/w/1/root.squashfs`.
    name: String,
    after: u64,
    is_done: AtomicBool,
}

impl Cut {
    /// The connection ends after so many bytes of the file's body, which has more.
    #[must_use]
    pub fn new(name: &str, after: u64) -> Self {
        Self { name: name.trim_matches('/').to_owned(), after, is_done: AtomicBool::new(false) }
    }

    /// What is left of an answer with the whole file under this name; none if it is not to be cut, or was once before.
    pub(crate) fn of(&self, name: &str) -> Option<Remainder> {
        let is_first = name == self.name && !self.is_done.swap(true, Ordering::Relaxed);
        is_first.then_some(Remainder(self.after))
    }
}

/// The bytes that a body may still have.
#[derive(Debug)]
pub(crate) struct Remainder(u64);

impl Remainder {
    /// The body up to there.
    pub(crate) fn body<B>(self, inner: B) -> Broken<B> {
        Broken { inner, left: self.0, pause: None }
    }
}

/// A body that fails in the middle, upon which the server drops the connection.
pub(crate) struct Broken<B> {
    inner: B,
    left: u64,
    pause: Option<Pin<Box<Sleep>>>,
}

impl<B: Body<Data = Bytes, Error = Error> + Unpin> Body for Broken<B> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.left == 0 {
            ready!(self.pause.get_or_insert_with(|| Box::pin(sleep(PAUSE))).as_mut().poll(cx));
            return Poll::Ready(Some(Err("the connection is cut here, as it was asked for".into())));
        }
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        let shorten = |data: Bytes| {
            let kept = usize::try_from(self.left).map_or(data.len(), |left| left.min(data.len()));
            self.left = self.left.saturating_sub(kept as u64);
            data.slice(..kept)
        };
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(shorten))))
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
