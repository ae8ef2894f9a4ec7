//! The application behind the proxy: accepts, keeps every byte with its time, and answers only when the test says so.

use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use super::http::Head;
use super::payload::{find, show};
use super::peer::{End, Far, Peer, is_deadline};
use super::wait::PATIENCE;

/// A listening application.
pub(crate) struct Upstream {
    listener: Socket,
    address: Address,
}

enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Upstream {
    /// Listens on a free port of 127.0.0.1.
    pub(crate) fn start() -> Self {
        Self::on((Ipv4Addr::LOCALHOST, 0).into())
    }

    pub(crate) fn on(address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("socket");
        socket.set_reuse_address(true).expect("SO_REUSEADDR");
        if address.is_ipv6() {
            socket.set_only_v6(true).expect("IPV6_V6ONLY");
        }
        socket.bind(&address.into()).unwrap_or_else(|error| panic!("bind {address}: {error}"));
        let bound = socket.local_addr().expect("address").as_socket();
        Self::listen(socket, Address::Tcp(bound.expect("an IP socket")), 1024)
    }

    /// Connections accepted from now on take little before their reader reads.
    pub(crate) fn with_receive_buffer(self, bytes: usize) -> Self {
        self.listener.set_recv_buffer_size(bytes).expect("SO_RCVBUF");
        self
    }

    /// Listens on a Unix socket.
    pub(crate) fn unix(path: &Path) -> Self {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).expect("socket");
        let address = SockAddr::unix(path).expect("a short path");
        socket.bind(&address).expect("bind");
        Self::listen(socket, Address::Unix(path.to_owned()), 1024)
    }

    /// An address whose accept queue is full: a connect gets no answer at all. The sockets fill the queue while they live.
    pub(crate) fn black_hole() -> (Self, Vec<Socket>) {
        Self::black_hole_on((Ipv4Addr::LOCALHOST, 0).into())
    }

    /// [`black_hole`](Self::black_hole) at this address.
    pub(crate) fn black_hole_on(address: SocketAddr) -> (Self, Vec<Socket>) {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::STREAM, None).expect("socket");
        if address.is_ipv6() {
            socket.set_only_v6(true).expect("IPV6_V6ONLY");
        }
        socket.bind(&address.into()).unwrap_or_else(|error| panic!("bind {address}: {error}"));
        let bound = socket.local_addr().expect("address").as_socket().expect("an IP socket");
        let hole = Self::listen(socket, Address::Tcp(bound), 0);
        let mut fill = Vec::new();
        loop {
            let socket = Socket::new(domain, Type::STREAM, None).expect("socket");
            let connected = socket.connect_timeout(&bound.into(), Duration::from_millis(300));
            if connected.is_err() {
                return (hole, fill);
            }
            fill.push(socket);
        }
    }

    fn listen(listener: Socket, address: Address, backlog: i32) -> Self {
        listener.listen(backlog).expect("listen");
        listener.set_read_timeout(Some(PATIENCE)).expect("SO_RCVTIMEO");
        Self { listener, address }
    }

    /// The value for `upstream.url`.
    pub(crate) fn url(&self) -> String {
        match &self.address {
            Address::Tcp(address) => format!("http://{address}"),
            Address::Unix(path) => format!("unix:{}", path.display()),
        }
    }

    pub(crate) fn port(&self) -> u16 {
        match &self.address {
            Address::Tcp(address) => address.port(),
            Address::Unix(_) => panic!("a Unix socket has no port"),
        }
    }

    /// The next connection, recorded from now on.
    #[track_caller]
    pub(crate) fn accept(&self) -> Conn {
        Conn::record(self.accept_socket())
    }

    /// The next connection, read only when the test reads.
    #[track_caller]
    pub(crate) fn accept_unrecorded(&self) -> Peer {
        Peer::over(self.accept_socket())
    }

    /// The next connection if there is one already, recorded from now on.
    pub(crate) fn try_accept(&self) -> Option<Conn> {
        self.listener.set_nonblocking(true).expect("O_NONBLOCK");
        let accepted = self.listener.accept();
        self.listener.set_nonblocking(false).expect("O_NONBLOCK");
        let (socket, _) = accepted.ok()?;
        socket.set_nonblocking(false).expect("O_NONBLOCK");
        Some(Conn::record(socket))
    }

    #[track_caller]
    fn accept_socket(&self) -> Socket {
        match self.listener.accept() {
            Ok((socket, _)) => socket,
            Err(error) => panic!("no connection reached the upstream: {error}"),
        }
    }

    /// Nobody has connected since the last accept. A connection that came and went counts too.
    #[track_caller]
    pub(crate) fn assert_untouched(&self) {
        self.listener.set_nonblocking(true).expect("O_NONBLOCK");
        let accepted = self.listener.accept();
        self.listener.set_nonblocking(false).expect("O_NONBLOCK");
        match accepted {
            Err(error) => assert!(is_deadline(&error), "accept: {error}"),
            Ok((socket, _)) => {
                let mut peer = Peer::over(socket);
                let _said = peer.socket().set_read_timeout(Some(Duration::from_secs(1)));
                panic!("the upstream was reached: {}", show(&peer.pending()));
            }
        }
    }

    /// Answers every connection with `play` on a thread of its own, until the result is dropped.
    pub(crate) fn serve(self, play: impl Fn(Peer) + Send + Sync + 'static) -> Serving {
        let url = self.url();
        let waker = self.listener.try_clone().expect("dup");
        self.listener.set_read_timeout(None).expect("SO_RCVTIMEO");
        let play = Arc::new(play);
        let accept = std::thread::spawn(move || {
            let mut running: Vec<JoinHandle<()>> = Vec::new();
            while let Ok((socket, _)) = self.listener.accept() {
                let play = Arc::clone(&play);
                running.retain(|thread| !thread.is_finished());
                running.push(std::thread::spawn(move || play(Peer::over(socket))));
            }
        });
        Serving { url, waker, accept: Some(accept) }
    }

    /// Completes every handshake and sends back every byte.
    pub(crate) fn echo(self) -> Serving {
        self.serve(|mut peer| {
            let Some(()) = answer_handshake(&mut peer) else {
                return;
            };
            echo_until_end(&mut peer);
        })
    }
}

