//! `[acl]` on the real binary: a file of rules that changes, destinations in disguise, and one answer wherever it is
//! asked for.

mod late;
mod names;
mod own;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::admin::{TEST_TOKEN, address as admin, ask, get};
use crate::harness::*;
use crate::ops::{arus_command, reload, text};

const LISTENER: &str = "[[listener]]\nname = \"socks\"\nlisten = \"127.0.0.1:0\"\nservice = \"socks5\"\n";
/// Opens this machine, which is blocked unless a rule says so.
const OPEN: &str =
    "[[acl.rule]]\naction = \"allow\"\ndescription = \"here\"\ndestinations = [\"127.0.0.0/8\", \"::1\"]\n";

/// CONNECT of somebody who had to prove nothing; REP, and the connection.
fn connect(arus: &Arus, to: &[u8]) -> (u8, Stream) {
    let mut stream = Stream::connect(&arus.address("socks"));
    stream.write_all(&[5, 1, 0]);
    assert_eq!(stream.read_exactly(2), [5, 0]);
    (requested(&mut stream, to), stream)
}

/// The same of a user whose password is the name.
fn connect_as(arus: &Arus, user: &str, to: &[u8]) -> (u8, Stream) {
    let mut stream = Stream::connect(&arus.address("socks"));
    stream.write_all(&[5, 1, 2]);
    assert_eq!(stream.read_exactly(2), [5, 2]);
    let word = [&[user.len() as u8], user.as_bytes()].concat();
    stream.write_all(&[&[1], &word[..], &word[..]].concat());
    assert_eq!(stream.read_exactly(2), [1, 0]);
    (requested(&mut stream, to), stream)
}

fn requested(stream: &mut Stream, to: &[u8]) -> u8 {
    stream.write_all(&[&[5, 1, 0], to].concat());
    let head = stream.read_exactly(4);
    stream.read_exactly(if head[3] == 4 { 18 } else { 6 });
    head[1]
}

/// A target as SOCKS has it: type, address, port.
fn ip(to: SocketAddr) -> Vec<u8> {
    let (kind, octets) = match to.ip() {
        std::net::IpAddr::V4(ip) => (1, ip.octets().to_vec()),
        std::net::IpAddr::V6(ip) => (4, ip.octets().to_vec()),
    };
    [&[kind], &octets[..], &to.port().to_be_bytes()].concat()
}

fn name(host: &str, port: u16) -> Vec<u8> {
    [&[3, host.len() as u8], host.as_bytes(), &port.to_be_bytes()].concat()
}

fn check_echo(stream: &mut Stream, at: u64) {
    stream.send(1, at, 1000);
    stream.expect(1, at, 1000);
}

/// Two echoes that anybody may go to but for what the file `acl.toml` says.
struct Scene {
    arus: Arus,
    file: PathBuf,
    echoes: [Backend; 2],
}

impl Scene {
    fn new() -> Self {
        let echoes = [Backend::start(behaviour::echo), Backend::start(behaviour::echo)];
        let body = format!("{LISTENER}[acl]\ndefault = \"allow\"\nfile = \"acl.toml\"\n{OPEN}");
        let setup = Setup::new(body).admin(&format!("listen = \"127.0.0.1:0\"\ntokens = [{TEST_TOKEN}]"));
        let file = setup.directory().join("acl.toml");
        fs::write(&file, "# nothing yet\n").unwrap();
        let arus = setup.start();
        // What is written before arus looks for changes is no change.
        arus.descriptors();
        Self { arus, file, echoes }
    }

    fn port(&self, which: usize) -> u16 {
        self.echoes[which].address().ip().port()
    }

    /// A file that closes one echo.
    fn closed(&self, which: usize) -> String {
        format!("[[rule]]\naction = \"block\"\ndescription = \"no {which}\"\nports = [{}]\n", self.port(which))
    }

    fn reply(&self, which: usize) -> u8 {
        connect(&self.arus, &ip(self.echoes[which].address().ip())).0
    }

