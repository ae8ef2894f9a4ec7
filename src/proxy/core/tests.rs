use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpStream};

use super::*;
use crate::admission::policy::Addresses;
use crate::proxy::driver::CoreRuntime;
use crate::published::Published;

const CONNECTIONS: u64 = 20 * ACCEPT_BURST as u64;

/// What a core without authentication and limits needs. `listen` is only shown; the application is at `upstream`.
pub(in crate::proxy) fn parts(
    mode: Mode,
    listen: SocketAddr,
    upstream: &[SocketAddr],
) -> (CoreParts, Published<Policy>) {
    let text = "tls: {enabled: false}\nrate_limit: {enabled: false}";
    let loaded = crate::config::load_text(text, None, &BTreeMap::new());
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
        first.set_nonblocking(true).unwrap();
        let waiting: Vec<TcpStream> = (1..CONNECTIONS).map(|_| connect()).collect();
        let (parts, policy) = parts(mode, address, &[]);
        let metrics = Arc::clone(&parts.metrics);
        let accepted = move || metrics.cores[0].connections_accepted.get();
        let (commander, commands) = flume::bounded(1);
        let seen = runtime.block_on(async move {
            let first = Socket::adopt(first.into()).unwrap();
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
