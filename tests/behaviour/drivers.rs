//! Section 16: which driver runs, that everybody is told the same, and that it starts where `io_uring` is forbidden.

use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::json::Json;
use crate::harness::setup::libc_errno;
use crate::harness::{Driver, Proxy, Setup, Upstream, wire};

/// The links in `/proc/PID/fd`.
fn descriptors(proxy: &Proxy) -> Vec<String> {
    let directory = format!("/proc/{}/fd", proxy.process.id());
    std::fs::read_dir(Path::new(&directory))
        .expect("fd directory")
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .map(|target| target.display().to_string())
        .collect()
}

/// Checks that log, event, health and metrics agree; returns driver, mode and reason.
#[track_caller]
fn told(setup: &Setup, upstream: &Upstream) -> (String, String, String) {
    let mut proxy = setup.start();
    let (_, body) = proxy.get("/_vibewarden/health");
    let health = Json::parse(body.trim_end()).expect("JSON");
    let text = |path: &str| health.text(path).expect("text").to_owned();
    let (name, mode, reason) = (text("driver.name"), text("driver.mode"), text("driver.reason"));
    let labels = [("driver", name.as_str()), ("mode", mode.as_str()), ("reason", reason.as_str())];
    let info = proxy.scrape().value("vibewarden_driver_info", &labels);
    assert_eq!(format!("{info}"), "1", "{labels:?}");
    let rings = descriptors(&proxy).iter().filter(|link| link.contains("io_uring")).count();
    assert_eq!(rings > 0, name == "io_uring", "{rings} rings with {name}");
    let (mut client, mut conn) = proxy.tunnel(upstream);
    client.ping(&mut conn, b"works");
    drop((client, conn));
    let stopped = proxy.stop();
    let started = stopped.only("proxy.started");
    assert_eq!(started.text("payload.driver"), name);
    assert_eq!(started.text("payload.driver_reason"), reason);
    assert!(!reason.is_empty());
    assert!(stopped.log.contains(&name), "{}", stopped.log);
    (name, mode, reason)
}

#[test]
fn the_best_driver_is_taken_and_told() {
    let upstream = Upstream::start();
    for choice in ["auto", "io_uring"] {
        let setup = Setup::new(Driver::IoUring, upstream.url()).set("server.driver", choice);
        let (name, mode, _) = told(&setup, &upstream);
        assert_eq!(name, "io_uring", "with {choice}");
        assert_eq!(mode, "defer_taskrun", "with {choice}");
    }
    let (name, mode, _) = told(&Setup::new(Driver::Epoll, upstream.url()), &upstream);
    assert_eq!((name.as_str(), mode.as_str()), ("epoll", ""));
}

#[test]
fn a_forbidden_ring_means_epoll_with_the_reason() {
    let upstream = Upstream::start();
    for (errno, name) in [(libc_errno::EPERM, "EPERM"), (libc_errno::ENOSYS, "ENOSYS")] {
        let setup = Setup::new(Driver::Forbidden, upstream.url()).forbid_io_uring(errno);
        let (driver, mode, reason) = told(&setup, &upstream);
        assert_eq!((driver.as_str(), mode.as_str()), ("epoll", ""));
        assert!(reason.contains("io_uring_setup"), "{reason}");
        assert!(reason.contains(name), "{reason}");
    }
    // Asked for by name, epoll needs no ring and no excuse.
    let setup = Setup::new(Driver::Epoll, upstream.url()).forbid_io_uring(libc_errno::EPERM);
    assert_eq!(told(&setup, &upstream).0, "epoll");
}

/// The threads of the cores.
fn core_threads(proxy: &Proxy) -> Vec<Pid> {
    let directory = format!("/proc/{}/task", proxy.process.id());
    let threads = std::fs::read_dir(Path::new(&directory)).expect("task directory");
    let paths = threads.filter_map(|entry| Some(entry.ok()?.path()));
    let cores = paths.filter(|path| {
        std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.starts_with("vw-core-"))
    });
    let id = |path: std::path::PathBuf| path.file_name()?.to_str()?.parse().ok();
    cores.filter_map(|path| Pid::from_raw(id(path)?)).collect()
}

/// The kernel gives a signal of the process to any of its threads; here to the cores, and while they work.
#[test]
fn a_signal_that_hits_a_core_costs_nothing() {
    let upstream = Upstream::start();
    for driver in [Driver::Epoll, Driver::IoUring] {
        let proxy = Setup::new(driver, upstream.url()).set("watch.enabled", "false").start();
        let cores = core_threads(&proxy);
        assert!(!cores.is_empty());
        for _ in 0..1_000 {
            let mut client = proxy.sent(&wire("GET /_vibewarden/health HTTP/1.1\r\n{H}\r\n"));
            for core in cores.iter().cycle().take(20) {
                kill_process(*core, Signal::HUP).expect("the core is there");
            }
            assert_eq!(client.read_head().status(), 200);
        }
    }
}

#[test]
fn one_worker_per_core_unless_told() {
    let cores = std::thread::available_parallelism().expect("cores").get();
    let upstream = Upstream::start();
    let setup = Setup::new(Driver::Epoll, upstream.url()).unset("server.workers");
    let mut proxy = setup.start();
    let started = proxy.stop().only("proxy.started").count("payload.workers");
    assert_eq!(started, cores as u64);
}

#[test]
fn workers_stay_on_their_cores_unless_told() {
    let cores = std::thread::available_parallelism().expect("cores").get();
    if cores == 1 {
        println!("skipped: one core, nothing to pin to");
        return;
    }
    let upstream = Upstream::start();
    for driver in ["io_uring", "epoll"] {
        for (pin, least) in [("true", cores), ("false", 0)] {
            let proxy = Setup::new(Driver::Epoll, upstream.url())
                .set("server.driver", driver)
                .set("server.workers", "0")
                .set("server.pin_cores", pin)
                .start();
            let pinned: Vec<String> = proxy
                .process
                .allowed_cores()
                .into_iter()
                .filter(|list| list.parse::<usize>().is_ok())
                .collect();
            let mut different = pinned.clone();
            different.sort();
            different.dedup();
            assert_eq!(different.len(), least, "{driver}, pin_cores {pin}: {pinned:?}");
        }
    }
}

/// Every worker accepts: with one connection per worker and more, each has had some.
#[test]
fn all_workers_accept() {
    let upstream = Upstream::start();
    for driver in [Driver::IoUring, Driver::Epoll] {
        let proxy = Setup::new(driver, upstream.url()).set("server.workers", "4").start();
        let inodes = |table: &str| {
            let port = format!(":{:04X} ", proxy.address().port());
            table.lines().filter(|line| line.contains(&port) && line.contains(" 0A ")).count()
        };
        let table = std::fs::read_to_string("/proc/net/tcp").expect("table");
        assert_eq!(inodes(&table), 4, "listeners with {driver:?}");
        for _ in 0..64 {
            drop(proxy.tunnel(&upstream));
        }
    }
}
