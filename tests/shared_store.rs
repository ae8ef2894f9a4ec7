//! A core's question to the control thread, from the runtime of a core: the answer of another thread wakes it.

use std::thread;
use std::time::Instant;

use vibewarden::admission::limit::{Rate, Wait};
use vibewarden::refusal::Limit;
use vibewarden::shared_store::{Store, StoreVerdict};

#[test]
fn an_answer_from_another_thread_wakes_the_core() {
    let (store, questions) = Store::new(true);
    let control = thread::spawn(move || {
        // Answered in the opposite order, and some not at all.
        let asked: Vec<_> = questions.asked.iter().take(100).collect();
        for question in asked.iter().rev().take(90) {
            let even = question.identifier.parse::<u64>().is_ok_and(|number| number % 2 == 0);
            let refused = StoreVerdict::Refused(Wait::of_seconds(7));
            question.answer(if even { StoreVerdict::Passed } else { refused });
        }
    });
    let mut runtime = monoio::RuntimeBuilder::<monoio::LegacyDriver>::new()
        .enable_all()
        .build()
        .expect("a runtime of a core");
    let verdicts = runtime.block_on(async {
        let asking: Vec<_> = (0..100_u32)
            .map(|number| {
                let rate = Rate::new(1.0, 1);
                let identifier = number.to_string();
                let pending = store.take(Limit::User, &identifier, rate, Instant::now());
                monoio::spawn(pending)
            })
            .collect();
        let mut verdicts = Vec::new();
        for task in asking {
            verdicts.push(task.await);
        }
        verdicts
    });
    control.join().expect("the answers were given");
    for (number, verdict) in verdicts.into_iter().enumerate() {
        let expected = match (number, number % 2) {
            (..10, _) => StoreVerdict::Failed,
            (_, 0) => StoreVerdict::Passed,
            _ => StoreVerdict::Refused(Wait::of_seconds(7)),
        };
        assert_eq!(verdict, expected, "question {number}");
    }
}
