//! Logins that take PAM long, and those of others.

use super::*;

/// Who keeps PAM busy keeps nobody else from it, however many logins it begins.
#[test]
fn a_source_whose_logins_last_holds_up_only_itself() {
    let directory = tempfile::tempdir().unwrap();
    open_to_all(directory.path());
    let gate = directory.path().join("gate");
    let gate_shown = gate.display();
    let is_slow =
        format!("case $PAM_USER in slow*) while test ! -e {gate_shown}; do sleep 0.1; done;; esac\n{IS_RIGHT}");
    let Some(service) = Service::exec("turns", &is_slow, "true") else { return };
    let auth = format!("methods = [\"pam\"]\npam_service = \"{}\"\n", service.name);
    let arus = setup(&auth, ACL).start();
    let begin = |number: usize| {
        let mut client = visit(&arus, "127.0.0.2");
        let user = format!("slow{number}");
        client.write_all(&[&[5, 1, 2, 1, user.len() as u8], user.as_bytes(), b"\x05wrong"].concat());
        assert_eq!(client.read_exactly(2), [5, 2]);
        client
    };
    let waiting: Vec<Stream> = (0..300).map(begin).collect();
    assert!(log_in(&arus, "127.0.0.1", "alice", "right").is_ok());
    fs::write(&gate, "").unwrap();
    drop(waiting);
}
