//! Against a real `redis-server` on a free port, which is killed, stopped and started again.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use rustix::process::{Pid, Signal, kill_process};

use super::*;
use crate::admission::limit::{Rate, Wait};
use crate::config::Secret;
use crate::event::{self, EventWriter};
use crate::metrics::EventLogMetrics;
use crate::refusal::Limit;
use crate::shared_store::Store;

#[path = "../../../tests/harness/vacant.rs"]
mod vacant;
use vacant::vacant_address;

/// Whatever has to happen happens within this time, or the test fails.
const DEADLINE: Duration = Duration::from_secs(30);

/// A server of this test. It dies with it.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    /// `None` where there is no `redis-server`, which only a run that asked for one may not have.
    fn start(options: &[&str]) -> Option<Self> {
        Self::start_on(vacant_address().port(), options)
    }

    fn start_on(port: u16, options: &[&str]) -> Option<Self> {
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        command.args(["--appendonly", "no", "--dir"]).arg(std::env::temp_dir()).args(options);
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let child = match spawned {
            Ok(child) => child,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let required = std::env::var_os("VIBEWARDEN_TEST_FOREIGN").is_some();
                assert!(!required, "redis-server is not installed");
                eprintln!("skipped: redis-server is not installed");
                return None;
            }
            Err(error) => panic!("redis-server: {error}"),
        };
        let mut server = Self { child, port };
        let until = clock::now() + DEADLINE;
        while server.say("PING").is_err() {
            assert!(clock::now() < until, "redis-server does not answer");
            assert!(server.child.try_wait().expect("its state").is_none(), "redis-server ended");
            std::thread::yield_now();
        }
        Some(server)
    }

    /// Sends inline commands on a connection of its own; the first line of the last answer.
    fn say(&self, commands: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        for command in commands.split(';') {
            stream.write_all(format!("{command}\r\n").as_bytes())?;
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(line.trim_end().to_owned())
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process");
        kill_process(pid, signal).expect("the signal is sent");
    }

    fn kill(mut self) -> u16 {
        self.child.kill().expect("it is killed");
        self.child.wait().expect("it is gone");
        self.port
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Killed by its test already, or not.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn settings(port: u16) -> RedisStore {
    RedisStore {
        location: RedisLocation::Address(format!("127.0.0.1:{port}")),
        password: Secret::default(),
        db: 0,
        pool_size: 0,
        key_prefix: "test".to_owned(),
        fallback: true,
        health_check_interval: Duration::from_millis(20),
    }
}

/// A running store, its events, and the end that asks.
struct Running {
    store: Store,
    is_down: Arc<AtomicBool>,
    writer: EventWriter,
    lines: mpsc::Receiver<Vec<u8>>,
}

struct Lines(mpsc::Sender<Vec<u8>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Running {
    /// Starts a store on the runtime of the caller.
    fn start(settings: RedisStore) -> Self {
        let (sender, lines) = mpsc::channel::<Vec<u8>>();
        let (events, writer) =
            event::start(Lines(sender), Arc::new(EventLogMetrics::default())).expect("a thread");
        let (store, questions) = Store::new(settings.fallback);
        let is_down = Arc::clone(&questions.is_down);
        tokio::spawn(run(settings, questions, events));
        Self { store, is_down, writer, lines }
    }

    async fn take(&self, identifier: &str, rate: Rate) -> StoreVerdict {
        self.store.take(Limit::Ip, identifier, rate, clock::now()).await
    }

    /// Asks until the answer is one of these, on a key of its own.
    async fn until(&self, wanted: impl Fn(StoreVerdict) -> bool) {
        let asking = async {
            while !wanted(self.take("until", Rate::new(1e6, 1_000)).await) {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, asking).await.expect("the store changes its mind");
    }

    async fn until_down(&self, down: bool) {
        let looking = async {
            while self.is_down.load(Ordering::Relaxed) != down {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, looking).await.expect("the store changes its state");
    }

    /// The events so far, as `event_type reason`.
    fn events(self) -> Vec<String> {
        self.writer.finish(DEADLINE);
        let written: Vec<u8> = self.lines.try_iter().flatten().collect();
        let text = String::from_utf8(written).expect("UTF-8");
        text.lines()
            .map(|line| {
                let event: serde_json::Value = serde_json::from_str(line).expect("JSON");
                let word = |value: &serde_json::Value| value.as_str().unwrap_or("").to_owned();
                format!("{} {}", word(&event["event_type"]), word(&event["payload"]["reason"]))
            })
            .collect()
    }
}

fn on_runtime(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(test);
}

/// No token comes back while a test runs.
fn slow(burst: u32) -> Rate {
    Rate::new(0.000_1, burst)
}

#[test]
fn one_budget_for_two_proxies_exact_to_the_token() {
    let Some(server) = Server::start(&[]) else { return };
    on_runtime(async {
        let pooled = RedisStore { pool_size: 3, ..settings(server.port) };
        let (one, other) = (Running::start(settings(server.port)), Running::start(pooled));
        // In rounds that are far below what 100 ms can carry; all questions of a round are pipelined.
        let mut passed = 0;
        for _ in 0..10 {
            let asked: Vec<_> = (0..20)
                .flat_map(|_| [&one, &other])
                .map(|running| running.store.take(Limit::Ip, "192.0.2.7", slow(150), clock::now()))
                .collect();
            for pending in asked {
                match pending.await {
                    StoreVerdict::Passed => passed += 1,
                    StoreVerdict::Refused(wait) => {
                        assert!((9_000..=10_000).contains(&wait.seconds()), "{wait:?}");
                    }
                    StoreVerdict::Failed => panic!("the store answers"),
                }
            }
        }
        assert_eq!(passed, 150);
        // Another key, and the same name of the other kind, have buckets of their own.
        assert_eq!(one.take("192.0.2.8", slow(1)).await, StoreVerdict::Passed);
        let user = other.store.take(Limit::User, "192.0.2.7", slow(1), clock::now());
        assert_eq!(user.await, StoreVerdict::Passed);
        assert_eq!(server.say("HLEN test:ratelimit:1:192.0.2.7").expect("an answer"), ":2");
        let fields = "HMGET test:ratelimit:1:192.0.2.7 tokens last_us";
        assert_eq!(server.say(fields).expect("an answer"), "*2");
        assert_eq!(server.say("EXISTS test:ratelimit:2:192.0.2.7").expect("an answer"), ":1");
        let ttl = server.say("TTL test:ratelimit:1:192.0.2.7").expect("an answer");
        let ttl: u64 = ttl.trim_start_matches(':').parse().expect("seconds");
        assert!((2_999_900..=3_000_000).contains(&ttl), "{ttl}");
        assert_eq!((one.events(), other.events()), (Vec::new(), Vec::new()));
    });
}

#[test]
fn a_bucket_refills_by_the_time_and_never_above_its_burst() {
    let Some(server) = Server::start(&[]) else { return };
    on_runtime(async {
        let running = Running::start(settings(server.port));
        let rate = Rate::new(0.5, 3);
        assert_eq!(running.take("a", rate).await, StoreVerdict::Passed);
        let last = "HGET test:ratelimit:1:a last_us";
        server.say(last).expect("an answer");
        // The bucket as it would be had it been emptied three seconds ago: one token and a half.
        let us = clock::wall().as_microsecond() - 3_000_000;
        let set = format!("HSET test:ratelimit:1:a tokens 0 last_us {us}");
        assert_eq!(server.say(&set).expect("an answer"), ":0");
        assert_eq!(running.take("a", rate).await, StoreVerdict::Passed);
        let refused = running.take("a", rate).await;
        assert_eq!(refused, StoreVerdict::Refused(Wait::of_seconds(1)));
        // A year ago: full, and no more than full.
        let us = clock::wall().as_microsecond() - 31_536_000_000_000;
        server.say(&format!("HSET test:ratelimit:1:a tokens 0 last_us {us}")).expect("an answer");
        let mut passed = 0;
        for _ in 0..10 {
            passed += u32::from(running.take("a", rate).await == StoreVerdict::Passed);
        }
        assert_eq!(passed, 3);
        // A proxy whose clock is an hour ahead was here: nothing comes back, nothing is lost.
        let us = clock::wall().as_microsecond() + 3_600_000_000;
        server.say(&format!("HSET test:ratelimit:1:a tokens 1 last_us {us}")).expect("an answer");
        assert_eq!(running.take("a", rate).await, StoreVerdict::Passed);
        let refused = running.take("a", rate).await;
        assert_eq!(refused, StoreVerdict::Refused(Wait::of_seconds(2)));
        let never = Rate::new(0.0, 1);
        assert_eq!(running.take("b", never).await, StoreVerdict::Passed);
        assert_eq!(running.take("b", never).await, StoreVerdict::Refused(Wait::NEVER));
    });
}

#[test]
fn a_server_that_forgot_the_script_is_told_again() {
    let Some(server) = Server::start(&[]) else { return };
    on_runtime(async {
        let running = Running::start(settings(server.port));
        assert_eq!(running.take("a", slow(3)).await, StoreVerdict::Passed);
        for _ in 0..2 {
            assert_eq!(server.say("SCRIPT FLUSH").expect("an answer"), "+OK");
            assert_eq!(running.take("a", slow(3)).await, StoreVerdict::Passed);
        }
        assert!(matches!(running.take("a", slow(3)).await, StoreVerdict::Refused(_)));
        assert!(running.events().is_empty());
    });
}

#[test]
fn a_killed_server_is_one_fallback_and_its_return_one_recovery() {
    let Some(server) = Server::start(&[]) else { return };
    on_runtime(async {
        let running = Running::start(settings(server.port));
        assert_eq!(running.take("a", slow(2)).await, StoreVerdict::Passed);
        let port = server.kill();
        running.until(|verdict| verdict == StoreVerdict::Failed).await;
        running.until_down(true).await;
        for _ in 0..50 {
            assert_eq!(running.take("a", slow(2)).await, StoreVerdict::Failed);
        }
        // Meanwhile the store goes on looking, and finds nothing.
        let started = tokio::task::spawn_blocking(move || Server::start_on(port, &[])).await;
        let server = started.expect("it starts").expect("it was there before");
        running.until(|verdict| verdict == StoreVerdict::Passed).await;
        assert_eq!(running.take("a", slow(1)).await, StoreVerdict::Passed);
        assert_eq!(server.say("DBSIZE").expect("an answer"), ":2");
        let events = running.events();
        assert_eq!(events.len(), 2, "{events:?}");
        assert!(events[0].starts_with("rate_limit.store_fallback "), "{events:?}");
        assert_eq!(events[1], "rate_limit.store_recovered ");
    });
}

#[test]
fn a_server_that_hangs_is_given_up_and_found_again() {
    let Some(server) = Server::start(&[]) else { return };
    on_runtime(async {
        let running = Running::start(settings(server.port));
        assert_eq!(running.take("a", slow(1)).await, StoreVerdict::Passed);
        server.signal(Signal::STOP);
        // Nobody waits for the server: all of these are answered, although it answers none.
        let asked: Vec<_> =
            (0..100).map(|_| running.store.take(Limit::Ip, "a", slow(1), clock::now())).collect();
        for pending in asked {
            let verdict = timeout(DEADLINE, pending).await.expect("an answer");
            assert_eq!(verdict, StoreVerdict::Failed);
        }
        running.until_down(true).await;
        server.signal(Signal::CONT);
        running.until(|verdict| verdict == StoreVerdict::Passed).await;
        assert!(matches!(running.take("a", slow(1)).await, StoreVerdict::Refused(_)));
        assert_eq!(
            running.events(),
            [
                "rate_limit.store_fallback Redis did not answer in time",
                "rate_limit.store_recovered "
            ]
        );
    });
}

#[test]
fn without_a_fallback_every_request_asks_and_finds_recovery_itself() {
    let Some(server) = Server::start(&[]) else { return };
    on_runtime(async {
        let hourly = Duration::from_hours(1);
        let strict =
            RedisStore { fallback: false, health_check_interval: hourly, ..settings(server.port) };
        let running = Running::start(strict);
        assert!(!running.store.falls_back());
        assert_eq!(running.take("a", slow(1)).await, StoreVerdict::Passed);
        let port = server.kill();
        running.until(|verdict| verdict == StoreVerdict::Failed).await;
        for _ in 0..50 {
            assert_eq!(running.take("a", slow(1)).await, StoreVerdict::Failed);
        }
        let _server = Server::start_on(port, &[]).expect("it was there before");
        running.until(|verdict| verdict == StoreVerdict::Passed).await;
        assert_eq!(running.events().len(), 2);
    });
}

#[test]
fn a_server_that_is_not_there_at_the_start_is_found_later() {
    let Some(server) = Server::start(&[]) else { return };
    let port = server.kill();
    on_runtime(async {
        let running = Running::start(settings(port));
        assert_eq!(running.take("a", slow(1)).await, StoreVerdict::Failed);
        running.until_down(true).await;
        let _server = Server::start_on(port, &[]).expect("it was there before");
        running.until(|verdict| verdict == StoreVerdict::Passed).await;
        assert_eq!(
            running.events(),
            ["rate_limit.store_fallback cannot connect to Redis", "rate_limit.store_recovered "]
        );
    });
}

#[test]
fn a_server_that_is_slow_at_the_start_is_waited_for_without_anybody_waiting() {
    let Some(server) = Server::start(&[]) else { return };
    server.signal(Signal::STOP);
    on_runtime(async {
        let hourly = Duration::from_hours(1);
        let running =
            Running::start(RedisStore { health_check_interval: hourly, ..settings(server.port) });
        let first = timeout(DEADLINE, running.take("a", slow(1))).await.expect("an answer");
        assert_eq!(first, StoreVerdict::Failed);
        running.until_down(true).await;
        // The same look still goes on; the next one would be far away.
        server.signal(Signal::CONT);
        running.until(|verdict| verdict == StoreVerdict::Passed).await;
        assert_eq!(
            running.events(),
            [
                "rate_limit.store_fallback Redis did not answer in time",
                "rate_limit.store_recovered "
            ]
        );
    });
}

#[test]
fn separate_settings_win_over_those_in_the_url() {
    let Some(server) = Server::start(&["--requirepass", "right"]) else { return };
    on_runtime(async {
        let url = |userinfo: &str, path: &str| {
            let url = format!("redis://{userinfo}127.0.0.1:{}{path}", server.port);
            RedisStore { location: RedisLocation::Url(Secret::new(url)), ..settings(server.port) }
        };
        let of_url = Running::start(url(":right@", "/2"));
        assert_eq!(of_url.take("a", slow(1)).await, StoreVerdict::Passed);
        let exists = |db: u8| format!("AUTH right;SELECT {db};EXISTS test:ratelimit:1:a");
        assert_eq!(server.say(&exists(2)).expect("an answer"), ":1");
        let password = Secret::new("right");
        let separate = Running::start(RedisStore { password, db: 3, ..url(":wrong@", "/2") });
        assert_eq!(separate.take("a", slow(1)).await, StoreVerdict::Passed);
        assert_eq!(server.say(&exists(3)).expect("an answer"), ":1");
        let wrong = Running::start(url(":wrong@", ""));
        wrong.until_down(true).await;
        assert_eq!(wrong.events(), ["rate_limit.store_fallback Redis refused user or password"]);
    });
}

#[test]
fn a_cluster_is_refused() {
    let config = format!("vibewarden-test-nodes-{}.conf", std::process::id());
    let options = ["--cluster-enabled", "yes", "--cluster-config-file", &config];
    let Some(server) = Server::start(&options) else { return };
    on_runtime(async {
        let running = Running::start(settings(server.port));
        running.until_down(true).await;
        assert_eq!(running.take("a", slow(1)).await, StoreVerdict::Failed);
        let events = running.events();
        assert_eq!(events.len(), 1, "{events:?}");
        assert!(events[0].contains("cluster"), "{events:?}");
    });
    drop(server);
    // Left behind by the server.
    let _ = std::fs::remove_file(std::env::temp_dir().join(config));
}
