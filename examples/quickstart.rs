//! Freeze some memory, go on writing, read the old bytes.

use pagecow::Arena;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arena = Arena::new(64 << 20)?; // bytes, zero-filled
    arena[..5].copy_from_slice(b"hello"); // ordinary stores

    let before = arena.snapshot()?;
    arena[..5].copy_from_slice(b"HELLO"); // the first store to a page saves the old page

    let mut old = [0; 5];
    before.read_at(0, &mut old)?;
    assert_eq!(&old, b"hello");
    assert_eq!(&arena[..5], b"HELLO");

    // Another thread reads the snapshot while this one writes.
    let frozen = before.clone();
    let reader = std::thread::spawn(move || std::io::read_to_string(frozen.reader()));
    arena[4096..4101].copy_from_slice(b"again");
    let text = reader.join().expect("the reader does not panic")?;
    assert!(text.starts_with("hello\0") && text.ends_with('\0'));

    println!("{} pages saved", arena.stats().pages_saved);
    Ok(())
}
