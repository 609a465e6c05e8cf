//! `image` and `services`.

use crate::compile::Context;
use crate::pipeline::{Image, Service};
use crate::variables;
use crate::yaml::{Map, Node, Value};

const IMAGE: &[&str] = &["name", "entrypoint", "pull_policy", "docker", "kubernetes"];
const SERVICE: &[&str] = &["name", "entrypoint", "pull_policy", "docker", "kubernetes", "alias", "command", "variables"];

/// A job's image.
pub(crate) fn read_image(context: &Context<'_>, job: &Map, name: &str) -> Option<Image> {
    let entry = job.get("image").filter(|entry| !entry.node.is_null())?;
    match &entry.node.value {
        Value::Text(text) => {
            not_blank(context, &entry.node, text, "image");
            Some(Image { name: text.to_string(), ..Image::default() })
        }
        Value::Map(map) => {
            context.check_keys(map, ("image", name), IMAGE, &[("ports", "they are reachable all the same")]);
            Some(image(context, map, &entry.node, ("image", name)))
        }
        _ => {
            context.wrong(&entry.node, "image", "a string or a map");
            None
        }
    }
}

/// A job's services.
pub(crate) fn read_services(context: &Context<'_>, job: &Map, name: &str) -> Vec<Service> {
    let Some(entry) = job.get("services").filter(|entry| !entry.node.is_null()) else { return Vec::new() };
    let Some(items) = entry.node.list() else {
        context.wrong(&entry.node, "services", "a list");
        return Vec::new();
    };
    context.flatten(items, "services").into_iter().filter_map(|item| service(context, item, name)).collect()
}

fn service(context: &Context<'_>, item: &Node, name: &str) -> Option<Service> {
    match &item.value {
        Value::Text(text) => {
            not_blank(context, item, text, "services");
            Some(Service { image: Image { name: text.to_string(), ..Image::default() }, ..Service::default() })
        }
        Value::Map(map) => {
            context.check_keys(map, ("services", name), SERVICE, &[("ports", "they are reachable all the same")]);
            let image = image(context, map, item, ("services", name));
            let alias = map.get("alias").and_then(|entry| context.string(&entry.node, "services:alias")).unwrap_or_default();
            let command = map.get("command").map(|entry| context.strings(&entry.node, "services:command"));
            let variables = map.get("variables").map(|entry| variables::read(context, &entry.node, variables::Level::Job));
            Some(Service { image, alias, command: command.unwrap_or_default(), variables: variables.unwrap_or_default() })
        }
        _ => {
            context.wrong(item, "services", "a list of strings or maps");
            None
        }
    }
}

/// What an image and a service have in common.
fn image(context: &Context<'_>, map: &Map, node: &Node, (what, job): (&str, &str)) -> Image {
    let mut image = Image::default();
    match map.get("name") {
        Some(entry) => {
            image.name = context.string(&entry.node, &format!("{what}:name")).unwrap_or_default();
            if entry.node.text().is_some() {
                not_blank(context, &entry.node, &image.name, &format!("{what}:name"));
            }
        }
        None => context.sink.error(node.place, format!("`{what}` needs a `name`")),
    }
    if let Some(entry) = map.get("entrypoint") {
        image.entrypoint = context.strings(&entry.node, &format!("{what}:entrypoint"));
    }
    if let Some(entry) = map.get("pull_policy").filter(|entry| !entry.node.is_null()) {
        image.pull_policy = pull_policies(context, &entry.node, what);
    }
    for executor in ["docker", "kubernetes"] {
        let Some(options) = map.get(executor).and_then(|entry| context.as_map(&entry.node, &format!("{what}:{executor}"))) else {
            continue;
        };
        let of = format!("{what}:{executor}");
        let unhandled: &[_] = if executor == "docker" { &[("platform", "the machine's own is used")] } else { &[] };
        context.check_keys(options, (&of, job), &["user"], unhandled);
        if let Some(user) = options.get("user") {
            // `kubernetes:user` may be a number, and it comes last because it is meant for pods.
            image.user = user.node.scalar_text().filter(|text| !text.is_empty());
            if image.user.is_none() {
                context.wrong(&user.node, &format!("{of}:user"), "a user");
            }
        }
    }
    image
}

fn pull_policies(context: &Context<'_>, node: &Node, what: &str) -> Vec<String> {
    let what = format!("{what}:pull_policy");
    let items = node.list().unwrap_or(std::slice::from_ref(node));
    let known = &["always", "if-not-present", "never"];
    items.iter().filter_map(|item| context.choice(item, &what, known)).map(str::to_owned).collect()
}

fn not_blank(context: &Context<'_>, node: &Node, text: &str, what: &str) {
    if text.trim().is_empty() {
        context.sink.error(node.place, format!("`{what}` is empty"));
    }
}
