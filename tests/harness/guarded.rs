//! A proxy that asks who comes: each case once as a plain request and once as an upgrade, refused or let through.

use super::event::Event;
use super::http::{Answer, Head};
use super::json::Json;
use super::proxy::{Proxy, Stopped};
use super::setup::Setup;
use super::upstream::Upstream;
use super::{ANSWER_101, ANSWER_LAST};

/// How a request asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Plain,
    Upgrade,
}

pub(crate) const FORMS: [Form; 2] = [Form::Plain, Form::Upgrade];

/// A refusal as it is answered and as it is written down.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Denial {
    pub(crate) status: u16,
    pub(crate) code: &'static str,
    pub(crate) message: &'static str,
    /// Of `auth.denied`.
    pub(crate) reason: &'static str,
}

/// The proxy, the application behind it, and who was refused so far.
pub(crate) struct Guarded {
    pub(crate) proxy: Proxy,
    pub(crate) upstream: Upstream,
    denied: Vec<(String, Denial)>,
}

/// A request with these header lines, each with its CRLF.
pub(crate) fn request(form: Form, target: &str, headers: &str) -> Vec<u8> {
    let rest = match form {
        Form::Plain => "Connection: close\r\n",
        Form::Upgrade => {
            "Upgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        }
    };
    format!("GET {target} HTTP/1.1\r\nHost: t.test\r\n{headers}{rest}\r\n").into_bytes()
}

/// Checks the answer of a refusal down to the last byte; returns its request id.
#[track_caller]
pub(crate) fn assert_denied(answer: &Answer, denial: &Denial) -> String {
    let Denial { status, code, message, .. } = denial;
    assert_eq!(answer.head.status(), *status, "{answer:?}");
    assert_eq!(answer.head.one("content-type"), Some("application/json"), "{answer:?}");
    let id = answer.head.one("x-request-id").unwrap_or_default();
    let text = String::from_utf8_lossy(&answer.body);
    let expected = format!(
        "{{\"error\":\"{code}\",\"status\":{status},\"message\":\"{message}\",\"request_id\":\"{id}\"}}\n"
    );
    assert_eq!(text, expected);
    assert_eq!(answer.head.one("content-length"), Some(text.len().to_string().as_str()));
    id.to_owned()
}

impl Guarded {
    #[track_caller]
    pub(crate) fn start(setup: &Setup, upstream: Upstream) -> Self {
        Self::over(setup.start(), upstream)
    }

    /// A proxy that runs already.
    pub(crate) fn over(proxy: Proxy, upstream: Upstream) -> Self {
        Self { proxy, upstream, denied: Vec::new() }
    }

    /// Both forms are refused in this way, and the application hears nothing; returns the answers.
    #[track_caller]
    pub(crate) fn denied(&mut self, target: &str, headers: &str, denial: Denial) -> [Answer; 2] {
        FORMS.map(|form| self.denied_as(form, target, headers, denial))
    }

    #[track_caller]
    pub(crate) fn denied_as(
        &mut self,
        form: Form,
        target: &str,
        headers: &str,
        denial: Denial,
    ) -> Answer {
        println!("{form:?} {target} {headers:?}");
        let answer = self.proxy.answer_to(&request(form, target, headers));
        let id = assert_denied(&answer, &denial);
        self.upstream.assert_untouched();
        self.expect_denied_event(&id, denial);
        answer
    }

    /// Waits for the event of a refusal that was answered under this id.
    #[track_caller]
    pub(crate) fn expect_denied_event(&mut self, id: &str, denial: Denial) -> Event {
        let event =
            self.proxy.wait_event(&format!("the end of {id}"), |event| event.request_id() == id);
        assert!(event.is("auth.denied"), "{}", event.line);
        assert_eq!(event.text("payload.reason"), denial.reason, "{}", event.line);
        assert_eq!(event.count("payload.status_code"), u64::from(denial.status), "{}", event.line);
        self.denied.push((id.to_owned(), denial));
        event
    }

    /// Both forms get through; returns the heads that the application saw, plain request first.
    #[track_caller]
    pub(crate) fn allowed(&self, target: &str, headers: &str) -> [Head; 2] {
        FORMS.map(|form| self.allowed_as(form, target, headers))
    }

    #[track_caller]
    pub(crate) fn allowed_as(&self, form: Form, target: &str, headers: &str) -> Head {
        println!("{form:?} {target} {headers:?}");
        self.allowed_raw(form, &request(form, target, headers))
    }

    /// A request of this form gets through.
    #[track_caller]
    pub(crate) fn allowed_raw(&self, form: Form, bytes: &[u8]) -> Head {
        let mut client = self.proxy.sent(bytes);
        let Some(mut conn) = super::wait::eventually("the upstream or an answer", || {
            let conn = self.upstream.try_accept();
            (conn.is_some() || !client.pending().is_empty()).then_some(conn)
        }) else {
            panic!("refused: {:?}", client.read_answer());
        };
        let head = conn.read_head();
        match form {
            Form::Plain => {
                conn.send(ANSWER_LAST);
                assert_eq!(client.read_response().status(), 200);
            }
            Form::Upgrade => {
                conn.send(ANSWER_101);
                client.open();
            }
        }
        head
    }

    /// Stops the proxy: every refusal has exactly one line, and no secret stands in events or operator log.
    #[track_caller]
    pub(crate) fn finish(mut self, secrets: &[&str]) -> Stopped {
        let stopped = self.proxy.stop();
        for (id, denial) in &self.denied {
            let ends = |event: &&Event| event.request_id() == id && event.ends_a_request();
            let lines: Vec<&Event> = stopped.events.iter().filter(ends).collect();
            assert_eq!(lines.len(), 1, "{id} {denial:?}: {lines:#?}");
        }
        let everything: String = stopped.events.iter().map(|event| event.line.as_str()).collect();
        for secret in secrets {
            assert!(secret.len() > 5, "too short to be looked for: {secret:?}");
            assert!(!everything.contains(secret), "{secret:?} stands in an event");
            assert!(!stopped.log.contains(secret), "{secret:?} stands in the log");
        }
        self.upstream.assert_untouched();
        stopped
    }
}

/// The message of an error answer.
pub(crate) fn said(answer: &Answer) -> String {
    let text = String::from_utf8_lossy(&answer.body);
    let json = Json::parse(text.trim_end()).unwrap_or_else(|error| panic!("{error}: {text}"));
    json.text("error").unwrap_or_default().to_owned()
}
