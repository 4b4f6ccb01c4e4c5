//! How the socket tier listens, and its limits.

use std::net::SocketAddr;
use std::time::Duration;

use meter::SystemTitle;

use crate::FailureLimit;

/// How the socket tier listens, and its limits. Whoever makes one vouches for it: all counts and
/// sizes at least 1.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where datagrams of meters and gateways arrive.
    pub udp_listen: SocketAddr,
    /// Where gateways and meters connect.
    pub tcp_listen: SocketAddr,
    /// Event loops, a thread each.
    pub shards: u16,
    /// System title of this head-end, the sender of acknowledgements.
    pub head_end_title: SystemTitle,
    /// System title that commands are sealed under: another than [`Self::head_end_title`], whose
    /// counters are those of the notifications it confirms.
    pub command_title: SystemTitle,
    /// Receive buffer asked for each UDP socket; what was granted is in [`crate::Bound`].
    pub udp_receive_buffer_bytes: usize,
    /// Let the kernel coalesce datagrams of one sender (it does where the sender segments).
    pub udp_coalesce: bool,
    /// Longest frame, wrapper header included, at most 65,535.
    pub frame_bytes_max: usize,
    /// Entries after which a batch goes to the log.
    pub entries_max: usize,
    /// Age at which a batch goes to the log though there is more to read.
    pub age_ms_max: u64,
    /// Batches of a shard that the log may have without having answered; then the shard waits.
    /// The channel of answers needs room for as many.
    pub batches_in_flight_max: usize,
    /// TCP connections of the node; fewer where the limit on open files is lower.
    pub connections_max: u32,
    /// Files of the process that connections leave to others.
    pub files_reserved: u32,
    /// Authenticated TCP connections of the node.
    pub sessions_max: u32,
    /// Failed authentications borne from one source.
    pub failures: FailureLimit,
    /// Time from connecting to the first authentic frame.
    pub hello_ms_max: u64,
    /// Time from the first to the last byte of a frame on a stream.
    pub frame_age_ms_max: u64,
    /// Time without any byte after which a connection is closed.
    pub idle_ms_max: u64,
    /// Acknowledgements that may wait for a connection that does not read.
    pub out_bytes_max: usize,
}

impl Config {
    pub(crate) const fn age_max(&self) -> Duration {
        Duration::from_millis(self.age_ms_max)
    }

    pub(crate) const fn hello_max(&self) -> Duration {
        Duration::from_millis(self.hello_ms_max)
    }

    pub(crate) const fn frame_age_max(&self) -> Duration {
        Duration::from_millis(self.frame_age_ms_max)
    }

    pub(crate) const fn idle_max(&self) -> Duration {
        Duration::from_millis(self.idle_ms_max)
    }
}
