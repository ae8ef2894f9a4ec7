//! Medians, spread and ratios as Markdown.

use std::fmt::{self, Write as _};

use super::Results;
use crate::peers::{Part, Peer};
use crate::rows::{Figure, Row};

/// Median and extremes of a figure over the rounds.
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

/// What the project has set itself to reach, per sample of the same round.
struct Aim {
    row: &'static str,
    key: &'static str,
    bound: Bound,
    of: Of,
}

/// Where an aim ends.
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Bound {
    fn is_met(&self, value: f64) -> bool {
        match *self {
            Self::AtMost(bound) => value <= bound,
            Self::AtLeast(bound) => value >= bound,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(bound) => write!(out, "≤ {bound}"),
            Self::AtLeast(bound) => write!(out, "≥ {bound}"),
        }
    }
}

/// What an aim's bound is measured in.
enum Of {
    /// Multiples of the rival that is best in this figure; less is better.
    BestRival,
    /// The same, specialists among them.
    BestOfAll,
    /// Multiples of this peer.
    Peer(&'static str),
    /// The figure's own unit.
    Itself,
}

const fn aim(row: &'static str, key: &'static str, bound: f64, of: Of) -> Aim {
    Aim { row, key, bound: Bound::AtMost(bound), of }
}

/// The same of a figure of which more is better; not to be used with the best rival.
const fn aim_for_more(row: &'static str, key: &'static str, bound: f64, of: Of) -> Aim {
    Aim { row, key, bound: Bound::AtLeast(bound), of }
}

const AIMS: [Aim; 23] = [
    aim("handshake", "cpu_us", 1.0, Of::Peer("haproxy")),
    aim("handshake", "user_us", 0.7, Of::Peer("haproxy")),
    aim("handshake-key", "cpu_us", 1.0, Of::Peer("haproxy")),
    aim("handshake-jwt", "cpu_us", 1.0, Of::Peer("haproxy")),
    aim("handshake-limited", "cpu_us", 1.0, Of::Peer("haproxy")),
    aim("storm", "cpu_us", 0.7, Of::Peer("haproxy")),
    aim("echo", "cpu_us", 1.0, Of::BestRival),
    aim("bulk-down-1", "cpu_ms", 0.6, Of::BestRival),
    aim("bulk-down-1", "cpu_ms", 0.6, Of::BestOfAll),
    aim("bulk-down-8", "cpu_ms", 0.6, Of::BestRival),
    aim("bulk-down-8", "cpu_ms", 0.6, Of::BestOfAll),
    aim("bulk-down-32", "cpu_ms", 0.6, Of::BestRival),
    aim("bulk-down-32", "cpu_ms", 0.6, Of::BestOfAll),
    aim("bulk-up-1", "cpu_ms", 0.6, Of::BestRival),
    aim("bulk-up-1", "cpu_ms", 0.6, Of::BestOfAll),
    aim("bulk-up-8", "cpu_ms", 0.6, Of::BestRival),
    aim("bulk-up-8", "cpu_ms", 0.6, Of::BestOfAll),
    aim("bulk-up-32", "cpu_ms", 0.6, Of::BestRival),
    aim("bulk-up-32", "cpu_ms", 0.6, Of::BestOfAll),
    aim_for_more("http-1k", "per_cpu_second", 1.0, Of::Peer("haproxy")),
    aim_for_more("http-1m", "per_cpu_second", 1.0, Of::Peer("haproxy")),
    aim("idle", "anonymous_bytes", 1_536.0, Of::Itself),
    aim("latency", "p99_growth", 2.0, Of::Itself),
];

impl Results {
    /// The figure in each round; a round whose sample failed has none.
    fn values(&self, row: &str, peer: &str, key: &str) -> Vec<Option<f64>> {
        let samples = self
            .samples
            .iter()
            .find(|((r, p), _)| *r == row && *p == peer)
            .map(|(_, samples)| samples);
        samples
            .into_iter()
            .flatten()
            .map(|sample| sample.as_ref().ok()?.get(key).copied())
            .collect()
    }

    /// The peer whose median is least, among those that play one of these parts.
    fn best(&self, parts: &[Part], row: &str, key: &str) -> Option<(&'static Peer, f64)> {
        self.peers
            .iter()
            .filter(|peer| parts.contains(&peer.part))
            .filter_map(|peer| Some((*peer, Spread::of(self.values(row, peer.name, key))?.median)))
            .min_by(|one, other| one.1.total_cmp(&other.1))
    }
}

impl Spread {
    fn of(values: Vec<Option<f64>>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().flatten().collect();
        values.sort_by(f64::total_cmp);
        let (&least, &most) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Self { median, least, most })
    }
}

