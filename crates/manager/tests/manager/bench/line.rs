//! The line between the manager and its GitLab, which can be cut.

use std::net::SocketAddr;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What becomes of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// They reach GitLab.
    Whole,
    /// Old ones break off, and new ones are closed at once.
    Down,
    /// Old ones break off; new ones are taken and never answered.
    HalfClosed,
}

/// Carries connections to `gitlab`; answers where it listens.
pub async fn carry(gitlab: SocketAddr) -> (SocketAddr, watch::Sender<Line>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (state, watched) = watch::channel(Line::Whole);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let line = *watched.borrow();
            match line {
                Line::Down => drop(stream),
                Line::HalfClosed => drop(tokio::spawn(swallow(stream, watched.clone()))),
                Line::Whole => drop(tokio::spawn(join(stream, gitlab, watched.clone()))),
            }
        }
    });
    (address, state)
}

async fn join(mut stream: TcpStream, gitlab: SocketAddr, mut line: watch::Receiver<Line>) {
    let mut other = TcpStream::connect(gitlab).await.unwrap();
    let cut = async move {
        let _ = line.wait_for(|line| *line != Line::Whole).await;
    };
    tokio::select! { _ = tokio::io::copy_bidirectional(&mut stream, &mut other) => {}, () = cut => {} }
}

async fn swallow(mut stream: TcpStream, mut line: watch::Receiver<Line>) {
    let mut buffer = [0; 4096];
    let read = async { while matches!(stream.read(&mut buffer).await, Ok(1..)) {} };
    let mended = async move {
        let _ = line.wait_for(|line| *line != Line::HalfClosed).await;
    };
    tokio::select! { () = read => {}, () = mended => {} }
}