/// Reads a request head and answers 101; `None` when the connection ended before.
pub(crate) fn answer_handshake(peer: &mut Peer) -> Option<()> {
    let mut head = Vec::new();
    let mut chunk = [0; 4096];
    while find(&head, b"\r\n\r\n").is_none() {
        let count = std::io::Read::read(&mut &*peer.socket(), &mut chunk).ok()?;
        if count == 0 {
            return None;
        }
        head.extend_from_slice(&chunk[..count]);
    }
    peer.try_send(super::ANSWER_101).ok()
}

/// Sends everything back until the other side ends, then ends too.
pub(crate) fn echo_until_end(peer: &mut Peer) {
    let mut chunk = vec![0; 64 * 1024];
    while let Ok(count) = std::io::Read::read(&mut &*peer.socket(), &mut chunk) {
        if count == 0 || peer.try_send(&chunk[..count]).is_err() {
            break;
        }
    }
    peer.fin();
}

/// An application on its own threads.
pub(crate) struct Serving {
    url: String,
    waker: Socket,
    accept: Option<JoinHandle<()>>,
}

impl Serving {
    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _already_gone = self.waker.shutdown(Shutdown::Both);
        if let Some(accept) = self.accept.take() {
            let _panicked = accept.join();
        }
    }
}

/// One recorded connection.
pub(crate) struct Conn {
    peer: Peer,
    record: Arc<Record>,
    reader: Option<JoinHandle<()>>,
    taken: usize,
}

#[derive(Default)]
struct Record {
    seen: Mutex<Seen>,
    changed: Condvar,
}

impl Record {
    /// A test that failed while it looked leaves a record that is still good.
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Seen {
    bytes: Vec<u8>,
    /// When the bytes up to an offset were there.
    arrivals: Vec<(usize, Instant)>,
    end: Option<End>,
}

impl Conn {
    fn record(socket: Socket) -> Self {
        let peer = Peer::over(socket);
        let record = Arc::new(Record::default());
        let reader = std::thread::spawn({
            let socket = peer.twin();
            let record = Arc::clone(&record);
            move || read_all(&socket, &record)
        });
        Self { peer, record, reader: Some(reader), taken: 0 }
    }

    pub(crate) fn peer(&self) -> &Peer {
        &self.peer
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.peer.send(bytes);
    }

    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.peer.try_send(bytes)
    }

