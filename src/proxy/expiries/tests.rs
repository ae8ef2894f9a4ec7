use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::time::{Duration, UNIX_EPOCH};

use super::super::core::tests::parts;
use super::super::driver::{CoreRuntime, Mode};
use super::super::stream::tests::adopt;
use super::*;

fn tunnel() -> Rc<Tunnel> {
    let [client, upstream] = [UnixStream::pair(), UnixStream::pair()].map(|pair| {
        let (near, _) = pair.unwrap();
        adopt(near)
    });
    Tunnel::new(client, upstream, false, None)
}

#[test]
fn a_tunnel_ends_when_its_credential_does_and_not_before() {
    let mut runtime = CoreRuntime::build(Mode::Epoll).unwrap();
    let (parts, policy) = parts(Mode::Epoll, (Ipv4Addr::LOCALHOST, 0).into(), &[]);
    runtime.block_on(async move {
        let core = Rc::new(Core::new(parts, policy.reader()).unwrap());
        let end = UNIX_EPOCH + Duration::from_secs(1_750_000_000);
        let [one, other, later, closed] = [(); 4].map(|()| tunnel());
        let _places = [(&one, end), (&other, end), (&later, end + Duration::from_secs(1))]
            .map(|(tunnel, at)| Expiring::add(&core, tunnel, at));
        drop(Expiring::add(&core, &closed, end));

        core.expiries.end_due(end - Duration::from_nanos(1));
        assert_eq!([&one, &other, &later].map(|it| it.ordered_to_end()), [None; 3]);
        core.expiries.end_due(end);
        let expired = Some(CloseReason::Expired);
        let orders = [&one, &other, &later, &closed].map(|it| it.ordered_to_end());
        assert_eq!(orders, [expired, expired, None, None]);
        core.expiries.end_due(end + Duration::from_secs(1));
        assert_eq!(later.ordered_to_end(), expired);
    });
}
