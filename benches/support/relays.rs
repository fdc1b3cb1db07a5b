//! The relays in Node and in Go: their sources are beside this file, and are installed or built before a run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::BoxError;

/// Gives the folder of the relay with its packages; an error where npm cannot install them.
pub fn install_node_relay(folder: &Path) -> Result<PathBuf, BoxError> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/support/node-relay");
    let folder = folder.join("node-relay");
    fs::create_dir_all(&folder)?;
    let mut changed = !folder.join("node_modules").exists();
    for name in ["package.json", "relay.mjs"] {
        let text = fs::read(source.join(name))?;
        changed |= fs::read(folder.join(name)).ok().as_ref() != Some(&text);
        fs::write(folder.join(name), text)?;
    }
    if changed {
        let npm = Command::new("npm")
            .args(["install", "--silent", "--no-audit", "--no-fund"])
            .current_dir(&folder)
            .status()?;
        if !npm.success() {
            return Err("npm could not install its packages".into());
        }
    }
    Ok(folder)
}

/// Gives the binary; an error where go cannot build it.
pub fn build_go_relay(folder: &Path) -> Result<PathBuf, BoxError> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/support/go-relay/relay.go");
    let binary = folder.join("go-relay");
    let go = Command::new("go").args(["build", "-o"]).arg(&binary).arg(source).status()?;
    if !go.success() {
        return Err("go could not build it".into());
    }
    Ok(binary)
}
