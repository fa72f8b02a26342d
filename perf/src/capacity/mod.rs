//! `capacity`: what a unit of work costs on this machine, and how much of a machine a load therefore needs.
//!
//! ```text
//! measure:  design.rs   which loads                      plan:  profile.rs   one's own load, a TOML file or flags
//!              |                                                   |
//!           measure.rs  run, one by one; probe.rs looks          plan.rs     cores, memory, disk, database, latency
//!              |                                                   |
//!           calibrate.rs  fit.rs: least squares                  answer.rs   in words
//!           curve.rs      the sweep, its knee                      |
//!              |                                                   |
//!           costs.rs  ---------------- costs.json -----------------'
//! ```
//!
//! Both sides agree on `demand.rs`, what is asked of a server, and on `model.rs`, how CPU follows from it.

mod answer;
mod calibrate;
pub(crate) mod command;
mod costs;
mod curve;
mod demand;
mod design;
mod fit;
mod measure;
mod model;
mod plan;
mod probe;
mod profile;
mod report;

pub(crate) use self::{
    answer::Told,
    calibrate::Errors,
    costs::{Curve, Fitted, Point},
    model::Saving,
    plan::{Answer, Shards},
    report::MeasureReport,
};
/// What the tests of pages make reports of.
#[cfg(test)]
pub(crate) use self::{
    calibrate::{Check, Checked},
    costs::{Admission, Costs, Memory, Range, Setup, Storage},
    model::Shard,
    plan::plan,
    profile::Profile,
};
