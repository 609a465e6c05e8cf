//! A program in the helper container, with its output in the trace.
//!
//! Both outputs share one pipe, so that their order is kept. The program is the first of a process group, which is
//! killed as a whole when the stage is given up: git starts helpers that would go on otherwise.

use crate::trace::Trace;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// What a program left in the background has to say in this time is still taken.
const QUIET: Duration = Duration::from_millis(250);
/// And no longer than this.
const LONGEST: Duration = Duration::from_secs(5);

/// Runs a program to its end.
///
/// # Errors
/// When it cannot be started.
pub async fn run(command: &mut Command, trace: &Trace) -> io::Result<ExitStatus> {
    let (reader, writer) = io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).process_group(0).kill_on_drop(true);
    let spawned = command.spawn();
    // The command holds our ends of the pipe, which would never end otherwise.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = spawned?;
    let group = Group::of(&child);
    let mut output = Receiver::from_owned_fd(reader.into())?;
    let mut buffer = vec![0; 16 * 1024];
    let status = loop {
        tokio::select! {
            biased;
            read = output.read(&mut buffer) => match read? {
                0 => break child.wait().await?,
                length => trace.write(&buffer[..length]).await,
            },
            status = child.wait() => {
                drain(&mut output, &mut buffer, trace).await;
                break status?;
            }
        }
    };
    group.has_ended();
    Ok(status)
}

/// Takes what is left after the end of the program, which others may hold open for ever.
async fn drain(output: &mut Receiver, buffer: &mut [u8], trace: &Trace) {
    let by = Instant::now() + LONGEST;
    while Instant::now() < by {
        match tokio::time::timeout(QUIET, output.read(buffer)).await {
            Ok(Ok(length)) if length > 0 => trace.write(&buffer[..length]).await,
            _ => break,
        }
    }
}

/// Kills the whole group unless its first process has ended by itself.
struct Group(i32);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).unwrap_or(0))
    }

    fn has_ended(mut self) {
        self.0 = 0;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.0 > 1 {
            // SAFETY: kill only takes numbers. The first process is not reaped yet, so the number is still its own.
            unsafe { libc::kill(-self.0, libc::SIGKILL) };
        }
    }
}
