//! A bucket of an S3-compatible store, as a folder to read from.
//!
//! One object is one copy. S3 shows an object as a whole or not at all, and ours are never written
//! again. The object opened last is kept: who reads a segment opens it more than once.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use object_store::aws::AmazonS3Builder;
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt as _, RetryConfig};
use tokio::runtime::Runtime;

use crate::log::{Disk, DiskFile};

/// Longest time that one request may take: a segment through a line of 2 Mbit/s.
const REQUEST_MAX: Duration = Duration::from_secs(300);
/// How often a request is tried; whoever asked tries again later.
const TRIES_MAX: usize = 3;
/// How long a request is tried.
const TRYING_MAX: Duration = Duration::from_secs(20);

/// Why a bucket cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BucketError {
    /// Not the place of a bucket.
    #[error("{0:?} names no bucket; write s3://bucket/prefix")]
    Place(String),
    /// Segments hold what customers pay: they do not travel in the clear.
    #[error("{0:?} is not https; http is only for a store on this machine (127.0.0.1, localhost)")]
    Clear(String),
    /// The store's client refuses the settings.
    #[error("the store's settings or credentials (AWS_… in the environment) are refused")]
    Settings(#[from] object_store::Error),
    /// The client's thread does not start.
    #[error("cannot start the thread that speaks to the store")]
    Thread(#[source] io::Error),
}

/// Where a bucket is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Location {
    bucket: String,
    prefix: Path,
    endpoint: String,
    region: String,
}

/// A bucket, or the part of it below a prefix.
pub struct Bucket {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    last: Mutex<Option<(String, Bytes)>>,
    /// Taken when it is dropped.
    runtime: Option<Runtime>,
}

impl Location {
    /// Parses `s3://bucket/prefix`. The endpoint is the store's address, empty for Amazon's own; an
    /// empty region is that of `AWS_REGION`, or us-east-1.
    ///
    /// # Errors
    /// [`BucketError::Place`]; [`BucketError::Clear`] for an endpoint that is neither https nor on
    /// this machine.
    pub fn parse(place: &str, endpoint: &str, region: &str) -> Result<Self, BucketError> {
        let wrong = || BucketError::Place(place.to_owned());
        let path = place.strip_prefix("s3://").ok_or_else(wrong)?;
        let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
        let prefix = Path::parse(prefix).map_err(|_| wrong())?;
        if bucket.is_empty() {
            return Err(wrong());
        }
        let is_safe = endpoint.is_empty() || endpoint.starts_with("https://");
        if !is_safe && !is_here(endpoint) {
            return Err(BucketError::Clear(endpoint.to_owned()));
        }
        let (endpoint, region) = (endpoint.to_owned(), region.to_owned());
        Ok(Self { bucket: bucket.to_owned(), prefix, endpoint, region })
    }
}

/// Whether a URL is that of a server on this machine, by plain http.
fn is_here(url: &str) -> bool {
    let Some(host) = url.strip_prefix("http://") else { return false };
    let host = host.split('/').next().unwrap_or_default();
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

impl Bucket {
    /// The bucket there, with the credentials of the environment (`AWS_ACCESS_KEY_ID`, …). Nothing
    /// is asked of the store yet.
    ///
    /// # Errors
    /// [`BucketError::Settings`], [`BucketError::Thread`].
    pub fn open(location: &Location) -> Result<Self, BucketError> {
        // One provider for the process; refused only where it has one already.
        rustls::crypto::ring::default_provider().install_default().ok();
        let Location { bucket, prefix, endpoint, region } = location;
        let client = ClientOptions::new().with_timeout(REQUEST_MAX);
        let retry = RetryConfig {
            max_retries: TRIES_MAX,
            retry_timeout: TRYING_MAX,
            ..RetryConfig::default()
        };
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .with_retry(retry)
            .with_client_options(client.with_allow_http(is_here(endpoint)));
        if !region.is_empty() {
            builder = builder.with_region(region);
        }
        if !endpoint.is_empty() {
            builder = builder.with_endpoint(endpoint);
        }
        Self::new(Arc::new(builder.build()?), prefix.clone())
    }

    /// A store below a prefix.
    ///
    /// # Errors
    /// [`BucketError::Thread`].
    pub fn new(store: Arc<dyn ObjectStore>, prefix: Path) -> Result<Self, BucketError> {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).thread_name("archive-store").enable_all().build();
        let runtime = Some(runtime.map_err(BucketError::Thread)?);
        Ok(Self { store, prefix, last: Mutex::new(None), runtime })
    }

    /// Puts an object there.
    ///
    /// # Errors
    /// Of the store, or on the way to it.
    pub(super) fn put(&self, name: &str, bytes: Bytes) -> io::Result<()> {
        let (store, path) = self.at(name);
        self.wait(async move { store.put(&path, bytes.into()).await.map(|_| ()) })
    }

    fn at(&self, name: &str) -> (Arc<dyn ObjectStore>, Path) {
        (Arc::clone(&self.store), self.prefix.clone().join(name))
    }

    /// Does it on the store's thread, whatever thread the caller is on.
    fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = object_store::Result<T>> + Send + 'static,
    ) -> io::Result<T> {
        let runtime = self.runtime.as_ref().expect("it is taken only when the bucket is dropped");
        let (tell, told) = crossbeam_channel::bounded(1);
        runtime.spawn(async move { tell.send(work.await).ok() });
        let done = told.recv().map_err(|_| io::Error::other("the store's client broke off"))?;
        done.map_err(|error| io::Error::new(kind_of(&error), error))
    }

    /// What the store has under a name, asked anew.
    pub(super) fn fetch(&self, name: &str) -> io::Result<Bytes> {
        let (store, path) = self.at(name);
        self.wait(async move { store.get(&path).await?.bytes().await })
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the store's other errors are told as they are")]
fn kind_of(error: &object_store::Error) -> io::ErrorKind {
    match error {
        object_store::Error::NotFound { .. } => io::ErrorKind::NotFound,
        object_store::Error::PermissionDenied { .. }
        | object_store::Error::Unauthenticated { .. } => io::ErrorKind::PermissionDenied,
        _ => io::ErrorKind::Other,
    }
}

fn reading_only<T>() -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "an object is written as a whole"))
}

