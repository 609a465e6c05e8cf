//! Findings as a terminal shows them: file, line, column, the line and a caret below it.
//!
//! The drawing is left to `annotate-snippets`, which knows how wide a character is and what a tab does.

use crate::diagnostic::{Diagnostic, Diagnostics, Severity};
use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use std::fmt::Write;

impl Diagnostics {
    /// All findings as text that ends with a line break; empty when there are none.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let renderer = renderer.decor_style(DecorStyle::Ascii);
        let mut text = String::new();
        for (number, one) in self.0.iter().enumerate() {
            if number > 0 {
                text.push('\n');
            }
            render_one(&mut text, &renderer, one);
        }
        text
    }
}

fn render_one(text: &mut String, renderer: &Renderer, one: &Diagnostic) {
    let level = match one.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let message = visible(&one.message);
    let line = one.excerpt.as_ref().map(|excerpt| visible(&excerpt.line));
    let mut group = Group::with_title(level.primary_title(message.as_str()));
    if let (Some(excerpt), Some(line)) = (&one.excerpt, &line) {
        group = group.element(
            Snippet::source(line.as_str())
                .line_start(one.line)
                .path(one.file.as_str())
                .annotation(AnnotationKind::Primary.span(excerpt.start..excerpt.end.min(line.len()))),
        );
    }
    let hint = one.hint.as_deref().map(visible);
    if let Some(hint) = &hint {
        group = group.element(Level::HELP.message(hint.as_str()));
    }
    text.push_str(&renderer.render(&[group]));
    text.push('\n');
    if one.excerpt.is_none() {
        // A String takes any text.
        let _ = writeln!(text, "  --> {}:{}:{}", one.file, one.line, one.column);
    }
}

/// Control characters of the file would drive the reader's terminal; each becomes one of the same length, so that
/// carets stay in place.
fn visible(text: &str) -> String {
    text.chars().map(|one| if one.is_ascii_control() && one != '\t' { '?' } else { one }).collect()
}
