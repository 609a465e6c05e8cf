//! Images as OCI image layouts: a directory with `oci-layout`, `index.json` and `blobs/sha256/…`.
//!
//! No daemon and no registry is needed to write one, and everything reads it: `ctr images import` (packed with `tar -C
//! LAYOUT -cf - .`), `skopeo copy oci:LAYOUT`, and our embedded node (`image: oci:LAYOUT`). The image's name stands in
//! two annotations, since containerd wants the whole name and the others the tag alone.

use super::layer::{Layer, digest};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// An image for one platform.
#[derive(Clone, Debug)]
pub struct Image {
    /// As images write it: `amd64`, `arm64`.
    pub architecture: &'static str,
    /// When it was made, in RFC 3339; part of the digest.
    pub created: String,
    /// `Entrypoint`, `Env`, `User` and so on.
    pub config: Value,
    /// From the bottom up.
    pub layers: Vec<Layer>,
}

/// Writes the images of one name, one for each platform, and returns the digest that the name stands for.
///
/// The directory must be new. Layers are linked to where they lie, or copied.
pub fn write(directory: &Path, name: &str, images: &[Image]) -> Result<String> {
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs).with_context(|| format!("failed to make {}", blobs.display()))?;
    let mut manifests = images.iter().map(|image| manifest(&blobs, image)).collect::<Result<Vec<_>>>()?;
    // One platform needs no index of its own. Several do: a name stands for one thing.
    let mut named = match manifests.len() {
        1 => manifests.remove(0),
        _ => put(&blobs, INDEX, &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}))?,
    };
    let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    named["annotations"] = json!({"io.containerd.image.name": whole(name), "org.opencontainers.image.ref.name": tag});
    let result = named["digest"].as_str().unwrap_or_default().to_owned();
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [named]});
    fs::write(directory.join("index.json"), index.to_string())?;
    fs::write(directory.join("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}).to_string())?;
    Ok(result)
}

/// A name with its registry, as the kubelet looks it up in containerd: without one, it means Docker Hub's.
fn whole(name: &str) -> String {
    match name.split_once('/') {
        Some((registry, _)) if registry.contains(['.', ':']) || registry == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    }
}

/// Writes what one platform needs and returns the descriptor of its manifest.
fn manifest(blobs: &Path, image: &Image) -> Result<Value> {
    let history: Vec<_> = image.layers.iter().map(|layer| json!({"created": image.created, "created_by": layer.what})).collect();
    let config = json!({
        "created": image.created,
        "architecture": image.architecture,
        "os": "linux",
        "config": image.config,
        "rootfs": {"type": "layers", "diff_ids": image.layers.iter().map(|layer| &layer.diff_id).collect::<Vec<_>>()},
        "history": history,
    });
    let config = put(blobs, CONFIG, &config)?;
    let mut layers = Vec::new();
    for layer in &image.layers {
        let to = blobs.join(layer.digest.trim_start_matches("sha256:"));
        if !to.exists() && fs::hard_link(&layer.path, &to).is_err() {
            fs::copy(&layer.path, &to).with_context(|| format!("failed to copy {} to {}", layer.path.display(), to.display()))?;
        }
        layers.push(json!({"mediaType": LAYER, "digest": layer.digest, "size": layer.size}));
    }
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
    let mut descriptor = put(blobs, MANIFEST, &manifest)?;
    descriptor["platform"] = json!({"architecture": image.architecture, "os": "linux"});
    Ok(descriptor)
}

fn put(blobs: &Path, media_type: &str, document: &Value) -> Result<Value> {
    let content = document.to_string();
    let digest = digest(content.as_bytes());
    let path = blobs.join(digest.trim_start_matches("sha256:"));
    fs::write(&path, &content).with_context(|| format!("failed to write {}", path.display()))?;
    Ok(json!({"mediaType": media_type, "digest": digest, "size": content.len()}))
}

#[cfg(test)]
mod tests {
    use super::super::layer::Layers;
    use super::super::tree::Tree;
    use super::*;

    fn image(layers: &Layers, architecture: &'static str) -> Image {
        let make = || {
            let mut tree = Tree::default();
            tree.file("arch", 0o644, architecture);
            Ok(tree)
        };
        let layer = layers.get(architecture, "test", make).unwrap();
        let config = json!({"Cmd": ["/arch"], "User": "1000"});
        Image { architecture, created: "2025-01-01T00:00:00Z".to_owned(), config, layers: vec![layer] }
    }

    fn blob(layout: &Path, descriptor: &Value) -> Value {
        let digest = descriptor["digest"].as_str().unwrap();
        let content = fs::read(layout.join("blobs/sha256").join(digest.strip_prefix("sha256:").unwrap())).unwrap();
        assert_eq!(super::digest(&content), digest);
        assert_eq!(descriptor["size"], content.len());
        serde_json::from_slice(&content).unwrap_or_default()
    }

    #[test]
    fn an_image_for_one_platform_is_named_directly() {
        let place = tempfile::tempdir().unwrap();
        let layers = Layers::at(place.path());
        let layout = place.path().join("layout");
        let digest = write(&layout, "docker.io/library/a:1.2", &[image(&layers, "amd64")]).unwrap();
        let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
        let named = &index["manifests"][0];
        assert_eq!(named["digest"], digest);
        assert_eq!(named["annotations"]["io.containerd.image.name"], "docker.io/library/a:1.2");
        assert_eq!(named["annotations"]["org.opencontainers.image.ref.name"], "1.2");
        assert_eq!(named["platform"], json!({"architecture": "amd64", "os": "linux"}));
        let manifest = blob(&layout, named);
        let config = blob(&layout, &manifest["config"]);
        assert_eq!(config["config"]["User"], "1000");
        assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), 1);
        blob(&layout, &manifest["layers"][0]);
    }

    #[test]
    fn one_name_holds_two_platforms() {
        let place = tempfile::tempdir().unwrap();
        let layers = Layers::at(place.path());
        let layout = place.path().join("layout");
        write(&layout, "a:1", &[image(&layers, "amd64"), image(&layers, "arm64")]).unwrap();
        let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
        assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
        let nested = blob(&layout, &index["manifests"][0]);
        let platforms: Vec<_> =
            nested["manifests"].as_array().unwrap().iter().map(|it| &it["platform"]["architecture"]).collect();
        assert_eq!(platforms, ["amd64", "arm64"]);
        for descriptor in nested["manifests"].as_array().unwrap() {
            let manifest = blob(&layout, descriptor);
            assert_eq!(blob(&layout, &manifest["config"])["architecture"], descriptor["platform"]["architecture"]);
        }
    }

    #[test]
    fn names_without_a_registry_are_those_the_kubelet_looks_for() {
        assert_eq!(whole("gantry:1"), "docker.io/library/gantry:1");
        assert_eq!(whole("me/gantry:1"), "docker.io/me/gantry:1");
        assert_eq!(whole("gantry.test/pause:1"), "gantry.test/pause:1");
        assert_eq!(whole("localhost/a"), "localhost/a");
    }

    #[test]
    fn the_same_image_written_twice_has_one_digest() {
        let place = tempfile::tempdir().unwrap();
        let digests = ["x", "y"].map(|side| {
            let directory = place.path().join(side);
            write(&directory.join("layout"), "a:1", &[image(&Layers::at(&directory), "amd64")]).unwrap()
        });
        assert_eq!(digests[0], digests[1]);
    }
}
