//! A few threads for what takes long: hashes, and look-ups in the system's user database. Few, with a bounded queue, and
//! nice to the shards.

use std::io;

use crossbeam::channel::{Sender, bounded};
use tokio::sync::oneshot;

use crate::control::background;

type Job = Box<dyn FnOnce() + Send>;

/// Dropping it ends its threads once the queue is empty.
pub(super) struct Pool {
    jobs: Sender<Job>,
}

impl Pool {
    /// # Errors
    /// When a thread cannot be made.
    pub(super) fn new(name: &str, threads: usize, queue: usize) -> io::Result<Self> {
        let (sender, jobs) = bounded::<Job>(queue);
        for _ in 0..threads {
            let jobs = jobs.clone();
            std::thread::Builder::new().name(name.into()).spawn(move || {
                background::give_way(background::PASSWORDS);
                for job in jobs {
                    // A panic costs one answer: whoever waits for it sees its channel closed.
                    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
                }
            })?;
        }
        Ok(Self { jobs: sender })
    }

    /// `None`: too much is waiting, or it failed. Work that nobody waits for any more is left undone.
    pub(super) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (sender, answer) = oneshot::channel();
        let job = move || {
            if !sender.is_closed() {
                let _ = sender.send(work());
            }
        };
        self.jobs.try_send(Box::new(job)).ok()?;
        answer.await.ok()
    }
}

/// Threads for hashes: two cores stay free where there are more than two.
pub(super) fn hash_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().saturating_sub(2)).clamp(1, 8)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Arc, mpsc};

    use super::*;

    #[tokio::test]
    async fn a_full_queue_is_said_at_once() {
        let pool = Arc::new(Pool::new("t", 1, 2).unwrap());
        let (begun, has_begun) = mpsc::channel();
        let (release, gate) = mpsc::channel::<()>();
        let busy = Arc::clone(&pool);
        let busy = tokio::spawn(async move {
            busy.run(move || {
                begun.send(()).unwrap();
                gate.recv().unwrap();
            })
            .await
        });
        tokio::task::spawn_blocking(move || has_begun.recv().unwrap()).await.unwrap();
        let waiting: Vec<_> = (0..2)
            .map(|_| {
                let pool = Arc::clone(&pool);
                tokio::spawn(async move { pool.run(|| 7).await })
            })
            .collect();
        // The two are in the queue once they have run up to their await.
        tokio::task::yield_now().await;
        assert_eq!(pool.run(|| 1).await, None);
        release.send(()).unwrap();
        assert_eq!(busy.await.unwrap(), Some(()));
        for each in waiting {
            assert_eq!(each.await.unwrap(), Some(7));
        }
    }

    #[tokio::test]
    async fn a_panic_costs_one_answer_and_nobody_works_for_nobody() {
        let pool = Pool::new("t", 1, 8).unwrap();
        assert_eq!(pool.run(|| -> u32 { panic!("no") }).await, None);
        let runs = Arc::new(AtomicU32::new(0));
        let (release, gate) = mpsc::channel::<()>();
        let count = Arc::clone(&runs);
        {
            let busy = pool.run(move || gate.recv());
            let given_up = pool.run(move || count.fetch_add(1, Ordering::SeqCst));
            // Polled once, so that both are in the queue, and dropped.
            tokio::select! { biased; _ = busy => {}, _ = given_up => {}, () = std::future::ready(()) => {} }
        }
        drop(release);
        assert_eq!(pool.run(|| 3).await, Some(3));
        assert_eq!(runs.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn its_threads_are_nice() {
        let pool = Pool::new("t", 1, 1).unwrap();
        let nice = pool.run(|| rustix::process::getpriority_process(None).unwrap()).await;
        assert!(nice >= Some(background::PASSWORDS), "{nice:?}");
        assert!(rustix::process::getpriority_process(None).unwrap() < background::PASSWORDS, "and no other");
    }
}
