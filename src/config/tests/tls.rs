//! Section `tls`, and the files it names.

use super::*;

/// A folder of its own for one test, gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("vibewarden-tls-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// A chain and its key.
    fn pair(&self, name: &str) -> [String; 2] {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let pem = |label: &str, der: &[u8]| {
            use base64::Engine as _;
            let body = base64::engine::general_purpose::STANDARD.encode(der);
            format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
        };
        [
            self.write(&format!("{name}.crt"), &pem("CERTIFICATE", certificate.der())),
            self.write(&format!("{name}.key"), &pem("PRIVATE KEY", &key.serialize_der())),
        ]
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn external(chain: &str, key: &str) -> String {
    format!("tls: {{provider: external, cert_path: '{chain}', key_path: '{key}'}}")
}

#[test]
fn tls_is_on_with_a_certificate_for_localhost_unless_it_is_switched_off() {
    assert_eq!(Config::default().tls, Some(Tls::SelfSigned("localhost".to_owned())));
    assert_eq!(config("tls: {domain: a.example}").tls, Some(Tls::SelfSigned("a.example".into())));
    let off = config("tls: {enabled: false, provider: external}");
    assert_eq!((off.tls, off.server.port), (None, 8080));
}

#[test]
fn an_external_certificate_is_read_and_has_to_fit_its_key() {
    let folder = Folder::new("files");
    let [one, one_key] = folder.pair("one");
    let [other, other_key] = folder.pair("other");
    let loaded = config(&external(&one, &one_key));
    assert!(matches!(&loaded.tls, Some(Tls::External(_))), "{:?}", loaded.tls);
    assert_eq!(loaded.certificate_files(), Some([one.clone().into(), one_key.clone().into()]));
    assert!(!format!("{loaded:?}").contains("PRIVATE"));
    assert!(loaded.tls != config(&external(&other, &other_key)).tls);

    let (empty, text) = (folder.write("empty", ""), folder.write("text", "no PEM"));
    let broken =
        folder.write("broken", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let large = folder.write("large", &" ".repeat((1 << 20) + 1));
    let (gone, folder_path) = (format!("{one}.gone"), folder.0.display().to_string());
    let invalid =
        |key, path: &str, why: &str| format!("{key}: \"{path}\" is not valid here: {why}");
    let no_chain = "it holds no PEM certificate";
    let no_key = "it holds no PEM private key";
    for (chain, key, expected) in [
        (
            &one,
            &other_key,
            invalid(
                "tls.key_path",
                &other_key,
                "it does not belong to the certificate in tls.cert_path",
            ),
        ),
        (&empty, &one_key, invalid("tls.cert_path", &empty, no_chain)),
        (&text, &one_key, invalid("tls.cert_path", &text, no_chain)),
        (&one_key, &one_key, invalid("tls.cert_path", &one_key, no_chain)),
        (
            &broken,
            &one_key,
            invalid("tls.cert_path", &broken, "its first certificate cannot be read"),
        ),
        (&one, &one, invalid("tls.key_path", &one, no_key)),
        (&one, &empty, invalid("tls.key_path", &empty, no_key)),
        (
            &gone,
            &one_key,
            format!("tls.cert_path: cannot read \"{gone}\": No such file or directory"),
        ),
        (
            &large,
            &one_key,
            format!("tls.cert_path: cannot read \"{large}\": it is larger than 1 MiB"),
        ),
        (
            &one,
            &folder_path,
            format!("tls.key_path: cannot read \"{folder_path}\": it is not a regular file"),
        ),
    ] {
        assert_eq!(lines(&external(chain, key)), [expected]);
    }
}

#[test]
fn an_external_certificate_needs_both_files() {
    let required = "required when tls.provider is external";
    assert_eq!(
        lines("tls: {provider: external}"),
        [format!("tls.cert_path: {required}"), format!("tls.key_path: {required}")]
    );
    assert_eq!(
        lines("plugins: {tls: {provider: external, cert_path: /a}}"),
        [format!("tls.key_path: {required}")]
    );
}

#[test]
fn a_reload_takes_another_certificate_and_no_other_provider() {
    let folder = Folder::new("reload");
    let [[one, one_key], [other, other_key]] = ["one", "other"].map(|name| folder.pair(name));
    let (old, new) = (config(&external(&one, &one_key)), config(&external(&other, &other_key)));
    assert!(old.keep_startup_values(new.clone()).tls == new.tls);
    assert_eq!(old.restart_required(&new), <[&str; 0]>::default());
    let self_signed = config("");
    assert!(old.keep_startup_values(self_signed.clone()).tls == old.tls);
    assert!(self_signed.keep_startup_values(old.clone()).tls == self_signed.tls);
    let off = config("tls: {enabled: false}");
    assert_eq!(off.keep_startup_values(old.clone()).tls, None);
    assert!(old.keep_startup_values(off).tls == old.tls);
}
