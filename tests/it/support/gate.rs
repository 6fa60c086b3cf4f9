//! A way to a server that can be closed: a TCP proxy that cuts its connections.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// A proxy in front of one address.
pub struct Gate {
    /// Where it listens.
    pub address: SocketAddr,
    open: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
}

impl Gate {
    /// A gate, open, in front of `scheme://host:port`.
    pub fn before(url: &str) -> Self {
        let target: SocketAddr = url.rsplit('/').next().unwrap().parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (open, connections) = (Arc::new(AtomicBool::new(true)), Arc::default());
        let gate = Self { address, open: Arc::clone(&open), connections: Arc::clone(&connections) };
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                if !open.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(far) = TcpStream::connect(target) else { continue };
                let ends = [near.try_clone().unwrap(), far.try_clone().unwrap()];
                connections.lock().unwrap().extend(ends);
                carry(near.try_clone().unwrap(), far.try_clone().unwrap());
                carry(far, near);
            }
        });
        gate
    }

    /// Cuts what is open, and lets nobody through any more.
    pub fn close(&self) {
        self.open.store(false, Ordering::SeqCst);
        for end in self.connections.lock().unwrap().drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    /// Lets everybody through again.
    pub fn reopen(&self) {
        self.open.store(true, Ordering::SeqCst);
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream) {
    std::thread::spawn(move || {
        let mut buffer = [0; 16 * 1024];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            if to.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    });
}
