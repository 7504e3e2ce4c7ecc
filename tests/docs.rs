//! The samples of README and book run against a fresh server, one shell for a page: `sh` samples
//! in it, `python` and `js` samples as programs that it starts. They see what the page exports. A
//! fence that says `no-test` is skipped: ```` ```sh no-test: reason ````.
//!
//! `tests/run` installs the libraries that programs import.
#![expect(clippy::unwrap_used, reason = "a test that fails by a panic has done its work")]

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What the samples call the server.
const ADDRESS: &str = "127.0.0.1:8080";

/// Where `tests/run` installs the libraries.
fn installed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients")
}

struct Server {
    child: Child,
    address: String,
    folder: PathBuf,
}

impl Server {
    fn start(name: &str) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let folder = std::env::temp_dir().join(format!("docs-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        // Where Node.js looks for what a sample imports.
        symlink(installed().join("node_modules"), folder.join("node_modules")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_polysystems"))
            .current_dir(&folder)
            .env("POLYSYSTEMS_DATA_DIR", folder.join("data"))
            .env("POLYSYSTEMS_SERVER__BIND", &address)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { child, address, folder };
        let begun = Instant::now();
        while TcpStream::connect(&server.address).is_err() {
            assert!(begun.elapsed() < Duration::from_mins(1), "the server does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The line that ends a program in the script of its page.
const PROGRAM_END: &str = "END_OF_SAMPLE";

/// How the shell starts a sample: at once, or as a program that it hands over. `None` is no sample.
fn start(language: &str) -> Option<String> {
    let program = match language {
        "sh" => return Some(String::new()),
        "python" => "\"$PYTHON\" -",
        "js" => "node --input-type=module -",
        _ => return None,
    };
    Some(format!("{program} <<'{PROGRAM_END}'\n"))
}

/// The samples of a page that are to run, as one script, and how many they are.
fn script(page: &str) -> (String, usize) {
    let (mut script, mut count, mut copied, mut fenced) = (String::new(), 0, false, false);
    let mut is_program = false;
    for line in page.lines() {
        if let Some(flags) = line.strip_prefix("```") {
            let opens = !fenced;
            fenced = opens;
            let no_test = flags.split_once("no-test");
            if let Some((_, reason)) = no_test.filter(|_| opens) {
                assert!(reason.len() > 2, "no reason: {line}");
            }
            if copied && is_program {
                script.push_str(PROGRAM_END);
                script.push('\n');
            }
            let started = start(flags.split(' ').next().unwrap_or_default());
            let started = started.filter(|_| opens && no_test.is_none());
            copied = started.is_some();
            is_program = started.as_ref().is_some_and(|start| !start.is_empty());
            script.push_str(&started.unwrap_or_default());
            count += usize::from(copied);
        } else if copied {
            script.push_str(line);
            script.push('\n');
        }
    }
    (script, count)
}

/// Runs a script against the server; what it said if it failed.
fn run(server: &Server, script: &str) -> Result<(), String> {
    let script = format!("set -euo pipefail\n{}", script.replace(ADDRESS, &server.address));
    let ran = Command::new("bash")
        .args(["-c", &script])
        .current_dir(&server.folder)
        .env("PYTHON", installed().join("venv/bin/python"))
        .output();
    let ran = ran.unwrap();
    let said = [ran.stdout, ran.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    if ran.status.success() { Ok(()) } else { Err(said.join("\n")) }
}

fn pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            pages(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

#[test]
fn every_sample_runs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = vec![root.join("README.md"), root.join("CONTRIBUTING.md")];
    pages(&root.join("docs/src"), &mut found);
    let mut total = 0;
    for page in found {
        let (script, count) = script(&fs::read_to_string(&page).unwrap());
        if count > 0 {
            let server = Server::start(&format!("page-{total}"));
            run(&server, &script).unwrap_or_else(|said| {
                panic!("{}: {said}\ntests/run installs what programs import", page.display())
            });
            total += count;
        }
    }
    assert!(total >= 3, "{total} samples");
}

#[test]
fn a_planted_mistake_is_found() {
    let server = Server::start("planted");
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md"));
    let (script, count) = script(&readme.unwrap());
    assert_eq!(count, 1);
    let planted = script.replace("/v1/chat/completions", "/v1/no-such-route");
    assert_ne!(script, planted);
    assert!(run(&server, &planted).is_err());
}

#[test]
fn programs_run_in_the_shell_of_their_page() {
    let page = "```sh\nexport WORD=hello\n```\n```python\nimport os\nprint(os.environ['WORD'])\n```\n\
                ```js\nconsole.log(process.env.WORD)\n```\n```text\nno sample\n```\n\
                ```python no-test: it needs a network\nimport nothing\n```\n";
    let (script, count) = script(page);
    assert_eq!(count, 3);
    assert!(!script.contains("no sample") && !script.contains("import nothing"));
    let server = Server::start("programs");
    assert_eq!(run(&server, &script), Ok(()));
    for (good, bad) in [("print(", "import none; print("), ("console.log(", "throw(")] {
        assert!(run(&server, &script.replace(good, bad)).is_err(), "{bad}");
    }
}
