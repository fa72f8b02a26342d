//! Where a report goes: text to standard output, JSON and a page to files. Asked before a run whether they can be written,
//! as far as that can be told then, for a run is long.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use crate::html::Paged;
use crate::provenance::Provenance;
use crate::report::{Sourced, Verdict};

/// What a command takes whose report is text, JSON and a page.
#[derive(Args, Debug)]
pub(crate) struct Out {
    /// Write the report as JSON too; `-` writes it to standard output instead of the text.
    #[arg(long, visible_alias = "out", value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    page: PageFile,
}

/// The page alone.
#[derive(Args, Debug)]
pub(crate) struct PageFile {
    /// Write the report as a page with plots too: one HTML file that needs nothing else.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

impl Out {
    /// # Errors
    /// A file cannot be written; for its folder is missing, or it is one.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.json.iter().filter(|path| !is_standard_output(path)).try_for_each(|path| writable(path))?;
        self.page.check()
    }

    /// Shows and writes the report; whether all went well.
    ///
    /// # Errors
    /// A file cannot be written.
    pub(crate) fn show(&self, report: &(impl Verdict + Paged), provenance: &Provenance) -> Result<bool, String> {
        let shown = show(report, provenance, self.json.as_deref());
        both(shown, self.page.write(report, provenance))
    }
}

impl PageFile {
    /// # Errors
    /// As of [`Out::check`].
    pub(crate) fn check(&self) -> Result<(), String> {
        self.report.iter().try_for_each(|path| check_file("--report", path))
    }

    /// Writes the report, if it was asked for.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn write(&self, report: &impl Paged, provenance: &Provenance) -> Result<(), String> {
        self.report.iter().try_for_each(|path| write(path, &report.page().render(provenance)))
    }
}

/// Shows a report as text, or as JSON if `json` is `-`; whether all went well.
///
/// # Errors
/// The file `json` cannot be written.
pub(crate) fn show(report: &impl Verdict, provenance: &Provenance, json: Option<&Path>) -> Result<bool, String> {
    let text = serde_json::to_string_pretty(&Sourced { report, provenance }).map_err(|error| error.to_string())?;
    match json {
        Some(path) if is_standard_output(path) => say(&(text + "\n"))?,
        other => {
            let said = say(&report.to_string());
            both(said, other.map_or(Ok(()), |path| write(path, &(text + "\n"))))?;
        }
    }
    Ok(report.faults().is_empty())
}

/// A run is long: what can be written is, whatever cannot.
pub(crate) fn both<T>(one: Result<T, String>, other: Result<(), String>) -> Result<T, String> {
    match (one, other) {
        (Err(one), Err(other)) => Err(format!("{one}\nringroom-perf: {other}")),
        (one, Ok(())) => one,
        (Ok(_), Err(other)) => Err(other),
    }
}

/// Whether a file that `flag` names can be written, as far as that can be told before it is.
///
/// # Errors
/// Its folder is missing, it is one, or it may not be written.
pub(crate) fn check_file(flag: &str, path: &Path) -> Result<(), String> {
    if is_standard_output(path) {
        return Err(format!("{flag} needs a file's name: that does not go to standard output"));
    }
    writable(path)
}

/// Whoever listens may have heard enough: `| head` is no reason to lose the files.
fn say(text: &str) -> Result<(), String> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(format!("standard output: {error}")),
        _ => Ok(()),
    }
}

fn is_standard_output(path: impl AsRef<Path>) -> bool {
    path.as_ref().as_os_str() == "-"
}

fn writable(path: &Path) -> Result<(), String> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return Err(format!("{}: there is no folder {}; make it first", path.display(), folder.display()));
    }
    if path.is_dir() {
        return Err(format!("{} is a folder; give a file's name", path.display()));
    }
    let is_there = path.symlink_metadata().is_ok();
    // To open a pipe, and to close it, would be told at its other end.
    if is_there && !path.is_file() {
        return Ok(());
    }
    let opened = File::options().append(true).create(true).open(path);
    opened.map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
    if !is_there {
        let _empty = std::fs::remove_file(path);
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Folder;
    use crate::stand_in;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        out: Out,
    }

    fn check(args: &[&str]) -> Result<(), String> {
        Line::try_parse_from(["p"].iter().chain(args)).map_err(|error| error.to_string())?.out.check()
    }

    #[test]
    fn what_could_not_be_written_is_refused_before_the_run() {
        let folder = std::env::temp_dir();
        let folder = folder.to_str().unwrap();
        let file = format!("{folder}/page.html");
        assert_eq!(check(&["--report", &file, "--json", "-"]), Ok(()));
        assert_eq!(check(&["--report", "page.html", "--out", &file]), Ok(()));
        for (args, word) in [
            (["--report", "-"], "a file's name"),
            (["--report", folder], "is a folder"),
            (["--report", "/no/such/folder/page.html"], "/no/such/folder"),
            (["--json", "/no/such/folder/figures.json"], "/no/such/folder"),
            (["--json", "/proc/figures.json"], "cannot be written"),
        ] {
            let why = check(&args).unwrap_err();
            assert!(why.contains(word), "{why}");
        }
        assert!(check_file("--hgrm", Path::new("-")).unwrap_err().contains("--hgrm needs a file's name"));
    }

    #[test]
    fn a_check_leaves_a_file_as_it_is() {
        let folder = Folder::make().unwrap();
        let (new, old) = (folder.path().join("new.json"), folder.path().join("old.json"));
        std::fs::write(&old, "old").unwrap();
        for path in [&new, &old] {
            assert_eq!(check(&["--json", path.to_str().unwrap()]), Ok(()));
        }
        assert!(!new.exists());
        assert_eq!(std::fs::read_to_string(old).unwrap(), "old");
    }

    #[test]
    fn what_can_be_written_is_whatever_cannot() {
        let folder = Folder::make().unwrap();
        let page = folder.path().join("page.html");
        let report = stand_in::report();
        for (json, word) in [("/dev/full", "/dev/full: No space left"), ("-", "")] {
            let _none = std::fs::remove_file(&page);
            let line = Line::try_parse_from(["p", "--json", json, "--report", page.to_str().unwrap()]).unwrap();
            let shown = line.out.show(&report, &Provenance::now());
            assert_eq!(shown.is_err(), !word.is_empty(), "{shown:?}");
            assert!(shown.err().unwrap_or_default().contains(word));
            assert!(std::fs::read_to_string(&page).unwrap().ends_with("</html>"), "{json}");
        }
        assert_eq!(both(Err::<(), _>("a".into()), Err("b".into())), Err("a\nringroom-perf: b".into()));
    }
}
