//! The HTTP contract, from outside: a real socket, a real store.

mod access;
mod api;
mod checkpoints;
mod follow;
mod hostile;
mod sessions;
mod support;
mod tasks;
mod webhook;