    #[track_caller]
    fn wait<T>(&self, what: &str, look: impl Fn(&Seen) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = self.record.lock();
        loop {
            if let Some(found) = look(&seen) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let got = show(&seen.bytes[self.taken..]);
            assert!(
                seen.end.is_none() && !left.is_zero(),
                "the upstream never got {what}; end: {:?}, got: {got}",
                seen.end
            );
            seen = self.record.changed.wait_timeout(seen, left).expect("record").0;
        }
    }

    /// The next head that arrived.
    #[track_caller]
    pub(crate) fn read_head(&mut self) -> Head {
        let from = self.taken;
        let head = self.wait("a head", |seen| {
            find(&seen.bytes[from..], b"\r\n\r\n")
                .map(|at| seen.bytes[from..from + at + 4].to_vec())
        });
        self.taken += head.len();
        Head::parse(&head)
    }

    /// Bytes up to and with `end`.
    #[track_caller]
    pub(crate) fn read_through(&mut self, end: &[u8]) -> Vec<u8> {
        let from = self.taken;
        let bytes = self.wait(&format!("{} at an end", show(end)), |seen| {
            find(&seen.bytes[from..], end)
                .map(|at| seen.bytes[from..from + at + end.len()].to_vec())
        });
        self.taken += bytes.len();
        bytes
    }

    #[track_caller]
    pub(crate) fn read_exact(&mut self, count: usize) -> Vec<u8> {
        let from = self.taken;
        let bytes = self.wait(&format!("{count} bytes"), |seen| {
            seen.bytes.get(from..from + count).map(<[u8]>::to_vec)
        });
        self.taken += count;
        bytes
    }

    #[track_caller]
    pub(crate) fn expect(&mut self, bytes: &[u8]) {
        let seen = self.read_exact(bytes.len());
        assert!(seen == bytes, "expected {}, got {}", show(bytes), show(&seen));
    }

    /// What has arrived and was not asked for yet.
    pub(crate) fn pending(&self) -> Vec<u8> {
        self.record.lock().bytes[self.taken..].to_vec()
    }

    /// When the byte at `offset` of the whole connection was there.
    #[track_caller]
    pub(crate) fn arrived(&self, offset: usize) -> Instant {
        let seen = self.record.lock();
        let arrival = seen.arrivals.iter().find(|(upto, _)| *upto > offset);
        arrival.expect("the byte has arrived").1
    }

    /// Offset of the first byte that was not read yet.
    pub(crate) fn offset(&self) -> usize {
        self.taken
    }

    /// Waits for the end of the client's direction; nothing unread may stand before it.
    #[track_caller]
    pub(crate) fn expect_end(&mut self) -> End {
        let end = self.wait_end();
        let rest = self.pending();
        assert!(rest.is_empty(), "bytes before the end: {}", show(&rest));
        end
    }

    /// Waits for the end of the client's direction.
    #[track_caller]
    pub(crate) fn wait_end(&self) -> End {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = self.record.lock();
        loop {
            if let Some(end) = seen.end {
                return end;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the upstream connection never ended");
            seen = self.record.changed.wait_timeout(seen, left).expect("record").0;
        }
    }

    pub(crate) fn fin(&mut self) {
        self.peer.fin();
    }

    /// Ends the connection with a reset.
    pub(crate) fn reset(mut self) {
        self.peer.socket().set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
        self.stop_reader();
    }

    fn stop_reader(&mut self) {
        // The reader holds a second descriptor; the socket is only closed when both are gone.
        let _already_gone = self.peer.socket().shutdown(Shutdown::Read);
        if let Some(reader) = self.reader.take() {
            let _panicked = reader.join();
        }
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.stop_reader();
    }
}

impl Far for Conn {
    #[track_caller]
    fn far_read(&mut self, count: usize) -> Vec<u8> {
        self.read_exact(count)
    }

    #[track_caller]
    fn far_send(&mut self, bytes: &[u8]) {
        self.send(bytes);
    }
}

fn read_all(peer: &Peer, record: &Record) {
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let read = std::io::Read::read(&mut &*peer.socket(), &mut chunk);
        let end = match read {
            Ok(0) => Some(End::Eof),
            Ok(_) => None,
            Err(ref error) if is_deadline(error) => continue,
            Err(_) => Some(End::Reset),
        };
        let mut seen = record.lock();
        if end.is_some() {
            seen.end = end;
        } else {
            seen.bytes.extend_from_slice(&chunk[..read.unwrap_or(0)]);
            let upto = seen.bytes.len();
            seen.arrivals.push((upto, Instant::now()));
        }
        record.changed.notify_all();
        if end.is_some() {
            return;
        }
    }
}
