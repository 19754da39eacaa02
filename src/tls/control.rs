//! What the two directions of a TLS connection have in common: keys to come, and what one wants the other to say.

use std::cell::{Cell, RefCell};

use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{ConnectionTrafficSecrets, ProtocolVersion};

use super::keys::Keys;
use super::{Alert, Flaw};

/// The source of new keys, which knows on which side we are.
pub(super) enum Secrets {
    Server(KernelConnection<ServerConnectionData>),
    Client(KernelConnection<ClientConnectionData>),
}

/// Something to be said by the sending direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owed {
    Alert(Alert),
    NoRenegotiation,
    KeyUpdate,
}

pub(super) struct Control {
    secrets: RefCell<Secrets>,
    version: ProtocolVersion,
    alert: Cell<Option<Alert>>,
    no_renegotiation: Cell<bool>,
    key_update: Cell<bool>,
}

impl Control {
    pub(super) fn new(secrets: Secrets, version: ProtocolVersion) -> Self {
        Self {
            secrets: RefCell::new(secrets),
            version,
            alert: Cell::new(None),
            no_renegotiation: Cell::new(false),
            key_update: Cell::new(false),
        }
    }

    pub(super) fn is_tls13(&self) -> bool {
        self.version == ProtocolVersion::TLSv1_3
    }

    pub(super) fn owe_alert(&self, alert: Alert) {
        // Who has sent a fatal alert is not answered.
        if alert != Alert::Received && self.alert.get().is_none() {
            self.alert.set(Some(alert));
        }
    }

    pub(super) fn owe_no_renegotiation(&self) {
        self.no_renegotiation.set(true);
    }

    pub(super) fn owe_key_update(&self) {
        self.key_update.set(true);
    }

    pub(super) fn owes(&self) -> bool {
        self.owed().is_some()
    }

    pub(super) fn owed(&self) -> Option<Owed> {
        if let Some(alert) = self.alert.get() {
            return Some(Owed::Alert(alert));
        }
        if self.no_renegotiation.get() {
            return Some(Owed::NoRenegotiation);
        }
        self.key_update.get().then_some(Owed::KeyUpdate)
    }

    pub(super) fn paid(&self, owed: Owed) {
        match owed {
            Owed::Alert(_) => self.alert.set(None),
            Owed::NoRenegotiation => self.no_renegotiation.set(false),
            Owed::KeyUpdate => self.key_update.set(false),
        }
    }

    /// The keys after a key update by the other side.
    pub(super) fn next_receive_keys(&self) -> Result<Keys, Flaw> {
        let secrets = match &mut *self.secrets.borrow_mut() {
            Secrets::Server(connection) => connection.update_rx_secret(),
            Secrets::Client(connection) => connection.update_rx_secret(),
        };
        self.keys(secrets)
    }

    /// The keys after a key update of ours.
    pub(super) fn next_send_keys(&self) -> Result<Keys, Flaw> {
        let secrets = match &mut *self.secrets.borrow_mut() {
            Secrets::Server(connection) => connection.update_tx_secret(),
            Secrets::Client(connection) => connection.update_tx_secret(),
        };
        self.keys(secrets)
    }

    fn keys(&self, secrets: Result<(u64, ConnectionTrafficSecrets), rustls::Error>) -> Result<Keys, Flaw> {
        let (sequence, secrets) = secrets.map_err(|_| Flaw(Alert::InternalError))?;
        Keys::new(&secrets, sequence, self.version)
    }

    /// A session ticket of a server that we are a client of.
    pub(super) fn take_ticket(&self, ticket: &[u8]) -> Result<(), Flaw> {
        match &mut *self.secrets.borrow_mut() {
            Secrets::Client(connection) => {
                connection.handle_new_session_ticket(ticket).map_err(|_| Flaw(Alert::DecodeError))
            }
            Secrets::Server(_) => Err(Flaw(Alert::UnexpectedMessage)),
        }
    }
}
