//! The listener: our own accept loop, because `axum::serve` has no header timeout.
//!
//! Bounds: connections at a time, the time for a request's head, the time for a request as a
//! whole, the age of a connection, and the size of bodies. A client that stalls holds one
//! connection for at most the header time, or the request time.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper::{Request, body::Incoming};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use storage::registry::RegistryError;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::routes;
use crate::till::Till;
use crate::vault::Vault;
use crate::{App, Node};

/// Bounds of the API.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Connections at a time; more wait in the kernel's queue.
    pub connections_max: usize,
    /// Time for the head of a request, and for an idle connection to send the next one.
    pub header_s_max: u32,
    /// Time for a request as a whole, imports excepted, and for each chunk of an import.
    pub request_s_max: u32,
    /// Time for an import as a whole.
    pub import_s_max: u32,
    /// How old a connection grows before it is closed between two requests.
    pub connection_s_max: u32,
    /// Bytes of a JSON body.
    pub body_size_max: usize,
    /// Bytes of an import; they are held in memory, one import at a time.
    pub import_size_max: u64,
    /// Rows of an import.
    pub import_rows_max: u64,
    /// Bad lines of an import that are named in the answer.
    pub import_errors_max: usize,
}

impl Config {
    /// Bounds that suit one node, for a listener.
    #[must_use]
    pub const fn standard(listen: SocketAddr) -> Self {
        Self {
            listen,
            connections_max: 1024,
            header_s_max: 10,
            request_s_max: 30,
            import_s_max: 600,
            connection_s_max: 900,
            body_size_max: 256 * 1024,
            import_size_max: 256 * 1024 * 1024,
            import_rows_max: 1_000_000,
            import_errors_max: 1000,
        }
    }
}

/// Why the API does not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The address cannot be listened on.
    #[error("API cannot listen on {address}; is another process there? choose another address")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The vending keys do not open.
    #[error("vending keys: {0}")]
    Vault(String),
    /// The registry does not answer.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// The API, bound to its address.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    router: Router,
    config: Config,
}

impl Server {
    /// Binds the address and loads the acknowledgements of alarms. Restore the node's alarms
    /// from the snapshot before.
    ///
    /// # Errors
    /// [`ServerError`].
    pub async fn bind(config: Config, node: Node) -> Result<Self, ServerError> {
        let address = config.listen;
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|source| ServerError::Listen { address, source })?;
        if let Some(oldest) = node.alarms.oldest() {
            for acknowledgement in node.registry.acknowledgements(oldest).await? {
                node.alarms.acknowledge(acknowledgement);
            }
        }
        let vault = Vault::open(&node.registry).await;
        let vault = Arc::new(vault.map_err(|error| ServerError::Vault(error.to_string()))?);
        let (registry, applied) = (Arc::clone(&node.registry), Arc::clone(&node.applied));
        let till = Till::open(registry, Arc::clone(&vault), applied);
        let app = Arc::new(App { node, config: config.clone(), vault, till });
        app.resume_campaigns().await?;
        Ok(Self { listener, router: routes::router(&app), config })
    }

    /// The address it listens on.
    ///
    /// # Panics
    /// Never: a bound socket has an address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("a bound socket has an address")
    }

    /// Serves until `stop` turns true (or its sender is gone), then lets requests under way end.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let permits = Arc::new(Semaphore::new(self.config.connections_max));
        let mut connections = JoinSet::new();
        let stop_connections = stop.clone();
        let accept = async {
            loop {
                // No permit, no accept: clients beyond the bound wait in the kernel.
                let permit = Arc::clone(&permits).acquire_owned().await;
                let permit = permit.expect("the semaphore is never closed");
                match self.listener.accept().await {
                    Ok((stream, _)) => {
                        let connection = serve(
                            stream,
                            self.router.clone(),
                            self.config.clone(),
                            stop_connections.clone(),
                        );
                        connections.spawn(async move {
                            connection.await;
                            drop(permit);
                        });
                    }
                    Err(error) => {
                        // Usually no file descriptor is left; accepting at once would spin.
                        warn!(%error, "connection not accepted");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
                while connections.try_join_next().is_some() {}
            }
        };
        tokio::select! {
            () = accept => {}
            () = stopped(&mut stop) => {}
        }
        drop(self.listener);
        info!(connections = connections.len(), "api stops");
        while connections.join_next().await.is_some() {}
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone: stop as well.
    let _gone = stop.wait_for(|stop| *stop).await;
}

async fn serve(stream: TcpStream, router: Router, config: Config, mut stop: watch::Receiver<bool>) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "no-delay not set");
    }
    let seconds = |seconds: u32| Duration::from_secs(u64::from(seconds));
    let service = TowerToHyperService::new(router);
    // One layer less in the router, of which each costs a request some boxes.
    let service = service_fn(move |request: Request<Incoming>| {
        let is_docs = request.uri().path().starts_with("/docs");
        let answered = service.call(request);
        async move {
            let mut response = answered.await?;
            routes::secure(is_docs, response.headers_mut());
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(seconds(config.header_s_max))
        .max_headers(64)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => return ended(result),
        () = stopped(&mut stop) => {}
        () = tokio::time::sleep(seconds(config.connection_s_max)) => {}
    }
    // The request under way may end, within the longest time that a request may take.
    connection.as_mut().graceful_shutdown();
    let last = seconds(config.import_s_max.max(config.request_s_max));
    if let Ok(result) = tokio::time::timeout(last, connection).await {
        ended(result);
    }
}

fn ended(result: hyper::Result<()>) {
    if let Err(error) = result {
        debug!(%error, "connection ended");
    }
}
