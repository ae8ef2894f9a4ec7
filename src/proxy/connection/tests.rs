use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, mpsc};

use futures_util::future::join;
use rustix::io::Errno;

use super::super::core::tests::parts;
use super::super::driver::{CoreRuntime, Mode};
use super::super::stream::tests::pair;
use super::*;
use crate::admission::jwt::{KeySet, Keys};
use crate::admission::policy::Addresses;

const REQUEST: &[u8] =
    b"GET / HTTP/1.1\r\nHost: t.test\r\nAuthorization: Bearer e30.e30.e30\r\n\r\n";
const HALF_AN_ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello";

/// Reads more; false at the end of input.
async fn read_more(client: &Socket, seen: &mut Vec<u8>) -> Result<bool, Errno> {
    let mut bytes = [0; 4096];
    loop {
        match client.try_recv(&mut bytes) {
            Ok(count) => {
                seen.extend_from_slice(&bytes[..count]);
                return Ok(count > 0);
            }
            Err(Errno::AGAIN) => client.readable().await.unwrap(),
            Err(error) => return Err(error),
        }
    }
}

/// A client that has half an answer must not take another one for the rest of it.
#[test]
fn a_defect_behind_half_an_answer_is_a_reset() {
    let mut runtime = CoreRuntime::build(Mode::Epoll).unwrap();
    let application = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let upstream = application.local_addr().unwrap();
    let (go_on, told) = mpsc::sync_channel(1);
    let answering = std::thread::spawn(move || {
        let (mut peer, _) = application.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            peer.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        peer.write_all(HALF_AN_ANSWER).unwrap();
        told.recv().unwrap();
        peer.write_all(b"world").unwrap();
        // However the proxy lets it go.
        let _ = peer.read_to_end(&mut Vec::new());
    });
    let (parts, policy) = parts(Mode::Epoll, upstream, &[upstream]);
    let metrics = Arc::clone(&parts.metrics);
    let (seen, end) = runtime.block_on(async move {
        let core = Rc::new(Core::new(parts, policy.reader()).unwrap());
        let (client, near) = pair();
        let asking = async {
            client.send_all(REQUEST, None).await.unwrap();
            let mut seen = Vec::new();
            while !seen.ends_with(b"hello") {
                assert_eq!(read_more(&client, &mut seen).await, Ok(true));
            }
            // The defect: nobody can use the scratch buffer any more.
            std::mem::forget(core.scratch.borrow_mut());
            go_on.send(()).unwrap();
            loop {
                match read_more(&client, &mut seen).await {
                    Ok(true) => {}
                    end => return (seen, end),
                }
            }
        };
        join(serve_requests(Rc::clone(&core), near, upstream.ip()), asking).await.1
    });
    answering.join().unwrap();
    assert_eq!(metrics.cores[0].task_panics.get(), 1);
    assert!(seen.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", seen.escape_ascii());
    assert!(seen.ends_with(b"\r\n\r\nhello"), "{}", seen.escape_ascii());
    assert_eq!(end, Err(Errno::CONNRESET));
}

/// While nothing of an answer is sent, the client is told.
#[test]
fn a_defect_before_an_answer_is_a_500() {
    let text =
        "{tls: {enabled: false}, auth: {mode: jwt, jwt: {issuer: 'https://i.test', audience: a}}}";
    let config = crate::config::load_text(text, None, &BTreeMap::new()).unwrap().config;
    let nowhere = || Addresses::Tcp(Vec::new());
    let key = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    let set = KeySet::parse(format!(r#"{{"keys":[{key}]}}"#).as_bytes()).unwrap();
    let mut runtime = CoreRuntime::build(Mode::Epoll).unwrap();
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let (parts, policy) = parts(Mode::Epoll, listen, &[]);
    policy.publish(Policy::new(config, nowhere(), nowhere()));
    let keys = Keys { set: Some(set.into()), generation: 1, quiet_until: None };
    parts.providers.keys.publish(keys);
    let metrics = Arc::clone(&parts.metrics);
    let seen = runtime.block_on(async move {
        let core = Rc::new(Core::new(parts, policy.reader()).unwrap());
        let (client, near) = pair();
        // The defect: nobody can look a token up any more.
        std::mem::forget(core.tokens.borrow_mut());
        let asking = async {
            client.send_all(REQUEST, None).await.unwrap();
            let mut seen = Vec::new();
            while read_more(&client, &mut seen).await == Ok(true) {}
            client.try_end().unwrap();
            seen
        };
        join(serve_requests(core.clone(), near, listen.ip()), asking).await.1
    });
    assert_eq!(metrics.cores[0].task_panics.get(), 1);
    assert!(seen.starts_with(b"HTTP/1.1 500 "), "{}", seen.escape_ascii());
}
