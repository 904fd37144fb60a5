//! The access log: one [`Access`] when an answer's body is over, whole or not.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// One request and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Who asked.
    pub peer: SocketAddr,
    /// `GET`, `HEAD`, or what else was tried.
    pub method: String,
    /// The path as it was asked for, percent-encoded.
    pub path: String,
    /// The status answered.
    pub status: u16,
    /// Bytes of body promised in `Content-Length`; 0 for HEAD.
    pub length: u64,
    /// Bytes of body handed to the connection; fewer than `length` when the client went away.
    pub sent: u64,
    /// When the request's head was there.
    pub began: Instant,
    /// From then to the end of the answer.
    pub took: Duration,
}

/// Takes each [`Access`], on one of the server's threads: it must not block for long.
pub type OnAccess = Arc<dyn Fn(&Access) + Send + Sync>;

/// A body that counts what goes through it and reports when it is dropped.
pub(crate) struct Counted<B> {
    inner: B,
    access: Access,
    log: OnAccess,
}

impl<B> Counted<B> {
    pub(crate) fn new(inner: B, access: Access, log: OnAccess) -> Self {
        Self { inner, access, log }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.access.sent = self.access.sent.saturating_add(data.len() as u64);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B> Drop for Counted<B> {
    fn drop(&mut self) {
        self.access.took = self.access.began.elapsed();
        (self.log)(&self.access);
    }
}
