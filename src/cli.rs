//! The commands: serve, check, hash-key, demo. What they need from the outside (arguments, environment, standard streams) is read
//! here and handed on. Called by `main`.

mod hash_key;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};

use crate::config::{self, Config, Loaded, LogFormat, LogLevel, Source};
use crate::control::Origin;
use crate::demo::{self, EventLines};
use crate::server::{Server, connections_max, raise_descriptor_limit};

/// A reverse proxy that checks a WebSocket upgrade and then moves raw bytes.
#[derive(Debug, Parser)]
#[command(name = "vibewarden", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Configuration file; else ./vibewarden.yaml, else /etc/vibewarden/vibewarden.yaml.
    #[arg(short, long, global = true, value_name = "PATH")]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy (also without a command).
    Serve,
    /// Load and validate the configuration as serve would, and print the effective one.
    Check,
    /// Read one API key from standard input and print the hash that the configuration takes.
    HashKey {
        /// Make a key, and print it with its hash.
        #[arg(long)]
        generate: bool,
    },
    /// Show the proxy at work with an echo server behind it, on 127.0.0.1:8080.
    Demo {
        /// Exit after the self-check: 0 when every step went as described.
        #[arg(long)]
        once: bool,
    },
}

/// Runs the command of this process. A wrong command line exits with 2, `--help` and `--version` with 0.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let source = Source { path: arguments.config, env: std::env::vars().collect() };
    match arguments.command.unwrap_or(Command::Serve) {
        Command::Serve => serve(source),
        Command::Check => check(&source),
        Command::HashKey { generate } => hash_key(generate),
        Command::Demo { once } => demo(once),
    }
}

fn serve(source: Source) -> ExitCode {
    let Loaded { config, warnings, text } = match config::load(&source) {
        Ok(loaded) => loaded,
        Err(mistakes) => return failed(&mistakes),
    };
    let _log = start_log(config.log.level, config.log.format);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    match Server::start(config, Some(Origin { source, text }), io::stdout()) {
        Ok(server) => ExitCode::from(server.run()),
        Err(error) => failed(&format_args!("vibewarden: {error}")),
    }
}

fn check(source: &Source) -> ExitCode {
    match config::load(source) {
        Ok(Loaded { config, warnings, .. }) => {
            for warning in warnings {
                say(&mut io::stderr(), &format_args!("warning: {warning}"));
            }
            let cap = connections_max(config.server.max_connections, raise_descriptor_limit());
            say(&mut io::stdout(), &config.to_yaml(cap).trim_end());
            ExitCode::SUCCESS
        }
        Err(mistakes) => failed(&mistakes),
    }
}

fn hash_key(generate: bool) -> ExitCode {
    let mut out = io::stdout().lock();
    let done = if generate {
        hash_key::generate(&mut out)
    } else {
        hash_key::of_input(io::stdin().lock(), &mut out, &mut io::stderr())
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&format_args!("vibewarden: {error}")),
    }
}

fn demo(once: bool) -> ExitCode {
    match try_demo(once) {
        Ok(code) => ExitCode::from(code),
        Err(fault) => {
            failed(&format_args!("vibewarden: the demo did not go as described: {fault}"))
        }
    }
}

fn try_demo(once: bool) -> Result<u8, Box<dyn std::error::Error>> {
    let echo = demo::start_echo()?;
    let (key, hash) = hash_key::new_key()?;
    let config = demo_config(echo.addr.port(), &hash)?;
    let _log = start_log(LogLevel::Warn, LogFormat::Text);
    let lines = EventLines::new();
    let server = Server::start(config, None, lines.tee(io::stdout()))?;
    let (proxy, stop) = (server.listen(), server.stopper());
    let serving = std::thread::Builder::new().name("vw-main".into()).spawn(move || server.run())?;
    let checked = demo::self_check(&echo, proxy, &key, &lines, &mut io::stdout());
    lines.pass(&mut io::stdout())?;
    if once || checked.is_err() {
        stop();
    } else {
        let invitation =
            format_args!("\nOpen http://{proxy}/#{key} in a browser. Ctrl-C ends the demo.");
        say(&mut io::stdout(), &invitation);
    }
    let code = serving.join().unwrap_or(1);
    checked?;
    Ok(code)
}

/// No file and no variable is read for the demo.
fn demo_config(upstream_port: u16, hash: &str) -> Result<Config, config::Mistakes> {
    let text = format!(
        "upstream: {{host: 127.0.0.1, port: {upstream_port}}}\n\
         server: {{host: 127.0.0.1, port: 8080, drain_timeout: 0}}\n\
         tls: {{enabled: false}}\n\
         log: {{format: text, level: warn}}\n\
         rate_limit: {{per_ip: {{requests_per_second: 2, burst: 8}}}}\n\
         auth:\n  mode: api-key\n  public_paths: [/, /favicon.ico]\n  api_key: {{query: key, keys: [{{name: demo, hash: {hash}}}]}}\n"
    );
    config::load_text(&text, None, &std::collections::BTreeMap::new()).map(|loaded| loaded.config)
}

fn failed(why: &dyn std::fmt::Display) -> ExitCode {
    say(&mut io::stderr(), why);
    ExitCode::FAILURE
}

fn say(out: &mut dyn Write, what: &dyn std::fmt::Display) {
    // A closed stream is the reader's decision.
    let _ = writeln!(out, "{what}");
}

/// Operator log lines that wait for a slow reader.
const LOG_LINES: usize = 4_096;

/// The operator log on standard error. It never blocks: lines that a slow reader does not take are dropped.
fn start_log(level: LogLevel, format: LogFormat) -> WorkerGuard {
    let (writer, guard) =
        NonBlockingBuilder::default().buffered_lines_limit(LOG_LINES).finish(io::stderr());
    let level = match level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    };
    let log =
        tracing_subscriber::fmt().with_max_level(level).with_target(false).with_writer(writer);
    // Fails only when a log was started before, which then stays.
    let _ = match format {
        LogFormat::Json => log.json().flatten_event(true).try_init(),
        LogFormat::Text => log.with_ansi(false).try_init(),
    };
    guard
}
