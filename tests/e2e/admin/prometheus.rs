//! A real Prometheus scrapes arus; every query of the Grafana dashboard and of the alerts is asked of it.

use std::path::Path;
use std::process::Command;

use super::*;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Panels whose queries must have an answer after some traffic: their titles.
const WITH_DATA: &[&str] = &[
    "Connections",
    "New connections",
    "Failed",
    "Backends out of use",
    "Busiest shard",
    "Configuration",
    "Throughput",
    "Open connections by listener",
    "Connect",
    "First byte",
    "Backend up",
    "Connects",
    "Busy",
    "Connections by shard",
    "Free buffers",
    "Lost",
    "Handshakes",
    "Certificates end in",
    "CPU",
    "Memory",
    "Descriptors",
    "Reloads",
];

struct Prometheus {
    _program: Program,
    address: SocketAddr,
}

impl Prometheus {
    fn scraping(target: SocketAddr, directory: &Path) -> Self {
        let config = directory.join("prometheus.yml");
        std::fs::write(
            &config,
            format!(
                "global: {{ scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 1s }}\n\
                 rule_files: [\"{ROOT}/scripts/grafana/alerts.yml\"]\n\
                 scrape_configs:\n\
                 - job_name: arus\n  authorization: {{ credentials: test }}\n  \
                 static_configs: [{{ targets: [\"{target}\"] }}]\n"
            ),
        )
        .unwrap();
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", directory.join("tsdb").display()))
            .args(["--web.listen-address=127.0.0.1:0", "--log.format=logfmt", "--storage.tsdb.retention.time=1h"]);
        let program = Program::start(command);
        let address = program.wait("the address of Prometheus", |text| {
            let line = text.lines().find(|line| line.contains("msg=\"Listening on\""))?;
            line.split("address=").nth(1)?.split_whitespace().next()?.parse().ok()
        });
        program.wait_for("Server is ready to receive web requests");
        Self { _program: program, address }
    }

    fn ask(&self, path: &str) -> Value {
        let (code, _, body) = ask(self.address, "GET", path, &[], "");
        let body = body.find('{').map(|at| &body[at..=body.rfind('}').unwrap()]).unwrap_or(&body);
        // Long answers come in chunks, whose lengths stand between them.
        let joined: String = body.split("\r\n").filter(|part| !part.chars().all(|c| c.is_ascii_hexdigit())).collect();
        let answer = serde_json::from_str(&joined).unwrap_or_else(|error| panic!("{path}: {error}: {body}"));
        assert_eq!(code, 200, "{path}: {answer}");
        answer
    }

    /// The samples that a query finds.
    fn query(&self, query: &str) -> Vec<Value> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = self.ask(&format!("/api/v1/query?query={encoded}"));
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().unwrap().clone()
    }
}

fn is_there(program: &str) {
    let found = Command::new(program).arg("--version").output();
    assert!(found.is_ok(), "there is no {program}: scripts/install-deps.sh installs it");
}

#[test]
fn every_query_of_dashboard_and_alerts_is_answered() {
    is_there("prometheus");
    let checked = Command::new("promtool")
        .args(["check", "rules"])
        .arg(format!("{ROOT}/scripts/grafana/alerts.yml"))
        .output()
        .unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));

    let backend = Backend::start(behaviour::echo);
    let arus = Setup::one("127.0.0.1:0", &[&backend])
        .also(
            "[[listener]]\nname = \"secure\"\nlisten = \"127.0.0.1:0\"\nupstream = \"app\"\n\
             tls = { self_signed = [\"localhost\"] }",
        )
        .admin(&format!("listen = \"127.0.0.1:0\"\nprotect_metrics = true\ntokens = [{TEST_TOKEN}]"))
        .start();
    let prometheus = Prometheus::scraping(address(&arus), arus.directory());
    let traffic = || {
        let mut client = Stream::connect(&arus.address("web"));
        client.send(1, 0, 5000);
        client.expect(1, 0, 5000);
        let Address::Ip(secure) = arus.address("secure") else { unreachable!() };
        let _ =
            Command::new("curl").args(["-sk", "--max-time", "2"]).arg(format!("https://{secure}/")).output().unwrap();
        // Not TLS: a handshake that fails.
        let _ = std::net::TcpStream::connect(secure).unwrap().write_all(b"nonsense\r\n\r\n");
    };
    let up = || prometheus.query("up{job=\"arus\"}").iter().any(|sample| sample["value"][1] == "1");
    eventually("Prometheus has read arus", || up().then_some(()));
    // Rates need two readings with something in between.
    eventually("rates", || {
        traffic();
        let rate = prometheus.query("sum(rate(arus_connections_total[20s])) > 0");
        let handshakes = prometheus.query("sum(rate(arus_tls_handshakes_total[20s])) > 0");
        let latencies = prometheus.query("sum(rate(arus_stage_duration_seconds_count{stage=\"first_byte\"}[20s])) > 0");
        (!rate.is_empty() && !handshakes.is_empty() && !latencies.is_empty()).then_some(())
    });

    let dashboard = std::fs::read_to_string(format!("{ROOT}/scripts/grafana/arus-dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let (mut asked, mut with_data) = (0, 0);
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        let mut samples = 0;
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().unwrap();
            let query = query.replace("$__rate_interval", "20s").replace("$instance", ".*").replace("$job", ".*");
            samples += prometheus.query(&query).len();
            asked += 1;
        }
        if WITH_DATA.contains(&title) {
            with_data += 1;
            assert!(samples > 0, "the panel `{title}` shows nothing");
        }
    }
    assert!(asked > 30 && with_data == WITH_DATA.len(), "{asked} queries, {with_data} panels");

    // Prometheus itself asks the alerts.
    let rules = eventually("the alerts were evaluated", || {
        let rules = prometheus.ask("/api/v1/rules")["data"]["groups"][0]["rules"].as_array().unwrap().clone();
        rules.iter().all(|rule| rule["health"] != "unknown").then_some(rules)
    });
    assert!(rules.len() > 10);
    for rule in &rules {
        assert_eq!(rule["health"], "ok", "{rule}");
        // The certificate of a test lasts; nothing is down.
        assert_eq!(rule["state"], "inactive", "{rule}");
    }
    let targets = prometheus.ask("/api/v1/targets?state=active");
    assert_eq!(targets["data"]["activeTargets"][0]["lastError"], "", "{targets}");
}
