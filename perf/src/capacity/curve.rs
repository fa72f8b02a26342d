//! Latency over load: the sweep's points, the knee among them, and from them the latency of any other load. Pure.
//!
//! The median follows the length of a turn, which the fitted costs know for every load; how many turns it is, the sweep
//! shows for each utilisation. The tail comes from what shares core and disk with the shard, and so from the utilisation
//! alone, unless two turns are longer. Of other rules that were tried (as many turns as the sweep's p99, or so much more as
//! the turn is longer), none was nearer to what held-out loads had.

use super::costs::{Curve, Found, Point, Run, Shape};
use super::design;
use super::model::{Saving, Shard, State};
use crate::knee;

/// A shard is planned to be so much of what it is at the knee.
const BELOW_KNEE: f64 = 0.8;
/// And where there is no knee, so busy.
const UTILISATION_WITHOUT_KNEE: f64 = 0.5;

/// How long a delivery of the tail takes at least, in turns: it just missed one, and waits for that and its own.
const TAIL_TURNS: f64 = 2.0;

/// The curve of these runs; each rate is the median of its rounds.
pub(crate) fn curve(runs: &[&Run], shard: &Shard, writer: &Saving) -> Curve {
    let (rooms, members, text_bytes) = design::SWEEP;
    let mut shapes: Vec<Shape> = runs.iter().map(|run| Shape { round: 0, ..run.shape }).collect();
    shapes.sort_by(|one, other| one.messages_per_second.total_cmp(&other.messages_per_second));
    shapes.dedup();
    let of = |shape: Shape| {
        let same = runs.iter().filter(|run| Shape { round: 0, ..run.shape } == shape).map(|run| &run.found);
        point(&Run { shape, found: Found::median(&same.collect::<Vec<_>>()) }, shard, writer)
    };
    let mut points: Vec<Point> = shapes.into_iter().map(of).collect();
    points.sort_by(|one, other| one.utilisation.total_cmp(&other.utilisation));
    let knee_of = |us: fn(&Point) -> f64| {
        knee::knee(&points.iter().map(|point| (point.utilisation, us(point))).collect::<Vec<_>>())
    };
    let (knee, tail_knee) = (knee_of(|point| point.p50_us), knee_of(|point| point.p99_us));
    Curve { rooms, members, text_bytes, points, knee, tail_knee }
}

fn point(run: &Run, shard: &Shard, writer: &Saving) -> Point {
    let asked = run.shape.demand();
    Point {
        messages_per_second_asked: asked.messages(),
        messages_per_second: run.found.messages_per_second,
        utilisation: run.found.shard_cores + run.found.writer_cores + run.found.control_cores,
        cycle_seconds: shard.settle(&asked, writer.cores(&asked)).cycle_seconds,
        p50_us: run.found.p50_us,
        p99_us: run.found.p99_us,
    }
}

/// A latency in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Expected {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

impl Curve {
    /// How busy the core is at the knee.
    pub(crate) fn knee_utilisation(&self) -> Option<f64> {
        self.knee.and_then(|at| self.points.get(at)).map(|point| point.utilisation)
    }

    /// How busy a shard is to be.
    pub(crate) fn target(&self) -> f64 {
        self.knee_utilisation().map_or(UTILISATION_WITHOUT_KNEE, |busy| busy * BELOW_KNEE)
    }

    /// The latency of a shard at rest in `state`, on a core of which others take `others`. `longest_seconds` is the
    /// longest turn that is not rare.
    pub(crate) fn expect(&self, state: &State, others: f64, longest_seconds: f64) -> Option<Expected> {
        let busy = state.cores + others;
        let turns = self.at(busy, |point| point.p50_us / (point.cycle_seconds * 1e6))?;
        let tail_us = self.at(busy, |point| point.p99_us)?;
        let longest_us = longest_seconds.max(state.cycle_seconds) * 1e6;
        let p50_us = state.cycle_seconds * 1e6 * turns;
        Some(Expected { p50_us, p99_us: tail_us.max(TAIL_TURNS * longest_us).max(p50_us) })
    }

