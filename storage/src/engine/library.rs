//! Which `libchdb` is used and where it is looked for. `deploy/fetch-libchdb.sh` fetches it.

use std::path::{Path, PathBuf};

use super::EngineError;

/// The npm package that holds the library (`npm pack` gets it without installing anything).
pub const LIBRARY_PACKAGE: &str = "@chdb/lib-linux-x64-gnu@26.7.3-stable.1";

/// The package's integrity as npm states it.
pub const LIBRARY_INTEGRITY: &str = "sha512-XP97mMqnc5tZpKQywR8N7cLTsHNiTmHr30pC5mzo3jWmukjKn2IBa60c2B/gWUNcuFjOMjWoorQICCqBVj5wpw==";

/// The name of the library's file.
const FILE_NAME: &str = "libchdb.so";

/// Finds the library: the path given, else `METERD_CHDB_LIB`, else `libchdb.so` in `folder`
/// (where `deploy/fetch-libchdb.sh` puts it).
///
/// # Errors
/// [`EngineError::LibraryMissing`] with the command that fetches it. A path that is named but
/// wrong is an error too: falling back to another library would surprise.
pub fn locate_library(given: Option<&Path>, folder: &Path) -> Result<PathBuf, EngineError> {
    let named = given
        .map(Path::to_path_buf)
        .or_else(|| std::env::var_os("METERD_CHDB_LIB").map(PathBuf::from));
    let path = named.unwrap_or_else(|| folder.join(FILE_NAME));
    if path.is_file() {
        return Ok(path);
    }
    Err(EngineError::LibraryMissing { tried: vec![path], folder: folder.to_path_buf() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fetching_script_has_the_same_pin() {
        let script = include_str!("../../../deploy/fetch-libchdb.sh");
        let version = LIBRARY_PACKAGE.rsplit_once('@').unwrap().1;
        assert!(script.contains(&format!("VERSION={version}\n")));
        assert!(script.contains(&format!("INTEGRITY=\"{LIBRARY_INTEGRITY}\"\n")));
    }
}
