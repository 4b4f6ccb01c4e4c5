//! Passwords of the embedded engine: made at the first start, kept in the data folder, readable by
//! its owner only.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use storage::engine::Credential;

/// The node's own user: it writes.
const WRITER: &str = "meterd";
/// Analysts' user: it reads within limits.
pub(super) const READER: &str = "analyst";

/// Writer and reader of the embedded engine.
pub(super) fn credentials(data_dir: &Path) -> io::Result<(Credential, Credential)> {
    let writer = password(&data_dir.join("clickhouse-writer.password"))?;
    let reader = password(&data_dir.join("clickhouse-analyst.password"))?;
    Ok((
        Credential { user: WRITER.to_owned(), password: writer },
        Credential { user: READER.to_owned(), password: reader },
    ))
}

/// Reads the password in a file, or makes one.
fn password(path: &Path) -> io::Result<String> {
    match fs::read_to_string(path) {
        Ok(text) => return Ok(text.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut bytes = [0_u8; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    write_private(path, &text)?;
    Ok(text)
}

/// Writes a file that only its owner reads.
pub(super) fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    writeln!(file, "{text}")?;
    file.sync_all()
}