    fn live(&self, which: usize) -> Stream {
        let (reply, mut stream) = connect(&self.arus, &ip(self.echoes[which].address().ip()));
        assert_eq!(reply, 0);
        check_echo(&mut stream, 0);
        stream
    }

    fn shown(&self) -> Value {
        let (code, rules) = self.arus.request("GET", "/api/v1/acl/rules");
        assert_eq!(code, 200, "{rules}");
        rules
    }

    /// Waits until the file's rules are these. They are shown when every shard has them.
    fn await_rules(&self, expected: &[&str]) {
        let expected: Vec<&str> = expected.iter().copied().chain(["here"]).collect();
        eventually(&format!("the rules are {expected:?}"), || {
            let rules = self.shown();
            let labels = rules["rules"].as_array().unwrap().iter().map(|rule| rule["rule"].as_str().unwrap());
            labels.eq(expected.iter().copied()).then_some(())
        });
    }

    fn replies(&self) -> [u8; 2] {
        [self.reply(0), self.reply(1)]
    }

    /// Whatever `write` makes of the file is taken up: sessions to the echo that it closes are cut, those to the other
    /// are not.
    fn changes(&self, write: impl Fn(&str)) {
        for which in [0, 1, 0] {
            let (mut cut, mut spared) = (self.live(which), self.live(1 - which));
            let from = cut.local();
            write(&self.closed(which));
            cut.discard();
            let line = self.arus.session_of(from);
            let facts = ["state", "blame", "reason", "rule"].map(|key| line[key].as_str().unwrap_or_default());
            assert_eq!(facts, ["failed", "policy", "acl_updated", &format!("no {which}")], "{line}");
            assert_eq!((&line["bytes_up"], &line["bytes_down"]), (&json!(1000), &json!(1000)), "{line}");
            self.await_rules(&[&format!("no {which}")]);
            assert_eq!(self.replies(), if which == 0 { [2, 0] } else { [0, 2] });
            check_echo(&mut spared, 1000);
            write("# nothing\n");
            self.await_rules(&[]);
            assert_eq!(self.replies(), [0, 0]);
            check_echo(&mut spared, 2000);
        }
    }

    fn events(&self) -> Vec<Value> {
        let (code, page) = self.arus.request("GET", "/api/v1/events?category=reload");
        assert_eq!(code, 200, "{page}");
        page["data"].as_array().unwrap().clone()
    }
}

#[test]
fn a_file_written_in_place_is_taken_up() {
    let scene = Scene::new();
    scene.changes(|text| fs::write(&scene.file, text).unwrap());
}

#[test]
fn a_file_renamed_over_the_old_one_is_taken_up() {
    let scene = Scene::new();
    scene.changes(|text| {
        let new = scene.file.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, &scene.file).unwrap();
    });
}

#[test]
fn a_bad_file_is_reported_with_its_place_and_the_rules_before_stay() {
    let scene = Scene::new();
    fs::write(&scene.file, scene.closed(0)).unwrap();
    scene.await_rules(&["no 0"]);
    let mut live = scene.live(1);
    // It would close the other one, were it not for its second rule.
    let bad = format!("{}[[rule]]\naction = \"alow\"\n", scene.closed(1));
    fs::write(&scene.file, &bad).unwrap();
    let place = format!("{}:6:10: `action` cannot be `alow`", scene.file.display());
    let is_it = |text: &Value| text.as_str().is_some_and(|text| text.starts_with(&place));
    scene.arus.log.wait(DEADLINE, "the error with its place", |lines| {
        lines.iter().any(|line| is_it(&line["message"])).then_some(())
    });
    let event = eventually("the event", || scene.events().into_iter().find(|event| event["severity"] == "error"));
    assert!(event["details"]["errors"].as_array().unwrap().iter().any(is_it), "{event}");
    let refused = reload(&scene.arus).unwrap_err();
    assert!(refused.contains(&place) && refused.contains("nothing was changed"), "{refused}");
    assert_eq!(scene.replies(), [2, 0]);
    check_echo(&mut live, 1000);

    // One that is gone is no empty one.
    fs::remove_file(&scene.file).unwrap();
    let refused = reload(&scene.arus).unwrap_err();
    assert!(refused.contains(&format!("{}:1:1: cannot be read", scene.file.display())), "{refused}");
    assert_eq!(scene.replies(), [2, 0]);
    check_echo(&mut live, 2000);

    fs::write(&scene.file, scene.closed(1)).unwrap();
    scene.await_rules(&["no 1"]);
    assert_eq!(scene.replies(), [0, 2]);
    live.discard();
    eventually("the event of the reload", || {
        let is_it = |event: &Value| {
            event["severity"] == "info"
                && event["message"] == "configuration reloaded"
                && event["details"]["changes"].to_string().contains("no 1")
        };
        scene.events().iter().any(is_it).then_some(())
    });
}

