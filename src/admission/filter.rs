//! Which client addresses may come in at all: `ip_filter` (contract sections 3.5 and 5.1, step 5).

use std::net::IpAddr;

use crate::config::{Cidr, IpFilterMode};

/// Whether a client with this address is served. A blocklist refuses what it names; an allowlist serves only what it names,
/// so an empty one serves nobody.
pub fn is_permitted(mode: IpFilterMode, addresses: &[Cidr], client: IpAddr) -> bool {
    let named = addresses.iter().any(|block| block.contains(client));
    match mode {
        IpFilterMode::Blocklist => !named,
        IpFilterMode::Allowlist => named,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocklist_refuses_what_it_names_and_an_allowlist_serves_only_that() {
        let blocks: Vec<Cidr> = ["192.0.2.0/24", "198.51.100.7", "2001:db8::/32"]
            .iter()
            .map(|text| Cidr::parse(text).expect("a block"))
            .collect();
        for (client, named) in [
            ("192.0.2.255", true),
            ("192.0.3.0", false),
            ("198.51.100.7", true),
            ("198.51.100.8", false),
            ("2001:db8:ffff::1", true),
            ("2001:db9::1", false),
            ("::ffff:192.0.2.1", true),
            ("::192.0.2.1", false),
        ] {
            let client = client.parse().expect("an address");
            assert_eq!(is_permitted(IpFilterMode::Blocklist, &blocks, client), !named, "{client}");
            assert_eq!(is_permitted(IpFilterMode::Allowlist, &blocks, client), named, "{client}");
        }
    }

    #[test]
    fn an_empty_list_blocks_nobody_or_allows_nobody() {
        let client = IpAddr::from([192, 0, 2, 1]);
        assert!(is_permitted(IpFilterMode::Blocklist, &[], client));
        assert!(!is_permitted(IpFilterMode::Allowlist, &[], client));
        let everybody = [Cidr::parse("0.0.0.0/0").expect("a block")];
        assert!(is_permitted(IpFilterMode::Allowlist, &everybody, client));
        assert!(!is_permitted(IpFilterMode::Allowlist, &everybody, IpAddr::from([0; 16])));
    }
}
