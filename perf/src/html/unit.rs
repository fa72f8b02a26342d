//! Numbers with their units, as short as an axis wants them: a value in, text out.

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Time, in microseconds.
    Micros,
    /// Time, in seconds.
    Seconds,
    /// Memory.
    Bytes,
    /// Things a second; their name stands beside the number.
    PerSecond(&'static str),
    /// CPU time over time.
    Cores,
    /// Things; their name stands beside the number.
    Count(&'static str),
}

const KIB: f64 = 1024.0;

impl Unit {
    /// With three digits and the unit.
    pub(crate) fn show(self, value: f64) -> String {
        let (divisor, name) = self.multiple(value);
        let number = format!("{}{name}", three_digits(value / divisor));
        match self {
            Unit::PerSecond(what) => format!("{number} {what}/s"),
            Unit::Count(what) => format!("{number} {what}"),
            Unit::Cores => format!("{number} cores"),
            Unit::Micros | Unit::Seconds | Unit::Bytes => number,
        }
    }

    /// The same in two parts, beside words that say what is counted.
    pub(super) fn parts(self, value: f64) -> (String, &'static str) {
        let (divisor, name) = self.multiple(value);
        (three_digits(value / divisor), if self == Unit::Cores { "cores" } else { name.trim_start() })
    }

    /// Beside an axis that says what is counted, as short as can be.
    pub(super) fn tick(self, value: f64) -> String {
        let (divisor, name) = self.multiple(value);
        let number = three_digits(value / divisor);
        let number = if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { &number };
        format!("{number}{name}")
    }

    /// What a scale up to `max` is counted in, so that its ticks are round numbers of it.
    pub(super) fn multiple(self, max: f64) -> (f64, &'static str) {
        let steps: &[(f64, &str)] = match self {
            // No-break spaces.
            Unit::Micros => {
                &[(60e6, "\u{a0}min"), (1e6, "\u{a0}s"), (1e3, "\u{a0}ms"), (1.0, "\u{a0}µs"), (1e-3, "\u{a0}ns")]
            }
            Unit::Seconds => &[(1.0, "\u{a0}s")],
            Unit::Bytes => {
                &[(KIB * KIB * KIB, "\u{a0}GiB"), (KIB * KIB, "\u{a0}MiB"), (KIB, "\u{a0}KiB"), (1.0, "\u{a0}B")]
            }
            Unit::PerSecond(_) | Unit::Count(_) => &[(1e9, "\u{a0}G"), (1e6, "\u{a0}M"), (1e3, "\u{a0}k"), (1.0, "")],
            Unit::Cores => &[(1.0, "")],
        };
        let fits = |(least, _): &&(f64, &str)| reaches(max, *least);
        steps.iter().find(fits).or(steps.last()).copied().unwrap_or((1.0, ""))
    }
}

/// Whether three digits of it would show `least` or more.
fn reaches(value: f64, least: f64) -> bool {
    value.abs() >= least * 0.9995
}

/// Three digits that count, or as many as there are below a thousandth; a dash for what is no number.
fn three_digits(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let decimals = match value.abs() {
        ..0.0005 => return "0".to_owned(),
        ..0.9995 => 3,
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_have_their_unit() {
        for (unit, value, want) in [
            (Unit::Micros, 0.0, "0 ns"),
            (Unit::Micros, 0.25, "250 ns"),
            (Unit::Micros, 999.4, "999 µs"),
            (Unit::Micros, 999.9, "1.00 ms"),
            (Unit::Micros, 1234.5, "1.23 ms"),
            (Unit::Micros, 2_500_000.0, "2.50 s"),
            (Unit::Micros, 120e6, "2.00 min"),
            (Unit::Seconds, 90.0, "90.0 s"),
            (Unit::Bytes, 830.0, "830 B"),
            (Unit::Bytes, 1536.0, "1.50 KiB"),
            (Unit::Bytes, 52_428_800.0, "50.0 MiB"),
            (Unit::Bytes, -1536.0, "-1.50 KiB"),
            (Unit::PerSecond("deliveries"), 1_530_000.0, "1.53 M deliveries/s"),
            (Unit::PerSecond("rows"), 0.5, "0.500 rows/s"),
            (Unit::Cores, 0.0004, "0 cores"),
            (Unit::Cores, -0.0004, "0 cores"),
            (Unit::Cores, 1.5, "1.50 cores"),
            (Unit::Cores, f64::NAN, "– cores"),
            (Unit::Count("rows"), 4096.0, "4.10 k rows"),
        ] {
            assert_eq!(unit.show(value).replace('\u{a0}', " "), want);
        }
    }
    #[test]
    fn ticks_have_no_zeros_at_their_end_and_parts_no_name() {
        for (unit, value, tick, parts) in [
            (Unit::Micros, 1000.0, "1 ms", ("1.00", "ms")),
            (Unit::PerSecond("rows"), 2500.0, "2.5 k", ("2.50", "k")),
            (Unit::PerSecond("rows"), 100.0, "100", ("100", "")),
            (Unit::Cores, 0.5, "0.5", ("0.500", "cores")),
        ] {
            assert_eq!(unit.tick(value).replace('\u{a0}', " "), tick);
            assert_eq!(unit.parts(value), (parts.0.to_owned(), parts.1));
        }
    }
}
