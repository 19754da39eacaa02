//! schemathesis asks the API what its own description allows, and much that it does not. It comes from PyPI; where that
//! cannot be reached the test says so and does nothing.

use std::path::PathBuf;
use std::process::Command;

use super::*;

const PACKAGE: &str = "schemathesis==4.32.5";

/// The program, installed once for all runs; `None` where it cannot be had.
fn schemathesis() -> Option<PathBuf> {
    let home = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("schemathesis");
    let program = home.join("bin/schemathesis");
    let works = || Command::new(&program).arg("--version").output().is_ok_and(|output| output.status.success());
    if works() {
        return Some(program);
    }
    let mut steps = [Command::new("python3"), Command::new(home.join("bin/pip"))];
    steps[0].args(["-m", "venv"]).arg(&home);
    steps[1].args(["install", "--quiet", "--disable-pip-version-check", "--timeout", "10", "--retries", "1", PACKAGE]);
    for step in &mut steps {
        match step.output() {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                eprintln!("skipped: {step:?}: {}", String::from_utf8_lossy(&output.stderr));
                return None;
            }
            Err(error) => {
                eprintln!("skipped: {step:?}: {error}");
                return None;
            }
        }
    }
    works().then_some(program)
}

#[test]
fn the_api_is_what_it_says_it_is() {
    let Some(program) = schemathesis() else { return };
    let (arus, _backend) = start(&format!("tokens = [{TEST_TOKEN}]"));
    let to = address(&arus);
    let mut command = Command::new(program);
    command.arg("run").arg(format!("http://{to}/openapi.json")).args([
        "--header=Authorization: Bearer test",
        "--phases=examples,coverage,fuzzing",
        "--max-examples=15",
        "--seed=1",
        "--workers=1",
        "--request-timeout=20",
        "--no-color",
        // It would end the run.
        "--exclude-path=/api/v1/drain",
        "--checks=not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,\
         response_schema_conformance,negative_data_rejection,unsupported_method,ignored_auth",
    ]);
    command.current_dir(arus.directory());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(get(to, "/api/v1/status").0, 200);
}
