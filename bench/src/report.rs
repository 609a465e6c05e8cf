//! What was measured: one list of figures, shown as Markdown and JSON.

use crate::svg::Chart;
use anyhow::{Context, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// The table it stands in.
    pub section: String,
    /// What was measured.
    pub what: String,
    /// Of which runner; `bare pods` for none.
    pub of: String,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
    /// What it should not exceed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goal: Option<f64>,
}

/// Everything of a run.
#[derive(Debug, Default)]
pub struct Report {
    figures: Vec<Figure>,
    notes: Vec<String>,
    charts: Vec<(String, Chart)>,
    facts: BTreeMap<String, String>,
}

/// Where a figure belongs.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The table.
    pub section: &'a str,
    /// The column.
    pub of: &'a str,
}

impl Report {
    /// Adds a figure, and shows it at once.
    pub fn add(&mut self, place: Place<'_>, what: &str, value: Option<f64>, unit: &'static str) {
        self.add_with_goal(place, what, (value, unit), None);
    }

    /// Adds a figure that should not exceed its goal.
    pub fn add_with_goal(&mut self, place: Place<'_>, what: &str, measured: (Option<f64>, &'static str), goal: Option<f64>) {
        let (Some(value), unit) = measured else { return };
        let figure =
            Figure { section: place.section.to_owned(), what: what.to_owned(), of: place.of.to_owned(), value, unit, goal };
        eprintln!("  {} · {}: {what}: {}{}", figure.section, figure.of, shown(value, unit), verdict(&figure));
        self.figures.push(figure);
    }

    /// Adds a sentence.
    pub fn note(&mut self, sentence: impl Into<String>) {
        let sentence = sentence.into();
        eprintln!("  note: {sentence}");
        self.notes.push(sentence);
    }

    /// Adds a plot, `name` is its file without the ending.
    pub fn plot(&mut self, name: &str, chart: Chart) {
        self.charts.push((name.to_owned(), chart));
    }

    /// Adds a fact on machine or programs.
    pub fn fact(&mut self, name: &str, value: impl Into<String>) {
        self.facts.insert(name.to_owned(), value.into());
    }

    /// Writes everything into a directory.
    pub fn write(&self, directory: &Path) -> Result<()> {
        std::fs::create_dir_all(directory).with_context(|| format!("failed to make {}", directory.display()))?;
        let write = |name: &str, text: &str| {
            let path = directory.join(name);
            std::fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))
        };
        write("results.md", &self.markdown())?;
        let all = serde_json::json!({"facts": self.facts, "figures": self.figures, "notes": self.notes});
        write("results.json", &format!("{}\n", serde_json::to_string_pretty(&all)?))?;
        self.charts.iter().try_for_each(|(name, chart)| write(&format!("{name}.svg"), &chart.svg()))
    }

    /// The tables: one per section, one column per runner.
    pub fn markdown(&self) -> String {
        let mut text = "# Results\n\n".to_owned();
        for (name, value) in &self.facts {
            let _ = writeln!(text, "- {name}: {value}");
        }
        for section in unique(self.figures.iter().map(|one| one.section.as_str())) {
            let figures: Vec<_> = self.figures.iter().filter(|one| one.section == section).collect();
            text.push_str(&table(section, &figures));
        }
        if !self.notes.is_empty() {
            text.push_str("\n## Notes\n\n");
            self.notes.iter().for_each(|note| text.push_str(&format!("- {note}\n")));
        }
        if !self.charts.is_empty() {
            text.push_str("\n## Plots\n\n");
            self.charts.iter().for_each(|(name, chart)| text.push_str(&format!("![{}]({name}.svg)\n", chart.title)));
        }
        text
    }
}

fn table(section: &str, figures: &[&Figure]) -> String {
    let columns = unique(figures.iter().map(|one| one.of.as_str()));
    let has_goals = figures.iter().any(|one| one.goal.is_some());
    let mut text = format!("\n## {section}\n\n| | {} |", columns.join(" | "));
    text.push_str(if has_goals { " goal |\n" } else { "\n" });
    text.push_str(&format!("| --- |{}{}\n", " ---: |".repeat(columns.len()), if has_goals { " --- |" } else { "" }));
    for what in unique(figures.iter().map(|one| one.what.as_str())) {
        let of = |column: &str| figures.iter().find(|one| one.what == what && one.of == column);
        let cell =
            |column: &&str| of(column).map_or_else(String::new, |one| format!("{}{}", shown(one.value, one.unit), verdict(one)));
        let cells: Vec<_> = columns.iter().map(cell).collect();
        let _ = write!(text, "| {what} | {} |", cells.join(" | "));
        if has_goals {
            let goal = figures.iter().find_map(|one| one.goal.filter(|_| one.what == what).map(|goal| (goal, one.unit)));
            let _ = write!(text, " {} |", goal.map_or_else(String::new, |(goal, unit)| format!("≤ {}", shown(goal, unit))));
        }
        text.push('\n');
    }
    text
}

fn verdict(figure: &Figure) -> &'static str {
    match figure.goal {
        None => "",
        Some(goal) if figure.value <= goal => " (met)",
        Some(_) => " (**not met**)",
    }
}

/// A value with as many digits as it is worth.
fn shown(value: f64, unit: &str) -> String {
    let number = match value.abs() {
        _ if value.fract().abs() < 1e-9 => format!("{value:.0}"),
        size if size < 0.1 => format!("{value:.4}"),
        size if size < 10.0 => format!("{value:.2}"),
        _ => format!("{value:.1}"),
    };
    if unit.is_empty() { number } else { format!("{number} {unit}") }
}

fn unique<'a>(words: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    words.for_each(|word| {
        if !seen.contains(&word) {
            seen.push(word);
        }
    });
    seen
}

#[cfg(test)]
mod tests {
    use super::{Place, Report};

    #[test]
    fn figures_become_one_table_with_a_column_per_runner() {
        let mut report = Report::default();
        let (one, two) = (Place { section: "Latency", of: "gantry" }, Place { section: "Latency", of: "other" });
        report.add_with_goal(one, "first line, p50", (Some(0.9), "s"), Some(1.2));
        report.add_with_goal(two, "first line, p50", (Some(4.0), "s"), Some(1.2));
        report.add(one, "jobs", Some(20.0), "");
        report.add(one, "nothing", None, "s");
        let text = report.markdown();
        assert!(text.contains("| | gantry | other | goal |\n| --- | ---: | ---: | --- |"), "{text}");
        assert!(text.contains("| first line, p50 | 0.90 s (met) | 4 s (**not met**) | ≤ 1.20 s |"), "{text}");
        assert!(text.contains("| jobs | 20 |  |  |"), "{text}");
        assert!(!text.contains("nothing"));
    }
}
