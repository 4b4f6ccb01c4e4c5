//! A proxy between the sink and ClickHouse that can be slow, not there, or blot out a word.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How it behaves, from one piece of data to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Pass,
    /// Each piece waits.
    Slow(Duration),
    /// Connections break off.
    Away,
    /// Every copy of this word is made unreadable, such as a password.
    Blot(String),
}

pub(crate) struct Proxy {
    pub(crate) url: String,
    mood: watch::Sender<Mood>,
}

impl Proxy {
    pub(crate) async fn start(server: &str) -> Self {
        let server: SocketAddr = server.trim_start_matches("http://").parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (mood, following) = watch::channel(Mood::Pass);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, server, following.clone()));
            }
        });
        Self { url, mood }
    }

    pub(crate) fn be(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }
}

async fn serve(client: TcpStream, server: SocketAddr, mood: watch::Receiver<Mood>) {
    if *mood.borrow() == Mood::Away {
        return;
    }
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = carry(from_client, to_server, mood.clone()) => {}
        () = carry(from_server, to_client, mood) => {}
    }
}

async fn carry(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut mood: watch::Receiver<Mood>,
) {
    let mut piece = vec![0; 16 << 10];
    loop {
        let read = tokio::select! {
            read = from.read(&mut piece) => read,
            _ = mood.wait_for(|mood| *mood == Mood::Away) => return,
        };
        let Ok(count @ 1..) = read else { return };
        let now = mood.borrow().clone();
        match now {
            Mood::Slow(delay) => tokio::time::sleep(delay).await,
            Mood::Blot(word) => blot(&mut piece[..count], word.as_bytes()),
            Mood::Pass | Mood::Away => {}
        }
        if to.write_all(&piece[..count]).await.is_err() {
            return;
        }
    }
}

fn blot(piece: &mut [u8], word: &[u8]) {
    let copies: Vec<usize> = (0..piece.len()).filter(|at| piece[*at..].starts_with(word)).collect();
    for at in copies {
        piece[at..at + word.len()].fill(b'x');
    }
}
