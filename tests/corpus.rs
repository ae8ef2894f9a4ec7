//! The properties that the fuzz targets check, over every file of the fuzz corpus, and over mutations of them.

use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;

use vibewarden::admission::jwt;
use vibewarden::config;
use vibewarden::proxy;
use vibewarden::wire::oracle;

/// Mutations of the bytes of a message, of a token and of a configuration, which take longer to judge. Each has a seed,
/// which a failure prints.
const MESSAGE_MUTATIONS: u64 = 20_000;
const TOKEN_MUTATIONS: u64 = 4_000;
const CONFIG_MUTATIONS: u64 = 2_000;

/// Mutations of the bytes of a connection, each of which is served three times.
const STREAM_MUTATIONS: u64 = 2_000;

/// Mutations of a script of a TLS connection, each with a handshake or two.
const TLS_MUTATIONS: u64 = 2_000;

/// Pieces that turn one meaning into another.
const PIECES: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b"\r\n ",
    b" ",
    b"\t",
    b"\0",
    b"\x7f",
    b"\xff",
    b":",
    b",",
    b";",
    b"_",
    b"..",
    b"/../",
    b"%2e",
    b"%2f",
    b"%5c",
    b"%00",
    b"%",
    b"0",
    b"1",
    b"chunked",
    b"websocket",
    b"HTTP/1.0",
    b"HTTP/1.1 101 ",
    b"http://t.test",
    b"Host: t.test\r\n",
    b"Content-Length: 1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: upgrade\r\n",
    b"Connection: X-User-Id, Host, Via, X-Request-ID\r\n",
    b"Upgrade: websocket\r\n",
    b"Sec-WebSocket-Version: 13\r\n",
    b"X-User-Id: a\r\n",
    b"X_User-Id: a\r\n",
    b"X-Forwarded-For: a\r\n",
    b"X-Forwarded-Host: a\r\n",
    b"X-Request-ID: a\r\n",
    b"TE: trailers\r\n",
    b"Via: 1.0 a\r\n",
    b"Expect: 100-continue\r\n",
    b"\"",
    b"\\u0065",
    b"null",
    b"1e400",
    b"-1",
    b"[\"a\",[\"b\"]]",
    b"\"alg\":\"none\",",
    b"\"alg\":\"EdDSA\",",
    b"\"crit\":[],",
    b"\"exp\":1749999980,",
    b"\"nbf\":1750000031,",
    b"\"aud\":[\"b\",\"a\"],",
];

#[test]
fn request_heads() {
    check("request_head", 50, MESSAGE_MUTATIONS, oracle::request_head);
}

#[test]
fn response_heads() {
    check("response_head", 20, MESSAGE_MUTATIONS, oracle::response_head);
}

#[test]
fn chunked_content() {
    check("chunked", 15, MESSAGE_MUTATIONS, oracle::chunked);
}

#[test]
fn tokens() {
    check("token", 15, TOKEN_MUTATIONS, |data| {
        jwt::oracle::token(data);
        jwt::oracle::library_agrees(data);
    });
}

#[test]
fn proxy_headers() {
    check("proxy_protocol", 20, MESSAGE_MUTATIONS, oracle::proxy_protocol);
}

#[test]
fn request_streams() {
    check("request_stream", 60, STREAM_MUTATIONS, proxy::oracle::request_stream);
}

#[test]
fn tls_streams() {
    check("tls_stream", 15, TLS_MUTATIONS, proxy::oracle::tls_stream);
}

#[test]
fn configurations() {
    check("config", 10, CONFIG_MUTATIONS, |data| {
        if let Ok(text) = str::from_utf8(data) {
            config::fuzz_oracle(text);
        }
    });
}

/// Runs `oracle` over the corpus of `target`, which has at least `files_min` files, and over this many `mutations` of it.
fn check(target: &str, files_min: usize, mutations: u64, oracle: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut corpus: Vec<(String, Vec<u8>)> = fs::read_dir(&folder)
        .expect("the corpus folder is there")
        .map(|entry| entry.expect("a readable entry").path())
        .map(|path| (path.display().to_string(), fs::read(&path).expect("a readable file")))
        .collect();
    corpus.sort();
    assert!(corpus.len() >= files_min, "the corpus of {target} has {} files", corpus.len());
    for (name, data) in &corpus {
        run(name, data, oracle);
    }
    for seed in 1..=mutations {
        run(&format!("seed {seed}"), &mutate(&corpus, seed), oracle);
    }
}

fn run(name: &str, data: &[u8], oracle: fn(&[u8])) {
    if let Err(failure) = panic::catch_unwind(AssertUnwindSafe(|| oracle(data))) {
        eprintln!("{name}: {}", data.escape_ascii());
        panic::resume_unwind(failure);
    }
}

/// A file of the corpus with one to four changes.
fn mutate(corpus: &[(String, Vec<u8>)], seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut data = corpus[random.usize(..corpus.len())].1.clone();
    for _ in 0..random.usize(1..=4) {
        let at = random.usize(..=data.len());
        let end = random.usize(at..=data.len().min(at + 20));
        match random.u8(..6) {
            0 => {
                data.splice(at..end, []);
            }
            1 => {
                data.splice(at..at, PIECES[random.usize(..PIECES.len())].iter().copied());
            }
            2 => {
                data.splice(at..end, PIECES[random.usize(..PIECES.len())].iter().copied());
            }
            3 if at < data.len() => data[at] ^= 1 << random.u8(..8),
            4 => {
                let copy = data[at..end].to_vec();
                let to = random.usize(..=data.len());
                data.splice(to..to, copy);
            }
            // A piece at the start of a line, where header lines are found.
            _ => {
                let starts: Vec<_> =
                    data.windows(2).enumerate().filter(|(_, pair)| pair == b"\r\n").collect();
                if let Some((start, _)) = random.choice(starts) {
                    let piece = PIECES[random.usize(..PIECES.len())];
                    data.splice(start + 2..start + 2, piece.iter().copied());
                }
            }
        }
    }
    data
}
