//! Requests and limits by their key, each with the most that a job may ask for in its place.
//!
//! The keys are many and alike; whoever makes something of them goes through the list.

use crate::Kubernetes;

/// Every key of a request or limit.
pub const AMOUNTS: [&str; 22] = [
    "cpu_request",
    "cpu_limit",
    "memory_request",
    "memory_limit",
    "ephemeral_storage_request",
    "ephemeral_storage_limit",
    "service_cpu_request",
    "service_cpu_limit",
    "service_memory_request",
    "service_memory_limit",
    "service_ephemeral_storage_request",
    "service_ephemeral_storage_limit",
    "helper_cpu_request",
    "helper_cpu_limit",
    "helper_memory_request",
    "helper_memory_limit",
    "helper_ephemeral_storage_request",
    "helper_ephemeral_storage_limit",
    "pod_cpu_request",
    "pod_cpu_limit",
    "pod_memory_request",
    "pod_memory_limit",
];

impl Kubernetes {
    /// The quantity of a key of [`AMOUNTS`]; empty when there is none.
    pub fn amount(&self, key: &str) -> &str {
        self.both(key).0
    }

    /// The most that a job may ask for in its place; nothing at all when empty.
    pub fn most(&self, key: &str) -> &str {
        self.both(key).1
    }

    fn both(&self, key: &str) -> (&str, &str) {
        match key {
            "cpu_request" => (&self.cpu_request, &self.cpu_request_overwrite_max_allowed),
            "cpu_limit" => (&self.cpu_limit, &self.cpu_limit_overwrite_max_allowed),
            "memory_request" => (&self.memory_request, &self.memory_request_overwrite_max_allowed),
            "memory_limit" => (&self.memory_limit, &self.memory_limit_overwrite_max_allowed),
            "ephemeral_storage_request" => {
                (&self.ephemeral_storage_request, &self.ephemeral_storage_request_overwrite_max_allowed)
            }
            "ephemeral_storage_limit" => (&self.ephemeral_storage_limit, &self.ephemeral_storage_limit_overwrite_max_allowed),
            "service_cpu_request" => (&self.service_cpu_request, &self.service_cpu_request_overwrite_max_allowed),
            "service_cpu_limit" => (&self.service_cpu_limit, &self.service_cpu_limit_overwrite_max_allowed),
            "service_memory_request" => (&self.service_memory_request, &self.service_memory_request_overwrite_max_allowed),
            "service_memory_limit" => (&self.service_memory_limit, &self.service_memory_limit_overwrite_max_allowed),
            "service_ephemeral_storage_request" => {
                (&self.service_ephemeral_storage_request, &self.service_ephemeral_storage_request_overwrite_max_allowed)
            }
            "service_ephemeral_storage_limit" => {
                (&self.service_ephemeral_storage_limit, &self.service_ephemeral_storage_limit_overwrite_max_allowed)
            }
            "helper_cpu_request" => (&self.helper_cpu_request, &self.helper_cpu_request_overwrite_max_allowed),
            "helper_cpu_limit" => (&self.helper_cpu_limit, &self.helper_cpu_limit_overwrite_max_allowed),
            "helper_memory_request" => (&self.helper_memory_request, &self.helper_memory_request_overwrite_max_allowed),
            "helper_memory_limit" => (&self.helper_memory_limit, &self.helper_memory_limit_overwrite_max_allowed),
            "helper_ephemeral_storage_request" => {
                (&self.helper_ephemeral_storage_request, &self.helper_ephemeral_storage_request_overwrite_max_allowed)
            }
            "helper_ephemeral_storage_limit" => {
                (&self.helper_ephemeral_storage_limit, &self.helper_ephemeral_storage_limit_overwrite_max_allowed)
            }
            "pod_cpu_request" => (&self.pod_cpu_request, &self.pod_cpu_request_overwrite_max_allowed),
            "pod_cpu_limit" => (&self.pod_cpu_limit, &self.pod_cpu_limit_overwrite_max_allowed),
            "pod_memory_request" => (&self.pod_memory_request, &self.pod_memory_request_overwrite_max_allowed),
            "pod_memory_limit" => (&self.pod_memory_limit, &self.pod_memory_limit_overwrite_max_allowed),
            _ => ("", ""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::AMOUNTS;

    #[test]
    fn each_amount_and_its_most_are_read_under_their_own_keys() {
        let line = |key: &&str| format!("{key} = \"of {key}\"\n{key}_overwrite_max_allowed = \"most {key}\"\n");
        let keys: String = AMOUNTS.iter().map(line).collect();
        let text = format!("[[runners]]\nurl = \"u\"\ntoken = \"t\"\nexecutor = \"kubernetes\"\n[runners.kubernetes]\n{keys}");
        let parsed = crate::parse(&text).unwrap();
        assert_eq!(parsed.warnings, []);
        for key in AMOUNTS {
            let kubernetes = &parsed.config.runners[0].kubernetes;
            assert_eq!((kubernetes.amount(key), kubernetes.most(key)), (&*format!("of {key}"), &*format!("most {key}")));
        }
    }
}
