//! What the manager may have to do in a cluster, and whether it is allowed to.
//!
//! A permission that is missing shows late otherwise: at the first job's end, or after the first crash. So all are
//! asked for at the start, and `gantry rbac` prints what is asked for here. A server that does not answer such
//! questions does not hold the manager up.

use crate::backoff::Backoff;
use crate::cluster::{self, CallError};
use crate::clusters::Cluster;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use std::sync::Arc;
use std::time::Duration;

/// All that the manager does with Kubernetes, in each namespace of its runners.
///
/// A Lease is only where the manager keeps what belongs to no job: the first namespace of the configuration. Which one
/// that is changes with the configuration, so the rules are the same everywhere.
pub const NEEDED: [Rule; 3] = [
    Rule { group: "", resource: "pods", verbs: &["create", "delete", "get", "list", "patch", "watch"] },
    Rule { group: "", resource: "secrets", verbs: &["create", "delete", "get", "list", "patch"] },
    Rule { group: "coordination.k8s.io", resource: "leases", verbs: &["create", "delete", "list", "patch"] },
];

/// What it does only for jobs that want to read it in their logs (`FF_PRINT_POD_EVENTS`, `CI_DEBUG_SERVICES`); who does not
/// allow it is told so there.
pub const WISHED: [Rule; 2] =
    [Rule { group: "", resource: "events", verbs: &["list"] }, Rule { group: "", resource: "pods/log", verbs: &["get"] }];

/// Questions in flight.
const AT_ONCE: usize = 16;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Verbs on one resource, as a rule of a Role has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// API group; the core's is empty.
    pub group: &'static str,
    /// Plural, as in paths.
    pub resource: &'static str,
    /// In alphabetical order.
    pub verbs: &'static [&'static str],
}

/// A permission that the manager needs and does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the service account may not {verb} {resource} in namespace {namespace}{}", of(.cluster.as_deref()))]
pub struct Missing {
    /// What may not be done.
    pub verb: &'static str,
    /// To what.
    pub resource: &'static str,
    /// Where.
    pub namespace: String,
    /// In which cluster, when there are several.
    pub cluster: Option<String>,
}

fn of(cluster: Option<&str>) -> String {
    cluster.map(|name| format!(" of cluster {name}")).unwrap_or_default()
}

/// All that is missing in one line. Nobody can have a permission in a namespace that is not there, so that is the likely
/// reason when there is none at all.
pub(crate) fn sentences(missing: &[Missing]) -> String {
    let all: usize = NEEDED.iter().map(|rule| rule.verbs.len()).sum();
    let mut sentences = Vec::new();
    for group in missing.chunk_by(|one, other| (&one.namespace, &one.cluster) == (&other.namespace, &other.cluster)) {
        match group {
            [first, ..] if group.len() == all => {
                let (namespace, cluster) = (&first.namespace, of(first.cluster.as_deref()));
                sentences.push(format!(
                    "the service account may do nothing in namespace {namespace}{cluster}: does it exist, and was what `gantry rbac` \
                     prints applied?"
                ));
            }
            _ => sentences.extend(group.iter().map(ToString::to_string)),
        }
    }
    sentences.join("; ")
}

/// What of [`NEEDED`] is not allowed in these namespaces; asks until their clusters answer.
pub(crate) async fn missing(places: &[(Arc<Cluster>, String)], clusters: usize) -> Vec<Missing> {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        match ask(places, clusters).await {
            Ok(missing) => return missing,
            Err(error) => {
                let (pause, error) = (backoff.pause(), cluster::chain(&error));
                tracing::warn!(error, pause_ms = pause.as_millis(), "failed to ask what the manager may do in the cluster");
                tokio::time::sleep(pause).await;
            }
        }
    }
}

async fn ask(places: &[(Arc<Cluster>, String)], clusters: usize) -> Result<Vec<Missing>, CallError> {
    let mut questions = Vec::new();
    for (cluster, namespace) in places {
        let reviews: Api<SelfSubjectAccessReview> = Api::all(cluster.client.clone());
        let shown = (clusters > 1).then(|| cluster.name.clone());
        for Rule { resource, verbs, .. } in NEEDED {
            let missing = |verb| Missing { verb, resource, namespace: namespace.clone(), cluster: shown.clone() };
            questions.extend(verbs.iter().map(|verb| (reviews.clone(), missing(verb))));
        }
    }
    let answers = stream::iter(questions).map(|(reviews, question)| answer(reviews, question)).buffered(AT_ONCE);
    answers.try_filter_map(async |missing| Ok(missing)).try_collect().await
}

/// The question itself if the answer is no.
async fn answer(reviews: Api<SelfSubjectAccessReview>, question: Missing) -> Result<Option<Missing>, CallError> {
    let group = NEEDED.iter().find(|rule| rule.resource == question.resource).map_or("", |rule| rule.group);
    let attributes = ResourceAttributes {
        namespace: Some(question.namespace.clone()),
        group: Some(group.to_owned()),
        resource: Some(question.resource.to_owned()),
        verb: Some(question.verb.to_owned()),
        ..ResourceAttributes::default()
    };
    let review = SelfSubjectAccessReview {
        metadata: ObjectMeta::default(),
        spec: SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..SelfSubjectAccessReviewSpec::default() },
        status: None,
    };
    match cluster::call("ask for a permission", reviews.create(&PostParams::default(), &review)).await {
        Ok(review) => Ok(review.status.is_some_and(|status| !status.allowed).then_some(question)),
        Err(error) if error.is_short_lived() && !is_unserved(&error) => Err(error),
        Err(error) => {
            let Missing { verb, resource, namespace, .. } = question;
            let error = cluster::chain(&error);
            tracing::debug!(verb, resource, namespace, error, "the cluster does not say whether the manager may do this");
            Ok(None)
        }
    }
}

/// Waiting would not help: the server does not know the question, or answers in words of its own.
fn is_unserved(error: &CallError) -> bool {
    matches!(error, CallError::Unreadable(_)) || error.code() == Some(501)
}
