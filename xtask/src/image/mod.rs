//! `cargo xtask image`: gantry's own images, and those for tests, without a daemon or a registry.
//!
//! An image is some layers, a configuration and their digests: little enough to write ourselves, and then the same
//! sources give the same digest on every machine.

mod compile;
mod debian;
mod fixtures;
mod layer;
mod layout;
mod platform;
mod release;
mod sbom;
mod tree;

pub use compile::place_independent;
pub use fixtures::{TestImage, test_images};
pub use platform::has_target;

use anyhow::{Context, Result, bail};
use platform::Platform;
use serde_json::{Value, json};

const USAGE: &str = "usage: cargo xtask image [--platform linux/amd64|linux/arm64]… [--fresh]
       cargo xtask image --test

Makes gantry's own images, gantry and gantry-helper, as OCI layouts in target/images, each with a list of what it holds
(NAME.spdx.json). Prints for each: name, digest, size, layout, list.

  --platform P   for this platform (default: this machine's); several make one image for all of them
  --fresh        take the Debian of the helper image from its mirror again, with the updates of the day
  --test         makes the images for tests instead; prints each as NAME<TAB>LAYOUT";

/// Runs `cargo xtask image` with what follows on the command line.
pub fn run(arguments: &[String]) -> Result<()> {
    if arguments.iter().any(|word| word == "--help" || word == "-h") {
        println!("{USAGE}");
        return Ok(());
    }
    if arguments == ["--test"] {
        crate::setup::image_packages()?;
        for image in test_images()? {
            println!("{}\t{}", image.name, image.layout.display());
        }
        return Ok(());
    }
    let request = request(arguments)?;
    crate::setup::image_packages()?;
    release::make(&request)
}

fn request(arguments: &[String]) -> Result<release::Request> {
    let mut request = release::Request { platforms: vec![], fresh: false };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--fresh" => request.fresh = true,
            "--platform" => request.platforms.push(Platform::parse(words.next().context("--platform needs a value")?)?),
            other => bail!("unknown argument {other:?}\n{USAGE}"),
        }
    }
    if request.platforms.is_empty() {
        request.platforms.push(Platform::here()?);
    }
    request.platforms.sort();
    request.platforms.dedup();
    Ok(request)
}

/// Name and tag of this version's helper image.
fn helper_name() -> String {
    format!("gantry-helper:{}", env!("CARGO_PKG_VERSION"))
}

/// How the helper image is run.
fn helper_config() -> Value {
    json!({
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        "Entrypoint": ["/usr/bin/gantry-agent"],
    })
}

#[cfg(test)]
mod tests {
    use super::request;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn platforms_are_taken_once_and_in_one_order() {
        let request = request(&words("--platform linux/arm64 --platform linux/amd64 --platform linux/arm64")).unwrap();
        assert_eq!(request.platforms.len(), 2);
        assert_eq!(request.platforms[0].architecture(), "amd64");
    }

    #[test]
    fn an_argument_that_is_not_known_is_an_error() {
        assert!(request(&words("--plattform linux/amd64")).is_err());
        assert!(request(&words("--platform")).is_err());
    }
}
