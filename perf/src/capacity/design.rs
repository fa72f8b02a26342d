//! Which loads `capacity measure` runs: each factor from low to high by itself, and some together. Numbers only.

use super::costs::{Purpose, Shape};

/// Rooms, members, messages a second of each room, bytes of a text.
type Load = (usize, usize, f64, usize);

/// The costs are fitted to these.
const FIT: [Load; 29] = [
    // One small room, rarely to often: messages and turns.
    (1, 2, 100.0, 64),
    (1, 2, 1000.0, 64),
    (1, 2, 4000.0, 64),
    (1, 10, 300.0, 64),
    (1, 10, 3000.0, 64),
    // One large room: sends, and what they share.
    (1, 100, 100.0, 64),
    (1, 100, 2000.0, 64),
    (1, 100, 8000.0, 64),
    (1, 400, 10.0, 64),
    (1, 400, 100.0, 64),
    (1, 400, 600.0, 64),
    (1, 1000, 20.0, 64),
    // Many rooms: batches, and what the writer touches.
    (10, 20, 10.0, 64),
    (10, 20, 200.0, 64),
    (10, 20, 800.0, 64),
    (100, 2, 10.0, 64),
    (100, 10, 20.0, 64),
    (10, 50, 20.0, 64),
    (50, 40, 5.0, 64),
    (300, 10, 3.0, 64),
    (1000, 4, 1.0, 64),
    (1000, 4, 3.0, 64),
    // Texts.
    (1, 50, 1000.0, 1024),
    (1, 50, 500.0, 4096),
    (1, 2, 500.0, 4096),
    (10, 20, 100.0, 4096),
    (100, 10, 10.0, 1024),
    (10, 20, 50.0, 256),
    (10, 20, 30.0, 2048),
];

/// These are predicted, and compared.
const HELD_OUT: [Load; 12] = [
    (1, 5, 1500.0, 64),
    (1, 100, 400.0, 64),
    (1, 200, 1000.0, 64),
    (1, 50, 8000.0, 64),
    (1, 800, 100.0, 64),
    (10, 20, 50.0, 64),
    (20, 30, 200.0, 128),
    (100, 3, 40.0, 64),
    (200, 10, 10.0, 512),
    (500, 6, 3.0, 64),
    (5, 40, 100.0, 2048),
    (40, 50, 20.0, 64),
];

const QUICK_FIT: [Load; 11] = [
    (1, 2, 100.0, 64),
    (1, 2, 1000.0, 64),
    (1, 40, 100.0, 64),
    (1, 40, 600.0, 64),
    (10, 10, 10.0, 64),
    (10, 10, 50.0, 64),
    (40, 4, 5.0, 64),
    (1, 40, 4000.0, 64),
    (1, 4, 4000.0, 64),
    (10, 20, 800.0, 64),
    (1, 10, 200.0, 2048),
];

const QUICK_HELD_OUT: [Load; 4] = [(1, 20, 300.0, 64), (10, 10, 30.0, 512), (20, 5, 20.0, 64), (1, 60, 2000.0, 64)];

/// Rooms, members of each: a crowd that says nothing, a larger one, and one in as many rooms as it can be.
const IDLE: [(usize, usize); 3] = [(20, 50), (20, 400), (2000, 4)];
const QUICK_IDLE: [(usize, usize); 3] = [(4, 20), (4, 60), (60, 4)];

/// What the sweep's rooms are like.
pub(crate) const SWEEP: (usize, usize, usize) = (10, 20, 64);
/// How busy the core is at its rates, by the fitted costs.
pub(crate) const SWEEP_UTILISATION: [f64; 8] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8];
pub(crate) const QUICK_SWEEP_UTILISATION: [f64; 3] = [0.1, 0.4, 0.7];
/// And on from the last of them: such multiples of its rate.
const BEYOND: [f64; 4] = [1.5, 2.5, 4.0, 6.0];
const QUICK_BEYOND: [f64; 2] = [2.0, 4.0];

