//! Which driver runs the cores: `io_uring` with `SINGLE_ISSUER` and `DEFER_TASKRUN`, plain `io_uring`, or epoll
//! (contract section 16). A ring with these flags belongs to the thread that built it, so every core builds its own.

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use monoio::net::TcpStream;
use monoio::time::TimeDriver;
use monoio::{IoUringDriver, LegacyDriver, Runtime, RuntimeBuilder};

use crate::config::DriverChoice;

/// One way to run a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `io_uring` with `SINGLE_ISSUER` and `DEFER_TASKRUN` (Linux 6.1).
    DeferTaskrun,
    /// `io_uring` with default flags.
    Plain,
    /// epoll.
    Epoll,
}

impl Mode {
    /// What to try for a configured choice, best first.
    pub fn ladder(choice: DriverChoice) -> &'static [Self] {
        match choice {
            DriverChoice::Auto => &[Self::DeferTaskrun, Self::Plain, Self::Epoll],
            DriverChoice::IoUring => &[Self::DeferTaskrun, Self::Plain],
            DriverChoice::Epoll => &[Self::Epoll],
        }
    }

    /// In words, for the reason in log, event and health.
    pub fn described(self) -> &'static str {
        match self {
            Self::DeferTaskrun => "io_uring with SINGLE_ISSUER and DEFER_TASKRUN",
            Self::Plain => "plain io_uring",
            Self::Epoll => "epoll",
        }
    }

    /// The system call that decides.
    pub fn call(self) -> &'static str {
        match self {
            Self::DeferTaskrun | Self::Plain => "io_uring_setup",
            Self::Epoll => "epoll_create",
        }
    }

    /// `driver` in events and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::DeferTaskrun | Self::Plain => "io_uring",
            Self::Epoll => "epoll",
        }
    }

    /// `mode` in health and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::DeferTaskrun => "defer_taskrun",
            Self::Plain => "plain",
            Self::Epoll => "",
        }
    }
}

/// A runtime that was built on, and belongs to, the current thread.
#[expect(missing_debug_implementations, reason = "the runtimes of monoio have none")]
pub enum CoreRuntime {
    /// On a ring.
    Uring(Box<Runtime<TimeDriver<IoUringDriver>>>),
    /// On epoll.
    Epoll(Box<Runtime<TimeDriver<LegacyDriver>>>),
}

/// Submission entries of a ring. A burst of more operations is submitted in several calls.
const RING_ENTRIES: u32 = 1024;

/// A working driver answers the self-check at once; this only bounds a kernel that accepts operations and never completes them.
const SELF_CHECK_LIMIT: Duration = Duration::from_secs(2);

impl CoreRuntime {
    /// Builds the runtime on this thread and sends one byte through it, because a kernel may allow the ring and refuse its operations.
    pub fn build(mode: Mode) -> io::Result<Self> {
        let mut runtime = match mode {
            Mode::DeferTaskrun => {
                let mut builder = io_uring::IoUring::builder();
                builder.setup_single_issuer().setup_defer_taskrun();
                Self::Uring(Box::new(ring(builder)?))
            }
            Mode::Plain => Self::Uring(Box::new(ring(io_uring::IoUring::builder())?)),
            Mode::Epoll => {
                Self::Epoll(Box::new(RuntimeBuilder::<LegacyDriver>::new().enable_timer().build()?))
            }
        };
        runtime.block_on(self_check())?;
        Ok(runtime)
    }

    /// Runs the future and everything it spawns on this thread.
    pub fn block_on<F: Future>(&mut self, future: F) -> F::Output {
        match self {
            Self::Uring(runtime) => runtime.block_on(future),
            Self::Epoll(runtime) => runtime.block_on(future),
        }
    }
}

fn ring(builder: io_uring::Builder) -> io::Result<Runtime<TimeDriver<IoUringDriver>>> {
    RuntimeBuilder::<IoUringDriver>::new()
        .uring_builder(builder)
        .with_entries(RING_ENTRIES)
        .enable_timer()
        .build()
}

async fn self_check() -> io::Result<()> {
    let (near, far) = UnixStream::pair()?;
    near.set_nonblocking(true)?;
    let near = TcpStream::from_std(std::net::TcpStream::from(OwnedFd::from(near)))?;
    io::Write::write_all(&mut &far, b"?")?;
    monoio::time::timeout(SELF_CHECK_LIMIT, near.readable(false))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// The name of an error number as an operator would search for it.
pub fn error_name(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM) => "EPERM".into(),
        Some(libc::ENOSYS) => "ENOSYS".into(),
        Some(libc::ENOMEM) => "ENOMEM".into(),
        Some(libc::EINVAL) => "EINVAL".into(),
        Some(libc::EACCES) => "EACCES".into(),
        Some(libc::EMFILE) => "EMFILE".into(),
        _ => error.to_string(),
    }
}
