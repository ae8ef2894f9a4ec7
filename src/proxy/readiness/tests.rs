use std::net::{Ipv4Addr, TcpListener, TcpStream as Stream};
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::task::Waker;
use std::time::Duration;

use futures_util::future::{join, select};
use rustix::net::{SendFlags, send};

use super::*;
use crate::proxy::driver::{CoreRuntime, Mode};
use crate::proxy::pipe::PipePool;
use crate::proxy::stream::Socket;

/// More turns than any machine gives in the time of that test.
const TURNS_MAX: u32 = 3_000_000;

/// Runs the body on each driver, with a set of it.
fn on_drivers<F: Future<Output = ()>>(body: impl Fn(Rc<Readiness>) -> F) {
    for mode in [Mode::Epoll, Mode::Plain, Mode::DeferTaskrun] {
        let Ok(mut runtime) = CoreRuntime::build(mode) else {
            println!("skipped: {} does not work here", mode.described());
            continue;
        };
        println!("{}", mode.described());
        runtime.block_on(async {
            let all = body(Readiness::start().unwrap());
            let limit = Duration::from_secs(30);
            monoio::time::timeout(limit, all).await.expect("within its time");
        });
    }
}

/// A socket of the set and the far end of its TCP connection.
fn tcp(readiness: &Rc<Readiness>) -> (Socket, Stream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let far = Stream::connect(listener.local_addr().unwrap()).unwrap();
    far.set_nodelay(true).unwrap();
    let (near, _) = listener.accept().unwrap();
    near.set_nonblocking(true).unwrap();
    (Socket::adopt_tcp(near.into(), readiness), far)
}

/// The same over a Unix socket.
fn unix(readiness: &Rc<Readiness>) -> (Socket, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    (Socket::adopt(near.into(), readiness), far)
}

/// What the first poll of a wait says, without any event being taken meanwhile.
fn is_ready(socket: &Socket, interest: Interest) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    match interest {
        Interest::Read => pin!(socket.readable()).poll(&mut context).is_ready(),
        Interest::Write => pin!(socket.writable()).poll(&mut context).is_ready(),
    }
}

/// Everything up to the end of input, in reads of `room` bytes.
async fn read_to_end(socket: &Socket, room: usize) -> Vec<u8> {
    let (mut all, mut buffer) = (Vec::new(), vec![0; room]);
    loop {
        match socket.try_recv(&mut buffer) {
            Ok(0) => return all,
            Ok(bytes) => all.extend_from_slice(&buffer[..bytes]),
            Err(Errno::AGAIN) => {}
            Err(error) => panic!("{error}"),
        }
        socket.readable().await.unwrap();
    }
}

#[test]
fn what_was_there_before_the_first_wait_is_found() {
    on_drivers(|readiness| async move {
        let (near, far) = tcp(&readiness);
        io::Write::write_all(&mut &far, b"early").unwrap();
        near.readable().await.unwrap();
        assert_eq!(near.try_recv(&mut [0; 64]), Ok(5));
        assert!(!is_ready(&near, Interest::Read));
        near.writable().await.unwrap();
    });
}

#[test]
fn a_short_read_of_tcp_has_taken_everything_and_the_next_bytes_are_an_event() {
    on_drivers(|readiness| async move {
        let (near, far) = tcp(&readiness);
        for _ in 0..100 {
            io::Write::write_all(&mut &far, b"hello").unwrap();
            near.readable().await.unwrap();
            assert_eq!(near.try_recv(&mut [0; 3]), Ok(3));
            assert!(is_ready(&near, Interest::Read), "a full read says nothing");
            assert_eq!(near.try_recv(&mut [0; 3]), Ok(2));
            assert!(!is_ready(&near, Interest::Read));
        }
    });
}

#[test]
fn only_eagain_says_that_a_unix_socket_is_empty() {
    on_drivers(|readiness| async move {
        let (near, far) = unix(&readiness);
        io::Write::write_all(&mut &far, b"hello").unwrap();
        near.readable().await.unwrap();
        assert_eq!(near.try_recv(&mut [0; 64]), Ok(5));
        assert!(is_ready(&near, Interest::Read));
        assert_eq!(near.try_recv(&mut [0; 64]), Err(Errno::AGAIN));
        assert!(!is_ready(&near, Interest::Read));
    });
}

