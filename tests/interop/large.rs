//! Bodies of a gibibyte through the proxy, by length and in chunks, both ways, with curl at one end; the memory of the proxy does not
//! know how long they are.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

use super::browser::installed;
use super::harness::message::Source;
use super::harness::setup::Scratch;
use super::harness::{ANSWER_LAST, Driver, Peer, Proxy, Setup, Upstream};

const BLOCK_BYTES: usize = 1 << 20;
const BLOCKS: usize = 1024;
/// Allowed growth of the peak resident memory.
const GROWTH_MAX: usize = 8 << 20;

/// Each block is zeros behind its own number: cheap to make, and out of place it is seen.
struct Blocks {
    block: Vec<u8>,
    number: usize,
    at: usize,
}

impl Blocks {
    fn new() -> Self {
        let mut blocks = Self { block: vec![0; BLOCK_BYTES], number: 0, at: 0 };
        blocks.mark();
        blocks
    }

    fn mark(&mut self) {
        self.block[..16].copy_from_slice(format!("{:016}", self.number).as_bytes());
    }

    fn next(&mut self) {
        self.number += 1;
        self.at = 0;
        self.mark();
    }

    /// Compares what arrived with what comes next.
    #[track_caller]
    fn expect(&mut self, mut arrived: &[u8]) {
        while !arrived.is_empty() {
            let (now, later) = arrived.split_at(arrived.len().min(BLOCK_BYTES - self.at));
            let expected = &self.block[self.at..self.at + now.len()];
            assert!(now == expected, "block {} was changed behind {}", self.number, self.at);
            self.at += now.len();
            if self.at == BLOCK_BYTES {
                self.next();
            }
            arrived = later;
        }
    }

    #[track_caller]
    fn expect_end(&self) {
        assert_eq!((self.number, self.at), (BLOCKS, 0), "blocks and bytes that arrived");
    }
}

fn setup(driver: Driver, upstream: &Upstream) -> Setup {
    Setup::new(driver, upstream.url()).set("body_size.max", "0")
}

/// Largest resident memory of the proxy so far, in bytes.
#[track_caller]
fn peak_bytes(proxy: &Proxy) -> usize {
    let path = format!("/proc/{}/status", proxy.process.id());
    let status = std::fs::read_to_string(path).expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<usize>().ok());
    1024 * kib.expect("VmHWM in kB")
}

/// Peak of the resident memory after a first small request.
fn peak_after_a_request(proxy: &Proxy, upstream: &Upstream) -> usize {
    super::harness::forwarded(
        proxy,
        upstream,
        b"POST /small HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nhello",
    );
    peak_bytes(proxy)
}

#[track_caller]
fn assert_flat(proxy: &Proxy, before: usize, what: &str) {
    let grown = peak_bytes(proxy) - before;
    println!("{what}: the peak grew by {} KiB", grown / 1024);
    assert!(grown < GROWTH_MAX, "{what}: the peak grew by {grown} bytes");
}

fn curl() -> Option<Command> {
    let curl = installed("curl");
    let required = std::env::var_os("VIBEWARDEN_TEST_FOREIGN").is_some_and(|it| it == "required");
    assert!(curl.is_some() || !required, "curl is not installed");
    if curl.is_none() {
        println!("skipped: curl is not installed");
    }
    let mut command = Command::new(curl?);
    command.args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "90"]);
    Some(command)
}

#[track_caller]
fn download(driver: Driver) {
    let upstream = Upstream::start();
    let proxy = setup(driver, &upstream).start();
    let before = peak_after_a_request(&proxy, &upstream);
    for in_chunks in [false, true] {
        let Some(mut curl) = curl() else {
            return;
        };
        let mut child = curl
            .arg(format!("http://{}/large", proxy.address()))
            .stdout(Stdio::piped())
            .spawn()
            .expect("curl");
        let mut far = upstream.accept_unrecorded();
        far.read_request();
        let sending = std::thread::spawn(move || send_blocks(&mut far, in_chunks));
        let mut arrived = child.stdout.take().expect("stdout");
        let mut expected = Blocks::new();
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match arrived.read(&mut buffer).expect("what curl writes") {
                0 => break,
                count => expected.expect(&buffer[..count]),
            }
        }
        assert!(child.wait().expect("curl ends").success());
        expected.expect_end();
        sending.join().expect("the application");
        assert_flat(&proxy, before, if in_chunks { "download in chunks" } else { "download" });
    }
}

