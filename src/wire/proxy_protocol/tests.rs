//! PROXY headers, whole, cut anywhere, and wrong in every way.

use super::super::oracle;
use super::*;

fn whole(bytes: &[u8]) -> Option<String> {
    let header = parse(bytes)
        .unwrap_or_else(|error| panic!("{error:?}: {}", bytes.escape_ascii()))
        .unwrap_or_else(|| panic!("not complete: {}", bytes.escape_ascii()));
    assert_eq!(header.bytes, bytes.len(), "{}", bytes.escape_ascii());
    header.source.map(|source| source.to_string())
}

fn v2(version_command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).expect("a block").to_be_bytes();
    [V2, &[version_command, family], &length, block].concat()
}

/// 192.0.2.1:4660 to 198.51.100.2:443
const V4_BLOCK: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 2, 0x12, 0x34, 1, 187];

fn v6_block(source: &str) -> Vec<u8> {
    let source: Ipv6Addr = source.parse().expect("an address");
    [&source.octets()[..], &Ipv6Addr::LOCALHOST.octets(), &[0x12, 0x34, 1, 187]].concat()
}

/// As a balancer of another make writes it: 255 bytes of everything it knows.
fn extensions() -> Vec<u8> {
    let mut all = vec![0x04, 0, 3, 0, 0, 0, 0xEA, 0, 5, 1, b'v', b'p', b'c', b'e'];
    all.extend([0x20, 0, 200]);
    all.extend([0xAA; 200]);
    all.extend([0x02, 0, 0]);
    all
}

#[test]
fn headers_that_name_a_client() {
    for (bytes, source) in [
        (&b"PROXY TCP4 192.0.2.1 198.51.100.2 4660 443\r\n"[..], "192.0.2.1:4660"),
        (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "255.255.255.255:65535"),
        (b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", "0.0.0.0:0"),
        (b"PROXY TCP6 2001:DB8::1 ::1 4660 443\r\n", "[2001:db8::1]:4660"),
        (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 4660 443\r\n", "192.0.2.1:4660"),
        (&v2(0x21, 0x11, &V4_BLOCK), "192.0.2.1:4660"),
        (&v2(0x21, 0x21, &v6_block("2001:db8::1")), "[2001:db8::1]:4660"),
        (&v2(0x21, 0x21, &v6_block("::ffff:c000:201")), "192.0.2.1:4660"),
        (&v2(0x21, 0x11, &[&V4_BLOCK[..], &extensions()].concat()), "192.0.2.1:4660"),
    ] {
        assert_eq!(whole(bytes).as_deref(), Some(source), "{}", bytes.escape_ascii());
    }
}

#[test]
fn headers_that_leave_the_address_of_the_socket() {
    let longest = format!("PROXY UNKNOWN {}\r\n", "f".repeat(107 - 16));
    assert_eq!(longest.len(), V1_BYTES_MAX);
    for bytes in [
        &b"PROXY UNKNOWN\r\n"[..],
        b"PROXY UNKNOWN ffff:f:f ::1 99999 x\r\n",
        longest.as_bytes(),
        &v2(0x20, 0x00, &[]),
        &v2(0x20, 0x11, &V4_BLOCK),
        &v2(0x20, 0x77, b"whatever"),
        &v2(0x21, 0x00, &[]),
        &v2(0x21, 0x00, b"whatever"),
        &v2(0x20, 0x00, &[0; V2_REST_BYTES_MAX]),
    ] {
        assert_eq!(whole(bytes), None, "{}", bytes.escape_ascii());
    }
}

#[test]
fn what_follows_belongs_to_the_client_and_what_is_cut_is_no_error() {
    for header in [
        b"PROXY TCP4 192.0.2.1 198.51.100.2 4660 443\r\n".to_vec(),
        b"PROXY UNKNOWN\r\n".to_vec(),
        v2(0x20, 0x00, &[]),
        v2(0x21, 0x21, &[v6_block("2001:db8::1"), extensions()].concat()),
    ] {
        for cut in 0..header.len() {
            assert_eq!(parse(&header[..cut]), Ok(None), "{cut}: {}", header.escape_ascii());
        }
        for follows in [&b"GET / HTTP/1.1\r\n"[..], b"\r\n", b"\0", b"PROXY UNKNOWN\r\n"] {
            let parsed = parse(&[&header, follows].concat());
            assert_eq!(
                parsed.map(|found| found.map(|header| header.bytes)),
                Ok(Some(header.len()))
            );
        }
    }
}

#[test]
fn lines_that_are_wrong() {
    use ProxyHeaderError::{Line, Parts, Signature};
    let too_long = format!("PROXY UNKNOWN {}\r\n", "f".repeat(107 - 15));
    let endless = format!("PROXY UNKNOWN {}", "f".repeat(107 - 15));
    for (bytes, error) in [
        (&b"GET / HTTP/1.1\r\n"[..], Signature),
        (b"proxy UNKNOWN\r\n", Signature),
        (b" PROXY UNKNOWN\r\n", Signature),
        (b"PROXYX", Signature),
        (b"X", Signature),
        (b"PROXY \r\n", Parts),
        (b"PROXY UNKNOWNX\r\n", Parts),
        (b"PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n", Parts),
        (b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n", Parts),
        (b"PROXY TCP4 ::1 ::1 1 2\r\n", Parts),
        (b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n", Parts),
        (b"PROXY TCP6 [::1] ::1 1 2\r\n", Parts),
        (b"PROXY TCP6 fe80::1%1 ::1 1 2\r\n", Parts),
        (b"PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n", Parts),
        (b"PROXY TCP4 192.0.2.1 192.0.2 1 2\r\n", Parts),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n", Parts),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n", Parts),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n", Parts),
        (b"PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n", Parts),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n", Parts),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n", Parts),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n", Parts),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2  2\r\n", Parts),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n", Line),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\rX", Line),
        (b"PROXY TCP4 192.0.2.1\t192.0.2.2 1 2\r\n", Line),
        (b"PROXY TCP4\0", Line),
        (b"PROXY UNKNOWN \xff\r\n", Line),
        (too_long.as_bytes(), Line),
        (endless.as_bytes(), Line),
    ] {
        assert_eq!(parse(bytes), Err(error), "{}", bytes.escape_ascii());
        assert!(!error.message().is_empty());
    }
}

