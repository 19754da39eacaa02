//! Who a UDP association waits for. There are no windows and no acknowledgements: what was passed on, when, and what was
//! dropped for which reason is all there is to judge by.

use std::time::Duration;

use super::{ANSWER, IDLE, Verdict, Who, span};
use crate::relay::sight::Association;
use crate::types::Dropped;

/// Judges two looks; `at` is when the second was had.
pub(super) fn judge(before: &Association, now: &Association, at: Duration) -> Verdict {
    let grown = |why: Dropped| now.dropped[why as usize].saturating_sub(before.dropped[why as usize]);
    // What is dropped at this moment comes before everything else.
    if let Some(why) = most(grown) {
        return Verdict::new(guilty(why), format!("datagrams are dropped right now: {}", reason(why)));
    }
    let [sent, heard] = now.passed_on.map(|last| last.map(|last| at.saturating_sub(last)));
    let targets = match now.targets {
        1 => "its target".to_owned(),
        targets => format!("any of its {targets} targets"),
    };
    match (sent, heard) {
        (None, _) => match most(|why| now.dropped[why as usize]) {
            Some(why) => {
                let total: u64 = now.dropped.iter().sum();
                Verdict::new(guilty(why), format!("nothing was passed on, and {total} dropped: mostly {}", reason(why)))
            }
            None => Verdict::new(Who::Idle, "the client has sent no datagram yet"),
        },
        (Some(sent), None) if sent >= ANSWER => {
            let ago = span(sent);
            Verdict::new(Who::Backend, format!("nothing has ever come from {targets}; the last was sent {ago} ago"))
        }
        (Some(sent), Some(heard)) if sent < heard && sent >= ANSWER => {
            let (ago, then) = (span(sent), span(heard));
            Verdict::new(Who::Backend, format!("no answer to what was sent {ago} ago; the last came {then} ago"))
        }
        (Some(sent), heard) => {
            let quiet = heard.map_or(sent, |heard| heard.min(sent));
            match quiet < IDLE {
                true => Verdict::new(Who::Ok, "datagrams moved less than a second ago"),
                false => Verdict::new(Who::Idle, format!("nothing to do; the last datagram moved {} ago", span(quiet))),
            }
        }
    }
}

fn most(count: impl Fn(Dropped) -> u64) -> Option<Dropped> {
    Dropped::ALL.iter().copied().filter(|why| count(*why) > 0).max_by_key(|why| count(*why))
}

/// Whose doing a drop is.
fn guilty(why: Dropped) -> Who {
    match why {
        Dropped::Stranger | Dropped::Malformed | Dropped::Fragment | Dropped::Denied | Dropped::TooLarge => Who::Client,
        Dropped::Unasked | Dropped::Unresolved | Dropped::Network => Who::Backend,
        Dropped::Waiting | Dropped::NoRoom | Dropped::Rate | Dropped::Resources => Who::Us,
    }
}

fn reason(why: Dropped) -> &'static str {
    match why {
        Dropped::Stranger => "they come from another address than the client's",
        Dropped::Unasked => "they come from where the client has not sent to",
        Dropped::Malformed => "they have no proper SOCKS header",
        Dropped::Fragment => "they are fragments",
        Dropped::Denied => "the access rules block their target",
        Dropped::Unresolved => "their target's name has no address",
        Dropped::Waiting => "too many wait for names to be looked up",
        Dropped::TooLarge => "they are too large",
        Dropped::NoRoom => "a socket's queue is full",
        Dropped::Rate => "the rate limit is used up",
        Dropped::Network => "the network refuses them",
        Dropped::Resources => "there is no descriptor or memory for a socket",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Duration = Duration::from_secs(100);

    fn seen(sent: Option<u64>, heard: Option<u64>, dropped: &[(Dropped, u64)]) -> Association {
        let ago = |ms| AT.saturating_sub(Duration::from_millis(ms));
        let mut seen = Association { targets: 2, passed_on: [sent.map(ago), heard.map(ago)], ..Association::default() };
        dropped.iter().for_each(|(why, count)| seen.dropped[*why as usize] = *count);
        seen
    }

    #[test]
    fn what_moves_who_is_silent_and_why_datagrams_are_dropped() {
        for (now, who, why) in [
            (seen(None, None, &[]), Who::Idle, "no datagram yet"),
            (
                seen(None, None, &[(Dropped::Denied, 3), (Dropped::Fragment, 1)]),
                Who::Client,
                "4 dropped: mostly the access",
            ),
            (seen(None, None, &[(Dropped::Unresolved, 1)]), Who::Backend, "no address"),
            (seen(Some(100), None, &[]), Who::Ok, "moved"),
            (seen(Some(3000), None, &[]), Who::Backend, "nothing has ever come from any of its 2 targets"),
            (seen(Some(700), Some(5000), &[]), Who::Backend, "sent 700 ms ago; the last came 5.0 s ago"),
            (seen(Some(5000), Some(4990), &[]), Who::Idle, "nothing to do"),
            (seen(Some(900), Some(890), &[(Dropped::Rate, 7)]), Who::Ok, "moved"),
        ] {
            let verdict = judge(&now, &now, AT);
            assert!(verdict.who == who && verdict.why.contains(why), "{now:?}: {verdict:?}");
        }
        let before = seen(Some(10), Some(10), &[(Dropped::Rate, 7), (Dropped::Denied, 50)]);
        let now = seen(Some(10), Some(10), &[(Dropped::Rate, 9), (Dropped::Denied, 51)]);
        let verdict = judge(&before, &now, AT);
        assert!(verdict.who == Who::Us && verdict.why.contains("right now: the rate limit"), "{verdict:?}");
    }
}
