//! What events and answers say about one request.

use std::net::IpAddr;

use crate::admission::authentication::Identity;
use crate::event::{ActorKind, KnownActor, RequestFacts};
use crate::wire::request::{Glance, RequestHead};

/// What a request leaves behind in events, and all that a tunnel keeps of it: one allocation.
#[derive(Debug)]
pub(crate) struct Facts {
    client: IpAddr,
    /// Request id, method and path, one after the other. The last two are empty when the head could not be read.
    texts: Box<str>,
    method_start: u16,
    path_start: u16,
    actor: Option<Box<Actor>>,
}

/// Who sent the request, once that is known.
#[derive(Debug)]
struct Actor {
    kind: ActorKind,
    id: Box<str>,
}

impl Facts {
    pub(crate) fn new(client: IpAddr, request_id: &str, method: &str, path: &str) -> Self {
        // An id has at most 128 bytes and a method at most 32.
        let place = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX);
        Self {
            client,
            texts: [request_id, method, path].concat().into_boxed_str(),
            method_start: place(request_id.len()),
            path_start: place(request_id.len() + method.len()),
            actor: None,
        }
    }

    /// Adds who sent the request.
    pub(crate) fn identify(&mut self, identity: &Identity) {
        self.actor =
            identity.actor().map(|KnownActor { kind, id }| Box::new(Actor { kind, id: id.into() }));
    }

    pub(crate) fn unread(client: IpAddr) -> Self {
        Self::new(client, new_request_id(&mut String::new()), "", "")
    }

    /// Of a head that breaks a rule: what it tells all the same.
    pub(crate) fn refused(client: IpAddr, head: &[u8]) -> Self {
        RequestHead::glance(head).map_or_else(
            || Self::unread(client),
            |Glance { method, path, request_id }| {
                let mut new_id = String::new();
                let request_id = request_id.unwrap_or_else(|| new_request_id(&mut new_id));
                Self::new(client, request_id, method, path)
            },
        )
    }

    pub(crate) fn request_id(&self) -> &str {
        self.texts.get(..usize::from(self.method_start)).unwrap_or_default()
    }

    pub(crate) fn method(&self) -> &str {
        let method = usize::from(self.method_start)..usize::from(self.path_start);
        self.texts.get(method).unwrap_or_default()
    }

    pub(crate) fn path(&self) -> &str {
        self.texts.get(usize::from(self.path_start)..).unwrap_or_default()
    }

    pub(crate) fn request(&self) -> RequestFacts<'_> {
        let read = |text| Some(text).filter(|text: &&str| !text.is_empty());
        RequestFacts {
            client: self.client,
            actor: self.actor.as_ref().map(|actor| KnownActor { kind: actor.kind, id: &actor.id }),
            method: read(self.method()),
            path: read(self.path()),
            request_id: self.request_id(),
        }
    }
}

/// Writes a fresh id into `id`: `req_` and 12 characters of 5 bits each.
pub(crate) fn new_request_id(id: &mut String) -> &str {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut bits = fastrand::u64(..);
    id.push_str("req_");
    for _ in 0..12 {
        id.push(LETTERS.get((bits & 31) as usize).map_or('A', |&letter| char::from(letter)));
        bits >>= 5;
    }
    id
}
