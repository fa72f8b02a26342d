//! What `src/lib.rs` says is deliberately absent is absent: each invariant that shows in the text of the source is held here.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Every source file below `src/`, with its text up to the unit tests.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut files) = (vec![root.clone()], Vec::<PathBuf>::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    let rust = files.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    rust.map(|path| {
        let text = fs::read_to_string(&path).unwrap();
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        (name, text.split("#[cfg(test)]").next().unwrap().to_owned())
    })
    .collect()
}

/// Lines of code, not of comment, that hold one of `words`, in files for which `within` holds.
fn offenders(within: impl Fn(&str) -> bool, words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (name, text) in sources().into_iter().filter(|(name, _)| within(name)) {
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            if words.iter().any(|word| line.contains(word)) {
                found.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    found
}

fn check(what: &str, offenders: Vec<String>) {
    assert!(offenders.is_empty(), "{what}:\n{}", offenders.join("\n"));
}

#[test]
fn unsafe_code_stays_in_its_three_files() {
    let named = ["shard/ring.rs", "memory.rs", "scheduling.rs"];
    check("unsafe code elsewhere", offenders(|name| !named.contains(&name), &["unsafe ", "allow(unsafe_code)"]));
    assert!(!offenders(|name| named.contains(&name), &["unsafe {"]).is_empty(), "the search finds what there is");
}

#[test]
fn only_the_store_knows_sql() {
    let words = ["SELECT ", "INSERT INTO", "UPDATE ", "DELETE FROM", "rusqlite", "tokio_postgres"];
    check("SQL outside the store", offenders(|name| !name.starts_with("store/"), &words));
    assert!(!offenders(|name| name.starts_with("store/"), &words).is_empty(), "the search finds what there is");
}

#[test]
fn the_protocols_do_no_io_and_read_no_clock() {
    let pure = |name: &str| name.starts_with("ws/") || name.starts_with("protocol/") || name == "shard/room.rs";
    let words = ["std::net", "std::fs", "std::io::", "tokio::", "Instant::now", "SystemTime", "socket2", "io_uring"];
    check("I/O or a clock in a protocol", offenders(pure, &words));
}

#[test]
fn a_shard_takes_no_lock_and_never_blocks() {
    let words = ["Mutex", "RwLock", "std::thread::sleep", "block_on(", "post_blocking(", ".recv()"];
    // The mailbox offers the blocking post to other threads, and a shard's own runtime is entered once.
    let on_a_shard = |name: &str| name.starts_with("shard/") && name != "shard/mailbox.rs";
    let found = offenders(on_a_shard, &words);
    check("a lock or a wait on a shard", found.into_iter().filter(|line| !line.contains("runtime.block_on")).collect());
}

#[test]
fn every_file_says_what_it_is() {
    let silent = sources().into_iter().filter(|(_, text)| !text.starts_with("//!")).map(|(name, _)| name).collect();
    check("files without a first sentence", silent);
}
