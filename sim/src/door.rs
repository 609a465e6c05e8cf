//! The way to GitLab: requests of the shipped client become calls, and on the way what can go wrong goes wrong.

use crate::dice::{chance, millis, seconds};
use crate::gitlab::{self, Answer};
use crate::world::{World, arrives};
use bytes::Bytes;
use futures::stream;
use gitlab_api::{JobRequest, UpdateJob, headers};
use gitlab_client::{Body, Client, ClientConfig, ClientError, Service};
use http::{Request, Response};
use std::io;
use std::time::Duration;

/// How long an empty queue is held, GitLab's own.
const HOLD: Duration = Duration::from_secs(50);

/// The shipped client of somebody, over a door.
pub fn client(world: &World, who: &str, config: &ClientConfig) -> Result<Client, ClientError> {
    let (world, who) = (world.clone(), who.to_owned());
    let service = Service::new(move |request| {
        let (world, who) = (world.clone(), who.clone());
        async move { through(&world, &who, request).await }
    });
    Client::over(config, service)
}

async fn through(world: &World, who: &str, request: Request<Body>) -> io::Result<Response<Body>> {
    let name = format!("{who} {} {}", request.method(), request.uri().path());
    let rng = &mut world.next_dice(&name);
    let faults = &world.schedule().gitlab;
    world.sends(who, &name);
    fenced(world, who, &request);
    let sent = world.now();
    let (before, mut flight, after) = (millis(rng, 1, 30), millis(rng, 1, 30), millis(rng, 1, 40));
    let (lost_before, lost_after) = (chance(rng, faults.lost_before), chance(rng, faults.lost_after));
    let (refused, broken) = (chance(rng, faults.refused), chance(rng, faults.broken));
    if world.is_faulty() && chance(rng, faults.slow) {
        flight = seconds(rng, 1, 150);
    }
    tokio::time::sleep(before).await;
    if let Some(outage) = world.outage(faults, "gitlab") {
        world.log(|| format!("{name} ─ GitLab is away"));
        if outage.silent {
            tokio::time::sleep_until(world.at(outage.to)).await;
        }
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    if world.is_faulty() && lost_before {
        world.log(|| format!("{name} ─ lost"));
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    if world.is_faulty() && refused {
        let mut answer = Answer::status([500, 502, 503, 429, 408][rng.usize(0..5)]);
        if answer.status == 429 && rng.bool() {
            answer.headers.push(("Retry-After", rng.u32(1..40).to_string()));
        }
        world.log(|| format!("{name} ─ refused {}", answer.status));
        return Ok(response(answer, false));
    }
    let answer = {
        let (world, who) = (world.clone(), who.to_owned());
        arrives(flight, rng.bool(), async move { effect(&world, &who, sent, request).await }).await?
    };
    world.log(|| format!("{name} → {}", answer.status));
    tokio::time::sleep(after).await;
    if world.is_faulty() && lost_after {
        world.log(|| format!("{name} ─ answer lost"));
        return if rng.bool() { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(response(Answer::status(504), false)) };
    }
    Ok(response(answer, world.is_faulty() && broken))
}

/// Whoever reports a job's end has its plan, if there is one, at the instant at which the report leaves.
fn fenced(world: &World, who: &str, request: &Request<Body>) {
    let Some(job) = request.uri().path().strip_prefix("/api/v4/jobs/").and_then(|id| id.parse().ok()) else { return };
    let update = request.body().as_bytes().and_then(|body| serde_json::from_slice::<UpdateJob>(body).ok());
    if update.is_some_and(|update| update.state != "running")
        && let Some(replica) = who.strip_prefix('m').and_then(|name| name.split('.').next())
        && let Some(owner) = world.owner_of(job).filter(|owner| *owner != format!("s_sim{replica}"))
    {
        world.violated(format!("fence: {who} reports job {job}, which {owner} has"));
    }
}

/// What the request comes to at GitLab.
async fn effect(world: &World, who: &str, sent: Duration, request: Request<Body>) -> io::Result<Answer> {
    let malformed = || io::Error::from(io::ErrorKind::InvalidInput);
    let path = request.uri().path().strip_prefix("/api/v4/jobs/").ok_or_else(malformed)?.to_owned();
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let (token, range) = (header(headers::JOB_TOKEN), header(headers::CONTENT_RANGE));
    let body = Bytes::copy_from_slice(request.body().as_bytes().unwrap_or_default());
    if path == "request" {
        let asked: JobRequest = serde_json::from_slice(&body)?;
        return Ok(ask(world, who, !asked.last_update.is_empty()).await);
    }
    if let Some(id) = path.strip_suffix("/trace") {
        let id = id.parse().map_err(|_| malformed())?;
        let start = gitlab::start_of(&range).ok_or_else(malformed)?;
        return Ok(world.gitlab().append(world.now(), who, id, (&token, start, &body)));
    }
    let (id, update) = (path.parse().map_err(|_| malformed())?, serde_json::from_slice::<UpdateJob>(&body)?);
    world.log(|| format!("{who} says job {id} is {}", update.state));
    Ok(world.gitlab().update((sent, world.now()), who, id, &update))
}

/// A long poll.
async fn ask(world: &World, who: &str, may_be_held: bool) -> Answer {
    let until = world.now() + if may_be_held { HOLD } else { Duration::ZERO };
    loop {
        let now = world.now();
        let next = {
            let mut gitlab = world.gitlab();
            if let Some(answer) = gitlab.hand_out(now, who) {
                return answer;
            }
            gitlab.next_job(now)
        };
        if now >= until {
            return Answer { headers: vec![(headers::LAST_UPDATE, "v1".to_owned())], ..Answer::status(204) };
        }
        tokio::time::sleep_until(world.at(next.map_or(until, |next| next.clamp(now + Duration::from_millis(1), until)))).await;
    }
}

fn response(answer: Answer, breaks_off: bool) -> Response<Body> {
    let mut response = Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        response = response.header(*name, value);
    }
    let body = if breaks_off && answer.body.len() > 2 {
        let half = Bytes::copy_from_slice(&answer.body.as_bytes()[..answer.body.len() / 2]);
        Body::wrap_stream(stream::iter([Ok(half), Err(io::Error::from(io::ErrorKind::UnexpectedEof))]))
    } else {
        Body::from(answer.body)
    };
    response.body(body).unwrap_or_default()
}
