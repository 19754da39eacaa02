//! What a connection carries with it. Each of thousands has these futures, so whoever adds to them what few connections
//! need should put that into a box.

use super::*;
use crate::relay::Cut;
use crate::ring::Ring;

/// The size of what an async function returns.
fn size_of_three<A, B, C, F: Future>(_: impl FnOnce(A, B, C) -> F) -> usize {
    size_of::<F>()
}

fn size_of_two<A, B, F: Future>(_: impl FnOnce(A, B) -> F) -> usize {
    size_of::<F>()
}

fn size_of_four<A, B, C, D, F: Future>(_: impl FnOnce(A, B, C, D) -> F) -> usize {
    size_of::<F>()
}

/// A fifth more than when they were last looked at. Not for good: raise a bound by all means where every connection needs
/// more, and say why in the commit.
#[test]
fn futures_of_a_connection_are_small() {
    let sizes = [
        // For as long as the connection lives, with the relay.
        ("serve", size_of_two::<Session, _, _>(serve), 1180),
        ("relay::run", size_of_four::<&Ring, _, &Cut, fn(Direction, i64), _>(relay::run), 825),
        // In a box until the relay begins.
        ("establish", size_of_two::<&Session, _, _>(establish), 3020),
        ("greet", size_of_three::<&Session, _, _, _>(greet), 1080),
        ("reach", size_of_two::<&Session, _, _>(reach), 2180),
        // In a box of its own within that.
        ("socks::reach", size_of_two::<&Session, _, _>(socks::reach), 4130),
    ];
    let large: Vec<_> = sizes.iter().filter(|(_, size, bound)| size > bound).collect();
    assert!(large.is_empty(), "larger than their bounds: {large:?}");
}
