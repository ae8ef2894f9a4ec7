//! A property of whole client connections, for every input: what the upstream sees is exactly what the contract lets
//! through, and the client and the event log are told so. `fuzz/` and `tests/corpus.rs` call it, like `wire::oracle`.
//!
//! The proxy's part is the code that serves: a connection is accepted into a core of its own and lives its whole life.
//! Everything around it is written a second time and naively: the client, an upstream that reads strictly, and the plan of
//! what has to happen. It panics when something else happened.

use std::cell::RefCell;

pub use super::tls::oracle::tls_stream;

use client::Pieces;
use plan::{Plan, plan};
use stage::Stage;

mod client;
mod naive;
mod plan;
mod reply;
mod request;
mod stage;
mod upstream;
mod verdict;

/// Longer input is not looked at: beyond are the limits of contents and trailers, which the plan does not know.
const BYTES_MAX: usize = 17 * 1024;

/// Most pieces of one connection.
const PIECES_MAX: usize = 8;

thread_local! {
    static STAGE: RefCell<Option<Stage>> = const { RefCell::new(None) };
}

/// Any bytes as all that a client ever sends on one connection. Sent at once, in pieces, and request by request, they mean
/// the same.
///
/// # Panics
///
/// When the property does not hold.
pub fn request_stream(bytes: &[u8]) {
    if bytes.len() > BYTES_MAX {
        return;
    }
    let plan = plan(bytes);
    if plan.is_open {
        return;
    }
    let kept = STAGE.with_borrow_mut(Option::take);
    let built = kept.map_or_else(Stage::build, Ok);
    assert!(built.is_ok(), "no stage: {:?}", built.err());
    let Ok(mut stage) = built else { return };
    let mut first = None;
    for pieces in [at_once(bytes, &plan), cut(bytes, &plan), one_by_one(bytes, &plan)] {
        let outcome = stage.play(bytes, &plan, &pieces);
        let told = outcome.as_ref().ok_or_else(|| "it does not end".to_owned());
        let told = told.and_then(|outcome| verdict::judge(bytes, &plan, outcome));
        let told = told.and_then(|summary| match &first {
            Some(other) if *other != summary => Err(format!("otherwise it was {other:?}")),
            _ => Ok(summary),
        });
        assert!(
            told.is_ok(),
            "{}\nbytes: {}\n{pieces:?}\n{plan:#?}\n{outcome:#?}",
            told.err().unwrap_or_default(),
            bytes.escape_ascii(),
        );
        first = told.ok();
    }
    // Only whole: after a failure tasks of the lost connection may be left.
    STAGE.set(Some(stage));
}

fn at_once(bytes: &[u8], plan: &Plan) -> Pieces {
    Pieces { stops: vec![bytes.len()], holds: plan.holds.clone() }
}

/// Cut where the bytes themselves say it.
fn cut(bytes: &[u8], plan: &Plan) -> Pieces {
    let mut state = bytes
        .iter()
        .fold(0x9E37_79B9_u32, |state, byte| (state ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    let mut stops: Vec<usize> = (0..PIECES_MAX)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            usize::try_from(state >> 8).unwrap_or(0) % (bytes.len() + 1)
        })
        .collect();
    stops.sort_unstable();
    Pieces { stops, holds: plan.holds.clone() }
}

/// Every request after the answer to the one before it, and cut where lines end: before, in and after the CRLF.
fn one_by_one(bytes: &[u8], plan: &Plan) -> Pieces {
    let ends = bytes.iter().enumerate().filter(|(_, byte)| matches!(byte, b'\r' | b'\n'));
    let all: Vec<usize> = ends.map(|(place, _)| place + 1).collect();
    let step = all.len().div_ceil(PIECES_MAX).max(1);
    // Of many line ends the last ones and some of the others.
    let mut stops: Vec<usize> = all.iter().rev().take(PIECES_MAX / 2).copied().collect();
    stops.extend(all.iter().step_by(step));
    stops.sort_unstable();
    let mut holds = [plan.holds.as_slice(), plan.ends.as_slice()].concat();
    holds.sort_by_key(|hold| hold.at);
    Pieces { stops, holds }
}
