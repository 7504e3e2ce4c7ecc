//! A simulated disk for a process. `disk.c` records what the process writes and syncs, and this
//! module simulates a power cut from the record.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use rand::RngExt as _;
use rand::rngs::StdRng;

/// A disk writes complete sectors. Anything larger may be written in part.
const SECTOR: usize = 512;

pub(crate) struct Disk {
    library: PathBuf,
    pub log: PathBuf,
}

impl Disk {
    /// Compiles the library that records the writes.
    pub(crate) fn new(folder: &Path) -> Self {
        let library = folder.join("disk.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chaos/disk.c");
        let status = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(&library)
            .arg(source)
            .args(["-ldl", "-lpthread"])
            .status()
            .expect("needs a C compiler, cc");
        assert!(status.success());
        Disk { library, log: folder.join("disk.log") }
    }

    /// Puts a process on this disk, which records its files in `folder`.
    pub(crate) fn under(&self, command: &mut Command, folder: &Path) {
        command
            .env("LD_PRELOAD", &self.library)
            .env("DISK_FOLDER", folder)
            .env("DISK_LOG", &self.log);
    }

    pub(crate) fn set_full(&self, is_full: bool) {
        let flag = PathBuf::from(format!("{}.full", self.log.display()));
        if is_full {
            std::fs::write(flag, "").unwrap();
        } else {
            let _ = std::fs::remove_file(flag);
        }
    }
}

enum Write {
    At(usize, Vec<u8>),
    Truncate(usize),
}

#[derive(Default)]
struct File {
    durable: Vec<u8>,
    /// Was it synced, or did it exist before?
    exists: bool,
    pending: Vec<Write>,
}

impl File {
    fn sync(&mut self) {
        for write in std::mem::take(&mut self.pending) {
            apply(&mut self.durable, &write);
        }
        self.exists = true;
    }
}

fn apply(file: &mut Vec<u8>, write: &Write) {
    match write {
        Write::At(offset, bytes) => {
            let end = offset + bytes.len();
            if file.len() < end {
                file.resize(end, 0);
            }
            file[*offset..end].copy_from_slice(bytes);
        }
        Write::Truncate(length) => file.resize(*length, 0),
    }
}

/// The result of a power cut.
pub(crate) struct Cut {
    pub synced: usize,
    pub lost: usize,
}

/// Cuts the power. Of data that was not synced, nothing survives, or some of it, sector by sector.
/// Before the call `folder` has the files as they were when the process began, and afterwards as
/// they are after the cut.
pub(crate) fn cut_power(disk: &Disk, folder: &Path, random: &mut StdRng) -> Cut {
    let mut files: BTreeMap<String, File> = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if (name.contains(".db") || name.contains(".journal.log")) && !name.contains("-shm") {
            let durable = std::fs::read(entry.path()).unwrap();
            files.insert(name, File { durable, exists: true, pending: Vec::new() });
        }
    }
    let log = std::fs::read(&disk.log).unwrap_or_default();
    let (mut rest, mut synced) = (log.as_slice(), 0);
    // The process may have ended in the middle of the last record.
    while let Some((kind, name, offset, bytes)) = record(&mut rest) {
        let file = files.entry(name).or_default();
        match kind {
            b'w' => file.pending.push(Write::At(offset, bytes.to_vec())),
            b't' => file.pending.push(Write::Truncate(offset)),
            b's' => {
                synced += 1;
                file.sync();
            }
            b'u' => *file = File::default(),
            _ => {}
        }
    }
    let keep = [0.0, 0.5, 0.95][random.random_range(0..3)];
    let mut lost = 0;
    for (name, mut file) in files {
        lost += file.pending.len();
        for write in std::mem::take(&mut file.pending) {
            survive(&mut file, &write, keep, random);
        }
        let path = folder.join(&name);
        if file.exists {
            std::fs::write(path, &file.durable).unwrap();
        } else {
            let _ = std::fs::remove_file(path);
        }
    }
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.to_str().unwrap().ends_with("-shm") {
            std::fs::remove_file(path).unwrap();
        }
    }
    std::fs::remove_file(&disk.log).unwrap();
    Cut { synced, lost }
}

/// Some sectors of an unsynced write may have reached the disk.
fn survive(file: &mut File, write: &Write, keep: f64, random: &mut StdRng) {
    match write {
        Write::At(offset, bytes) => {
            for (place, sector) in bytes.chunks(SECTOR).enumerate() {
                if random.random_bool(keep) {
                    file.exists = true;
                    apply(&mut file.durable, &Write::At(offset + place * SECTOR, sector.to_vec()));
                }
            }
        }
        Write::Truncate(_) if random.random_bool(keep) => apply(&mut file.durable, write),
        Write::Truncate(_) => {}
    }
}

fn record<'l>(rest: &mut &'l [u8]) -> Option<(u8, String, usize, &'l [u8])> {
    let mut from = *rest;
    let mut take = |length: usize| {
        let (head, tail) = from.split_at_checked(length)?;
        from = tail;
        Some(head)
    };
    let kind = take(1)?[0];
    let name_length = u16::from_le_bytes(take(2)?.try_into().unwrap());
    let name = String::from_utf8(take(name_length.into())?.to_vec()).unwrap();
    let offset = u64::from_le_bytes(take(8)?.try_into().unwrap());
    let length = u32::from_le_bytes(take(4)?.try_into().unwrap());
    let bytes = take(usize::try_from(length).unwrap())?;
    *rest = from;
    Some((kind, name, usize::try_from(offset).unwrap(), bytes))
}
