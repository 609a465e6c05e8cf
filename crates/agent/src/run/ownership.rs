//! Files of the user that the build container runs as, where the runner does not open them to everybody
//! (`FF_DISABLE_UMASK_FOR_KUBERNETES_EXECUTOR`).
//!
//! GitLab Runner has a container of its own find that user out; here the build container's end of the socket tells.

use crate::build::Build;
use crate::trace::Trace;
use anyhow::{Context, Result};
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};

/// What new files of the helper may be from here on: readable, and the owner's to write.
const USUAL_MASK: u32 = 0o022;

/// Ends the rule that every user may write what the helper makes.
pub fn close() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(USUAL_MASK));
}

/// Gives everything below the paths to the user of the build container, for which it waits.
///
/// # Errors
/// When the build container's end does not tell its user.
pub async fn give(socket: &Path, paths: &[&Path], trace: &Trace) -> Result<()> {
    let (user, group) = Build::connect(socket).await.owner().context("failed to ask who the build container runs as")?;
    let paths: Vec<PathBuf> = paths.iter().map(|path| path.to_path_buf()).collect();
    let given = tokio::task::spawn_blocking(move || give_all(&paths, user, group));
    if let Err(error) = given.await.context("giving files away was given up")? {
        let line = format!("\x1b[0;33mWARNING: files could not be given to user {user}: {error:#}");
        trace.line(&line).await;
    }
    Ok(())
}

/// Links themselves are given, not what they lead to.
fn give_all(paths: &[PathBuf], user: u32, group: u32) -> Result<()> {
    for entry in paths.iter().flat_map(|path| walkdir::WalkDir::new(path).follow_links(false)) {
        let entry = entry.context("failed to read the builds directory")?;
        let meta = entry.metadata().context("failed to read the builds directory")?;
        if (meta.uid(), meta.gid()) != (user, group) {
            lchown(entry.path(), Some(user), Some(group)).with_context(|| entry.path().display().to_string())?;
        }
    }
    Ok(())
}
