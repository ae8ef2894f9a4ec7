use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

use super::super::core::SCRATCH_BYTES;
use super::super::core::tests::parts;
use super::super::driver::{CoreRuntime, Mode};
use super::super::mover::TURN_BYTES;
use super::super::stream::tests::pair_in;
use super::*;
use crate::wire::content::ContentLimits;

/// Content for many turns.
const CONTENT_BYTES: usize = 24 * TURN_BYTES;

/// How the content is framed for the proxy and by it.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// Chunks in, chunks out.
    Chunks,
    /// Until the sender closes, chunks out.
    UntilClose,
    /// By length, the bytes as they are.
    Length,
}

async fn transfer(transfer: &Transfer<'_>, way: Way) -> Result<(), TransferError> {
    let mut begun = HeadBuffer::new(&transfer.core.buffers);
    match way {
        Way::Chunks => {
            let limits = ContentLimits {
                trailer_bytes_max: 1024,
                content_bytes_max: None,
                reserved_names: &[],
            };
            let passage = Passage::new(ContentFraming::Chunked, limits);
            transfer.by_chunks(passage, &mut begun, Vec::new()).await
        }
        Way::UntilClose => {
            transfer.until_close(ContentFraming::Chunked, &mut begun, Vec::new()).await
        }
        Way::Length => transfer.by_length(CONTENT_BYTES as u64, &mut begun, Vec::new()).await,
    }
}

/// Everything outside of the transfer: its sender, its receiver, and a neighbour on the same core that always has something
/// to do. Whenever the neighbour gets a turn, sender and receiver do all that their sockets let them. Returns the most
/// bytes that the transfer has moved between two such turns.
async fn surround(
    core: Rc<Core>,
    (from, to): (Socket, Socket),
    way: Way,
    sent_bytes: Rc<Cell<u64>>,
) -> u64 {
    let mut content = Vec::new();
    match way {
        Way::Chunks => {
            put_chunk(&mut content, &vec![b'x'; CONTENT_BYTES]);
            content.extend_from_slice(LAST_CHUNK);
        }
        Way::UntilClose | Way::Length => content.resize(CONTENT_BYTES, b'x'),
    }
    let (neighbour, far_neighbour) = pair_in(&core.readiness);
    far_neighbour.try_send(b"unread").unwrap();
    let mut left = content.as_slice();
    let mut taken = vec![0; SCRATCH_BYTES];
    let (mut before, mut most) = (0, 0);
    while sent_bytes.get() < CONTENT_BYTES as u64 {
        while let Ok(given) = from.try_send(left)
            && given > 0
        {
            left = &left[given..];
        }
        if left.is_empty() {
            from.try_end().unwrap();
        }
        while to.try_recv(&mut taken).is_ok() {}
        most = most.max(sent_bytes.get() - before);
        before = sent_bytes.get();
        core.let_others_run().await;
        neighbour.readable().await.unwrap();
    }
    most
}

/// A sender that always has more and a receiver that takes everything do not keep a core for themselves.
#[test]
fn large_content_gives_way_to_others() {
    for mode in [Mode::Epoll, Mode::Plain] {
        for way in [Way::Chunks, Way::UntilClose, Way::Length] {
            let Ok(mut runtime) = CoreRuntime::build(mode) else {
                println!("skipped: {} does not work here", mode.described());
                continue;
            };
            let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let (parts, policy) = parts(mode, listen, &[]);
            let (done, most) = runtime.block_on(async move {
                let core = Rc::new(Core::new(parts, policy.reader()).unwrap());
                let ((far_from, from), (to, far_to)) =
                    (pair_in(&core.readiness), pair_in(&core.readiness));
                let sent_bytes = Rc::new(Cell::new(0));
                let ends = (far_from, far_to);
                let around = surround(Rc::clone(&core), ends, way, Rc::clone(&sent_bytes));
                let around = monoio::spawn(around);
                let moved = Transfer {
                    core: &core,
                    from: &from,
                    to: &to,
                    pauses: Pauses::Bounded(None),
                    patience: None,
                    sent_bytes: &sent_bytes,
                };
                (transfer(&moved, way).await, around.await)
            });
            let place = format!("{way:?} on {}", mode.described());
            assert_eq!(done, Ok(()), "{place}");
            let bound = TURN_BYTES + 2 * SCRATCH_BYTES;
            assert!(most <= bound as u64, "{place}: {most} bytes in one turn");
        }
    }
}
