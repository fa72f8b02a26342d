//! Compiles uWebSockets (epoll, no TLS, no compression) and the server on it. Its sources are in the package of a crate
//! that is fetched and not built.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sources = sources()?.join("uWebSockets");
    let sockets = sources.join("uSockets/src");
    let c_files = ["bsd.c", "context.c", "loop.c", "socket.c", "udp.c", "eventing/epoll_kqueue.c"];
    cc::Build::new()
        .files(c_files.map(|file| sockets.join(file)))
        .include(&sockets)
        .define("LIBUS_NO_SSL", None)
        .flag("-march=native")
        .opt_level(3)
        .warnings(false)
        .compile("usockets");
    cxx_build::bridge("src/main.rs")
        .file("src/server.cpp")
        .includes([sources.join("src"), sockets])
        .define("LIBUS_NO_SSL", None)
        .define("UWS_NO_ZLIB", None)
        .std("c++20")
        .flag("-march=native")
        .opt_level(3)
        .warnings(false)
        .compile("server");
    println!("cargo:rerun-if-changed=src");
    Ok(())
}

fn sources() -> Result<PathBuf, Box<dyn std::error::Error>> {
    let mut command = cargo_metadata::MetadataCommand::new();
    let metadata = command.features(cargo_metadata::CargoOpt::AllFeatures).other_options(["--locked".into()]).exec()?;
    let package = metadata.packages.iter().find(|package| package.name.as_str() == "libuwebsockets-sys");
    let manifest = &package.ok_or("cargo did not fetch libuwebsockets-sys")?.manifest_path;
    Ok(manifest.parent().ok_or("a manifest without a folder")?.into())
}
