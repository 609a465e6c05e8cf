//! GitLab's answers to patches and updates, over a real connection to a server that answers with the input.

use bytes::Bytes;
use gitlab_api::UpdateJob;
use gitlab_client::{Client, ClientConfig, Hints, Patch};
use job::Secret;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

/// A call must be over by then: the server closes after its answer.
const OVER: Duration = Duration::from_secs(20);
/// The longest interval that a server can ask for.
const LONGEST_INTERVAL: Duration = Duration::from_secs(15 * 60);

struct Line {
    answer: Arc<Mutex<Vec<u8>>>,
    url: String,
    runtime: tokio::runtime::Runtime,
}

static LINE: LazyLock<Mutex<Line>> = LazyLock::new(|| Mutex::new(open()));

fn open() -> Line {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port on the loopback interface");
    let url = format!("http://{}", listener.local_addr().expect("the address of a listener"));
    let answer = Arc::<Mutex<Vec<u8>>>::default();
    let shared = answer.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = shared.lock().unwrap_or_else(PoisonError::into_inner).clone();
            // Who hangs up early is no concern of the server's.
            let _ = serve(stream, &answer);
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    Line { answer, url, runtime }
}

/// Reads a request and answers with these bytes.
fn serve(mut stream: TcpStream, answer: &[u8]) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
    while !is_whole(&request) {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            length => request.extend_from_slice(&buffer[..length]),
        }
    }
    stream.write_all(answer)?;
    stream.shutdown(Shutdown::Both)
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.trim().parse().ok());
    body.len() >= length.unwrap_or(0)
}

/// Every answer leads to an outcome or an error, soon, and never to an interval without end.
pub fn run(input: &[u8]) -> String {
    let line = LINE.lock().unwrap_or_else(PoisonError::into_inner);
    *line.answer.lock().unwrap_or_else(PoisonError::into_inner) = input.to_vec();
    let call = async {
        // A pool of its own for each: the server does not keep connections, whatever the answer says.
        let client = Client::new(&ClientConfig { url: line.url.clone(), ..ClientConfig::default() }).expect("a client");
        let token = Secret::new("token");
        if is_patch(input) {
            let patched = client.patch_trace(1, &token, Patch::at(0, Bytes::from_static(b"x"))).await;
            patched.map(|(outcome, hints)| (format!("{outcome:?}"), hints))
        } else {
            let updated = client.update_job(1, &token, &UpdateJob::default()).await;
            updated.map(|(outcome, hints)| (format!("{outcome:?}"), hints))
        }
    };
    let end = line.runtime.block_on(async { tokio::time::timeout(OVER, call).await });
    match end.expect("a call comes to its end") {
        Ok((outcome, hints)) => {
            assert!(bounded(&hints), "{hints:?}");
            format!("{outcome} {hints:?}")
        }
        Err(error) => format!("error: {}", error.to_string().chars().take(60).collect::<String>()),
    }
}

fn bounded(hints: &Hints) -> bool {
    hints.update_interval.is_none_or(|interval| !interval.is_zero() && interval <= LONGEST_INTERVAL)
}

/// Which call is answered. Trouble that the client waits for and asks again is only worth its time in a patch, which is
/// sent once.
fn is_patch(input: &[u8]) -> bool {
    let status = String::from_utf8_lossy(input.get(9..12).unwrap_or_default()).into_owned();
    let waits = matches!(status.as_str(), "408" | "429") || status.starts_with(['5', '6', '7', '8', '9']);
    waits || input.len().is_multiple_of(2)
}
