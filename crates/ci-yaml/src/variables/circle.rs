//! Variables that refer to each other in a circle, which GitLab refuses.

use super::{YamlVariable, reference};
use std::collections::HashMap;

/// Names of one circle, the first again at the end. A variable that names only itself is none: it takes over the value
/// that it had before.
pub(crate) fn find(variables: &[YamlVariable]) -> Option<Vec<String>> {
    let at: HashMap<&str, usize> = variables.iter().enumerate().map(|(at, one)| (one.key.as_str(), at)).collect();
    let edges: Vec<Vec<usize>> = variables
        .iter()
        .enumerate()
        .map(|(own, one)| {
            let names = if one.raw { Vec::new() } else { names(&one.value) };
            names.into_iter().filter_map(|name| at.get(name).copied()).filter(|other| *other != own).collect()
        })
        .collect();
    // 0: not seen, 1: on the way, 2: done.
    let mut state = vec![0u8; variables.len()];
    for start in 0..variables.len() {
        if state[start] != 0 {
            continue;
        }
        let mut way = vec![(start, 0)];
        state[start] = 1;
        while let Some((here, next)) = way.last_mut() {
            let Some(&target) = edges[*here].get(*next) else {
                state[*here] = 2;
                way.pop();
                continue;
            };
            *next += 1;
            match state[target] {
                0 => {
                    state[target] = 1;
                    way.push((target, 0));
                }
                1 => {
                    let circle = way.iter().map(|(at, _)| *at).skip_while(|at| *at != target).chain([target]);
                    return Some(circle.map(|at| variables[at].key.clone()).collect());
                }
                _ => {}
            }
        }
    }
    None
}

/// Names that a value refers to.
fn names(value: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut rest = value;
    while let Some(at) = rest.find(['$', '%']) {
        let (length, name) = reference(&rest[at..]);
        names.extend(name);
        rest = &rest[at + length..];
    }
    names
}
