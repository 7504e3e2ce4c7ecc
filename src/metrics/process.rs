//! What the system says of the process, as Prometheus' own clients tell it. Read when it is asked
//! for; what is not there is left out.

use std::fs;

use super::seconds;

/// Clock ticks in a second: the unit of times in `/proc`, the same on every Linux.
const TICKS: u64 = 100;

/// The metrics: name, kind, help and value. Times are in seconds.
#[must_use]
pub fn process() -> Vec<(&'static str, &'static str, &'static str, String)> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (stat, status) = (read("/proc/self/stat"), read("/proc/self/status"));
    let (limits, boot) = (read("/proc/self/limits"), read("/proc/stat"));
    let mut found = Vec::new();
    let mut add = |name, kind, help, value: Option<String>| {
        found.extend(value.map(|value| (name, kind, help, value)));
    };
    let help = "User and system CPU time";
    add("process_cpu_seconds_total", "counter", help, cpu(&stat));
    let help = "Memory in RAM";
    add("process_resident_memory_bytes", "gauge", help, bytes(&status, "VmRSS:"));
    let help = "Virtual memory";
    add("process_virtual_memory_bytes", "gauge", help, bytes(&status, "VmSize:"));
    let help = "Threads";
    add("process_threads", "gauge", help, word_after(&status, "Threads:").map(str::to_owned));
    let open = fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count().to_string());
    add("process_open_fds", "gauge", "Open file descriptors", open);
    let most = word_after(&limits, "Max open files").filter(|most| *most != "unlimited");
    let help = "Most file descriptors that may be open";
    add("process_max_fds", "gauge", help, most.map(str::to_owned));
    let help = "When the process started, in Unix seconds";
    add("process_start_time_seconds", "gauge", help, started(&stat, &boot));
    found
}

/// The fields of `/proc/self/stat` after the name of the program, which may have spaces.
fn fields(stat: &str) -> impl Iterator<Item = u64> {
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    // The first one is the state, a letter.
    rest.split_whitespace().map(|field| field.parse().unwrap_or_default())
}

fn in_seconds(ticks: u64) -> String {
    seconds(ticks.saturating_mul(1_000_000 / TICKS))
}

fn cpu(stat: &str) -> Option<String> {
    let [user, system] = [11, 12].map(|field| fields(stat).nth(field));
    Some(in_seconds(user?.saturating_add(system?)))
}

fn started(stat: &str, boot: &str) -> Option<String> {
    let booted: u64 = word_after(boot, "btime")?.parse().ok()?;
    let ticks = fields(stat).nth(19)?;
    Some(in_seconds(booted.saturating_mul(TICKS).saturating_add(ticks)))
}

/// The word after this beginning of a line.
fn word_after<'t>(text: &'t str, start: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.strip_prefix(start))?.split_whitespace().next()
}

fn bytes(status: &str, start: &str) -> Option<String> {
    let kibibytes: u64 = word_after(status, start)?.parse().ok()?;
    Some(kibibytes.saturating_mul(1_024).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_is_read() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 90 0 0 0 150 25 0 0 20 0 9 0 12345 1000 50 0";
        assert_eq!(cpu(stat).as_deref(), Some("1.75"));
        let boot = "cpu  1 2 3\nbtime 1700000000\n";
        assert_eq!(started(stat, boot).as_deref(), Some("1700000123.45"));
        let status = "Name:\ta\nVmRSS:\t    2 kB\nThreads:\t9\n";
        assert_eq!(bytes(status, "VmRSS:").as_deref(), Some("2048"));
        assert_eq!(word_after(status, "Threads:"), Some("9"));
        assert_eq!(bytes(status, "VmSize:"), None);
        assert_eq!(cpu(""), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_has_them_all() {
        assert_eq!(process().len(), 7);
    }
}
