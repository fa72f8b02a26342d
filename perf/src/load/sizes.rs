//! How long the texts of messages are: always the same, or drawn from a distribution. The same seed draws the same lengths
//! for the same sender. Drawing allocates nothing.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use rand::distr::weighted::WeightedIndex;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, LogNormal};

use crate::message::{TEXT_BYTES_MAX, TEXT_BYTES_MIN};

/// What a length may be.
const LENGTHS: RangeInclusive<usize> = TEXT_BYTES_MIN..=TEXT_BYTES_MAX;

/// A distribution of lengths, checked.
#[derive(Clone, Debug)]
pub(crate) struct TextBytes {
    asked: String,
    law: Law,
}

#[derive(Clone, Debug)]
enum Law {
    Fixed(usize),
    Uniform(RangeInclusive<usize>),
    /// Kept within [`LENGTHS`].
    LogNormal(LogNormal<f64>),
    Weighted(Vec<usize>, WeightedIndex<f64>),
}

impl TextBytes {
    /// Whether all texts have the same length.
    pub(crate) fn is_fixed(&self) -> bool {
        matches!(self.law, Law::Fixed(_))
    }
}

impl Default for TextBytes {
    /// Every text is 64 bytes long.
    fn default() -> Self {
        Self { asked: "64".into(), law: Law::Fixed(64) }
    }
}

impl FromStr for TextBytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let law = match text.split_once(':') {
            Some(("uniform", range)) => uniform(range)?,
            Some(("lognormal", law)) => log_normal(law)?,
            Some((other, _)) => return Err(format!("{other:?} is no distribution; there are uniform and lognormal")),
            None if text.contains('@') => weighted(text)?,
            None => Law::Fixed(length(text)?),
        };
        Ok(Self { asked: text.to_owned(), law })
    }
}

impl fmt::Display for TextBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.asked)
    }
}

fn length(text: &str) -> Result<usize, String> {
    let length = text.trim().parse().map_err(|_| format!("{text:?} is no length; give a number of bytes"))?;
    if LENGTHS.contains(&length) {
        return Ok(length);
    }
    Err(format!("a length of {length} is not within {TEXT_BYTES_MIN} to {TEXT_BYTES_MAX}"))
}

fn number(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.trim().parse().ok();
    number.filter(|number| number.is_finite()).ok_or_else(|| format!("{text:?} is not a number"))
}

fn uniform(range: &str) -> Result<Law, String> {
    let (from, to) = range.split_once("..").ok_or("give the range as in uniform:24..400")?;
    let (from, to) = (length(from)?, length(to)?);
    if from > to { Err(format!("the range {from}..{to} is empty")) } else { Ok(Law::Uniform(from..=to)) }
}

fn log_normal(law: &str) -> Result<Law, String> {
    let (median, sigma) = law.split_once(',').ok_or("give median and sigma as in lognormal:80,0.7")?;
    let (median, sigma) = (length(median)?, number(sigma)?);
    if !(0.0..=10.0).contains(&sigma) {
        return Err(format!("a sigma of {sigma} is not within 0 to 10"));
    }
    LogNormal::new((median as f64).ln(), sigma).map(Law::LogNormal).map_err(|error| error.to_string())
}

fn weighted(list: &str) -> Result<Law, String> {
    let (mut lengths, mut weights) = (Vec::new(), Vec::new());
    for part in list.split(',') {
        let (bytes, weight) = part.split_once('@').ok_or("give each length its weight as in 64@90,1024@10")?;
        lengths.push(length(bytes)?);
        weights.push(number(weight)?);
    }
    let index = WeightedIndex::new(weights).map_err(|_| "the weights must be 0 or more, and not all 0")?;
    Ok(Law::Weighted(lengths, index))
}

/// One sender's lengths.
pub(super) struct Sizes(SmallRng);

impl Sizes {
    /// Those that `seed` gives to `sender`.
    pub(super) fn new(seed: u64, sender: u32) -> Self {
        Self(SmallRng::seed_from_u64(seed ^ u64::from(sender).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// The next length.
    pub(super) fn draw(&mut self, from: &TextBytes) -> usize {
        match &from.law {
            Law::Fixed(bytes) => *bytes,
            Law::Uniform(range) => self.0.random_range(range.clone()),
            Law::LogNormal(law) => (law.sample(&mut self.0).round() as usize).clamp(TEXT_BYTES_MIN, TEXT_BYTES_MAX),
            Law::Weighted(lengths, index) => lengths[index.sample(&mut self.0)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_distributed_as_asked() {
        for (text, least, median, most, mean) in [
            ("64", 64, 64, 64, 64.0),
            ("uniform:24..400", 24, 212, 400, 212.0),
            ("uniform:30..30", 30, 30, 30, 30.0),
            // Mean of a log-normal law: median * exp(sigma^2 / 2); too little of it lies outside of what is allowed.
            ("lognormal:200,0.5", 24, 200, 4096, 226.6),
            ("lognormal:100,0", 100, 100, 100, 100.0),
            ("64@90,1024@9,4096@1", 64, 64, 4096, 190.7),
            ("24@0,25@1e-3", 25, 25, 25, 25.0),
        ] {
            let (law, mut sizes) = (text.parse::<TextBytes>().unwrap(), Sizes::new(7, 0));
            let mut drawn: Vec<usize> = (0..100_000).map(|_| sizes.draw(&law)).collect();
            drawn.sort_unstable();
            let got = drawn.iter().sum::<usize>() as f64 / drawn.len() as f64;
            assert!((got / mean - 1.0).abs() < 0.03, "{text}: mean {got}, not {mean}");
            let middle = drawn[drawn.len() / 2] as f64;
            assert!((middle / median as f64 - 1.0).abs() < 0.03, "{text}: median {middle}, not {median}");
            assert!(drawn[0] >= least && drawn[drawn.len() - 1] <= most, "{text}");
            assert_eq!((law.to_string().as_str(), law.is_fixed()), (text, text == "64"));
        }
    }

    #[test]
    fn a_seed_and_a_sender_make_the_lengths() {
        let law: TextBytes = "uniform:24..4096".parse().unwrap();
        let drawn = |seed, sender| {
            let mut sizes = Sizes::new(seed, sender);
            std::array::from_fn::<usize, 8, _>(|_| sizes.draw(&law))
        };
        assert_eq!(drawn(1, 2), drawn(1, 2));
        assert_ne!(drawn(1, 2), drawn(2, 2));
        assert_ne!(drawn(1, 2), drawn(1, 3));
    }

    #[test]
    fn what_is_no_distribution_is_refused() {
        for (text, word) in [
            ("23", "24 to 4096"),
            ("4097", "24 to 4096"),
            ("", "no length"),
            ("-5", "no length"),
            ("uniform:24", "uniform:24..400"),
            ("uniform:100..50", "empty"),
            ("uniform:1..50", "24 to 4096"),
            ("lognormal:80", "sigma"),
            ("lognormal:80,-1", "sigma"),
            ("lognormal:80,nan", "not a number"),
            ("lognormal:5,1", "24 to 4096"),
            ("normal:80,1", "no distribution"),
            ("64@1,80", "weight"),
            ("64@0", "not all 0"),
            ("64@-1", "0 or more"),
            ("64@inf", "not a number"),
        ] {
            let why = text.parse::<TextBytes>().unwrap_err();
            assert!(why.contains(word), "{text:?}: {why}");
        }
    }
}