/// All tables.
pub(super) fn markdown(results: &Results) -> String {
    let mut out = String::from(
        "Medians over the rounds (least–most). × is the ratio to the best peer's median; vibewarden and the bare relay are no peers.\n",
    );
    for row in &results.rows {
        let _ = writeln!(out, "\n### {}: {}\n", row.name, row.heading);
        out.push_str(&table(results, row));
    }
    out.push_str(&aims(results));
    out
}

fn table(results: &Results, row: &Row) -> String {
    let figures = row.work.figures();
    let mut out = String::from("| peer |");
    for figure in &figures {
        let _ = write!(out, " {} |{}", figure.heading, if figure.compared { " × |" } else { "" });
    }
    let columns = 1 + figures.len() + figures.iter().filter(|figure| figure.compared).count();
    let _ = writeln!(out, "\n|---|{}", "---:|".repeat(columns - 1));
    let mut failed = String::new();
    for peer in &results.peers {
        let Some(samples) = results.samples.get(&(row.name, peer.name)) else {
            continue;
        };
        let floor = if peer.part == Part::Floor { " (floor)" } else { "" };
        let _ = write!(out, "| {}{floor} |", peer.name);
        for figure in &figures {
            cell(&mut out, results, row, peer, figure);
        }
        let failures: Vec<&String> =
            samples.iter().filter_map(|sample| sample.as_ref().err()).collect();
        if let Some(first) = failures.first() {
            let _ = writeln!(
                failed,
                "\n{}: {} of {} samples failed, the first: {first}",
                peer.name,
                failures.len(),
                samples.len()
            );
        }
        out.push('\n');
    }
    out + &failed
}

fn cell(out: &mut String, results: &Results, row: &Row, peer: &Peer, figure: &Figure) {
    let Some(Spread { median, least, most }) =
        Spread::of(results.values(row.name, peer.name, figure.key))
    else {
        out.push_str(if figure.compared { " – | – |" } else { " – |" });
        return;
    };
    let decimals = figure.decimals;
    if figure.compared {
        let _ = write!(out, " {median:.decimals$} ({least:.decimals$}–{most:.decimals$}) |");
        match results.best(&[Part::Rival, Part::Specialist], row.name, figure.key) {
            Some((_, best)) if best > 0.0 => {
                let _ = write!(out, " {:.2} |", median / best);
            }
            _ => out.push_str(" – |"),
        }
    } else {
        let _ = write!(out, " {median:.decimals$} |");
    }
}

/// The aims whose rows were run, for each own peer.
fn aims(results: &Results) -> String {
    let mut lines = String::new();
    for peer in results.peers.iter().filter(|peer| peer.part == Part::Own) {
        for aim in &AIMS {
            let own = results.values(aim.row, peer.name, aim.key);
            let against =
                |it: &Peer| (results.values(aim.row, it.name, aim.key), format!("of {}", it.name));
            let (reference, to) = match aim.of {
                Of::Itself => (vec![Some(1.0); own.len()], "absolute".to_owned()),
                Of::Peer(name) => (results.values(aim.row, name, aim.key), format!("of {name}")),
                Of::BestRival => match results.best(&[Part::Rival], aim.row, aim.key) {
                    Some((best, _)) => against(best),
                    None => continue,
                },
                Of::BestOfAll => {
                    match results.best(&[Part::Rival, Part::Specialist], aim.row, aim.key) {
                        Some((best, _)) if best.part == Part::Specialist => against(best),
                        _ => continue,
                    }
                }
            };
            let ratios = own.iter().zip(reference).map(|(own, to)| Some((*own)? / to?)).collect();
            if let Some(Spread { median, least, most }) = Spread::of(ratios) {
                let met = if aim.bound.is_met(median) { "met" } else { "**missed**" };
                let _ = writeln!(
                    lines,
                    "| {} | {} {} | {} {to} | {median:.2} ({least:.2}–{most:.2}) | {met} |",
                    peer.name, aim.row, aim.key, aim.bound
                );
            }
        }
    }
    if lines.is_empty() {
        return lines;
    }
    format!(
        "\n### Aims, from the ratios within each round\n\n| | figure | aim | median (least–most) | |\n|---|---|---|---:|---|\n{lines}"
    )
}