    /// Between the sweep's points on a line, outside of them as at the nearest.
    fn at(&self, busy: f64, of: impl Fn(&Point) -> f64) -> Option<f64> {
        let above = self.points.iter().position(|point| point.utilisation >= busy);
        let Some(above) = above else { return self.points.last().map(of) };
        let (high, low) = (&self.points[above], &self.points[above.saturating_sub(1)]);
        let width = high.utilisation - low.utilisation;
        let part = if width > 0.0 { (busy - low.utilisation) / width } else { 1.0 };
        Some(of(low) + (of(high) - of(low)) * part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::model::Work;

    fn swept() -> Curve {
        let point = |utilisation: f64, cycle_seconds: f64, p99_us: f64| Point {
            messages_per_second_asked: utilisation * 1000.0,
            messages_per_second: utilisation * 1000.0,
            utilisation,
            cycle_seconds,
            p50_us: p99_us / 2.0,
            p99_us,
        };
        let points = vec![point(0.2, 0.001, 2000.0), point(0.6, 0.001, 4000.0), point(1.0, 0.01, 80_000.0)];
        Curve { rooms: 1, members: 2, text_bytes: 64, points, knee: Some(1), tail_knee: None }
    }

    #[test]
    fn a_shard_is_planned_below_the_knee() {
        assert!((swept().target() - 0.48).abs() < 1e-9);
        assert_eq!(Curve { knee: None, ..swept() }.target(), UTILISATION_WITHOUT_KNEE);
        assert_eq!(Curve::default().target(), UTILISATION_WITHOUT_KNEE);
    }

    #[test]
    fn latency_lies_between_the_points_and_follows_the_turn() {
        let expect = |cores: f64, others: f64, cycle_seconds: f64, longest_seconds: f64| {
            swept().expect(&State { cycle_seconds, work: Work::default(), cores }, others, longest_seconds)
        };
        for (busy, turns, tail_us) in [
            (0.1, 1.0, 2000.0),
            (0.2, 1.0, 2000.0),
            (0.4, 1.5, 3000.0),
            (0.6, 2.0, 4000.0),
            (0.8, 3.0, 42_000.0),
            (2.0, 4.0, 80_000.0),
        ] {
            let latency = expect(busy - 0.05, 0.05, 0.001, 0.0).unwrap();
            assert!((latency.p50_us - turns * 1000.0).abs() < 1e-6, "{busy} {latency:?}");
            assert!((latency.p99_us - tail_us).abs() < 1e-6, "{busy} {latency:?}");
        }
        assert_eq!(expect(0.2, 0.0, 0.005, 0.0).unwrap().p99_us, 10_000.0, "two turns");
        assert_eq!(expect(0.2, 0.0, 0.001, 0.05).unwrap().p99_us, 100_000.0, "two of the longest");
        let nothing = State { cycle_seconds: 1.0, work: Work::default(), cores: 0.5 };
        assert!(Curve::default().expect(&nothing, 0.0, 0.0).is_none());
    }

    #[test]
    fn a_rate_is_the_median_of_its_rounds() {
        let run = |round: usize, rate: f64, p50_us: f64| {
            let shape = Shape { round, messages_per_second: rate, ..design::sweep(true, &[1.0], 1)[0] };
            Run { shape, found: Found { shard_cores: rate / 100.0, p50_us, p99_us: 9.0 * p50_us, ..Found::default() } }
        };
        let runs = [
            run(0, 20.0, 1.0),
            run(0, 60.0, 5.0),
            run(1, 20.0, 3.0),
            run(1, 60.0, 700.0),
            run(2, 20.0, 2.0),
            run(2, 60.0, 6.0),
        ];
        let curve = curve(&runs.iter().collect::<Vec<_>>(), &Shard::default(), &Saving::default());
        let points: Vec<_> = curve.points.iter().map(|point| (point.utilisation, point.p50_us)).collect();
        assert_eq!(points, [(0.2, 2.0), (0.6, 6.0)]);
    }
}
