//! How fast logs are masked, by how many secrets there are, beside copying the same bytes.
//!
//! Prints MB/s of processor time and the ratio to the run without secrets for each kind of log; the secrets are masked in all their
//! forms, and the log has some of them. Nothing is asserted: the goal (500 MB/s a core, flat from 0 to 1,000 secrets)
//! stands in the design.
//!
//! `cargo bench --package job-log --bench masking`

use gitlab_api::log::Stream;
use job_log::Log;
use job_log::encodings;
use job_log::masker::Masker;
use job_log::patterns::{Patterns, TOKEN, TOKENS};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of each log.
const SIZE: usize = 32 * 1024 * 1024;
/// Bytes of a write, as they come from a script.
const WRITE: usize = 64 * 1024;
/// Rounds, the best of which counts: others work on the machine too.
const ROUNDS: usize = 5;
const SECRETS: [usize; 5] = [0, 10, 100, 300, 1000];

fn main() {
    let secrets: Vec<Vec<u8>> = (0..1000u64).map(secret).collect();
    println!("{:<12} {:>8} {:>9} {:>10} {:>8} {:>12}", "log", "secrets", "patterns", "MB/s", "ratio", "stamped MB/s");
    for (name, log) in [("compiler", compiler(&secrets)), ("base64", noise()), ("progress", progress())] {
        let mut first = None;
        for count in SECRETS {
            let values = secrets[..count].iter().flat_map(|value| encodings::of(value).into_iter().chain([value.clone()]));
            let values: Vec<_> = values.collect();
            let patterns = values.len();
            let prefixes = || [TOKEN].into_iter().chain(TOKENS).map(|prefix| prefix.as_bytes().to_vec());
            let shared = Arc::new(Patterns::new(values.clone(), prefixes()));
            let masked = best(|| {
                let (mut masker, mut out) = (Masker::new(shared.clone()), Vec::new());
                for piece in log.chunks(WRITE) {
                    out.clear();
                    masker.push(piece, &mut out);
                    black_box(&out);
                }
            });
            let stamped = best(|| {
                let mut all = Log::new(Patterns::new(values.clone(), prefixes()), true);
                log.chunks(WRITE).for_each(|piece| drop(black_box(all.push(Stream::WORK, piece, 0))));
            });
            let (masked, stamped) = (speed(masked), speed(stamped));
            let ratio = masked / *first.get_or_insert(masked);
            println!("{name:<12} {count:>8} {patterns:>9} {masked:>10.0} {ratio:>8.2} {stamped:>12.0}");
        }
    }
    let log = compiler(&[]);
    let copied = speed(best(|| {
        let mut out = Vec::new();
        for piece in log.chunks(WRITE) {
            out.clear();
            out.extend_from_slice(piece);
            black_box(&out);
        }
    }));
    println!("{:<12} {:>8} {:>9} {copied:>10.0}", "copy", "-", "-");
}

fn best(run: impl Fn()) -> Duration {
    let rounds = (0..ROUNDS).map(|_| {
        let begun = on_processor();
        run();
        on_processor() - begun
    });
    rounds.min().unwrap_or_default()
}

/// Time that this thread had a processor: a busy machine must not look like slow code.
fn on_processor() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or_default())
}

fn speed(time: Duration) -> f64 {
    SIZE as f64 / 1e6 / time.as_secs_f64()
}

/// Numbers that look random and are the same each time.
fn random(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

fn secret(number: u64) -> Vec<u8> {
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/!%\" ";
    let mut seed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let length = 12 + number as usize % 40;
    (0..length).map(|_| letters[random(&mut seed) as usize % letters.len()]).collect()
}

/// What a build prints, with a secret every 100 lines.
fn compiler(secrets: &[Vec<u8>]) -> Vec<u8> {
    let (mut log, mut line) = (Vec::with_capacity(SIZE + 200), 0usize);
    while log.len() < SIZE {
        line += 1;
        let text = format!(
            "\x1b[32m   Compiling\x1b[0m package-{line} v1.{}.0 (/builds/group/project/crates/package-{line}) in {:.2}s\n",
            line % 50,
            line as f64 / 7.0
        );
        log.extend_from_slice(text.as_bytes());
        if line % 100 == 0 && !secrets.is_empty() {
            log.extend_from_slice(&secrets[line / 100 % secrets.len()]);
            log.push(b'\n');
        }
    }
    log.truncate(SIZE);
    log
}

/// The alphabet of tokens, without a newline for long.
fn noise() -> Vec<u8> {
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut seed = 42;
    (0..SIZE).map(|at| if at % 4096 == 4095 { b'\n' } else { letters[random(&mut seed) as usize % 64] }).collect()
}

/// Short rewrites of a line.
fn progress() -> Vec<u8> {
    let mut log = Vec::with_capacity(SIZE + 100);
    let mut step = 0usize;
    while log.len() < SIZE {
        step += 1;
        log.extend_from_slice(
            format!("\rReceiving objects: {:>3}% ({step}/1000000), 12.3 MiB | 4.5 MiB/s", step % 100).as_bytes(),
        );
    }
    log.truncate(SIZE);
    log
}