#[test]
fn binary_headers_that_are_wrong() {
    use ProxyHeaderError::{Kind, Length, Signature};
    let mut signature = v2(0x21, 0x11, &V4_BLOCK);
    signature[11] = b'\r';
    let mut huge = v2(0x20, 0x00, &[]);
    huge[14..16].copy_from_slice(&[0x10, 0x01]);
    for (bytes, error) in [
        (signature, Signature),
        (v2(0x11, 0x11, &V4_BLOCK), Kind),
        (v2(0x22, 0x11, &V4_BLOCK), Kind),
        (v2(0x31, 0x11, &V4_BLOCK), Kind),
        (v2(0x21, 0x12, &V4_BLOCK), Kind),
        (v2(0x21, 0x22, &v6_block("::1")), Kind),
        (v2(0x21, 0x31, &[0; 216]), Kind),
        (v2(0x21, 0x41, &V4_BLOCK), Kind),
        (v2(0x21, 0x11, &V4_BLOCK[..11]), Length),
        (v2(0x21, 0x21, &V4_BLOCK), Length),
        (v2(0x21, 0x11, &[&V4_BLOCK[..], &[4]].concat()), Length),
        (v2(0x21, 0x11, &[&V4_BLOCK[..], &[4, 0]].concat()), Length),
        (v2(0x21, 0x11, &[&V4_BLOCK[..], &[4, 0, 2, 9]].concat()), Length),
        (huge, Length),
    ] {
        assert_eq!(parse(&bytes), Err(error), "{}", bytes.escape_ascii());
    }
    // Refused as soon as it is known, not when all of it is there.
    assert_eq!(parse(&v2(0x22, 0, &[])[..16]), Err(Kind));
    assert_eq!(parse(&[V2, &[0x21, 0x11, 0xff, 0xff]].concat()), Err(Length));
}

#[test]
fn random_headers_are_read_as_the_oracle_reads_them() {
    for seed in 0..20_000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bytes = match random.u8(..3) {
            0 => {
                let (source, port) = (Ipv4Addr::from_bits(random.u32(..)), random.u16(..));
                format!("PROXY TCP4 {source} 192.0.2.2 {port} 443\r\nGET").into_bytes()
            }
            1 => {
                let (source, port) = (Ipv6Addr::from_bits(random.u128(..)), random.u16(..));
                format!("PROXY TCP6 {source} ::1 {port} 443\r\n").into_bytes()
            }
            _ => {
                let mut block: Vec<u8> = (0..random.usize(..60)).map(|_| random.u8(..)).collect();
                if random.bool() {
                    block = [&V4_BLOCK[..], &extensions()].concat();
                }
                let (command, family) = (random.u8(0x20..0x22), [0, 0x11, 0x21][random.usize(..3)]);
                v2(command, family, &block)
            }
        };
        if random.bool() {
            let at = random.usize(..bytes.len());
            bytes[at] = if random.bool() { random.u8(..) } else { b' ' };
        }
        let outcome = std::panic::catch_unwind(|| oracle::proxy_protocol(&bytes));
        assert!(outcome.is_ok(), "seed {seed}: {}", bytes.escape_ascii());
    }
}
