//! What only sessions of SOCKS have: what came of their dialogue.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::sync::Arc;

use super::access::Asked;
use super::seen::Seen;
use crate::types::Name;

/// What came of a dialogue in which the client says where it wants to go.
#[derive(Default)]
pub(super) struct Negotiated {
    /// Who the client has proved to be.
    pub(super) user: RefCell<Option<Name>>,
    /// Where it asked to go.
    pub(super) target: RefCell<Option<Arc<str>>>,
    /// What `[acl]` has judged.
    pub(super) asked: RefCell<Option<Asked>>,
    /// The ACL rule that decided.
    pub(super) rule: RefCell<Option<Arc<str>>>,
    pub(super) is_association: Cell<bool>,
    /// Where it is connected to.
    pub(super) remote: Cell<Option<SocketAddr>>,
    pub(super) datagrams: Cell<[u64; 2]>,
    /// Where it is a UDP association.
    pub(super) seen: OnceCell<Box<Seen>>,
}
