//! Seed 1, 5, 8, 11 to 15, 22 to 27: the file that comes with the program, as it is, in front of an application and Kratos.
//! Only places are given by the environment, and a rate that makes the test independent of the clock.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use crate::auth_kratos::{INVALID, NONE, WHOAMI, cookie, session};
use crate::harness::event::Event;
use crate::harness::guarded::{Form, Guarded, request};
use crate::harness::provider::{Provider, Reply};
use crate::harness::setup::Scratch;
use crate::harness::tls::{ONLY_13, client};
use crate::harness::{ANSWER_101, Driver, Proxy, Setup, Upstream};

on_drivers!(
    every: ;
    both:
        it_authenticates_and_limits_upgrades_and_no_frames,
        the_example_of_the_product_does_the_same_over_tls,
);

/// The example that the product shows, as it is.
const EXAMPLE: &str = "upstream:
  url: \"http://localhost:3000\"
plugins:
  rate-limiting:
    enabled: true
  user-management:
    enabled: true
";

/// `rate_limit.per_ip.burst` where nothing else is said.
const BURST: usize = 20;

fn it_authenticates_and_limits_upgrades_and_no_frames(driver: Driver) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/vibewarden.yaml");
    for address in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
        guards(driver, address, |setup| setup.start_from(Scratch::new(), Path::new(path)));
    }
}

fn the_example_of_the_product_does_the_same_over_tls(driver: Driver) {
    guards(driver, Ipv4Addr::LOCALHOST.into(), |setup| {
        let directory = Scratch::new();
        let path = directory.path().join("vibewarden.yaml");
        std::fs::write(&path, EXAMPLE).expect("a file of our own");
        let proxy = setup.start_from(directory, &path).with_clients(client(ONLY_13));
        let started = proxy.wait_event("the start", |event| event.kind() == "proxy.started");
        assert_eq!(started.text("payload.tls_provider"), "self-signed");
        proxy
    });
}

/// An application at this address, and Kratos, behind a proxy that `start` starts.
fn guards(driver: Driver, address: IpAddr, start: impl Fn(&Setup) -> Proxy) {
    let provider = Provider::start();
    let upstream = Upstream::on((address, 0).into());
    let word = if driver == Driver::Epoll { "epoll" } else { "io_uring" };
    let setup = Setup::empty()
        .environment("VIBEWARDEN_UPSTREAM_URL", &format!("http://localhost:{}", upstream.port()))
        .environment("VIBEWARDEN_KRATOS_PUBLIC_URL", &provider.url())
        .environment("VIBEWARDEN_SERVER_PORT", "0")
        .environment("VIBEWARDEN_SERVER_DRIVER", word)
        .environment("VIBEWARDEN_RATE_LIMIT_PER_IP_REQUESTS_PER_SECOND", "0.001");
    let proxy = start(&setup);
    let mut guarded = Guarded::over(proxy, upstream);

    guarded.denied_as(Form::Upgrade, "/ws", "", NONE);
    assert_eq!(provider.count(WHOAMI), 0);
    provider.say(WHOAMI, Reply::json(401, "{}"));
    guarded.denied_as(Form::Upgrade, "/ws", &cookie("canary-unknown"), INVALID);
    provider.say(WHOAMI, session(false, "user"));
    guarded.denied_as(Form::Upgrade, "/ws", &cookie("canary-inactive"), INVALID);

    provider.say(WHOAMI, session(true, "user"));
    let good = request(Form::Upgrade, "/ws", &cookie("canary-active"));
    let mut open = Vec::new();
    for _ in 3..BURST {
        let mut client = guarded.proxy.sent(&good);
        let mut conn = guarded.upstream.accept();
        assert_eq!(conn.read_head().one("x-user-id"), Some("id-1"));
        conn.send(ANSWER_101);
        client.open();
        open.push((client, conn));
    }
    let before = provider.count(WHOAMI);
    let refused = guarded.proxy.answer_to(&good);
    let id = refused.assert_refusal(429, "rate_limit_exceeded");
    guarded.upstream.assert_untouched();
    assert_eq!(provider.count(WHOAMI), before, "the limit comes first");
    // Whatever is said on a tunnel is nobody's business, also now.
    provider.say(WHOAMI, Reply::json(401, "{}"));
    let (client, conn) = &mut open[0];
    for _ in 0..10 * BURST {
        client.ping(conn, b"no token for this");
    }
    drop(open);

    let stopped = guarded.finish(&["canary-"]);
    let opened = stopped.of_kind("request.proxied");
    assert_eq!(opened.len(), BURST - 3);
    for event in opened {
        assert_eq!(event.count("payload.status_code"), 101, "{}", event.line);
        assert!(event.line.contains("\"websocket\":true"), "{}", event.line);
    }
    assert_eq!(stopped.of_kind("websocket.closed").len(), BURST - 3);
    assert_eq!(stopped.of_kind("auth.denied").len(), 3);
    assert_eq!(stopped.only("rate_limit.blocked").request_id(), id);
    let ends = stopped.events.iter().filter(|event| Event::ends_a_request(event));
    assert_eq!(ends.count(), BURST + 1, "one line for each upgrade, none for frames");
}
