//! Layers and layout directories, written by hand.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use sandbox::IdRange;
use sandbox::image::{BuiltinImage, HostOptions, ImageStore, StoreOptions};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Says so and returns true when the test cannot run.
pub fn root_is_missing() -> bool {
    let missing = !rustix::process::geteuid().is_root();
    if missing {
        eprintln!("skipped, because changing owners and making whiteouts needs root");
    }
    missing
}

pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

pub fn store(scratch: &tempfile::TempDir) -> ImageStore {
    ImageStore::open(&scratch.path().join("store"), IdRange::default(), StoreOptions::default()).expect("a store")
}

pub fn host_store(scratch: &tempfile::TempDir, tools: &Path, agent: &Path) -> ImageStore {
    let path = format!("{}/bin:/nowhere/bin:/usr/bin", tools.display());
    let host = HostOptions { paths: vec![tools.to_owned()], mask: Vec::new(), path: Some(path) };
    let files = vec![(agent.to_owned(), PathBuf::from("/usr/bin/gantry-agent"))];
    let builtin = vec![BuiltinImage { name: "gantry-helper:1.0".to_owned(), files }];
    let options = StoreOptions { host, builtin, ..StoreOptions::default() };
    ImageStore::open(&scratch.path().join("store"), IdRange::default(), options).expect("a store")
}

/// How a layer is packed.
#[derive(Clone, Copy)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

/// One entry of a tar stream.
struct Written<'a> {
    kind: u8,
    path: &'a str,
    link: &'a str,
    content: &'a [u8],
    /// Size in the header, when it lies.
    claimed: Option<u64>,
    owner: (u64, u64),
    mode: u32,
}

const FILE: Written<'_> = Written { kind: b'0', path: "", link: "", content: b"", claimed: None, owner: (0, 0), mode: 0o644 };

/// A tar stream being written.
#[derive(Clone, Default)]
pub struct Layer {
    tar: Vec<u8>,
}

impl Layer {
    pub fn new() -> Self {
        Layer::default()
    }

    pub fn file(self, path: &str, content: &[u8]) -> Self {
        self.entry(&Written { path, content, ..FILE })
    }

    pub fn owned(self, path: &str, owner: (u64, u64), mode: u32) -> Self {
        self.entry(&Written { path, content: b"x", owner, mode, ..FILE })
    }

    pub fn directory(self, path: &str) -> Self {
        self.entry(&Written { kind: b'5', path, mode: 0o755, ..FILE })
    }

    pub fn symbolic_link(self, path: &str, link: &str) -> Self {
        self.entry(&Written { kind: b'2', path, link, ..FILE })
    }

    pub fn hard_link(self, path: &str, link: &str) -> Self {
        self.entry(&Written { kind: b'1', path, link, ..FILE })
    }

    pub fn device(self, path: &str) -> Self {
        self.entry(&Written { kind: b'3', path, ..FILE })
    }

    /// A file whose header promises more than follows.
    pub fn claims(self, path: &str, size: u64) -> Self {
        self.entry(&Written { path, claimed: Some(size), ..FILE })
    }

    /// Extended attributes of the next entry.
    pub fn attributes(self, attributes: &[(&str, &[u8])]) -> Self {
        let mut records = Vec::new();
        for (name, value) in attributes {
            let rest = 1 + "SCHILY.xattr.".len() + name.len() + 1 + value.len() + 1;
            let length = (1..).find(|digits| (rest + digits).to_string().len() == *digits).expect("a length") + rest;
            records.extend_from_slice(format!("{length} SCHILY.xattr.{name}=").as_bytes());
            records.extend_from_slice(value);
            records.push(b'\n');
        }
        self.entry(&Written { kind: b'x', path: "attributes", content: &records, ..FILE })
    }

    fn entry(mut self, written: &Written<'_>) -> Self {
        for (kind, name) in [(b'L', written.path), (b'K', written.link)] {
            if name.len() > 100 {
                self = self.entry(&Written { kind, path: "long", content: name.as_bytes(), ..FILE });
            }
        }
        let mut header = tar::Header::new_gnu();
        let bytes = header.as_mut_bytes();
        let (path, link) = (written.path.as_bytes(), written.link.as_bytes());
        bytes[..path.len().min(100)].copy_from_slice(&path[..path.len().min(100)]);
        bytes[157..157 + link.len().min(100)].copy_from_slice(&link[..link.len().min(100)]);
        bytes[156] = written.kind;
        header.set_size(written.claimed.unwrap_or(written.content.len() as u64));
        header.set_uid(written.owner.0);
        header.set_gid(written.owner.1);
        header.set_mode(written.mode);
        header.set_mtime(1_600_000_000);
        header.set_cksum();
        self.tar.extend_from_slice(header.as_bytes());
        self.tar.extend_from_slice(written.content);
        self.tar.resize(self.tar.len().next_multiple_of(512), 0);
        self
    }

