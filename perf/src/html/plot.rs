//! Lines over two axes, as SVG that follows the page: text keeps its size whatever the width, and takes its colours from
//! the page's style, in the light and in the dark.
//!
//! That is why it is written here. A drawing library such as `plotters` places everything in whole pixels of a picture of
//! one size, in colours of its own: its text shrinks with the picture, and stays dark on a dark page. Here all that is
//! text, tick or dot lies at percentages of the width, which SVG scales without its size, and only the lines are in a
//! picture that is stretched, whose strokes are not.

use std::fmt::Write;

use maud::{Markup, html};

use super::axis::{Axis, Scale};
use super::unit::Unit;

/// A plot. Its lines share both axes.
#[derive(Clone, Debug)]
pub(crate) struct Plot {
    pub(crate) title: String,
    /// What to see in it, or how to read it.
    pub(crate) note: String,
    pub(crate) x: (&'static str, Scale, Unit),
    pub(crate) y: (&'static str, Scale, Unit),
    /// The first is drawn in the accent's colour.
    pub(crate) lines: Vec<Line>,
    pub(crate) mark: Option<Mark>,
    /// Stretches of the x axis that do not count.
    pub(crate) shaded: Vec<(f64, f64)>,
    /// Whether each point is shown, as measurements that were made on purpose are.
    pub(crate) dots: bool,
}

/// A line: points in the order in which they are joined. One that an axis cannot show leaves a gap.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// A point that is pointed out.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    pub(crate) name: String,
    pub(crate) at: (f64, f64),
}

/// The side of the picture that is stretched.
const SIDE: f64 = 1000.0;

impl Plot {
    pub(super) fn render(&self) -> Markup {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let x = Axis::new(self.x.1, self.x.2, points().map(|(x, _)| *x));
        let y = Axis::new(self.y.1, self.y.2, points().map(|(_, y)| *y));
        // Gaps count on the x axis, so that plots over the same time have the same one; by themselves they are nothing.
        let axes = x.zip(y).filter(|(x, y)| points().any(|point| place(*point, x, y).is_some()));
        html! {
            figure {
                figcaption {
                    h3 { (self.title) }
                    @if !self.note.is_empty() { p { (self.note) } }
                    p.legend {
                        span.axis { (self.y.0) }
                        @for (nth, line) in self.lines.iter().enumerate().filter(|_| self.lines.len() > 1) {
                            span.(series(nth)) { svg.swatch aria-hidden="true" viewBox="0 0 24 8" { line x1="0" y1="4" x2="24" y2="4" {} } (line.name) }
                        }
                    }
                }
                @match axes {
                    Some((x, y)) => (self.drawn(&x, &y)),
                    None => p.nothing { "Nothing was recorded." }
                }
            }
        }
    }

    fn drawn(&self, x: &Axis, y: &Axis) -> Markup {
        html! {
            svg.plot role="img" aria-label=(self.told()) {
                @for (from, to) in &self.shaded {
                    @if let (Some(from), Some(to)) = (x.place(*from), x.place(*to)) {
                        rect.shade x=(percent(from)) y="0" width=(percent((to.min(1.0) - from).max(0.0))) height="100%" {}
                    }
                }
                @for (place, label) in y.ticks() {
                    line.grid x1="0" x2="100%" y1=(percent(1.0 - place)) y2=(percent(1.0 - place)) {}
                    text x="0" dx="-8" y=(percent(1.0 - place)) dy="0.35em" text-anchor="end" { (label) }
                }
                @for (place, label) in x.ticks() {
                    line.tick x1=(percent(place)) x2=(percent(place)) y1="100%" y2="100%" {}
                    text x=(percent(place)) y="100%" dy="1.5em" text-anchor="middle" { (label) }
                }
                line.base x1="0" x2="100%" y1="100%" y2="100%" {}
                text.axis x="100%" y="100%" dy="2.9em" text-anchor="end" { (self.x.0) }
                svg.lines width="100%" height="100%" viewBox="0 0 1000 1000" preserveAspectRatio="none" {
                    // The accent's line lies on top.
                    @for (nth, line) in self.lines.iter().enumerate().rev() {
                        path.(series(nth)) d=(path(&line.points, x, y)) {}
                    }
                }
                @for (nth, line) in self.lines.iter().enumerate().rev() {
                    @for (at, place) in dots(line, self.dots, x, y) {
                        circle.(series(nth)) cx=(percent(place.0)) cy=(percent(1.0 - place.1)) r="3" {
                            title { (line.name) ": " (self.y.2.show(at.1)) " at " (self.x.2.show(at.0)) }
                        }
                    }
                }
                @if let Some(mark) = &self.mark { (marked(mark, x, y)) }
            }
        }
    }