impl Disk for Bucket {
    fn list(&self) -> io::Result<Vec<String>> {
        let (store, prefix) = (Arc::clone(&self.store), self.prefix.clone());
        let found = self.wait(async move { store.list_with_delimiter(Some(&prefix)).await })?;
        let names = found.objects.iter().filter_map(|object| object.location.filename());
        Ok(names.map(str::to_owned).collect())
    }

    fn open_read(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        // The lock guards a cache only: whoever broke left it whole.
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let bytes = match last {
            Some((kept, bytes)) if kept == name => bytes,
            Some(_) | None => self.fetch(name)?,
        };
        let keep = Some((name.to_owned(), bytes.clone()));
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = keep;
        Ok(Box::new(Object(bytes)))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let (store, path) = self.at(name);
        self.wait(async move { store.delete(&path).await })
    }

    fn create(&self, _name: &str) -> io::Result<Box<dyn DiskFile>> {
        reading_only()
    }

    fn open(&self, _name: &str) -> io::Result<Box<dyn DiskFile>> {
        reading_only()
    }

    fn rename(&self, _from: &str, _to: &str) -> io::Result<()> {
        reading_only()
    }

    fn sync_dir(&self) -> io::Result<()> {
        // What the store acknowledged, it keeps.
        Ok(())
    }

    fn lock(&self, _name: &str) -> io::Result<Box<dyn DiskFile>> {
        reading_only()
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        // Nobody waits for an answer any more; waiting is not allowed on an asynchronous thread.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// A copy, whole in memory.
#[derive(Debug)]
struct Object(Bytes);

impl DiskFile for Object {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        let count = buffer.len().min(self.0.len() - from);
        buffer[..count].copy_from_slice(&self.0[from..from + count]);
        Ok(count)
    }

    fn write_at(&mut self, _bytes: &[u8], _offset: u64) -> io::Result<()> {
        reading_only()
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_bucket_and_http_stays_on_this_machine() {
        let check = |place: &str, endpoint: &str, want: Result<(&str, &str), &str>| {
            let found = Location::parse(place, endpoint, "r").map_err(|error| error.to_string());
            match want {
                Ok((bucket, prefix)) => {
                    let found = found.unwrap();
                    assert_eq!((found.bucket.as_str(), found.prefix.as_ref()), (bucket, prefix));
                }
                Err(want) => assert!(found.as_ref().unwrap_err().contains(want), "{found:?}"),
            }
        };
        check("s3://books/node-1/log", "", Ok(("books", "node-1/log")));
        check("s3://books", "https://s3.example.org", Ok(("books", "")));
        check("s3://b/p", "http://127.0.0.1:9000", Ok(("b", "p")));
        check("s3://b/p", "http://[::1]:9000/", Ok(("b", "p")));
        check("s3://b/p", "http://localhost", Ok(("b", "p")));
        check("s3://b/p", "http://10.0.0.7:9000", Err("is not https"));
        check("s3://b/p", "http://127.0.0.1.example.org", Err("is not https"));
        check("s3://b/p", "10.0.0.7", Err("is not https"));
        check("s3:///p", "", Err("names no bucket"));
        check("s3://b/p//q", "", Err("names no bucket"));
        check("gs://b/p", "", Err("names no bucket"));
    }
}
