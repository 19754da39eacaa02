//! The dashboard in a real browser (Playwright with Debian's chromium), before a real arus under load. What the browser
//! does and sees is in `dashboard/browser.mjs`; what happens to arus meanwhile is here.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;

use crate::harness::*;

const PLAYWRIGHT: &str = "playwright-core@1.65.1";

/// Where Playwright is, and the browser; `None`, and why, where they cannot be had.
fn tools() -> Result<(PathBuf, PathBuf), String> {
    let on_path = |name: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file())
    };
    let chromium = ["chromium", "chromium-browser", "google-chrome"].into_iter().find_map(on_path);
    let chromium = chromium.ok_or("there is no chromium (scripts/install-deps.sh installs it)")?;
    let npm = on_path("npm").ok_or("there is no npm")?;
    let modules = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dashboard");
    if !modules.join("node_modules/playwright-core/package.json").is_file() {
        std::fs::create_dir_all(&modules).unwrap();
        let mut install = Command::new(npm);
        install
            .args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"])
            .arg(&modules)
            .arg(PLAYWRIGHT);
        let output = install.output().map_err(|error| format!("npm cannot be started: {error}"))?;
        if !output.status.success() {
            return Err(format!("{PLAYWRIGHT} cannot be had: {}", String::from_utf8_lossy(&output.stderr)));
        }
    }
    Ok((modules, chromium))
}

/// Clients that ask and go, one after the other, until it is dropped.
struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn begin(address: &Address) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |number: u64| {
            let (stop, address) = (Arc::clone(&stop), address.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let Ok(mut stream) = Stream::try_connect(&address) else { continue };
                    // arus may be stopped, or its backend down, in the middle of it.
                    let _ = stream.try_write_all(&pattern(number, 0, 20_000));
                    let _ = stream.read_some(&mut [0; 65536]);
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
            })
        };
        let threads = (0..4).map(client).collect();
        Self { stop, threads }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

#[test]
fn works_in_a_browser() {
    let (modules, chromium) = match tools() {
        Ok(tools) => tools,
        Err(why) => {
            eprintln!("skipped: the dashboard was not tested in a browser: {why}");
            return;
        }
    };
    let (echo, flood, closed) =
        (Backend::start(behaviour::echo), Backend::start(behaviour::source(1 << 40)), Closed::new());
    let body = format!(
        "\
         [[upstream]]\nname = \"app\"\nbackends = [\"{}\"]\n\
         [[upstream]]\nname = \"flood\"\nbackends = [\"{}\"]\n\
         [[upstream]]\nname = \"gone\"\nbackends = [\"{}\"]\noutlier = {{ failures = 2, eject = \"60s\" }}\nretries = 0\n\
         [[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nupstream = \"app\"\n\
         [[listener]]\nname = \"flood\"\nlisten = \"127.0.0.1:0\"\nupstream = \"flood\"\n\
         [[listener]]\nname = \"gone\"\nlisten = \"127.0.0.1:0\"\nupstream = \"gone\"\n\
         [[acl.rule]]\naction = \"allow\"\ndescription = \"to the web\"\ndestinations = [\"*.example.com\"]\nports = [\"443\"]\n",
        echo.address(),
        flood.address(),
        closed.address()
    );
    let arus = Setup::new(body).log("format = \"json\"\naccess = \"off\"").admin("listen = \"127.0.0.1:0\"").start();
    let base = arus.log.wait(DEADLINE, "the address of the dashboard", |lines| {
        let line = lines.iter().find(|line| line["message"] == "admin API listening")?;
        Some(line["url"].as_str().unwrap().trim_end_matches('/').to_owned())
    });
    let token = std::fs::read_to_string(arus.directory().join("state/admin.token")).unwrap();
    let _load = Load::begin(&arus.address("web"));
    // Who stops reading is who is killed later.
    let mut victim = Some(Stream::connect(&arus.address("flood")));
    victim.as_mut().unwrap().read_exactly(1000);

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/dashboard/browser.mjs");
    let mut command = Command::new("node");
    command.arg(script).arg(&modules).args([&base, token.trim()]).arg(&modules).env("CHROMIUM", chromium);
    let mut browser = Program::start(command);
    let config = std::fs::read_to_string(arus.config()).unwrap();
    let mut seen = 0;
    loop {
        let order = browser.wait("order", |text| {
            let mut lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            let ended = text.contains("all is well\n") || text.contains("problems:\n");
            lines
                .by_ref()
                .filter_map(|line| line.strip_prefix("do "))
                .nth(seen)
                .map(|word| Some(word.trim().to_owned()))
                .or(ended.then_some(None))
        });
        let Some(order) = order else { break };
        seen += 1;
        let answer = match order.as_str() {
            "backend-down" => {
                for _ in 0..4 {
                    Stream::connect(&arus.address("gone")).end();
                }
                "done".to_owned()
            }
            "victim" => victim.as_ref().unwrap().local().to_string(),
            "is-victim-cut" => match victim.take().unwrap().discard().1 {
                End::Reset => "yes".into(),
                other => format!("{other:?}"),
            },
            "break-config" => {
                let broken = config
                    .replacen("listen = \"127.0.0.1:0\"\nupstream", "listen = \"127.0.0.1:x\"\nupstream", 1)
                    .replace("retries = 0", "retriess = 0");
                std::fs::write(arus.config(), broken).unwrap();
                "done".into()
            }
            "mend-config" => {
                std::fs::write(arus.config(), &config).unwrap();
                "done".into()
            }
            "stop" => {
                arus.signal(Signal::SIGSTOP);
                "done".into()
            }
            "go-on" => {
                arus.signal(Signal::SIGCONT);
                "done".into()
            }
            other => panic!("the browser asks for {other:?}"),
        };
        browser.say(format!("{answer}\n").as_bytes());
    }
    let ended = browser.wait_exit();
    assert!(ended.success(), "{}", browser.printed());
}
