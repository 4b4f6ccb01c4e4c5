//! What a backup says of itself: its format, the entries it holds, and each file with its hash.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The newest format, the one that is written.
const FORMAT: u32 = 1;
const NAME: &str = "manifest.json";

/// A backup's table of contents.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Manifest {
    /// Format of the backup.
    pub format: u32,
    /// The program that wrote it.
    pub product: String,
    /// When, seconds since 1970.
    pub made_at_s: u64,
    /// All entries from 1 to below this are in it.
    pub next: u64,
    /// The newest change that its registry knows.
    pub newest_change: u64,
    /// Every file.
    pub files: Vec<Listed>,
}

/// A file of a backup.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Listed {
    /// Path within the backup.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// SHA-256, hexadecimal.
    pub sha256: String,
}

impl Manifest {
    /// An empty one.
    #[must_use]
    pub fn new(made_at_s: u64) -> Self {
        let product = env!("CARGO_PKG_VERSION").to_owned();
        Self { format: FORMAT, product, made_at_s, next: 1, newest_change: 0, files: Vec::new() }
    }

    /// Reads the manifest of a folder; `None` when there is none.
    ///
    /// # Errors
    /// It is damaged, or a later version wrote it.
    pub fn load(folder: &Path) -> anyhow::Result<Option<Self>> {
        let path = folder.join(NAME);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        // The format first: the rest of a later one may not read.
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let damaged = || format!("{} is damaged; take another backup", path.display());
        let Head { format } = serde_json::from_str(&text).with_context(damaged)?;
        if format > FORMAT {
            bail!(
                "{} has format {format}, this program reads up to {FORMAT}; use the newer program",
                path.display()
            );
        }
        Ok(Some(serde_json::from_str(&text).with_context(damaged)?))
    }

    /// Writes it durably; with it a backup is whole.
    ///
    /// # Errors
    /// Of the file system.
    pub fn save(&self, folder: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        write_durably(&folder.join(NAME), text.as_bytes())
    }

    /// Holds every file against what is written here.
    ///
    /// # Errors
    /// The first file that is missing, shorter, longer or changed.
    pub fn check(&self, folder: &Path) -> anyhow::Result<()> {
        for listed in &self.files {
            let path = folder.join(&listed.path);
            let found = Listed::of(folder, &listed.path)
                .with_context(|| format!("{} of the backup does not read", path.display()))?;
            ensure!(
                found == *listed,
                "{} is not as the backup was made: {} bytes, SHA-256 {}; expected {} bytes, {}; \
                 take another backup",
                path.display(),
                found.bytes,
                found.sha256,
                listed.bytes,
                listed.sha256
            );
        }
        Ok(())
    }

    /// What is written of a file.
    #[must_use]
    pub fn listed(&self, path: &str) -> Option<&Listed> {
        self.files.iter().find(|listed| listed.path == path)
    }
}

impl Listed {
    /// A file of a folder as it is.
    ///
    /// # Errors
    /// It does not read.
    pub fn of(folder: &Path, path: &str) -> io::Result<Self> {
        let mut file = File::open(folder.join(path))?;
        let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            hash.update(&buffer[..count]);
            bytes += count as u64;
        }
        let sha256 = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { path: path.to_owned(), bytes, sha256 })
    }
}

/// Writes a file beside its place, syncs and renames it, and syncs the folder.
pub(super) fn write_durably(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let fresh = path.with_extension("new");
    let write = || {
        let mut file = File::create(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)?;
        File::open(path.parent().unwrap_or_else(|| Path::new(".")))?.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_as_written_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        assert!(Manifest::load(at).unwrap().is_none());
        std::fs::write(at.join("a"), b"content").unwrap();
        let mut manifest = Manifest::new(7);
        manifest.files.push(Listed::of(at, "a").unwrap());
        manifest.save(at).unwrap();
        let back = Manifest::load(at).unwrap().unwrap();
        assert_eq!(back, manifest);
        back.check(at).unwrap();
        for spoilt in [&b"contenT"[..], b"conten", b"content!"] {
            std::fs::write(at.join("a"), spoilt).unwrap();
            let error = back.check(at).unwrap_err().to_string();
            assert!(error.contains("not as the backup was made"), "{error}");
        }
        std::fs::remove_file(at.join("a")).unwrap();
        assert!(back.check(at).is_err());
        std::fs::write(at.join(NAME), "{\"format\": 2, \"more\": 1}").unwrap();
        let error = Manifest::load(at).unwrap_err().to_string();
        assert!(error.contains("use the newer program"), "{error}");
        std::fs::write(at.join(NAME), "{").unwrap();
        assert!(Manifest::load(at).is_err());
    }
}
