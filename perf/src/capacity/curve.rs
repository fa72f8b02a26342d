//! Latency over load: the sweep's points, the knee among them, and from them the latency of any other load. Pure.
//!
//! Latency follows the length of a cycle, which the fitted costs know for every load. How many cycles the 99th percentile
//! is, the sweep shows for each utilisation.

use super::costs::{Curve, Point, Run};
use super::design;
use super::model::{Saving, Shard, State};
use crate::knee;

/// A shard is planned to be so much of what it is at the knee.
const BELOW_KNEE: f64 = 0.8;
/// And where there is no knee, so busy.
const UTILISATION_WITHOUT_KNEE: f64 = 0.5;

/// The curve of these runs.
pub(crate) fn curve(runs: &[&Run], shard: &Shard, writer: &Saving) -> Curve {
    let (rooms, members, text_bytes) = design::SWEEP;
    let mut points: Vec<Point> = runs.iter().map(|run| point(run, shard, writer)).collect();
    points.sort_by(|one, other| one.utilisation.total_cmp(&other.utilisation));
    let latency: Vec<(f64, f64)> = points.iter().map(|point| (point.utilisation, point.p99_us)).collect();
    Curve { rooms, members, text_bytes, knee: knee::knee(&latency), points }
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

    /// The latency of a shard at rest in `state`, on a core of which others take `others`.
    pub(crate) fn expect(&self, state: &State, others: f64) -> Option<Expected> {
        let (busy, cycle_us) = (state.cores + others, state.cycle_seconds * 1e6);
        let cycles = |us: fn(&Point) -> f64| self.at(busy, |point| us(point) / (point.cycle_seconds * 1e6));
        Some(Expected {
            p50_us: cycle_us * cycles(|point| point.p50_us)?,
            p99_us: cycle_us * cycles(|point| point.p99_us)?,
        })
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
        Curve { rooms: 1, members: 2, text_bytes: 64, points, knee: Some(1) }
    }

    #[test]
    fn a_shard_is_planned_below_the_knee() {
        assert!((swept().target() - 0.48).abs() < 1e-9);
        assert_eq!(Curve { knee: None, ..swept() }.target(), UTILISATION_WITHOUT_KNEE);
        assert_eq!(Curve::default().target(), UTILISATION_WITHOUT_KNEE);
    }

    #[test]
    fn latency_lies_between_the_points_and_follows_the_cycle() {
        let expect = |cores: f64, others: f64, cycle_seconds: f64| {
            swept().expect(&State { cycle_seconds, work: Work::default(), cores }, others)
        };
        for (busy, cycles) in [(0.1, 2.0), (0.2, 2.0), (0.4, 3.0), (0.6, 4.0), (0.8, 6.0), (2.0, 8.0)] {
            for cycle_seconds in [0.001, 0.005] {
                let latency = expect(busy - 0.05, 0.05, cycle_seconds).unwrap();
                let want = cycles * cycle_seconds * 1e6;
                assert!((latency.p99_us / want - 1.0).abs() < 1e-6, "{busy} {latency:?}");
                assert!((latency.p50_us * 2.0 / want - 1.0).abs() < 1e-6, "{busy} {latency:?}");
            }
        }
        assert!(
            Curve::default().expect(&State { cycle_seconds: 1.0, work: Work::default(), cores: 0.5 }, 0.0).is_none()
        );
    }
}
