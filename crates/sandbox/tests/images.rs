//! Images from layout directories, from a registry and from this machine, in a store of their own.
//!
//! Layers are written by hand, byte by byte where they are hostile, and read back by the kernel's overlay where that matters.

mod images {
    pub mod fixtures;
    pub mod registry;
}

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use images::fixtures::{Compression, Layer, Layout, root_is_missing, scratch, store};
use images::registry::Registry;
use sandbox::image::{ImageError, PullPolicy, RegistryAuth, resolve_user};
use sandbox::{IdRange, Rootfs};

fn layers(root: &Rootfs) -> Vec<PathBuf> {
    root.overlays[0].lower.iter().map(|layer| layer.path.clone()).collect()
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

/// What is below a directory as a container with these layers sees it.
fn merged(lower: &[PathBuf], at: &Path) -> String {
    let directories: Vec<String> = lower.iter().map(|path| path.display().to_string()).collect();
    let script = format!(
        "mount -t overlay overlay -o lowerdir={}:{} {} && cd {} && find . -mindepth 1 -printf '%P %y\\n' | sort",
        directories.join(":"),
        at.parent().expect("a parent").join("nothing").display(),
        at.display(),
        at.display(),
    );
    fs::create_dir_all(at).expect("a mount point");
    fs::create_dir_all(at.with_file_name("nothing")).expect("an empty layer");
    let output = std::process::Command::new("unshare").args(["-m", "sh", "-c", &script]).output().expect("unshare runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[tokio::test]
async fn whiteouts_and_opaque_directories_hide_what_lower_layers_have() {
    if root_is_missing() {
        return;
    }
    let scratch = scratch();
    let layout = Layout::new(&scratch.path().join("layout"));
    let below = Layer::new().directory("gone").file("gone/x", b"1").directory("kept").file("kept/a", b"1").file("kept/b", b"1");
    let below = below.directory("new").file("new/old", b"1").directory("swap").file("swap/old", b"1");
    let above = Layer::new()
        .file(".wh.gone", b"")
        .directory("kept")
        .file("kept/.wh.a", b"")
        .directory("new")
        .file("new/.wh..wh..opq", b"")
        .file("new/fresh", b"1")
        .file(".wh.swap", b"")
        .directory("swap")
        .file("swap/fresh", b"1");
    layout.image("v1", &[(below, Compression::Gzip), (above, Compression::None)]);
    let store = store(&scratch);
    let image = store.get(&layout.reference("v1"), PullPolicy::IfNotPresent, None).await.expect("an image");
    let lower = layers(&image.root);
    let whiteout = fs::symlink_metadata(lower[0].join("gone")).expect("a whiteout");
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    assert_eq!(merged(&lower, &scratch.path().join("merged")), "kept d\nkept/b f\nnew d\nnew/fresh f\nswap d\nswap/fresh f\n");
}

#[tokio::test]
async fn owners_modes_times_and_capabilities_survive_and_are_shifted() {
    if root_is_missing() {
        return;
    }
    let scratch = scratch();
    let layout = Layout::new(&scratch.path().join("layout"));
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let layer = Layer::new()
        .owned("su", (0, 0), 0o4755)
        .owned("hers", (1000, 100), 0o640)
        .attributes(&[("security.capability", capability), ("user.note", b"n"), ("trusted.overlay.redirect", b"/etc")])
        .file("ping", b"x")
        .hard_link("ping2", "ping")
        .symbolic_link("link", "/etc/passwd")
        .device("null");
    layout.image("v1", &[(layer, Compression::Zstd)]);
    let store = store(&scratch);
    let image = store.get(&layout.reference("v1"), PullPolicy::IfNotPresent, None).await.expect("an image");
    let layer = &layers(&image.root)[0];
    let base = IdRange::default().base;
    let su = fs::metadata(layer.join("su")).expect("su");
    assert_eq!((su.uid(), su.gid(), su.mode() & 0o7777, su.mtime()), (base, base, 0o4755, 1_600_000_000));
    let hers = fs::metadata(layer.join("hers")).expect("hers");
    assert_eq!((hers.uid(), hers.gid(), hers.mode() & 0o7777), (base + 1000, base + 100, 0o640));
    assert_eq!(fs::symlink_metadata(layer.join("link")).expect("link").uid(), base);
    let ping = layer.join("ping");
    assert_eq!(fs::metadata(&ping).expect("ping").ino(), fs::metadata(layer.join("ping2")).expect("ping2").ino());
    assert_eq!(xattr(&ping, "user.note").as_deref(), Some(&b"n"[..]));
    assert_eq!(xattr(&ping, "trusted.overlay.redirect"), None);
    let kept = xattr(&ping, "security.capability").expect("capabilities");
    assert_eq!((kept.len(), &kept[20..]), (24, &base.to_le_bytes()[..]), "valid for the root of pods alone");
    assert!(!layer.join("null").exists());
}

#[tokio::test]
async fn a_hostile_layer_reaches_nothing_outside_and_leaves_no_layer() {
    if root_is_missing() {
        return;
    }
    let scratch = scratch();
    let outside = scratch.path().join("outside");
    fs::create_dir(&outside).expect("a directory");
    fs::write(outside.join("victim"), "safe").expect("a file");
    let out = outside.display().to_string();
    let hostile = [
        ("up", Layer::new().file("a/../../../outside/victim", b"bad"), "leads out"),
        ("up-start", Layer::new().file("../outside/victim", b"bad"), "leads out"),
        ("through-link", Layer::new().symbolic_link("l", &out).file("l/victim", b"bad"), "below a link"),
        ("hard-link", Layer::new().hard_link("h", &format!("{out}/victim")), "does not have"),
        ("hard-link-up", Layer::new().hard_link("h", "../outside/victim"), "leads out"),
        ("hard-through", Layer::new().symbolic_link("l", &out).hard_link("h", "l/victim"), "does not have"),
        ("huge", Layer::new().claims("big", u64::MAX >> 1), "is said to have"),
        ("short", Layer::new().claims("big", 1 << 20), "ends early"),
        ("long", Layer::new().file(&"n".repeat(300), b""), "too long"),
        ("owner", Layer::new().owned("x", (70_000, 0), 0o644), "ids end at"),
        ("below-file", Layer::new().file("f", b"").file("f/g", b""), "no directory"),
        ("whiteout-dots", Layer::new().file(".wh...", b""), "hides no name"),
    ];
    let layout = Layout::new(&scratch.path().join("layout"));
    let store = store(&scratch);
    for (tag, layer, expected) in hostile {
        let diff_id = layout.image(tag, &[(layer, Compression::None)]);
        let error = store.get(&layout.reference(tag), PullPolicy::IfNotPresent, None).await.expect_err(tag);
        assert!(matches!(error, ImageError::Damaged { .. }), "{tag}: {error:?}");
        assert!(error.to_string().contains(expected), "{tag}: {error}");
        let base = IdRange::default();
        let place = scratch.path().join(format!("store/layers/{}-{}/{}", base.base, base.size, diff_id[0]));
        assert!(!place.exists(), "{tag}: no layer");
    }
    assert_eq!(fs::read_to_string(outside.join("victim")).expect("the victim"), "safe");
    assert_eq!(fs::read_dir(&outside).expect("a directory").count(), 1);
    let own = fs::read_dir(scratch.path().join("store/own")).expect("a directory").flatten();
    let left: usize =
        own.filter(|entry| entry.path().is_dir()).map(|entry| fs::read_dir(entry.path()).expect("own").count()).sum();
    assert_eq!(left, 0, "nothing half done");
}

#[tokio::test]
async fn odd_layers_stay_inside_their_directory() {
    if root_is_missing() {
        return;
    }
    let scratch = scratch();
    let outside = scratch.path().join("outside");
    fs::create_dir_all(outside.join("d")).expect("a directory");
    fs::write(outside.join("d/b"), "safe").expect("a file");
    let out = outside.display().to_string();
    let layout = Layout::new(&scratch.path().join("layout"));
    let layer = Layer::new()
        .file(&format!("{out}/absolute"), b"1")
        .directory("d1")
        .file("d1/b", b"keep")
        .symbolic_link("d2", "d1")
        .file("d2/.wh.b", b"")
        .file("d2/through", b"in d1")
        .symbolic_link("f", &format!("{out}/d/b"))
        .file("f", b"replaces the link")
        .symbolic_link("e", &out)
        .directory("e")
        .file("e/d", b"not outside");
    layout.image("v1", &[(layer, Compression::None)]);
    let store = store(&scratch);
    let image = store.get(&layout.reference("v1"), PullPolicy::IfNotPresent, None).await.expect("an image");
    let layer = &layers(&image.root)[0];
    assert!(layer.join(out.trim_start_matches('/')).join("absolute").is_file());
    assert_eq!(fs::read_to_string(layer.join("d1/b")).expect("b"), "keep");
    assert_eq!(fs::read_to_string(layer.join("d1/through")).expect("through"), "in d1");
    assert_eq!(fs::read_to_string(layer.join("f")).expect("f"), "replaces the link");
    assert!(layer.join("e/d").is_file() && outside.join("d").is_dir());
    assert_eq!(fs::read_to_string(outside.join("d/b")).expect("b"), "safe");
}

#[tokio::test]
async fn a_layout_whose_content_does_not_match_its_digests_is_damaged() {
    if root_is_missing() {
        return;
    }
    let scratch = scratch();
    let layout = Layout::new(&scratch.path().join("layout"));
    layout.image("v1", &[(Layer::new().file("a", b"1"), Compression::Gzip)]);
    layout.spoil_last_layer();
    let store = store(&scratch);
    let error = store.get(&layout.reference("v1"), PullPolicy::IfNotPresent, None).await.expect_err("damaged");
    assert!(error.to_string().contains("does not match its digest"), "{error}");
    let error = store.get(&layout.reference("v2"), PullPolicy::IfNotPresent, None).await.expect_err("no tag");
    assert!(matches!(error, ImageError::NotFound { .. }), "{error:?}");
    let error = store.get("oci:/no/such/directory", PullPolicy::IfNotPresent, None).await.expect_err("no layout");
    assert!(matches!(error, ImageError::NotFound { .. }), "{error:?}");
    let error = store.get("oci:relative", PullPolicy::IfNotPresent, None).await.expect_err("no name");
    assert!(matches!(error, ImageError::InvalidName { .. }), "{error:?}");
}

#[tokio::test]
async fn an_index_gives_the_image_for_this_machine_or_says_that_there_is_none() {
    if root_is_missing() {
        return;
    }
    let scratch = scratch();
    let layout = Layout::new(&scratch.path().join("layout"));
    layout.index("both", &[("s390x", Layer::new().file("no", b"")), (Layout::architecture(), Layer::new().file("yes", b""))]);
    layout.index("other", &[("s390x", Layer::new().file("no", b""))]);
    let store = store(&scratch);
    let image = store.get(&layout.reference("both"), PullPolicy::IfNotPresent, None).await.expect("an image");
    assert!(layers(&image.root)[0].join("yes").exists());
    let error = store.get(&layout.reference("other"), PullPolicy::IfNotPresent, None).await.expect_err("none");
    assert!(error.to_string().contains("no match for platform linux/"), "{error}");
}

#[tokio::test]
async fn users_are_found_through_the_layers_and_never_outside() {
    if root_is_missing() {
        return;
    }
    let scratch = scratch();
    let layout = Layout::new(&scratch.path().join("layout"));
    let passwd = b"root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n";
    let group = b"root:x:0:\nwheel:x:10:alice\nusers:x:100:bob,alice\nalice:x:1000:\n";
    let below = Layer::new().directory("etc").file("etc/passwd", b"alice:x:7:7::/:/bin/sh\n").file("etc/group", group);
    let above = Layer::new().directory("etc").symbolic_link("etc/passwd", "../real/passwd").file("real/passwd", passwd);
    layout.image("v1", &[(below.clone(), Compression::Gzip), (above, Compression::Gzip)]);
    layout.image("out", &[(below, Compression::Gzip), (Layer::new().file("etc/.wh.passwd", b""), Compression::Gzip)]);
    let store = store(&scratch);
    let image = store.get(&layout.reference("v1"), PullPolicy::IfNotPresent, None).await.expect("an image");
    let resolved = |user: &str| resolve_user(&image, user).map(|user| (user.uid, user.gid, user.groups)).expect(user);
    assert_eq!(resolved(""), (0, 0, vec![]));
    assert_eq!(resolved("alice"), (1000, 1000, vec![10, 100]));
    assert_eq!(resolved("1000"), (1000, 1000, vec![10, 100]));
    assert_eq!(resolved("alice:wheel"), (1000, 10, vec![]));
    assert_eq!(resolved("4242"), (4242, 0, vec![]));
    assert_eq!(resolved("4242:4343"), (4242, 4343, vec![]));
    assert!(resolve_user(&image, "bob").is_err());
    assert!(resolve_user(&image, "alice:none").is_err());
    let image = store.get(&layout.reference("out"), PullPolicy::IfNotPresent, None).await.expect("an image");
    assert!(resolve_user(&image, "alice").is_err(), "the upper layer removed the file");
}

#[tokio::test]
async fn a_registry_image_is_pulled_once_and_then_served_from_the_store() {
    if root_is_missing() {
        return;
    }
    let scratch = scratch();
    let layout = Layout::new(&scratch.path().join("layout"));
    layout.image("v1", &[(Layer::new().file("a", b"1"), Compression::Gzip), (Layer::new().file("b", b"2"), Compression::Zstd)]);
    let registry = Registry::serve(layout.blobs(), layout.manifests()).await;
    let reference = format!("{}/team/app:v1", registry.address());
    let store = store(&scratch);
    let error = store.get(&reference, PullPolicy::Never, None).await.expect_err("not here yet");
    assert!(error.to_string().contains("is not present with pull policy of Never"), "{error}");
    // another process has its own locks, as a second store has
    let other = images::fixtures::store(&scratch);
    let pulls = (0..8).map(|at| {
        let store = if at % 2 == 0 { &store } else { &other };
        store.get(&reference, PullPolicy::IfNotPresent, None)
    });
    for image in futures::future::join_all(pulls).await {
        assert_eq!(layers(&image.expect("an image").root).len(), 2);
    }
    assert_eq!(registry.blobs_sent(), 3, "a configuration and two layers, once each");
    store.get(&reference, PullPolicy::Never, None).await.expect("here now");
    let manifests = registry.manifests_sent();
    store.get(&reference, PullPolicy::Always, None).await.expect("checked");
    assert!(registry.manifests_sent() > manifests, "Always asks");
    assert_eq!(registry.layers_sent(&layout), 2, "and fetches no layer again");
    // another process, later, without the registry
    drop(registry);
    drop((store, other));
    let store = images::fixtures::store(&scratch);
    store.get(&reference, PullPolicy::IfNotPresent, None).await.expect("still here");
}

#[tokio::test]
async fn what_a_registry_refuses_is_told_apart() {
    if root_is_missing() {
        return;
    }
    let scratch = scratch();
    let layout = Layout::new(&scratch.path().join("layout"));
    layout.image("v1", &[(Layer::new().file("a", b"1"), Compression::Gzip)]);
    let registry = Registry::serve(layout.blobs(), layout.manifests()).await;
    let store = store(&scratch);
    let missing = format!("{}/team/app:none", registry.address());
    let error = store.get(&missing, PullPolicy::IfNotPresent, None).await.expect_err("no such tag");
    assert!(matches!(error, ImageError::NotFound { .. }), "{error:?}");
    registry.require("alice", "secret");
    let reference = format!("{}/team/app:v1", registry.address());
    let error = store.get(&reference, PullPolicy::IfNotPresent, None).await.expect_err("nobody");
    assert!(matches!(error, ImageError::Unauthorized { .. }), "{error:?}");
    let auth = RegistryAuth { username: "alice".to_owned(), password: "secret".to_owned() };
    assert!(!format!("{auth:?}").contains("secret"));
    store.get(&reference, PullPolicy::IfNotPresent, Some(&auth)).await.expect("alice may");
    registry.require_token("alice", "secret");
    let error = store.get(&reference, PullPolicy::Always, None).await.expect_err("nobody");
    assert!(matches!(error, ImageError::Unauthorized { .. }), "{error:?}");
    store.get(&reference, PullPolicy::Always, Some(&auth)).await.expect("alice gets a token");
    let endless = format!("{}/team/app:endless", registry.address());
    let error = store.get(&endless, PullPolicy::Always, Some(&auth)).await.expect_err("no manifest");
    assert!(error.to_string().contains("is longer than"), "{error}");
    for name in ["", "UPPER/case", "a b", "x:y:z/", "reg/app@sha256:12", "-/x"] {
        let error = store.get(name, PullPolicy::IfNotPresent, None).await.expect_err(name);
        assert!(matches!(error, ImageError::InvalidName { .. }), "{name}: {error:?}");
    }
}

#[tokio::test]
async fn a_layer_cut_short_is_fetched_again() {
    if root_is_missing() {
        return;
    }
    let scratch = scratch();
    let layout = Layout::new(&scratch.path().join("layout"));
    layout.image("v1", &[(Layer::new().file("a", &[7; 4000]), Compression::None)]);
    let registry = Registry::serve(layout.blobs(), layout.manifests()).await;
    registry.cut_short(2);
    let reference = format!("{}/team/app:v1", registry.address());
    let store = store(&scratch);
    let image = store.get(&reference, PullPolicy::IfNotPresent, None).await.expect("the third time");
    assert_eq!(fs::read(layers(&image.root)[0].join("a")).expect("a").len(), 4000);
    let closed = images::registry::closed_port().await;
    let error = store.get(&format!("{closed}/app:v1"), PullPolicy::IfNotPresent, None).await.expect_err("nobody there");
    assert!(matches!(error, ImageError::Network { .. }), "{error:?}");
}

#[tokio::test]
async fn what_a_killed_process_left_is_swept_and_what_a_live_one_has_is_not() {
    if root_is_missing() {
        return;
    }
    let scratch = scratch();
    let first = store(&scratch);
    let own = scratch.path().join("store/own");
    fs::create_dir_all(own.join("dead/part")).expect("a directory");
    fs::write(own.join("dead.lock"), "").expect("a lock nobody holds");
    let second = store(&scratch);
    assert!(!own.join("dead").exists() && !own.join("dead.lock").exists());
    assert_eq!(fs::read_dir(&own).expect("own").count(), 4, "two stores with a directory and a lock each");
    drop((first, second));
    assert_eq!(fs::read_dir(&own).expect("own").count(), 0);
}

#[tokio::test]
async fn the_host_image_shows_tools_and_no_secrets() {
    if root_is_missing() {
        return;
    }
    let scratch = scratch();
    let tools = scratch.path().join("alice/.cargo");
    fs::create_dir_all(tools.join("bin")).expect("a directory");
    fs::write(tools.join("bin/tool"), "").expect("a tool");
    fs::write(tools.join("credentials.toml"), "token").expect("a secret");
    let agent = scratch.path().join("agent");
    fs::write(&agent, "agent").expect("an agent");
    let store = images::fixtures::host_store(&scratch, &tools, &agent);
    let image = store.get("host", PullPolicy::IfNotPresent, None).await.expect("an image");
    let base = IdRange::default().base;
    let skeleton = &layers(&image.root)[0];
    let shadow = fs::read_to_string(skeleton.join("etc/shadow")).expect("a shadow file");
    assert!(shadow.lines().all(|line| line.split(':').nth(1) == Some("*")), "no password hashes");
    assert_eq!(fs::metadata(skeleton.join("etc/passwd")).expect("passwd").uid(), base);
    assert_eq!(fs::metadata(skeleton.join("tmp")).expect("tmp").mode() & 0o7777, 0o1777);
    assert!(fs::symlink_metadata(skeleton.join("bin")).expect("bin").is_symlink());
    assert_eq!(fs::read_dir(skeleton.join("home")).expect("home").count(), 0);
    let private = skeleton.join("etc/ssl/private");
    assert!(!private.exists() || fs::read_dir(private).expect("a directory").count() == 0);
    let bind = image.root.binds.iter().find(|bind| bind.target == tools).expect("the tools");
    assert!(bind.read_only && bind.idmap);
    let mask = image.root.binds.iter().find(|bind| bind.target == tools.join("credentials.toml")).expect("a mask");
    assert_eq!(fs::read(&mask.source).expect("its source"), b"");
    let path = &image.config.env.iter().find(|(name, _)| name == "PATH").expect("PATH").1;
    assert!(path.starts_with(&format!("{}/bin:", tools.display())), "{path}");
    assert_eq!(resolve_user(&image, "root").expect("root").uid, 0);
    let helper = store.get("gantry-helper:1.0", PullPolicy::Never, None).await.expect("an image");
    let usr = helper.root.overlays.iter().find(|overlay| overlay.at == Path::new("/usr")).expect("usr");
    assert_eq!(usr.lower.len(), 2);
    let laid = usr.lower[0].path.join("bin/gantry-agent");
    assert_eq!((fs::read(&laid).expect("the agent"), fs::metadata(&laid).expect("it").uid()), (b"agent".to_vec(), base));
    assert_ne!(helper.id, image.id);
    fs::write(&agent, "newer").expect("an agent");
    store.get("gantry-helper:1.0", PullPolicy::Always, None).await.expect("an image");
    assert_eq!(fs::read(&laid).expect("the agent"), b"agent", "what containers have mounted does not change");
}
