//! The openssl program as a TLS client and as a TLS server.

use std::path::Path;
use std::process::Command;

use super::tls_certs::Pair;
use super::{Address, Program};

/// `openssl s_client`, connected or trying to. What [`Program::say`] writes goes to the server; a line of it must not
/// begin with Q or R, which are commands. It prints the server's certificate, the session and what the server sends.
pub(crate) fn s_client(address: &Address, arguments: &[&str]) -> Program {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &address.to_string()]).args(arguments);
    Program::start(command)
}

/// What `openssl s_client` prints of a handshake, and whether it ended well.
pub(crate) fn handshake(address: &Address, arguments: &[&str]) -> (String, bool) {
    let mut client = s_client(address, arguments);
    client.say_no_more();
    let status = client.wait_exit();
    (client.printed(), status.success())
}

/// One exchange with a server that answers lines, after which the session lies in `session`; gives what was printed.
/// `arguments` choose the version and, with `-sess_in`, an earlier session.
pub(crate) fn exchange(address: &Address, arguments: &[&str], line: &str, answer: &str, session: &Path) -> String {
    let mut client = s_client(address, &[arguments, &["-sess_out", session.to_str().unwrap()]].concat());
    client.say(format!("{line}\n").as_bytes());
    client.wait_for(answer);
    client.say_no_more();
    client.wait_exit();
    client.printed()
}

/// `openssl s_server -rev`: sends each line back reversed, and says who connected with what. It serves one connection
/// after another.
pub(crate) struct SServer {
    pub(crate) program: Program,
    address: Address,
}

impl SServer {
    pub(crate) fn start(own: &Pair, arguments: &[&str]) -> Self {
        let mut command = Command::new("openssl");
        command.args(["s_server", "-rev", "-accept", "127.0.0.1:0"]);
        command.arg("-cert").arg(&own.cert).arg("-key").arg(&own.key).args(arguments);
        let program = Program::start(command);
        let address = program.wait("ACCEPT", |text| {
            let (line, _) = text.split_once("ACCEPT ")?.1.split_once('\n')?;
            Some(Address::parse(line))
        });
        Self { program, address }
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }
}
