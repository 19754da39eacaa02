//! Rates: no byte too early, none lost, and both directions.

use std::time::Instant;

use super::*;
use crate::policy::terms::Qos;
use crate::policy::users::{Users, clock};

const RATE: u64 = 400_000;

#[test]
fn a_paced_line_is_never_too_fast_and_loses_nothing() {
    const LEN: u64 = 300_000;
    let Wire { near: (client, upstream), far: (far_client, far_upstream) } = Wire::new();
    let users = Arc::new(Users::new(&Qos { per_connection: RATE, ..Qos::default() }, clock()));
    let (began, writer) = (Instant::now(), flood((far_client, far_upstream), 3, LEN));
    on_ring(TINY, paths()[0], |ring| async move {
        let (client, upstream) = (ring.socket(client.into()), ring.socket(upstream.into()));
        let inlets = (Inlet::new(client, First::Try), Inlet::new(upstream, First::Wait));
        let pace = Some(Rc::new(Pace::anonymous(&users)));
        let line = Line { pace, ..Line::plain(&ring, inlets.0, inlets.1, TERMS) };
        let sent = Cell::new(0);
        let count = |_, bytes| {
            sent.set(sent.get() + bytes);
            let most = began.elapsed().as_secs_f64() * RATE as f64 + (RATE / 10) as f64;
            assert!(sent.get() as f64 <= most + 1.0, "{} of {most}", sent.get());
        };
        let tally = run(&ring, Box::new(line), &Cut::default(), count).await;
        assert_eq!((tally.reason, sent.get()), (Reason::Done, LEN as i64));
    });
    writer.join().unwrap();
}
