//! Logins as a whole, without PAM (see tests/pam.rs).
#![allow(clippy::unwrap_used)]

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::*;
use crate::config::plan::{Failures, Method, PasswordHash, Secret, User};
use crate::control::fixture;

/// One test at a time counts hashes.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
const PEER: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)));

fn user(name: &str, password: &str) -> User {
    let hash = bcrypt::hash(password, 4).unwrap();
    let secret = Some(Secret::Hash(PasswordHash(hash.into())));
    User { name: name.into(), secret, groups: vec!["dev".into()], at: plan::Place::default() }
}

fn plan(users: &[(&str, &str)]) -> plan::Auth {
    let users = users.iter().map(|(name, password)| user(name, password)).collect();
    plan::Auth { methods: vec![Method::Password], users, ..fixture::auth() }
}

fn name_of(verdict: &Verdict) -> Option<&str> {
    match verdict {
        Verdict::Accepted(identity) => Some(&identity.user),
        _ => None,
    }
}

fn computed() -> u64 {
    secret::COMPUTED.load(Ordering::SeqCst)
}

#[tokio::test]
async fn right_wrong_and_unknown_cost_one_hash_each_and_a_cached_one_none() {
    let _alone = ALONE.lock().await;
    let auth = Auth::new(&plan(&[("alice", "a"), ("bob", "b")]), None).unwrap();
    for (name, password, is_right) in
        [("alice", "a", true), ("alice", "b", false), ("carol", "a", false), ("carol", "b", false)]
    {
        let before = computed();
        let verdict = auth.authenticate(PEER, name.as_bytes(), password.as_bytes()).await;
        assert_eq!(name_of(&verdict).is_some(), is_right, "{name} {password}: {verdict:?}");
        assert_eq!(computed() - before, 1, "{name} {password}");
    }
    let before = computed();
    for _ in 0..100 {
        assert_eq!(name_of(&auth.authenticate(PEER, b"alice", b"a").await), Some("alice"));
    }
    assert_eq!(computed(), before);
    assert_eq!(auth.counters().get(Attempt::Password, Outcome::Ok), 101);
    assert_eq!(auth.counters().get(Attempt::Password, Outcome::Refused), 3);
    assert_eq!(auth.authenticate(None, b"\xff", b"a").await, Verdict::Refused);
}

#[tokio::test]
async fn a_reload_forgets_who_was_changed_and_nobody_else() {
    let _alone = ALONE.lock().await;
    let mut plan = plan(&[("alice", "a"), ("bob", "b")]);
    let auth = Auth::new(&plan, None).unwrap();
    for (name, password) in [("alice", "a"), ("bob", "b")] {
        assert!(name_of(&auth.authenticate(None, name.as_bytes(), password.as_bytes()).await).is_some());
    }
    plan.users[0] = user("alice", "new");
    auth.follow(&plan, None);
    let before = computed();
    assert_eq!(name_of(&auth.authenticate(None, b"bob", b"b").await), Some("bob"));
    assert_eq!(computed(), before, "bob is still remembered");
    assert_eq!(auth.authenticate(None, b"alice", b"a").await, Verdict::Refused);
    assert_eq!(name_of(&auth.authenticate(None, b"alice", b"new").await), Some("alice"));
    plan.users.remove(1);
    auth.follow(&plan, None);
    assert_eq!(auth.authenticate(None, b"bob", b"b").await, Verdict::Refused);
}

#[tokio::test]
async fn failures_ban_their_source_and_no_other() {
    let _alone = ALONE.lock().await;
    let mut plan = plan(&[("alice", "a")]);
    plan.failures = Failures { limit: 3, window: Duration::from_secs(60), ban: Duration::from_secs(60) };
    let auth = Auth::new(&plan, None).unwrap();
    for i in 0..3 {
        assert_eq!(auth.authenticate(PEER, b"alice", &[b'x', i]).await, Verdict::Refused);
    }
    let before = computed();
    assert_eq!(auth.authenticate(PEER, b"alice", b"a").await, Verdict::Banned);
    assert_eq!(computed(), before, "nothing is computed for a banned source");
    let other = Some("192.0.2.2".parse().unwrap());
    assert_eq!(name_of(&auth.authenticate(other, b"alice", b"a").await), Some("alice"));
    assert_eq!(auth.authenticate(PEER, b"alice", b"a").await, Verdict::Banned, "also what is cached");
    assert_eq!(auth.counters().get(Attempt::Password, Outcome::Banned), 2);
}

#[tokio::test]
async fn many_at_once_with_the_same_password_cost_one_hash() {
    let _alone = ALONE.lock().await;
    let auth = Auth::new(&plan(&[("alice", "a")]), None).unwrap();
    let before = computed();
    let all: Vec<_> = (0..30)
        .map(|_| {
            let auth = auth.clone();
            tokio::spawn(async move { auth.authenticate(PEER, b"alice", b"a").await })
        })
        .collect();
    for each in all {
        assert_eq!(name_of(&each.await.unwrap()), Some("alice"));
    }
    assert_eq!(computed() - before, 1);
}

#[tokio::test]
async fn without_a_method_that_takes_passwords_none_is_right() {
    let auth = Auth::new(&fixture::auth(), None).unwrap();
    assert_eq!(auth.authenticate(PEER, b"alice", b"a").await, Verdict::Refused);
    assert!(name_of(&auth.admit_address(PEER).await).is_some(), "no service judges addresses");
}

#[tokio::test]
async fn system_groups_come_after_a_right_password() {
    let _alone = ALONE.lock().await;
    let auth = Auth::new(&plan::Auth { system_groups: true, ..plan(&[("nobody", "a")]) }, None).unwrap();
    let Verdict::Accepted(identity) = auth.authenticate(PEER, b"nobody", b"a").await else { panic!("refused") };
    assert_eq!(&*identity.groups, ["dev".into(), "nogroup".into()]);
}

#[tokio::test]
async fn a_source_with_many_logins_holds_up_only_itself() {
    let _alone = ALONE.lock().await;
    let failures = Failures { limit: 0, ..fixture::auth().failures };
    let auth = Auth::new(&plan::Auth { failures, ..plan(&[("alice", "a")]) }, None).unwrap();
    let before = computed();
    let guesses: Vec<_> = (0..300)
        .map(|number| {
            let auth = auth.clone();
            tokio::spawn(async move { auth.authenticate(PEER, b"alice", format!("guess {number}").as_bytes()).await })
        })
        .collect();
    tokio::task::yield_now().await;
    let other = Some(IpAddr::from([192, 0, 2, 2]));
    assert_eq!(name_of(&auth.authenticate(other, b"alice", b"a").await), Some("alice"));
    assert!(computed() - before < 100, "before those that came first");
    for guess in guesses {
        assert_eq!(guess.await.unwrap(), Verdict::Refused);
    }
}
