//! The outer end of a terminal, as a stream.
//!
//! A terminal has no end of file: when its last user inside has gone, reading fails with `EIO`, which is the end here.

use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;

/// Reads what the program prints, or writes what it reads.
#[derive(Clone)]
pub(super) struct Terminal(Arc<AsyncFd<OwnedFd>>);

impl Terminal {
    pub(super) fn new(master: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&master, true)?;
        // SAFETY: the descriptor is owned, moved in, and never replaced, so it stays the one that was registered.
        let registered = unsafe { AsyncFd::register(master) };
        Ok(Self(Arc::new(registered?)))
    }

    /// Follows a window: columns and rows.
    pub(super) fn resizer(&self) -> mpsc::UnboundedSender<(u16, u16)> {
        let (sender, mut sizes) = mpsc::unbounded_channel();
        // Holds the terminal no longer than its readers do.
        let terminal = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            while let Some((columns, rows)) = sizes.recv().await {
                let Some(terminal) = terminal.upgrade() else { return };
                let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
                let _ = rustix::termios::tcsetwinsize(terminal.get_ref(), size);
            }
        });
        sender
    }
}

impl AsyncRead for Terminal {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(context))?;
            let space = buffer.initialize_unfilled();
            match rustix::io::read(self.0.get_ref(), space) {
                Ok(count) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(Errno::IO) => return Poll::Ready(Ok(())),
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_write_ready(context))?;
            match rustix::io::write(self.0.get_ref(), bytes) {
                Ok(count) => return Poll::Ready(Ok(count)),
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(Errno::IO) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn the_last_user_inside_ends_the_stream_after_what_it_wrote() {
        use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        unlockpt(&master).unwrap();
        let inside = ioctl_tiocgptpeer(&master, flags).unwrap();
        let mut terminal = Terminal::new(master).unwrap();
        let size = terminal.resizer();
        size.send((101, 37)).unwrap();
        terminal.clone().write_all(b"typed\n").await.unwrap();
        // The kernel repeats what is typed no later than it can be read.
        assert_eq!(rustix::io::read(&inside, &mut [0; 64]).unwrap(), 6);
        rustix::io::write(&inside, b"printed\n").unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while rustix::termios::tcgetwinsize(&inside).unwrap().ws_col != 101 {
            assert!(std::time::Instant::now() < deadline, "the size did not arrive");
            tokio::task::yield_now().await;
        }
        drop(inside);
        let mut text = Vec::new();
        terminal.read_to_end(&mut text).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&text), "typed\r\nprinted\r\n");
    }
}
