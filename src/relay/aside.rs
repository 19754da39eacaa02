//! The ways of one direction that do not go through the shard's buffers.

use std::io;
use std::task::Context;

use super::detour::Detour;
use super::fill::Fill;
use super::half::Progress;
use super::splice::Splice;
use crate::ring::{Pipe, Queue, Ring, Socket};

/// Another way than through the shard's buffers.
pub(super) enum Aside {
    /// While the direction is bulk.
    Splice(Box<Splice>),
    /// While the shard has no buffer left.
    Detour(Box<Detour>),
    /// Likewise, for a direction with a transform.
    Fill(Box<Fill>),
}

/// What [`Aside::poll`] has come to.
pub(super) enum Step {
    /// It waits for a socket.
    Waits,
    /// There is nothing on the way, and the ordinary way should be taken again.
    Small,
    /// `from` has sent FIN; nothing is on the way.
    Ended,
    /// `from` has failed; nothing is on the way.
    Broken(io::Error),
    /// `to` takes no more.
    Refused(io::Error),
}

impl Aside {
    pub(super) fn splice(pipe: Pipe) -> Self {
        Self::Splice(Box::new(Splice::new(pipe)))
    }

    pub(super) fn detour(ring: &Ring, from: &Socket, has_transform: bool) -> Self {
        if has_transform {
            Self::Fill(Box::new(Fill::new(ring, from)))
        } else {
            Self::Detour(Box::new(Detour::new(from)))
        }
    }

    /// Whether bytes wait for `to`.
    pub(super) fn is_pending(&self) -> bool {
        match self {
            Self::Splice(splice) => splice.is_pending(),
            Self::Detour(detour) => detour.is_pending(),
            Self::Fill(_) => false,
        }
    }

    /// Bytes that are known to be inside.
    pub(super) fn waiting(&self) -> usize {
        match self {
            Self::Splice(splice) => splice.waiting(),
            Self::Detour(_) | Self::Fill(_) => 0,
        }
    }

    pub(super) fn poll(
        &mut self,
        from: &Socket,
        to: &Socket,
        inbox: &mut Queue,
        context: &mut Context<'_>,
        progress: &mut Progress,
    ) -> Step {
        match self {
            Self::Splice(splice) => splice.poll(from, to, context, progress),
            Self::Detour(detour) => detour.poll(from, to, context, progress),
            Self::Fill(fill) => fill.poll(from, inbox, context, progress),
        }
    }
}
