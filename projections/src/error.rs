//! What can go wrong on the read side.

use store::StoreError;
use tokio_postgres::error::DbError;

use crate::Model;

/// A read model could not be carried on.
#[derive(Debug, thiserror::Error)]
pub enum ProjectionError {
    /// The log could not be read.
    #[error("reading the log: {0}")]
    Log(#[from] StoreError),
    /// The read tables could not be reached.
    #[error("the read tables: {0}")]
    Database(#[from] tokio_postgres::Error),
    /// No connection could be had.
    #[error("no database connection: {0}")]
    Pool(#[from] deadpool_postgres::PoolError),
    /// A stored row does not have the shape that this release writes: rebuild the model.
    #[error("a row of {model} cannot be read ({reason}); `taffrail rebuild {model}` makes it anew")]
    Row {
        /// The model.
        model: &'static str,
        /// What the decoder said.
        reason: String,
    },
    /// Somebody is rebuilding this model already.
    #[error("{model} is being rebuilt already")]
    Busy {
        /// The model.
        model: &'static str,
        /// The operation that does it, where one does.
        operation: Option<uuid::Uuid>,
    },
    /// There is no version of the model to go back to.
    #[error("{model} cannot be rolled back: {reason}; `taffrail rebuild {model}` makes it anew")]
    NothingKept {
        /// The model.
        model: &'static str,
        /// Why.
        reason: String,
    },
    /// Readers held the tables for too long, one after the other.
    #[error("{model} was in use for {seconds} s without a gap: the switch is given up")]
    InUse {
        /// The model.
        model: &'static str,
        /// How long it was tried.
        seconds: u64,
    },
    /// There is no read model of this name.
    #[error("there is no read model `{0}`")]
    UnknownModel(String),
}

impl ProjectionError {
    /// Whether the content of the batch, not the connection, was refused.
    pub fn is_data(&self) -> bool {
        let Self::Database(error) = self else { return false };
        // 21 cardinality, 22 data exception, 23 integrity, 54 program limit exceeded.
        error.as_db_error().is_some_and(|db| {
            let class = &db.code().code()[..2];
            matches!(class, "21" | "22" | "23" | "54")
        })
    }
}

/// A query could not be answered.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The cursor is not one that we gave out: the caller's fault.
    #[error("the cursor is not one that was handed out")]
    Cursor,
    /// The read model did not come far enough in time.
    #[error("the read model is at position {current}")]
    NotYet {
        /// How far it is.
        current: u64,
    },
    /// The read tables could not be reached.
    #[error("the read tables: {0}")]
    Database(#[from] tokio_postgres::Error),
    /// No connection could be had.
    #[error("no database connection: {0}")]
    Pool(#[from] deadpool_postgres::PoolError),
    /// Too many wait for an answer already.
    #[error("too many queries wait for an answer")]
    Full,
    /// The query that was asked together with others failed.
    #[error("{0}")]
    Gathered(std::sync::Arc<QueryError>),
    /// A kept past version is not as it was written; its model must be made anew.
    #[error("a past row of {model} is not as it was written; {model} is made anew from the log")]
    Spoilt {
        /// The model.
        model: Model,
    },
    /// A stored row does not have the shape that this release reads.
    #[error("a stored row cannot be read: {0}")]
    Row(String),
}

/// What `past.sound` says.
const SPOILT: &str = "TF001";

impl QueryError {
    /// Tells a past row that was changed from other faults of the database.
    pub(crate) fn of(error: tokio_postgres::Error) -> Self {
        let said = error.as_db_error().filter(|said| said.code().code() == SPOILT);
        match said.and_then(DbError::table).and_then(|model| model.parse().ok()) {
            Some(model) => Self::Spoilt { model },
            None => Self::Database(error),
        }
    }
}

impl From<StoreError> for QueryError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Database(error) => Self::Database(error),
            StoreError::Pool(error) => Self::Pool(error),
            StoreError::LeaseLost
            | StoreError::Hole { .. }
            | StoreError::Row { .. }
            | StoreError::Unfit(_) => Self::Row(error.to_string()),
        }
    }
}
