//! Reloads that move the admin API or change who may use it.

use super::*;

fn rewrite(arus: &Arus, from: &str, to: &str) {
    let text = std::fs::read_to_string(arus.config()).unwrap();
    assert!(text.contains(from), "{from} is not in {text}");
    std::fs::write(arus.config(), text.replace(from, to)).unwrap();
}

#[test]
fn tokens_come_and_go_with_reloads() {
    let (arus, _backend) = start(&format!("tokens = [{TEST_TOKEN}]"));
    let to = address(&arus);
    assert_eq!(get(to, "/api/v1/status").0, 200);
    rewrite(&arus, "9f86d081", "00000000");
    assert!(arus.command(&["reload"]).1);
    assert_eq!(get(to, "/api/v1/status").0, 401);
    rewrite(&arus, "sha256:00000000", "sha256:9f86d081");
    rewrite(&arus, "\"write\"", "\"read\"");
    assert!(arus.command(&["reload"]).1);
    assert_eq!(get(to, "/api/v1/status").0, 200);
    assert_eq!(ask(to, "POST", "/api/v1/reload", &["authorization: Bearer test"], "").0, 403);
    assert_eq!(address(&arus), to, "it stayed where it was");
}

#[test]
fn the_api_moves_and_a_refused_move_changes_nothing() {
    let (arus, _backend) = start(&format!("tokens = [{TEST_TOKEN}]"));
    let first = address(&arus);
    // To every address, on the same port.
    rewrite(&arus, "listen = \"127.0.0.1:0\"\ntokens", &format!("listen = \"127.0.0.2:{}\"\ntokens", first.port()));
    assert!(arus.command(&["reload"]).1);
    let second = address(&arus);
    assert_eq!(second.to_string(), format!("127.0.0.2:{}", first.port()));
    assert_eq!(get(second, "/api/v1/status").0, 200);
    eventually("the old address is closed", || TcpStream::connect(first).is_err().then_some(()));
    rewrite(&arus, &format!("127.0.0.2:{}", first.port()), &format!("0.0.0.0:{}", first.port()));
    assert!(arus.command(&["reload"]).1);
    assert_eq!(address(&arus).to_string(), format!("0.0.0.0:{}", first.port()));
    assert_eq!(get(first, "/api/v1/status").0, 200);

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    rewrite(&arus, &format!("0.0.0.0:{}", first.port()), &taken.local_addr().unwrap().to_string());
    let (said, ok) = arus.command(&["reload"]);
    assert!(!ok && said.contains("[admin] listen") && said.contains("cannot be bound"), "{said}");
    assert_eq!(get(first, "/api/v1/status").0, 200);
    rewrite(&arus, &taken.local_addr().unwrap().to_string(), "off");
    assert!(arus.command(&["reload"]).1);
    eventually("the API is closed", || TcpStream::connect(first).is_err().then_some(()));
    assert_eq!(arus.status()["listeners"][0]["name"], "web", "the control socket is there all the same");
}

#[test]
fn a_reload_over_the_api_says_every_error() {
    let (arus, _backend) = start(&format!("tokens = [{TEST_TOKEN}]"));
    let to = address(&arus);
    let reload = || ask(to, "POST", "/api/v1/reload", &["authorization: Bearer test"], "");
    let (code, _, body) = reload();
    assert_eq!((code, body.as_str()), (200, "{\"generation\":2}"));
    rewrite(&arus, "upstream = \"app\"", "upstream = \"app\"\nretries = 1\nbacklog = -1");
    let (code, _, body) = reload();
    let errors: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code, errors["errors"].as_array().unwrap().len()), (400, 2), "{body}");
    let (code, _, body) = ask(to, "GET", "/metrics", &[], "");
    assert_eq!(code, 200);
    assert!(body.contains("arus_reloads_total{result=\"ok\"} 1\n"), "{body}");
    // The watch may have tried the file as well.
    assert!(
        !body.contains("arus_reloads_total{result=\"refused\"} 0\n") && body.contains("arus_config_generation 2\n")
    );
}
