//! The last numbers of each question, as long as nothing has changed since.
//!
//! Counting costs a walk over the open tasks, and dashboards ask over and over. Who asks
//! at the same time shares a query, and a query counts anew only where its snapshot is
//! another than that of the numbers kept: the database compares, in the same statement,
//! so the answer is never older than the question.

use std::collections::HashMap;
use std::sync::Arc;

use domain::TenantId;
use parking_lot::Mutex;

use super::{MetricsFilter, MetricsView};
use crate::Answer;
use crate::query::Together;

/// Questions whose numbers are kept; one more and all are forgotten.
const KEPT: usize = 256;

/// Whose numbers, and which.
pub(crate) type Question = (TenantId, MetricsFilter);

/// Numbers with the mark of the snapshot that they were counted in.
#[derive(Debug, Clone)]
pub(crate) struct Counted {
    pub(crate) mark: String,
    pub(crate) view: Arc<MetricsView>,
}

/// Who asks for numbers, and the last answers.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    pub(crate) asked: Arc<Together<Question, Answer<Arc<MetricsView>>>>,
    kept: Mutex<HashMap<Question, Counted>>,
}

impl Numbers {
    pub(crate) fn kept(&self, question: &Question) -> Option<Counted> {
        self.kept.lock().get(question).cloned()
    }

    pub(crate) fn keep(&self, question: Question, counted: Counted) {
        let mut kept = self.kept.lock();
        // Anybody may ask for any queue's name: what is kept stays bounded.
        if kept.len() >= KEPT && !kept.contains_key(&question) {
            kept.clear();
        }
        kept.insert(question, counted);
    }
}
