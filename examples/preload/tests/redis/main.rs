//! A server with the library in `LD_PRELOAD`: what it saves is what it held. Redis, and Valkey with
//! an allocator behind. Skipped, by name, where there is no `redis-server`.

#![allow(unsafe_code, reason = "a child of a server is killed")]

#[path = "../common/client.rs"]
mod client;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/load.rs"]
mod load;
#[path = "../common/server.rs"]
mod server;

mod appended;
mod flushed;
mod points;
mod rehash;
mod saved;
