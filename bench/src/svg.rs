//! Small plots as SVG: lines over a number, one colour per runner.
//!
//! Written by hand: two axes and some lines need no library, and the files stay small enough to be read in a review.

use std::fmt::Write as _;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
const COLOURS: [&str; 6] = ["#1f77b4", "#d62728", "#2ca02c", "#ff7f0e", "#9467bd", "#7f7f7f"];
const TICKS: u32 = 5;

/// One line of a plot.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Its name in the legend.
    pub name: String,
    /// Points in the order of their first number.
    pub points: Vec<(f64, f64)>,
}

/// A plot.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chart {
    /// Shown above.
    pub title: String,
    /// What the horizontal axis counts.
    pub across: String,
    /// What the vertical axis counts.
    pub up: String,
    /// What is drawn.
    pub lines: Vec<Line>,
}

/// Shares of all jobs that had happened by a time, for a plot of many times.
pub fn shares(mut times: Vec<f64>) -> Vec<(f64, f64)> {
    times.sort_by(f64::total_cmp);
    let all = crate::percentiles::count(times.len());
    times.iter().enumerate().map(|(index, time)| (*time, crate::percentiles::count(index + 1) * 100.0 / all)).collect()
}

impl Chart {
    /// The plot as a file.
    pub fn svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let (right, top) = (round_up(points().map(|point| point.0)), round_up(points().map(|point| point.1)));
        let x = |value: f64| LEFT + value / right * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n"
        );
        let text = |x: f64, y: f64, anchor: &str, words: &str| {
            format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>\n", escaped(words))
        };
        svg.push_str(&text(LEFT, 22.0, "start", &self.title));
        svg.push_str(&text((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 12.0, "middle", &self.across));
        svg.push_str(&text(8.0, TOP - 4.0, "start", &self.up));
        for tick in 0..=TICKS {
            let part = f64::from(tick) / f64::from(TICKS);
            let (at_x, at_y) = (x(part * right), y(part * top));
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" y1=\"{at_y:.1}\" x2=\"{:.1}\" y2=\"{at_y:.1}\" stroke=\"#dddddd\"/>",
                WIDTH - RIGHT
            );
            svg.push_str(&text(LEFT - 6.0, at_y + 4.0, "end", &number(part * top)));
            svg.push_str(&text(at_x, HEIGHT - BOTTOM + 18.0, "middle", &number(part * right)));
        }
        for (index, line) in self.lines.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            let path: Vec<_> = line.points.iter().map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1))).collect();
            let _ =
                writeln!(svg, "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>", path.join(" "));
            if line.points.len() <= 20 {
                for point in &line.points {
                    let _ =
                        writeln!(svg, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>", x(point.0), y(point.1));
                }
            }
            let at = TOP + 10.0 + crate::percentiles::count(index) * 18.0;
            let _ = writeln!(
                svg,
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>",
                WIDTH - RIGHT + 10.0,
                at - 9.0
            );
            svg.push_str(&text(WIDTH - RIGHT + 25.0, at, "start", &line.name));
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// The end of an axis: 1, 2 or 5 times a power of ten.
fn round_up(values: impl Iterator<Item = f64>) -> f64 {
    let largest = values.filter(|value| value.is_finite()).fold(0.0, f64::max);
    if largest <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(largest.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|step| step * power).into_iter().find(|end| *end >= largest).unwrap_or(largest)
}

fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::{Chart, Line, round_up, shares};

    #[test]
    fn a_plot_holds_its_lines_inside_its_axes_and_names_them_safely() {
        let line = Line { name: "a<b".to_owned(), points: vec![(0.0, 0.0), (60.0, 88.0)] };
        let chart = Chart { title: "RSS & more".to_owned(), across: "jobs".to_owned(), up: "MB".to_owned(), lines: vec![line] };
        let svg = chart.svg();
        assert!(svg.contains("RSS &amp; more") && svg.contains("a&lt;b"));
        assert!(svg.contains("points=\"70.0,330.0 370.0,74.8\""), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(svg.ends_with("</svg>\n"));
    }

    #[test]
    fn a_plot_without_points_is_drawn_too() {
        assert!(Chart::default().svg().contains("</svg>"));
    }

    #[test]
    fn axes_end_at_round_numbers() {
        assert_eq!(round_up([3.0, 88.0].into_iter()), 100.0);
        assert_eq!(round_up([0.13].into_iter()), 0.2);
        assert_eq!(round_up([].into_iter()), 1.0);
    }

    #[test]
    fn shares_reach_a_hundred() {
        assert_eq!(shares(vec![2.0, 1.0]), [(1.0, 50.0), (2.0, 100.0)]);
    }
}
