use super::*;

#[test]
fn the_operator_is_warned_two_weeks_ahead_and_after_the_end() {
    let day = Duration::from_hours(24);
    let end = UNIX_EPOCH + 20_000 * day;
    let warning = |now| end_warning(end, now);
    assert_eq!(warning(end - 14 * day - Duration::from_secs(1)), None);
    assert_eq!(warning(end - 14 * day).unwrap(), "the certificate ends in 14 days");
    assert_eq!(warning(end - day / 2).unwrap(), "the certificate ends in 0 days");
    assert_eq!(warning(end + 3 * day).unwrap(), "the certificate ended 3 days ago");
}

#[test]
fn a_self_signed_certificate_names_its_domain_and_ends_in_ten_years() {
    for domain in ["localhost", "a.example", "192.0.2.1"] {
        let certificate = Certificate::self_signed(domain).unwrap();
        let year = Duration::from_hours(24 * 365);
        assert!(certificate.not_after > SystemTime::from(clock::wall()) + 9 * year);
        let leaf = &certificate.certified.cert[0];
        let (_, parsed) = X509Certificate::from_der(leaf).unwrap();
        let names = format!("{:?}", parsed.subject_alternative_name().unwrap().unwrap());
        assert!(names.contains(domain) || domain.starts_with("192."), "{names}");
        assert_eq!(parsed.subject().to_string(), format!("CN={domain}"));
    }
    let refused = Certificate::self_signed("\u{fc}.example").unwrap_err();
    assert!(refused.to_string().starts_with("no self-signed certificate"), "{refused}");
}

#[test]
fn a_key_is_in_no_debug_output() {
    let certificate = Certificate::self_signed("localhost").unwrap();
    assert_eq!(format!("{certificate:?}"), "Certificate(chain of 1)");
}