#[test]
fn sessions_stay_where_they_are_not_to_be_judged_again() {
    let echo = Backend::start(behaviour::echo);
    let to = ip(echo.address().ip());
    let arus = Setup::new(format!("{LISTENER}[acl]\ndefault = \"allow\"\nreevaluate = false\n{OPEN}")).start();
    let (reply, mut live) = connect(&arus, &to);
    assert_eq!(reply, 0);
    let rules =
        fs::read_to_string(arus.config()).unwrap() + "[[acl.rule]]\naction = \"block\"\nports = [\"1-65535\"]\n";
    fs::write(arus.config(), rules).unwrap();
    reload(&arus).unwrap();
    assert_eq!(connect(&arus, &to).0, 2);
    check_echo(&mut live, 0);
}

/// What this machine is called by those who want to get round a rule.
fn spellings(port: u16) -> Vec<(String, Vec<u8>)> {
    let names = [
        "localhost",
        "LOCALHOST.",
        "127.0.0.1",
        "127.0.0.1.",
        "127.1",
        "2130706433",
        "017700000001",
        "0x7f000001",
        "0x7f.0.1",
        "::ffff:127.0.0.1",
        "[::ffff:7f00:1]",
    ];
    let addresses = ["127.0.0.1", "::ffff:127.0.0.1"];
    let named = names.iter().map(|host| (format!("name {host}"), name(host, port)));
    let numbered =
        addresses.iter().map(|text| (format!("address {text}"), ip(SocketAddr::new(text.parse().unwrap(), port))));
    named.chain(numbered).collect()
}

#[test]
fn no_spelling_of_an_address_gets_round_a_rule() {
    let echo = Backend::start(behaviour::echo);
    let port = echo.address().ip().port();
    let acl = |rules: &str| format!("{LISTENER}[acl]\ndefault = \"allow\"\n{OPEN}{rules}");
    let block = "[[acl.rule]]\naction = \"block\"\ndescription = \"not here\"\npriority = -5\ndestinations = [\"127.0.0.0/8\"]\n";
    let (open, closed) = (Setup::new(acl("")).start(), Setup::new(acl(block)).start());
    let spellings = spellings(port);
    for (what, to) in &spellings {
        let (reply, mut stream) = connect(&open, to);
        assert_eq!(reply, 0, "{what}: it leads to the echo");
        check_echo(&mut stream, 0);
    }
    let before = echo.accepted();
    for (what, to) in &spellings {
        let (reply, stream) = connect(&closed, to);
        assert_eq!(reply, 2, "{what}");
        let from = stream.local();
        drop(stream);
        let line = closed.session_of(from);
        let facts = ["state", "blame", "reason", "rule"].map(|key| line[key].as_str().unwrap_or_default());
        assert_eq!(facts, ["rejected", "policy", "acl_blocked", "not here"], "{what}: {line}");
    }
    assert_eq!(echo.accepted(), before);
}

