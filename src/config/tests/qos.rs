//! `[qos]`.

use super::broken::expect;
use super::*;
use crate::policy::terms::{Limits, Period, Qos, Quota};

fn qos(text: &str) -> Qos {
    plan(&format!("{text}\n{MINIMAL}")).qos
}

#[test]
fn values_arrive_in_the_plan() {
    let text = "[qos]\nglobal = \"100MiB\"\nper_connection = \"1MB\"\nconnections_per_user = 7\n\
                per_user = { guaranteed = \"128KiB\", max = \"12MiB\", burst = \"1MiB\" }\n\
                users = [{ name = \"zoe\" }, { name = \"alice\", max = \"0\", quota = { bytes = \"100GB\", per = \"day\" } }]\n";
    let read = qos(text);
    assert_eq!((read.global, read.per_connection, read.connections_per_user), (100 << 20, 1_000_000, 7));
    let of_all = Limits { guaranteed: 128 << 10, max: 12 << 20, burst: 1 << 20 };
    assert_eq!(read.per_user, of_all);
    let quota = Quota { bytes: 100_000_000_000, per: Period::Day };
    assert_eq!(read.of("alice"), (Limits { max: 0, burst: 0, ..of_all }, Some(quota)));
    assert_eq!(read.of("zoe"), (of_all, None));
    assert_eq!(read.of("bob"), (of_all, None));
    assert_eq!(qos("[qos]\nper_user = { max = \"10MB\" }").per_user.burst, 1_000_000);
}

#[test]
fn reloads_say_what_changes() {
    let (old, new) = (plan(MINIMAL), plan(&format!("[qos]\nusers = [{{ name = \"a\", max = \"1KiB\" }}]\n{MINIMAL}")));
    let said = crate::config::diff::diff(&old, &new);
    assert_eq!(said, ["qos: user a added"]);
}

#[test]
fn what_is_wrong_is_said_at_its_place() {
    let text = "[qos]\nglobal = \"1\"\nper_user = { guaranteed = \"2KiB\", max = \"1KiB\" }\nconnections_per_user = -1\n\
                users = [{ name = \"a\" }, { name = \"a\" }, { max = \"1KiB\" }, { name = \"b\", quota = { bytes = \"0\", per = \"week\" } }]\n";
    let text = format!("{text}{MINIMAL}");
    expect(
        &text,
        &[
            "2:10: `global` cannot be 1 bytes per second (\"1KiB\" to \"1TiB\", or \"0\" for no limit)",
            "3:27: `guaranteed` (2048 bytes per second) is more than `max` (1024) (guarantee less)",
            "4:24: `connections_per_user` cannot be -1 (0 to 10000000)",
            "5:35: `a` has limits on line 5 already (one entry of `users` per user)",
            "5:42: `name` is missing",
            "5:50: `guaranteed` (2048 bytes per second) is more than `max` (1024) (guarantee less)",
            "5:92: `bytes` cannot be 0 (without a quota, leave `quota` out)",
            "5:103: `per` cannot be `week` (one of \"hour\", \"day\", \"month\")",
        ],
    );
}