/// The end comes with the last bytes, in the same event, and behind them, in one of its own.
#[test]
fn the_end_behind_a_short_read_is_found() {
    on_drivers(|readiness| async move {
        for wait_first in [false, true] {
            let (near, far) = tcp(&readiness);
            if wait_first {
                assert!(!is_ready(&near, Interest::Read));
                readiness.let_others_run().await;
            }
            io::Write::write_all(&mut &far, b"last").unwrap();
            far.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(read_to_end(&near, 64).await, b"last");
        }
        let (near, far) = tcp(&readiness);
        io::Write::write_all(&mut &far, b"last").unwrap();
        near.readable().await.unwrap();
        assert_eq!(near.try_recv(&mut [0; 64]), Ok(4));
        let end = async { far.shutdown(std::net::Shutdown::Write).unwrap() };
        let (ready, ()) = join(near.readable(), end).await;
        ready.unwrap();
        assert_eq!(near.try_recv(&mut [0; 64]), Ok(0));
    });
}

/// tcp(7): a read stops short at the mark of urgent data.
#[test]
fn bytes_behind_urgent_data_are_found() {
    on_drivers(|readiness| async move {
        for room in [1, 2, 3, 4, 64] {
            let (near, far) = tcp(&readiness);
            io::Write::write_all(&mut &far, b"abc").unwrap();
            send(&far, b"!", SendFlags::OOB).unwrap();
            io::Write::write_all(&mut &far, b"def").unwrap();
            far.shutdown(std::net::Shutdown::Write).unwrap();
            near.readable().await.unwrap();
            assert_eq!(read_to_end(&near, room).await, b"abcdef", "{room}");
        }
        // Without an end behind it that would tell.
        let (near, far) = tcp(&readiness);
        io::Write::write_all(&mut &far, b"abc").unwrap();
        send(&far, b"!", SendFlags::OOB).unwrap();
        io::Write::write_all(&mut &far, b"def").unwrap();
        let mut seen = Vec::new();
        while seen.len() < 6 {
            let mut buffer = [0; 64];
            near.readable().await.unwrap();
            if let Ok(bytes) = near.try_recv(&mut buffer) {
                seen.extend_from_slice(&buffer[..bytes]);
            }
        }
        assert_eq!(seen, b"abcdef");
    });
}

#[test]
fn room_that_was_used_up_is_an_event_when_there_is_some_again() {
    on_drivers(|readiness| async move {
        for pair in [true, false] {
            let (near, far): (Socket, Box<dyn io::Read + Send>) = if pair {
                let (near, far) = tcp(&readiness);
                (near, Box::new(far))
            } else {
                let (near, far) = unix(&readiness);
                (near, Box::new(far))
            };
            let mut far = far;
            near.writable().await.unwrap();
            let mut sent = 0;
            while let Ok(bytes) = near.try_send(&[7; 8 * 1024]) {
                sent += bytes;
            }
            assert!(!is_ready(&near, Interest::Write));
            let read = std::thread::spawn(move || {
                let mut left = sent;
                let mut buffer = vec![0; 64 * 1024];
                while left > 0 {
                    left = left.saturating_sub(far.read(&mut buffer).unwrap());
                }
                far
            });
            near.writable().await.unwrap();
            assert!(near.try_send(&[7; 1]).is_ok());
            drop(read.join().unwrap());
        }
    });
}

/// Whoever splices tells what it found, or its next wait would be over at once, again and again.
#[test]
fn what_is_spliced_is_used_up_as_well() {
    on_drivers(|readiness| async move {
        let pipes = PipePool::default();
        let (near, far) = tcp(&readiness);
        io::Write::write_all(&mut &far, b"bytes").unwrap();
        near.readable().await.unwrap();
        let mut pipe = pipes.take().unwrap();
        assert_eq!(pipe.fill(&near, 1024), Ok(5));
        assert!(is_ready(&near, Interest::Read));
        assert_eq!(pipe.fill(&near, 1024), Err(Errno::AGAIN));
        assert!(!is_ready(&near, Interest::Read));
    });
}

#[test]
fn both_ways_of_a_socket_are_waited_for_at_once() {
    on_drivers(|readiness| async move {
        let (near, mut far) = tcp(&readiness);
        while near.try_send(&[7; 8 * 1024]).is_ok() {}
        assert!(!is_ready(&near, Interest::Write));
        let answer = async {
            near.readable().await.unwrap();
            assert_eq!(near.try_recv(&mut [0; 64]), Ok(2));
        };
        let read = std::thread::spawn(move || {
            io::Write::write_all(&mut far, b"go").unwrap();
            let _ = io::copy(&mut far, &mut io::sink());
        });
        let (room, ()) = join(near.writable(), answer).await;
        room.unwrap();
        drop(near);
        read.join().unwrap();
    });
}

#[test]
fn a_socket_has_a_place_from_its_first_wait_until_it_is_closed() {
    on_drivers(|readiness| async move {
        let count = || readiness.sockets.borrow().len();
        let (near, _far) = tcp(&readiness);
        assert!(near.try_send(b"no wait").is_ok());
        assert_eq!(count(), 0);
        near.writable().await.unwrap();
        assert!(!is_ready(&near, Interest::Read));
        assert_eq!(count(), 1);
        drop(near);
        assert_eq!(count(), 0);
    });
}

