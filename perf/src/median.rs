//! The middle of some numbers. Rounds on a machine that others share are told by it: one that met a neighbour's burst moves
//! a mean, and hardly a median.

/// The middle one, or the mean of the two in the middle; of nothing there is none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted.get(sorted.len().saturating_sub(1) / 2)?, sorted.get(sorted.len() / 2)?);
    Some(f64::midpoint(*low, *high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_in_the_middle_whatever_the_order() {
        for (values, want) in [
            (&[][..], None),
            (&[7.0], Some(7.0)),
            (&[9.0, 1.0], Some(5.0)),
            (&[3.0, 1000.0, 1.0], Some(3.0)),
            (&[-4.0, 8.0, 2.0, 0.0], Some(1.0)),
        ] {
            assert_eq!(median(values.iter().copied()), want, "{values:?}");
        }
    }
}
