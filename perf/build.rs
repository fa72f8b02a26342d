//! Tells `provenance.rs` which commit this program is made of. Outside a checkout, or without git, it says nothing, and
//! the build goes on.
//!
//! The commit is the program's own, taken when it is built: the folder that it is run in may be another checkout, or this
//! one with a later commit. It must not be older than the program either: cargo asks again when a commit is made or
//! another one checked out, and when a source changes.

use std::path::Path;
use std::process::Command;

/// What this program is made of, from here.
const SOURCES: [&str; 7] =
    ["src", "build.rs", "Cargo.toml", "../src", "../migrations", "../Cargo.toml", "../Cargo.lock"];

/// Files of git that one of changes whenever another commit is checked out or made.
const COMMIT_MARKS: [&str; 3] = ["HEAD", "logs/HEAD", "packed-refs"];

fn main() {
    // A folder is watched with all that is in it; a path that does not exist would make cargo ask at each build.
    for source in SOURCES.into_iter().filter(|source| Path::new(source).exists()) {
        println!("cargo:rerun-if-changed={source}");
    }
    // Sources may lie in the checkout of something else, which ignores them.
    if git(&["ls-files", "--error-unmatch", "build.rs"]).is_none() {
        return;
    }
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    for mark in COMMIT_MARKS.into_iter().chain(branch.as_deref()) {
        if let Some(path) = git(&["rev-parse", "--git-path", mark]).filter(|path| Path::new(path).exists()) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    let changes = git(&[&["status", "--porcelain", "--"], SOURCES.as_slice()].concat());
    if let (Some(commit), Some(changes)) = (git(&["rev-parse", "HEAD"]), changes) {
        println!("cargo:rustc-env=RINGROOM_PERF_COMMIT={commit}");
        println!("cargo:rustc-env=RINGROOM_PERF_CHANGED={}", !changes.is_empty());
    }
}

/// What git answers, if it does.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim_end().to_owned())
}