/// A task and the socket that it waits for hold each other.
#[test]
fn who_is_forgotten_is_gone_with_its_sockets() {
    on_drivers(|readiness| async move {
        let (near, mut far) = tcp(&readiness);
        monoio::spawn(async move { near.readable().await });
        readiness.let_others_run().await;
        assert_eq!(readiness.sockets.borrow().len(), 1);
        readiness.forget_waiting();
        assert_eq!(readiness.sockets.borrow().len(), 0);
        assert_eq!(io::Read::read(&mut far, &mut [0; 8]).unwrap(), 0);
    });
}

/// Many sockets that become ready at once, more than one call takes.
#[test]
fn every_one_of_a_crowd_is_woken() {
    on_drivers(|readiness| async move {
        let crowd: Vec<_> = (0..3 * BATCH_EVENTS).map(|_| unix(&readiness)).collect();
        let mut tasks = Vec::new();
        let (near, far): (Vec<_>, Vec<_>) = crowd.into_iter().unzip();
        for socket in near {
            tasks.push(monoio::spawn(async move {
                socket.readable().await.unwrap();
                socket.try_recv(&mut [0; 8]).unwrap()
            }));
        }
        readiness.let_others_run().await;
        assert_eq!(readiness.sockets.borrow().len(), tasks.len());
        for mut far in far {
            io::Write::write_all(&mut far, b"x").unwrap();
        }
        for task in tasks {
            assert_eq!(task.await, 1);
        }
        assert_eq!(readiness.sockets.borrow().len(), 0);
    });
}

/// Whoever always finds more gives way to those that are ready, and to newcomers, turn by turn.
#[test]
fn a_turn_ends_after_everybody_else_has_had_one() {
    on_drivers(|readiness| async move {
        let (near, mut far) = tcp(&readiness);
        let turns = Rc::new(Cell::new(0));
        let busy = {
            let (readiness, turns) = (Rc::clone(&readiness), Rc::clone(&turns));
            async move {
                loop {
                    turns.set(turns.get() + 1);
                    readiness.let_others_run().await;
                }
            }
        };
        let neighbour = async {
            for _ in 0..10 {
                assert!(!is_ready(&near, Interest::Read));
                readiness.let_others_run().await;
                io::Write::write_all(&mut far, b"x").unwrap();
                let before = turns.get();
                near.readable().await.unwrap();
                let passed = turns.get() - before;
                assert!(passed <= 2, "{passed} turns before a neighbour had one");
                assert_eq!(near.try_recv(&mut [0; 8]), Ok(1));
            }
        };
        select(pin!(busy), pin!(neighbour)).await;
    });
}

/// Timers, too: they fire when nobody is left to run.
#[test]
fn those_who_take_turn_after_turn_do_not_hold_time_up() {
    on_drivers(|readiness| async move {
        let turns = Rc::new(Cell::new(0));
        let busy = {
            let (readiness, turns) = (Rc::clone(&readiness), Rc::clone(&turns));
            async move {
                while turns.get() < TURNS_MAX {
                    turns.set(turns.get() + 1);
                    readiness.let_others_run().await;
                }
            }
        };
        monoio::spawn(busy);
        let timer = monoio::time::timeout(Duration::from_millis(10), std::future::pending::<()>());
        timer.await.unwrap_err();
        assert!(turns.get() < TURNS_MAX, "time stood still");
        turns.set(TURNS_MAX);
    });
}

#[test]
fn events_and_findings_change_the_state_as_epoll_7_says() {
    let mut state = State::default();
    state.tell(EventFlags::IN | EventFlags::OUT);
    assert!(state.is_ready(Interest::Read) && state.is_ready(Interest::Write));
    state.read_short();
    assert!(!state.is_ready(Interest::Read) && state.is_ready(Interest::Write));
    state.used_up(Interest::Write);
    assert_eq!(state, State::default());
    for more in [EventFlags::RDHUP, EventFlags::HUP, EventFlags::ERR, EventFlags::PRI] {
        let mut state = State::default();
        state.tell(more);
        state.read_short();
        assert!(state.is_ready(Interest::Read), "{more:?}");
        let fails = more.intersects(EventFlags::HUP | EventFlags::ERR);
        assert_eq!(state.is_ready(Interest::Write), fails, "{more:?}");
        state.used_up(Interest::Read);
        assert!(!state.is_ready(Interest::Read), "{more:?}");
        // What came before says nothing of what comes now.
        state.tell(EventFlags::IN);
        state.read_short();
        assert!(!state.is_ready(Interest::Read), "{more:?}");
    }
}
