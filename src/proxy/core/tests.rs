use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpStream};

use super::*;
use crate::admission::policy::Addresses;
use crate::proxy::driver::CoreRuntime;
use crate::proxy::stream::tests::adopt;
use crate::published::Published;

const CONNECTIONS: u64 = 20 * ACCEPT_BURST as u64;

/// What a core without authentication and limits needs. `listen` is only shown; the application is at `upstream`.
pub(in crate::proxy) fn parts(
    mode: Mode,
    listen: SocketAddr,
    upstream: &[SocketAddr],
) -> (CoreParts, Published<Policy>) {
    parts_of(mode, listen, "rate_limit: {enabled: false}", upstream)
}

/// With these keys besides.
fn parts_of(
    mode: Mode,
    listen: SocketAddr,
    keys: &str,
    upstream: &[SocketAddr],
) -> (CoreParts, Published<Policy>) {
    let text = format!("tls: {{enabled: false}}\n{keys}");
    let loaded = crate::config::load_text(&text, None, &BTreeMap::new());
    let policy = Published::new(Policy::new(
        loaded.unwrap().config,
        Addresses::Tcp(upstream.to_vec()),
        Addresses::Tcp(Vec::new()),
    ));
    let metrics = Arc::new(Metrics::new(1));
    let (events, _) = crate::event::start(io::sink(), Arc::clone(&metrics.event_log)).unwrap();
    let driver = crate::process::DriverReport { name: "", mode: "", reason: String::new() };
    let process = Arc::new(Process::new(clock::now(), listen, 1, driver, u32::MAX));
    (
        CoreParts {
            number: 0,
            mode,
            process,
            metrics,
            events,
            providers: crate::providers::connect().0,
            limits: SharedLimits::alone(1024, clock::now()),
            tls: None,
        },
        policy,
    )
}

/// The first connection is answered before a full backlog is empty.
#[test]
fn a_full_backlog_keeps_nobody_waiting() {
    for mode in [Mode::Epoll, Mode::Plain] {
        let Ok(mut runtime) = CoreRuntime::build(mode) else {
            println!("skipped: {} does not work here", mode.described());
            continue;
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        rustix::net::listen(&listener, 4096).unwrap();
        let address = listener.local_addr().unwrap();
        let connect = || TcpStream::connect(address).unwrap();
        let first = connect();
        io::Write::write_all(&mut &first, b"nonsense\r\n\r\n").unwrap();
        let waiting: Vec<TcpStream> = (1..CONNECTIONS).map(|_| connect()).collect();
        let (parts, policy) = parts(mode, address, &[]);
        let metrics = Arc::clone(&parts.metrics);
        let accepted = move || metrics.cores[0].connections_accepted.get();
        let (commander, commands) = flume::bounded(1);
        let seen = runtime.block_on(async move {
            let first = adopt(first);
            let core = monoio::spawn(run(parts, policy.reader(), listener, commands));
            first.readable().await.unwrap();
            let seen = accepted();
            drop((first, waiting));
            commander.send(Command::Drain(Duration::ZERO)).unwrap();
            core.await.unwrap();
            seen
        });
        assert!(seen < CONNECTIONS, "{}: all {seen} before anybody else", mode.described());
    }
}

/// Whatever has to come comes within this time, or the test fails.
const DEADLINE: Duration = Duration::from_secs(15);

const HANDSHAKE: &[u8] =
    b"GET / HTTP/1.1\r\nHost: t\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

const SWITCHING: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// An upstream that takes one upgrade after the other and sends nothing in its tunnel.
fn silent_upstream() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = [0; 4096];
            let _ = io::Read::read(&mut stream, &mut head);
            let _ = io::Write::write_all(&mut stream, SWITCHING);
            // Until the proxy ends it.
            let _ = io::copy(&mut stream, &mut io::sink());
        }
    });
    address
}

/// A client of a core, both ends on this thread.
fn connected(core: &Rc<Core>) -> Socket {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (accepted, peer) = listener.accept().unwrap();
    accepted.set_nonblocking(true).unwrap();
    admit_connection(core, accepted.into(), peer);
    adopt(client)
}

/// The first bytes of what comes next: nothing at an end of any kind.
async fn next_bytes(client: &Socket) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    loop {
        client.readable_until(Some(clock::now() + DEADLINE)).await.unwrap();
        match client.try_recv(&mut bytes) {
            Ok(count) => {
                bytes.truncate(count);
                return bytes;
            }
            Err(Errno::AGAIN) => {}
            Err(_) => return Vec::new(),
        }
    }
}

/// 8.3 and the boundary of a defect: the tunnel's places are free again, and the core serves on.
#[test]
#[expect(clippy::await_holding_refcell_ref, reason = "this is how the relay is made to panic")]
fn a_defect_in_a_tunnel_gives_its_places_back() {
    for mode in [Mode::Epoll, Mode::Plain] {
        let Ok(mut runtime) = CoreRuntime::build(mode) else {
            println!("skipped: {} does not work here", mode.described());
            continue;
        };
        let keys = "websocket: {max_per_ip: 1}";
        let nowhere = (Ipv4Addr::LOCALHOST, 0).into();
        let (parts, policy) = parts_of(mode, nowhere, keys, &[silent_upstream()]);
        let (metrics, limits) = (Arc::clone(&parts.metrics), parts.limits.clone());
        runtime.block_on(async move {
            let core = Rc::new(Core::new(parts, policy.reader()).unwrap());
            let defects = &metrics.cores[0].task_panics;
            for round in 1..=3 {
                let client = connected(&core);
                client.try_send(HANDSHAKE).unwrap();
                assert!(next_bytes(&client).await.starts_with(b"HTTP/1.1 101 "), "{round}");
                assert_eq!(limits.quotas.ip.keys(), 1);
                // The relay of the next bytes finds the core's buffer taken.
                let taken = core.scratch.borrow_mut();
                client.try_send(b"frames").unwrap();
                assert!(next_bytes(&client).await.is_empty(), "{round}");
                drop(taken);
                assert_eq!(defects.get(), round);
                assert_eq!(limits.quotas.ip.keys(), 0, "{round}");
                assert_eq!(metrics.cores[0].tunnels_closed.get(), round);
            }
        });
    }
}
