//! Section 7.5: a peer that no longer acknowledges is found by the kernel and ends the tunnel as `dead_peer`; a silent one is not.
//! Needs a network namespace with a link that can be cut.

use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::harness::wait::eventually_within;
use crate::harness::{ANSWER_101, Conn, Driver, HANDSHAKE, Peer, Proxy, Setup, Upstream};

on_drivers!(
    every: ;
    both:
        a_vanished_client_is_found,
        a_vanished_upstream_is_found,
);

/// A namespace joined to this one by a pair of virtual interfaces.
struct Far {
    name: String,
    near: String,
    address: String,
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

impl Far {
    /// `None`, with the reason printed, where namespaces cannot be made.
    #[track_caller]
    fn new(number: u8) -> Option<Self> {
        let name = format!("vwbb{}-{number}", std::process::id());
        if let Err(reason) = ip(&format!("netns add {name}")) {
            println!("skipped: no network namespace: {reason}");
            return None;
        }
        let far = Self {
            name,
            near: format!("10.213.{number}.1"),
            address: format!("10.213.{number}.2"),
        };
        let (link, name) = (format!("vwbb{number}"), &far.name);
        let _left_behind = ip(&format!("link del {link}"));
        for step in [
            format!("link add {link} type veth peer name far netns {name}"),
            format!("addr add {}/24 dev {link}", far.near),
            format!("link set {link} up"),
            format!("-n {name} addr add {}/24 dev far", far.address),
            format!("-n {name} link set far up"),
            format!("-n {name} link set lo up"),
        ] {
            ip(&step).expect("the link");
        }
        Some(far)
    }

    /// Runs `act` inside the namespace; sockets made there stay there.
    fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let path = format!("/run/netns/{}", self.name);
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                let namespace = File::open(path).expect("the namespace");
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(namespace.as_fd(), kind).expect("setns");
                act()
            });
            thread.join().expect("the thread inside")
        })
    }

    /// Nothing gets through any more, and nobody is told.
    fn cut(&self) {
        ip(&format!("-n {} link set far down", self.name)).expect("cut");
    }

    fn join_again(&self) {
        ip(&format!("-n {} link set far up", self.name)).expect("joined again");
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        let _left_behind = ip(&format!("netns del {}", self.name));
    }
}

fn setup(driver: Driver, far: &Far, upstream_url: &str) -> Setup {
    Setup::new(driver, upstream_url)
        .set("server.host", &far.near)
        .set("server.dead_peer_after", "5s")
}

fn open(mut client: Peer, upstream: &Upstream) -> (Peer, Conn) {
    client.send(HANDSHAKE);
    let mut conn = upstream.accept();
    conn.read_head();
    conn.send(ANSWER_101);
    client.open();
    client.ping(&mut conn, b"alive");
    (client, conn)
}

/// Waits for `count` tunnels to end, all of them as `dead_peer` and within 5 s and a quarter (and a little for the machine).
#[track_caller]
fn wait_dead(proxy: &Proxy, cut: Instant, count: usize) {
    let closed = || {
        let events = proxy.events();
        events.into_iter().filter(|event| event.is("websocket.closed")).collect::<Vec<_>>()
    };
    eventually_within(Duration::from_secs(30), "the dead are found", || {
        (closed().len() >= count).then_some(())
    });
    let took = cut.elapsed();
    for event in closed() {
        assert_eq!(event.text("payload.reason"), "dead_peer", "{}", event.line);
    }
    assert!(took < Duration::from_millis(6250 + 3000), "{took:?}");
}

#[track_caller]
fn assert_no_place(mut client: Peer) {
    client.send(HANDSHAKE);
    assert_eq!(client.read_answer().head.status(), 429);
}

fn number(driver: Driver, offset: u8) -> u8 {
    offset + u8::from(driver == Driver::IoUring)
}

/// D15: idle, with data on its way to the vanished side, and with either direction ended before.
fn a_vanished_client_is_found(driver: Driver) {
    let Some(far) = Far::new(number(driver, 10)) else {
        return;
    };
    let upstream = Upstream::start();
    let mut proxy = setup(driver, &far, &upstream.url()).set("websocket.max_per_ip", "4").start();
    let address: SocketAddr = proxy.address();
    let connect = || far.inside(|| Peer::connect(address));
    let idle = open(connect(), &upstream);
    let mut pending = open(connect(), &upstream);
    let mut half_closed = open(connect(), &upstream);
    half_closed.1.fin();
    half_closed.0.expect_end();
    let mut ended = open(connect(), &upstream);
    ended.0.fin();
    ended.1.expect_end();
    let mut alive = open(Peer::connect(address), &upstream);
    assert_no_place(connect());
    far.cut();
    let cut = Instant::now();
    pending.1.send(&[7; 10_000]);
    wait_dead(&proxy, cut, 4);
    for conn in [&idle.1, &pending.1, &half_closed.1] {
        conn.wait_end();
    }
    // Silent for as long, but living: never cut.
    alive.0.ping(&mut alive.1, b"still here");
    drop((idle, pending, half_closed, ended, alive));
    // 8.3: the dead have given their places back, each of them its own.
    far.join_again();
    let tunnels: Vec<_> = (0..4).map(|_| open(connect(), &upstream)).collect();
    assert_no_place(connect());
    drop(tunnels);
    let dead = [("reason", "dead_peer")];
    proxy.wait_metric("vibewarden_websocket_closed_total", &dead, 4.0);
    drop(proxy.stop());
}

fn a_vanished_upstream_is_found(driver: Driver) {
    let Some(far) = Far::new(number(driver, 20)) else {
        return;
    };
    let upstream = far.inside(|| {
        let address = format!("{}:0", far.address);
        Upstream::on(address.parse().expect("an address"))
    });
    let mut proxy = setup(driver, &far, &upstream.url()).start();
    let mut idle = open(proxy.connect(), &upstream);
    let mut pending = open(proxy.connect(), &upstream);
    far.cut();
    let cut = Instant::now();
    pending.0.send(&[7; 10_000]);
    wait_dead(&proxy, cut, 2);
    // The living client is told.
    for client in [&mut idle.0, &mut pending.0] {
        client.expect_end();
    }
    drop((idle, pending));
    drop(proxy.stop());
}
