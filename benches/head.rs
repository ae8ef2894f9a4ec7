//! What the proxy itself computes for one upgrade: find the head, read it, check it, write it, and the same for the 101.

use std::hint::black_box;
use std::net::IpAddr;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vibewarden::wire::answer::{AnswerHeaders, Via, write_switching};
use vibewarden::wire::body::ChunkedDecoder;
use vibewarden::wire::forward::{Forwarding, Purpose, request_id, write_request};
use vibewarden::wire::head::HeadScanner;
use vibewarden::wire::request::RequestHead;
use vibewarden::wire::response::{RESPONSE_HEAD_BYTES_MAX, ResponseHead};
use vibewarden::wire::upgrade::Upgrade;

const HEAD_BYTES_MAX: usize = 16 * 1024;

/// What a browser sends: 13 lines.
const REQUEST: &[u8] = b"GET /chat?room=general&since=1718000000 HTTP/1.1\r\n\
    Host: app.example.com\r\n\
    Connection: Upgrade\r\n\
    Pragma: no-cache\r\n\
    Cache-Control: no-cache\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n\
    Upgrade: websocket\r\n\
    Origin: https://app.example.com\r\n\
    Sec-WebSocket-Version: 13\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-US,en;q=0.9\r\n\
    Cookie: ory_kratos_session=MTcxODAwMDAwMHxEdi1CQkFFQ180SUFBUkFCRUFBQVJfLUNBQUVHYzNSeWFXNW5EQThB; theme=dark\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\n\
    Upgrade: websocket\r\n\
    Connection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
    Sec-WebSocket-Extensions: permessage-deflate\r\n\
    Date: Mon, 10 Jun 2024 06:13:20 GMT\r\n\
    Server: app\r\n\r\n";

const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 195));

fn forwarding<'a>(head: &RequestHead<'a>) -> Forwarding<'a> {
    Forwarding {
        target: None,
        hidden_subprotocols: &[],
        client: ADDRESS,
        peer: ADDRESS,
        peer_trusted: false,
        tls: false,
        request_id: request_id(head).unwrap_or("req_ABCDEFGHIJKL"),
        upstream_authority: "127.0.0.1:3000",
        identity: &[],
        identity_names: &[],
        api_key_header: None,
    }
}

fn scan(bytes: &[u8], head_bytes_max: usize) -> usize {
    let end = HeadScanner::new(head_bytes_max).advance(bytes);
    end.expect("a clean head").expect("a whole head")
}

/// All of it for one upgrade; gives the bytes written to the upstream and to the client.
fn upgrade(request: &[u8], response: &[u8], to_upstream: &mut Vec<u8>, to_client: &mut Vec<u8>) {
    let request = &request[..scan(request, HEAD_BYTES_MAX)];
    let request = RequestHead::parse(request).expect("valid");
    assert!(!request.is_own_endpoint());
    let upgrade = Upgrade::of(&request).expect("valid").expect("an upgrade");
    to_upstream.clear();
    write_request(to_upstream, &request, &forwarding(&request), Purpose::Upgrade);
    let response = &response[..scan(response, RESPONSE_HEAD_BYTES_MAX)];
    let response = ResponseHead::parse(response).expect("valid");
    response.check_switching(&upgrade.accept()).expect("the right 101");
    to_client.clear();
    write_switching(to_client, &response, &AnswerHeaders::new([], Via::Suppressed));
}

fn request(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("request");
    group.throughput(Throughput::Bytes(REQUEST.len() as u64));
    group.bench_function("scan", |bencher| {
        bencher.iter(|| assert_eq!(scan(black_box(REQUEST), HEAD_BYTES_MAX), REQUEST.len()));
    });
    group.bench_function("parse", |bencher| {
        bencher.iter(|| {
            let head = RequestHead::parse(black_box(REQUEST)).expect("valid");
            assert_eq!(head.headers.len(), 13);
            black_box(head);
        });
    });
    let head = RequestHead::parse(REQUEST).expect("valid");
    group.bench_function("upgrade check", |bencher| {
        bencher
            .iter(|| black_box(Upgrade::of(black_box(&head)).expect("valid").expect("an upgrade")));
    });
    let upgrade = Upgrade::of(&head).expect("valid").expect("an upgrade");
    group.bench_function("accept", |bencher| {
        bencher.iter(|| {
            assert_eq!(black_box(upgrade).accept().as_bytes(), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        });
    });
    let forwarding = forwarding(&head);
    let mut out = Vec::new();
    group.bench_function("write", |bencher| {
        bencher.iter(|| {
            out.clear();
            write_request(&mut out, black_box(&head), black_box(&forwarding), Purpose::Upgrade);
            assert!(out.ends_with(b"Connection: Upgrade\r\n\r\n"));
            black_box(&out);
        });
    });
    group.finish();
}

fn response(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("response");
    group.throughput(Throughput::Bytes(RESPONSE.len() as u64));
    let request = RequestHead::parse(REQUEST).expect("valid");
    let accept = Upgrade::of(&request).expect("valid").expect("an upgrade").accept();
    group.bench_function("scan, parse and check", |bencher| {
        bencher.iter(|| {
            let bytes = black_box(RESPONSE);
            let head =
                ResponseHead::parse(&bytes[..scan(bytes, RESPONSE_HEAD_BYTES_MAX)]).expect("valid");
            head.check_switching(black_box(&accept)).expect("the right 101");
            black_box(head);
        });
    });
    let head = ResponseHead::parse(RESPONSE).expect("valid");
    let headers = AnswerHeaders::new([], Via::Suppressed);
    let mut out = Vec::new();
    group.bench_function("write", |bencher| {
        bencher.iter(|| {
            out.clear();
            write_switching(&mut out, black_box(&head), &headers);
            assert!(out.ends_with(b"Connection: Upgrade\r\n\r\n"));
            black_box(&out);
        });
    });
    group.finish();
}

fn whole(criterion: &mut Criterion) {
    let (mut to_upstream, mut to_client) = (Vec::new(), Vec::new());
    criterion.bench_function("whole upgrade", |bencher| {
        bencher.iter(|| {
            upgrade(black_box(REQUEST), black_box(RESPONSE), &mut to_upstream, &mut to_client);
            black_box((&to_upstream, &to_client));
        });
    });
}

fn chunks(criterion: &mut Criterion) {
    let chunk = [b"2000\r\n".to_vec(), vec![b'x'; 0x2000], b"\r\n".to_vec()].concat();
    let content = [chunk.repeat(8), b"0\r\n\r\n".to_vec()].concat();
    let mut group = criterion.benchmark_group("body");
    group.throughput(Throughput::Bytes(content.len() as u64));
    group.bench_function("chunks of 8 KiB", |bencher| {
        bencher.iter(|| {
            let mut decoder = ChunkedDecoder::new(HEAD_BYTES_MAX);
            let mut rest = black_box(content.as_slice());
            let mut data_bytes = 0;
            while !decoder.is_complete() {
                let step = decoder.decode(rest).expect("valid");
                data_bytes += step.data.len();
                rest = &rest[step.consumed..];
            }
            assert_eq!(data_bytes, 8 * 0x2000);
        });
    });
    group.finish();
}

criterion_group!(benches, request, response, whole, chunks);
criterion_main!(benches);
