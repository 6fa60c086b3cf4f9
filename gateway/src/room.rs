//! Room for commands: how many requests that change something are under way at once.
//!
//! Beyond it the next ones wait a moment, unread, and are then turned away with 503 and
//! `Retry-After` (reliability D40). The moment is shorter than the 50 ms in which a
//! refusal must come, and it slows callers who come again at once: each of them costs a part
//! of the machine that the processor shares.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use domain::{Code, Problem};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

use crate::error::ApiError;

/// How long a request waits for a seat.
const PATIENCE: Duration = Duration::from_millis(30);
/// What a caller is told to wait before it comes again.
const RETRY_AFTER_MS: u64 = 1_000;

/// The seats of a gateway.
#[derive(Debug)]
pub(crate) struct Room {
    seats: Arc<Semaphore>,
    all: usize,
    waiting: AtomicUsize,
}

impl Room {
    pub(crate) fn of(seats: usize) -> Arc<Self> {
        let all = seats.clamp(1, Semaphore::MAX_PERMITS);
        Arc::new(Self { seats: Arc::new(Semaphore::new(all)), all, waiting: AtomicUsize::new(0) })
    }

    /// Requests that have a seat.
    pub(crate) fn taken(&self) -> usize {
        self.all - self.seats.available_permits().min(self.all)
    }

    /// Requests that wait for one.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    async fn seat(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        match self.seats.clone().try_acquire_owned() {
            Ok(seat) => return Ok(seat),
            Err(TryAcquireError::NoPermits) => {}
            Err(TryAcquireError::Closed) => return Err(full()),
        }
        self.waiting.fetch_add(1, Relaxed);
        let _waits = Waits(&self.waiting);
        let seat = tokio::time::timeout(PATIENCE, self.seats.clone().acquire_owned()).await;
        seat.ok().and_then(Result::ok).ok_or_else(full)
    }
}

/// Counts a waiter until it waits no longer, whatever ended the wait.
struct Waits<'a>(&'a AtomicUsize);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

fn full() -> ApiError {
    let detail = "as many changes are under way as are taken at once; try again shortly";
    let retry_after_ms = Some(RETRY_AFTER_MS);
    Problem { retry_after_ms, ..Problem::new(Code::Busy, detail) }.into()
}

/// A request's place in the room; it may leave and come back while it is not at work.
#[derive(Debug, Default)]
pub(crate) struct Seat(Mutex<Option<(Arc<Room>, Option<OwnedSemaphorePermit>)>>);

impl Seat {
    /// Takes a seat; waits a moment for one.
    ///
    /// # Errors
    /// The refusal, when none became free.
    pub(crate) async fn take(&self, room: &Arc<Room>) -> Result<(), ApiError> {
        let seat = room.seat().await?;
        *self.0.lock() = Some((room.clone(), Some(seat)));
        Ok(())
    }

    /// Leaves it to others: this request waits for something else than the processor.
    pub(crate) fn leave(&self) {
        if let Some((_, seat)) = &mut *self.0.lock() {
            *seat = None;
        }
    }

    /// Takes a seat again after [`Seat::leave`]; nothing where it never had one.
    ///
    /// # Errors
    /// The refusal, when none became free.
    pub(crate) async fn take_again(&self) -> Result<(), ApiError> {
        let room = self.0.lock().as_ref().map(|(room, _)| room.clone());
        match room {
            Some(room) => self.take(&room).await,
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_finds_no_seat_is_turned_away_after_a_moment() {
        let room = Room::of(1);
        let (first, second) = (Seat::default(), Seat::default());
        first.take(&room).await.expect("free");
        let started = tokio::time::Instant::now();
        let refusal = second.take(&room).await.expect_err("taken");
        assert_eq!(refusal.problem().code(), Some(Code::Busy));
        assert!(refusal.problem().retry_after_ms.is_some());
        assert!(started.elapsed() < Duration::from_millis(50), "{:?}", started.elapsed());
        assert_eq!((room.taken(), room.waiting()), (1, 0));
        drop(first);
        second.take(&room).await.expect("free again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_seat_that_becomes_free_in_time_is_taken() {
        let room = Room::of(1);
        let (first, second) = (Seat::default(), Seat::default());
        first.take(&room).await.expect("free");
        let waits = second.take(&room);
        let leaves = async {
            tokio::time::sleep(PATIENCE / 2).await;
            assert_eq!(room.waiting(), 1);
            first.leave();
        };
        let (taken, ()) = tokio::join!(waits, leaves);
        taken.expect("free in time");
        assert!(first.take_again().await.is_err());
        second.leave();
        first.take_again().await.expect("free");
        Seat::default().take_again().await.expect("nothing to take again");
    }
}
