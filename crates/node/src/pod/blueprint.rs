//! A container of a pod and its image become what the sandbox starts.

use super::{Context, Prepared};
use crate::kubelet::StoreObjects;
use crate::spec::environment::{self, Environment, Question};
use crate::spec::process::{self, ImageDefaults, Process};
use crate::spec::security::{self, Identity};
use crate::spec::{ConfigError, expand, resources};
use crate::volumes::{self, Owner};
use k8s_openapi::api::core::v1::{Container, VolumeMount};
use sandbox::image::{self, Image};
use sandbox::{Bind, Capabilities, ContainerSpec, Resources, User};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Where a termination message goes when nobody says otherwise (Kubernetes' own).
const TERMINATION_LOG: &str = "/dev/termination-log";

/// One run of a container, before its output has a place to go.
pub struct Blueprint {
    /// Process.
    pub process: Process,
    /// User inside the pod.
    pub user: Identity,
    /// Volumes and the termination log.
    pub binds: Vec<Bind>,
    /// Where the termination message will be on this machine.
    pub termination_log: PathBuf,
    privileges: security::Privileges,
    limits: resources::Limits,
}

/// Works everything out; `directory` is this run's own.
///
/// # Errors
/// What keeps the container from being made, in the kubelet's words.
pub fn blueprint(
    context: &Context,
    prepared: &Prepared,
    container: &Container,
    image: &Image,
    directory: &Path,
) -> Result<Blueprint, ConfigError> {
    let handle = &context.handle;
    for mount in container.volume_mounts.iter().flatten() {
        if let Some(why) = prepared.volumes.refused.get(&mount.name) {
            return Err(ConfigError::new(format!("volume \"{}\": {why}", mount.name)));
        }
    }
    let objects = StoreObjects { store: context.shared.store.clone(), namespace: handle.namespace.clone() };
    let question = Question {
        pod: &handle.pod,
        container,
        addresses: &prepared.addresses,
        capacity: &context.shared.facts.capacity,
        objects: &objects,
    };
    let environment = environment::environment(&question)?;
    if !environment.invalid.is_empty() {
        let keys = environment.invalid.join(", ");
        handle.warn(
            "InvalidEnvironmentVariableNames",
            format!("Keys [{keys}] were skipped, because they are no names of variables"),
        );
    }
    let user = user(context, container, image)?;
    let home = (user.uid == 0).then_some("/root");
    let defaults = ImageDefaults {
        entrypoint: &image.config.entrypoint,
        cmd: &image.config.cmd,
        env: &image.config.env,
        working_dir: &image.config.working_dir,
    };
    let process = process::process(container, &environment, &defaults, &prepared.hostname, home)?;
    let owner = Owner { base: context.shared.ids.base, fs_group: security::fs_group(&handle.pod)? };
    let io = |error: std::io::Error| ConfigError::new(format!("failed to prepare the container: {error}"));
    std::fs::create_dir_all(directory).map_err(io)?;
    let termination_log = directory.join("termination-log");
    std::fs::write(&termination_log, b"").map_err(io)?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(&termination_log, mode).map_err(io)?;
    std::os::unix::fs::chown(&termination_log, Some(owner.base), Some(owner.base)).map_err(io)?;
    let mut binds = Vec::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let staging = directory.join("sub-path").join(index.to_string());
        binds.push(bind(prepared, mount, &environment, owner, &staging)?);
    }
    let path = container.termination_message_path.as_deref().filter(|path| !path.is_empty()).unwrap_or(TERMINATION_LOG);
    binds.push(Bind { source: termination_log.clone(), target: PathBuf::from(path), read_only: false, idmap: false });
    Ok(Blueprint {
        process,
        user,
        binds,
        termination_log,
        privileges: security::privileges(container),
        limits: resources::limits(container)?,
    })
}

fn user(context: &Context, container: &Container, image: &Image) -> Result<Identity, ConfigError> {
    let pod = &context.handle.pod;
    let of_image = if security::run_as_user(pod, container)?.is_some() {
        Identity::default()
    } else {
        let found = image::resolve_user(image, &image.config.user).map_err(|error| ConfigError::new(error.to_string()))?;
        Identity { uid: found.uid, gid: found.gid, groups: found.groups }
    };
    security::identity(pod, container, &of_image)
}

fn bind(
    prepared: &Prepared,
    mount: &VolumeMount,
    environment: &Environment,
    owner: Owner,
    staging: &Path,
) -> Result<Bind, ConfigError> {
    let volume = prepared.volumes.ready.get(&mount.name);
    let volume = volume.ok_or_else(|| ConfigError::new(format!("volume \"{}\" not found", mount.name)))?;
    let target = PathBuf::from(&mount.mount_path);
    let lost = target.components().any(|part| part == std::path::Component::ParentDir);
    if !target.is_absolute() || lost || target == Path::new("/") {
        return Err(ConfigError::new(format!("mountPath \"{}\" must be an absolute path other than /", mount.mount_path)));
    }
    let expanded = mount.sub_path_expr.as_deref().map(|text| expand(text, |name| environment.get(name)));
    let sub_path = expanded.or_else(|| mount.sub_path.clone()).filter(|path| !path.is_empty());
    let source = match sub_path {
        None => volume.path.clone(),
        Some(sub_path) => {
            let found = volumes::resolve(&volume.path, sub_path.trim_end_matches('/'), staging, owner, &prepared.mounts);
            let found = found.map_err(|error| {
                let sentence = format!("failed to prepare subPath for volumeMount \"{}\": {error}", mount.name);
                ConfigError::new(sentence)
            })?;
            found.path
        }
    };
    Ok(Bind { source, target, read_only: volume.read_only || mount.read_only == Some(true), idmap: false })
}

impl Blueprint {
    /// The whole, with the ends of the pipes its output goes to.
    pub fn into_spec(self, name: &str, image: &Image, stdout: OwnedFd, stderr: OwnedFd) -> ContainerSpec {
        ContainerSpec {
            name: name.to_owned(),
            root: image.root.clone(),
            args: self.process.args,
            env: self.process.env,
            cwd: self.process.cwd,
            user: User { uid: self.user.uid, gid: self.user.gid, groups: self.user.groups },
            capabilities: Capabilities { add: self.privileges.add, drop: self.privileges.drop },
            privileged: self.privileges.privileged,
            no_new_privileges: self.privileges.no_new_privileges,
            read_only_root: self.privileges.read_only_root,
            binds: self.binds,
            resources: Resources {
                memory_bytes: self.limits.memory_bytes,
                cpu_quota_us: self.limits.cpu_quota_us,
                cpu_shares: self.limits.cpu_shares,
                pids: self.limits.pids,
            },
            stdout: stdout.into(),
            stderr: stderr.into(),
        }
    }
}
