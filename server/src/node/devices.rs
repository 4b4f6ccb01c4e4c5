//! The devices that ingest knows: loaded from the registry at start, followed while running.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use dataflow::Windows;
use ingest::{Directory, Registration};
use meter::wire::dlms::Templates;
use storage::registry::{Device, DeviceKind, DeviceRev, Registry};
use tracing::warn;

/// Devices of a node at most.
const DEVICES_MAX: u32 = 1_500_000;
/// Pause after the registry did not answer.
const RETRY: Duration = Duration::from_secs(1);

/// The directory with all devices of the registry, up to a revision.
pub(super) async fn directory(registry: &Registry) -> anyhow::Result<(Arc<Directory>, DeviceRev)> {
    let directory = Directory::new(DEVICES_MAX);
    let through = load(registry, &directory, DeviceRev::default())
        .await
        .context("cannot load the devices of the registry")?;
    Ok((Arc::new(directory), through))
}

/// Sets the replay windows as of the log's end.
pub(super) fn restore_windows(directory: &Directory, windows: &Windows) {
    let meters = windows
        .meters
        .iter()
        .map(|(id, window)| (ingest::Device::Meter(*id), window.highest, window.seen));
    let gateways = windows
        .gateways
        .iter()
        .map(|(id, window)| (ingest::Device::Gateway(*id), window.highest, window.seen));
    directory.restore_windows(meters.chain(gateways));
}

/// Adds devices that the registry gets while the node runs, after those up to `since`.
pub(super) async fn follow(
    registry: Arc<Registry>,
    directory: Arc<Directory>,
    mut since: DeviceRev,
) {
    let mut changed = registry.watch_devices();
    loop {
        changed.borrow_and_update();
        match load(&registry, &directory, since).await {
            Ok(rev) => since = rev,
            Err(error) => {
                warn!(error = format!("{error:#}"), "new devices are not known yet");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        }
        if changed.changed().await.is_err() {
            return;
        }
    }
}

async fn load(
    registry: &Registry,
    directory: &Directory,
    since: DeviceRev,
) -> anyhow::Result<DeviceRev> {
    let templates = Templates::built_in();
    let mut refused = Vec::new();
    let rev = registry
        .devices_since(since, |device| {
            let result = registration(&templates, &device)
                .and_then(|registration| Ok(directory.register(&registration)?));
            if let Err(error) = result {
                refused.push((device.title, error));
            }
        })
        .await?;
    for (title, error) in refused {
        warn!(%title, error = format!("{error:#}"), "a device cannot be served");
    }
    Ok(rev)
}

fn registration(templates: &Templates, device: &Device) -> anyhow::Result<Registration> {
    let template = templates
        .find(&device.template)
        .with_context(|| format!("no push template {:?}", device.template))?;
    let kind = match device.kind {
        DeviceKind::Meter(meter) => ingest::Device::Meter(meter),
        DeviceKind::Gateway(gateway) => ingest::Device::Gateway(gateway),
    };
    Ok(Registration {
        title: device.title,
        encryption_key: device.keys.encryption,
        authentication_key: device.keys.authentication,
        device: kind,
        template: template.0,
        behind: device.gateway,
    })
}
