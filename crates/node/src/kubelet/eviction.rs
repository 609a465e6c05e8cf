//! A full disk takes the pod that fills it, before it takes everything else.
//!
//! A kubelet keeps a tenth of the disk free; a person's machine often has less than that from the start. So the bound
//! is an amount that lets this machine go on (traces, images, the person's own files), and a pod that uses little is
//! left alone: ending it would free nothing.

use super::Kubelet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Time between two looks.
const INTERVAL: Duration = Duration::from_secs(5);
/// Bytes that stay free; on a small disk a twentieth of it.
const KEPT_FREE: u64 = 512 << 20;
/// A pod below this many bytes is not ended.
const SMALL: u64 = 64 << 20;

/// Looks at the disk until the node ends.
pub async fn watch(kubelet: Arc<Kubelet>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    loop {
        ticks.tick().await;
        let kubelet = kubelet.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || look(&kubelet)).await {
            tracing::error!(%error, "failed to look at the disk of the pods");
        }
    }
}

fn look(kubelet: &Kubelet) {
    let directory = &kubelet.shared.directory;
    let Ok(disk) = rustix::fs::statvfs(directory) else { return };
    let (free, size) = (disk.f_bavail.saturating_mul(disk.f_frsize), disk.f_blocks.saturating_mul(disk.f_frsize));
    if !is_short(free, size) {
        return;
    }
    let running = kubelet.running();
    let used: Vec<u64> = running.iter().map(|handle| usage(&directory.join(&handle.uid))).collect();
    if let Some(index) = victim(&used) {
        let (handle, mebibytes) = (&running[index], used[index] >> 20);
        let message = format!(
            "The node was low on resource: ephemeral-storage. {} MiB are free, the pod was using {mebibytes} MiB.",
            free >> 20
        );
        handle.warn("Evicted", message.clone());
        handle.fail("Evicted", message, Duration::ZERO);
    }
}

fn is_short(free: u64, size: u64) -> bool {
    free < KEPT_FREE.min(size / 20)
}

/// The one that uses most, if that is worth it.
fn victim(used: &[u64]) -> Option<usize> {
    let (index, most) = used.iter().enumerate().max_by_key(|(_, bytes)| **bytes)?;
    (*most >= SMALL).then_some(index)
}

/// Bytes on disk below a directory, without other file systems; what vanishes meanwhile counts as nothing.
fn usage(directory: &Path) -> u64 {
    let Ok(root) = std::fs::symlink_metadata(directory) else { return 0 };
    let mut sum = 0_u64;
    let mut waiting = vec![directory.to_owned()];
    while let Some(path) = waiting.pop() {
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.dev() != root.dev() {
                continue;
            }
            sum = sum.saturating_add(metadata.blocks().saturating_mul(512));
            if metadata.is_dir() {
                waiting.push(entry.path());
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::{KEPT_FREE, SMALL, is_short, usage, victim};

    #[test]
    fn the_largest_pod_goes_when_the_disk_is_short() {
        assert!(is_short(KEPT_FREE - 1, 1 << 40) && !is_short(KEPT_FREE, 1 << 40));
        assert!(!is_short(100 << 20, 1 << 30), "a small disk has a small bound");
        assert_eq!(victim(&[SMALL, SMALL * 3, SMALL * 2]), Some(1));
        assert_eq!(victim(&[SMALL - 1, 0]), None, "ending small pods frees nothing");
        assert_eq!(victim(&[]), None);
    }

    #[test]
    fn usage_counts_what_is_below() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("a")).unwrap();
        std::fs::write(directory.path().join("a/b"), vec![1; 100_000]).unwrap();
        assert!((100_000..200_000).contains(&usage(directory.path())));
    }
}
