//! Ids in the child of a fork: its arenas go their own way.

#![allow(unsafe_code, reason = "fork")]

use std::io::{Read, Write};

use pagecow::image::Id;

use crate::common::{Forked, end_of_fork, expect_child_ended_well, fork, in_child, on};

#[test]
fn parent_and_child_have_other_ids_for_the_same_number() {
    in_child(|engine| {
        let arena = on(engine).build(4096).unwrap();
        let fresh = on(engine).build(4096).unwrap();
        let before = Id::of(&arena.snapshot().unwrap()).unwrap();
        let (mut reads, mut writes) = std::io::pipe().unwrap();
        let child = match fork() {
            Forked::Child => end_of_fork(|| {
                let ids = [&arena, &fresh].map(|arena| {
                    let snapshot = arena.snapshot().unwrap();
                    let id = Id::of(&snapshot).unwrap();
                    // The same as long as it lives.
                    assert_eq!(Id::of(&snapshot).unwrap(), id);
                    id
                });
                assert_ne!(ids[0].lineage, ids[1].lineage);
                for id in ids {
                    writes.write_all(&id.lineage.to_le_bytes()).unwrap();
                    writes.write_all(&id.snapshot.to_le_bytes()).unwrap();
                }
            }),
            Forked::Parent(child) => child,
        };
        drop(writes);
        let mut sent = Vec::new();
        reads.read_to_end(&mut sent).unwrap();
        expect_child_ended_well(child);
        let theirs: Vec<_> = sent
            .chunks_exact(24)
            .map(|id| Id {
                lineage: u128::from_le_bytes(id[..16].try_into().unwrap()),
                snapshot: u64::from_le_bytes(id[16..].try_into().unwrap()),
            })
            .collect();
        let ours = [&arena, &fresh].map(|arena| Id::of(&arena.snapshot().unwrap()).unwrap());
        assert_eq!(ours[0].lineage, before.lineage);
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!(ours.snapshot, theirs.snapshot);
            assert_ne!(ours.lineage, theirs.lineage);
        }
        assert_eq!(theirs.len(), 2);
    })
    .expect_finished();
}
