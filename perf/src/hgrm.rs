//! A histogram of nanoseconds as the text that HdrHistogram's plotters read (`.hgrm`): milliseconds by percentile.

use std::io::{self, Write};

use hdrhistogram::Histogram;

/// Lines for each halving of what is left to 100 %, as HdrHistogram's own writer has by default.
const LINES_PER_HALVING: u32 = 5;

/// Writes `latency_ns`.
///
/// # Errors
/// `out` fails.
pub(crate) fn write(latency_ns: &Histogram<u64>, out: &mut impl Write) -> io::Result<()> {
    let ms = |ns: f64| ns / 1e6;
    writeln!(out, "{:>12} {:>14} {:>10} {:>14}\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)")?;
    let mut total = 0;
    for step in latency_ns.iter_quantiles(LINES_PER_HALVING) {
        let (value, quantile) = (ms(step.value_iterated_to() as f64), step.quantile_iterated_to());
        total += step.count_since_last_iteration();
        write!(out, "{value:>12.6} {quantile:>14.12} {total:>10}")?;
        if quantile < 1.0 {
            write!(out, " {:>14.2}", 1.0 / (1.0 - quantile))?;
        }
        writeln!(out)?;
    }
    let (mean, deviation, max) = (ms(latency_ns.mean()), ms(latency_ns.stdev()), ms(latency_ns.max() as f64));
    writeln!(out, "#[Mean    = {mean:>12.6}, StdDeviation   = {deviation:>12.6}]")?;
    writeln!(out, "#[Max     = {max:>12.6}, Total count    = {:>12}]", latency_ns.len())?;
    let sub_buckets = latency_ns.distinct_values() / (usize::from(latency_ns.buckets()) + 1) * 2;
    writeln!(out, "#[Buckets = {:>12}, SubBuckets     = {sub_buckets:>12}]", latency_ns.buckets())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_rise_to_all_values_and_end_with_a_footer() {
        let mut histogram = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3).unwrap();
        (1..=10_000).for_each(|us| histogram.record(us * 1000).unwrap());
        let mut out = Vec::new();
        write(&histogram, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let fields: Vec<&str> = text.lines().next().unwrap().split_whitespace().collect();
        assert_eq!(fields, ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]);
        assert!(text.lines().nth(1).unwrap().is_empty());
        let rows: Vec<Vec<f64>> = text
            .lines()
            .skip(2)
            .take_while(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().map(|field| field.parse().unwrap()).collect())
            .collect();
        for pair in rows.windows(2) {
            assert!(pair[1][1] > pair[0][1] && pair[1][0] >= pair[0][0] && pair[1][2] >= pair[0][2], "{pair:?}");
        }
        let half = rows.iter().find(|row| row[1] == 0.5).unwrap();
        assert!((half[0] - 5.0).abs() < 0.01 && (half[2] - 5000.0).abs() < 8.0 && half[3] == 2.0, "{half:?}");
        let last = rows.last().unwrap();
        assert_eq!((last.len(), last[1], last[2]), (3, 1.0, 10_000.0));
        for (line, want) in text.lines().filter(|line| line.starts_with('#')).zip(["#[Mean ", "#[Max ", "#[Buckets ="])
        {
            assert!(line.starts_with(want) && line.ends_with(']'), "{line}");
        }
        assert!(text.contains("SubBuckets     =         2048"), "{text}");
    }

    #[test]
    fn nothing_recorded_is_still_a_file() {
        let mut out = Vec::new();
        write(&Histogram::new_with_bounds(1, 60_000_000_000, 3).unwrap(), &mut out).unwrap();
        assert!(String::from_utf8(out).unwrap().contains("Total count    =            0"));
    }
}
