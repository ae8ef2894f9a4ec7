//! Relays an ordinary answer of the upstream with its content, chunk by chunk or by length, checked as it passes.

use std::time::Duration;

use rustix::io::Errno;

use super::stream::{Socket, deadline_after};
use crate::wire::body::{CHUNK_END, ChunkedDecoder, LAST_CHUNK, write_chunk_line};
use crate::wire::response::BodyFraming;

/// What is received before it is sent on.
const PIECE_BYTES: usize = 16 * 1024;

/// How often a pausing answer makes sure that somebody still waits for it.
const CLIENT_CHECK: Duration = Duration::from_millis(500);

/// Trailers of an answer are read up to this size; they do not go on.
const TRAILER_BYTES_MAX: usize = 16 * 1024;

/// The head of an answer as it goes to the client, and how its content ends.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: Vec<u8>,
    pub(crate) body: BodyFraming,
}

/// Why the content could not be relayed to its end; both connections are closed then, without a clean end.
enum Cut {
    Upstream,
    Client,
}

/// Sends the answer. `begun` is the part of the content that was received with the head. Returns the status and the bytes
/// that the client's socket took.
pub(crate) async fn relay_answer(
    upstream: &Socket,
    client: &Socket,
    answer: Answer,
    begun: &[u8],
    patience: Option<Duration>,
) -> (u16, u64) {
    let mut relay = Relay { upstream, client, patience, sent_bytes: 0 };
    let Answer { status, head, body } = answer;
    let outcome = match relay.send(&head).await {
        Err(cut) => Err(cut),
        Ok(()) => match body {
            BodyFraming::None => Ok(()),
            BodyFraming::Length(length) => relay.by_length(length, begun).await,
            BodyFraming::Chunked => relay.by_chunks(begun).await,
            BodyFraming::UntilClose => relay.until_close(begun).await,
        },
    };
    match outcome {
        Ok(()) => {}
        Err(Cut::Upstream) => client.reset_on_close(),
        Err(Cut::Client) => upstream.reset_on_close(),
    }
    (status, relay.sent_bytes)
}

struct Relay<'s> {
    upstream: &'s Socket,
    client: &'s Socket,
    patience: Option<Duration>,
    sent_bytes: u64,
}

impl Relay<'_> {
    async fn send(&mut self, bytes: &[u8]) -> Result<(), Cut> {
        self.client.send_all(bytes, self.patience).await.map_err(|_| Cut::Client)?;
        self.sent_bytes += bytes.len() as u64;
        Ok(())
    }

    /// 0 is the end of input. An answer may pause for any time, for as long as the client is there.
    async fn receive(&self, piece: &mut [u8]) -> Result<usize, Cut> {
        loop {
            match self.upstream.try_recv(piece) {
                Ok(received) => return Ok(received),
                Err(Errno::AGAIN) => {}
                Err(_) => return Err(Cut::Upstream),
            }
            match self.upstream.readable_until(deadline_after(Some(CLIENT_CHECK))).await {
                Ok(()) => {}
                Err(Errno::TIME) if !self.client.is_hung_up() => {}
                Err(Errno::TIME) => return Err(Cut::Client),
                Err(_) => return Err(Cut::Upstream),
            }
        }
    }

    async fn by_length(&mut self, length: u64, begun: &[u8]) -> Result<(), Cut> {
        let wanted =
            |left: u64, there: usize| usize::try_from(left).unwrap_or(usize::MAX).min(there);
        let mut left = length;
        let first = begun.get(..wanted(left, begun.len())).unwrap_or_default();
        self.send(first).await?;
        left -= first.len() as u64;
        let mut piece = vec![0; PIECE_BYTES];
        while left > 0 {
            let room = wanted(left, PIECE_BYTES);
            let received = self.receive(piece.get_mut(..room).unwrap_or_default()).await?;
            if received == 0 {
                return Err(Cut::Upstream);
            }
            self.send(piece.get(..received).unwrap_or_default()).await?;
            left -= received as u64;
        }
        Ok(())
    }

    async fn by_chunks(&mut self, begun: &[u8]) -> Result<(), Cut> {
        let mut decoder = ChunkedDecoder::new(TRAILER_BYTES_MAX);
        let mut out = Vec::with_capacity(PIECE_BYTES + 64);
        if self.chunks(&mut decoder, begun, &mut out).await? {
            return Ok(());
        }
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let received = self.receive(&mut piece).await?;
            if received == 0 {
                return Err(Cut::Upstream);
            }
            if self
                .chunks(&mut decoder, piece.get(..received).unwrap_or_default(), &mut out)
                .await?
            {
                return Ok(());
            }
        }
    }

    /// Decodes and sends one piece in chunks of our own; true at the end of the content.
    async fn chunks(
        &mut self,
        decoder: &mut ChunkedDecoder,
        mut piece: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<bool, Cut> {
        out.clear();
        let mut complete = decoder.is_complete();
        while !complete && !piece.is_empty() {
            let part = decoder.decode(piece).map_err(|_| Cut::Upstream)?;
            put_chunk(out, piece.get(part.data).unwrap_or_default());
            complete = part.is_complete;
            piece = piece.get(part.consumed..).unwrap_or_default();
        }
        if complete {
            out.extend_from_slice(LAST_CHUNK);
        }
        self.send(out).await?;
        Ok(complete)
    }

    async fn until_close(&mut self, begun: &[u8]) -> Result<(), Cut> {
        let mut out = Vec::with_capacity(PIECE_BYTES + 64);
        put_chunk(&mut out, begun);
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            self.send(&out).await?;
            out.clear();
            let received = self.receive(&mut piece).await?;
            if received == 0 {
                return self.send(LAST_CHUNK).await;
            }
            put_chunk(&mut out, piece.get(..received).unwrap_or_default());
        }
    }
}

fn put_chunk(out: &mut Vec<u8>, bytes: &[u8]) {
    if !bytes.is_empty() {
        write_chunk_line(out, bytes.len());
        out.extend_from_slice(bytes);
        out.extend_from_slice(CHUNK_END);
    }
}
