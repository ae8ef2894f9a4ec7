//! Who the client is, behind none, one and many proxies.

use super::*;

fn block(text: &str) -> Cidr {
    let (network, prefix) = text.split_once('/').expect("address/prefix");
    Cidr { network: network.parse().expect("address"), prefix: prefix.parse().expect("prefix") }
}

/// The client as the peer 10.0.0.1 and these lines say, with 10/8 and `2001:db8:ff::/48` trusted.
fn client(lines: &[&str]) -> String {
    let trusted = [block("10.0.0.0/8"), block("2001:db8:ff::/48")];
    let (client, peer_trusted) = client_address(
        IpAddr::from([10, 0, 0, 1]),
        lines.iter().map(|line| line.as_bytes()),
        &trusted,
    );
    assert!(peer_trusted);
    client.to_string()
}

#[test]
fn a_peer_that_is_not_trusted_is_the_client() {
    let peer = IpAddr::from([192, 0, 2, 1]);
    let lines = [&b"1.2.3.4"[..]];
    assert_eq!(client_address(peer, lines.into_iter(), &[]), (peer, false));
    assert_eq!(client_address(peer, lines.into_iter(), &[block("10.0.0.0/8")]), (peer, false));
}

#[test]
fn a_mapped_peer_is_its_ipv4_address() {
    let mapped = "::ffff:10.0.0.1".parse().expect("address");
    let lines = [&b"::ffff:192.0.2.7"[..]];
    assert_eq!(
        client_address(mapped, lines.into_iter(), &[block("10.0.0.0/8")]),
        (IpAddr::from([192, 0, 2, 7]), true)
    );
    assert_eq!(
        client_address(mapped, lines.into_iter(), &[]),
        (IpAddr::from([10, 0, 0, 1]), false)
    );
}

#[test]
fn the_rightmost_address_that_is_not_trusted_is_the_client() {
    for (lines, expected) in [
        (&[][..], "10.0.0.1"),
        (&["192.0.2.1"], "192.0.2.1"),
        (&["6.6.6.6, 192.0.2.1"], "192.0.2.1"),
        (&["6.6.6.6, 192.0.2.1, 10.2.3.4"], "192.0.2.1"),
        (&["6.6.6.6", "192.0.2.1,10.1.1.1", "10.2.3.4"], "192.0.2.1"),
        (&["10.9.9.9, 10.8.8.8"], "10.9.9.9"),
        (&["2001:db8:1::5, 2001:db8:ff::1"], "2001:db8:1::5"),
        // an entry that is no address ends the walk
        (&["192.0.2.1, junk"], "10.0.0.1"),
        (&["192.0.2.1, junk, 10.3.3.3"], "10.3.3.3"),
        (&["192.0.2.1, , 10.3.3.3"], "10.3.3.3"),
        (&["192.0.2.1", ""], "10.0.0.1"),
        (&["junk"], "10.0.0.1"),
        (&["unknown, 192.0.2.1"], "192.0.2.1"),
    ] {
        assert_eq!(client(lines), expected, "{lines:?}");
    }
}

#[test]
fn entries_in_every_spelling() {
    // F12
    for (entry, expected) in [
        ("192.0.2.1:8080", "192.0.2.1"),
        ("\t192.0.2.1 ", "192.0.2.1"),
        ("2001:DB8:0:0::0001", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("[fe80::1%25eth0]:1", "fe80::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("[::ffff:c000:201]:9", "192.0.2.1"),
        ("64:ff9b::192.0.2.1", "64:ff9b::c000:201"),
    ] {
        assert_eq!(client(&[entry]), expected, "{entry}");
    }
    for entry in [
        "",
        "192.0.2",
        "192.0.2.256",
        "192.0.2.01",
        "192.0.2.1:",
        "192.0.2.1:x",
        "192.0.2.1:+1",
        "192.0.2.1:65536",
        "[192.0.2.1]",
        "[::1",
        "[::1]x",
        "[::1]:",
        "::1]",
        "fe80::1%",
        "host",
        "\"192.0.2.1\"",
        "for=192.0.2.1",
        "192.0.2.1 192.0.2.2",
        "0x1.2.3.4",
    ] {
        assert_eq!(client(&[entry]), "10.0.0.1", "{entry:?}");
    }
    let (client, _) = client_address(
        IpAddr::from([10, 0, 0, 1]),
        [&b"192.0.2.1\xff"[..]].into_iter(),
        &[block("10.0.0.0/8")],
    );
    assert_eq!(client, IpAddr::from([10, 0, 0, 1]));
}

#[test]
fn blocks_contain_what_their_prefix_says() {
    for (network, address, inside) in [
        ("10.0.0.0/8", "10.255.255.255", true),
        ("10.0.0.0/8", "11.0.0.0", false),
        ("0.0.0.0/0", "255.1.2.3", true),
        ("0.0.0.0/0", "::1", false),
        ("192.0.2.1/32", "192.0.2.1", true),
        ("192.0.2.1/32", "192.0.2.0", false),
        ("192.0.2.128/25", "192.0.2.127", false),
        ("::/0", "2001:db8::1", true),
        ("::/0", "192.0.2.1", false),
        ("fc00::/7", "fdff::1", true),
        ("fc00::/7", "fe00::1", false),
        ("::1/128", "::1", true),
        ("::1/128", "::2", false),
    ] {
        let seen = contains(&block(network), address.parse().expect("address"));
        assert_eq!(seen, inside, "{address} in {network}");
    }
}
