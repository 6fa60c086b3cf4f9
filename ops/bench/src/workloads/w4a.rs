//! W4a: the log folded anew, in memory and into PostgreSQL.
