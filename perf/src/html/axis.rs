//! One axis of a plot: values in, places between 0 and 1 and labelled ticks out. Every place is a number, whatever the
//! values are.

use super::unit::Unit;

/// How values lie along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// Evenly, from zero to a round number.
    Linear,
    /// Evenly, from zero to the last value.
    Span,
    /// By their logarithm.
    Log,
    /// Shares of 1 by what is missing from 1, as HdrHistogram's plots have percentiles: each nine as wide as the last.
    Nines,
}

/// An axis.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    scale: Scale,
    /// The values at its ends.
    from: f64,
    to: f64,
    /// Values and what they are called, rising; some may lie beyond the ends.
    named: Vec<(f64, String)>,
}

/// Ticks of a linear axis, about.
const TICKS: f64 = 5.0;

/// A logarithmic axis whose ends are further apart by this factor is marked at powers of ten alone.
const WIDE: f64 = 300.0;

/// Decades of a logarithmic axis that all have a tick.
const DECADES: usize = 6;

/// Shares that people name.
const NINES: [(f64, &str); 5] =
    [(0.5, "50\u{a0}%"), (0.9, "90\u{a0}%"), (0.99, "99\u{a0}%"), (0.999, "99.9\u{a0}%"), (0.9999, "99.99\u{a0}%")];

impl Axis {
    /// One that has place for all of `values`; those that its scale cannot show are left out. `None` if that is all.
    pub(super) fn new(scale: Scale, unit: Unit, values: impl Iterator<Item = f64>) -> Option<Self> {
        let shown = values.filter(|value| scale.shows(*value));
        let bounds = (f64::INFINITY, f64::NEG_INFINITY);
        let (low, high) = shown.fold(bounds, |(low, high), value| (value.min(low), value.max(high)));
        (low <= high).then(|| match scale {
            Scale::Linear => Self::linear(unit, high),
            Scale::Span if high > 0.0 => Self { scale, to: high, ..Self::linear(unit, high) },
            Scale::Span => Self { scale, ..Self::linear(unit, high) },
            Scale::Log => Self::log(unit, low, high),
            Scale::Nines => Self::nines(),
        })
    }

    fn linear(unit: Unit, high: f64) -> Self {
        let (multiple, name) = unit.multiple(high);
        let high = if high > 0.0 { high / multiple } else { 1.0 };
        let step = round_above(high / TICKS);
        let steps = (high / step - 1e-9).ceil();
        let decimals = (-step.log10().floor()).clamp(0.0, 9.0) as usize;
        let ticks = (0..=steps as u32).map(|nth| f64::from(nth) * step);
        let label = |tick: f64| if tick > 0.0 { format!("{tick:.decimals$}{name}") } else { "0".to_owned() };
        let named = ticks.map(|tick| (tick * multiple, label(tick))).collect();
        Self { scale: Scale::Linear, from: 0.0, to: steps * step * multiple, named }
    }

    fn log(unit: Unit, low: f64, high: f64) -> Self {
        let (mut from, mut to) = (round_below(low), round_above(high));
        if from >= to {
            (from, to) = (round_below(from * 0.99), round_above(to * 1.01));
        }
        let decades_only = to / from > WIDE;
        if decades_only {
            (from, to) = (10_f64.powf(from.log10().floor()), 10_f64.powf(to.log10().ceil()));
        }
        let decades = from.log10().floor() as i32..=to.log10().ceil() as i32;
        let count = decades.clone().count();
        let mantissas: &[f64] = if decades_only { &[1.0] } else { &ROUND[..3] };
        let values = decades.step_by(count.div_ceil(DECADES + 1)).flat_map(|decade| {
            let power = 10_f64.powi(decade);
            mantissas.iter().map(move |mantissa| mantissa * power)
        });
        Self { scale: Scale::Log, from, to, named: values.map(|value| (value, unit.tick(value))).collect() }
    }

    fn nines() -> Self {
        let named = NINES.map(|(share, name)| (share, name.to_owned())).to_vec();
        Self { scale: Scale::Nines, from: 0.0, to: 0.9999, named }
    }

    /// Places and labels, from one end to the other.
    pub(super) fn ticks(&self) -> impl Iterator<Item = (f64, &str)> {
        let places = self.named.iter().filter_map(|(value, name)| Some((self.place(*value)?, name.as_str())));
        places.filter(|(place, _)| (-1e-6..=1.0 + 1e-6).contains(place))
    }

    /// Where a value is, from 0 at the axis' begin to 1 at its end; beyond them for one that it was not made for. `None`
    /// for one that the scale cannot show.
    pub(super) fn place(&self, value: f64) -> Option<f64> {
        let project = |value| self.scale.project(value);
        let (from, to) = (project(self.from), project(self.to));
        self.scale.shows(value).then(|| (project(value) - from) / (to - from))
    }
}

