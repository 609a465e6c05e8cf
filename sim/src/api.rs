//! The way to the Kubernetes API: the embedded server without a network, and on the way what can go wrong goes wrong.
//!
//! Requests go to the server's router itself: pipes and HTTP between them would only cost time.

use crate::dice::{chance, millis, seconds};
use crate::schedule::Faults;
use crate::world::{World, arrives};
use axum::Router;
use axum::body::Body;
use fastrand::Rng;
use futures::StreamExt;
use http::{Method, Request, Response};
use kube_server::{NoBackend, router};
use serde_json::{Value, json};
use std::io;
use std::sync::Arc;
use tower::ServiceExt;

/// Largest body that is looked into.
const BODY: usize = 4 * 1024 * 1024;

/// The cluster as a manager sees it.
pub fn client(world: &World, who: &str) -> kube::Client {
    let (world, who) = (world.clone(), who.to_owned());
    let router = router(world.store().clone(), Arc::new(NoBackend));
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        let (world, who, router) = (world.clone(), who.clone(), router.clone());
        async move { through(&world, &who, router, request.map(Body::new)).await }
    });
    kube::Client::new(service, "default")
}

/// One request, as far as the door looks at it.
struct Asked {
    name: String,
    is_watch: bool,
    is_list: bool,
}

async fn through(world: &World, who: &str, router: Router, request: Request<Body>) -> io::Result<Response<Body>> {
    let path = request.uri().path().to_owned();
    if path.starts_with("/apis/authorization.k8s.io/") {
        return review(request).await;
    }
    let query = request.uri().query().unwrap_or_default();
    let is_watch = query.contains("watch=");
    let one = path.split('/').skip(5).count() > 1 || path == "/version";
    let is_list = request.method() == Method::GET && !is_watch && !one;
    let dry = if query.contains("dryRun") { " (dry)" } else { "" };
    let asked = Asked {
        name: format!("{who} {} {path}{dry}{}", request.method(), if is_watch { " (watch)" } else { "" }),
        is_watch,
        is_list,
    };
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, BODY).await.map_err(io::Error::other)?;
    count(world, &asked, &path, (&parts.method, &body));
    let request = Request::from_parts(parts, Body::from(body));
    let rng = &mut world.next_dice(&asked.name);
    let faults = &world.schedule().api;
    on_the_way(world, who, &asked, rng).await?;
    if world.is_faulty() && chance(rng, faults.refused) {
        let code = [500, 503, 429, 504, 409][rng.usize(0..5)];
        world.log(|| format!("{} ─ refused {code}", asked.name));
        return Ok(refusal(code));
    }
    let lost_after = chance(rng, faults.lost_after);
    let slow = world.is_faulty() && chance(rng, faults.slow);
    let flight = if slow { seconds(rng, 1, 50) } else { millis(rng, 1, 10) };
    let effect = async move { Ok(router.oneshot(request).await.unwrap_or_else(|never| match never {})) };
    let response = arrives(flight, rng.bool(), effect).await?;
    world.log(|| format!("{} → {}", asked.name, response.status().as_u16()));
    tokio::time::sleep(millis(rng, 1, 20)).await;
    if world.is_faulty() && lost_after {
        world.log(|| format!("{} ─ answer lost", asked.name));
        return if rng.bool() { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(refusal(504)) };
    }
    if asked.is_watch {
        return Ok(watched(world, who, response, rng));
    }
    if asked.is_list && world.is_faulty() && chance(rng, faults.partial) {
        return partial(world, &asked, response, rng).await;
    }
    Ok(response)
}

