use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixStream;
use std::pin::pin;

use futures_util::future::{Either, join, select};

use super::*;
use crate::proxy::driver::{CoreRuntime, Mode};

/// The writer gives up a reader that has taken nothing for so long.
const PATIENCE: Duration = Duration::from_millis(30);

/// A slow reader takes a piece as often as this.
const PIECE_EVERY: Duration = Duration::from_millis(2);

/// The writer writes such pieces. A Unix socket frees its buffer piece by piece, at once when one is read.
const PIECE_BYTES: usize = 1024;

/// A socket with a set of its own, for either driver.
pub(in crate::proxy) fn adopt(stream: impl Into<OwnedFd>) -> Socket {
    adopt_in(stream, &Readiness::start().unwrap())
}

fn adopt_in(stream: impl Into<OwnedFd>, readiness: &Rc<Readiness>) -> Socket {
    let stream = stream.into();
    rustix::io::ioctl_fionbio(&stream, true).unwrap();
    Socket::adopt(stream, readiness)
}

/// Both ends of a TCP connection. The buffers are as large as the kernel makes them.
pub(in crate::proxy) fn pair() -> (Socket, Socket) {
    pair_in(&Readiness::start().unwrap())
}

/// [`pair`] in this set.
pub(in crate::proxy) fn pair_in(readiness: &Rc<Readiness>) -> (Socket, Socket) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    (adopt_in(near, readiness), adopt_in(far, readiness))
}

/// Both ends of a Unix connection whose near end has no room any more.
fn filled_pair() -> (Socket, Socket) {
    let (near, far) = UnixStream::pair().unwrap();
    let near = adopt(near);
    while near.try_send(&[b'x'; PIECE_BYTES]).is_ok() {}
    (near, adopt(far))
}

/// The kernel says that there is room when a good part of its buffer is free. Long before, a reader has shown that it lives.
#[test]
fn a_slow_reader_of_a_large_buffer_is_waited_for() {
    for mode in [Mode::Epoll, Mode::Plain] {
        let Ok(mut runtime) = CoreRuntime::build(mode) else {
            println!("skipped: {} does not work here", mode.described());
            continue;
        };
        let (room, pieces) = runtime.block_on(async {
            let (near, far) = filled_pair();
            let (silent, _held) = UnixStream::pair().unwrap();
            let silent = adopt(silent);
            let mut pieces = 0;
            let reader = async {
                let mut piece = [0; PIECE_BYTES];
                loop {
                    let pause = silent.readable_until(deadline_after(Some(PIECE_EVERY))).await;
                    assert_eq!(pause, Err(Errno::TIME));
                    assert_eq!(far.try_recv(&mut piece), Ok(PIECE_BYTES));
                    pieces += 1;
                }
            };
            let room = near.room_within(Some(PATIENCE));
            // The reader first: where a busy machine lets both times pass at once, it has taken its piece.
            let room = match select(pin!(reader), pin!(room)).await {
                Either::Left(((), _)) => unreachable!("it reads on"),
                Either::Right((room, _)) => room,
            };
            (room, pieces)
        });
        assert_eq!(room, Ok(()), "{}: given up after {pieces} pieces", mode.described());
        assert!(PIECE_EVERY * pieces > 2 * PATIENCE, "{pieces} pieces prove nothing");
    }
}

#[test]
fn a_reader_that_takes_nothing_is_given_up() {
    for mode in [Mode::Epoll, Mode::Plain] {
        let Ok(mut runtime) = CoreRuntime::build(mode) else {
            println!("skipped: {} does not work here", mode.described());
            continue;
        };
        let room = runtime.block_on(async {
            let (near, _far) = filled_pair();
            near.room_within(Some(PATIENCE)).await
        });
        assert_eq!(room, Err(Errno::TIME), "{}", mode.described());
    }
}

/// However full the buffer is when they are sent.
#[test]
fn the_last_bytes_arrive_with_the_end_behind_them() {
    const LAST: [u8; 3 * PIECE_BYTES] = [b'!'; 3 * PIECE_BYTES];
    let tcp = || {
        let (near, far) = pair();
        while near.try_send(&[b'x'; PIECE_BYTES]).is_ok() {}
        (near, far)
    };
    let ends: [&dyn Fn() -> (Socket, Socket); 3] = [&pair, &tcp, &filled_pair];
    for mode in [Mode::Epoll, Mode::Plain] {
        let Ok(mut runtime) = CoreRuntime::build(mode) else {
            println!("skipped: {} does not work here", mode.described());
            continue;
        };
        for (number, ends) in ends.iter().enumerate() {
            let (sent, received) = runtime.block_on(async {
                let (near, far) = ends();
                let read_to_end = async {
                    let (mut received, mut piece) = (Vec::new(), [0; PIECE_BYTES]);
                    loop {
                        match far.try_recv(&mut piece) {
                            Ok(0) => return received,
                            Ok(taken) => received.extend_from_slice(&piece[..taken]),
                            Err(Errno::AGAIN) => far.readable().await.unwrap(),
                            Err(error) => panic!("{error}"),
                        }
                    }
                };
                join(near.send_last(&LAST, None), read_to_end).await
            });
            assert_eq!(sent, Ok(()), "{} {number}", mode.described());
            assert!(received.ends_with(&LAST), "{} {number}", mode.described());
            let before = received.iter().take_while(|&&byte| byte == b'x').count();
            assert_eq!(received.len(), before + LAST.len(), "{} {number}", mode.described());
        }
        let given_up = runtime.block_on(async {
            let (near, _far) = filled_pair();
            near.send_last(&LAST, Some(PATIENCE)).await
        });
        assert_eq!(given_up, Err(Errno::TIME), "{}", mode.described());
    }
}
