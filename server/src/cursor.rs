//! The sink's place in the spool, on disk: what ClickHouse has, and the block under way.
//!
//! Synced and renamed, the folder too: the spool is given up below the place, so that after a power
//! cut no older place may come back.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use meter::Seq;

/// A place.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Place {
    /// ClickHouse has the effects of all entries below this.
    pub next: Seq,
    /// The block under way covers the entries from `next` to below this; equal to `next` when
    /// none is.
    pub intent: Seq,
}

/// The file that holds the place.
#[derive(Clone, Debug)]
pub struct Cursor {
    path: PathBuf,
}

impl Cursor {
    /// The cursor of a data folder.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self { path: folder.join("cursor") }
    }

    /// The place, the very beginning when there is none yet.
    ///
    /// # Errors
    /// The file cannot be read, or is not a cursor.
    pub fn load(&self) -> io::Result<Place> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Place { next: Seq(1), intent: Seq(1) });
            }
            Err(error) => return Err(error),
        };
        let mut numbers = text.split_whitespace().map(str::parse);
        match (numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(next)), Some(Ok(intent)), None) if next <= intent => {
                Ok(Place { next: Seq(next), intent: Seq(intent) })
            }
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "{} is not a cursor; remove it to send the whole spool again",
                    self.path.display()
                ),
            )),
        }
    }

    /// Writes the place down.
    ///
    /// # Errors
    /// The file cannot be written; the old place stands.
    pub fn save(&self, place: Place) -> io::Result<()> {
        let fresh = self.path.with_extension("new");
        let mut file = File::create(&fresh)?;
        writeln!(file, "{} {}", place.next.0, place.intent.0)?;
        file.sync_data()?;
        fs::rename(&fresh, &self.path)?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_comes_back_and_nonsense_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let cursor = Cursor::new(folder.path());
        assert_eq!(cursor.load().unwrap(), Place { next: Seq(1), intent: Seq(1) });
        let place = Place { next: Seq(7), intent: Seq(9) };
        cursor.save(place).unwrap();
        assert_eq!(cursor.load().unwrap(), place);
        for nonsense in ["", "7", "9 7", "7 9 1", "a b"] {
            fs::write(folder.path().join("cursor"), nonsense).unwrap();
            assert!(cursor.load().is_err(), "{nonsense:?}");
        }
    }
}