fn send_blocks(far: &mut Peer, in_chunks: bool) {
    let framing = if in_chunks {
        "Transfer-Encoding: chunked".to_owned()
    } else {
        format!("Content-Length: {}", BLOCKS * BLOCK_BYTES)
    };
    far.send(format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{framing}\r\n\r\n").as_bytes());
    let mut blocks = Blocks::new();
    for _ in 0..BLOCKS {
        if in_chunks {
            far.send(format!("{BLOCK_BYTES:x}\r\n").as_bytes());
        }
        far.send(&blocks.block);
        if in_chunks {
            far.send(b"\r\n");
        }
        blocks.next();
    }
    if in_chunks {
        far.send(b"0\r\n\r\n");
    }
}

#[track_caller]
fn upload(driver: Driver) {
    let directory = Scratch::new();
    let path = directory.path().join("blocks");
    // Sparse: only the numbers take room.
    let file = File::create(&path).expect("a file");
    file.set_len((BLOCKS * BLOCK_BYTES) as u64).expect("its length");
    for number in 0..BLOCKS {
        let at = (number * BLOCK_BYTES) as u64;
        file.write_all_at(format!("{number:016}").as_bytes(), at).expect("a number");
    }
    let path = path.to_str().expect("a path in UTF-8");
    let upstream = Upstream::start();
    let proxy = setup(driver, &upstream).start();
    let before = peak_after_a_request(&proxy, &upstream);
    for in_chunks in [false, true] {
        let Some(mut curl) = curl() else {
            return;
        };
        if in_chunks {
            curl.args(["--header", "Transfer-Encoding: chunked"]);
        }
        let mut child = curl
            .args(["--header", "Expect:", "--upload-file", path])
            .arg(format!("http://{}/large", proxy.address()))
            .stdout(Stdio::piped())
            .spawn()
            .expect("curl");
        let mut far = upstream.accept_unrecorded();
        let head = far.read_head();
        assert_eq!(head.one("transfer-encoding").is_some(), in_chunks, "{head:?}");
        let mut expected = Blocks::new();
        if in_chunks {
            expect_chunks(&mut far, &mut expected);
        } else {
            expect_count(&mut far, &mut expected, BLOCKS * BLOCK_BYTES);
        }
        expected.expect_end();
        far.send(ANSWER_LAST);
        let mut answer = Vec::new();
        child.stdout.take().expect("stdout").read_to_end(&mut answer).expect("the answer");
        assert!(child.wait().expect("curl ends").success());
        assert_eq!(answer, b"ok");
        assert_flat(&proxy, before, if in_chunks { "upload in chunks" } else { "upload" });
    }
}

fn expect_count(far: &mut Peer, expected: &mut Blocks, mut left: usize) {
    let mut buffer = vec![0; 256 * 1024];
    while left > 0 {
        let room = buffer.len().min(left);
        let count = far.read_chunk(&mut buffer[..room]);
        assert!(count > 0, "an end with {left} bytes left");
        expected.expect(&buffer[..count]);
        left -= count;
    }
}

fn expect_chunks(far: &mut Peer, expected: &mut Blocks) {
    loop {
        let line = far.take_through(b"\r\n").expect("a chunk line");
        let digits = std::str::from_utf8(&line[..line.len() - 2]).expect("digits");
        let size = usize::from_str_radix(digits, 16).expect("a size");
        if size > 0 {
            expect_count(far, expected, size);
        }
        far.expect(b"\r\n");
        if size == 0 {
            return;
        }
    }
}

#[test]
fn a_gibibyte_to_curl_on_io_uring() {
    download(Driver::IoUring);
}

#[test]
fn a_gibibyte_to_curl_on_epoll() {
    download(Driver::Epoll);
}

#[test]
fn a_gibibyte_from_curl_on_io_uring() {
    upload(Driver::IoUring);
}

#[test]
fn a_gibibyte_from_curl_on_epoll() {
    upload(Driver::Epoll);
}
