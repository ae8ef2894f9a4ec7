//! A real `redis-server` on a free port, which a test kills, stops and starts again.

use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;

use rustix::process::Signal;

use super::process::Process;
use super::setup::Scratch;
use super::vacant::vacant_address;
use super::wait::{PATIENCE, eventually};

/// A running server without persistence: what was killed has forgotten everything. Dies with its test.
pub(crate) struct Redis {
    process: Process,
    port: u16,
    options: Vec<String>,
    directory: Scratch,
}

impl Redis {
    /// `None` where there is no `redis-server`, which only a run that asked for foreign programs may not have.
    #[track_caller]
    pub(crate) fn start(options: &[&str]) -> Option<Self> {
        if !is_installed("redis-server") {
            return None;
        }
        let options = options.iter().map(|&option| option.to_owned()).collect();
        let directory = Scratch::new();
        let port = vacant_address().port();
        let process = spawn(port, &options, &directory);
        let mut redis = Self { process, port, options, directory };
        redis.wait_ready();
        Some(redis)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The value for `rate_limit.redis.address`.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Kills it and waits until it is gone.
    #[track_caller]
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.process.wait_exit();
    }

    /// Starts it again where it was, with nothing in it.
    #[track_caller]
    pub(crate) fn start_again(&mut self) {
        self.process = spawn(self.port, &self.options, &self.directory);
        self.wait_ready();
    }

    /// The answers to inline commands on one connection, each the first line of it.
    pub(crate) fn say(&self, commands: &[&str]) -> io::Result<Vec<String>> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut lines = Vec::new();
        for command in commands {
            stream.write_all(format!("{command}\r\n").as_bytes())?;
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            lines.push(line.trim_end().to_owned());
        }
        Ok(lines)
    }

    #[track_caller]
    fn wait_ready(&mut self) {
        eventually("redis-server", || {
            assert!(self.process.has_exited().is_none(), "{}", self.process.out.text());
            self.say(&["PING"]).ok()
        });
    }
}

/// Whether a foreign program is there; a run that asked for them fails without.
#[track_caller]
pub(crate) fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|directory| directory.join(program).is_file());
    let is_required = std::env::var_os("VIBEWARDEN_TEST_FOREIGN").is_some();
    assert!(found || !is_required, "{program} is not installed");
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

fn spawn(port: u16, options: &Vec<String>, directory: &Scratch) -> Process {
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
    command.args(["--appendonly", "no", "--dir"]).arg(directory.path()).args(options);
    Process::spawn(&mut command)
}
