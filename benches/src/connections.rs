//! `memory_per_connection`: what an idle TCP connection costs the node, as the slope of its resident
//! memory from a tenth of the connections to all of them.
//!
//! The node is a process of its own that holds nothing else: what a bench before it left free would
//! hold the connections, and nothing would be seen. It measures itself when this side, which holds
//! the other ends, says how many there are. Each side has its own files, so that the node is filled
//! up to its file limit.

use std::error::Error;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;

use crate::memory::resident_bytes;
use crate::udp::{Node, registration, template};

const CHILD: &str = "connections-node";

/// The part of this program that the bench starts as a process: the node. `None` when the arguments
/// name another.
///
/// # Errors
/// What stopped it.
pub fn child(args: &[String]) -> Option<Result<(), Box<dyn Error>>> {
    match args {
        [name, connections, folder] if name == CHILD => {
            let connections = connections.parse::<u32>().map_err(Box::<dyn Error>::from);
            Some(connections.and_then(|most| Ok(serve(most, Path::new(folder))?)))
        }
        _ => None,
    }
}

/// Says where it listens; then, for each count on standard input, its resident memory as soon as it
/// holds so many connections.
fn serve(connections: u32, folder: &Path) -> io::Result<()> {
    let node = Node::start(1, vec![registration(1, template())], connections, folder)?;
    let mut out = io::stdout();
    writeln!(out, "{}", node.tcp)?;
    for line in io::stdin().lines() {
        let count: u32 = line?.trim().parse().map_err(io::Error::other)?;
        while node.connections() < count {
            thread::yield_now();
        }
        writeln!(out, "{}", resident_bytes()?)?;
    }
    node.stop();
    Ok(())
}

/// Bytes of user memory for each idle connection, up to `connections` of them; the node's log is in
/// `folder`, which must not exist.
///
/// # Errors
/// What sockets, files and the process say.
pub fn memory(connections: u32, folder: &Path) -> io::Result<f64> {
    let mut node = Process::start(connections, folder)?;
    let address: SocketAddr = node.said()?.parse().map_err(io::Error::other)?;
    let mut open = Vec::new();
    let mut resident = Vec::new();
    let steps = [connections / 10, connections];
    for step in steps {
        while open.len() < usize::try_from(step).expect("a count fits") {
            open.push(TcpStream::connect(address)?);
        }
        writeln!(node.asked, "{step}")?;
        resident.push(node.said()?.parse::<u64>().map_err(io::Error::other)?);
    }
    drop(node);
    std::fs::remove_dir_all(folder)?;
    let grown = resident[1].saturating_sub(resident[0]);
    Ok(grown as f64 / f64::from(steps[1] - steps[0]))
}

/// The node's process; it ends with its standard input.
struct Process {
    child: Child,
    asked: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Process {
    fn start(connections: u32, folder: &Path) -> io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([CHILD, &connections.to_string()])
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let asked = child.stdin.take().expect("it is piped");
        let answers = BufReader::new(child.stdout.take().expect("it is piped"));
        Ok(Self { child, asked, answers })
    }

    fn said(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.answers.read_line(&mut line)? {
            0 => Err(io::Error::other("the node of memory_per_connection ended")),
            _ => Ok(line.trim().to_owned()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only when it has ended.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
