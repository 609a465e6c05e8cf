//! The job's services as the agent sees them: ports on its own loopback, because a pod has one network.
//!
//! What a service prints and whether it died is known to the kubelet alone, and the agent speaks to no Kubernetes. So
//! where the log is to say it, the agent sends all but the last line and leaves that line and the final state to the
//! manager, which reads both from the pod. A stream from the kubelet through the manager into a running job was decided
//! against: it would have to survive every restart, and a trace has one writer.

use super::Ending;
use crate::trace::Trace;
use agent_contract::Plan;
use job::FailureReason;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Variable of a service: the job waits until something listens there.
const HEALTHCHECK: &str = "HEALTHCHECK_TCP_PORT";
/// Between two looks at a port (GitLab Runner: 1 s).
const LOOK: Duration = Duration::from_millis(200);
/// A port that takes connections does so at once; one behind a firewall never answers.
const CONNECT: Duration = Duration::from_secs(1);
/// After this long the log says what is waited for, and again each time twice as long has passed.
const WORTH_A_LINE: Duration = Duration::from_secs(30);

/// A port that a service is to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    service: String,
    number: u16,
}

impl Port {
    /// Of each service that names one.
    pub fn all(plan: &Plan) -> Result<Vec<Self>, Ending> {
        let variables = plan.job.variables.expanded();
        let mut ports = Vec::new();
        for service in &plan.job.services {
            let Some(own) = service.variables.find(HEALTHCHECK) else { continue };
            let text = if own.raw { own.value.clone() } else { variables.expand(&own.value) };
            if text.is_empty() {
                continue;
            }
            let name = service.shown(&variables);
            match text.trim().parse() {
                Ok(number) if number > 0 => ports.push(Self { service: name, number }),
                _ => {
                    let message = format!("{HEALTHCHECK} of service {name} is {text:?}, which is no port");
                    return Err(Ending::failed(FailureReason::RunnerConfigurationError, message));
                }
            }
        }
        Ok(ports)
    }

    async fn answers(&self) -> bool {
        for address in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
            let connecting = TcpStream::connect(SocketAddr::new(address, self.number));
            let Ok(Ok(stream)) = tokio::time::timeout(CONNECT, connecting).await else { continue };
            // A port nobody listens on can be given to the connection itself, which then meets itself.
            if stream.local_addr().ok() != stream.peer_addr().ok() {
                return true;
            }
        }
        false
    }
}

/// Waits until all ports take connections; only the job's own time ends it, as in GitLab Runner.
pub async fn wait(ports: &[Port], trace: &Trace) {
    let mut missing: Vec<&Port> = ports.iter().collect();
    if missing.is_empty() {
        return;
    }
    trace.line(&format!("\x1b[0KWaiting for services to take connections: {}", shown(&missing))).await;
    let (begun, mut next) = (Instant::now(), WORTH_A_LINE);
    loop {
        let mut still = Vec::new();
        for port in missing {
            if !port.answers().await {
                still.push(port);
            }
        }
        if still.is_empty() {
            return;
        }
        missing = still;
        if begun.elapsed() >= next {
            let (services, seconds) = (shown(&missing), begun.elapsed().as_secs());
            trace.line(&format!("\x1b[0;33mWARNING: still waiting after {seconds} s: {services}")).await;
            next *= 2;
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn shown(ports: &[&Port]) -> String {
    ports.iter().map(|port| format!("{} on port {}", port.service, port.number)).collect::<Vec<_>>().join(", ")
}

/// Whether the manager writes the last line: behind what services printed, where the log is to show that, and behind
/// what became of them, where the job failed and that may be why.
pub fn leave_the_end_to_the_manager(plan: &Plan, ending: &Ending) -> bool {
    let on_its_own = |reason: &FailureReason| matches!(reason, FailureReason::ScriptFailure | FailureReason::JobExecutionTimeout);
    match ending {
        Ending::Success => plan.shows_services(),
        Ending::Failed { reason, .. } => plan.shows_services() || (!plan.job.services.is_empty() && on_its_own(reason)),
        Ending::Abandoned => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{Ending, Port, leave_the_end_to_the_manager, wait};
    use crate::trace::Trace;
    use agent_contract::Plan;
    use job::FailureReason;
    use job_log::{Log, secrets};
    use serde_json::{Value, json};
    use std::time::Duration;

    fn plan(services: Value, variables: Value) -> Plan {
        let payload = json!({"id": 1, "token": "token-of-the-job", "services": services, "variables": variables});
        let job = serde_json::from_value::<gitlab_api::JobResponse>(payload).unwrap().into_job().unwrap();
        Plan { job, coordinator: Default::default(), workspace: Default::default(), settings: Default::default() }
    }

    fn with_port(value: &str) -> Value {
        json!([{"name": "db:1", "alias": "db"}, {"name": "web:$TAG", "alias": "one two",
            "variables": [{"key": "HEALTHCHECK_TCP_PORT", "value": value}]}])
    }

    #[tokio::test]
    async fn a_job_waits_until_something_listens_on_the_port_of_each_service() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let number = taken.local_addr().unwrap().port();
        drop(taken);
        let plan = plan(with_port("$PORT"), json!([{"key": "PORT", "value": number.to_string()}, {"key": "TAG", "value": "2"}]));
        let ports = Port::all(&plan).unwrap();
        assert_eq!(ports, [Port { service: "web-one-two".into(), number }]);
        let trace = Trace::new(1000, Log::new(secrets::of_plan(&plan), false));
        let waiting = wait(&ports, &trace);
        tokio::pin!(waiting);
        assert!(tokio::time::timeout(Duration::from_millis(500), &mut waiting).await.is_err(), "nobody listens yet");
        let _listener = std::net::TcpListener::bind(("127.0.0.1", number)).unwrap();
        tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("somebody listens");
    }

    #[test]
    fn a_port_that_is_none_fails_the_job_and_names_the_service() {
        for text in ["http", "0", "65536", "-1"] {
            let Err(Ending::Failed { reason, message, .. }) = Port::all(&plan(with_port(text), json!([]))) else {
                panic!("{text} is taken for a port")
            };
            assert_eq!(reason, FailureReason::RunnerConfigurationError);
            assert_eq!(message, format!("HEALTHCHECK_TCP_PORT of service web-one-two is {text:?}, which is no port"));
        }
        assert_eq!(Port::all(&plan(with_port(""), json!([]))), Ok(vec![]));
    }

    #[test]
    fn the_manager_has_the_last_word_where_services_matter() {
        let debug = json!([{"key": "CI_DEBUG_SERVICES", "value": "true"}]);
        let script = Ending::failed(FailureReason::ScriptFailure, "x");
        let canceled = Ending::failed(FailureReason::JobCanceled, "x");
        for (services, variables, ending, expected) in [
            (with_port(""), json!([]), &Ending::Success, false),
            (with_port(""), json!([]), &script, true),
            (with_port(""), json!([]), &canceled, false),
            (json!([]), json!([]), &script, false),
            (with_port(""), debug.clone(), &Ending::Success, true),
            (with_port(""), debug.clone(), &canceled, true),
            (with_port(""), debug.clone(), &Ending::Abandoned, false),
            (json!([]), debug, &Ending::Success, false),
        ] {
            assert_eq!(leave_the_end_to_the_manager(&plan(services, variables), ending), expected, "{ending:?}");
        }
    }
}
