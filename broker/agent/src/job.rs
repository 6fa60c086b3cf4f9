//! One task from its assignment to our answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use domain::frame::CommandFrame;
use domain::task::{Assignment, CompleteTask, ExtendTask, FailTask, ReleaseTask, StartTask};
use domain::{Json, Outcome, Problem, Status, StreamType, TaskId};
use serde::Serialize;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::control::{Control, Phase};
use crate::identity::command_id;
use crate::journal::Journal;
use crate::notice::Notice;
use crate::wire::Ask;
use crate::work::{Shared, Work};
use crate::{Error, Handler, Verdict};

/// The command that begins the work.
const START: &str = "start";
/// How long the beginning is announced for; without an answer somebody else may begin.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How long the answer is offered for: outlasts a restart and a database's recovery.
const ANSWER_PATIENCE: Duration = Duration::from_secs(600);
/// How long the first try of an answer may take before it is kept on disk.
const BEFORE_KEEPING: Duration = Duration::from_secs(1);
/// How long a kept answer is offered for at a time.
const KEPT_PATIENCE: Duration = Duration::from_secs(10);
/// Pause while nothing that is kept can be delivered.
const KEPT_PAUSE: Duration = Duration::from_secs(2);
/// The same when the agent is on its way out.
const LAST_WORD_PATIENCE: Duration = Duration::from_secs(5);

/// What every job of an agent shares.
pub(crate) struct Shop<H> {
    pub handler: Arc<H>,
    pub lease_ms: u64,
    pub control: Control,
    pub shared: Shared,
    /// Of this process: its commands are nobody else's.
    pub run: Uuid,
}

/// What the server's answer means for the work.
#[derive(Debug, Clone, PartialEq)]
enum Word {
    Yes,
    /// The task is not ours any more.
    Lost,
    /// The message itself is at fault.
    Invalid(String),
}

fn word(outcome: &Outcome) -> Word {
    let decision = outcome.decision();
    match decision.status {
        Status::Accepted | Status::Duplicate => Word::Yes,
        Status::Refused | Status::Busy => Word::Lost,
        Status::Invalid => Word::Invalid(detail(decision.problem.as_ref())),
    }
}

fn detail(problem: Option<&Problem>) -> String {
    let Some(problem) = problem else { return "no reason was given".into() };
    let mut text = problem.detail.clone();
    for error in &problem.errors {
        text = format!("{text} ({}: {})", error.pointer, error.message);
    }
    text
}

impl<H: Handler> Shop<H> {
    /// Works on a task and answers for it. Returns when the server has the answer, the
    /// lease is lost, or nobody has answered for long.
    pub(crate) async fn run(self: Arc<Self>, assignment: Assignment, lease_known: bool) {
        let task = Arc::new(assignment);
        let begin = Instant::now();
        if !task.started {
            let body = StartTask { lease_token: task.lease.token };
            match self.tell(&task, START, 0, &body, START_PATIENCE).await {
                Ok(Word::Yes) => {}
                Ok(Word::Lost | Word::Invalid(_)) => {
                    return (self.shared.notices)(Notice::Lost(&task));
                }
                Err(error) => {
                    let detail = error.to_string();
                    return self.noted(&task, "unanswered", begin, Some(&detail));
                }
            }
        }
        (self.shared.notices)(Notice::Started(&task));

        let lost = CancellationToken::new();
        let stop = lost.child_token();
        let keeper =
            tokio::spawn(Arc::clone(&self).keep(Arc::clone(&task), lost.clone(), lease_known));
        let verdict = self.work(&task, &stop).await;
        self.shared.progress_seq.fetch_add(1, Ordering::Relaxed);
        if lost.is_cancelled() {
            (self.shared.notices)(Notice::Lost(&task));
        } else {
            self.answer(&task, verdict, begin).await;
        }
        keeper.abort();
    }

    /// Lets the handler work until it is done, the lease is lost or the agent stops.
    async fn work(&self, task: &Arc<Assignment>, stop: &CancellationToken) -> Verdict {
        let work = Work::new(Arc::clone(task), stop.clone(), self.shared.clone());
        work.gets_on();
        let handler = Arc::clone(&self.handler);
        let mut working = tokio::spawn(async move { handler.handle(work).await });
        let ended = tokio::select! {
            ended = &mut working => ended,
            () = self.control.reached(Phase::Stopping) => {
                stop.cancel();
                // What it says now may be half a result.
                let _ = working.await;
                return Verdict::HandBack("the agent was stopped".into());
            }
        };
        ended.unwrap_or_else(|error| Verdict::failed(format!("the handler broke: {error}"), true))
    }

