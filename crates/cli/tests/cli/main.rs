//! The `durable` executable from outside: what it prints, what it leaves behind, how it exits.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod chaos;
mod checkpoints;
mod clocks;
mod crash;
mod database;
mod functions;
mod news;
mod operate;
mod pooled;
mod portable;
mod rekey;
mod run;
mod serve;
mod steps;
mod support;
mod workers;
