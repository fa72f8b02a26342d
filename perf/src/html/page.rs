//! The page that a report's figures stand on: what it says in one glance first, where it comes from last.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::bars::Bars;
use super::plot::Plot;
use super::unit::Unit;
use crate::provenance::Provenance;

/// What a report has to say.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    pub(crate) title: String,
    /// How it was measured, in a line.
    pub(crate) subtitle: String,
    /// What to call a report without faults: `Passed`, or `Predicted` if nothing was put to the test.
    pub(crate) verdict: &'static str,
    /// What was looked at and found whole, if there are no faults.
    pub(crate) verified: String,
    pub(crate) faults: Vec<String>,
    /// What speaks against the figures, though nothing failed.
    pub(crate) warnings: Vec<String>,
    /// The few figures that one remembers.
    pub(crate) headlines: Vec<Headline>,
    pub(crate) sections: Vec<Section>,
}

/// A figure that one remembers.
#[derive(Clone, Debug)]
pub(crate) struct Headline {
    pub(crate) label: &'static str,
    pub(crate) number: String,
    pub(crate) unit: String,
    /// What goes with it, in a few words.
    pub(crate) note: String,
}

impl Headline {
    /// `value` in three digits, its unit beside it; what is counted is in the label.
    pub(crate) fn new(label: &'static str, unit: Unit, value: f64, note: impl Into<String>) -> Self {
        let (number, unit) = unit.parts(value);
        Self { label, number, unit: unit.to_owned(), note: note.into() }
    }
}

/// Parts with a heading.
#[derive(Clone, Debug)]
pub(crate) struct Section {
    pub(crate) title: &'static str,
    pub(crate) parts: Vec<Part>,
}

/// What a section is made of.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    Plot(Plot),
    Bars(Bars),
    Table(Table),
    Prose(String),
}

/// Figures in rows, each with a name.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) caption: &'static str,
    /// What the names are, and then the figures, with their units.
    pub(crate) head: Vec<String>,
    pub(crate) rows: Vec<(String, Vec<String>)>,
}

/// All of its look: in the page itself, so that it can be sent and kept as one file.
const STYLE: &str = include_str!("style.css");

/// Tags without an end, closed as XML wants them, so that a strict parser reads the page too.
const META: &str = concat!(
    r#"<meta charset="utf-8"/>"#,
    r#"<meta name="viewport" content="width=device-width, initial-scale=1"/>"#,
    r#"<meta name="color-scheme" content="light dark"/>"#
);

impl Page {
    /// The file.
    pub(crate) fn render(&self, provenance: &Provenance) -> String {
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    (PreEscaped(META))
                    title { (self.title) }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    main {
                        (self.head(provenance))
                        @if !self.headlines.is_empty() { (headlines(&self.headlines)) }
                        @for section in self.sections.iter().filter(|section| !section.parts.is_empty()) {
                            section {
                                h2 { (section.title) }
                                div.parts { @for part in &section.parts { (part.render()) } }
                            }
                        }
                        (origin(provenance))
                    }
                }
            }
        };
        // No text may hold control characters, escaped or not.
        page.into_string().replace(|c: char| c.is_control() && c != '\n' && c != '\t', "\u{fffd}")
    }

    fn head(&self, provenance: &Provenance) -> Markup {
        let debug =
            (!provenance.program.release).then_some("The load generator is a debug build: build it with --release.");
        html! {
            header {
                p.brand { "ringroom-perf" }
                h1 { (self.title) }
                p.subtitle { (self.subtitle) }
                @if self.faults.is_empty() {
                    p.verdict.passed { strong { (self.verdict) } " " (self.verified) }
                } @else {
                    div.verdict.failed {
                        p { strong { "Failed" } " No figure below counts before this is understood:" }
                        ul { @for fault in &self.faults { li { (fault) } } }
                    }
                }
                @for warning in self.warnings.iter().map(String::as_str).chain(debug) {
                    p.verdict.warning { strong { "Mind" } " " (warning) }
                }
            }
        }
    }
}

fn headlines(headlines: &[Headline]) -> Markup {
    html! {
        dl.headlines {
            @for Headline { label, number, unit, note } in headlines {
                div {
                    dt { (label) }
                    dd { span.number { (number) } " " span.unit { (unit) } }
                    @if !note.is_empty() { dd.note { (note) } }
                }
            }
        }
    }
}

impl Part {
    fn render(&self) -> Markup {
        match self {
            Part::Plot(plot) => plot.render(),
            Part::Bars(bars) => bars.render(),
            Part::Table(table) => table.render(),
            Part::Prose(text) => html! { p.prose { (text) } },
        }
    }
}

impl Table {
    fn render(&self) -> Markup {
        html! {
            @let class = if self.head.len() > 2 { "table" } else { "table pairs" };
            div.(class) role="region" aria-label=(self.caption) tabindex="0" {
                table {
                    caption { (self.caption) }
                    thead { tr { @for name in &self.head { th scope="col" { (name) } } } }
                    tbody {
                        @for (name, figures) in &self.rows {
                            tr { th scope="row" { (name) } @for figure in figures { td { (figure) } } }
                        }
                    }
                }
            }
        }
    }
}

/// Where it all comes from.
fn origin(provenance: &Provenance) -> Markup {
    let Provenance { command, started_at, program, machine, server } = provenance;
    let on = |cpus: &Option<String>| cpus.as_ref().map(|cpus| format!(", may use CPU {cpus}")).unwrap_or_default();
    let model = if machine.cpu_model.is_empty() { "of unknown model" } else { &machine.cpu_model };
    html! {
        section.origin {
            h2 { "How it was measured" }
            pre { code { (command) } }
            dl {
                dt { "Begun" } dd { time datetime=(started_at) { (started_at.replace('T', " ").replace('Z', " UTC")) } }
                dt { "Client" } dd { (program) (on(&program.cpus)) }
                @if let Some(server) = server {
                    dt { "Server" }
                    dd {
                        (server.address)
                        @for process in &server.processes { ", process " (process.pid) " (" (process.name) ")" (on(&process.cpus)) }
                        @if server.processes.is_empty() { "; no process was named with --pid, so its CPU and memory are not known" }
                    }
                }
                dt { "Kernel" } dd { (machine.kernel) }
                dt { "CPUs" } dd { (machine.cpus) " × " (model) }
                dt { "Memory" } dd { (Unit::Bytes.show(machine.memory_bytes as f64)) }
                @if let Some(load) = machine.load_average {
                    dt { "Load before" } dd { (format!("{load:.2}")) " processes running or waiting, mean of a minute" }
                }
            }
        }
    }
}
