//! What a server answers to a request (RFC 1928 section 6), and which answer every end of a session has.

use super::Malformed;
use crate::types::Reason;

/// REP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Reply {
    Succeeded = 0,
    GeneralFailure = 1,
    NotAllowed = 2,
    NetworkUnreachable = 3,
    HostUnreachable = 4,
    ConnectionRefused = 5,
    TtlExpired = 6,
    CommandNotSupported = 7,
    AddressTypeNotSupported = 8,
}

impl Reply {
    pub const ALL: [Self; 9] = [
        Self::Succeeded,
        Self::GeneralFailure,
        Self::NotAllowed,
        Self::NetworkUnreachable,
        Self::HostUnreachable,
        Self::ConnectionRefused,
        Self::TtlExpired,
        Self::CommandNotSupported,
        Self::AddressTypeNotSupported,
    ];

    /// What a client is told of why it does not get what it asked for.
    #[must_use]
    pub fn of(reason: Reason) -> Self {
        match reason {
            Reason::ConnectRefused => Self::ConnectionRefused,
            Reason::NetworkUnreachable => Self::NetworkUnreachable,
            // A name without an address, and a host that does not answer.
            Reason::Unreachable | Reason::Unresolved | Reason::ConnectTimeout => Self::HostUnreachable,
            Reason::AclBlocked
            | Reason::AclUpdated
            | Reason::SourceNotAllowed
            | Reason::ProxyNotTrusted
            | Reason::NoRoute
            | Reason::ProcessMaxConnections
            | Reason::ListenerMaxConnections
            | Reason::SourceMaxConnections
            | Reason::AcceptRate
            | Reason::UserMaxConnections
            | Reason::UserMaxAssociations
            | Reason::Quota
            | Reason::Banned
            | Reason::AuthFailed
            | Reason::Killed
            | Reason::BindPeer => Self::NotAllowed,
            Reason::SocksCommand => Self::CommandNotSupported,
            Reason::SocksAddress => Self::AddressTypeNotSupported,
            // The machine, what arus is configured to do, or the dialogue itself: nothing that the words of SOCKS tell apart.
            Reason::Done
            | Reason::Reset
            | Reason::IdleTimeout
            | Reason::HalfClosedTimeout
            | Reason::NoBackend
            | Reason::BackendFull
            | Reason::QueueFull
            | Reason::QueueTimeout
            | Reason::ProxyHeader
            | Reason::ClientHello
            | Reason::UnknownServerName
            | Reason::SocksMessage
            | Reason::SocksMethod
            | Reason::AuthUnavailable
            | Reason::BindTimeout
            | Reason::AssociationClosed
            | Reason::UpstreamProxy
            | Reason::ClientGone
            | Reason::StageTimeout
            | Reason::BackendDown
            | Reason::TlsHandshake
            | Reason::TlsTruncated
            | Reason::TlsRecord
            | Reason::TlsAlert
            | Reason::PluginClosed
            | Reason::PluginReset
            | Reason::PluginFault
            | Reason::Drained
            | Reason::Descriptors
            | Reason::Memory
            | Reason::Panic
            | Reason::Io => Self::GeneralFailure,
        }
    }

    /// The answer to a request that is none; `None`: what came is not even of this protocol, and gets no answer.
    #[must_use]
    pub fn of_malformed(malformed: Malformed) -> Option<Self> {
        match malformed {
            Malformed::Command(_) => Some(Self::CommandNotSupported),
            Malformed::AddressType(_) => Some(Self::AddressTypeNotSupported),
            Malformed::EmptyName => Some(Self::GeneralFailure),
            Malformed::Version(_)
            | Malformed::PasswordVersion(_)
            | Malformed::NoMethods
            | Malformed::ShortDatagram
            | Malformed::Method(_)
            | Malformed::Reply(_) => None,
        }
    }

    /// Why a session ends to which another proxy gave this answer.
    #[must_use]
    pub fn reason(self) -> Reason {
        match self {
            Self::ConnectionRefused => Reason::ConnectRefused,
            Self::NetworkUnreachable => Reason::NetworkUnreachable,
            Self::HostUnreachable | Self::TtlExpired => Reason::Unreachable,
            Self::Succeeded
            | Self::GeneralFailure
            | Self::NotAllowed
            | Self::CommandNotSupported
            | Self::AddressTypeNotSupported => Reason::UpstreamProxy,
        }
    }
}
