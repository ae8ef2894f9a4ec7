//! Questions from the cores to the control thread: a bounded queue, and one answer for each.
//! Nothing here knows what is asked. A core never waits for room in the queue; whether it waits for the answer, and how
//! long, is its own decision. Asked by `proxy`, answered by `control`.

/// Where a core asks. Cheap to clone.
#[derive(Debug)]
pub struct Asker<Q, A> {
    questions: flume::Sender<Question<Q, A>>,
}

impl<Q, A> Clone for Asker<Q, A> {
    fn clone(&self) -> Self {
        Self { questions: self.questions.clone() }
    }
}

/// Where the control thread finds what was asked.
#[derive(Debug)]
pub struct Questions<Q, A> {
    waiting: flume::Receiver<Question<Q, A>>,
}

/// A question that waits for its answer.
#[derive(Debug)]
pub struct Question<Q, A> {
    /// What is asked about.
    pub about: Q,
    answer: flume::Sender<A>,
}

/// An answer under way.
#[derive(Debug)]
pub struct Answer<A> {
    answer: flume::Receiver<A>,
}

/// Both ends of a queue for at most `waiting_max` questions.
pub fn queue<Q, A>(waiting_max: usize) -> (Asker<Q, A>, Questions<Q, A>) {
    let (questions, waiting) = flume::bounded(waiting_max);
    (Asker { questions }, Questions { waiting })
}

impl<Q, A> Asker<Q, A> {
    /// Asks. `None` when the queue is full, or nobody answers any more: a refusal, never a wait.
    pub fn ask(&self, about: Q) -> Option<Answer<A>> {
        let (answer, receiver) = flume::bounded(1);
        self.questions.try_send(Question { about, answer }).ok()?;
        Some(Answer { answer: receiver })
    }
}

impl<Q, A> Questions<Q, A> {
    /// The next question that somebody still waits for; `None` when nobody can ask any more.
    pub async fn next(&self) -> Option<Question<Q, A>> {
        loop {
            let question = self.waiting.recv_async().await.ok()?;
            if question.is_waited_for() {
                return Some(question);
            }
        }
    }
}

/// A queue without a reader keeps what is in it as long as anybody can ask; whoever waits for that would wait for ever.
impl<Q, A> Drop for Questions<Q, A> {
    fn drop(&mut self) {
        self.waiting.drain();
    }
}

impl<Q, A> Question<Q, A> {
    /// Gives the answer. Whoever asked may have left.
    pub fn answer(self, answer: A) {
        // The one place is free: a question is answered once.
        let _ = self.answer.try_send(answer);
    }

    /// Whether whoever asked is still there.
    pub fn is_waited_for(&self) -> bool {
        !self.answer.is_disconnected()
    }
}

impl<A> Answer<A> {
    /// Waits, on whichever runtime; `None` when the question was dropped without an answer.
    pub async fn wait(self) -> Option<A> {
        self.answer.recv_async().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn wait<T>(future: impl Future<Output = T>) -> T {
        let mut polled = std::pin::pin!(future);
        let waker = std::task::Waker::from(std::sync::Arc::new(Unpark(thread::current())));
        let mut context = std::task::Context::from_waker(&waker);
        loop {
            match polled.as_mut().poll(&mut context) {
                std::task::Poll::Ready(output) => return output,
                std::task::Poll::Pending => thread::park(),
            }
        }
    }

    /// The smallest runtime: what is under test must not depend on a certain one.
    struct Unpark(thread::Thread);

    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }

    #[test]
    fn an_answer_comes_back_from_another_thread_and_runtime() {
        let (asker, questions) = queue::<u32, u32>(4);
        let answering = thread::spawn(move || {
            wait(async {
                while let Some(question) = questions.next().await {
                    let double = question.about * 2;
                    question.answer(double);
                }
            });
        });
        let answers: Vec<_> = [1, 2, 3].map(|number| asker.ask(number)).into_iter().collect();
        for (answer, expected) in answers.into_iter().zip([2, 4, 6]) {
            assert_eq!(wait(answer.expect("room").wait()), Some(expected));
        }
        drop(asker);
        answering.join().expect("no panic");
    }

    #[test]
    fn a_full_queue_refuses_at_once_and_a_dropped_question_ends_the_wait() {
        let (asker, questions) = queue::<(), ()>(1);
        let first = asker.ask(()).expect("room");
        assert!(asker.ask(()).is_none());
        drop(questions);
        assert_eq!(wait(first.wait()), None);
        assert!(asker.ask(()).is_none());
    }

    #[test]
    fn a_question_nobody_waits_for_is_passed_over() {
        let (asker, questions) = queue::<u32, ()>(4);
        drop(asker.ask(1));
        let _second = asker.ask(2).expect("room");
        assert_eq!(wait(questions.next()).map(|question| question.about), Some(2));
    }
}
