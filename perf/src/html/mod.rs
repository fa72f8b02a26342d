//! A report as a page for people: one HTML file that needs nothing else, neither from the network nor beside it.
//!
//! ```text
//! load.rs and one file for each other command: which figures of a report make its page, and what they are called
//!      |  Page
//! page.rs      the page around them: verdict, figures, sections, provenance; style.css
//!      |  Plot, Bars
//! plot.rs      lines over two axes as SVG           axis.rs: scales and ticks
//! bars.rs      quantities side by side as SVG       unit.rs: numbers as a person reads them
//! ```
//!
//! threads.rs is the server's CPU by thread, as a table.
//!
//! Whatever comes from outside is escaped where it enters the markup, by `maud`. There is no script.

mod axis;
mod bars;
mod capacity;
mod compare;
mod connections;
mod floor;
mod load;
mod page;
mod persist;
mod plot;
#[cfg(test)]
mod tests;
mod threads;
mod unit;

use bars::{Bar, Bars, Group};
pub(crate) use page::Page;
use page::{Headline, Part, Section, Table};
use plot::{Line, Mark, Plot};
use unit::Unit;

/// A report that can be a page.
pub(crate) trait Paged {
    /// What it has to say.
    fn page(&self) -> Page;
}
