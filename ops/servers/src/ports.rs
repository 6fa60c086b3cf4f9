//! Loopback ports that stay with a data folder.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};

/// Lowest port handed out: above the registered services one meets on a workstation.
const LOWEST: u16 = 20_000;

/// The wanted port when it is free, else a free one.
pub(crate) fn prefer(wanted: Option<u16>) -> std::io::Result<u16> {
    match wanted {
        Some(port) if is_free(port) => Ok(port),
        Some(_) | None => pick(),
    }
}

/// A free port below the range from which the kernel serves outgoing connections.
///
/// A restarted server must find its port free, so the port may not be one that any client
/// on the machine can be given in the meantime. Two processes may still pick the same one;
/// the caller tries again when its server cannot bind.
fn pick() -> std::io::Result<u16> {
    let end = ephemeral_start().unwrap_or(32_768);
    if end > LOWEST + 1_000 {
        for _ in 0..64 {
            let port = rand::random_range(LOWEST..end);
            if is_free(port) {
                return Ok(port);
            }
        }
    }
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn is_free(port: u16) -> bool {
    port != 0 && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn ephemeral_start() -> Option<u16> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    range.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_replaced_and_a_free_one_kept() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        assert_ne!(prefer(Some(port)).unwrap(), port);
        drop(taken);
        assert_eq!(prefer(Some(port)).unwrap(), port);
    }
}
