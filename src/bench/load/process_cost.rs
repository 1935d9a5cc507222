//! CPU time and memory of the server and its private Postgres, from `/proc`.

use std::{collections::HashMap, fs, time::Duration};

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessCost {
    /// CPU time of the process itself.
    pub own: Duration,
    /// CPU time of its descendants, including those that have ended.
    pub descendants: Duration,
    /// Resident memory of the process itself, in KiB.
    pub memory_kib: u64,
}

struct ProcStat {
    parent: u32,
    /// In hundredths of a second.
    own: u64,
    ended: u64,
}

fn stat(pid: u32) -> Option<ProcStat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything, so fields are counted from its end: state, ppid, …, utime,
    // stime, cutime, cstime are fields 3, 4, 14 to 17 of proc(5).
    let fields: Vec<&str> = text.rsplit(") ").next()?.split(' ').collect();
    let number = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
    Some(ProcStat {
        parent: u32::try_from(number(1)?).ok()?,
        own: number(11)? + number(12)?,
        ended: number(13)? + number(14)?,
    })
}

/// The cost so far; `None` where it cannot be read.
pub fn cost(pid: u32) -> Option<ProcessCost> {
    let root = stat(pid)?;
    let mut all: HashMap<u32, ProcStat> = HashMap::new();
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        if let Some((pid, stat)) = pid.and_then(|pid| Some((pid, stat(pid)?))) {
            all.insert(pid, stat);
        }
    }
    let mut descendants = root.ended;
    for (other, stat) in &all {
        if *other != pid && descends(*other, pid, &all) {
            descendants += stat.own + stat.ended;
        }
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(ProcessCost {
        own: Duration::from_millis(root.own * 10),
        descendants: Duration::from_millis(descendants * 10),
        memory_kib: memory.trim().trim_end_matches(" kB").parse().ok()?,
    })
}

fn descends(mut pid: u32, ancestor: u32, all: &HashMap<u32, ProcStat>) -> bool {
    // A bound for the depth of the process tree.
    for _ in 0..64 {
        match all.get(&pid) {
            Some(stat) if stat.parent == ancestor => return true,
            Some(stat) if stat.parent > 1 => pid = stat.parent,
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_costs_something() {
        let mut sum = 0u64;
        for n in 0..50_000_000u64 {
            sum = std::hint::black_box(sum.wrapping_add(n));
        }
        std::hint::black_box(sum);
        let cost = cost(std::process::id()).unwrap();
        assert!(cost.own > Duration::ZERO && cost.memory_kib > 100);
        assert!(super::cost(0).is_none());
    }
}
