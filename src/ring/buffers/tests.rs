//! The pool without a kernel: order of bundles, chains, growth, private buffers.

use super::super::buffer::Buffers;
use super::*;

/// Plays the kernel: fills the next buffers of the ring.
struct Kernel(u16);

impl Kernel {
    fn receive(&mut self, pool: &mut Pool, len: u32) -> Chain {
        let first = pool.entry_id(self.0 & (pool.capacity - 1) as u16);
        self.0 = self.0.wrapping_add(len.div_ceil(pool.size) as u16);
        pool.taken(first, len)
    }
}

fn lens(pool: &Pool, chain: &Chain) -> Vec<usize> {
    pool.pieces(chain).map(|(_, len)| len).collect()
}

#[test]
fn bundles_follow_the_order_of_the_ring_also_around_its_end() {
    let mut pool = Pool::new(4096, 8, 8, 0).expect("memory");
    assert!(pool.grow());
    let mut kernel = Kernel(0);
    let mut held = std::collections::VecDeque::new();
    for round in 0..500u32 {
        let len = 1 + (round * 2741) % (3 * 4096);
        while pool.counts().free < len.div_ceil(4096) {
            // Later chains come back before earlier ones, so that the order in the ring is no longer 0, 1, 2.
            let chain = if round % 3 == 0 { held.pop_back() } else { held.pop_front() };
            pool.release(chain.expect("all buffers are held"));
        }
        let chain = kernel.receive(&mut pool, len);
        assert_eq!(chain.len(), len as usize);
        assert_eq!(lens(&pool, &chain).iter().sum::<usize>(), len as usize);
        assert_eq!(chain.count(), len.div_ceil(4096) as usize);
        held.push_back(chain);
    }
    held.into_iter().for_each(|chain| pool.release(chain));
    assert_eq!(pool.counts().free, 8);
}

#[test]
fn chains_join_split_and_advance() {
    let mut pool = Pool::new(1024, 8, 16, 0).expect("memory");
    assert!(pool.grow());
    let mut kernel = Kernel(0);
    let mut chain = kernel.receive(&mut pool, 1500);
    let other = kernel.receive(&mut pool, 10);
    pool.append(&mut chain, other);
    let other = kernel.receive(&mut pool, 2048);
    pool.append(&mut chain, other);
    assert_eq!(lens(&pool, &chain), [1024, 476, 10, 1024, 1024]);
    let mut front = pool.split(&mut chain, 3);
    assert_eq!((front.len(), chain.len()), (1510, 2048));
    pool.advance(&mut front, 1030);
    assert_eq!(lens(&pool, &front), [470, 10]);
    pool.advance(&mut front, 480);
    assert_eq!(front, Chain::default());
    pool.release(chain);
    assert_eq!(pool.counts(), Counts { free: 8, total: 8, watermark: 5 });
    assert!(pool.grow() && !pool.grow());
    assert_eq!(pool.counts().total, 16);
}

#[test]
fn shrinks_when_little_is_used_and_grows_again() {
    let mut pool = Pool::new(1024, 8, 32, 0).expect("memory");
    while pool.grow() {}
    let mut kernel = Kernel(0);
    let all = kernel.receive(&mut pool, 32 * 1024);
    pool.release(all);
    // The first look sees the peak before it, the later ones that nothing was used.
    (0..9).for_each(|_| pool.shrink());
    assert!(!pool.has_grown() && pool.counts().total == 32);
    for _ in 0..4 {
        let some = kernel.receive(&mut pool, 8 * 1024);
        pool.release(some);
    }
    assert_eq!(pool.counts().total, 8);
    assert_eq!(pool.counts().free, 8);
    assert!(pool.grow());
    assert_eq!(pool.counts().free, 16);
    let some = kernel.receive(&mut pool, 16 * 1024);
    assert_eq!(some.count(), 16);
    pool.release(some);
}

#[test]
fn private_buffers_are_worked_on_and_travel_in_chains() {
    let buffers = Buffers::new(Pool::new(1024, 8, 8, 0).expect("memory"));
    assert!(buffers.borrow_mut().grow());
    let mut kernel = Kernel(0);
    let mut chain = kernel.receive(&mut buffers.borrow_mut(), 1500);
    let mut first = buffers.pop(&mut chain).expect("two buffers");
    assert_eq!((first.filled().len(), chain.len(), chain.count()), (1024, 476, 1));
    first.filled_mut()[..4].copy_from_slice(b"abcd");
    first.advance(2);
    first.truncate(2);
    assert_eq!(first.filled(), b"cd");
    assert_eq!(first.spare().len(), 1020 + TAIL);
    let mut own = buffers.take().expect("none is in use");
    assert_eq!((own.extend(b"xyz"), own.spare().len()), (3, PRIVATE_BUFFER - 3));
    let mut out = Chain::default();
    buffers.push(&mut out, own);
    buffers.push_front(&mut out, first);
    buffers.push(&mut out, buffers.take().expect("empty ones go back"));
    assert_eq!((out.len(), out.count(), buffers.front(&out)), (5, 2, &b"cd"[..]));
    buffers.append(&mut out, chain);
    let mut text = Vec::new();
    buffers.copy_front(&out, 5, &mut text);
    assert_eq!((text, out.len()), (b"cdxyz".to_vec(), 481));
    buffers.advance(&mut out, 4);
    assert_eq!(buffers.front(&out), b"z");
    buffers.release(out);
    assert_eq!(buffers.borrow().counts().free, 8);
    assert_eq!(buffers.borrow().private_free.len(), 2);
}

#[test]
fn private_buffers_are_bounded_and_used_again() {
    let buffers = Buffers::detached(3).expect("memory");
    let mut held: Vec<_> = (0..3).map(|_| buffers.take().expect("three")).collect();
    assert!(buffers.take().is_none());
    held.pop();
    let mut again = buffers.take().expect("one came back");
    assert_eq!(again.spare().len(), PRIVATE_BUFFER);
    again.commit(PRIVATE_BUFFER + 1);
    assert_eq!((again.filled().len(), again.spare().len()), (PRIVATE_BUFFER, 0));
    buffers.borrow_mut().trim();
}
