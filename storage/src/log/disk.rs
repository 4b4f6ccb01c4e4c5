//! The disk below the log and the snapshots: a small trait, and the real folder behind it.
//!
//! The trait exists because of its simulated twin [`super::sim::SimDisk`], which forgets what was
//! not synced. A name is always relative to the one folder that a disk stands for.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::format::BLOCK;

/// A folder of files.
pub trait Disk: Debug + Send + Sync {
    /// The names in the folder, in no particular order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes a new, empty file; fails if it exists.
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file for reading.
    fn open_read(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Gives a file another name; a file that has the new name is replaced.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes all creations, renames and removals durable.
    fn sync_dir(&self) -> io::Result<()>;
    /// Takes the lock file against other processes until the result is dropped;
    /// [`io::ErrorKind::WouldBlock`] if another one has it.
    fn lock(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
}

/// A file.
pub trait DiskFile: Debug + Send {
    /// Reads at `offset`; fewer bytes than asked for only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all bytes at `offset`.
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes all writes durable. An error is final: what the disk holds is unknown from then on.
    fn sync(&mut self) -> io::Result<()>;
    /// Length of the file in bytes.
    fn size(&self) -> io::Result<u64>;
}

/// How writes reach the device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WritePath {
    /// Through the page cache, then `fdatasync`: works on every file system.
    Buffered,
    /// `O_DIRECT | O_DSYNC` where the file system takes it, else buffered.
    Direct,
}

/// A real folder.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    write_path: WritePath,
}

impl Directory {
    /// Opens the folder, made if missing.
    ///
    /// # Errors
    /// Of the operating system, if the folder cannot be made.
    pub fn open(path: &Path, write_path: WritePath) -> io::Result<Self> {
        if !path.is_dir() {
            fs::create_dir_all(path)?;
            if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                File::open(parent)?.sync_all()?;
            }
        }
        Ok(Self { path: path.to_owned(), write_path })
    }

    fn file(&self, name: &str, options: &mut OpenOptions) -> io::Result<Box<dyn DiskFile>> {
        let path = self.path.join(name);
        let buffered = options.read(true).write(true).open(&path)?;
        let direct = match self.write_path {
            WritePath::Buffered => None,
            WritePath::Direct => open_direct(&path)?,
        };
        Ok(Box::new(RealFile { buffered, direct }))
    }
}

/// Opens for direct, synchronous writes; `None` where the file system has no such thing.
fn open_direct(path: &Path) -> io::Result<Option<File>> {
    let flags = libc::O_DIRECT | libc::O_DSYNC;
    match OpenOptions::new().write(true).custom_flags(flags).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(None),
        Err(error) => Err(error),
    }
}

impl Disk for Directory {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            // A name that is not UTF-8 is not one of ours.
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.file(name, OpenOptions::new().create_new(true))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.file(name, &mut OpenOptions::new())
    }

    fn open_read(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let buffered = File::open(self.path.join(name))?;
        Ok(Box::new(RealFile { buffered, direct: None }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn lock(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).open(self.path.join(name))?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(RealFile { buffered: file, direct: None })),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// A file read through the page cache; written through it, or past it when `direct` is there.
#[derive(Debug)]
struct RealFile {
    buffered: File,
    direct: Option<File>,
}

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.buffered.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let aligned = offset.is_multiple_of(BLOCK as u64)
            && bytes.len().is_multiple_of(BLOCK)
            && bytes.as_ptr().addr().is_multiple_of(BLOCK);
        match &self.direct {
            Some(direct) if aligned => direct.write_all_at(bytes, offset),
            Some(_) => {
                self.buffered.write_all_at(bytes, offset)?;
                self.buffered.sync_data()
            }
            None => self.buffered.write_all_at(bytes, offset),
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        match &self.direct {
            // Each write came back durable.
            Some(_) => Ok(()),
            None => self.buffered.sync_data(),
        }
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.buffered.metadata()?.len())
    }
}