impl Scale {
    fn shows(self, value: f64) -> bool {
        match self {
            Scale::Linear | Scale::Span => value.is_finite(),
            Scale::Log => value.is_finite() && value > 0.0,
            Scale::Nines => (0.0..1.0).contains(&value),
        }
    }

    fn project(self, value: f64) -> f64 {
        match self {
            Scale::Linear | Scale::Span => value,
            Scale::Log => value.log10(),
            Scale::Nines => -(1.0 - value).log10(),
        }
    }
}

/// The steps from a power of ten to the next.
const ROUND: [f64; 4] = [1.0, 2.0, 5.0, 10.0];

fn round_above(value: f64) -> f64 {
    let decade = 10_f64.powf(value.log10().floor());
    let above = ROUND.iter().map(|mantissa| mantissa * decade).find(|round| *round >= value * (1.0 - 1e-9));
    above.unwrap_or(10.0 * decade)
}

fn round_below(value: f64) -> f64 {
    let decade = 10_f64.powf(value.log10().floor());
    let below = ROUND.iter().rev().map(|mantissa| mantissa * decade).find(|round| *round <= value * (1.0 + 1e-9));
    below.unwrap_or(decade)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(scale: Scale, unit: Unit, values: &[f64]) -> String {
        let axis = Axis::new(scale, unit, values.iter().copied()).unwrap();
        for value in values.iter().filter(|value| **value >= axis.from) {
            assert!((-1e-6..=1.0 + 1e-6).contains(&axis.place(*value).unwrap()), "{value} of {axis:?}");
        }
        axis.ticks().map(|(_, label)| label.replace('\u{a0}', " ")).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn ticks_are_round_and_carry_their_unit() {
        let rate = Unit::PerSecond("messages");
        for (scale, unit, values, want) in [
            (Scale::Linear, rate, &[3.0, 950.0][..], "0, 200, 400, 600, 800, 1000"),
            (Scale::Linear, rate, &[1_500_000.0], "0, 0.5 M, 1.0 M, 1.5 M"),
            (Scale::Linear, rate, &[0.0], "0, 0.2, 0.4, 0.6, 0.8, 1.0"),
            (Scale::Linear, rate, &[-5.0], "0, 0.2, 0.4, 0.6, 0.8, 1.0"),
            (Scale::Linear, Unit::Bytes, &[44_000_000.0], "0, 10 MiB, 20 MiB, 30 MiB, 40 MiB, 50 MiB"),
            (Scale::Linear, Unit::Micros, &[1700.0], "0, 0.5 ms, 1.0 ms, 1.5 ms, 2.0 ms"),
            (Scale::Linear, Unit::Seconds, &[12.0], "0, 5 s, 10 s, 15 s"),
            (Scale::Span, Unit::Seconds, &[12.0], "0, 5 s, 10 s"),
            (Scale::Span, Unit::Seconds, &[0.0], "0, 0.2 s, 0.4 s, 0.6 s, 0.8 s, 1.0 s"),
            (Scale::Log, Unit::Micros, &[310.0, 4000.0], "200 µs, 500 µs, 1 ms, 2 ms, 5 ms"),
            (Scale::Log, Unit::Micros, &[90.0, 2e6], "10 µs, 100 µs, 1 ms, 10 ms, 100 ms, 1 s, 10 s"),
            (Scale::Log, Unit::Micros, &[1e-3, 1e8], "1 ns, 100 ns, 10 µs, 1 ms, 100 ms, 10 s"),
            (Scale::Log, Unit::Micros, &[100.0], "50 µs, 100 µs, 200 µs"),
            (Scale::Nines, Unit::Count(""), &[0.5], "50 %, 90 %, 99 %, 99.9 %, 99.99 %"),
        ] {
            assert_eq!(ticks(scale, unit, values), want, "{values:?}");
        }
    }

    #[test]
    fn what_cannot_be_shown_has_no_place() {
        for (scale, values) in [
            (Scale::Linear, &[][..]),
            (Scale::Linear, &[f64::NAN, f64::INFINITY]),
            (Scale::Log, &[0.0, -1.0, f64::NAN]),
            (Scale::Nines, &[1.0, -0.5, 2.0]),
        ] {
            assert_eq!(Axis::new(scale, Unit::Cores, values.iter().copied()), None, "{values:?}");
        }
        let log = Axis::new(Scale::Log, Unit::Micros, [1.0, 100.0].into_iter()).unwrap();
        assert_eq!((log.place(0.0), log.place(f64::NAN), log.place(10.0)), (None, None, Some(0.5)));
    }

    #[test]
    fn each_nine_is_as_wide_as_the_last() {
        let axis = Axis::nines();
        for (share, want) in [(0.0, 0.0), (0.9, 0.25), (0.99, 0.5), (0.999, 0.75), (0.9999, 1.0)] {
            assert!((axis.place(share).unwrap() - want).abs() < 1e-9, "{share}");
        }
    }
}
