//! What the cluster says of a pod that waits, for jobs that want to read it (`FF_PRINT_POD_EVENTS`).
//!
//! Asked for with each word about the pod, so that a job without the flag costs no request.

use crate::admit::Tracked;
use crate::cluster;
use k8s_openapi::api::core::v1::Event;
use kube::Api;
use kube::api::ListParams;
use std::collections::HashSet;

/// As many as a pod that fails again and again has, and no more.
const MOST: u32 = 200;

/// What was said already.
#[derive(Default)]
pub struct Events {
    said: HashSet<String>,
    begun: bool,
    failed: bool,
}

impl Events {
    /// What is new, as lines.
    pub async fn news(&mut self, job: &Tracked) -> String {
        let events: Api<Event> = Api::namespaced(job.client(), job.namespace());
        let of_pod = ListParams::default().fields(&format!("involvedObject.name={}", job.pod)).limit(MOST);
        let found = match cluster::call("read the pod's events", events.list(&of_pod)).await {
            Ok(found) => found.items,
            Err(_) if self.failed => return String::new(),
            Err(error) => {
                self.failed = true;
                return format!("\x1b[0;33mWARNING: the pod's events cannot be read: {}\x1b[0;m\n", cluster::chain(&error));
            }
        };
        let mut text = String::new();
        if !std::mem::replace(&mut self.begun, true) {
            text.push_str("Subscribing to Kubernetes Pod events...\nType     Reason     Message\n");
        }
        // One that happens again is counted, and says the same.
        for event in found.into_iter().filter(|event| self.said.insert(event.metadata.name.clone().unwrap_or_default())) {
            let [kind, reason, message] = [event.type_, event.reason, event.message].map(Option::unwrap_or_default);
            text.push_str(&format!("{kind:<8} {reason:<10} {}\n", message.replace('\n', " ")));
        }
        text
    }
}
