//! `parallel`: one entry of the file, several jobs.

use crate::compile::Context;
use crate::pipeline::YamlVariable;
use crate::yaml::{Entry, Map, Node, Value};

/// Jobs that one entry becomes, as in GitLab.
const MOST: usize = 200;

/// One of the jobs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Copy {
    /// Its full name.
    pub name: String,
    /// Variables of its own.
    pub variables: Vec<YamlVariable>,
}

/// The jobs that a job's `parallel` asks for; just the job without it.
pub(crate) fn read(context: &Context<'_>, job: &Map, name: &str) -> Vec<Copy> {
    let single = || vec![Copy { name: name.to_owned(), variables: Vec::new() }];
    let Some(entry) = job.get("parallel").filter(|entry| !entry.node.is_null()) else { return single() };
    let mut copies = match &entry.node.value {
        Value::Int(count) => match usize::try_from(*count) {
            Ok(count) if (1..=MOST).contains(&count) => {
                (1..=count).map(|number| Copy { name: format!("{name} {number}/{count}"), variables: Vec::new() }).collect()
            }
            _ => {
                context.sink.error(entry.node.place, format!("`parallel` must be between 1 and {MOST}"));
                return single();
            }
        },
        Value::Map(map) => {
            context.check_keys(map, ("parallel", name), &["matrix"], &[]);
            match map.get("matrix") {
                Some(matrix) => of_matrix(context, matrix, name),
                None => {
                    context.sink.error(entry.place, "`parallel` needs a number or a `matrix`");
                    return single();
                }
            }
        }
        _ => {
            context.wrong(&entry.node, "parallel", "a number or a map with `matrix`");
            return single();
        }
    };
    if copies.is_empty() {
        return single();
    }
    number(&mut copies);
    copies
}

fn number(copies: &mut [Copy]) {
    let total = copies.len();
    for (at, copy) in copies.iter_mut().enumerate() {
        let own = [("CI_NODE_INDEX", at + 1), ("CI_NODE_TOTAL", total)];
        let own = own.map(|(key, value)| YamlVariable { key: key.to_owned(), value: value.to_string(), raw: false });
        copy.variables.splice(0..0, own);
    }
}

/// All combinations of a matrix.
pub(crate) fn of_matrix(context: &Context<'_>, matrix: &Entry, name: &str) -> Vec<Copy> {
    let Some(rows) = matrix.node.list() else {
        context.wrong(&matrix.node, "parallel:matrix", "a list of maps");
        return Vec::new();
    };
    let mut copies = Vec::new();
    for row in rows {
        let Some(map) = context.as_map(row, "parallel:matrix") else { continue };
        let axes: Vec<(String, Vec<String>)> =
            map.iter().map(|axis| (axis.key.to_string(), values(context, &axis.node))).collect();
        let size = axes.iter().try_fold(1usize, |size, (_, values)| size.checked_mul(values.len()));
        if size.is_none_or(|size| size + copies.len() > MOST) {
            context.sink.error(matrix.place, format!("`parallel:matrix` makes more than {MOST} jobs"));
            return copies;
        }
        if map.is_empty() {
            context.sink.error(row.place, "this row of the matrix has no variable");
            continue;
        }
        copies.extend(combinations(&axes).into_iter().map(|variables| {
            let values: Vec<&str> = variables.iter().map(|variable| variable.value.as_str()).collect();
            Copy { name: format!("{name}: [{}]", values.join(", ")), variables }
        }));
    }
    copies
}

fn values(context: &Context<'_>, node: &Node) -> Vec<String> {
    let items = node.list().unwrap_or(std::slice::from_ref(node));
    let values: Vec<String> = items.iter().filter(|item| !item.is_null()).filter_map(Node::scalar_text).collect();
    if values.len() != items.len() || values.is_empty() {
        context.sink.error(node.place, "values of `parallel:matrix` must be strings, or lists of strings");
    }
    values
}

fn combinations(axes: &[(String, Vec<String>)]) -> Vec<Vec<YamlVariable>> {
    let mut rows: Vec<Vec<YamlVariable>> = vec![Vec::new()];
    for (key, values) in axes {
        rows = rows
            .iter()
            .flat_map(|row| {
                values.iter().map(move |value| {
                    let mut row = row.clone();
                    row.push(YamlVariable { key: key.clone(), value: value.clone(), raw: false });
                    row
                })
            })
            .collect();
    }
    rows
}
