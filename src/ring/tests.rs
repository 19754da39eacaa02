//! The ring against real sockets: cuts, cancels, small pools and queues, chosen by a seed.
#![allow(clippy::unwrap_used)]

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::Write;
use std::net::Shutdown;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use glommio::{LocalExecutorBuilder, Placement};

use super::*;
use crate::config::plan::BusyPoll;
use crate::stats::counters::ShardStats;

/// Whatever takes longer never ends.
const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) const TINY: Options = Options { buffer_size: 1024, buffers: 8, max_buffers: 8, completions: 64 };

/// What this kernel has, and less and less of it.
pub(crate) fn paths() -> Vec<Features> {
    let best = probe().unwrap();
    let without_caps = Features { receive_caps: false, ..best };
    let without_bundles = Features { bundles: false, ..without_caps };
    let mut paths = vec![best, without_caps, without_bundles, Features { multishot_recv: false, ..without_bundles }];
    paths.dedup();
    paths
}

/// Runs `body` on a ring of its own, to its end.
pub(crate) fn on_ring<T: 'static, F: Future<Output = T> + 'static>(
    options: Options,
    features: Features,
    body: impl FnOnce(Ring) -> F,
) -> T {
    let executor =
        LocalExecutorBuilder::new(Placement::Unbound).io_memory(0).preempt_timer(Duration::from_secs(1)).make();
    executor.unwrap().run(async move {
        let ring = Ring::new(&options, features).unwrap();
        let (output, done) = (Rc::new(RefCell::new(None)), Rc::new(Cell::new(false)));
        let task = body(ring.clone());
        let (its_output, is_done, its_ring) = (Rc::clone(&output), Rc::clone(&done), ring.clone());
        glommio::spawn_local(async move {
            let value = its_ring.timeout(DEADLINE, task).await;
            its_output.replace(value);
            is_done.set(true);
            its_ring.note_activity();
        })
        .detach();
        let stats = ShardStats::default();
        let pacing = Pacing { busy_poll: BusyPoll::Off, more_to_run: false };
        let turn = || if done.get() { ControlFlow::Break(()) } else { ControlFlow::Continue(pacing) };
        ring.drive(&stats, turn).await.unwrap();
        output.take().expect("it did not end in time")
    })
}

/// Reads to the end; gives every byte. A reset is an end.
async fn read_all(ring: &Ring, receive: &mut Receive) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let size = 4 * ring.buffer_size() as u32;
        let ask = Ask { total: size, at_once: size };
        match poll_fn(|context| receive.poll(context, || ask)).await {
            Received::Data(chain) => {
                for (base, len) in ring.0.pool.borrow().pieces(&chain) {
                    // SAFETY: the piece is a filled part of a buffer that `chain` holds.
                    bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(base, len) });
                }
                ring.release(chain);
            }
            // Others hold all buffers; they give them back in time.
            Received::NoBuffer => ring.sleep(Duration::from_millis(1)).await,
            Received::End => return bytes,
            Received::Failed(error) if error.raw_os_error() == Some(libc::ECONNRESET) => return bytes,
            Received::Failed(error) => panic!("{error}"),
        }
    }
}

/// Both ends of a connection.
fn pair(unix: bool) -> (socket2::Socket, OwnedFd) {
    if unix {
        let (a, b) = UnixStream::pair().unwrap();
        return (OwnedFd::from(a).into(), b.into());
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let a = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (OwnedFd::from(a).into(), listener.accept().unwrap().0.into())
}

#[test]
fn a_fin_right_behind_the_bytes_is_seen() {
    for features in paths() {
        for unix in [false, true] {
            on_ring(Options { buffer_size: 4096, ..TINY }, features, move |ring| async move {
                for round in 0..200 {
                    let (mut peer, fd) = pair(unix);
                    let socket = if unix { ring.unix_socket(fd) } else { ring.socket(fd) };
                    let mut receive = socket.receive(if round % 2 == 0 { First::Try } else { First::Wait });
                    // Armed, and the kernel has it.
                    let read = read_all(&ring, &mut receive);
                    let mut read = std::pin::pin!(read);
                    assert!(ring.timeout(Duration::from_millis(1), read.as_mut()).await.is_none());
                    peer.write_all(&[7; 500]).unwrap();
                    peer.shutdown(Shutdown::Write).unwrap();
                    let read = ring.timeout(Duration::from_secs(5), read).await;
                    assert_eq!(read.map(|bytes| bytes.len()), Some(500), "{features:?} unix {unix} round {round}");
                }
            });
        }
    }
}

#[test]
fn a_fin_behind_much_is_seen() {
    for features in paths() {
        for unix in [false, true] {
            on_ring(Options { buffer_size: 16384, buffers: 64, ..TINY }, features, move |ring| async move {
                for round in 0..20 {
                    let (mut peer, fd) = pair(unix);
                    let socket = if unix { ring.unix_socket(fd) } else { ring.socket(fd) };
                    let mut receive = socket.receive(First::Wait);
                    let writer = std::thread::spawn(move || {
                        for _ in 0..32 {
                            peer.write_all(&[7; 65536]).unwrap();
                        }
                    });
                    let read = ring.timeout(Duration::from_secs(5), read_all(&ring, &mut receive)).await;
                    assert_eq!(read.map(|bytes| bytes.len()), Some(2 << 20), "{features:?} unix {unix} round {round}");
                    writer.join().unwrap();
                }
            });
        }
    }
}

#[test]
fn a_reset_right_behind_the_bytes_is_seen() {
    for features in paths() {
        on_ring(Options { buffer_size: 4096, ..TINY }, features, move |ring| async move {
            for round in 0..200 {
                let (mut peer, fd) = pair(false);
                let socket = ring.socket(fd);
                let mut receive = socket.receive(if round % 2 == 0 { First::Try } else { First::Wait });
                let read = read_all(&ring, &mut receive);
                let mut read = std::pin::pin!(read);
                assert!(ring.timeout(Duration::from_millis(1), read.as_mut()).await.is_none());
                peer.write_all(&[7; 500]).unwrap();
                peer.set_linger(Some(Duration::ZERO)).unwrap();
                drop(peer);
                let read = ring.timeout(Duration::from_secs(5), read).await;
                assert_eq!(read.map(|bytes| bytes.len()), Some(500), "{features:?} round {round}");
            }
        });
    }
}

#[test]
fn a_reset_behind_much_is_seen() {
    for features in paths() {
        on_ring(Options { buffer_size: 16384, buffers: 64, ..TINY }, features, move |ring| async move {
            for round in 0..60 {
                let (mut peer, fd) = pair(false);
                let socket = ring.socket(fd);
                let mut receive = socket.receive(First::Wait);
                let writer = std::thread::spawn(move || {
                    for _ in 0..1 + round {
                        peer.write_all(&[7; 65536]).unwrap();
                    }
                    peer.set_linger(Some(Duration::ZERO)).unwrap();
                });
                let read = ring.timeout(Duration::from_secs(5), read_all(&ring, &mut receive)).await;
                assert!(read.is_some(), "{features:?} round {round}");
                writer.join().unwrap();
            }
        });
    }
}
