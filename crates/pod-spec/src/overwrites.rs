//! What a job may change of its pod (`KUBERNETES_*`), as far as the configuration lets it.
//!
//! Without a permission a wish has no effect, as in GitLab Runner; a wish that goes beyond one fails the job (behaviour
//! 23). What is granted stands in the job's log.

use crate::resources::{self, Amounts};
use crate::{BuildError, namespace};
use agent_contract::names;
use agent_contract::plan::Resources;
use job::{Job, Service, Variable, Variables};
use k8s_openapi::api::core::v1::{ResourceRequirements, Toleration};
use regex::Regex;
use runner_config::{Kubernetes, Runner};
use std::collections::BTreeMap;

const SERVICE_ACCOUNT: &str = "KUBERNETES_SERVICE_ACCOUNT_OVERWRITE";

/// What counts for a job's pod.
#[derive(Debug, Default)]
pub struct Overwrites {
    pub service_account: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub node_selector: BTreeMap<String, String>,
    pub tolerations: Vec<Toleration>,
    pub build: Option<ResourceRequirements>,
    pub helper: Option<ResourceRequirements>,
    /// Of each service of the job.
    pub services: Vec<Option<ResourceRequirements>>,
    /// Of the pod as a whole.
    pub pod: Option<ResourceRequirements>,
    /// What was granted, as lines for the log.
    pub lines: Vec<String>,
}

impl Overwrites {
    /// What counts, with the job's variables expanded.
    pub fn of(job: &Job, runner: &Runner, variables: &Variables) -> Result<Self, BuildError> {
        let kubernetes = &runner.kubernetes;
        let mut wishes = Wishes { variables, lines: Vec::new() };
        if let Some(asked) = namespace::asked(kubernetes, variables)? {
            wishes.grant("Namespace", asked);
        }
        let service_account = wishes.service_account(kubernetes)?;
        let pod_labels = (&kubernetes.pod_labels, kubernetes.pod_labels_overwrite_allowed.as_str());
        let labels = wishes.map("PodLabels", pod_labels, pair)?;
        let pod_annotations = (&kubernetes.pod_annotations, kubernetes.pod_annotations_overwrite_allowed.as_str());
        let annotations = wishes.map("PodAnnotations", pod_annotations, pair)?;
        let selector = (&kubernetes.node_selector, kubernetes.node_selector_overwrite_allowed.as_str());
        let node_selector = wishes.map("NodeSelector", selector, pair)?;
        let tolerations = (&kubernetes.node_tolerations, kubernetes.node_tolerations_overwrite_allowed.as_str());
        let tolerations = wishes.map("NodeTolerations", tolerations, |text| Ok(key_and_effect(text)))?;
        let build = wishes.amounts(kubernetes, resources::configured(kubernetes, "")?)?;
        let of_services = wishes.amounts(kubernetes, resources::configured(kubernetes, "service_")?)?;
        let helper = wishes.amounts(kubernetes, resources::configured(kubernetes, "helper_")?)?;
        let pod = wishes.amounts(kubernetes, resources::configured(kubernetes, "pod_")?)?;
        let mut services = Vec::new();
        for service in &job.services {
            let own = own_variables(service, variables);
            let mut of_one = Wishes { variables: &own, lines: std::mem::take(&mut wishes.lines) };
            services.push(of_one.amounts(kubernetes, of_services.clone())?.requirements());
            wishes.lines = of_one.lines;
        }
        Ok(Self {
            service_account,
            labels,
            annotations,
            node_selector,
            tolerations: tolerations.iter().map(toleration).collect(),
            build: build.requirements(),
            helper: helper.requirements(),
            services,
            pod: pod.requirements(),
            lines: wishes.lines,
        })
    }
}

/// What each container of a job asks for, for the report at its end; build and helper first.
pub fn resources_asked(job: &Job, runner: &Runner) -> Vec<Resources> {
    // A job that makes no pod has nothing to report.
    let Ok(overwrites) = Overwrites::of(job, runner, &job.variables.expanded()) else { return Vec::new() };
    let services = overwrites.services.iter().enumerate().map(|(index, one)| (names::service_container(index), one));
    let build = (names::BUILD_CONTAINER.to_owned(), &overwrites.build);
    let helper = (names::HELPER_CONTAINER.to_owned(), &overwrites.helper);
    let all = [build, helper].into_iter().chain(services);
    all.map(|(container, asked)| resources::asked(container, asked.as_ref())).collect()
}

/// A service's own variables may use the job's.
fn own_variables(service: &Service, variables: &Variables) -> Variables {
    let expanded = |one: &Variable| if one.raw { one.value.clone() } else { variables.expand(&one.value) };
    service.variables.iter().map(|one| Variable { raw: true, value: expanded(one), ..one.clone() }).collect()
}

