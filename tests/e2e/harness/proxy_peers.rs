//! Who sends and receives PROXY headers besides arus: HAProxy, nginx, and a backend that shows what it got.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex};

use serde_json::Value;
use tempfile::TempDir;

use super::program::Inherited;
use super::proxy_header::ProxyHeader;
use super::{Address, Backend, DEADLINE, Program, Stream, behaviour};

/// Debian's place for modules that are loaded.
const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// HAProxy in TCP mode, from a port of the kernel's choice to one server.
pub(crate) struct Haproxy {
    pub(crate) program: Program,
    address: Address,
    _directory: TempDir,
}

impl Haproxy {
    /// `bind` and `server` are further words of these lines, as `accept-proxy` and `send-proxy-v2`.
    pub(crate) fn start(bind: &str, to: &Address, server: &str) -> Self {
        Self::listening("127.0.0.1:0", bind, to, server)
    }

    /// As [`Haproxy::start`], with an address to listen on.
    pub(crate) fn listening(listen: &str, bind: &str, to: &Address, server: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("arus-haproxy-").tempdir().unwrap();
        let socket = Inherited::listen(listen);
        let address = socket.address();
        let to = match to {
            Address::Ip(address) => address.to_string(),
            Address::Unix(path) => format!("unix@{}", path.display()),
        };
        // One line of the log for each connection that has ended.
        let fields = [
            ("source", "%ci:%cp"),
            ("destination", "%fi:%fp"),
            ("authority", "%[fc_pp_authority]"),
            ("unique_id", "%[fc_pp_unique_id]"),
            ("proxied", "%[fc_rcvd_proxy]"),
            ("own_id", "%ID"),
            ("end", "%ts"),
            ("bytes_down", "%B"),
        ];
        let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\":\"{value}\"")).collect();
        let config = format!(
            "global\n  log stdout format raw local0\n  ssl-default-bind-options ssl-min-ver TLSv1.2\n\
             defaults\n  mode tcp\n  log global\n  log-format '{{{}}}'\n  timeout connect 50s\n  timeout client 50s\n  \
             timeout server 50s\n\
             frontend f\n  bind fd@{} {bind}\n  unique-id-format %[uuid()]\n  default_backend b\n\
             backend b\n  server s {to} {server}\n",
            fields.join(","),
            socket.number(),
        );
        let file = directory.path().join("haproxy.cfg");
        fs::write(&file, config).unwrap();
        let mut command = Command::new("/usr/sbin/haproxy");
        command.arg("-db").arg("-f").arg(file);
        Self { program: socket.give_to(command), address, _directory: directory }
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Waits until so many connections have ended; gives the log's line of each: source, destination, authority,
    /// unique_id (those of a header that came, or empty), own_id, end.
    pub(crate) fn finished(&self, count: usize) -> Vec<Value> {
        self.program.wait_lines(count)
    }
}

/// nginx with one server on a port of the kernel's choice.
pub(crate) struct Nginx {
    pub(crate) program: Program,
    address: Address,
    _directory: TempDir,
}

impl Nginx {
    /// A server of HTTP; `{listen}` in its configuration becomes the address.
    pub(crate) fn http(server: &str) -> Self {
        let ways: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|kind| format!("{kind}_temp_path {{dir}}/{kind};\n"))
            .collect();
        Self::start("", &format!("http {{\naccess_log off;\n{ways}\nserver {{\n{server}\n}}\n}}"))
    }

    /// Answers every request with what its PROXY header said: `SOURCE PORT DESTINATION PORT`.
    pub(crate) fn mirror() -> Self {
        Self::http(
            "listen {listen} proxy_protocol;\nlocation / { return 200 \"$proxy_protocol_addr $proxy_protocol_port \
             $proxy_protocol_server_addr $proxy_protocol_server_port\"; }",
        )
    }

    /// A relay of TCP; `None` (said) where nginx has no stream module. `keys` are further lines, as
    /// `proxy_protocol on;`.
    pub(crate) fn stream(to: &Address, listen: &str, keys: &str) -> Option<Self> {
        if !Path::new(NGINX_STREAM).exists() {
            eprintln!("skipped: nginx has no stream module");
            return None;
        }
        let to = to.to_string();
        let server = format!("stream {{\nserver {{\nlisten {{listen}} {listen};\nproxy_pass {to};\n{keys}\n}}\n}}");
        Some(Self::start(&format!("load_module {NGINX_STREAM};\n"), &server))
    }

    fn start(before: &str, servers: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("arus-nginx-").tempdir().unwrap();
        let socket = Inherited::listen("127.0.0.1:0");
        let address = socket.address();
        let user = if nix::unistd::geteuid().is_root() { "user root;\n" } else { "" };
        // With `master_process off` it falls over sockets that it inherits.
        let config = format!(
            "{before}daemon off;\nworker_processes 1;\n{user}pid {{dir}}/nginx.pid;\nerror_log stderr;\nevents {{}}\n\
             {servers}\n"
        );
        let own = directory.path().to_str().unwrap();
        let config = config.replace("{dir}", own).replace("{listen}", &address.to_string());
        let file = directory.path().join("nginx.conf");
        fs::write(&file, config).unwrap();
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-p").arg(own).args(["-e", "stderr"]).arg("-c").arg(file);
        // How nginx hands its sockets to a new nginx; it takes those whose address is in its configuration.
        command.env("NGINX", format!("{};", socket.number()));
        Self { program: socket.give_to(command), address, _directory: directory }
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }
}

/// A backend that keeps the PROXY header each connection begins with, and echoes what comes after it.
pub(crate) struct Recording {
    backend: Backend,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    headers: Mutex<Vec<ProxyHeader>>,
    changed: Condvar,
}

impl Recording {
    pub(crate) fn start() -> Self {
        Self::listen(&Address::parse("127.0.0.1:0"))
    }

    pub(crate) fn listen(address: &Address) -> Self {
        Self::before(address, behaviour::echo)
    }

    /// What comes after the header is another behaviour's, as [`super::TlsServer::echo`].
    pub(crate) fn before(address: &Address, behaviour: impl super::backend::Behaviour) -> Self {
        let seen = Arc::new(Seen::default());
        let headers = Arc::clone(&seen);
        let serve = move |mut stream: Stream, number: usize| {
            let Some(header) = ProxyHeader::read(&mut stream) else { return };
            let first = (header.version == 0).then(|| header.bytes.clone());
            headers.headers.lock().unwrap().push(header);
            headers.changed.notify_all();
            // Without a header, the byte that was looked at belongs to the echo.
            if first.is_none_or(|bytes| stream.try_write_all(&bytes).is_ok()) {
                behaviour(stream, number);
            }
        };
        Self { backend: Backend::listen(address, serve), seen }
    }

    pub(crate) fn address(&self) -> &Address {
        self.backend.address()
    }

    /// Waits until so many connections have begun; gives what each began with, in the order in which that was complete.
    pub(crate) fn headers(&self, count: usize) -> Vec<ProxyHeader> {
        let headers = self.seen.headers.lock().unwrap();
        let missing = |headers: &mut Vec<ProxyHeader>| headers.len() < count;
        let (headers, _) = self.seen.changed.wait_timeout_while(headers, DEADLINE, missing).unwrap();
        let headers = headers.clone();
        assert!(headers.len() >= count, "{} of {count} connections have begun", headers.len());
        headers
    }
}
