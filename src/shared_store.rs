//! What a core asks the shared store of buckets, and what it is told (contract section 8.4). The store itself is `control`'s;
//! both sides meet here and know nothing of each other.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use flume::r#async::RecvFut;

use crate::admission::limit::{Rate, Wait};
use crate::refusal::Limit;

/// Questions that wait for the control thread. One more is a failed call.
const QUESTIONS_MAX: usize = 1024;

/// What the store says to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreVerdict {
    /// A token was there.
    Passed,
    /// None was there.
    Refused(Wait),
    /// The call failed or took too long. With [`Store::falls_back`] the buckets of this process decide; without it the request
    /// is refused with [`Wait::SHORT`].
    Failed,
}

/// One request's question. The answer goes to a core on another thread.
#[derive(Debug)]
pub struct Question {
    /// Whose bucket.
    pub limit: Limit,
    /// The key of the bucket: an address or its block, or a user.
    pub identifier: Box<str>,
    /// What the key may do.
    pub rate: Rate,
    /// When it was asked; the answer is late 100 ms after that.
    pub asked: Instant,
    answer: flume::Sender<StoreVerdict>,
}

impl Question {
    /// Answers it.
    pub fn answer(&self, verdict: StoreVerdict) {
        // Nobody listens when the client has left meanwhile.
        let _ = self.answer.try_send(verdict);
    }

    /// Nobody waits for the answer any more.
    pub fn is_abandoned(&self) -> bool {
        self.answer.is_disconnected()
    }
}

/// A core's end of the store.
#[derive(Debug, Clone)]
pub struct Store {
    questions: flume::Sender<Question>,
    is_down: Arc<AtomicBool>,
    falls_back: bool,
}

/// The control thread's end.
#[derive(Debug)]
pub struct Questions {
    /// What the cores ask.
    pub asked: flume::Receiver<Question>,
    /// Set while the store is known not to answer; then nobody who can fall back has to ask.
    pub is_down: Arc<AtomicBool>,
}

impl Drop for Questions {
    /// Nobody will answer those who still wait, and they must not wait for it.
    fn drop(&mut self) {
        self.asked.drain();
    }
}

impl Store {
    /// Both ends. `falls_back` is `rate_limit.redis.fallback`.
    pub fn new(falls_back: bool) -> (Self, Questions) {
        let (questions, asked) = flume::bounded(QUESTIONS_MAX);
        let is_down = Arc::new(AtomicBool::new(false));
        (
            Self { questions, is_down: Arc::clone(&is_down), falls_back },
            Questions { asked, is_down },
        )
    }

    /// Whether the buckets of this process decide while the store does not answer.
    pub fn falls_back(&self) -> bool {
        self.falls_back
    }

    /// Takes a token of `identifier`. Never blocks; a full queue is a failed call.
    pub fn take(&self, limit: Limit, identifier: &str, rate: Rate, now: Instant) -> Pending {
        if rate.burst() == 0 {
            return Pending::known(StoreVerdict::Refused(Wait::NEVER));
        }
        // The flag stands for nothing but itself.
        if self.falls_back && self.is_down.load(Ordering::Relaxed) {
            return Pending::known(StoreVerdict::Failed);
        }
        let (answer, answered) = flume::bounded(1);
        let question = Question { limit, identifier: identifier.into(), rate, asked: now, answer };
        match self.questions.try_send(question) {
            Ok(()) => Pending(Awaited::Answer(answered.into_recv_async())),
            Err(_) => Pending::known(StoreVerdict::Failed),
        }
    }
}

/// The answer to come.
#[derive(Debug)]
#[must_use = "nothing is decided until it is awaited"]
pub struct Pending(Awaited);

#[derive(Debug)]
enum Awaited {
    Known(StoreVerdict),
    Answer(RecvFut<'static, StoreVerdict>),
}

impl Pending {
    fn known(verdict: StoreVerdict) -> Self {
        Self(Awaited::Known(verdict))
    }
}

impl Future for Pending {
    type Output = StoreVerdict;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<StoreVerdict> {
        match &mut self.0 {
            Awaited::Known(verdict) => Poll::Ready(*verdict),
            // A question that is dropped without an answer belongs to a store that is gone.
            Awaited::Answer(answer) => {
                Pin::new(answer).poll(context).map(|told| told.unwrap_or(StoreVerdict::Failed))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a future that must be ready says.
    fn ready(mut pending: Pending) -> Option<StoreVerdict> {
        let mut context = Context::from_waker(std::task::Waker::noop());
        match Pin::new(&mut pending).poll(&mut context) {
            Poll::Ready(verdict) => Some(verdict),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_full_queue_and_a_store_that_is_gone_are_failed_calls() {
        let (store, questions) = Store::new(false);
        let (rate, now) = (Rate::new(1.0, 1), crate::clock::now());
        let waiting: Vec<Pending> =
            (0..QUESTIONS_MAX).map(|_| store.take(Limit::Ip, "a", rate, now)).collect();
        assert_eq!(ready(store.take(Limit::Ip, "a", rate, now)), Some(StoreVerdict::Failed));
        let question = questions.asked.try_recv().expect("a question");
        assert_eq!((&*question.identifier, question.is_abandoned()), ("a", false));
        question.answer(StoreVerdict::Passed);
        let mut waiting = waiting.into_iter();
        assert_eq!(waiting.next().and_then(ready), Some(StoreVerdict::Passed));
        drop((questions, question));
        assert_eq!(waiting.next().and_then(ready), Some(StoreVerdict::Failed));
        assert_eq!(ready(store.take(Limit::Ip, "a", rate, now)), Some(StoreVerdict::Failed));
    }

    #[test]
    fn while_the_store_is_down_only_those_ask_who_cannot_fall_back() {
        let now = crate::clock::now();
        for (falls_back, asked) in [(true, 0), (false, 1)] {
            let (store, questions) = Store::new(falls_back);
            questions.is_down.store(true, Ordering::Relaxed);
            let pending = store.take(Limit::User, "a", Rate::new(1.0, 1), now);
            assert_eq!(questions.asked.len(), asked);
            assert_eq!(ready(pending), falls_back.then_some(StoreVerdict::Failed));
        }
    }

    #[test]
    fn a_burst_of_nothing_needs_no_store() {
        let (store, questions) = Store::new(true);
        let pending = store.take(Limit::Ip, "a", Rate::new(5.0, 0), crate::clock::now());
        assert_eq!(ready(pending), Some(StoreVerdict::Refused(Wait::NEVER)));
        assert!(questions.asked.is_empty());
    }
}
