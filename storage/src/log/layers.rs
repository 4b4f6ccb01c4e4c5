//! Several folders seen as one, to read a log whose older segments lie elsewhere.

use std::io;
use std::sync::Arc;

use super::disk::{Disk, DiskFile};

/// Folders of which a file is taken from the first that has it. For reading only.
#[derive(Clone, Debug)]
pub struct Layers(pub Vec<Arc<dyn Disk>>);

fn reading_only<T>() -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "these folders are read only"))
}

impl Disk for Layers {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for layer in &self.0 {
            names.append(&mut layer.list()?);
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    fn open_read(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        for layer in &self.0 {
            match layer.open_read(name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                opened => return opened,
            }
        }
        Err(io::ErrorKind::NotFound.into())
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

    fn remove(&self, _name: &str) -> io::Result<()> {
        reading_only()
    }

    fn sync_dir(&self) -> io::Result<()> {
        reading_only()
    }

    fn lock(&self, _name: &str) -> io::Result<Box<dyn DiskFile>> {
        reading_only()
    }
}
