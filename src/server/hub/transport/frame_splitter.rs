//! Splits WebSocket frames into short messages while they arrive.
//!
//! The library returns whole messages, and buffers each until its end. Clients join queued messages into one
//! message of any length, and the hub protocol finds its own messages in a stream of bytes. So each frame or
//! fragment of a client is passed on as binary messages of at most [`MAX_FRAME_LEN`] bytes; a character may
//! be cut in two.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A multiple of 4, so that the mask of a frame fits each of its parts unchanged.
pub(super) const MAX_FRAME_LEN: usize = 32 * 1024;
const READ_LEN: usize = 2 * 1024;
const MAX_HEADER_LEN: usize = 14;

const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;
const RESERVED: u8 = 0x70;
const OPCODE: u8 = 0x0F;
const CONTINUATION: u8 = 0;
const BINARY: u8 = 2;

/// The state without a socket: input may be cut anywhere.
#[derive(Debug, Default)]
struct SplitState {
    header: [u8; MAX_HEADER_LEN],
    /// How many bytes of `header` have arrived.
    filled: usize,
    /// How many bytes of the current part are still to come.
    part: u64,
    /// How many bytes of the frame follow the current part.
    remaining: u64,
    /// Of each part: the first byte, the mask bit of the length, and the mask.
    first: u8,
    masked: u8,
    mask: [u8; 4],
    /// More fragments of the message follow.
    open: bool,
}

