//! Images and services that the configuration allows.
//!
//! The runner's own images are always allowed. A pattern is taken as it stands in the configuration, without variables.

use crate::{BuildError, Context, containers};

/// Checks every image of the job.
pub fn check(context: &Context<'_>) -> Result<(), BuildError> {
    let kubernetes = &context.runner.kubernetes;
    let own = [context.variables.expand(&kubernetes.image), containers::helper_image(context)];
    let refused = |image: &str, kind: &'static str, patterns: &[String]| {
        let image = context.variables.expand(image);
        let fits = |pattern: &String| pattern == &image || fast_glob::glob_match(pattern, &image);
        if patterns.is_empty() || own.contains(&image) || patterns.iter().any(fits) {
            return Ok(());
        }
        Err(BuildError::Disallowed { image, kind, patterns: patterns.to_vec() })
    };
    if let Some(image) = &context.job.image {
        refused(&image.name, "images", &kubernetes.allowed_images)?;
    }
    context.job.services.iter().try_for_each(|service| refused(&service.image.name, "services", &kubernetes.allowed_services))
}