/// What happens before the request has an effect.
async fn on_the_way(world: &World, who: &str, asked: &Asked, rng: &mut Rng) -> io::Result<()> {
    let faults = &world.schedule().api;
    world.sends(who, &asked.name);
    tokio::time::sleep(millis(rng, 1, 10)).await;
    if let Some(outage) = world.outage(faults, who) {
        world.log(|| format!("{} ─ the API is away", asked.name));
        if outage.silent {
            tokio::time::sleep_until(world.at(outage.to)).await;
        }
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    if world.is_faulty() && chance(rng, faults.lost_before) {
        world.log(|| format!("{} ─ lost", asked.name));
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    Ok(())
}

/// The questions of the start, all answered with yes.
async fn review(request: Request<Body>) -> io::Result<Response<Body>> {
    let body = axum::body::to_bytes(request.into_body(), BODY).await.map_err(io::Error::other)?;
    let mut review: Value = serde_json::from_slice(&body)?;
    review["status"] = json!({"allowed": true});
    Ok(answer(201, &review))
}

fn answer(code: u16, value: &Value) -> Response<Body> {
    let response = Response::builder().status(code).header("content-type", "application/json");
    response.body(Body::from(value.to_string())).unwrap_or_default()
}

fn refusal(code: u16) -> Response<Body> {
    let reason = match code {
        409 => "Conflict",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "InternalError",
    };
    answer(
        code,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": reason,
        "code": code, "message": "simulated"}),
    )
}

/// A watch that breaks off some time, at an outage in any case.
fn watched(world: &World, who: &str, response: Response<Body>, rng: &mut Rng) -> Response<Body> {
    let Faults { broken, expired, outages, .. } = &world.schedule().api;
    let (is_broken, is_expired) = (chance(rng, *broken), chance(rng, *expired));
    let random = (is_broken || is_expired).then(|| world.now() + seconds(rng, 1, 200)).filter(|at| *at < world.schedule().heal);
    let his = outages.iter().filter(|outage| outage.only.is_none_or(|replica| who.starts_with(&format!("m{replica}."))));
    let outage = his.map(|outage| outage.from).filter(|from| *from > world.now()).min();
    let Some(at) = [random, outage].into_iter().flatten().min() else { return response };
    let last = (is_expired && Some(at) == random).then(|| {
        let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Expired",
            "code": 410, "message": "too old resource version"});
        Ok(bytes::Bytes::from(format!("{}\n", json!({"type": "ERROR", "object": status}))))
    });
    let end = tokio::time::sleep_until(world.at(at));
    response.map(|body| {
        let rest = futures::stream::iter(
            last.into_iter().chain(std::iter::once(Err(axum::Error::new(io::Error::from(io::ErrorKind::UnexpectedEof))))),
        );
        Body::from_stream(body.into_data_stream().take_until(Box::pin(end)).chain(rest))
    })
}

/// A list that lacks some of what it should have.
async fn partial(world: &World, asked: &Asked, response: Response<Body>, rng: &mut Rng) -> io::Result<Response<Body>> {
    let code = response.status().as_u16();
    let body = axum::body::to_bytes(response.into_body(), BODY).await.map_err(io::Error::other)?;
    let mut list: Value = serde_json::from_slice(&body)?;
    if let Some(items) = list["items"].as_array_mut() {
        let before = items.len();
        items.retain(|_| rng.f64() < 0.6);
        world.log(|| format!("{} ─ {} of {before} are listed", asked.name, items.len()));
    }
    Ok(answer(code, &list))
}

/// Counts what is done for a job; what is done once for all jobs does not count.
fn count(world: &World, asked: &Asked, path: &str, (method, body): (&Method, &[u8])) {
    if asked.is_watch || asked.is_list || asked.name.contains("(dry)") || path.contains("/leases") {
        return;
    }
    let name = if method == Method::POST {
        let object: Value = serde_json::from_slice(body).unwrap_or_default();
        object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
    } else {
        path.rsplit('/').next().unwrap_or_default().to_owned()
    };
    if let Some(job) = job_of(&name) {
        world.notes().requests.entry(job).or_default().push(format!("{} {name}", asked.name));
    }
}

/// The job that a name is of.
pub fn job_of(name: &str) -> Option<u64> {
    let (_, rest) = name.split_once("-project-5-")?;
    rest.split('-').next()?.parse().ok()
}
