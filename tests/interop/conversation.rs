//! What must be equal at both ends of the proxy after a conversation.

use serde_json::{Value, json};

use super::foreign::Library;
use super::harness::Proxy;
use super::harness::event::Event;
use super::reports::Reports;

/// Length of the message of zeros that both libraries would compress.
const ZEROS: u64 = 1_048_576;

/// Holds the reports of a conversation's two ends against each other, and against what the proxy counted.
#[track_caller]
pub(crate) fn check(
    (client_library, client): (Library, &Reports),
    (application_library, application): (Library, &Reports),
    proxy: &Proxy,
) {
    negotiated_end_to_end(client, application);
    closes_unchanged(client, application);
    streams_equal(client, application);

    let compressed = client_library.compresses() && application_library.compresses();
    for opened in client.of("opened") {
        let extensions = &opened["response"]["sec-websocket-extensions"];
        let agreed = extensions.to_string().contains("permessage-deflate");
        assert_eq!(agreed, compressed, "{opened}");
    }
    bytes_show_the_compression(proxy, compressed);
}

/// The fields of both heads that concern the two ends arrive as they were sent.
#[track_caller]
fn negotiated_end_to_end(client: &Reports, application: &Reports) {
    let sessions = client.of("opened");
    assert!(!sessions.is_empty(), "the client reported no session");
    for sent in sessions {
        let seen = application
            .wait(|report| report["event"] == "opened" && report["path"] == sent["path"])
            .unwrap_or_else(|| panic!("the application saw no {}", sent["path"]));
        assert_eq!(seen["request"], sent["request"], "request of {}", sent["path"]);
        assert_eq!(seen["response"], sent["response"], "response of {}", sent["path"]);
        assert_eq!(sent["response"]["sec-websocket-protocol"], json!(["chat.v2"]));
        assert_eq!(sent["request"]["authorization"], json!(["Bearer a.b-c"]));
    }
}

/// Codes and reasons, in the direction to the application; the client compares the other direction by itself.
#[track_caller]
fn closes_unchanged(client: &Reports, application: &Reports) {
    let sent = client.of("closed");
    assert!(sent.len() >= 7, "the client reported {} closes", sent.len());
    for close in sent {
        let path = close["path"].as_str().expect("a path");
        let (code, reason) = application.closed(path);
        assert_eq!(json!(code), close["code"], "{path}");
        assert_eq!(json!(reason), close["reason"], "{path}");
    }
    // A connection that ends without a close frame is 1006 to the one who is left (RFC 6455 section 7.1.5).
    assert_eq!(application.closed("/echo?n=abrupt").0, 1006);
}

#[track_caller]
pub(crate) fn streams_equal(client: &Reports, application: &Reports) {
    for end in [client, application] {
        let received = end.wait(|report| report["event"] == "received");
        assert_eq!(received.map(|report| report["equal"].clone()), Some(Value::Bool(true)));
    }
}

/// The proxy counts the bytes on the wire: few when the ends agreed to compress, all of them when not.
#[track_caller]
pub(crate) fn bytes_show_the_compression(proxy: &Proxy, compressed: bool) {
    let of_session = |event: &Event| {
        event.is("websocket.closed") && event.text("resource.path") == "/compressible"
    };
    let closed = proxy.wait_event("the end of /compressible", of_session);
    for direction in ["payload.bytes_to_upstream", "payload.bytes_to_client"] {
        let bytes = closed.count(direction);
        assert_eq!(bytes < ZEROS / 20, compressed, "{direction} = {bytes}");
        assert!(compressed || bytes > ZEROS, "{direction} = {bytes}");
    }
}
