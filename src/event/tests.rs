use super::*;

fn facts() -> RequestFacts<'static> {
    RequestFacts {
        client: IpAddr::from([192, 0, 2, 7]),
        actor: None,
        method: Some("GET"),
        path: Some("/ws"),
        request_id: "req_ABCDEFGHIJKL",
    }
}

fn text(event: &Event<'_>) -> String {
    String::from_utf8_lossy(&event.to_line(jiff::Timestamp::UNIX_EPOCH)).into_owned()
}

#[test]
fn the_envelope_has_the_keys_of_the_contract_in_their_order() {
    let event = Event::RequestProxied {
        request: facts(),
        bytes_in: 300,
        bytes_out: 129,
        duration_ms: 2,
        status_code: 101,
        upstream: "http://localhost:3000",
        websocket: true,
    };
    assert_eq!(
        text(&event),
        "{\"schema_version\":\"v1\",\"event_type\":\"request.proxied\",\"timestamp\":\"1970-01-01T00:00:00.000000Z\",\
         \"severity\":\"info\",\"category\":\"network\",\"ai_summary\":\"Request passed to the upstream: /ws\",\
         \"payload\":{\"bytes_in\":300,\"bytes_out\":129,\"client_ip\":\"192.0.2.7\",\"duration_ms\":2,\"method\":\"GET\",\
         \"path\":\"/ws\",\"status_code\":101,\"upstream\":\"http://localhost:3000\",\"websocket\":true},\
         \"actor\":{\"type\":\"ip\",\"ip\":\"192.0.2.7\"},\
         \"resource\":{\"type\":\"http_endpoint\",\"path\":\"/ws\",\"method\":\"GET\"},\"outcome\":\"allowed\",\
         \"request_id\":\"req_ABCDEFGHIJKL\",\"triggered_by\":\"proxy\"}\n"
    );
}

#[test]
fn a_known_actor_is_named() {
    for (kind, r#type) in [(ActorKind::User, "user"), (ActorKind::ApiKey, "api_key")] {
        let request = RequestFacts { actor: Some(KnownActor { kind, id: "ann" }), ..facts() };
        let proxied = text(&Event::RequestProxied {
            request,
            bytes_in: 1,
            bytes_out: 1,
            duration_ms: 1,
            status_code: 101,
            upstream: "u",
            websocket: true,
        });
        let actor =
            format!("\"actor\":{{\"type\":\"{type}\",\"id\":\"ann\",\"ip\":\"192.0.2.7\"}}");
        assert!(proxied.contains(&actor), "{proxied}");
        assert!(proxied.contains("\"upstream\":\"u\",\"user_id\":\"ann\",\"websocket\":true"));
        let closed = text(&Event::WebSocketClosed {
            request,
            bytes_to_client: 1,
            bytes_to_upstream: 2,
            duration_ms: 3,
            reason: "drained",
        });
        assert!(closed.contains(&actor) && !closed.contains("user_id"), "{closed}");
    }
}

