//! `[acl]` and its file.

use super::*;
use crate::policy::acl::Action;

const LISTENER: &str = "[[listener]]\nname = \"a\"\nlisten = \"127.0.0.1:1\"\nservice = \"socks5\"\n";

#[test]
fn every_error_of_a_rule_comes_out() {
    let text = format!(
        "{LISTENER}[acl]\ndefault = \"deny\"\n[[acl.rule]]\naction = \"pass\"\npriority = 5000000000\nusers = []\n\
         sources = [\"10.0.0.0/33\"]\ndestinations = [\"a b\", \"10.0.0.1:80\", \"*..x\", \"127.1\"]\nports = [\"80-79\", 65536, \"a\"]\n\
         protocols = [\"icmp\"]\nlisteners = [\"b\"]\n[[acl.rule]]\ndestination = [\"x\"]\n"
    );
    let errors = read(&text).unwrap_err().to_string();
    let places: Vec<String> = errors.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(
        places,
        [
            "f:6:11:", "f:8:10:", "f:9:12:", "f:10:9:", "f:11:12:", "f:12:17:", "f:12:24:", "f:12:39:", "f:12:47:",
            "f:13:10:", "f:13:19:", "f:13:26:", "f:14:14:", "f:15:14:", "f:16:1:", "f:17:1:"
        ],
        "{errors}"
    );
}

#[test]
fn rules_of_the_file_come_last_and_its_errors_have_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let load = || load(&Source::File(at("proxy.toml")), &environment());
    let main =
        format!("{LISTENER}[acl]\nfile = \"acl.toml\"\n[[acl.rule]]\naction = \"block\"\nports = [25, \"80,90-91\"]\n");
    std::fs::write(at("proxy.toml"), &main).unwrap();
    std::fs::write(at("acl.toml"), "[[rule]]\naction = \"allow\"\ndestinations = [\"*\"]\nlisteners = [\"a\"]\n")
        .unwrap();
    let plan = load().unwrap().plan;
    let rules: Vec<(Action, u32)> = plan.acl.rules.iter().map(|rule| (rule.action, rule.line)).collect();
    assert_eq!(rules, [(Action::Block, 7), (Action::Allow, 1)]);
    assert_eq!(plan.acl.rules[0].conditions.ports, Some(vec![25..=25, 80..=80, 90..=91]));
    let name = at("acl.toml").display().to_string();
    assert_eq!(*plan.acl.rules[1].file, name);

    std::fs::write(at("acl.toml"), "[[rule]]\n\naction = \"alow\"\n[other]\n").unwrap();
    std::fs::write(at("proxy.toml"), main.replace("\"block\"", "\"x\"")).unwrap();
    let errors = load().unwrap_err().to_string();
    let found = |part: &str| assert!(errors.contains(part), "{part} is not in:\n{errors}");
    found("proxy.toml:8:10: `action` cannot be `x`");
    found(&format!("{name}:3:10: `action` cannot be `alow` (did you mean `allow`?"));
    found(&format!("{name}:4:2: unknown table `other`"));
    std::fs::remove_file(at("acl.toml")).unwrap();
    assert!(load().unwrap_err().to_string().contains(&format!("{name}:1:1: cannot be read")));
}
