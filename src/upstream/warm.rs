//! Connections made ahead: per shard and backend a few that are connected and were never used, so that a client does
//! not wait for a handshake.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::dial::{Dialled, Targets, Terms, dial};
use super::state::{BackendId, BackendState};
use crate::config::plan;
use crate::policy::permit::Permit;
use crate::ring::{Ring, Socket};
use crate::stats::clock_ms;

/// A connection made ahead must answer within this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failed connect, and between looks at a backend that is out of use.
const BACK_OFF: Duration = Duration::from_secs(1);

/// The stocks of one shard.
pub struct Stocks {
    ring: Ring,
    stocks: RefCell<HashMap<BackendId, Rc<Stock>>>,
}

/// What is kept for one backend.
struct Stock {
    backend: Arc<BackendState>,
    terms: plan::Warm,
    source_address: Option<std::net::IpAddr>,
    ready: RefCell<VecDeque<Ready>>,
    closed: Cell<bool>,
    keeper: RefCell<Option<Waker>>,
}

struct Ready {
    socket: Socket,
    /// On the ring's clock.
    since: Duration,
}

impl Stocks {
    #[must_use]
    pub fn new(ring: Ring) -> Self {
        Self { ring, stocks: RefCell::default() }
    }

    /// Keeps stocks for these backends from now on, and for no others. `targets` tells where a backend is now.
    pub fn keep(
        &self,
        wanted: impl Iterator<Item = (Arc<BackendState>, plan::Warm, Option<std::net::IpAddr>)>,
        targets: impl Fn(&BackendState) -> Targets + Clone + 'static,
    ) {
        let mut old = self.stocks.take();
        let mut stocks = HashMap::new();
        for (backend, terms, source_address) in wanted {
            let id = backend.id;
            let kept = old.remove(&id).filter(|stock| stock.terms == terms && stock.source_address == source_address);
            let stock = kept.unwrap_or_else(|| {
                let stock = Rc::new(Stock {
                    backend,
                    terms,
                    source_address,
                    ready: RefCell::default(),
                    closed: Cell::new(false),
                    keeper: RefCell::default(),
                });
                let (ring, task, targets) = (self.ring.clone(), Rc::clone(&stock), targets.clone());
                glommio::spawn_local(async move { task.tend(&ring, targets).await }).detach();
                stock
            });
            if let Some(replaced) = stocks.insert(id, stock) {
                replaced.close(&self.ring);
            }
        }
        old.values().for_each(|stock| stock.close(&self.ring));
        self.stocks.replace(stocks);
    }

    /// Lets go of everything.
    pub fn clear(&self) {
        self.stocks.take().values().for_each(|stock| stock.close(&self.ring));
    }

    /// A connection to the backend that is alive, where one was made ahead.
    pub fn take(&self, backend: BackendId) -> Option<Socket> {
        let stock = Rc::clone(self.stocks.borrow().get(&backend)?);
        let socket = loop {
            let ready = stock.ready.borrow_mut().pop_front()?;
            if ready.is_fresh(&self.ring, stock.terms) {
                break ready.socket;
            }
        };
        stock.wake(&self.ring);
        Some(socket)
    }
}

impl Ready {
    fn is_fresh(&self, ring: &Ring, terms: plan::Warm) -> bool {
        self.since + terms.idle > ring.now() && is_alive(&self.socket)
    }
}

/// Whether the peer has neither closed nor reset. Bytes that a server sent first are left where they are.
fn is_alive(socket: &Socket) -> bool {
    let mut byte = [MaybeUninit::uninit()];
    match socket.options().recv_with_flags(&mut byte, libc::MSG_PEEK | libc::MSG_DONTWAIT) {
        Ok(count) => count > 0,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

impl Stock {
    /// Fills up what was taken, is too old or has died, until the stock is closed.
    async fn tend(&self, ring: &Ring, targets: impl Fn(&BackendState) -> Targets) {
        let terms = Terms { timeout: CONNECT_TIMEOUT, source_address: self.source_address };
        while !self.closed.get() {
            self.ready.borrow_mut().retain(|ready| ready.is_fresh(ring, self.terms));
            if self.ready.borrow().len() >= usize::from(self.terms.connections) {
                self.wait(ring).await;
                continue;
            }
            if !self.backend.is_usable(clock_ms()) {
                ring.sleep(BACK_OFF).await;
                continue;
            }
            let targets = targets(&self.backend);
            match dial(ring, &Permit::ahead_of_client(), &targets, terms).await {
                Ok(Dialled { socket, .. }) if !self.closed.get() => {
                    self.ready.borrow_mut().push_back(Ready { socket, since: ring.now() });
                }
                Ok(_) => {}
                Err(_) => ring.sleep(BACK_OFF).await,
            }
        }
        self.ready.take();
    }

    /// Waits until something was taken or the oldest connection is too old.
    async fn wait(&self, ring: &Ring) {
        let oldest = self.ready.borrow().front().map_or(ring.now(), |ready| ready.since);
        let rest = (oldest + self.terms.idle).saturating_sub(ring.now());
        let count = self.ready.borrow().len();
        let taken = poll_fn(|context| {
            self.keeper.replace(Some(context.waker().clone()));
            if self.closed.get() || self.ready.borrow().len() < count { Poll::Ready(()) } else { Poll::Pending }
        });
        ring.timeout(rest, taken).await;
    }

    fn close(&self, ring: &Ring) {
        self.closed.set(true);
        self.wake(ring);
    }

    fn wake(&self, ring: &Ring) {
        if let Some(keeper) = self.keeper.take() {
            ring.note_activity();
            keeper.wake();
        }
    }
}
