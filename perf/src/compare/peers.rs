//! The peers: what each needs, how it is installed or built in a folder that git ignores, and how it is started. Their
//! sources are in `perf/peers`. A peer that cannot be had is an error text, which becomes its place in the report.

use std::fs;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::backing::Backing;
use crate::server::{Spec, version};

/// A server that ringroom is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Peer {
    /// Node's ws.
    NodeWs,
    /// tokio-tungstenite.
    TokioTungstenite,
    /// uWebSockets, in C++.
    #[value(name = "uwebsockets")]
    UWebSockets,
    /// The original on Django Channels, as its authors describe it.
    DjangoStock,
    /// The same as a good engineer would tune it.
    DjangoTuned,
}

impl Peer {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::NodeWs => "node-ws",
            Self::TokioTungstenite => "tokio-tungstenite",
            Self::UWebSockets => "uwebsockets",
            Self::DjangoStock => "django-stock",
            Self::DjangoTuned => "django-tuned",
        }
    }

    /// Whether it keeps its messages in Postgres and sends them through Redis.
    pub(super) fn needs_backing(self) -> bool {
        matches!(self, Self::DjangoStock | Self::DjangoTuned)
    }

    /// What must be on the machine, for whoever lacks it.
    fn needs(self) -> &'static str {
        match self {
            Self::NodeWs => "it needs Node 20 or newer and npm (Debian: nodejs npm)",
            Self::TokioTungstenite => "it needs cargo and a C compiler, as ringroom does",
            Self::UWebSockets => "it needs cargo and a C++ compiler for C++20 (Debian: g++)",
            Self::DjangoStock | Self::DjangoTuned => {
                "it needs Python 3 with venv, Postgres and Redis (Debian: python3-venv postgresql redis-server)"
            }
        }
    }
}

/// Where peers come from, and where they are built.
#[derive(Debug)]
pub(super) struct Workshop {
    pub(super) sources: PathBuf,
    pub(super) built: PathBuf,
}

impl Workshop {
    /// Installs or builds what `peer` needs and is not there yet, and says how it is started.
    ///
    /// # Errors
    /// It cannot be had; with what to do.
    pub(super) fn prepare(&self, peer: Peer, fixtures: &Path, backing: Option<&Backing>) -> Result<Spec, String> {
        let spec = match peer {
            Peer::NodeWs => self.node("node-ws"),
            Peer::TokioTungstenite => self.rust("tokio-tungstenite-peer"),
            Peer::UWebSockets => self.rust("uwebsockets-peer"),
            Peer::DjangoStock => self.django("stock", backing),
            Peer::DjangoTuned => self.django("tuned", backing),
        };
        let mut spec = spec.map_err(|why| format!("{why}\n  {}", peer.needs()))?;
        spec.name = peer.name().into();
        spec.version = match peer {
            Peer::NodeWs => version("node").map(|version| format!("Node {version}")),
            Peer::TokioTungstenite => version("rustc"),
            Peer::UWebSockets => version("c++"),
            Peer::DjangoStock | Peer::DjangoTuned => version(&spec.program),
        };
        Ok(if peer.needs_backing() { spec } else { spec.args(["--fixtures"]).args([fixtures]) })
    }

    /// Node looks for packages beside a program, so the program is copied to where they are installed.
    fn node(&self, folder: &str) -> Result<Spec, String> {
        let (source, built) = (self.sources.join(folder), self.folder(folder)?);
        let installed = built.join("node_modules").is_dir() && same(&source, &built, "package-lock.json");
        for file in ["package.json", ".npmrc", "server.mjs"] {
            copy(&source, &built, file)?;
        }
        if !installed {
            fs::copy(source.join("package-lock.json"), built.join("package-lock.json")).map_err(|e| e.to_string())?;
            let done = Spec::new("npm ci", "npm").args(["ci"]).dir(&built).run();
            done.inspect_err(|_| forget(&built, "package-lock.json"))?;
        }
        Ok(Spec::new(folder, "node").args([built.join("server.mjs")]))
    }

    fn rust(&self, package: &str) -> Result<Spec, String> {
        let built = self.folder("rust")?;
        Spec::new(&format!("cargo build --package {package}"), "cargo")
            .args(["build", "--quiet", "--release", "--locked", "--package", package, "--manifest-path"])
            .args([self.sources.join("rust/Cargo.toml")])
            .env("CARGO_TARGET_DIR", &built)
            .run()?;
        Ok(Spec::new(package, built.join("release").join(package)))
    }

    fn django(&self, variant: &str, backing: Option<&Backing>) -> Result<Spec, String> {
        let backing = backing.ok_or("Postgres and Redis are not running")?;
        let (source, built) = (self.sources.join("django"), self.folder("django")?);
        let python = built.join("venv/bin/python");
        if !python.exists() || !same(&source, &built, "requirements.txt") {
            forget(&built, "requirements.txt");
            Spec::new("python3 -m venv", "python3").args(["-m", "venv", "--clear"]).args([built.join("venv")]).run()?;
            let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"];
            Spec::new("pip install", &python).args(pip).args([source.join("requirements.txt")]).run()?;
            copy(&source, &built, "requirements.txt")?;
        }
        Ok(Spec::new(variant, python)
            .args([source.join("server.py")])
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("PEER_VARIANT", variant)
            .env("DATABASE_URL", backing.postgres_url())
            .env("REDIS_URL", backing.redis_url()))
    }

    fn folder(&self, name: &str) -> Result<PathBuf, String> {
        let folder = self.built.join(name);
        let made = fs::create_dir_all(&folder);
        made.map(|()| folder.clone()).map_err(|error| format!("{}: {error}", folder.display()))
    }
}

fn copy(source: &Path, built: &Path, file: &str) -> Result<(), String> {
    let from = source.join(file);
    let copied = fs::copy(&from, built.join(file));
    copied.map(|_| ()).map_err(|error| format!("{} cannot be copied to {}: {error}", from.display(), built.display()))
}

/// Whether what `file` pins is what was installed.
fn same(source: &Path, built: &Path, file: &str) -> bool {
    let read = |folder: &Path| fs::read(folder.join(file)).ok();
    read(source).is_some_and(|wanted| read(built) == Some(wanted))
}

/// What was installed by this is not whole.
fn forget(built: &Path, file: &str) {
    let _absent = fs::remove_file(built.join(file));
}