    /// For whoever cannot see it.
    fn told(&self) -> String {
        let mut told = format!("{}: {} over {}", self.title, self.y.0, self.x.0);
        for line in &self.lines {
            let values = || line.points.iter().map(|(_, y)| *y).filter(|y| y.is_finite());
            let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
            if low <= high {
                let _written = write!(told, "; {} from {} to {}", line.name, self.y.2.show(low), self.y.2.show(high));
            }
        }
        if let Some(mark) = &self.mark {
            let _written = write!(told, "; {}", mark.name);
        }
        told
    }
}

/// The class of the nth line, which has its colour and its dashes.
fn series(nth: usize) -> &'static str {
    ["s0", "s1", "s2", "s3"][nth % 4]
}

/// Where a point is, if both axes can show it.
fn place(point: (f64, f64), x: &Axis, y: &Axis) -> Option<(f64, f64)> {
    x.place(point.0).zip(y.place(point.1))
}

fn marked(mark: &Mark, x: &Axis, y: &Axis) -> Markup {
    html! {
        @if let Some((left, up)) = place(mark.at, x, y) {
            line.mark x1=(percent(left)) x2=(percent(left)) y1="0" y2="100%" {}
            circle.mark cx=(percent(left)) cy=(percent(1.0 - up)) r="6" {}
            @let (anchor, away) = if left > 0.5 { ("end", "-8") } else { ("start", "8") };
            text.mark x=(percent(left)) dx=(away) y="0" dy="1em" text-anchor=(anchor) { (mark.name) }
        }
    }
}

fn path(points: &[(f64, f64)], x: &Axis, y: &Axis) -> String {
    let mut path = String::new();
    let mut pen_is_down = false;
    for point in points {
        let Some((left, up)) = place(*point, x, y) else {
            pen_is_down = false;
            continue;
        };
        let _written =
            write!(path, "{}{:.1} {:.1}", if pen_is_down { 'L' } else { 'M' }, left * SIDE, (1.0 - up) * SIDE);
        pen_is_down = true;
    }
    path
}

/// Points that are to be seen by themselves: all, or one that has no neighbour to be joined to.
fn dots<'a>(
    line: &'a Line,
    all: bool,
    x: &'a Axis,
    y: &'a Axis,
) -> impl Iterator<Item = ((f64, f64), (f64, f64))> + 'a {
    let place = |at: usize| place(*line.points.get(at)?, x, y);
    let alone = move |at: usize| at.checked_sub(1).and_then(place).is_none() && place(at + 1).is_none();
    (0..line.points.len()).filter(move |at| all || alone(*at)).filter_map(move |at| Some((line.points[at], place(at)?)))
}

/// A share of the plot's width or height.
fn percent(share: f64) -> String {
    format!("{:.2}%", share.max(-1.0) * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: &[(f64, f64)]) -> Plot {
        Plot {
            title: "t".into(),
            note: String::new(),
            x: ("time", Scale::Span, Unit::Seconds),
            y: ("latency", Scale::Log, Unit::Micros),
            lines: vec![Line { name: "p50".into(), points: points.to_vec() }],
            mark: points.first().map(|at| Mark { name: "m".into(), at: *at }),
            shaded: vec![(0.0, 1.0)],
            dots: false,
        }
    }

    #[test]
    fn every_number_is_one() {
        for (points, drawn) in [
            (&[][..], false),
            (&[(0.0, 0.0)], false),
            (&[(f64::NAN, 1.0), (1.0, f64::INFINITY)], false),
            (&[(1.0, 5.0)], true),
            (&[(0.0, 3.0), (0.0, 3.0)], true),
            (&[(1.0, 1e-300), (2.0, 1e300), (3.0, f64::NAN)], true),
        ] {
            for dots in [false, true] {
                let svg = Plot { dots, ..plot(points) }.render().into_string();
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{points:?}: {svg}");
                assert_eq!(svg.contains("<path"), drawn, "{points:?}: {svg}");
            }
        }
    }

    #[test]
    fn a_gap_parts_a_line_and_a_lone_point_is_seen() {
        let points = [(0.0, 1.0), (1.0, 10.0), (2.0, f64::NAN), (3.0, 1.0), (4.0, 0.0)];
        let svg = plot(&points).render().into_string();
        assert!(svg.contains("d=\"M0.0 1000.0L250.0 0.0M750.0 1000.0\""), "{svg}");
        assert_eq!(svg.matches("r=\"3\"").count(), 1, "{svg}");
    }
}
