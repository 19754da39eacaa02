//! What shards ask for and may not do themselves: looking names up, checking passwords.

mod lookups;

use std::sync::Arc;

use tokio::sync::mpsc;

use super::auth::Auth;
use super::resolver::System;
use crate::policy::banned::Source;
use crate::shard::command::{Answer, Command, Commission, Errand, Mailbox};
use lookups::Lookups;

/// Does errands until the shards are gone.
pub(super) async fn run(
    mut commissions: mpsc::UnboundedReceiver<Commission>,
    shards: Arc<[Mailbox]>,
    system: System,
    auth: Auth,
) {
    let lookups = Arc::new(Lookups::new(system));
    while let Some(Commission { shard, ticket, errand }) = commissions.recv().await {
        let Some(mailbox) = shards.get(usize::from(shard.0)).cloned() else { continue };
        // What is known already needs no task.
        if let Errand::Resolve { host, .. } = &errand
            && let Some(addresses) = lookups.known(host)
        {
            tell(&mailbox, Command::Done(ticket, Answer::Addresses(addresses)));
            continue;
        }
        let (lookups, auth) = (Arc::clone(&lookups), auth.clone());
        tokio::spawn(async move {
            let answer = match errand {
                Errand::Resolve { source, host } => {
                    Answer::Addresses(lookups.look_up(host, source.map(Source::of)).await)
                }
                Errand::Authenticate { source, user, password } => {
                    Answer::Verdict(auth.authenticate(source, &user, &password.0).await)
                }
                Errand::AdmitAddress(source) => Answer::Verdict(auth.admit_address(Some(source)).await),
            };
            tell(&mailbox, Command::Done(ticket, answer));
        });
    }
}

/// A shard that takes no command is stuck, and its clients wait until their deadlines.
fn tell(mailbox: &Mailbox, command: Command) {
    if let Err(error) = mailbox.send(command) {
        tracing::warn!(%error, "a shard did not take an answer");
    }
}
