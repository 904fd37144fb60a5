//! The whole program, from the command line: what it promises to users, on small images made here.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test that cannot go on has failed")]

mod broken;
mod cache;
mod diff;
mod hook;
mod output;
mod reuse;
mod rootless;
mod same;
mod support;
mod together;
