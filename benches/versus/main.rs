//! `versus`: vibewarden side by side with other proxies on the same machine, by the CPU, memory and time that one operation costs.
//! `benches/versus/README.md` says what is measured and how to run it.
//!
//! The program starts itself again for each sample, inside a fresh network namespace (`report` → `sample`), and as the bare relay.

mod account;
mod certificate;
mod credentials;
mod failure;
mod load;
mod peers;
mod relay;
mod report;
mod rows;
mod sample;
mod sessions;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::failure::Failure;
use crate::load::loopback;
use crate::report::Comparison;
use crate::sample::Extent;

/// Compares vibewarden with other proxies; prints a Markdown report.
#[derive(Parser)]
#[command(name = "versus")]
struct Cli {
    #[command(subcommand)]
    command: Option<Part>,
    #[command(flatten)]
    comparison: Comparison,
    #[command(flatten)]
    extent: Extent,
    /// Given by `cargo bench`; no meaning here
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Part {
    /// Takes one sample in the current network namespace and prints its figures as JSON
    Sample {
        /// Name of the row
        row: String,
        /// Name of the peer
        peer: String,
        /// Empty directory for its files
        dir: PathBuf,
    },
    /// Relays bare TCP on loopback: the floor
    Relay {
        /// Port to listen on
        listen: u16,
        /// Port to connect to
        upstream: u16,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        None => report::compare(&cli.comparison, &cli.extent),
        Some(Part::Relay { listen, upstream }) => {
            relay::run(loopback(listen), loopback(upstream)).map(|()| true)
        }
        Some(Part::Sample { row, peer, dir }) => {
            sample(&row, &peer, &dir, &cli.extent).map(|()| true)
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("versus: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn sample(row: &str, peer: &str, dir: &std::path::Path, extent: &Extent) -> Result<(), Failure> {
    let row = rows::ROWS
        .iter()
        .find(|it| it.name == row)
        .ok_or(Failure::Unknown { name: row.to_owned() })?;
    let peer = peers::PEERS
        .iter()
        .find(|it| it.name == peer)
        .ok_or(Failure::Unknown { name: peer.to_owned() })?;
    let figures = sample::take(peer, row.work, extent, dir)?;
    println!("{}", serde_json::json!(figures));
    Ok(())
}