impl SplitState {
    fn pass(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let taken = if self.part > 0 {
                let taken = usize::try_from(self.part).unwrap_or(usize::MAX).min(bytes.len());
                out.extend_from_slice(bytes.get(..taken).unwrap_or_default());
                self.part -= taken as u64;
                if self.part == 0 && self.remaining > 0 {
                    self.begin_part(out);
                }
                taken
            } else {
                self.read_header(bytes, out)
            };
            bytes = bytes.get(taken..).unwrap_or_default();
        }
    }

    /// The length of the header, as far as it is known yet.
    fn header_len(&self) -> usize {
        if self.filled < 2 {
            return 2;
        }
        let length = match self.header[1] & !MASKED {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + if self.header[1] & MASKED == 0 { 0 } else { 4 }
    }

    fn read_header(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> usize {
        let mut taken = 0;
        for byte in bytes {
            if let Some(place) = self.header.get_mut(self.filled) {
                *place = *byte;
            }
            self.filled += 1;
            taken += 1;
            if self.filled == self.header_len() {
                self.begin_frame(out);
                break;
            }
        }
        taken
    }

    fn begin_frame(&mut self, out: &mut Vec<u8>) {
        let header = self.header;
        let whole = self.filled;
        self.filled = 0;
        let (first, second) = (header[0], header[1]);
        let length = match second & !MASKED {
            126 => u64::from(u16::from_be_bytes([header[2], header[3]])),
            127 => u64::from_be_bytes([
                header[2], header[3], header[4], header[5], header[6], header[7], header[8],
                header[9],
            ]),
            short => u64::from(short),
        };
        let opcode = first & OPCODE;
        if opcode > BINARY {
            // Control frames, and frames that the library rejects.
            out.extend_from_slice(header.get(..whole).unwrap_or_default());
            self.part = length;
            return;
        }
        // A frame out of order is passed on as a continuation of nothing, which the library rejects.
        let fits = (opcode == CONTINUATION) == self.open;
        self.open = first & FINAL == 0;
        self.first = first & RESERVED | FINAL | if fits { BINARY } else { CONTINUATION };
        self.masked = second & MASKED;
        if self.masked != 0
            && let Some(mask) = header.get(whole - 4..whole)
        {
            self.mask.copy_from_slice(mask);
        }
        self.remaining = length;
        self.begin_part(out);
    }

    fn begin_part(&mut self, out: &mut Vec<u8>) {
        let length = self.remaining.min(MAX_FRAME_LEN as u64);
        self.remaining -= length;
        self.part = length;
        out.push(self.first);
        // At most `MAX_FRAME_LEN`.
        let length = length as u16;
        if length < 126 {
            out.push(self.masked | length as u8);
        } else {
            out.push(self.masked | 126);
            out.extend_from_slice(&length.to_be_bytes());
        }
        if self.masked != 0 {
            out.extend_from_slice(&self.mask);
        }
    }
}

/// A stream whose input is split. Output passes through unchanged.
#[derive(Debug)]
pub(super) struct FrameSplitter<S> {
    inner: S,
    state: SplitState,
    /// Split input from `at` on. Allocates nothing between frames.
    ready: Vec<u8>,
    at: usize,
}

impl<S> FrameSplitter<S> {
    pub(super) fn new(inner: S) -> FrameSplitter<S> {
        FrameSplitter { inner, state: SplitState::default(), ready: Vec::new(), at: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FrameSplitter<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let FrameSplitter { inner, state, ready, at } = self.get_mut();
        while ready.is_empty() {
            let mut read = [0; READ_LEN];
            let mut chunk = ReadBuf::new(&mut read);
            ready!(Pin::new(&mut *inner).poll_read(context, &mut chunk))?;
            if chunk.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            // The input may be an incomplete header, with nothing to pass on.
            state.pass(chunk.filled(), ready);
        }
        let waiting = ready.get(*at..).unwrap_or_default();
        let passed = waiting.len().min(buffer.remaining());
        buffer.put_slice(waiting.get(..passed).unwrap_or_default());
        *at += passed;
        if *at == ready.len() {
            *ready = Vec::new();
            *at = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FrameSplitter<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [1, 2, 3, 4];

    /// A frame as clients send it.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            short @ 0..126 => frame.push(MASKED | short as u8),
            middle @ 126..65_536 => {
                frame.push(MASKED | 126);
                frame.extend((middle as u16).to_be_bytes());
            }
            long => {
                frame.push(MASKED | 127);
                frame.extend((long as u64).to_be_bytes());
            }
        }
        frame.extend(MASK);
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    /// The frames in split input: their first bytes and payloads.
    fn frames(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut frames = Vec::new();
        while let [first, second, rest @ ..] = bytes {
            assert_eq!(second & MASKED, MASKED);
            let (length, rest) = match second & !MASKED {
                126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
                127 => panic!("no part is so long"),
                short => (usize::from(short), rest),
            };
            let (mask, rest) = rest.split_at(4);
            let (payload, rest) = rest.split_at(length);
            let plain = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
            frames.push((*first, plain.collect()));
            bytes = rest;
        }
        frames
    }

    fn cut(sent: &[u8], size: usize) -> Vec<u8> {
        let (mut state, mut out) = (SplitState::default(), Vec::new());
        sent.chunks(size).for_each(|chunk| state.pass(chunk, &mut out));
        out
    }

    #[test]
    fn any_frame_becomes_messages_that_are_short_however_it_comes() {
        let long: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
        let sent = [
            frame(0x81, b"text"),
            frame(0x82, &long),
            frame(0x81, b""),
            frame(0x01, &long[..200]),
            frame(0x89, b"a ping between"),
            frame(0x00, b"middle"),
            frame(0x80, &long[..MAX_FRAME_LEN + 1]),
            frame(0x88, &[3, 232]),
        ]
        .concat();
        let whole = cut(&sent, sent.len());
        let found = frames(&whole);
        let control: Vec<&(u8, Vec<u8>)> =
            found.iter().filter(|(first, _)| *first > 0x82).collect();
        assert_eq!(control, [&(0x89, b"a ping between".to_vec()), &(0x88, vec![3, 232])]);
        let data = found.iter().filter(|(first, _)| *first == 0x82);
        let joined: Vec<u8> = data.clone().flat_map(|(_, payload)| payload.clone()).collect();
        let expected =
            [b"text".as_slice(), &long, &long[..200], b"middle", &long[..=MAX_FRAME_LEN]].concat();
        assert_eq!(joined, expected);
        assert!(data.clone().all(|(_, payload)| payload.len() <= MAX_FRAME_LEN));
        assert_eq!(data.count(), 1 + 4 + 1 + 1 + 1 + 2);
        for size in [1, 2, 3, 5, 7, 13, 14, 1000, 4096] {
            assert_eq!(cut(&sent, size), whole, "{size}");
        }
    }

    #[test]
    fn what_is_out_of_turn_or_reserved_stays_so() {
        // Continuations of nothing, which the library rejects.
        assert_eq!(frames(&cut(&frame(0x80, b"x"), 99)), [(0x80, b"x".to_vec())]);
        let again = [frame(0x01, b"a"), frame(0x81, b"b")].concat();
        assert_eq!(frames(&cut(&again, 99)), [(0x82, b"a".to_vec()), (0x80, b"b".to_vec())]);
        for first in [0xC1, 0x83, 0x8B] {
            let passed = frames(&cut(&frame(first, b"x"), 99));
            let kept = first & RESERVED;
            assert_eq!(passed[0].0 & RESERVED, kept);
            assert!(passed[0].0 & OPCODE != BINARY || kept != 0, "{first:x}");
        }
        // Without a mask it is passed on without one, and rejected for that.
        assert_eq!(cut(&[0x81, 1, b'x'], 99), [0x82, 1, b'x']);
    }
}
