//! What the cores can ask about identities: the published keys of tokens, and questions to the control thread.
//! Nothing is decided here. Asked by `proxy`, answered by `control`.

use crate::admission::jwt::Keys;
use crate::admission::session::{SessionCheck, SessionVerdict};
use crate::published::Published;
use crate::question::{self, Asker, Questions};

/// Questions of one kind that may wait at one time, for all cores together.
const WAITING_MAX: usize = 8_192;

/// The cores' side. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Providers {
    /// The keys of tokens.
    pub keys: Published<Keys>,
    /// Asks for newer keys; the answer comes when there is nothing newer to wait for.
    pub newer_keys: Asker<(), ()>,
    /// Asks about a session cookie.
    pub sessions: Asker<SessionCheck, SessionVerdict>,
}

/// The control thread's side.
#[derive(Debug)]
pub struct ProviderQuestions {
    /// Who wants newer keys.
    pub newer_keys: Questions<(), ()>,
    /// Who asks about a session cookie.
    pub sessions: Questions<SessionCheck, SessionVerdict>,
}

/// Both sides.
pub fn connect() -> (Providers, ProviderQuestions) {
    let (newer_keys, key_questions) = question::queue(WAITING_MAX);
    let (sessions, session_questions) = question::queue(WAITING_MAX);
    let keys = Published::new(Keys::default());
    (
        Providers { keys, newer_keys, sessions },
        ProviderQuestions { newer_keys: key_questions, sessions: session_questions },
    )
}
