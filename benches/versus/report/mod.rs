//! Runs the rounds and writes the report: every peer once per round, in turn, so that a drift of the machine meets all of them alike.
//! No measuring lives here; each sample is a process of its own in a fresh network namespace.
//! Called by `main`.

mod machine;
mod table;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::account;
use crate::failure::{Doing as _, Failure};
use crate::peers::{PEERS, Peer};
use crate::rows::{ROWS, Row};
use crate::sample::{Extent, Figures};

/// Makes the namespace fit for measuring, then becomes the sample. $1 is the congestion control.
const SET_UP: &str = "ip link set lo up \
    && printf %s \"$1\" > /proc/sys/net/ipv4/tcp_congestion_control \
    && printf '1024 65535' > /proc/sys/net/ipv4/ip_local_port_range \
    && shift && exec \"$@\"";

/// What is compared.
#[derive(Debug, clap::Args)]
pub(crate) struct Comparison {
    /// Rows to run, by the beginning of their names: handshake,storm,echo,bulk,bulk-down,http,idle,latency,tls
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Peers to run; all that are installed when not given
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Samples of each row and peer
    #[arg(long, default_value_t = 7)]
    rounds: u32,
    /// A short look: two rounds of little work. The figures are rough
    #[arg(long)]
    quick: bool,
    /// TCP congestion control inside the namespaces; bbr paces even on loopback
    #[arg(long, default_value = "reno")]
    congestion: String,
}

/// All samples of one row and peer, in the order of the rounds.
type Samples = Vec<Result<Figures, String>>;

/// What was measured.
pub(crate) struct Results {
    peers: Vec<&'static Peer>,
    rows: Vec<&'static Row>,
    samples: BTreeMap<(&'static str, &'static str), Samples>,
}

/// Runs the comparison and prints the report; false when a sample failed.
pub(crate) fn compare(comparison: &Comparison, extent: &Extent) -> Result<bool, Failure> {
    let mut extent = extent.clone();
    let mut rounds = comparison.rounds;
    if comparison.quick {
        rounds = rounds.min(2);
        extent.seconds = extent.seconds.min(0.5);
        extent.handshakes = extent.handshakes.min(4_000);
        extent.tunnels = extent.tunnels.min(1_000);
    }
    let mut results = Results {
        peers: chosen_peers(comparison, &extent)?,
        rows: chosen_rows(comparison)?,
        samples: BTreeMap::new(),
    };
    let out = output_dir()?;
    let before = machine::Load::now(extent.proxy_core);
    for row in &results.rows {
        for round in 1..=rounds {
            for peer in &results.peers {
                if !peer.can_do(row.work) {
                    continue;
                }
                let sample = run(row, peer, &extent, &comparison.congestion, &out);
                progress(row, peer, round, &sample);
                results.samples.entry((row.name, peer.name)).or_default().push(sample);
            }
        }
    }
    let about = machine::describe(&results.peers, &extent, &comparison.congestion, rounds, &before);
    let report = format!("{about}\n{}", table::markdown(&results));
    println!("{report}");
    fs::write(out.join("latest.md"), &report).doing("write of the report")?;
    fs::write(out.join("latest.json"), json(&about, &results)).doing("write of the report")?;
    eprintln!("versus: every sample is in {}", out.join("latest.json").display());
    Ok(results.samples.values().flatten().all(Result::is_ok))
}

fn chosen_rows(comparison: &Comparison) -> Result<Vec<&'static Row>, Failure> {
    for name in &comparison.only {
        if !ROWS.iter().any(|row| row.name.starts_with(name.as_str())) {
            return Err(Failure::Unknown { name: name.clone() });
        }
    }
    let wanted = |row: &&Row| {
        comparison.only.is_empty()
            || comparison.only.iter().any(|name| row.name.starts_with(name.as_str()))
    };
    Ok(ROWS.iter().filter(wanted).collect())
}

/// The peers asked for; without a wish, those that are installed.
fn chosen_peers(comparison: &Comparison, extent: &Extent) -> Result<Vec<&'static Peer>, Failure> {
    if comparison.peers.is_empty() {
        return Ok(PEERS.iter().filter(|peer| machine::version(peer, extent).is_some()).collect());
    }
    let find = |name: &String| {
        PEERS.iter().find(|peer| peer.name == name).ok_or(Failure::Unknown { name: name.clone() })
    };
    comparison.peers.iter().map(find).collect()
}

/// Where reports and the peers' files go: `versus` in the target directory that this program was built in.
fn output_dir() -> Result<PathBuf, Failure> {
    let program = std::env::current_exe().doing("path of this program")?;
    // target/<profile>/deps/versus-<hash>
    let target = program.ancestors().nth(3).unwrap_or(Path::new("target"));
    let dir = target.join("versus");
    fs::create_dir_all(&dir).doing("directory for the report")?;
    Ok(dir)
}

/// One sample in namespaces of its own. The process namespace ends every process of the peer with the sample, however it ends.
fn run(
    row: &Row,
    peer: &Peer,
    extent: &Extent,
    congestion: &str,
    out: &Path,
) -> Result<Figures, String> {
    let dir = out.join("place");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).map_err(|error| error.to_string())?;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let softirq = account::softirq_thread_ms(extent.proxy_core);
    let output = Command::new("unshare")
        .args([
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
            SET_UP,
            "sh",
            congestion,
        ])
        .arg(program)
        .args(["sample", row.name, peer.name])
        .arg(&dir)
        .args(["--seconds", &extent.seconds.to_string()])
        .args(["--handshakes", &extent.handshakes.to_string()])
        .args(["--tunnels", &extent.tunnels.to_string()])
        .args(["--proxy-core", &extent.proxy_core.to_string()])
        .args(["--load-core", &extent.load_core.to_string()])
        .arg("--vibewarden")
        .arg(&extent.vibewarden)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("unshare: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().replace('\n', " "));
    }
    let mut figures: Figures =
        serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
    let softirq = account::softirq_thread_ms(extent.proxy_core) - softirq;
    figures.insert(
        "softirq_thread_ms".to_owned(),
        f64::from(u32::try_from(softirq).unwrap_or(u32::MAX)),
    );
    Ok(figures)
}

fn progress(row: &Row, peer: &Peer, round: u32, sample: &Result<Figures, String>) {
    let said = match sample {
        Err(failure) => format!("FAILED: {failure}"),
        Ok(figures) => {
            let shown: Vec<String> = row
                .work
                .figures()
                .iter()
                .filter_map(|figure| {
                    Some(format!(
                        "{} {:.*}",
                        figure.heading,
                        figure.decimals,
                        figures.get(figure.key)?
                    ))
                })
                .collect();
            shown.join(", ")
        }
    };
    eprintln!("{} {round} {}: {said}", row.name, peer.name);
}

fn json(about: &str, results: &Results) -> String {
    let rows: Vec<serde_json::Value> = results
        .samples
        .iter()
        .map(|((row, peer), samples)| {
            let good: Vec<&Figures> = samples.iter().flatten().collect();
            let failures: Vec<&String> =
                samples.iter().filter_map(|sample| sample.as_ref().err()).collect();
            serde_json::json!({ "row": row, "peer": peer, "samples": good, "failures": failures })
        })
        .collect();
    let about: Vec<&str> = about.lines().collect();
    serde_json::to_string_pretty(&serde_json::json!({ "about": about, "results": rows }))
        .unwrap_or_default()
}
