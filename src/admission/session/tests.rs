use std::time::Duration;

use serde_json::json;

use super::*;

/// An answer as Kratos documents it (API reference, `toSession`), shortened to what may matter.
fn documented() -> Value {
    json!({
        "id": "a7a4c4a1-3a3c-4bd4-9be9-1f23a0e7ff1e",
        "active": true,
        "expires_at": "2026-06-11T10:30:00.123456789Z",
        "authenticated_at": "2026-06-10T10:30:00Z",
        "authenticator_assurance_level": "aal1",
        "identity": {
            "id": "6f2c4a0e-8b8c-4a56-9f43-2f0a5a0d5f7c",
            "schema_id": "default",
            "state": "active",
            "traits": {"email": "trait@example.test", "role": "moderator", "name": {"first": "A"}},
            "verifiable_addresses": [
                {"id": "1", "value": "+4912345", "verified": true, "via": "sms", "status": "completed"},
                {"id": "2", "value": "first@example.test", "verified": true, "via": "email", "status": "completed"},
                {"id": "3", "value": "second@example.test", "verified": false, "via": "email", "status": "pending"}
            ],
            "recovery_addresses": []
        },
        "devices": [{"id": "4", "ip_address": "192.0.2.1"}]
    })
}

fn read(answer: &Value) -> SessionVerdict {
    read_session(answer.to_string().as_bytes())
}

fn active(answer: &Value) -> Session {
    match read(answer) {
        SessionVerdict::Active(session) => Session::clone(&session),
        other => panic!("{other:?} for {answer}"),
    }
}

fn changed(change: impl FnOnce(&mut Value)) -> Value {
    let mut answer = documented();
    change(&mut answer);
    answer
}

#[test]
fn a_documented_answer_is_a_session() {
    let session = active(&documented());
    let headers: Vec<_> = session.headers().collect();
    assert_eq!(
        headers,
        [
            ("X-User-Id", "6f2c4a0e-8b8c-4a56-9f43-2f0a5a0d5f7c"),
            ("X-User-Email", "first@example.test"),
            ("X-User-Verified", "true"),
            ("X-User-Role", "moderator"),
        ]
    );
    let expected = SystemTime::UNIX_EPOCH + Duration::new(1_781_173_800, 123_456_789);
    assert_eq!(session.expires_at, Some(expected));
}

#[test]
fn only_active_true_is_a_session() {
    for active in [json!(false), json!("true"), json!(1), json!(null), json!({})] {
        let answer = changed(|answer| answer["active"] = active.clone());
        assert_eq!(read(&answer), SessionVerdict::Inactive, "{active}");
    }
    assert_eq!(read(&json!({})), SessionVerdict::Inactive);
    assert_eq!(read(&json!({"identity": {"id": "a"}})), SessionVerdict::Inactive);
}

#[test]
fn the_status_decides_as_in_the_contract() {
    assert_eq!(verdict_of_status(200), None);
    for status in [401, 403] {
        assert_eq!(verdict_of_status(status), Some(SessionVerdict::Inactive));
    }
    for status in [100, 201, 204, 301, 302, 307, 400, 404, 418, 422, 429, 500, 502, 503] {
        assert_eq!(
            verdict_of_status(status),
            Some(SessionVerdict::Unreachable(Unreachable::Status(status)))
        );
    }
}

#[test]
fn an_answer_that_cannot_be_understood_is_no_access() {
    let malformed = SessionVerdict::Unreachable(Unreachable::Malformed);
    for body in ["", "null", "[]", "true", "<html>", "{\"active\":true", "{\"active\":true}x"] {
        assert_eq!(read_session(body.as_bytes()), malformed, "{body}");
    }
    for id in
        [json!(null), json!(7), json!(""), json!("a\r\nX-Role: admin"), json!("x".repeat(1025))]
    {
        assert_eq!(
            read(&changed(|answer| answer["identity"]["id"] = id.clone())),
            malformed,
            "{id}"
        );
    }
    for time in [json!("soon"), json!(1_781_173_800), json!("2026-06-11")] {
        assert_eq!(
            read(&changed(|answer| answer["expires_at"] = time.clone())),
            malformed,
            "{time}"
        );
    }
    assert_eq!(read(&json!({"active": true})), malformed);
    let large = vec![b' '; ANSWER_BYTES_MAX + 1];
    assert_eq!(read_session(&large), SessionVerdict::Unreachable(Unreachable::TooLarge));
}

#[test]
fn the_email_comes_from_the_addresses_and_then_from_the_traits() {
    for addresses in
        [json!(null), json!([]), json!([{"via": "sms", "value": "+49", "verified": true}])]
    {
        let session = active(&changed(|answer| {
            answer["identity"]["verifiable_addresses"] = addresses.clone();
        }));
        assert_eq!(session.email.as_deref(), Some("trait@example.test"));
        assert!(!session.verified, "an address of the traits is never verified");
    }
    let bare = changed(|answer| {
        answer["identity"] = json!({"id": "a"});
    });
    let session = active(&bare);
    assert_eq!((session.email.as_deref(), session.role), (None, Role::User));
    assert_eq!(session.headers().count(), 3);
}

#[test]
fn an_email_with_control_characters_is_not_set() {
    let session = active(&changed(|answer| {
        answer["identity"]["verifiable_addresses"][1]["value"] = json!("a\r\nX-User-Role: admin");
    }));
    assert_eq!(session.email, None);
}

#[test]
fn a_role_that_is_not_known_is_user() {
    for (role, expected) in [
        (json!("user"), Role::User),
        (json!("admin"), Role::Admin),
        (json!("moderator"), Role::Moderator),
        (json!("Admin"), Role::User),
        (json!("root"), Role::User),
        (json!(["admin"]), Role::User),
        (json!(null), Role::User),
    ] {
        let session =
            active(&changed(|answer| answer["identity"]["traits"]["role"] = role.clone()));
        assert_eq!(session.role, expected, "{role}");
    }
}
