//! What a person sees while a load runs: a bar on the terminal, drawn anew with each sample of the series. Nothing is
//! written where standard error is no terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::report::{Sample, grouped};

/// The bar.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// The bar of a run that is planned to last `length`; none if it is to be `quiet`.
    pub(super) fn start(length: Duration, quiet: bool) -> Self {
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(length.as_millis() as u64), target);
        // The template is right or not whatever the run; without one the bar has its usual looks.
        if let Ok(style) = ProgressStyle::with_template("{bar:24} {percent:>3} %  {wide_msg}") {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// Shows the latest interval.
    pub(super) fn show(&self, sample: &Sample) {
        if self.0.is_hidden() {
            return;
        }
        let (messages, deliveries) = (grouped(sample.messages_per_second), grouped(sample.deliveries_per_second));
        let mut text = format!("{messages} messages/s, {deliveries} deliveries/s");
        if let Some((p50, p99)) = sample.p50_us.zip(sample.p99_us) {
            text += &format!(", p50 {p50:.0} us, p99 {p99:.0} us");
        }
        if let Some(cores) = sample.server_cores {
            text += &format!(", server {cores:.2} cores");
        }
        self.0.set_message(text + &format!(", client {:.0} %", sample.client_busy * 100.0));
        self.0.set_position((sample.at_seconds * 1000.0) as u64);
    }

    /// Gives the terminal's line back.
    pub(super) fn end(&self) {
        self.0.finish_and_clear();
    }
}
