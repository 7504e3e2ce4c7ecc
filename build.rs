//! Lists the files of the console, so that the program has them in itself. It reads `console/dist`,
//! which is in the repository; it downloads nothing and runs no other program.
#![expect(
    clippy::disallowed_methods,
    reason = "cargo tells a build script what it needs by variables"
)]

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

const FOLDER: &str = "console/dist";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CONSOLE").is_none() {
        return Ok(());
    }
    println!("cargo::rerun-if-changed={FOLDER}");
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join(FOLDER);
    let mut names = Vec::new();
    list(&root, &root, &mut names).map_err(|error| {
        format!("cannot read {FOLDER}: {error}; `--no-default-features` leaves the console out")
    })?;
    // The same list on every machine.
    names.sort();
    if !names.iter().any(|name| name == "index.html") {
        return Err(format!(
            "{FOLDER} has no index.html; `--no-default-features` leaves the console out"
        )
        .into());
    }
    let mut list = String::from("const FILES: &[(&str, &[u8])] = &[\n");
    for name in &names {
        let path = root.join(name).display().to_string();
        println!("cargo::rerun-if-changed={path}");
        writeln!(list, "    ({name:?}, include_bytes!({path:?})),")?;
    }
    list.push_str("];\n");
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("console_files.rs"), list)?;
    Ok(())
}

/// The files in a folder and those below it, by their paths from `root`, with `/` between.
fn list(root: &Path, folder: &Path, names: &mut Vec<String>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            list(root, &path, names)?;
            continue;
        }
        let parts = path.strip_prefix(root)?.components();
        let parts =
            parts.map(|part| part.as_os_str().to_str().ok_or("a file name that is no text"));
        names.push(parts.collect::<Result<Vec<_>, _>>()?.join("/"));
    }
    Ok(())
}
