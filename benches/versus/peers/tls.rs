//! How each peer is told to speak TLS: the same certificate, TLS 1.3 with `TLS_AES_128_GCM_SHA256` first and X25519, ALPN `http/1.1`, no
//! early data, resumption by tickets and no table of sessions. What a peer does by itself is not repeated.

use super::Settings;

/// vibewarden: its suites and tickets are so without a setting.
pub(super) const OWN: Settings = &[(
    "tls",
    "tls:\n  enabled: true\n  provider: external\n  cert_path: \"{{chain}}\"\n  key_path: \"{{chain_key}}\"",
)];

/// nginx: ALPN is `http/1.1` where HTTP/2 is not switched on.
pub(super) const NGINX: Settings = &[
    ("tls_listen", "ssl"),
    (
        "tls",
        "ssl_certificate {{chain}};
        ssl_certificate_key {{chain_key}};
        ssl_protocols TLSv1.3;
        ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256;
        ssl_ecdh_curve X25519;
        ssl_session_cache off;
        ssl_session_tickets on;
        ssl_early_data off;",
    ),
];

/// `HAProxy`: gives tickets unless told not to.
pub(super) const HAPROXY: Settings = &[
    ("tls_global", "tune.ssl.cachesize 0"),
    (
        "tls_bind",
        "ssl crt {{chain_and_key}} ssl-min-ver TLSv1.3 ciphersuites TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256 curves X25519 alpn http/1.1",
    ),
];

/// Caddy: Go chooses the suites of TLS 1.3 by itself, of those that the client offers.
pub(super) const CADDY: Settings = &[(
    "tls",
    "tls {{chain}} {{chain_key}} {\n\t\tprotocols tls1.3\n\t\tcurves x25519\n\t\talpn http/1.1\n\t}",
)];

/// Envoy: `BoringSSL` chooses the suites of TLS 1.3 by itself, of those that the client offers.
pub(super) const ENVOY: Settings = &[(
    "tls",
    "transport_socket: { name: tls, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, common_tls_context: { tls_params: { tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3, ecdh_curves: [X25519] }, alpn_protocols: [http/1.1], tls_certificates: [{ certificate_chain: { filename: \"{{chain}}\" }, private_key: { filename: \"{{chain_key}}\" } }] } } }",
)];
