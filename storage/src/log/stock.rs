//! Spare segments: prepared ahead with written zeros, so that a commit never allocates.
//!
//! Only here does the log ask the file system for space, so only here can the disk be full. Some
//! spares are the *reserve*: they are taken for urgent entries only, when no more space is to be had.

use std::fmt;
use std::io;
use std::sync::Arc;

use super::disk::{Disk, DiskFile};
use super::format::ZEROS;
use super::{Error, Urgency};

pub(crate) struct Stock {
    disk: Arc<dyn Disk>,
    segment_size: u64,
    reserve: usize,
    /// Numbers of the spares that are ready.
    ready: Vec<u64>,
    making: Option<Making>,
    number_next: u64,
    /// The last attempt to prepare a spare found no space.
    full: bool,
}

/// A spare that is not all zeros yet.
struct Making {
    number: u64,
    file: Box<dyn DiskFile>,
    done: u64,
}

impl Stock {
    /// Finds the spares, removes what is unfinished or of another size.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        segment_size: u64,
        reserve: usize,
    ) -> Result<Self, Error> {
        let (ready, making) = (Vec::new(), None);
        let mut stock =
            Self { disk, segment_size, reserve, ready, making, number_next: 1, full: false };
        for name in stock.disk.list().map_err(Error::io("list", "the log's folder"))? {
            match parse(&name) {
                Some((number, true)) if stock.size(&name)? == segment_size => {
                    stock.number_next = stock.number_next.max(number + 1);
                    stock.ready.push(number);
                }
                Some(_) => stock.disk.remove(&name).map_err(Error::io("remove", &name))?,
                None => {}
            }
        }
        Ok(stock)
    }

    fn size(&self, name: &str) -> Result<u64, Error> {
        let file = self.disk.open_read(name).map_err(Error::io("open", name))?;
        file.size().map_err(Error::io("read", name))
    }

    /// Names of the spares that are ready.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        self.ready.iter().map(|number| ready_name(*number))
    }

    pub(crate) fn is_full(&self) -> bool {
        self.full
    }

    /// Whether the reserve stands; without it only urgent entries are taken.
    pub(crate) fn has_reserve(&self) -> bool {
        self.ready.len() >= self.reserve
    }

    /// Takes a spare, made at once if there is none.
    pub(crate) fn take(&mut self, urgency: Urgency) -> Result<String, Error> {
        while self.ready.len() <= self.reserve && !self.full {
            match self.prepare(self.segment_size) {
                Ok(()) | Err(Error::Full) => {}
                Err(error) => return Err(error),
            }
        }
        let reserve = match urgency {
            Urgency::Routine => self.reserve,
            Urgency::Urgent => 0,
        };
        if self.ready.len() <= reserve {
            return Err(Error::Full);
        }
        self.ready.pop().map(ready_name).ok_or(Error::Full)
    }

    /// Makes a file of another size than a spare's, for a batch that no spare holds. The reserve is
    /// left alone.
    pub(crate) fn make(&mut self, size: u64) -> Result<String, Error> {
        let number = self.number();
        let (making, ready) = (making_name(number), ready_name(number));
        let made = self.disk.create(&making).and_then(|mut file| {
            write_zeros(file.as_mut(), 0, size)?;
            file.sync()?;
            self.disk.rename(&making, &ready)?;
            self.disk.sync_dir()
        });
        match made {
            Ok(()) => Ok(ready),
            Err(error) if is_full(&error) => {
                self.full = true;
                match self.disk.remove(&making) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        Err(Error::io("remove", &making)(error))
                    }
                    _ => Err(Error::Full),
                }
            }
            Err(error) => Err(Error::io("prepare", &making)(error)),
        }
    }

    /// Takes in a file that has served, renamed from `name`; removes it when there are enough.
    pub(crate) fn recycle(&mut self, name: &str, spares_max: usize) -> Result<(), Error> {
        if self.ready.len() < spares_max.max(self.reserve) && self.size(name)? == self.segment_size
        {
            let number = self.number();
            let spare = ready_name(number);
            self.disk.rename(name, &spare).map_err(Error::io("rename", name))?;
            self.ready.push(number);
        } else {
            self.disk.remove(name).map_err(Error::io("remove", name))?;
        }
        self.full = false;
        Ok(())
    }

    /// Tries again to have a reserve and one spare more.
    pub(crate) fn replenish(&mut self) -> Result<(), Error> {
        self.full = false;
        while self.ready.len() <= self.reserve {
            self.prepare(self.segment_size)?;
        }
        Ok(())
    }

    /// Works `bytes` further on a spare if one is wanted, so that its cost spreads over commits.
    pub(crate) fn prepare_ahead(&mut self, bytes: u64) -> Result<(), Error> {
        if self.ready.len() > self.reserve || self.full {
            return Ok(());
        }
        match self.prepare(bytes) {
            Ok(()) | Err(Error::Full) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Writes up to `bytes` zeros; gives up the spare when the disk is full.
    fn prepare(&mut self, bytes: u64) -> Result<(), Error> {
        let number = self.making.as_ref().map_or(self.number_next, |making| making.number);
        let name = making_name(number);
        match self.try_prepare(&name, bytes) {
            Ok(()) => Ok(()),
            Err(error) if is_full(&error) => {
                self.full = true;
                if self.making.take().is_some() {
                    self.disk.remove(&name).map_err(Error::io("remove", &name))?;
                }
                Err(Error::Full)
            }
            Err(error) => Err(Error::io("prepare", &name)(error)),
        }
    }

    fn try_prepare(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        if self.making.is_none() {
            let file = self.disk.create(name)?;
            let number = self.number();
            self.making = Some(Making { number, file, done: 0 });
        }
        let making = self.making.as_mut().expect("made above");
        let until = making.done.saturating_add(bytes).min(self.segment_size);
        write_zeros(making.file.as_mut(), making.done, until)?;
        making.done = until;
        making.file.sync()?;
        if making.done == self.segment_size {
            let number = making.number;
            self.disk.rename(name, &ready_name(number))?;
            self.making = None;
            self.disk.sync_dir()?;
            self.ready.push(number);
        }
        Ok(())
    }

    fn number(&mut self) -> u64 {
        let number = self.number_next;
        self.number_next += 1;
        number
    }
}

impl fmt::Debug for Stock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stock").field("ready", &self.ready).field("full", &self.full).finish()
    }
}

/// Writes zeros from one offset to another.
fn write_zeros(file: &mut dyn DiskFile, from: u64, until: u64) -> io::Result<()> {
    let mut done = from;
    while done < until {
        let zeros = ZEROS.0.len().min(usize::try_from(until - done).unwrap_or(usize::MAX));
        file.write_at(&ZEROS.0[..zeros], done)?;
        done += zeros as u64;
    }
    Ok(())
}

/// Whether the error means that there is no space.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn ready_name(number: u64) -> String {
    format!("spare-{number:010}.seg")
}

fn making_name(number: u64) -> String {
    format!("spare-{number:010}.tmp")
}

/// The number of a spare, and whether it is ready.
fn parse(name: &str) -> Option<(u64, bool)> {
    let (number, kind) = name.strip_prefix("spare-")?.split_once('.')?;
    Some((number.parse().ok()?, kind == "seg"))
}
