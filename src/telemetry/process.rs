//! Resource usage of this process, under the names of Prometheus' client libraries.
//!
//! Rendered directly, because the recorder stores integers only.

use std::fmt::Write as _;

use procfs::{WithCurrentSystemInfo as _, process::Process};

use super::metric_list::{METRICS, MetricKind};

/// `None` where the system does not tell.
#[derive(Debug, Default)]
struct ProcessUsage {
    cpu_seconds: Option<f64>,
    resident_bytes: Option<u64>,
    open_files: Option<u64>,
    most_files: Option<u64>,
    received_bytes: Option<u64>,
    sent_bytes: Option<u64>,
    read_bytes: Option<u64>,
    written_bytes: Option<u64>,
}

/// Renders these metrics in Prometheus' text format.
pub(super) fn page() -> String {
    let mut page = String::new();
    if let Ok(process) = Process::myself() {
        ProcessUsage::by(&process).write(&mut page);
    }
    page
}

impl ProcessUsage {
    fn by(process: &Process) -> ProcessUsage {
        let mut used = ProcessUsage::default();
        if let Ok(stat) = process.stat() {
            let ticks = (stat.utime + stat.stime) as f64;
            used.cpu_seconds = Some(ticks / procfs::ticks_per_second() as f64);
            used.resident_bytes = Some(stat.rss_bytes().get());
        }
        used.open_files = process.fd_count().ok().map(|count| count as u64);
        used.most_files =
            process.limits().ok().and_then(|limits| match limits.max_open_files.soft_limit {
                procfs::process::LimitValue::Value(most) => Some(most),
                procfs::process::LimitValue::Unlimited => None,
            });
        if let Ok(interfaces) = process.dev_status() {
            let of = |bytes: fn(&procfs::net::DeviceStatus) -> u64| interfaces.values().map(bytes);
            used.received_bytes = Some(of(|interface| interface.recv_bytes).sum());
            used.sent_bytes = Some(of(|interface| interface.sent_bytes).sum());
        }
        if let Ok(io) = process.io() {
            (used.read_bytes, used.written_bytes) = (Some(io.read_bytes), Some(io.write_bytes));
        }
        used
    }

    fn write(&self, page: &mut String) {
        let whole = |value: Option<u64>| value.map(|value| value as f64);
        for (name, value) in [
            ("process_cpu_seconds_total", self.cpu_seconds),
            ("process_resident_memory_bytes", whole(self.resident_bytes)),
            ("process_open_fds", whole(self.open_files)),
            ("process_max_fds", whole(self.most_files)),
            ("process_network_receive_bytes_total", whole(self.received_bytes)),
            ("process_network_transmit_bytes_total", whole(self.sent_bytes)),
            ("process_disk_read_bytes_total", whole(self.read_bytes)),
            ("process_disk_written_bytes_total", whole(self.written_bytes)),
        ] {
            let known = METRICS.iter().find(|(known, _, _)| *known == name);
            if let (Some((_, kind, meaning)), Some(value)) = (known, value) {
                let kind = if *kind == MetricKind::Counter { "counter" } else { "gauge" };
                let _ = writeln!(page, "# HELP {name} {meaning}\n# TYPE {name} {kind}");
                let _ = writeln!(page, "{name} {value}\n");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _};

    use super::*;

    #[test]
    fn what_is_used_is_counted() {
        let now = || ProcessUsage::by(&Process::myself().unwrap());
        let before = now();
        // A descriptor, a mebibyte on the disk, memory, and time.
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let block: Vec<u8> = vec![7; 64 << 20];
        file.write_all(&block[..1 << 20]).unwrap();
        file.as_file().sync_all().unwrap();
        let begun = std::time::Instant::now();
        while now().cpu_seconds.unwrap() < before.cpu_seconds.unwrap() + 0.2 {
            assert!(begun.elapsed().as_secs() < 60, "time is not counted");
            assert!(block.iter().all(|byte| *byte == 7));
        }
        let after = now();
        assert!(after.cpu_seconds.unwrap() < begun.elapsed().as_secs_f64() * 64.0 + 60.0);
        assert!(after.resident_bytes.unwrap() > 64 << 20, "{after:?}");
        let status = fs::read_to_string("/proc/self/limits").unwrap();
        let line = status.lines().find(|line| line.starts_with("Max open files")).unwrap();
        assert_eq!(line.split_whitespace().nth(3).unwrap(), after.most_files.unwrap().to_string());
        let open = fs::read_dir("/proc/self/fd").unwrap().count() as u64;
        assert!(after.open_files.unwrap().abs_diff(open) < 50, "{open} {after:?}");
        let page = page();
        for (name, kind, _) in METRICS.iter().filter(|(name, _, _)| name.starts_with("process_")) {
            let kind = if *kind == MetricKind::Counter { "counter" } else { "gauge" };
            assert!(page.contains(&format!("# TYPE {name} {kind}\n{name} ")), "{name}: {page}");
        }
    }
}