/// What variables ask for, and what of it was granted so far.
struct Wishes<'a> {
    variables: &'a Variables,
    lines: Vec<String>,
}

impl Wishes<'_> {
    fn grant(&mut self, field: &str, value: &str) {
        self.lines.push(format!("{field:?} overwritten with {value:?}"));
    }

    fn service_account(&mut self, kubernetes: &Kubernetes) -> Result<String, BuildError> {
        let allowed = &kubernetes.service_account_overwrite_allowed;
        let asked = self.variables.get(SERVICE_ACCOUNT).unwrap_or_default().to_owned();
        if asked.is_empty() || allowed.is_empty() {
            return Ok(kubernetes.service_account.clone());
        }
        check(&asked, allowed)?;
        self.grant("ServiceAccount", &asked);
        Ok(asked)
    }

    /// A map of the configuration with an entry for each variable that begins with the field's prefix.
    fn map(
        &mut self,
        field: &str,
        (configured, allowed): (&BTreeMap<String, String>, &str),
        split: fn(&str) -> Result<(String, String), BuildError>,
    ) -> Result<BTreeMap<String, String>, BuildError> {
        let mut map = configured.clone();
        if allowed.is_empty() {
            return Ok(map);
        }
        let prefix = format!("KUBERNETES_{}_", snake(field));
        for one in self.variables.iter().filter(|one| one.key.starts_with(&prefix)) {
            check(&one.value, allowed)?;
            let (key, value) = split(&one.value)?;
            self.lines.push(format!("{field:?} {key:?} overwritten with {value:?}"));
            map.insert(key, value);
        }
        Ok(map)
    }

    /// Amounts with those in their place that are asked for and are no more than is allowed.
    fn amounts(&mut self, kubernetes: &Kubernetes, mut amounts: Amounts) -> Result<Amounts, BuildError> {
        for amount in amounts.iter_mut() {
            let variable = format!("KUBERNETES_{}", amount.key.to_ascii_uppercase());
            let (most, asked) = (kubernetes.most(amount.key), self.variables.get(&variable).unwrap_or_default());
            if most.is_empty() || asked.is_empty() {
                continue;
            }
            let parsed = |key: &str, value: &str| {
                resources::nanos(value).ok_or_else(|| BuildError::Quantity { key: key.to_owned(), value: value.to_owned() })
            };
            let field = camel(amount.key);
            if parsed(&variable, asked)? > parsed(&format!("{}_overwrite_max_allowed", amount.key), most)? {
                return Err(BuildError::TooMuch { resource: field, asked: asked.to_owned(), most: most.to_owned() });
            }
            self.grant(&field, asked);
            amount.value = asked.to_owned();
        }
        Ok(amounts)
    }
}

/// A value that a pattern of the configuration must match.
pub fn check(asked: &str, allowed: &str) -> Result<(), BuildError> {
    if Regex::new(allowed).is_ok_and(|pattern| pattern.is_match(asked)) {
        return Ok(());
    }
    Err(BuildError::Overwrite { asked: asked.to_owned(), allowed: allowed.to_owned() })
}

fn pair(text: &str) -> Result<(String, String), BuildError> {
    let (key, value) =
        text.split_once('=').ok_or_else(|| BuildError::Overwrite { asked: text.to_owned(), allowed: "k=v".to_owned() })?;
    Ok((key.to_owned(), value.to_owned()))
}

/// `key[=value][:effect]`.
fn key_and_effect(text: &str) -> (String, String) {
    let (key, effect) = text.split_once(':').unwrap_or((text, ""));
    (key.to_owned(), effect.to_owned())
}

/// An entry of `node_tolerations`; without a value any value is tolerated, and without a key every taint.
fn toleration((key, effect): (&String, &String)) -> Toleration {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let effect = some(effect);
    match key.split_once('=') {
        Some((key, value)) => {
            Toleration { key: some(key), operator: Some("Equal".to_owned()), value: some(value), effect, ..Toleration::default() }
        }
        None => Toleration { key: some(key), operator: Some("Exists".to_owned()), effect, ..Toleration::default() },
    }
}

/// GitLab Runner's name of an amount in logs: `service_cpu_limit` is `ServiceCPULimit`.
fn camel(key: &str) -> String {
    let word = |word: &str| match word {
        "cpu" => "CPU".to_owned(),
        _ => word[..1].to_ascii_uppercase() + &word[1..],
    };
    key.split('_').filter(|part| !part.is_empty()).map(word).collect()
}

/// And back: `NodeSelector` is `NODE_SELECTOR`.
fn snake(field: &str) -> String {
    let spaced = field.chars().enumerate().flat_map(|(at, letter)| {
        let gap = (at > 0 && letter.is_ascii_uppercase()).then_some('_');
        gap.into_iter().chain([letter.to_ascii_uppercase()])
    });
    spaced.collect()
}
