//! One file per task.

pub mod extract_answer;