    fn finish(mut self) -> Vec<u8> {
        // a promise that is not kept must run into the end, not into zeros
        let kept = self.tar.len();
        if !self.tar.is_empty() {
            self.tar.resize(kept + 1024, 0);
        }
        self.tar
    }
}

/// A layout directory being written.
pub struct Layout {
    directory: PathBuf,
    index: RefCell<Vec<Value>>,
    layers: RefCell<Vec<String>>,
}

impl Layout {
    pub fn new(directory: &Path) -> Self {
        fs::create_dir_all(directory.join("blobs/sha256")).expect("a directory");
        Layout { directory: directory.to_owned(), index: RefCell::default(), layers: RefCell::default() }
    }

    pub fn architecture() -> &'static str {
        match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
    }

    pub fn reference(&self, tag: &str) -> String {
        format!("oci:{}:{tag}", self.directory.display())
    }

    /// Writes an image; its diff ids in hex are returned.
    pub fn image(&self, tag: &str, layers: &[(Layer, Compression)]) -> Vec<String> {
        let (descriptor, diff_ids) = self.manifest(Self::architecture(), layers);
        self.name(tag, descriptor);
        diff_ids
    }

    pub fn index(&self, tag: &str, images: &[(&str, Layer)]) {
        let manifests: Vec<Value> = images
            .iter()
            .map(|(architecture, layer)| {
                let (mut descriptor, _) = self.manifest(architecture, &[(layer.clone(), Compression::Gzip)]);
                descriptor["platform"] = json!({"os": "linux", "architecture": architecture});
                descriptor
            })
            .collect();
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        let descriptor = self.blob(index.to_string().as_bytes(), "application/vnd.oci.image.index.v1+json");
        self.name(tag, descriptor);
    }

    fn manifest(&self, architecture: &str, layers: &[(Layer, Compression)]) -> (Value, Vec<String>) {
        let mut descriptors = Vec::new();
        let mut diff_ids = Vec::new();
        for (layer, compression) in layers {
            let tar = layer.clone().finish();
            diff_ids.push(sha256(&tar));
            let blob = pack(&tar, *compression);
            self.layers.borrow_mut().push(sha256(&blob));
            descriptors.push(self.blob(&blob, "application/vnd.oci.image.layer.v1.tar+gzip"));
        }
        let ids: Vec<String> = diff_ids.iter().map(|id| format!("sha256:{id}")).collect();
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": {"Env": ["PATH=/bin", "A=b=c"], "Cmd": ["sh"], "WorkingDir": "/w", "User": "alice"},
            "rootfs": {"type": "layers", "diff_ids": ids},
        });
        let config = self.blob(config.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json");
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": descriptors});
        (self.blob(manifest.to_string().as_bytes(), "application/vnd.oci.image.manifest.v1+json"), diff_ids)
    }

    fn blob(&self, content: &[u8], media_type: &str) -> Value {
        let hex = sha256(content);
        fs::write(self.directory.join("blobs/sha256").join(&hex), content).expect("a blob");
        json!({"mediaType": media_type, "digest": format!("sha256:{hex}"), "size": content.len()})
    }

    fn name(&self, tag: &str, mut descriptor: Value) {
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        self.index.borrow_mut().push(descriptor);
        let index = json!({"schemaVersion": 2, "manifests": *self.index.borrow()});
        fs::write(self.directory.join("index.json"), index.to_string()).expect("an index");
    }

    pub fn spoil_last_layer(&self) {
        let hex = self.layers.borrow().last().cloned().expect("a layer");
        let path = self.directory.join("blobs/sha256").join(hex);
        let mut content = fs::read(&path).expect("a blob");
        let last = content.len() - 1;
        content[last] ^= 1;
        fs::write(&path, content).expect("a blob");
    }

    pub fn blobs(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(self.directory.join("blobs/sha256")).expect("blobs").flatten();
        entries
            .map(|entry| {
                let digest = format!("sha256:{}", entry.file_name().to_string_lossy());
                (digest, fs::read(entry.path()).expect("a blob"))
            })
            .collect()
    }

    /// Digest of the manifest under each tag.
    pub fn manifests(&self) -> BTreeMap<String, String> {
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        self.index
            .borrow()
            .iter()
            .map(|it| (text(&it["annotations"]["org.opencontainers.image.ref.name"]), text(&it["digest"])))
            .collect()
    }

    pub fn layers(&self) -> Vec<String> {
        self.layers.borrow().iter().map(|hex| format!("sha256:{hex}")).collect()
    }
}

fn pack(tar: &[u8], compression: Compression) -> Vec<u8> {
    match compression {
        Compression::None => tar.to_vec(),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(tar).expect("gzip");
            encoder.finish().expect("gzip")
        }
        Compression::Zstd => zstd::encode_all(tar, 1).expect("zstd"),
    }
}

fn sha256(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}
