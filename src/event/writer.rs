//! The bounded queue and the one thread that writes standard output.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Event;
use crate::metrics::EventLogMetrics;

/// Lines that wait for the writer; at about 600 bytes each this is the memory that a stuck reader of the log can cost.
const QUEUE_LINES: usize = 16_384;

/// Bytes that wait for the writer: paths in lines are as long as clients make them.
const QUEUE_BYTES: u64 = 32 * 1024 * 1024;

/// Lines that are collected into one write.
const BATCH_BYTES: usize = 256 * 1024;

/// After a first line the writer waits this long for more: under load the cores then push without waking anybody.
const GATHER: Duration = Duration::from_millis(2);

/// Hands lines to the writer. Never blocks; a line that does not fit is dropped whole and counted.
#[derive(Debug, Clone)]
pub struct EventSender {
    queue: SyncSender<Vec<u8>>,
    metrics: Arc<EventLogMetrics>,
}

impl EventSender {
    /// Writes one event. `at` is the wall-clock time of the event.
    pub fn send(&self, event: &Event<'_>, at: jiff::Timestamp) {
        let line = event.to_line(at);
        let bytes = line.len() as u64;
        let waiting = self.metrics.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let full = waiting.saturating_add(bytes) > QUEUE_BYTES;
        if full
            || matches!(
                self.queue.try_send(line),
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_))
            )
        {
            self.metrics.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.metrics.queue_full.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A sender and the lines that it was given; a bounded number of them waits to be received.
pub fn queue(metrics: Arc<EventLogMetrics>) -> (EventSender, Receiver<Vec<u8>>) {
    let (queue, lines) = sync_channel(QUEUE_LINES);
    (EventSender { queue, metrics }, lines)
}

/// The writing thread.
#[derive(Debug)]
pub struct EventWriter {
    thread: JoinHandle<()>,
    ending: Arc<AtomicBool>,
    wake: SyncSender<Vec<u8>>,
    done: Receiver<()>,
}

impl EventWriter {
    /// Waits until everything that was sent before is written, at most `limit`; later lines are lost.
    pub fn finish(self, limit: Duration) {
        self.ending.store(true, Ordering::Release);
        // An empty line wakes a writer that waits; a full queue has woken it already.
        let _ = self.wake.try_send(Vec::new());
        if self.done.recv_timeout(limit) != Err(RecvTimeoutError::Timeout) {
            // The thread has nothing left to do but to return.
            let _ = self.thread.join();
        }
    }
}

/// Starts the writer on `out`.
pub fn start(
    out: impl Write + Send + 'static,
    metrics: Arc<EventLogMetrics>,
) -> io::Result<(EventSender, EventWriter)> {
    let (sender, lines) = queue(Arc::clone(&metrics));
    let (finished, done) = sync_channel(1);
    let ending = Arc::new(AtomicBool::new(false));
    let asked_to_end = Arc::clone(&ending);
    let wake = sender.queue.clone();
    let thread = std::thread::Builder::new().name("vw-events".into()).spawn(move || {
        Sink { out, pending: Vec::with_capacity(BATCH_BYTES), line_cut: 0, metrics }
            .run(&lines, &asked_to_end);
        // The receiver is gone when nobody waits for the end.
        let _ = finished.send(());
    })?;
    Ok((sender, EventWriter { thread, ending, wake, done }))
}

struct Sink<W> {
    out: W,
    pending: Vec<u8>,
    /// Bytes at the start of `pending` that end a line whose beginning was already written.
    line_cut: usize,
    metrics: Arc<EventLogMetrics>,
}

impl<W: Write> Sink<W> {
    fn run(&mut self, lines: &Receiver<Vec<u8>>, ending: &AtomicBool) {
        while let Ok(first) = lines.recv() {
            self.take(&first);
            // Asked before the queue is emptied: what was sent before the end was announced is in it then.
            let last = ending.load(Ordering::Acquire);
            if !last {
                std::thread::sleep(GATHER);
            }
            while self.take_batch(lines) {
                self.write_out();
            }
            self.write_out();
            if last {
                return;
            }
            if ending.load(Ordering::Acquire) {
                // Announced meanwhile, and the line that wakes for it may be taken already.
                while self.take_batch(lines) {
                    self.write_out();
                }
                self.write_out();
                return;
            }
        }
    }

    fn take(&mut self, line: &[u8]) {
        self.metrics.waiting_bytes.fetch_sub(line.len() as u64, Ordering::Relaxed);
        self.pending.extend_from_slice(line);
    }

    /// Takes lines until there are none, or enough for one write: then true.
    fn take_batch(&mut self, lines: &Receiver<Vec<u8>>) -> bool {
        while self.pending.len() < BATCH_BYTES {
            match lines.try_recv() {
                Ok(line) => self.take(&line),
                Err(_) => return false,
            }
        }
        true
    }

    /// Writes what is pending. On an error the lines are dropped whole and counted, but the rest of a line that was
    /// half written is kept for the next attempt, so that no line is ever cut.
    fn write_out(&mut self) {
        let mut written = 0;
        while let Some(rest) = self.pending.get(written..).filter(|rest| !rest.is_empty()) {
            match self.out.write(rest) {
                Ok(n) if n > 0 => written += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => return self.drop_after(written),
            }
        }
        self.pending.clear();
        self.line_cut = 0;
    }

    fn drop_after(&mut self, written: usize) {
        let rest = self.pending.get(written..).unwrap_or_default();
        let at_line_start = if written == 0 {
            self.line_cut == 0
        } else {
            self.pending.get(written - 1) == Some(&b'\n')
        };
        let keep = if at_line_start {
            0
        } else {
            rest.iter().position(|&byte| byte == b'\n').map_or(rest.len(), |end| end + 1)
        };
        let lost = rest.get(keep..).unwrap_or_default();
        let dropped = memchr::memchr_iter(b'\n', lost).count();
        self.metrics
            .write_error
            .fetch_add(u64::try_from(dropped).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.pending.truncate(written + keep);
        self.pending.drain(..written);
        self.line_cut = keep;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Mutex, PoisonError};

    /// Takes `room` bytes, then fails until it is given more room.
    #[derive(Clone, Default)]
    struct Disk(Arc<Mutex<(Vec<u8>, usize)>>);

    impl Disk {
        fn with<R>(&self, f: impl FnOnce(&mut (Vec<u8>, usize)) -> R) -> R {
            f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
        }
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.with(|(stored, room)| {
                let take = bytes.len().min(*room);
                if take == 0 {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                stored.extend_from_slice(bytes.get(..take).unwrap_or_default());
                *room -= take;
                Ok(take)
            })
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_drops_whole_lines_and_never_cuts_one() {
        for room in 0..40 {
            let disk = Disk::default();
            disk.with(|state| state.1 = room);
            let metrics = Arc::new(EventLogMetrics::default());
            let mut sink = Sink {
                out: disk.clone(),
                pending: Vec::new(),
                line_cut: 0,
                metrics: Arc::clone(&metrics),
            };
            let batch: Vec<String> = (0..4).map(|n| format!("line-{n}\n")).collect();
            sink.pending.extend_from_slice(batch.concat().as_bytes());
            sink.write_out();
            sink.pending.extend_from_slice(b"later-1\n");
            disk.with(|state| state.1 += 3);
            sink.write_out();
            disk.with(|state| state.1 = 1_000);
            sink.pending.extend_from_slice(b"later-2\n");
            sink.write_out();
            let stored = disk.with(|state| String::from_utf8_lossy(&state.0).into_owned());
            let whole = stored.lines().all(|line| {
                line == "later-1" || line == "later-2" || batch.contains(&format!("{line}\n"))
            });
            assert!(whole && stored.ends_with("later-2\n"), "room {room}: {stored:?}");
            let lost = metrics.write_error.load(Ordering::Relaxed);
            assert_eq!(lost + stored.lines().count() as u64, 6, "room {room}: {stored:?}");
        }
    }

    struct Stuck(Receiver<()>);
    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Blocks until the test lets go.
            let _ = self.0.recv();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stuck_reader_costs_lines_not_time() {
        let (blocked, wait) = sync_channel::<()>(0);
        let metrics = Arc::new(EventLogMetrics::default());
        let Ok((sender, writer)) = start(Stuck(wait), Arc::clone(&metrics)) else {
            panic!("no thread")
        };
        let event = Event::ProxyStopped { reason: "test", tunnels_closed: 0, uptime_seconds: 0 };
        for _ in 0..QUEUE_LINES + 3_000 {
            sender.send(&event, jiff::Timestamp::UNIX_EPOCH);
        }
        assert!(metrics.queue_full.load(Ordering::Relaxed) > 0);
        drop(blocked);
        writer.finish(Duration::from_secs(20));
    }

    #[test]
    fn long_lines_are_bounded_in_bytes_and_the_count_comes_back() {
        let (blocked, wait) = sync_channel::<()>(0);
        let metrics = Arc::new(EventLogMetrics::default());
        let Ok((sender, writer)) = start(Stuck(wait), Arc::clone(&metrics)) else {
            panic!("no thread")
        };
        let reason = "x".repeat(64 * 1024);
        let event = Event::ProxyStopped { reason: &reason, tunnels_closed: 0, uptime_seconds: 0 };
        for _ in 0..2_000 {
            sender.send(&event, jiff::Timestamp::UNIX_EPOCH);
            assert!(metrics.waiting_bytes.load(Ordering::Relaxed) <= QUEUE_BYTES);
        }
        assert!(metrics.queue_full.load(Ordering::Relaxed) > 0);
        drop(blocked);
        writer.finish(Duration::from_secs(20));
        assert_eq!(metrics.waiting_bytes.load(Ordering::Relaxed), 0);
    }
}
