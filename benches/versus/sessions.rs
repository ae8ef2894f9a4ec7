//! Kratos as far as a proxy asks it: `GET /sessions/whoami` with a cookie, answered with a session of usual length, on threads that end with
//! the sample. It remembers who it was asked about, so that a proxy that skips a check is found.

use std::collections::HashSet;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use serde_json::json;

use crate::failure::{Doing as _, Failure};
use crate::load::loopback;

/// Port of the double.
pub(crate) const SESSIONS_PORT: u16 = 9002;
/// A good cookie begins like this; a number follows.
const GOOD: &str = "ory_kratos_session=good-";

/// The field of somebody with a session.
pub(crate) fn field(number: u64) -> String {
    format!("Cookie: theme=dark; {GOOD}{number:044}; locale=de\r\n")
}

/// The field of somebody without one.
pub(crate) fn wrong_field() -> String {
    "Cookie: theme=dark; ory_kratos_session=stranger; locale=de\r\n".to_owned()
}

/// What was asked of the running double.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sessions {
    asked: Arc<Mutex<Asked>>,
}

#[derive(Debug, Default)]
struct Asked {
    calls: u64,
    cookies: HashSet<String>,
    connections: u64,
}

impl Sessions {
    /// Listens from now on.
    pub(crate) fn serve() -> Result<Self, Failure> {
        let listener =
            TcpListener::bind(loopback(SESSIONS_PORT)).doing("bind of the Kratos double")?;
        let sessions = Self::default();
        thread::spawn({
            let sessions = sessions.clone();
            move || {
                for socket in listener.incoming().flatten() {
                    let sessions = sessions.clone();
                    sessions.lock().connections += 1;
                    // A proxy that gets no answer fails the row by itself.
                    thread::spawn(move || sessions.answer(socket));
                }
            }
        });
        Ok(sessions)
    }

    fn lock(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers the requests of one connection; their heads have no bodies.
    fn answer(&self, mut socket: TcpStream) -> io::Result<()> {
        socket.set_nodelay(true)?;
        let (good, none) = (answer("200 OK", &session()), answer("401 Unauthorized", "{}"));
        let (mut arrived, mut chunk) = (Vec::new(), [0; 4096]);
        loop {
            let Some(end) = memchr::memmem::find(&arrived, b"\r\n\r\n") else {
                match socket.read(&mut chunk)? {
                    0 => return Ok(()),
                    count => arrived.extend_from_slice(&chunk[..count]),
                }
                continue;
            };
            let head = String::from_utf8_lossy(&arrived[..end]).into_owned();
            arrived.drain(..end + 4);
            let cookie = head.split_once(GOOD).map(|(_, rest)| rest);
            let number = cookie.and_then(|rest| rest.split([';', '\r']).next());
            if let Some(number) = number.filter(|_| head.starts_with("GET /sessions/whoami ")) {
                let mut asked = self.lock();
                asked.calls += 1;
                asked.cookies.insert(number.to_owned());
                drop(asked);
                socket.write_all(good.as_bytes())?;
            } else {
                socket.write_all(none.as_bytes())?;
            }
        }
    }

    /// Each of `handshakes` was asked about, once. Returns how many connections that took.
    pub(crate) fn check(&self, handshakes: u64) -> Result<u64, Failure> {
        let asked = self.lock();
        for finished in [asked.calls, asked.cookies.len() as u64] {
            if finished != handshakes {
                return Err(Failure::Miscount {
                    counted: "checked sessions",
                    begun: handshakes,
                    finished,
                });
            }
        }
        Ok(asked.connections)
    }
}

fn answer(status: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nCache-Control: private, no-cache, no-store, must-revalidate\r\n\
         Content-Type: application/json; charset=utf-8\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// A session as Kratos 1.x writes it, some 1 300 bytes.
fn session() -> String {
    let id = "5f6d0c1e-3a52-4c55-9a0f-2f7b3d1f8e21";
    let time = "2026-01-02T03:04:05.678901Z";
    let address = |more: serde_json::Value| {
        let mut address = json!({
            "id": id, "value": "zoe.example@example.test", "via": "email", "created_at": time, "updated_at": time,
        });
        if let (Some(address), Some(more)) = (address.as_object_mut(), more.as_object()) {
            address.extend(more.clone());
        }
        address
    };
    json!({
        "id": id, "active": true, "expires_at": "2999-01-01T00:00:00Z", "authenticated_at": time,
        "authenticator_assurance_level": "aal1", "issued_at": time,
        "authentication_methods": [{"method": "password", "aal": "aal1", "completed_at": time}],
        "identity": {
            "id": id, "schema_id": "default", "schema_url": "http://127.0.0.1:4433/schemas/ZGVmYXVsdA",
            "state": "active", "state_changed_at": time, "created_at": time, "updated_at": time,
            "traits": {"email": "zoe.example@example.test", "name": {"first": "Zoe", "last": "Example"}, "role": "user"},
            "verifiable_addresses": [address(json!({"verified": true, "status": "completed", "verified_at": time}))],
            "recovery_addresses": [address(json!({}))],
            "metadata_public": null, "organization_id": null,
        },
        "devices": [{
            "id": id, "ip_address": "192.0.2.7", "location": "",
            "user_agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        }],
    })
    .to_string()
}
