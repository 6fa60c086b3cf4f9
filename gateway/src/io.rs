//! A connection that gives up on peers who do not move.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use crate::metrics::Counter;

/// A request's head must have arrived this long after its first byte.
const HEAD: Duration = Duration::from_secs(10);
/// A connection with neither traffic nor a request under way is closed.
const IDLE: Duration = Duration::from_secs(75);
/// A peer that does not read what is written is dropped (reliability R20: within 30 s).
const STALLED_WRITE: Duration = Duration::from_secs(25);
/// How often the limits are looked at; they hold to within this time.
const TICK: Duration = Duration::from_millis(1_000);

/// A TCP stream with limits on slow heads, idleness and stalled writes.
///
/// HTTP's own timer would close a kept-alive connection as soon as a slow head; here
/// the two have limits of their own, and a subscriber that never reads has one at all.
pub(crate) struct TimedIo {
    stream: TcpStream,
    /// A request is being answered, or the connection was upgraded.
    serving: Arc<AtomicBool>,
    /// When the first byte of the head came that is not complete yet.
    head_since: Option<Instant>,
    /// When the last byte went either way.
    moved: Instant,
    /// Since when a write waits for the peer.
    stalled_since: Option<Instant>,
    /// A limit was passed: reader and writer may be two tasks, and each is to hear of it.
    over: bool,
    tick: Pin<Box<Sleep>>,
    /// Counts the peers that were dropped because they did not read.
    stalled: Counter,
}

impl TimedIo {
    pub(crate) fn new(stream: TcpStream, serving: Arc<AtomicBool>, stalled: Counter) -> Self {
        let tick = Box::pin(tokio::time::sleep(TICK));
        let now = Instant::now();
        // The first head is waited for from the start; later ones from their first byte.
        Self {
            stream,
            serving,
            head_since: Some(now),
            moved: now,
            stalled_since: None,
            over: false,
            tick,
            stalled,
        }
    }

    /// Looks at the limits once per tick; leaves a wake-up for the next one.
    fn overdue(&mut self, cx: &mut Context<'_>) -> bool {
        while !self.over && self.tick.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            self.tick.as_mut().reset(now + TICK);
            let serving = self.serving.load(Ordering::Relaxed);
            if serving {
                self.head_since = None;
            }
            let over = |since: Option<Instant>, limit| since.is_some_and(|at| now - at >= limit);
            // Reads notice it as well as writes: whichever is polled first.
            let stalled = over(self.stalled_since, STALLED_WRITE);
            self.stalled.add(u64::from(stalled));
            let idle = !serving && over(Some(self.moved), IDLE);
            self.over = stalled || idle || over(self.head_since, HEAD);
        }
        self.over
    }

    fn too_slow() -> io::Error {
        io::Error::new(io::ErrorKind::TimedOut, "the peer did not move in time")
    }

    fn written(
        &mut self,
        cx: &mut Context<'_>,
        wrote: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if wrote.is_ready() {
            self.stalled_since = None;
            self.moved = Instant::now();
            return wrote;
        }
        self.stalled_since.get_or_insert_with(Instant::now);
        if self.overdue(cx) { Poll::Ready(Err(Self::too_slow())) } else { Poll::Pending }
    }
}

impl AsyncRead for TimedIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let this = &mut *self;
        match Pin::new(&mut this.stream).poll_read(cx, buf) {
            Poll::Ready(read) => {
                if buf.filled().len() > before {
                    this.moved = Instant::now();
                    if this.serving.load(Ordering::Relaxed) {
                        this.head_since = None;
                    } else {
                        this.head_since.get_or_insert(this.moved);
                    }
                }
                Poll::Ready(read)
            }
            Poll::Pending if this.overdue(cx) => Poll::Ready(Err(Self::too_slow())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncWrite for TimedIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        // A new answer means that the head before it was complete.
        this.head_since = None;
        let wrote = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.written(cx, wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.head_since = None;
        let wrote = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.written(cx, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let client = TcpStream::connect(address).await.expect("connects");
        (listener.accept().await.expect("accepts").0, client)
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_drips_is_cut_off() {
        let (server, mut client) = pair().await;
        let mut io = TimedIo::new(server, Arc::default(), Counter::default());
        client.write_all(b"G").await.expect("sends");
        assert_eq!(io.read_u8().await.expect("arrives"), b'G');
        let started = Instant::now();
        let error = io.read_u8().await.expect_err("cut off");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let waited = started.elapsed();
        assert!(waited >= HEAD - TICK && waited <= HEAD + TICK, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_never_reads_is_dropped() {
        let (server, client) = pair().await;
        let dropped = Counter::default();
        let serving = Arc::new(AtomicBool::new(true));
        let mut io = TimedIo::new(server, serving, dropped.clone());
        let started = Instant::now();
        let error = loop {
            if let Err(error) = io.write_all(&[0; 65_536]).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() <= STALLED_WRITE + 2 * TICK);
        assert_eq!(dropped.get(), 1);
        drop(client);
    }
}