    /// Extends the lease at a third of its length, until the server says that it is lost.
    async fn keep(self: Arc<Self>, task: Arc<Assignment>, lost: CancellationToken, known: bool) {
        let third = Duration::from_millis(self.lease_ms / 3);
        // How long a pushed task's lease runs, only the database's clock could tell.
        let mut pause = if known { third } else { Duration::ZERO };
        for nth in 0.. {
            sleep(pause).await;
            pause = third;
            let lease_token = task.lease.token;
            let body = ExtendTask { lease_token, lease_ms: Some(self.lease_ms) };
            match self.tell(&task, "extend", nth, &body, third).await {
                Ok(Word::Yes) => {}
                Ok(Word::Lost) => return lost.cancel(),
                Ok(Word::Invalid(reason)) => tracing::warn!(%reason, "the lease is not extended"),
                Err(error) => tracing::debug!(%error, "the lease is not extended"),
            }
        }
    }

    async fn answer(&self, task: &Assignment, verdict: Verdict, begin: Instant) {
        let lease_token = task.lease.token;
        let told = match &verdict {
            Verdict::Done(result) => {
                let body = CompleteTask { lease_token, result: result.clone() };
                self.tell_at_last(task, "complete", &body).await
            }
            Verdict::Failed { error, retryable } => {
                self.tell_at_last(task, "fail", &failure(task, error.clone(), *retryable)).await
            }
            Verdict::HandBack(reason) => {
                let body = ReleaseTask { lease_token, reason: Some(reason.clone()) };
                self.tell_at_last(task, "release", &body).await
            }
        };
        let how = match verdict {
            Verdict::Done(_) => "completed",
            Verdict::Failed { .. } => "failed",
            Verdict::HandBack(_) => "released",
        };
        match told {
            Ok(Word::Yes) => self.noted(task, how, begin, said(&verdict).as_deref()),
            Ok(Word::Lost) => (self.shared.notices)(Notice::Lost(task)),
            Ok(Word::Invalid(reason)) => self.unfit(task, &reason, begin).await,
            Err(Error::TooLarge { what, bytes, limit }) => {
                let reason = format!("{what} has {bytes} bytes, at most {limit} are taken");
                self.unfit(task, &reason, begin).await;
            }
            Err(error) => self.noted(task, "unanswered", begin, Some(&error.to_string())),
        }
    }

    /// An answer that the server cannot take would be the same on every attempt.
    async fn unfit(&self, task: &Assignment, reason: &str, begin: Instant) {
        let message = format!("the agent's answer was not accepted: {reason}");
        let error = Json::of(&serde_json::json!({ "message": message }));
        match self.tell_at_last(task, "fail", &failure(task, error, false)).await {
            Ok(Word::Yes) => self.noted(task, "failed", begin, Some(&message)),
            Ok(Word::Lost) => (self.shared.notices)(Notice::Lost(task)),
            Ok(Word::Invalid(reason)) => self.noted(task, "unanswered", begin, Some(&reason)),
            Err(error) => self.noted(task, "unanswered", begin, Some(&error.to_string())),
        }
    }

    /// Gives a task back that there is no room for.
    pub(crate) async fn hand_back(&self, task: &Assignment, reason: &str) {
        let body = ReleaseTask { lease_token: task.lease.token, reason: Some(reason.into()) };
        if let Err(error) = self.tell(task, "release", 0, &body, LAST_WORD_PATIENCE).await {
            tracing::warn!(task = %task.task_id, %error, "not handed back; its lease will run out");
        }
    }

    async fn tell_at_last<B: Serialize>(
        &self,
        task: &Assignment,
        command: &'static str,
        body: &B,
    ) -> Result<Word, Error> {
        let patience = match self.control.phase() {
            Phase::Running | Phase::Draining => ANSWER_PATIENCE,
            Phase::Stopping => LAST_WORD_PATIENCE,
        };
        let Some(journal) = &self.shared.journal else {
            return self.tell(task, command, 0, body, patience).await;
        };
        let frame = self.frame(task, command, 0, body);
        if !journal.has_progress_of(task.task_id.0) {
            match self.shared.wire.deliver(&frame, BEFORE_KEEPING).await {
                Err(Error::Unanswered { .. }) => {}
                answered => return answered.map(|outcome| word(&outcome)),
            }
        }
        let kept = journal.keep(frame.clone()).await;
        if kept {
            (self.shared.notices)(Notice::Kept(task));
        }
        let answered = self.offer(task, &frame, patience, journal).await;
        if kept {
            match &answered {
                Ok(_) => journal.done(frame.command_id),
                Err(Error::Unanswered { .. }) => journal.leave(frame.command_id),
                // It would be the same the next time.
                Err(_) => journal.done(frame.command_id),
            }
        }
        answered.map(|outcome| word(&outcome))
    }