/// What the rules say of a user by each way to ask: a connection, the API, `arus explain`.
fn answers(arus: &Arus, user: &str, to: SocketAddr) -> [(bool, Option<String>); 3] {
    let (reply, stream) = connect_as(arus, user, &ip(to));
    let from = stream.local();
    assert!([0, 2].contains(&reply), "{reply}");
    drop(stream);
    let rule = arus.session_of(from)["rule"].as_str().map(Into::into);
    let question = json!({ "user": user, "destination": to.ip(), "port": to.port(), "protocol": "tcp" });
    let (code, answer) = post(arus, &question.to_string());
    assert_eq!(code, 200, "{answer}");
    let config = arus.config().to_str().unwrap();
    let target = to.to_string();
    let output = arus_command(&[
        "explain",
        "--config",
        config,
        "--listener",
        "socks",
        "--user",
        user,
        "--to",
        &target,
        "--json",
    ]);
    let explained: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
    let said = |answer: &Value| (answer["decision"] == "allow", answer["rule"].as_str().map(Into::into));
    [(reply == 0, rule), said(&answer), said(&explained["acl"])]
}

fn post(arus: &Arus, body: &str) -> (u16, Value) {
    let (code, _, body) = ask(admin(arus), "POST", "/api/v1/acl/test", &["authorization: Bearer test"], body);
    (code, serde_json::from_str(&body).unwrap_or_else(|_| panic!("no JSON: {body}")))
}

#[test]
fn static_groups_give_one_answer_wherever_it_is_asked_for() {
    let echo = Backend::start(behaviour::echo);
    let to = echo.address().ip();
    let body = format!(
        "{LISTENER}[auth]\nmethods = [\"password\"]\n\
         [[auth.user]]\nname = \"alice\"\npassword = \"alice\"\ngroups = [\"Dev\"]\n\
         [[auth.user]]\nname = \"bob\"\npassword = \"bob\"\ngroups = [\"ops\", \"web\"]\n\
         [[auth.user]]\nname = \"eve\"\npassword = \"eve\"\n\
         [acl]\n[[acl.rule]]\naction = \"allow\"\ndescription = \"teams\"\ngroups = [\"dEV\", \"web\"]\n\
         destinations = [\"127.0.0.1\"]\n"
    );
    let arus = Setup::new(body).admin(&format!("listen = \"127.0.0.1:0\"\ntokens = [{TEST_TOKEN}]")).start();
    let check = |expected: [(&str, bool, Option<&str>); 3]| {
        for (user, is_allowed, rule) in expected {
            for answer in answers(&arus, user, to) {
                assert_eq!(answer, (is_allowed, rule.map(Into::into)), "{user}");
            }
        }
    };
    check([("alice", true, Some("teams")), ("bob", true, Some("teams")), ("eve", false, None)]);

    let mut live = ["alice", "bob"].map(|user| {
        let (reply, mut stream) = connect_as(&arus, user, &ip(to));
        assert_eq!(reply, 0);
        check_echo(&mut stream, 0);
        stream
    });
    // The rules are asked again: what a group allows is still allowed, what another one is refused is cut.
    let before = fs::read_to_string(arus.config()).unwrap();
    let block = "[[acl.rule]]\naction = \"block\"\ndescription = \"no ops\"\ngroups = [\"OPS\"]\n";
    fs::write(arus.config(), before + block).unwrap();
    reload(&arus).unwrap();
    let [alice, bob] = &mut live;
    let from = bob.local();
    bob.discard();
    let line = arus.session_of(from);
    assert_eq!(
        (&line["reason"], &line["rule"], &line["user"]),
        (&json!("acl_updated"), &json!("no ops"), &json!("bob"))
    );
    check_echo(alice, 1000);
    check([("alice", true, Some("teams")), ("bob", false, Some("no ops")), ("eve", false, None)]);
    check_echo(alice, 2000);
}

