//! One query for all who ask the same at the same time.
//!
//! Invariants: a query begins after the last of those whom it answers asked, so nobody
//! gets an answer older than the question; per question one query is under way; what
//! waits is bounded.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::QueryError;

/// Readers of one question that may wait for its next query.
const WAITING: usize = 8_192;

type Asked<T> = oneshot::Sender<Result<T, Arc<QueryError>>>;

/// Who waits for the answer to which question. A question that is here has a query under
/// way; those who wait get the next one.
#[derive(Debug)]
pub(crate) struct Together<Q: Eq + Hash, T>(Mutex<HashMap<Q, Vec<Asked<T>>>>);

impl<Q: Eq + Hash, T> Default for Together<Q, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<Q, T> Together<Q, T>
where
    Q: Eq + Hash + Clone + Send + 'static,
    T: Clone + Send + 'static,
{
    /// Asks, together with whoever asks the same now.
    pub(crate) async fn ask<F, A>(self: &Arc<Self>, question: Q, query: F) -> Result<T, QueryError>
    where
        F: Fn() -> A + Send + 'static,
        A: Future<Output = Result<T, QueryError>> + Send,
    {
        let (asked, answered) = oneshot::channel();
        if self.join(&question, asked)? {
            // A task of its own: a reader who leaves must not stop the others' query.
            let asking = Asking { all: self.clone(), question, ended: false };
            tokio::spawn(async move { asking.serve(query).await });
        }
        match answered.await {
            Ok(answer) => answer.map_err(QueryError::Gathered),
            Err(_) => Err(QueryError::Row("the query broke off".into())),
        }
    }

    /// Joins those who wait; whether queries must be started for them.
    fn join(&self, question: &Q, asked: Asked<T>) -> Result<bool, QueryError> {
        let mut all = self.0.lock();
        match all.get_mut(question) {
            Some(waiting) if waiting.len() >= WAITING => Err(QueryError::Full),
            Some(waiting) => {
                waiting.push(asked);
                Ok(false)
            }
            None => {
                all.insert(question.clone(), vec![asked]);
                Ok(true)
            }
        }
    }

    /// Those whose turn it is; none when nobody waits, and then nothing is under way.
    fn take(&self, question: &Q) -> Vec<Asked<T>> {
        let mut all = self.0.lock();
        let waiting = all.get_mut(question).map(std::mem::take).unwrap_or_default();
        if waiting.is_empty() {
            all.remove(question);
        }
        waiting
    }
}

/// The queries of one question, until nobody asks it any more. When this is torn down
/// half-way, those who wait are told by their dropped channels.
struct Asking<Q: Eq + Hash, T> {
    all: Arc<Together<Q, T>>,
    question: Q,
    ended: bool,
}

impl<Q, T> Asking<Q, T>
where
    Q: Eq + Hash + Clone + Send + 'static,
    T: Clone + Send + 'static,
{
    async fn serve<F, A>(mut self, query: F)
    where
        F: Fn() -> A + Send,
        A: Future<Output = Result<T, QueryError>> + Send,
    {
        loop {
            let mut readers = self.all.take(&self.question);
            if readers.is_empty() {
                // From here on the question may be somebody else's.
                self.ended = true;
                return;
            }
            readers.retain(|reader| !reader.is_closed());
            if readers.is_empty() {
                continue;
            }
            let answer = query().await.map_err(Arc::new);
            for reader in readers {
                let _ = reader.send(answer.clone());
            }
        }
    }
}

impl<Q: Eq + Hash, T> Drop for Asking<Q, T> {
    fn drop(&mut self) {
        if !self.ended {
            self.all.0.lock().remove(&self.question);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::time::Duration;

    use futures::FutureExt;
    use tokio::sync::Semaphore;

    use super::*;

    type Numbered = Arc<Together<&'static str, usize>>;

    /// Answers with how many queries there were, each as soon as it is let.
    fn numbered(gate: &Arc<Semaphore>, begun: &Arc<AtomicUsize>) -> impl Fn() -> AskedFor + use<> {
        let (gate, begun) = (gate.clone(), begun.clone());
        move || {
            let (gate, nth) = (gate.clone(), begun.fetch_add(1, SeqCst) + 1);
            async move {
                gate.acquire().await.expect("open").forget();
                Ok(nth)
            }
            .boxed()
        }
    }

    type AskedFor = futures::future::BoxFuture<'static, Result<usize, QueryError>>;

    #[tokio::test]
    async fn who_asks_during_a_query_is_answered_by_the_next_one_and_all_by_the_same() {
        let all = Numbered::default();
        let (gate, begun) = (Arc::new(Semaphore::new(0)), Arc::default());
        let ask = |question| {
            let (all, query) = (all.clone(), numbered(&gate, &begun));
            tokio::spawn(async move { all.ask(question, query).await.expect("answered") })
        };
        let first = ask("a");
        until(|| begun.load(SeqCst) == 1).await;
        let later: Vec<_> = (0..3).map(|_| ask("a")).collect();
        let left = ask("a");
        until(|| all.0.lock().get("a").is_some_and(|waiting| waiting.len() == 4)).await;
        left.abort();
        gate.add_permits(1);
        assert_eq!(first.await.expect("first"), 1);
        gate.add_permits(1);
        for reader in later {
            assert_eq!(reader.await.expect("later"), 2, "begun after they asked, and shared");
        }
        until(|| all.0.lock().is_empty()).await;
        let (again, other) = (ask("a"), ask("b"));
        gate.add_permits(2);
        let mut both = [again.await.expect("again"), other.await.expect("other")];
        both.sort_unstable();
        assert_eq!(both, [3, 4], "another question has its own query");
    }

    #[tokio::test]
    async fn a_query_that_breaks_off_leaves_nobody_waiting() {
        let all = Numbered::default();
        let broken = || async { panic!("on purpose") };
        assert!(matches!(all.ask("a", broken).await, Err(QueryError::Row(_))));
        until(|| all.0.lock().is_empty()).await;
        assert_eq!(all.ask("a", || async { Ok(7) }).await.expect("answered"), 7);
        let failed = all.ask("a", || async { Err(QueryError::Cursor) }).await;
        assert!(matches!(failed, Err(QueryError::Gathered(_))));
    }

    #[test]
    fn what_waits_is_bounded() {
        let all = Numbered::default();
        assert!(all.join(&"a", oneshot::channel().0).expect("room"), "the first starts a query");
        for _ in 1..WAITING {
            assert!(!all.join(&"a", oneshot::channel().0).expect("room"));
        }
        assert!(matches!(all.join(&"a", oneshot::channel().0), Err(QueryError::Full)));
    }

    async fn until(true_at_last: impl Fn() -> bool) {
        let wait = async {
            while !true_at_last() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.expect("in time");
    }
}
