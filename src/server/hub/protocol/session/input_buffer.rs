//! Unread input of a connection: part of a message, or messages that wait for the running invocation.

use std::fmt;

/// An idle connection must not keep the memory of a large message: there are very many idle connections.
/// Keeping up to this many bytes saves an allocation per message.
const MAX_IDLE_CAPACITY: usize = 1024;

/// `Default` allocates nothing.
#[derive(Default)]
pub(super) struct InputBuffer {
    bytes: Vec<u8>,
    /// How many of `bytes` are read. Removing them at once would move the rest for each of many small
    /// messages.
    start: usize,
    /// How many of the unread bytes are known to contain no end of a message.
    scanned: usize,
}

impl InputBuffer {
    pub(super) fn unread(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn scanned(&self) -> usize {
        self.scanned
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Removes read bytes, and records how many of the rest contain no end of a message.
    pub(super) fn advance(&mut self, used: usize, scanned: usize) {
        self.start = self.bytes.len().min(self.start + used);
        self.scanned = scanned.min(self.len());
        if self.bytes.capacity() > MAX_IDLE_CAPACITY && self.len() < self.bytes.capacity() / 4 {
            self.bytes = self.unread().to_vec();
            self.start = 0;
        } else if self.is_empty() {
            self.bytes.clear();
            self.start = 0;
        }
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

/// Without the bytes: they are private messages.
impl fmt::Debug for InputBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InputBuffer").field("len", &self.len()).finish_non_exhaustive()
    }
}