/// Crowds that say nothing.
pub(crate) fn idle(is_quick: bool) -> &'static [(usize, usize)] {
    if is_quick { &QUICK_IDLE } else { &IDLE }
}

/// The loads of a number of rounds. Within a round they are mixed, so that a machine that gets slower for a while does
/// not do so to one kind of load alone.
pub(crate) fn loads(is_quick: bool, rounds: usize) -> Vec<Shape> {
    let (fit, held_out): (&[Load], &[Load]) = if is_quick { (&QUICK_FIT, &QUICK_HELD_OUT) } else { (&FIT, &HELD_OUT) };
    let of = |purpose: Purpose| move |load: &Load| shape(purpose, *load, 0);
    let all: Vec<Shape> = fit.iter().map(of(Purpose::Fit)).chain(held_out.iter().map(of(Purpose::HeldOut))).collect();
    // A step that has no divisor in common with the count meets each once.
    let step = (all.len() * 2 / 5..).find(|step| greatest_common_divisor(*step, all.len()) == 1).unwrap_or(1);
    let mixed = (0..all.len()).map(|nth| all[nth * step % all.len()]);
    (0..rounds).flat_map(|round| mixed.clone().map(move |shape| Shape { round, ..shape })).collect()
}

/// The sweep: at those messages a second in all of its rooms, rising, and beyond.
pub(crate) fn sweep(is_quick: bool, messages_per_second: &[f64], rounds: usize) -> Vec<Shape> {
    let beyond: &[f64] = if is_quick { &QUICK_BEYOND } else { &BEYOND };
    let last = messages_per_second.last().copied().unwrap_or(1000.0);
    let (rooms, members, text_bytes) = SWEEP;
    let rates = messages_per_second.iter().copied().chain(beyond.iter().map(|times| last * times));
    let mut rates: Vec<f64> = rates.map(|rate| (rate / rooms as f64).round().max(1.0)).collect();
    rates.dedup();
    let of = |round: usize| move |rate: &f64| shape(Purpose::Sweep, (rooms, members, *rate, text_bytes), round);
    (0..rounds).flat_map(|round| rates.iter().map(of(round)).collect::<Vec<_>>()).collect()
}

/// Rooms, and users of each, that the fixtures need; a room has its users sit several times where it has too few.
pub(crate) fn fixtures(is_quick: bool) -> (usize, usize) {
    (idle(is_quick).iter().map(|(rooms, _)| *rooms).max().unwrap_or(1), 10)
}

fn shape(purpose: Purpose, (rooms, members, messages_per_second, text_bytes): Load, round: usize) -> Shape {
    Shape { purpose, rooms, members, messages_per_second, text_bytes, round }
}

fn greatest_common_divisor(one: usize, other: usize) -> usize {
    if other == 0 { one } else { greatest_common_divisor(other, one % other) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_load_is_run_once_a_round_and_none_is_both_fitted_and_held_out() {
        for is_quick in [false, true] {
            let once = loads(is_quick, 1);
            let (rooms_max, _) = fixtures(is_quick);
            for (at, shape) in once.iter().enumerate() {
                let same = |other: &Shape| Shape { purpose: shape.purpose, ..*other } == *shape;
                assert_eq!(once.iter().position(same), Some(at), "{shape:?}");
                assert!(shape.rooms <= rooms_max, "{shape:?}");
            }
            let twice = loads(is_quick, 2);
            assert_eq!(twice.len(), 2 * once.len());
            assert!(twice[once.len()..].iter().all(|shape| shape.round == 1));
        }
        assert_eq!(loads(false, 1).len(), FIT.len() + HELD_OUT.len());
    }

    #[test]
    fn a_sweep_goes_past_the_busiest_rate_that_it_is_given() {
        let sweep = sweep(false, &[100.0, 1000.0, 1001.0, 20_000.0], 1);
        let rates: Vec<f64> = sweep.iter().map(|shape| shape.messages_per_second).collect();
        assert_eq!(rates, [10.0, 100.0, 2000.0, 3000.0, 5000.0, 8000.0, 12_000.0]);
    }
}