#[test]
fn a_denial_says_what_the_contract_lists() {
    let line = text(&Event::AuthDenied {
        request: facts(),
        detail: "no credential",
        mode: "jwt",
        reason: "no_credentials",
        status_code: 401,
    });
    for part in [
        "\"event_type\":\"auth.denied\"",
        "\"severity\":\"medium\",\"category\":\"auth\"",
        "\"payload\":{\"client_ip\":\"192.0.2.7\",\"detail\":\"no credential\",\"method\":\"GET\",\"mode\":\"jwt\",\
         \"path\":\"/ws\",\"reason\":\"no_credentials\",\"status_code\":401}",
        "\"outcome\":\"blocked\",\"request_id\":\"req_ABCDEFGHIJKL\",\"triggered_by\":\"auth_middleware\"",
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
}

#[test]
fn a_refusal_by_a_limit_has_a_risk_signal() {
    let event = Event::RateLimitBlocked {
        request: facts(),
        burst: 20,
        identifier: "192.0.2.7",
        limit_type: "ip",
        requests_per_second: 10.0,
        retry_after_seconds: 1,
    };
    let line = text(&event);
    assert!(
        line.contains(
            "\"severity\":\"medium\",\"category\":\"resilience\",\"ai_summary\":\"More than its limit allows: /ws\",\
             \"payload\":{\"burst\":20,\"client_ip\":\"192.0.2.7\",\"identifier\":\"192.0.2.7\",\"limit_type\":\"ip\",\
             \"method\":\"GET\",\"path\":\"/ws\",\"requests_per_second\":10,\"retry_after_seconds\":1},"
        ),
        "{line}"
    );
    assert!(
        line.ends_with(
            "\"outcome\":\"rate_limited\",\"risk_signals\":[{\"signal\":\"rate_limit_exceeded\",\"score\":0.5,\
             \"details\":\"the client asks for more than its limit allows\"}],\
             \"request_id\":\"req_ABCDEFGHIJKL\",\"triggered_by\":\"rate_limit_middleware\"}\n"
        ),
        "{line}"
    );
    let quota = Event::ConnectionLimitBlocked {
        request: facts(),
        identifier: "2001:db8::/64",
        limit: 3,
        limit_type: "ip_connections",
    };
    let line = text(&quota);
    assert!(
        line.contains(
            "\"identifier\":\"2001:db8::/64\",\"limit\":3,\"limit_type\":\"ip_connections\""
        ),
        "{line}"
    );
    assert!(!line.contains("burst") && !line.contains("retry_after"), "{line}");
    let filter = text(&Event::IpFilterBlocked { request: facts(), mode: "blocklist" });
    assert!(
        filter.contains("\"mode\":\"blocklist\"")
            && filter.ends_with("\"triggered_by\":\"ip_filter\"}\n")
    );
    let store = text(&Event::RateLimitStoreFallback { reason: "timed out" });
    assert!(store.contains("\"payload\":{\"reason\":\"timed out\",\"store\":\"memory\"},\"actor\":{\"type\":\"system\"}}"), "{store}");
}

#[test]
fn payload_keys_are_alphabetical_in_every_event() {
    let lists = ["upstream.prot: unknown key".to_owned()];
    let events = [
        Event::AuthDenied {
            request: facts(),
            detail: "the API key is not known",
            mode: "api-key",
            reason: "invalid_key",
            status_code: 401,
        },
        Event::RequestBlocked {
            request: facts(),
            blocked_by: "http",
            reason: "bad_request",
            status_code: 400,
        },
        Event::RateLimitBlocked {
            request: facts(),
            burst: 20,
            identifier: "192.0.2.7",
            limit_type: "ip",
            requests_per_second: 0.5,
            retry_after_seconds: 2,
        },
        Event::ConnectionLimitBlocked {
            request: facts(),
            identifier: "alice",
            limit: 3,
            limit_type: "user_connections",
        },
        Event::IpFilterBlocked { request: facts(), mode: "allowlist" },
        Event::RateLimitStoreFallback { reason: "timed out" },
        Event::RateLimitStoreRecovered,
        Event::UpstreamTimeout { request: facts(), timeout_ms: 300 },
        Event::UpstreamUnavailable {
            request: facts(),
            error: "refused",
            upstream: "http://localhost:3000",
        },
        Event::WebSocketClosed {
            request: facts(),
            bytes_to_client: 1,
            bytes_to_upstream: 2,
            duration_ms: 3,
            reason: "drained",
        },
        Event::ProxyStarted {
            driver: "epoll",
            driver_reason: "asked for",
            listen: "127.0.0.1:1".into(),
            security_headers_enabled: true,
            tls_provider: "external",
            upstream: "u",
            version: "0",
            workers: 1,
        },
        Event::ProxyStopped { reason: "SIGTERM", tunnels_closed: 0, uptime_seconds: 9 },
        Event::UpstreamHealthChanged {
            consecutive: 3,
            last_error: Some("refused"),
            new_status: "failing",
            previous_status: "ok",
            upstream_url: "http://localhost:3000",
        },
        Event::ConfigReloaded {
            config_path: "p",
            duration_ms: 1,
            restart_required: &["server.port"],
            trigger_source: "signal",
        },
        Event::ConfigReloadFailed {
            config_path: "p",
            reason: "r",
            trigger_source: "signal",
            validation_errors: &lists,
        },
        Event::AuthProviderUnavailable { affected_path: "/ws", error: "e", provider_url: "u" },
        Event::AuthProviderRecovered { provider_url: "u" },
        Event::AuthJwksRefresh { jwks_url: "u", key_count: 2 },
        Event::AuthJwksError { detail: "d", jwks_url: "u" },
    ];
    for event in events {
        let line = text(&event);
        let (_, rest) = line.split_once("\"payload\":{").unwrap_or_default();
        let (payload, _) = rest.split_once('}').unwrap_or_default();
        let keys: Vec<&str> = payload
            .split(",\"")
            .filter_map(|part| part.split_once("\":").map(|(key, _)| key.trim_matches('"')))
            .collect();
        let mut sorted = keys.clone();
        sorted.sort_unstable();
        assert!(!keys.is_empty() && keys == sorted, "{line}");
    }
}

#[test]
fn a_summary_stays_under_two_hundred_characters() {
    let path = format!("/{}", "é".repeat(400));
    let request = RequestFacts { path: Some(&path), ..facts() };
    let line = text(&Event::UpstreamTimeout { request, timeout_ms: 1_500 });
    let value: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
    assert_eq!(value["ai_summary"].as_str().map(|summary| summary.chars().count()), Some(200));
    assert_eq!(value["payload"]["timeout_seconds"].as_f64(), Some(1.5));
}

#[test]
fn control_characters_never_reach_the_log_raw() {
    let request = RequestFacts { path: Some("/a\r\n\u{1b}[31m"), ..facts() };
    let line = text(&Event::RequestBlocked {
        request,
        blocked_by: "http",
        reason: "bad_request",
        status_code: 400,
    });
    assert_eq!(line.matches('\n').count(), 1);
    assert!(!line.contains('\r') && !line.contains('\u{1b}'));
}

#[test]
fn the_events_of_providers_have_the_payload_of_the_contract() {
    for (event, expected) in [
        (
            Event::AuthProviderUnavailable {
                affected_path: "/ws",
                error: "no answer in time",
                provider_url: "http://k",
            },
            r#""event_type":"auth.provider_unavailable","severity":"high","category":"auth","payload":{"affected_path":"/ws","error":"no answer in time","provider_url":"http://k"}"#,
        ),
        (
            Event::AuthProviderRecovered { provider_url: "http://k" },
            r#""event_type":"auth.provider_recovered","severity":"info","category":"auth","payload":{"provider_url":"http://k"}"#,
        ),
        (
            Event::AuthJwksRefresh { jwks_url: "http://j", key_count: 2 },
            r#""event_type":"auth.jwks_refresh","severity":"info","category":"auth","payload":{"jwks_url":"http://j","key_count":2}"#,
        ),
        (
            Event::AuthJwksError { detail: "unexpected status 500", jwks_url: "http://j" },
            r#""event_type":"auth.jwks_error","severity":"medium","category":"auth","payload":{"detail":"unexpected status 500","jwks_url":"http://j"}"#,
        ),
    ] {
        let line = text(&event);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        let shown = ["event_type", "severity", "category", "payload"]
            .map(|key| format!("\"{key}\":{}", value[key]));
        assert_eq!(shown.join(","), expected);
        assert!(line.contains("\"actor\":{\"type\":\"system\"}"), "{line}");
    }
}
