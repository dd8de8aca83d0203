//! userfaultfd's descriptor, which somebody closes: nothing is protected any more.

use super::*;

/// One page is stored to without a fault, then another one with it, whose window copies the first:
/// no snapshot may take that for what was. The writer goes on.
#[test]
fn closed_descriptor_and_reader() {
    model(2, || {
        let options = Options {
            engine: Engine::Userfaultfd,
            window: Window::Fixed(4),
            ..Options::default()
        };
        let core = arena_of(4, 1, &options);
        // Its block is protected page by page, the other one as a whole.
        core.write(0, 1);
        let snapshot = core.snapshot();
        let reader = {
            let snapshot = snapshot.clone();
            spawn(&core, move |core| {
                let mut byte = [0];
                let read = core.read(&snapshot, page(0), 0, &mut byte);
                let exact = read.and_then(|is_copy| if is_copy { Ok(()) } else { core.confirm() });
                assert!(byte == [1] || matches!(exact, Err(Error::Engine { .. })));
            })
        };
        core.engine.close_descriptor();
        core.write(0, 5);
        core.write(2, 7);
        reader.join().unwrap();
        assert_eq!([core.memory().load(0), core.memory().load(2)], [5, 7]);
        assert!(matches!(
            core.frozen(&snapshot, 0),
            Err(Error::Engine { .. })
        ));
    });
}
