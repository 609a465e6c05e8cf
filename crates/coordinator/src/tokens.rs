//! Tokens: GitLab's prefixes, so that maskers and scanners know them, and 160 random bits.

use rand::Rng;

/// A runner's token.
pub fn runner() -> String {
    with_prefix("glrt-")
}

/// A job's token.
pub fn job() -> String {
    with_prefix("glcbt-")
}

fn with_prefix(prefix: &str) -> String {
    let mut bytes = [0_u8; 20];
    rand::rng().fill_bytes(&mut bytes);
    format!("{prefix}{}", hex::encode(bytes))
}
