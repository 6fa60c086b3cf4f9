//! The socket between the shim and the stages inside; for those it is standard input.
//!
//! Each message is one packet: JSON, and descriptors beside it. Its end tells init that the shim
//! is gone, and the shim that `enter` has become the program.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::StartError;

/// Most descriptors the kernel passes at once (SCM_MAX_FD).
const MOST_FDS: usize = 253;

/// From the shim to `enter`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Go {
    /// The user to become outside, when the shim may choose.
    pub outer_uid: Option<u32>,
    /// Flags of unshare(2); 0 at levels without namespaces.
    pub namespaces: i32,
    /// Test only: keeps every capability for the program.
    pub keep_capabilities: bool,
    /// Test only: no own user, so user 0 is mapped.
    pub map_root: bool,
}

/// From the stages to the shim.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// `init` was started; its number outside.
    Init(u32),
    /// Everything but the last steps is done; waits to be told that it is in its group.
    Ready,
    /// The program was executed.
    Started,
    /// The program ended; init follows.
    Exited { code: Option<i32>, signal: Option<i32> },
    /// It will not be started.
    Failed(StartError),
}

/// Both ends, to be closed on exec.
pub(super) fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Sends a message with descriptors.
pub(super) fn send(
    to: impl AsFd,
    message: &impl Serialize,
    fds: &[BorrowedFd<'_>],
) -> std::io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(std::io::Error::other("too many descriptors"));
    }
    sendmsg(to, &[IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Waits to be told to go on; false when the shim is gone.
pub(super) fn told(from: impl AsFd) -> bool {
    matches!(receive::<()>(from, RecvFlags::empty()), Ok(Some(_)))
}

/// Waits for a message; none when the other side is gone.
pub(super) fn receive<M: DeserializeOwned>(
    from: impl AsFd,
    flags: RecvFlags,
) -> std::io::Result<Option<(M, Vec<OwnedFd>)>> {
    let mut text = vec![0; 64 << 10];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        from,
        &mut [IoSliceMut::new(&mut text)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC | flags,
    );
    let received = match received {
        Err(Errno::CONNRESET) => return Ok(None),
        received => received?,
    };
    if received.bytes == 0 {
        return Ok(None);
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(std::io::Error::other("a message was cut off"));
    }
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok(Some((serde_json::from_slice(&text[..received.bytes])?, fds)))
}
