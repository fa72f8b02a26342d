//! The knee of a curve of latency over load: the load up to which more of it is nearly free, and beyond which latency
//! climbs. Numbers in, an index out; reads no clock, knows no report.
//!
//! The method is Kneedle's (Satopaa et al., "Finding a Kneedle in a Haystack", 2011) for a curve that is flat first and
//! steep then: load and latency are each scaled to 0..1, and the knee is the point furthest below the diagonal, that with
//! the greatest `load - latency`. It differs in two things. The logarithm of the latency is taken, for it is factors that
//! people feel, and so that a last step far into overload does not make everything before it look flat. And a knee must
//! be one: see [`CLIMB_MIN`] and [`DEPTH_MIN`].

/// By what factor latency climbs beyond a knee at least: less is noise.
const CLIMB_MIN: f64 = 2.0;
/// How far below the diagonal a knee is at least: nearer, and latency climbs from the first step on.
const DEPTH_MIN: f64 = 0.05;
/// A curve of fewer points has no shape.
const POINTS_MIN: usize = 3;

/// Which of `(load, latency)` is the knee. The load is what was asked of the server, not what it reached: that stands
/// still in overload, or falls. The points may be in any order; those that are not positive numbers are left out.
///
/// `None` if there is no knee within the loads: the latency stays where it is, climbs from the first step on, or was high
/// from the start.
pub(crate) fn knee(curve: &[(f64, f64)]) -> Option<usize> {
    let sound = |value: f64| value.is_finite() && value > 0.0;
    let points: Vec<(usize, f64, f64)> = curve
        .iter()
        .enumerate()
        .filter(|(_, (load, latency))| sound(*load) && sound(*latency))
        .map(|(at, (load, latency))| (at, *load, latency.ln()))
        .collect();
    let (load_min, load_max) = bounds(points.iter().map(|(_, load, _)| *load))?;
    let (low, high) = bounds(points.iter().map(|(_, _, latency)| *latency))?;
    if points.len() < POINTS_MIN || load_max <= load_min || high <= low {
        return None;
    }
    let depth = |load: f64, latency: f64| (load - load_min) / (load_max - load_min) - (latency - low) / (high - low);
    let climbs_beyond = |load: f64, latency: f64| {
        points.iter().any(|(_, further, higher)| *further > load && higher - latency >= CLIMB_MIN.ln())
    };
    points
        .iter()
        .filter(|(_, load, latency)| depth(*load, *latency) >= DEPTH_MIN && climbs_beyond(*load, *latency))
        .max_by(|(_, load, latency), (_, other, slower)| depth(*load, *latency).total_cmp(&depth(*other, *slower)))
        .map(|(at, ..)| *at)
}

fn bounds(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |bounds, value| {
        let (low, high) = bounds.unwrap_or((value, value));
        Some((value.min(low), value.max(high)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The latencies of loads 1, 2, 3 and so on, and the load at the knee.
    fn check(latencies: &[f64], want: Option<usize>) {
        let curve: Vec<(f64, f64)> = (1..).map(f64::from).zip(latencies.iter().copied()).collect();
        assert_eq!(knee(&curve).map(|at| at + 1), want, "{latencies:?}");
    }

    #[test]
    fn it_is_the_last_load_before_latency_climbs() {
        check(&[1.0, 1.0, 1.0, 1.0, 100.0], Some(4));
        check(&[1.0, 1.0, 1.0, 100.0, 100.0, 100.0], Some(3));
        check(&[1.0, 1.1, 1.2, 1.4, 2.0, 30.0, 900.0, 9000.0], Some(5));
        // The fewest points, and a spike on the way.
        check(&[1.0, 1.0, 9.0], Some(2));
        check(&[1.0, 1.0, 10.0, 1.0, 1.0, 100.0], Some(5));
        // An idle machine is slow to wake: the first latency is not the lowest.
        check(&[3.0, 1.0, 1.0, 1.0, 80.0], Some(4));
    }

    #[test]
    fn there_is_none_without_a_climb_after_a_flat_part() {
        check(&[], None);
        check(&[1.0], None);
        check(&[1.0, 100.0], None);
        check(&[5.0, 5.0, 5.0, 5.0], None);
        check(&[1.0, 1.2, 0.9, 1.3, 1.1, 1.7], None);
        check(&[900.0, 900.0, 901.0, 950.0], None);
        check(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], None);
        check(&[9.0, 7.0, 5.0, 3.0, 1.0], None);
    }

    #[test]
    fn values_without_meaning_are_left_out() {
        check(&[1.0, f64::NAN, 1.0, f64::INFINITY, 1.0, 0.0, 50.0], Some(5));
        check(&[f64::NAN; 5], None);
        assert_eq!(knee(&[(2.0, 1.0), (2.0, 5.0), (2.0, 9.0)]), None);
    }

    #[test]
    fn neither_the_order_nor_the_unit_matters() {
        let curve = [(1.0, 1.0), (2.0, 1.1), (3.0, 1.2), (4.0, 1.3), (5.0, 60.0), (6.0, 700.0)];
        let turned: Vec<_> = curve.iter().rev().map(|(load, latency)| (load * 1e4, latency / 1e3)).collect();
        assert_eq!((knee(&curve), knee(&turned)), (Some(3), Some(2)));
    }

    #[test]
    fn a_queue_has_its_knee_where_theory_puts_it() {
        // M/M/1: latency 1 / (1 - load). Furthest below the diagonal of its logarithm, from 0.05 to 0.95, is 0.69.
        let curve: Vec<(f64, f64)> =
            (5..=95).map(|load| f64::from(load) / 100.0).map(|load| (load, 1.0 / (1.0 - load))).collect();
        let load = knee(&curve).map(|at| curve[at].0).unwrap();
        assert!((load - 0.69).abs() < 0.011, "{load}");
    }
}
