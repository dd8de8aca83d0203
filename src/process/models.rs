//! Loom models of the registry: a handler looks a value up while values come and go.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use loom::cell::UnsafeCell;
use loom::thread;

use crate::cow::models::model;
use crate::process::registry::{Place, Registry};
use crate::sync::Arc;

/// A value that notices when it is used after it has gone, or at the same time.
struct Value {
    first: usize,
    used: UnsafeCell<()>,
    gone: AtomicBool,
}

// SAFETY: `used` is what loom watches; there is nothing in it.
#[allow(unsafe_code, reason = "loom's cell is watched, not shared")]
unsafe impl Sync for Value {}

impl Value {
    fn addresses(&self) -> Range<usize> {
        self.first..self.first + 10
    }

    /// What a handler does with it.
    fn used(&self) {
        assert!(!self.gone.load(Relaxed), "a value was used that had gone");
        self.used.with(|_| ());
    }

    /// What follows when it was removed.
    fn gone(&self) {
        self.used.with_mut(|_| ());
        self.gone.store(true, Relaxed);
    }
}

/// A registry and a few values, none of them registered, that live as long as the model.
struct Scene {
    registry: Registry<Value>,
    values: [Value; 4],
}

impl Scene {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            registry: Registry::new(),
            values: [10, 20, 30, 40].map(|first| Value {
                first,
                used: UnsafeCell::new(()),
                gone: AtomicBool::new(false),
            }),
        })
    }

    fn add(&self, number: usize) -> Place<'_, Value> {
        let value = &self.values[number];
        // SAFETY: the values live as long as the registry.
        #[allow(unsafe_code, reason = "as the registry asks")]
        unsafe {
            self.registry.add(&value.addresses(), value)
        }
    }

    fn remove(&self, number: usize, place: Place<'_, Value>) {
        place.remove();
        self.values[number].gone();
    }

    /// A handler looks the value up by its last address. Returns whether it was found.
    fn find(&self, number: usize) -> bool {
        let address = self.values[number].addresses().end - 1;
        let Some(found) = self.registry.find(address) else {
            return false;
        };
        found.used();
        assert_eq!(found.first, self.values[number].first);
        true
    }
}

fn spawn_find(scene: &Arc<Scene>, number: usize) -> thread::JoinHandle<bool> {
    let scene = scene.clone();
    thread::spawn(move || scene.find(number))
}

/// A handler looks a value up while it is removed: it finds it and keeps it, or finds nothing.
#[test]
fn lookup_and_remove() {
    model(3, || {
        let scene = Scene::new();
        let place = scene.add(0);
        let handler = spawn_find(&scene, 0);
        scene.remove(0, place);
        handler.join().unwrap();
        assert!(!scene.find(0));
    });
}

/// The slot of a value that goes is filled again while a handler looks the first one up.
#[test]
fn lookup_and_slot_used_again() {
    model(3, || {
        let scene = Scene::new();
        let place = scene.add(0);
        let handler = spawn_find(&scene, 0);
        scene.remove(0, place);
        scene.add(1);
        handler.join().unwrap();
        assert!(scene.find(1));
    });
}

/// A handler looks an address up whose value is just being added, where another was: it finds all
/// of it or nothing.
#[test]
fn lookup_and_add() {
    model(3, || {
        let scene = Scene::new();
        let place = scene.add(0);
        let handler = spawn_find(&scene, 1);
        scene.remove(0, place);
        scene.add(1);
        handler.join().unwrap();
    });
}

/// A value is found whatever becomes of others, in its chunk and in the one before.
#[test]
fn lookup_while_others_come_and_go() {
    for number in [1, 2] {
        model(2, move || {
            let scene = Scene::new();
            let first = scene.add(0);
            scene.add(1);
            scene.add(2);
            let handler = spawn_find(&scene, number);
            scene.remove(0, first);
            scene.add(3);
            assert!(handler.join().unwrap());
        });
    }
}
