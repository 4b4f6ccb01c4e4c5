//! What can go wrong with the log, one variant for each reaction of the caller.

use std::io;

use meter::Seq;

/// An error of the log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused; nothing was changed.
    #[error(
        "log: cannot {operation} {file}; check that the folder exists, is writable and healthy"
    )]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file or folder it was tried on.
        file: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A write or sync of the log failed earlier. What the disk holds is unknown: stop the process
    /// and start again, which recovers from the files. Never retry.
    #[error("log: poisoned by an earlier write or sync error; stop, mend the disk, start again")]
    Poisoned,
    /// The disk is full. Nothing of the batch was taken; it may be offered again later.
    #[error("log: disk full; free space on the log's file system, the log resumes by itself")]
    Full,
    /// A batch can never fit into a segment.
    #[error("log: batch of {bytes} bytes, at most {bytes_max} fit; send fewer entries at once")]
    TooLarge {
        /// Size of the encoded batch.
        bytes: usize,
        /// What fits.
        bytes_max: usize,
    },
    /// Committed entries cannot be read back. Nothing was changed or skipped.
    #[error(
        "log: {file} is damaged at byte {offset}: {what}, but entry {expected} was committed and \
         should be here or begin the next segment; restore the file from the backup or archive, \
         then check with `meterd log verify`"
    )]
    Damaged {
        /// The segment.
        file: String,
        /// Byte in it where the damaged batch or header begins.
        offset: u64,
        /// The entry that should begin there.
        expected: Seq,
        /// What is wrong.
        what: &'static str,
    },
    /// The segment was written by a newer program.
    #[error(
        "log: {file} has format version {version}, this program reads up to {version_max}; use the newer program"
    )]
    FutureVersion {
        /// The segment.
        file: String,
        /// Its version.
        version: u16,
        /// The newest version known here.
        version_max: u16,
    },
    /// The entries asked for were retired: a snapshot covers them.
    #[error("log: entry {wanted} is retired, the log begins at {first}")]
    Retired {
        /// The entry asked for.
        wanted: Seq,
        /// The first entry that is still held.
        first: Seq,
    },
    /// Another process writes to this log.
    #[error("log: {file} is locked by another process; stop it or use another data folder")]
    Locked {
        /// The lock file.
        file: String,
    },
    /// A setting cannot work.
    #[error("log: {0}")]
    Config(&'static str),
    /// The consumer of committed entries is gone, so that they can no longer be applied.
    #[error("log: the consumer of committed entries is gone; stop and start again")]
    Disconnected,
}

impl Error {
    pub(crate) fn io(operation: &'static str, file: &str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, file: file.to_owned(), source }
    }
}
