//! What goes between arus and its PAM processes: one packet a message, each whole or not at all.

use zeroize::Zeroizing;

/// Larger than any message: five texts of at most 255 bytes.
pub(super) const PACKET: usize = 2048;

/// What is asked of PAM. Debug does not show the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Question {
    pub service: String,
    pub user: String,
    /// `None`: only the account check.
    pub password: Option<Zeroizing<Vec<u8>>>,
    /// PAM_RHOST.
    pub remote: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    /// A worker has begun with a question; should it die, that is the answer to it.
    Taken {
        id: u64,
        pid: u32,
    },
    Answer {
        id: u64,
        answer: Answer,
    },
    /// By the keeper.
    Died {
        pid: u32,
    },
    /// By one that is the keeper from now on: the one before is gone, and its workers with it.
    Succeeded {
        pid: u32,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// With the user as PAM calls them.
    Accepted(String),
    Refused,
    /// Why it cannot be said.
    Unavailable(String),
}

impl std::fmt::Debug for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { service, user, password: _, remote } = self;
        f.debug_struct("Question").field("service", service).field("user", user).field("remote", remote).finish()
    }
}

/// `None`: a text is too long or has a NUL, which C would take for its end.
pub(super) fn write_question(id: u64, question: &Question) -> Option<Zeroizing<Vec<u8>>> {
    // With its whole room from the start: growing would leave copies behind.
    let mut packet = Zeroizing::new(Vec::with_capacity(PACKET));
    packet.extend(id.to_be_bytes());
    let Question { service, user, password, remote } = question;
    let texts =
        [Some(service.as_bytes()), Some(user.as_bytes()), password.as_ref().map(|password| password.as_slice())];
    for text in texts.into_iter().chain([remote.as_ref().map(|remote| remote.as_bytes())]) {
        packet.push(u8::from(text.is_some()));
        let text = text.unwrap_or_default();
        if text.contains(&0) {
            return None;
        }
        packet.push(u8::try_from(text.len()).ok()?);
        packet.extend_from_slice(text);
    }
    Some(packet)
}

pub(super) fn read_question(packet: &[u8]) -> Option<(u64, Question)> {
    let (id, mut rest) = packet.split_first_chunk::<8>()?;
    let mut text = || -> Option<Option<&[u8]>> {
        let ([is_there, length], behind) = rest.split_first_chunk::<2>()?;
        let (text, behind) = behind.split_at_checked(usize::from(*length))?;
        rest = behind;
        Some((*is_there == 1).then_some(text))
    };
    let string = |text: &[u8]| String::from_utf8(text.to_vec()).ok();
    let (service, user, password, remote) = (text()??, text()??, text()?, text()?);
    let question = Question {
        service: string(service)?,
        user: string(user)?,
        password: password.map(|password| Zeroizing::new(password.to_vec())),
        remote: remote.and_then(string),
    };
    rest.is_empty().then_some((u64::from_be_bytes(*id), question))
}

pub(super) fn write(message: &Message) -> Vec<u8> {
    let (id, kind, text) = match message {
        Message::Taken { id, pid } => (*id, 0, pid.to_be_bytes().to_vec()),
        Message::Died { pid } => (0, 1, pid.to_be_bytes().to_vec()),
        Message::Succeeded { pid } => (0, 5, pid.to_be_bytes().to_vec()),
        Message::Answer { id, answer: Answer::Accepted(user) } => (*id, 2, user.as_bytes().to_vec()),
        Message::Answer { id, answer: Answer::Refused } => (*id, 3, Vec::new()),
        Message::Answer { id, answer: Answer::Unavailable(why) } => (*id, 4, why.as_bytes().to_vec()),
    };
    let mut packet = id.to_be_bytes().to_vec();
    packet.push(kind);
    packet.extend(text.into_iter().take(PACKET - packet.len()));
    packet
}

pub(super) fn read(packet: &[u8]) -> Option<Message> {
    let (id, rest) = packet.split_first_chunk::<8>()?;
    let (kind, text) = rest.split_first()?;
    let id = u64::from_be_bytes(*id);
    let pid = || text.try_into().ok().map(u32::from_be_bytes);
    let string = || String::from_utf8_lossy(text).into_owned();
    Some(match kind {
        0 => Message::Taken { id, pid: pid()? },
        1 => Message::Died { pid: pid()? },
        2 => Message::Answer { id, answer: Answer::Accepted(String::from_utf8(text.to_vec()).ok()?) },
        3 => Message::Answer { id, answer: Answer::Refused },
        4 => Message::Answer { id, answer: Answer::Unavailable(string()) },
        5 => Message::Succeeded { pid: pid()? },
        _ => return None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_back_as_they_were_and_cut_ones_do_not() {
        let whole = |password: Option<&[u8]>, remote: Option<&str>| Question {
            service: "arus".into(),
            user: "alice".into(),
            password: password.map(|password| Zeroizing::new(password.to_vec())),
            remote: remote.map(Into::into),
        };
        for question in
            [whole(Some(b"\xff pass"), Some("2001:db8::1")), whole(Some(b""), None), whole(None, Some("::1"))]
        {
            let packet = write_question(7, &question).unwrap();
            assert_eq!(read_question(&packet), Some((7, question)));
            assert!((0..packet.len()).all(|end| read_question(&packet[..end]).is_none()));
        }
        for answer in [Answer::Accepted("alice".into()), Answer::Refused, Answer::Unavailable("no".into())] {
            let message = Message::Answer { id: 9, answer };
            assert_eq!(read(&write(&message)), Some(message));
        }
        for message in [Message::Taken { id: 3, pid: 4 }, Message::Died { pid: 5 }, Message::Succeeded { pid: 6 }] {
            let packet = write(&message);
            assert!((0..packet.len()).all(|end| read(&packet[..end]).is_none()));
            assert_eq!(read(&packet), Some(message));
        }
    }

    #[test]
    fn nul_and_length_are_refused_and_passwords_are_not_shown() {
        let question = |user: &str, password: &[u8]| Question {
            service: "arus".into(),
            user: user.into(),
            password: Some(Zeroizing::new(password.to_vec())),
            remote: None,
        };
        assert!(write_question(1, &question("root\0x", b"p")).is_none());
        assert!(write_question(1, &question("root", b"p\0q")).is_none());
        assert!(write_question(1, &question(&"x".repeat(256), b"p")).is_none());
        assert!(write_question(1, &question(&"x".repeat(255), &[b'x'; 255])).is_some());
        assert!(!format!("{:?}", question("root", b"geheim")).contains("geheim"));
    }
}
