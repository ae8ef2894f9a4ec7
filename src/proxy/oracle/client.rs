//! The client of the oracle: sends its bytes in pieces, waits where the plan says so, and keeps all that it gets.

use std::pin::pin;

use futures_util::future::select;
use rustix::io::Errno;

use super::super::core::Core;
use super::super::stream::Socket;
use super::naive;
use super::plan::{Hold, Plan};

/// One way to send the bytes.
#[derive(Debug)]
pub(super) struct Pieces {
    /// Where pieces end, in order.
    pub(super) stops: Vec<usize>,
    /// Where the client waits, in order.
    pub(super) holds: Vec<Hold>,
}

/// Sends all, then ends its side when everything is there that certainly comes. Returns what came until the proxy ended.
pub(super) async fn talk(
    core: &Core,
    socket: &Socket,
    bytes: &[u8],
    plan: &Plan,
    pieces: &Pieces,
) -> Vec<u8> {
    let mut client = Client { socket, plan, received: Vec::new(), ended: false };
    let (mut sent, mut is_closed) = (0, false);
    loop {
        client.receive();
        let stop = client.next_stop(sent, bytes.len(), pieces);
        let piece = bytes.get(sent..stop).unwrap_or_default();
        if !piece.is_empty() {
            match socket.try_send(piece) {
                Ok(taken) => sent += taken,
                Err(Errno::AGAIN) => {
                    select(pin!(socket.writable()), pin!(socket.readable())).await;
                }
                // The proxy is gone.
                Err(_) => sent = bytes.len(),
            }
            core.let_others_run().await;
        } else if !is_closed && sent == bytes.len() && client.has(plan.last) {
            is_closed = true;
            // The proxy may be gone.
            let _ = socket.try_end();
        } else if client.ended {
            return client.received;
        } else if socket.readable().await.is_err() {
            client.ended = true;
        }
    }
}

struct Client<'c> {
    socket: &'c Socket,
    plan: &'c Plan,
    received: Vec<u8>,
    ended: bool,
}

impl Client<'_> {
    fn receive(&mut self) {
        let mut piece = [0; 4096];
        while !self.ended {
            match self.socket.try_recv(&mut piece) {
                Ok(0) => self.ended = true,
                Ok(received) => {
                    self.received.extend_from_slice(piece.get(..received).unwrap_or_default());
                }
                Err(Errno::AGAIN) => return,
                Err(_) => self.ended = true,
            }
        }
    }

    /// How far the next piece goes.
    fn next_stop(&self, sent: usize, all: usize, pieces: &Pieces) -> usize {
        let stop = pieces.stops.iter().copied().find(|stop| *stop > sent).unwrap_or(all);
        let waits = |hold: &&Hold| hold.at >= sent && hold.at < stop && !self.has(**hold);
        pieces.holds.iter().find(waits).map_or(stop, |hold| hold.at)
    }

    /// Whether what the hold waits for is there.
    fn has(&self, hold: Hold) -> bool {
        let to_head =
            |number: usize| self.plan.answers.get(number).is_some_and(|answer| answer.to_head);
        let there = || {
            let read = naive::answers(&self.received, false, to_head);
            let whole = read.finals.iter().filter(|answer| answer.is_whole).count();
            (whole, read.interim.len())
        };
        self.ended
            || (hold.answers, hold.interim) == (0, 0)
            || there() >= (hold.answers, hold.interim)
    }
}
