//! Platforms that images are made for, and what this machine lacks to make them.

use anyhow::{Result, bail};
use std::path::Path;
use std::process::Command;

/// A platform of our images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Platform {
    Amd64,
    Arm64,
}

impl Platform {
    /// What this machine is.
    pub fn here() -> Result<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(Self::Amd64),
            "aarch64" => Ok(Self::Arm64),
            other => bail!("there are no images for {other}"),
        }
    }

    /// Reads `linux/amd64`.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "linux/amd64" => Ok(Self::Amd64),
            "linux/arm64" => Ok(Self::Arm64),
            other => bail!("unknown platform {other:?}: linux/amd64 and linux/arm64 are known"),
        }
    }

    /// The architecture in the words of images and of Debian.
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The target of Rust whose programs are static.
    pub fn target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-musl",
            Self::Arm64 => "aarch64-unknown-linux-musl",
        }
    }

    /// Fails with the commands that would add what is missing here.
    pub fn check(self) -> Result<()> {
        let mut missing = Vec::new();
        if !has_target(self.target()) {
            missing.push(format!("rustup target add {}", self.target()));
        }
        if self != Self::here()? {
            let compiler = self.compiler();
            if Command::new(compiler).arg("--version").output().is_err() {
                missing.push(format!("a C compiler for musl named {compiler} (musl.cc or crosstool-ng make one)"));
            }
            if !Path::new("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists() && self == Self::Arm64 {
                missing.push("apt-get install qemu-user-static binfmt-support".to_owned());
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        bail!("images for linux/{} cannot be made here; what is missing:\n  {}", self.architecture(), missing.join("\n  "))
    }

    /// The C compiler for another machine's programs.
    pub fn compiler(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-linux-musl-gcc",
            Self::Arm64 => "aarch64-linux-musl-gcc",
        }
    }
}

/// Whether Rust can build for a target.
pub fn has_target(target: &str) -> bool {
    let output = Command::new("rustc").args(["--print", "target-libdir", "--target", target]).output();
    output.ok().and_then(|output| String::from_utf8(output.stdout).ok()).is_some_and(|path| Path::new(path.trim()).exists())
}

#[cfg(test)]
mod tests {
    use super::Platform;

    #[test]
    fn platforms_are_written_as_images_write_them() {
        assert_eq!(Platform::parse("linux/arm64").unwrap(), Platform::Arm64);
        assert!(Platform::parse("windows/amd64").unwrap_err().to_string().contains("linux/arm64"));
    }
}
