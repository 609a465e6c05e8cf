//! Gets the image of a container, again and again, with the kubelet's words and waiting times.

use super::Context;
use super::credentials;
use super::stop::{Backoff, Stopped};
use crate::kubelet::StoreObjects;
use crate::spec::{Data, Objects};
use k8s_openapi::api::core::v1::Container;
use sandbox::image::{Image, ImageError, PullPolicy, RegistryAuth};
use std::time::{Duration, Instant};

/// First and longest time between two tries (the kubelet's own).
const BACKOFF: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));
/// How long the error itself stands in the status before it becomes a back-off.
const ERROR_SHOWN: Duration = Duration::from_secs(1);

/// Gets the image; `None` when the pod has to end first.
pub async fn pull(context: &Context, container: &Container, stopped: &mut Stopped) -> Option<Image> {
    let handle = &context.handle;
    let image = container.image.as_deref().unwrap_or_default();
    let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
    loop {
        let attempt = tokio::select! {
            () = stopped.asked() => return None,
            attempt = attempt(context, container, image) => attempt,
        };
        let error = match attempt {
            Ok(image) => return Some(image),
            Err(error) => error,
        };
        let reason = reason(&error);
        let message = describe(&error, image);
        handle.warn(
            "Failed",
            if reason == "ErrImagePull" { format!("Failed to pull image \"{image}\": {message}") } else { message.clone() },
        );
        handle.warn("Failed", format!("Error: {reason}"));
        handle.waits(&container.name, reason, message.clone());
        let wait = backoff.take();
        if reason == "ErrImagePull" {
            if !stopped.sleep(ERROR_SHOWN).await {
                return None;
            }
            let backing_off = format!("Back-off pulling image \"{image}\"");
            handle.event("BackOff", backing_off.clone());
            handle.waits(&container.name, "ImagePullBackOff", format!("{backing_off}: {reason}: {message}"));
        }
        if !stopped.sleep(wait).await {
            return None;
        }
    }
}

async fn attempt(context: &Context, container: &Container, image: &str) -> Result<Image, ImageError> {
    let handle = &context.handle;
    let images = &context.shared.images;
    let auth = auth(context, image);
    let policy = container.image_pull_policy.as_deref().unwrap_or("IfNotPresent");
    if policy != "Always" {
        match images.get(image, PullPolicy::Never, auth.as_ref()).await {
            Ok(found) => {
                handle.event("Pulled", format!("Container image \"{image}\" already present on machine"));
                return Ok(found);
            }
            Err(error) if policy == "Never" || !matches!(error, ImageError::NeverPull { .. }) => return Err(error),
            Err(_) => {}
        }
    }
    handle.event("Pulling", format!("Pulling image \"{image}\""));
    let start = Instant::now();
    let policy = if policy == "Always" { PullPolicy::Always } else { PullPolicy::IfNotPresent };
    let found = images.get(image, policy, auth.as_ref()).await?;
    let seconds = start.elapsed().as_secs_f64();
    handle.event("Pulled", format!("Successfully pulled image \"{image}\" in {seconds:.3}s"));
    Ok(found)
}

fn auth(context: &Context, image: &str) -> Option<RegistryAuth> {
    let objects = StoreObjects { store: context.shared.store.clone(), namespace: context.handle.namespace.clone() };
    let names = context.handle.spec().image_pull_secrets.iter().flatten();
    // A pull secret that is missing is no error for a kubelet either: the image may be public.
    let secrets: Vec<Data> = names.filter_map(|one| objects.secret(&one.name)).collect();
    let found = credentials::for_image(&secrets, image)?;
    Some(RegistryAuth { username: found.username, password: found.password })
}

fn reason(error: &ImageError) -> &'static str {
    match error {
        ImageError::InvalidName { .. } => "InvalidImageName",
        ImageError::NeverPull { .. } => "ErrImageNeverPull",
        _ => "ErrImagePull",
    }
}

/// The error in the kubelet's words.
fn describe(error: &ImageError, image: &str) -> String {
    if let ImageError::NeverPull { .. } = error {
        return format!("Container image \"{image}\" is not present with pull policy of Never");
    }
    error.to_string()
}
