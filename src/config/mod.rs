//! The configuration, in three words that are never mixed: raw (what the file says), plan (what it means), and
//! snapshot (`shard::command::Snapshot`: a plan plus what was acquired).

pub mod plan;
