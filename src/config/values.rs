//! The written forms of durations, sizes and address blocks, both ways.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::Cidr;

/// Longest duration that can be written: what fits in 63 bits of nanoseconds, about 292 years.
const DURATION_NANOS_MAX: u128 = i64::MAX as u128;

/// Nanoseconds per unit; a unit that is the beginning of another one stands after it.
const DURATION_UNITS: [(&str, u128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Digits after the decimal point that count; more are far below a nanosecond.
const FRACTION_DIGITS_MAX: usize = 18;

const SIZE_UNITS: [(&str, u32); 5] = [("TB", 40), ("GB", 30), ("MB", 20), ("KB", 10), ("B", 0)];

/// Reads `300ms`, `1.5s`, `2h45m` or a bare `0`; `None` when it is something else, negative or too long.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    if text.is_empty() {
        return None;
    }
    let mut nanos: u128 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let (whole, after) = split_digits(rest);
        let (fraction, after) = after.strip_prefix('.').map_or(("", after), split_digits);
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let (unit, per_unit) = DURATION_UNITS.iter().find(|(unit, _)| after.starts_with(unit))?;
        let whole = if whole.is_empty() { 0 } else { u128::from(whole.parse::<u64>().ok()?) };
        nanos += whole * per_unit + fraction_of(fraction, *per_unit)?;
        if nanos > DURATION_NANOS_MAX {
            return None;
        }
        rest = &after[unit.len()..];
    }
    u64::try_from(nanos).ok().map(Duration::from_nanos)
}

fn split_digits(text: &str) -> (&str, &str) {
    let end = text.bytes().take_while(u8::is_ascii_digit).count();
    text.split_at(end)
}

fn fraction_of(digits: &str, per_unit: u128) -> Option<u128> {
    let digits = &digits[..digits.len().min(FRACTION_DIGITS_MAX)];
    if digits.is_empty() {
        return Some(0);
    }
    let scale = 10_u128.pow(u32::try_from(digits.len()).ok()?);
    Some(digits.parse::<u128>().ok()? * per_unit / scale)
}

/// Writes a duration so that [`parse_duration`] gives it back exactly: `2h45m`, `1s500ms`, `0s`.
pub(super) fn format_duration(duration: Duration) -> String {
    let mut nanos = duration.as_nanos();
    let mut text = String::new();
    for unit in ["h", "m", "s", "ms", "us", "ns"] {
        let per_unit = DURATION_UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .map_or(1, |(_, per_unit)| *per_unit);
        if nanos >= per_unit {
            text.push_str(&(nanos / per_unit).to_string());
            text.push_str(unit);
            nanos %= per_unit;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// Reads `16KB`, `1MB` or a bare number of bytes; `None` when it is something else, negative or over 64 bits.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    let (digits, unit) = split_digits(text);
    let number = digits.parse::<u64>().ok()?;
    if unit.is_empty() {
        return Some(number);
    }
    let (_, shift) = SIZE_UNITS.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(1 << shift)
}

/// Writes a size in the largest unit that divides it: `16KB`, `1000B`, `0`.
pub(super) fn format_size(bytes: u64) -> String {
    if bytes == 0 {
        return "0".to_owned();
    }
    let (unit, shift) = SIZE_UNITS
        .iter()
        .find(|(_, shift)| bytes.trailing_zeros() >= *shift)
        .copied()
        .unwrap_or(("B", 0));
    format!("{}{unit}", bytes >> shift)
}

impl Cidr {
    /// Reads `10.0.0.0/8`, `fc00::/7` or a single address. Host bits are cleared; an IPv4-mapped IPv6 block becomes the
    /// IPv4 block that it stands for.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => {
                let plain = (1..=3).contains(&prefix.len())
                    && prefix.bytes().all(|byte| byte.is_ascii_digit());
                (address, Some(prefix.parse::<u8>().ok().filter(|_| plain)?))
            }
            None => (text, None),
        };
        match address.parse::<IpAddr>().ok()? {
            IpAddr::V4(v4) => Self::of_v4(v4, prefix.unwrap_or(32)),
            IpAddr::V6(v6) => {
                let prefix = prefix.unwrap_or(128);
                match v6.to_ipv4_mapped() {
                    Some(v4) if (96..=128).contains(&prefix) => Self::of_v4(v4, prefix - 96),
                    _ => Self::of_v6(v6, prefix),
                }
            }
        }
    }

    /// Blocks that passed their check.
    pub(super) fn list(texts: &[String]) -> Vec<Self> {
        texts.iter().filter_map(|text| Self::parse(text)).collect()
    }

    fn of_v4(address: Ipv4Addr, prefix: u8) -> Option<Self> {
        let network = address.to_bits() & mask_v4(prefix)?;
        Some(Self { network: IpAddr::V4(Ipv4Addr::from_bits(network)), prefix })
    }

    fn of_v6(address: Ipv6Addr, prefix: u8) -> Option<Self> {
        let network = address.to_bits() & mask_v6(prefix)?;
        Some(Self { network: IpAddr::V6(Ipv6Addr::from_bits(network)), prefix })
    }

    /// Whether the address lies in the block. An IPv4-mapped IPv6 address counts as the IPv4 address; otherwise the
    /// families are apart: `::/0` holds no IPv4 address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.network, ip.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                mask_v4(self.prefix).is_some_and(|mask| ip.to_bits() & mask == network.to_bits())
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => {
                mask_v6(self.prefix).is_some_and(|mask| ip.to_bits() & mask == network.to_bits())
            }
            _ => false,
        }
    }
}

fn mask_v4(prefix: u8) -> Option<u32> {
    (prefix <= 32).then(|| u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0))
}

fn mask_v6(prefix: u8) -> Option<u128> {
    (prefix <= 128).then(|| u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0))
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let single = if self.network.is_ipv4() { 32 } else { 128 };
        if self.prefix == single {
            self.network.fmt(f)
        } else {
            write!(f, "{}/{}", self.network, self.prefix)
        }
    }
}
