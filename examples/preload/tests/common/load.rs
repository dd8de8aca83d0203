//! Clients that write to a server.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;

use crate::client::Client;
use crate::server::Server;

/// Ends what waits for it also when a test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// How many commands are sent before their answers are awaited.
const BATCH: u64 = 16;

/// Changes of all kinds, between which values do not grow for ever.
fn change(random: &mut impl FnMut(u64) -> u64) -> String {
    let (key, few, some) = (random(60_000), random(500), random(300));
    let value = "x".repeat(random(400) as usize) + &random(1000).to_string();
    match random(9) {
        0 | 1 => format!("SET key:{key} {value}"),
        2 => format!("HSET hash:{few} {some} {value}"),
        3 => format!("LPUSH list:{few} {value}"),
        4 => format!("RPOP list:{few}"),
        5 => format!("ZADD set:{few} {key} member:{some}"),
        6 | 7 => format!("DEL key:{key}"),
        _ => format!("EXPIRE key:{key} 100000"),
    }
}

/// Acts while as many clients make what `command` says, as fast as it is taken, and is told how
/// many commands were taken so far. `command` gets the number of the client, and that of the
/// command.
pub fn under_load_of<R>(
    server: &Server,
    clients: u64,
    command: impl Fn(u64, u64) -> String + Sync,
    act: impl FnOnce(&AtomicU64) -> R,
) -> R {
    let (stop, made) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        for client in 1..=clients {
            let (stop, made, port, command) = (&stop, &made, server.port, &command);
            scope.spawn(move || {
                let mut connection = Client::connect(port).unwrap();
                let mut number = 0;
                while !stop.load(Relaxed) {
                    for _ in 0..BATCH {
                        let text = command(client, number);
                        let words: Vec<&str> = text.split(' ').collect();
                        connection.send(&words).unwrap();
                        number += 1;
                    }
                    for _ in 0..BATCH {
                        connection.answer();
                    }
                    made.fetch_add(BATCH, Relaxed);
                }
            });
        }
        act(&made)
    })
}

/// As `under_load_of`, with changes of all kinds.
pub fn under_load<R>(server: &Server, clients: u64, act: impl FnOnce(&AtomicU64) -> R) -> R {
    let changes = |client: u64, number: u64| {
        let mut state = (client << 40) + number;
        let mut random = |below: u64| {
            // SplitMix64.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = state;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (mixed ^ (mixed >> 31)) % below
        };
        change(&mut random)
    };
    under_load_of(server, clients, changes, act)
}
