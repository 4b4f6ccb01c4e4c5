//! Where the demonstration lives: its folder, its addresses, its settings' file.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use loadgen::free_address;

use crate::clock::Virtual;

/// Marks a folder as the demo's own, so that nothing else is ever removed.
const MARK: &str = "this-is-a-meterd-demo";

/// Addresses on this machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    /// Web API.
    pub(crate) api: SocketAddr,
    /// Embedded ClickHouse.
    pub(crate) clickhouse: SocketAddr,
    /// Meters and gateways, UDP and TCP.
    pub(crate) meters: SocketAddr,
}

impl Addresses {
    /// The usual ports where they are free, others where not.
    ///
    /// # Errors
    /// No free port.
    pub(crate) fn choose() -> anyhow::Result<Self> {
        Ok(Self { api: free(8080)?, clickhouse: free(8123)?, meters: free(4059)? })
    }

    /// Any free ports, for nodes that nobody visits and of which several may start at once.
    ///
    /// # Errors
    /// No free port.
    pub(crate) fn any() -> anyhow::Result<Self> {
        Ok(Self { api: any_port()?, clickhouse: any_port()?, meters: any_port()? })
    }
}

/// `wanted`, or another port where TCP or UDP uses it now.
pub(crate) fn free(wanted: u16) -> anyhow::Result<SocketAddr> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, wanted));
    if TcpListener::bind(address).and_then(|_tcp| UdpSocket::bind(address)).is_ok() {
        return Ok(address);
    }
    any_port()
}

fn any_port() -> anyhow::Result<SocketAddr> {
    free_address().context("no free port on 127.0.0.1")
}

/// Makes the demo's folder anew; one that is not the demo's own is refused.
///
/// # Errors
/// The folder is somebody else's, or cannot be made.
pub(crate) fn prepare(folder: &Path) -> anyhow::Result<()> {
    let mark = folder.join(MARK);
    if folder.exists() && !mark.exists() && fs::read_dir(folder)?.next().is_some() {
        bail!(
            "{} is not empty and not the demo's own; name another with --data-dir",
            folder.display()
        );
    }
    if mark.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot clear {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    fs::write(mark, "The demo removes this folder when it starts again.\n")?;
    Ok(())
}

/// Writes the node's settings; returns the file.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn write_settings(
    folder: &Path,
    addresses: Addresses,
    clock: Virtual,
) -> anyhow::Result<PathBuf> {
    let path = folder.join("demo.toml");
    let Addresses { api, clickhouse, meters } = addresses;
    let Virtual { start, anchor_ms, pace, end } = clock;
    let data = toml::Value::String(folder.join("data").display().to_string());
    let text = format!(
        "# Written by `meterd demo`: a node on virtual time.\n\
         [node]\ndata_dir = {data}\ntick_ms = 50\nsnapshot_s = 10\n\
         [ingest]\nudp_listen = \"{meters}\"\ntcp_listen = \"{meters}\"\n\
         [log]\nsegment_bytes = 8388608\nreserve_bytes = 8388608\ncommit_bytes_max = 4194304\n\
         [clickhouse]\nlisten = \"{clickhouse}\"\nblock_age_ms_max = 300\n\
         [api]\nlisten = \"{api}\"\n\
         [clock]\nsource = \"virtual\"\nstart = {}\nanchor_ms = {anchor_ms}\npace = {pace}\nend = {}\n",
        start.0, end.0
    );
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use meter::UnixSeconds;

    use super::*;
    use crate::config::Settings;

    #[test]
    fn the_settings_read_and_a_foreign_folder_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("demo");
        prepare(&own).unwrap();
        let clock = Virtual { start: UnixSeconds(10), anchor_ms: 5, pace: 7, end: UnixSeconds(20) };
        let addresses = Addresses::choose().unwrap();
        let path = write_settings(&own, addresses, clock).unwrap();
        let settings = Settings::load(Some(&path)).unwrap();
        assert_eq!(settings.clock(), crate::clock::Clock::Virtual(clock));
        prepare(&own).unwrap();
        assert!(!path.exists(), "a demo's folder starts empty");

        fs::write(folder.path().join("precious"), "").unwrap();
        assert!(prepare(folder.path()).is_err());
        assert!(folder.path().join("precious").exists());
    }
}
