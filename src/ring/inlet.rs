//! The receiving end of a stream together with what was read ahead of whoever needs it next.

use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::Duration;

use super::buffer::Queue;
use super::receive::{Ask, First, Receive, Received};
use super::socket::Socket;

/// Between two looks at whether the shard has a buffer again.
const NO_BUFFER_PAUSE: Duration = Duration::from_millis(5);

/// A socket whose first bytes are read by one stage after the other: what a stage leaves is the next one's.
pub struct Inlet {
    pub socket: Socket,
    pub receive: Receive,
    /// Received and not taken.
    pub ahead: Queue,
}

impl Inlet {
    #[must_use]
    pub fn new(socket: Socket, first: First) -> Self {
        Self { receive: socket.receive(first), ahead: Queue::new(&socket.pool()), socket }
    }

    /// Waits for more bytes, about `at_once` at most, which come behind [`Inlet::ahead`]; false at the end of the stream.
    ///
    /// # Errors
    /// As recv(2).
    pub async fn more(&mut self, at_once: u32) -> io::Result<bool> {
        let Self { receive, ahead, socket } = self;
        loop {
            match poll_fn(|context| receive.poll(context, || Ask { total: at_once, at_once })).await {
                Received::Data(chain) => {
                    ahead.append(chain);
                    ahead.compact();
                    return Ok(true);
                }
                Received::End => return Ok(false),
                // It waits for its turn as long as whoever asks lets it.
                Received::NoBuffer => socket.ring().sleep(NO_BUFFER_PAUSE).await,
                Received::Failed(error) => return Err(error),
            }
        }
    }

    /// Begins to receive about `at_once` bytes, for [`Inlet::catch_up`] to find: nobody is woken for them.
    pub fn begin(&mut self, at_once: u32) {
        self.receive.begin(Ask { total: at_once, at_once });
    }

    /// What has arrived meanwhile without anybody waiting; nothing is asked for.
    pub async fn catch_up(&mut self) {
        let Self { receive, ahead, .. } = self;
        poll_fn(|context| {
            if let Poll::Ready(Received::Data(chain)) = receive.poll(context, Ask::default) {
                ahead.append(chain);
            }
            Poll::Ready(())
        })
        .await;
    }
}
