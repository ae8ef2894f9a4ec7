//! What the proxy has used, read from /proc for its whole process tree.
//!
//! Total CPU is the scheduler's own clock in nanoseconds, `/proc/PID/task/TID/schedstat`, summed over all threads (the worker threads of
//! `io_uring` are among them). How it divides into user and system comes from `utime` and `stime` in `/proc/PID/stat`, which the kernel
//! samples at each tick, so that share needs seconds of CPU to be exact. Loopback delivers a packet inside the sender's system call, so
//! each side pays for what it sends; there is no interrupt whose cost would be lost.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::failure::{Doing as _, Failure};

/// Nanoseconds in a tick of /proc/PID/stat; `USER_HZ` is 100 on every Linux this runs on.
const TICK_NS: u64 = 10_000_000;
/// Ticks and schedstat may differ by this before threads must have ended unseen.
const TICK_ERROR_NS: u64 = 60_000_000;

/// CPU used so far, or between two moments.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cpu {
    /// By the scheduler's clock.
    pub(crate) scheduled_ns: u64,
    user_ticks: u64,
    system_ticks: u64,
}

impl Cpu {
    /// What the process tree under `root` has used since it started.
    pub(crate) fn of_tree(root: u32) -> Result<Self, Failure> {
        let mut cpu = Self::default();
        for pid in tree(root)? {
            let process =
                fs::read_to_string(format!("/proc/{pid}/stat")).doing("read of /proc/PID/stat")?;
            cpu.user_ticks += stat_field(&process, 14);
            cpu.system_ticks += stat_field(&process, 15);
            for task in fs::read_dir(format!("/proc/{pid}/task")).doing("read of /proc/PID/task")? {
                let path = task.doing("read of /proc/PID/task")?.path().join("schedstat");
                // A thread may end between the two reads.
                let text = fs::read_to_string(path).unwrap_or_default();
                cpu.scheduled_ns +=
                    text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
            }
        }
        Ok(cpu)
    }

    /// What was used since `earlier`.
    pub(crate) fn since(self, earlier: Self) -> Result<Self, Failure> {
        let used = Self {
            scheduled_ns: self.scheduled_ns.saturating_sub(earlier.scheduled_ns),
            user_ticks: self.user_ticks - earlier.user_ticks,
            system_ticks: self.system_ticks - earlier.system_ticks,
        };
        let ticked_ns = (used.user_ticks + used.system_ticks) * TICK_NS;
        if ticked_ns > used.scheduled_ns + used.scheduled_ns / 20 + TICK_ERROR_NS {
            return Err(Failure::Accounting { scheduled_ns: used.scheduled_ns, ticked_ns });
        }
        Ok(used)
    }

    /// The part of it that was spent in user space.
    pub(crate) fn user_ns(self) -> u64 {
        let ticks = self.user_ticks + self.system_ticks;
        (self.scheduled_ns * self.user_ticks).checked_div(ticks).unwrap_or(0)
    }
}

/// Anonymous memory (`Pss_Anon`: heap, stacks, what no file backs) of the process tree under `root`, in bytes.
pub(crate) fn anonymous_bytes(root: u32) -> Result<u64, Failure> {
    tree(root)?.into_iter().map(|pid| rollup_bytes(pid, "Pss_Anon:")).sum()
}

/// Resident memory (`Pss`, so that shared pages count once) of the process tree under `root`, in bytes.
pub(crate) fn resident_bytes(root: u32) -> Result<u64, Failure> {
    tree(root)?.into_iter().map(|pid| rollup_bytes(pid, "Pss:")).sum()
}

/// Milliseconds that the hypervisor has taken from this core since boot.
pub(crate) fn stolen_ms(core: usize) -> Result<u64, Failure> {
    let stat = fs::read_to_string("/proc/stat").doing("read of /proc/stat")?;
    let name = format!("cpu{core} ");
    let ticks = stat
        .lines()
        .find_map(|line| line.strip_prefix(&name)?.split(' ').nth(7)?.parse::<u64>().ok());
    Ok(ticks.unwrap_or(0) * TICK_NS / 1_000_000)
}

/// CPU of the kernel thread that takes over network work when a core has too much of it, in milliseconds since boot. It is charged to no
/// process, so it must stay small.
pub(crate) fn softirq_thread_ms(core: usize) -> u64 {
    let name = format!("ksoftirqd/{core}\n");
    let Ok(entries) = fs::read_dir("/proc") else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| entry.path())
        .find(|path| fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm == name))
        .and_then(|path| fs::read_to_string(path.join("schedstat")).ok())
        .and_then(|text| text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()))
        .map_or(0, |ns| ns / 1_000_000)
}

fn rollup_bytes(pid: u32, key: &str) -> Result<u64, Failure> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
        .doing("read of /proc/PID/smaps_rollup")?;
    let kilobytes = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kilobytes.unwrap_or(0) * 1024)
}

/// A process and all its descendants.
fn tree(root: u32) -> Result<Vec<u32>, Failure> {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc").doing("read of /proc")? {
        let path = entry.doing("read of /proc")?.path();
        if let Some(pid) = path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok())
            && let Some(parent) = parent(&path)
        {
            parents.insert(pid, parent);
        }
    }
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(&pid) = tree.get(next) {
        tree.extend(parents.iter().filter(|&(_, &parent)| parent == pid).map(|(&child, _)| child));
        next += 1;
    }
    Ok(tree)
}

fn parent(process: &Path) -> Option<u32> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    u32::try_from(stat_field(&stat, 4)).ok()
}

/// A numeric field of /proc/PID/stat by its number in proc(5). The second field is a name in parentheses that may hold spaces.
fn stat_field(stat: &str, number: usize) -> u64 {
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    after_name
        .split_ascii_whitespace()
        .nth(number - 3)
        .and_then(|field| field.parse().ok())
        .unwrap_or(0)
}