#[test]
fn rules_are_shown_with_their_hits_and_asked_by_the_api() {
    let scene = Scene::new();
    let (first, second) = (scene.port(0), scene.port(1));
    fs::write(&scene.file, scene.closed(1)).unwrap();
    scene.await_rules(&["no 1"]);
    let to = admin(&scene.arus);
    let decisions = |action: &str| -> u64 {
        let (page, name) = (get(to, "/metrics").1, format!("arus_acl_decisions_total{{action=\"{action}\"}} "));
        page.lines().find_map(|line| line.strip_prefix(&name)).expect("the metric").parse().unwrap()
    };
    let shown = scene.shown();
    assert_eq!(shown["default"], "allow");
    let facts: Vec<[Value; 5]> = shown["rules"]
        .as_array()
        .unwrap()
        .iter()
        .map(|rule| ["rule", "file", "line", "action", "priority"].map(|key| rule[key].clone()))
        .collect();
    let main = fs::read_to_string(scene.arus.config()).unwrap();
    let line = 1 + main.lines().position(|line| line == "[[acl.rule]]").unwrap();
    assert_eq!(
        facts,
        [
            [json!("no 1"), json!(scene.file), json!(1), json!("block"), json!(100)],
            [json!("here"), json!(scene.arus.config()), json!(line), json!("allow"), json!(100)],
        ]
    );
    assert_eq!(shown["rules"][0]["ports"], json!([second.to_string()]));

    // Decisions of live traffic count, whatever made them; questions do not.
    let before = (decisions("allow"), decisions("block"));
    let test = |question: Value| post(&scene.arus, &question.to_string());
    let answer = |decision, rule, file, line, because| json!({ "decision": decision, "rule": rule, "file": file, "line": line, "because": because });
    for (question, expected) in [
        (
            json!({ "destination": "LOCALHOST.", "port": second }),
            answer("block", json!("no 1"), json!(scene.file), json!(1), Value::Null),
        ),
        (
            json!({ "user": "x", "groups": ["y"], "source": "10.0.0.1", "destination": "0x7f.1", "port": first, "protocol": "tcp" }),
            answer("allow", json!("here"), json!(scene.arus.config()), json!(line), Value::Null),
        ),
        (
            json!({ "destination": "192.0.2.1", "port": 80, "protocol": "udp" }),
            answer("allow", Value::Null, Value::Null, Value::Null, json!("default")),
        ),
        (
            json!({ "destination": "169.254.169.254", "port": 80 }),
            answer("block", Value::Null, Value::Null, Value::Null, json!("reserved destination")),
        ),
    ] {
        assert_eq!(test(question.clone()), (200, expected), "{question}");
    }
    for (question, part) in [
        (json!({ "destination": "a..b", "port": 1 }), "`destination` is no host"),
        (json!({ "destination": "a", "port": 1, "protocol": "icmp" }), "neither tcp nor udp"),
        (json!({ "destination": "a", "port": 65536 }), "port"),
        (json!({ "destination": "a", "port": 1, "users": "x" }), "users"),
        (json!({ "port": 1 }), "destination"),
    ] {
        let (code, problem) = test(question.clone());
        assert!(code == 400 && problem.to_string().contains(part), "{question}: {code} {problem}");
    }
    assert_eq!((decisions("allow"), decisions("block")), before);
    let hits = |rule: usize| scene.shown()["rules"][rule]["hits"].as_u64().unwrap();
    let hits_before = [hits(0), hits(1)];
    assert_eq!([scene.reply(0), scene.reply(0), scene.reply(1)], [0, 0, 2]);
    // Blocked by default as what it is.
    assert_eq!(connect(&scene.arus, &ip("169.254.169.254:80".parse().unwrap())).0, 2);
    assert_eq!([hits(0), hits(1)], [hits_before[0] + 1, hits_before[1] + 2]);
    assert_eq!((decisions("allow"), decisions("block")), (before.0 + 2, before.1 + 2));
    // A rule that says the same keeps its hits wherever it stands.
    let now = hits(0);
    fs::write(&scene.file, format!("\n\n{}", scene.closed(1))).unwrap();
    eventually("the new place", || (scene.shown()["rules"][0]["line"] == 3).then_some(()));
    assert_eq!(hits(0), now);
}
