//! A node that runs scripts of its own instead of programs: what the API server does with streams, without containers.

use futures::StreamExt;
use futures::future::BoxFuture;
use kube_server::backend::LogStream;
use kube_server::{ApiError, ExecOptions, ExecSession, LogOptions, PodBackend, PodRef};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc::UnboundedReceiver;

/// Bytes that wait between a script and the server.
const PIPE: usize = 4096;

/// The node.
#[derive(Default)]
pub struct Scripted {
    /// Scripts that run now.
    pub running: Arc<AtomicUsize>,
    /// Bytes the endless script has written.
    pub written: Arc<AtomicUsize>,
}

impl Scripted {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }
}

struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Streams {
    stdin: DuplexStream,
    stdout: DuplexStream,
    stderr: DuplexStream,
    sizes: Option<UnboundedReceiver<(u16, u16)>>,
    written: Arc<AtomicUsize>,
}

impl PodBackend for Scripted {
    fn logs(&self, pod: PodRef, options: LogOptions) -> BoxFuture<'_, Result<LogStream, ApiError>> {
        Box::pin(async move {
            if options.previous {
                let why = format!("previous terminated container \"{}\" in pod \"{}\" not found", options.container, pod.name);
                return Err(ApiError::bad_request(why));
            }
            let time = if options.timestamps { "2026-01-02T03:04:05Z " } else { "" };
            let all = ["one", "two", "three"];
            let skipped = options.tail_lines.map_or(0, |lines| all.len().saturating_sub(usize::try_from(lines).unwrap()));
            let container = options.container;
            let text: String = all[skipped..].iter().map(|line| format!("{time}{container} {line}\n")).collect();
            let since = options.since_seconds.map(|seconds| format!("since {seconds}\n")).unwrap_or_default();
            let later = futures::stream::once(async move {
                if options.follow {
                    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
                }
                Ok(if options.follow { "followed\n".into() } else { bytes::Bytes::new() })
            });
            Ok(futures::stream::iter([Ok((since + &text).into())]).chain(later).boxed())
        })
    }

    fn exec(&self, _pod: PodRef, options: ExecOptions) -> BoxFuture<'_, Result<ExecSession, ApiError>> {
        if options.command[0] == "missing" {
            return Box::pin(async { Err(ApiError::internal("exec: \"missing\": executable file not found in $PATH")) });
        }
        self.running.fetch_add(1, Ordering::SeqCst);
        let running = Running(self.running.clone());
        let (stdin, script_in) = tokio::io::duplex(PIPE);
        let (stdout, script_out) = tokio::io::duplex(PIPE);
        let (stderr, script_err) = tokio::io::duplex(PIPE);
        let (resize, sizes) = tokio::sync::mpsc::unbounded_channel();
        let streams = Streams {
            stdin: script_in,
            stdout: script_out,
            stderr: script_err,
            sizes: options.tty.then_some(sizes),
            written: self.written.clone(),
        };
        let session = ExecSession {
            stdin: options.stdin.then(|| Box::new(stdin) as _),
            stdout: Some(Box::new(stdout)),
            stderr: (!options.tty).then(|| Box::new(stderr) as _),
            resize: options.tty.then_some(resize),
            exit: Box::pin(async move {
                let _running = running;
                script(&options, streams).await
            }),
        };
        Box::pin(async move { Ok(session) })
    }
}

async fn script(options: &ExecOptions, mut streams: Streams) -> i32 {
    match options.command[0].as_str() {
        "echo" => {
            let text = format!("{}\n", options.command[1..].join(" "));
            streams.stdout.write_all(text.as_bytes()).await.unwrap();
            0
        }
        "cat" => {
            tokio::io::copy(&mut streams.stdin, &mut streams.stdout).await.unwrap();
            0
        }
        "fail" => {
            streams.stderr.write_all(b"it failed\n").await.unwrap();
            options.command[1].parse().unwrap()
        }
        "size" => {
            let (columns, rows) = streams.sizes.as_mut().unwrap().recv().await.unwrap();
            streams.stdout.write_all(format!("{columns}x{rows}\n").as_bytes()).await.unwrap();
            0
        }
        "line" => {
            let mut line = Vec::new();
            while !matches!(line.last(), Some(b'\n' | b'\r')) {
                line.push(streams.stdin.read_u8().await.unwrap());
            }
            streams.stdout.write_all(&[b"read ", line.as_slice(), b"\n"].concat()).await.unwrap();
            0
        }
        "yes" => loop {
            if streams.stdout.write_all(&[b'y'; 1024]).await.is_err() {
                return 141;
            }
            streams.written.fetch_add(1024, Ordering::SeqCst);
        },
        _ => std::future::pending().await,
    }
}
