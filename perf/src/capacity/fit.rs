//! Least squares with costs that are not negative: which unit costs explain what was measured best. Pure.

/// Sweeps over all unknowns; it ends earlier when nothing moves any more.
const SWEEPS_MAX: usize = 20_000;

/// The `x`, none of it negative, with the least sum of squares of `rows · x - targets`. An unknown that no row has is 0.
///
/// By coordinate descent on the normal equations: the problem is convex, so it cannot end in a place that is only the
/// best nearby. Columns are scaled to length 1 first, for costs differ by a factor of a million.
pub(crate) fn non_negative(rows: &[Vec<f64>], targets: &[f64]) -> Vec<f64> {
    let unknowns = rows.first().map_or(0, Vec::len);
    let lengths: Vec<f64> = (0..unknowns).map(|j| rows.iter().map(|row| row[j] * row[j]).sum::<f64>().sqrt()).collect();
    let dot = |one: usize, other: usize| rows.iter().map(|row| row[one] * row[other]).sum::<f64>();
    let known: Vec<usize> = (0..unknowns).filter(|j| lengths[*j] > 0.0).collect();
    let gram: Vec<Vec<f64>> =
        known.iter().map(|i| known.iter().map(|j| dot(*i, *j) / (lengths[*i] * lengths[*j])).collect()).collect();
    let aims: Vec<f64> = known
        .iter()
        .map(|j| rows.iter().zip(targets).map(|(row, target)| row[*j] * target).sum::<f64>() / lengths[*j])
        .collect();
    let scaled = descend(&gram, &aims);
    let mut solution = vec![0.0; unknowns];
    known.iter().zip(scaled).for_each(|(j, value)| solution[*j] = value / lengths[*j]);
    solution
}

fn descend(gram: &[Vec<f64>], aims: &[f64]) -> Vec<f64> {
    let mut x = vec![0.0_f64; aims.len()];
    for _ in 0..SWEEPS_MAX {
        let mut moved = 0.0_f64;
        for j in 0..x.len() {
            let missing = aims[j] - gram[j].iter().zip(&x).map(|(g, x)| g * x).sum::<f64>();
            let next = (x[j] + missing / gram[j][j]).max(0.0);
            moved = moved.max((next - x[j]).abs());
            x[j] = next;
        }
        if moved < 1e-12 {
            break;
        }
    }
    x
}

/// The unit costs that explain `targets` best by *relative* error: a run at a tenth of a core counts as much as one at a
/// whole core. Targets that are not over 0 are left out.
pub(crate) fn relative(rows: &[Vec<f64>], targets: &[f64]) -> Vec<f64> {
    let sound: Vec<(&Vec<f64>, f64)> = rows.iter().zip(targets.iter().copied()).filter(|(_, y)| *y > 0.0).collect();
    let scaled: Vec<Vec<f64>> = sound.iter().map(|(row, y)| row.iter().map(|value| value / y).collect()).collect();
    let solution = non_negative(&scaled, &vec![1.0; scaled.len()]);
    if solution.is_empty() { vec![0.0; rows.first().map_or(0, Vec::len)] } else { solution }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::SmallRng};

    use super::*;

    #[test]
    fn known_costs_are_found_again_in_noise() {
        for seed in 0..20 {
            let mut random = SmallRng::seed_from_u64(seed);
            // Of the sizes that are met: cores, nanoseconds of a send, of a byte.
            let costs = [0.01, 30e-6, 4e-6, 0.5e-9];
            let mut draw = |low: f64, high: f64| low * (high / low).powf(random.random::<f64>());
            let rows: Vec<Vec<f64>> =
                (0..60).map(|_| vec![1.0, draw(1e2, 1e4), draw(1e3, 1e5), draw(1e6, 3e8)]).collect();
            let mut noise = || 1.0 + draw(0.5, 1.5).ln() * 0.05;
            let exact = |row: &Vec<f64>| row.iter().zip(costs).map(|(value, cost)| value * cost).sum::<f64>();
            let targets: Vec<f64> = rows.iter().map(|row| exact(row) * noise()).collect();
            let found = relative(&rows, &targets);
            for (found, cost) in found.iter().zip(costs) {
                assert!((found / cost - 1.0).abs() < 0.15, "seed {seed}: {found} is not {cost}");
            }
        }
    }

    #[test]
    fn no_cost_is_negative() {
        // Without the bound, the second would be -1.
        let found = non_negative(&[vec![1.0, 0.0], vec![1.0, 1.0], vec![2.0, 1.0]], &[1.0, 0.0, 1.0]);
        assert!(found[0] > 0.0 && found[1] == 0.0, "{found:?}");
    }

    #[test]
    fn what_no_run_shows_costs_nothing() {
        let found = non_negative(&[vec![2.0, 0.0], vec![4.0, 0.0]], &[1.0, 2.0]);
        assert!((found[0] - 0.5).abs() < 1e-9 && found[1] == 0.0, "{found:?}");
        assert_eq!(relative(&[vec![1.0, 1.0]], &[0.0]), [0.0, 0.0]);
        assert!(non_negative(&[], &[]).is_empty());
    }
}
