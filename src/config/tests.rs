//! Tests of the configuration, one module per subject.

use super::*;

#[test]
fn the_shipped_file_loads_without_a_word() {
    let text = include_str!("../../vibewarden.yaml");
    let loaded = load_text(text, None, &BTreeMap::new()).expect("the shipped file is right");
    assert_eq!(loaded.warnings, Vec::<String>::new());
    let target = UpstreamTarget::Tcp {
        host: "localhost".to_owned(),
        port: 3000,
    };
    assert_eq!(loaded.config.upstream.target, target);
    assert_eq!(loaded.config.server.port, 8080);
}