    /// Offers an answer that could not be delivered at once, behind the progress that was not
    /// delivered either.
    async fn offer(
        &self,
        task: &Assignment,
        frame: &CommandFrame,
        patience: Duration,
        journal: &Journal,
    ) -> Result<Outcome, Error> {
        let begin = Instant::now();
        let mut link = self.shared.wire.link();
        // Nobody hears it before; a try that times out would only put the answer off.
        let _ = tokio::time::timeout(patience, link.wait_for(|link| link.up)).await;
        let up = Instant::now();
        while journal.has_progress_of(task.task_id.0) && up.elapsed() < BEFORE_KEEPING {
            let Some(progress) = journal.progress_of(task.task_id.0) else {
                // `deliver_kept` has it in hand.
                sleep(Duration::from_millis(10)).await;
                continue;
            };
            match self.shared.wire.deliver(&progress, BEFORE_KEEPING).await {
                Err(Error::Unanswered { .. }) => journal.leave(progress.command_id),
                Ok(_) | Err(_) => journal.done(progress.command_id),
            }
        }
        let left = patience.saturating_sub(begin.elapsed()).max(BEFORE_KEEPING);
        self.shared.wire.deliver(frame, left).await
    }

    /// Delivers what was kept, by this process or one before it, until dropped.
    pub(crate) async fn deliver_kept(self: Arc<Self>) {
        let Some(journal) = &self.shared.journal else { return };
        let mut link = self.shared.wire.link();
        loop {
            // Nobody hears it before: until then it is not in our hands.
            if link.wait_for(|link| link.up).await.is_err() {
                return;
            }
            let Some(frame) = journal.next() else {
                sleep(KEPT_PAUSE).await;
                continue;
            };
            // Lets go of the entry also where this is dropped in the middle.
            let _left = Left { journal, command_id: frame.command_id };
            let refused = match self.shared.wire.deliver(&frame, KEPT_PATIENCE).await {
                Ok(outcome) => match word(&outcome) {
                    Word::Yes => None,
                    Word::Lost => Some(detail(outcome.decision().problem.as_ref())),
                    Word::Invalid(reason) => Some(reason),
                },
                Err(Error::Unanswered { .. }) => {
                    sleep(KEPT_PAUSE).await;
                    continue;
                }
                Err(error) => Some(error.to_string()),
            };
            journal.done(frame.command_id);
            let (task_id, command) = (TaskId(frame.id), frame.command.as_str());
            if let Some(reason) = &refused {
                tracing::warn!(task = %task_id, command, reason, "a kept answer is dropped");
            }
            let refused = refused.as_deref();
            (self.shared.notices)(Notice::Delivered { task_id, command, refused });
        }
    }

    fn frame<B: Serialize>(
        &self,
        task: &Assignment,
        command: &'static str,
        nth: u64,
        body: &B,
    ) -> CommandFrame {
        let ask = Ask {
            kind: StreamType::Task,
            id: task.task_id.0,
            command,
            command_id: command_id(self.run, task.task_id, task.lease.token, command, nth),
            body,
            traceparent: task.traceparent.as_deref(),
            patience: Duration::ZERO,
        };
        ask.frame()
    }

    async fn tell<B: Serialize>(
        &self,
        task: &Assignment,
        command: &'static str,
        nth: u64,
        body: &B,
        patience: Duration,
    ) -> Result<Word, Error> {
        let frame = self.frame(task, command, nth, body);
        let outcome = self.shared.wire.deliver(&frame, patience).await?;
        // Somebody else has begun under our lease: another process of this name, or we in
        // an earlier life. Whoever begins a second time changes nothing.
        if command == START && outcome.decision().events.is_empty() {
            return Ok(match word(&outcome) {
                Word::Yes | Word::Lost => Word::Lost,
                invalid @ Word::Invalid(_) => invalid,
            });
        }
        Ok(word(&outcome))
    }

    fn noted(&self, task: &Assignment, how: &'static str, begin: Instant, detail: Option<&str>) {
        (self.shared.notices)(Notice::Answered { task, how, took: begin.elapsed(), detail });
    }
}

/// An entry of the journal in the hands of whoever delivers it.
struct Left<'a> {
    journal: &'a Journal,
    command_id: Uuid,
}

impl Drop for Left<'_> {
    fn drop(&mut self) {
        self.journal.leave(self.command_id);
    }
}

fn failure(task: &Assignment, error: Json, retryable: bool) -> FailTask {
    FailTask { lease_token: task.lease.token, error, retryable, class: None, retry_after_ms: None }
}

fn said(verdict: &Verdict) -> Option<String> {
    match verdict {
        Verdict::Done(_) => None,
        Verdict::HandBack(reason) => Some(reason.clone()),
        Verdict::Failed { error, .. } => {
            let error: serde_json::Value = error.read().ok()?;
            error.get("message")?.as_str().map(str::to_owned)
        }
    }
}
