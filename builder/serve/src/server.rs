//! The listening socket and its threads.

use std::{
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::sync::oneshot;

use crate::{Access, Cut, Error, OnAccess, Tree, answer::answer};

/// How long a client may take to send a request's head, or to be idle before the next one.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long to wait after the system refused to accept a connection (too many open files).
const BREATH: Duration = Duration::from_millis(50);

/// A running server. Dropping it cuts what is under way; [`Server::stop`] lets it end.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<Duration>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on `address` (`HOST:PORT`; port 0 takes a free one) and serves `tree` from threads of its own.
    ///
    /// # Errors
    /// [`Error::Address`], [`Error::Listen`] and [`Error::Start`].
    pub fn bind(address: &str, tree: Tree) -> Result<Self, Error> {
        Self::start(address, tree, None, Arc::new(|_| {}))
    }

    /// The same, with every request reported to `log` when its answer is over.
    ///
    /// # Errors
    /// As [`Server::bind`].
    pub fn bind_logged(
        address: &str,
        tree: Tree,
        log: impl Fn(&Access) + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        Self::start(address, tree, None, Arc::new(log))
    }

    /// The same, but that one connection breaks: for tests of clients. No command that serves machines does this.
    ///
    /// # Errors
    /// As [`Server::bind`].
    pub fn bind_cutting(
        address: &str,
        tree: Tree,
        cut: Cut,
        log: impl Fn(&Access) + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        Self::start(address, tree, Some(cut), Arc::new(log))
    }

    fn start(address: &str, tree: Tree, cut: Option<Cut>, log: OnAccess) -> Result<Self, Error> {
        let unusable = |source| Error::Address { address: address.to_owned(), source };
        let wanted = address.to_socket_addrs().map_err(unusable)?.next();
        let wanted = wanted.ok_or_else(|| unusable(std::io::ErrorKind::InvalidInput.into()))?;
        let listener = TcpListener::bind(wanted).map_err(|source| Error::Listen { address: wanted, source })?;
        listener.set_nonblocking(true).map_err(Error::Start)?;
        let address = listener.local_addr().map_err(Error::Start)?;
        let threads = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(1, 8));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("serve-worker")
            .enable_all()
            .build()
            .map_err(Error::Start)?;
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener).map_err(Error::Start)?
        };
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("serve".to_owned())
            .spawn(move || {
                runtime.block_on(run(listener, Arc::new((tree, cut)), log, stopped));
                // A read from a hanging disk must not hold up who stops the server.
                runtime.shutdown_timeout(Duration::from_millis(100));
            })
            .map_err(Error::Start)?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// The address it listens on, with the real port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more requests, gives those under way `grace` to end, and returns when all is over.
    pub fn stop(mut self, grace: Duration) {
        self.end(grace);
    }

    /// Serves until the process ends; for a command that does nothing else.
    pub fn wait(mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    fn end(&mut self, grace: Duration) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(grace);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}

async fn run(
    listener: tokio::net::TcpListener,
    served: Arc<(Tree, Option<Cut>)>,
    log: OnAccess,
    mut stopped: oneshot::Receiver<Duration>,
) {
    let connections = GracefulShutdown::new();
    let grace = loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(_) => {
                    tokio::time::sleep(BREATH).await;
                    continue;
                }
            },
            grace = &mut stopped => break grace.unwrap_or_default(),
        };
        let _ = stream.set_nodelay(true);
        let (served, log) = (Arc::clone(&served), Arc::clone(&log));
        let service = service_fn(move |request| {
            let (served, log) = (Arc::clone(&served), Arc::clone(&log));
            async move {
                let (tree, cut) = &*served;
                answer(tree, cut.as_ref(), log, peer, request).await
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .serve_connection(TokioIo::new(stream), service);
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            // A client that goes away is in the access log already, as an answer not sent whole.
            let _ = connection.await;
        });
    };
    drop(listener);
    if !grace.is_zero() {
        let _ = tokio::time::timeout(grace, connections.shutdown()).await;
    }
}
