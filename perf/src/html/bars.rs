//! Quantities side by side, as SVG that follows the page as `plot.rs` says: a name and a number in words, a bar below.

use maud::{Markup, html};

use super::unit::Unit;

/// Bars of one scale, which begins at zero.
#[derive(Clone, Debug)]
pub(crate) struct Bars {
    pub(crate) title: String,
    /// What to see in it, or how to read it.
    pub(crate) note: String,
    pub(crate) unit: Unit,
    pub(crate) groups: Vec<Group>,
}

/// Bars that belong together.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    /// Empty for the only one.
    pub(crate) name: String,
    pub(crate) bars: Vec<Bar>,
}

/// One bar.
#[derive(Clone, Debug)]
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) value: f64,
    /// The least and the greatest of what `value` stands for.
    pub(crate) spread: Option<(f64, f64)>,
    /// Said beside the number, such as its ratio to another one.
    pub(crate) note: String,
    /// Whether it is what the others are compared with.
    pub(crate) ours: bool,
}

const GROUP_PX: f64 = 30.0;
const BAR_PX: f64 = 42.0;

impl Bars {
    pub(super) fn render(&self) -> Markup {
        let bars = self.groups.iter().flat_map(|group| &group.bars);
        let values = bars.flat_map(|bar| [bar.value, bar.spread.map_or(0.0, |(_, most)| most)]);
        let longest = values.filter(|value| value.is_finite()).fold(0.0, f64::max);
        let share = |value: f64| if longest > 0.0 && value > 0.0 { (value / longest).min(1.0) } else { 0.0 };
        html! {
            figure {
                figcaption {
                    h3 { (self.title) }
                    @if !self.note.is_empty() { p { (self.note) } }
                }
                @for group in &self.groups {
                    @let top = if group.name.is_empty() { 0.0 } else { GROUP_PX };
                    svg.bars role="img" aria-label=(self.told(group)) height=(top + BAR_PX * group.bars.len() as f64) {
                        @if !group.name.is_empty() { text.group x="0" y="18" { (group.name) } }
                        @for (nth, bar) in group.bars.iter().enumerate() {
                            (bar.render(self.unit, top + BAR_PX * nth as f64, share))
                        }
                    }
                }
            }
        }
    }

    /// For whoever cannot see it.
    fn told(&self, group: &Group) -> String {
        let bars = group.bars.iter().map(|bar| format!("{} {} {}", bar.name, self.unit.show(bar.value), bar.note));
        format!("{} {}: {}", self.title, group.name, bars.collect::<Vec<_>>().join("; "))
    }
}

impl Bar {
    fn render(&self, unit: Unit, top: f64, share: impl Fn(f64) -> f64) -> Markup {
        let percent = |share: f64| format!("{:.2}%", share * 100.0);
        let class = if self.ours { "ours" } else { "theirs" };
        html! {
            g.(class) {
                text x="0" y=(top + 14.0) { (self.name) }
                text x="100%" y=(top + 14.0) text-anchor="end" {
                    tspan.value { (unit.show(self.value)) }
                    @if !self.note.is_empty() { tspan.note dx="8" { (self.note) } }
                }
                rect.room x="0" y=(top + 22.0) width="100%" height="8" rx="2" {}
                rect.bar x="0" y=(top + 22.0) width=(percent(share(self.value))) height="8" rx="2" {}
                @if let Some((least, most)) = self.spread.filter(|(least, most)| least.is_finite() && most.is_finite()) {
                    line.spread x1=(percent(share(least))) x2=(percent(share(most))) y1=(top + 26.0) y2=(top + 26.0) {}
                    @for end in [least, most] {
                        line.spread x1=(percent(share(end))) x2=(percent(share(end))) y1=(top + 22.5) y2=(top + 29.5) {}
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_one() {
        for values in [&[][..], &[0.0], &[f64::NAN, f64::INFINITY], &[-3.0, 5.0]] {
            let bar = |value: &f64| Bar {
                name: "b".into(),
                value: *value,
                spread: Some((*value, value * 2.0)),
                note: String::new(),
                ours: false,
            };
            let group = Group { name: "g".into(), bars: values.iter().map(bar).collect() };
            let bars = Bars { title: "t".into(), note: String::new(), unit: Unit::Bytes, groups: vec![group] };
            let svg = bars.render().into_string();
            let lengths =
                svg.split("width=\"").skip(1).filter_map(|rest| rest.split_once("%\"")).map(|(length, _)| length);
            for length in lengths {
                assert!((0.0..=100.0).contains(&length.parse::<f64>().unwrap()), "{values:?}: {svg}");
            }
        }
    }
}
