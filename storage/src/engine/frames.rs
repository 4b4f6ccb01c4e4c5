//! ClickHouse's own compression frames (`decompress=1` in, `compress=1` out).
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 16 | CityHash128 v1.0.2 of all that follows, high half first, each little endian |
//! | 16 | 1 | method: 0x82 LZ4, 0x02 none |
//! | 17 | 4 | size of the frame from offset 16 on, little endian |
//! | 21 | 4 | size when decompressed, little endian |
//! | 25 | … | data |

use std::io::{self, Read};

const CHECKSUM_SIZE: usize = 16;
const HEADER_SIZE: usize = 9;
/// The server's own bound is 1 GiB; writers make frames of some 256 KiB to 1 MiB.
const FRAME_BYTES_MAX: usize = 16 << 20;
const METHOD_LZ4: u8 = 0x82;
const METHOD_NONE: u8 = 0x02;

/// Reads frames and gives their contents.
#[derive(Debug)]
pub(super) struct FrameReader<R> {
    inner: R,
    frame: Vec<u8>,
    plain: Vec<u8>,
    taken: usize,
}

impl<R: Read> FrameReader<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, frame: Vec::new(), plain: Vec::new(), taken: 0 }
    }

    /// Reads the next frame into `plain`; `false` at the end of the stream.
    fn fill(&mut self) -> io::Result<bool> {
        self.plain.clear();
        self.taken = 0;
        let mut head = [0; CHECKSUM_SIZE + HEADER_SIZE];
        if self.inner.read(&mut head[..1])? == 0 {
            return Ok(false);
        }
        self.inner.read_exact(&mut head[1..])?;
        let (checksum, header) = head.split_at(CHECKSUM_SIZE);
        let frame_size = size_at(header, 1);
        let plain_size = size_at(header, 5);
        if !(HEADER_SIZE..=FRAME_BYTES_MAX).contains(&frame_size) || plain_size > FRAME_BYTES_MAX {
            return Err(bad("compressed frame with a size out of bounds"));
        }
        self.frame.clear();
        self.frame.extend_from_slice(header);
        // `take` grows the buffer as data arrive, not by the claimed size.
        let data_size = frame_size - HEADER_SIZE;
        let read = self.inner.by_ref().take(data_size as u64).read_to_end(&mut self.frame)?;
        if read != data_size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if checksum != checksum_of(&self.frame) {
            return Err(bad("compressed frame with a wrong checksum"));
        }
        let data = &self.frame[HEADER_SIZE..];
        match header[0] {
            METHOD_NONE => self.plain.extend_from_slice(data),
            METHOD_LZ4 => {
                self.plain = lz4_flex::block::decompress(data, plain_size)
                    .map_err(|_| bad("compressed frame that is no LZ4"))?;
            }
            _ => return Err(bad("compressed frame of an unknown method; use LZ4")),
        }
        if self.plain.len() == plain_size {
            Ok(true)
        } else {
            Err(bad("compressed frame too short"))
        }
    }
}

impl<R: Read> Read for FrameReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.plain.len() {
            if !self.fill()? {
                return Ok(0);
            }
        }
        let count = out.len().min(self.plain.len() - self.taken);
        out[..count].copy_from_slice(&self.plain[self.taken..self.taken + count]);
        self.taken += count;
        Ok(count)
    }
}

/// One result as frames.
pub(super) fn compress(plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(plain.len() / 2 + 64);
    for piece in plain.chunks(1 << 20) {
        let data = lz4_flex::block::compress(piece);
        let start = out.len();
        out.extend_from_slice(&[0; CHECKSUM_SIZE]);
        out.push(METHOD_LZ4);
        let size = |count: usize| u32::try_from(count).expect("a piece of 1 MiB").to_le_bytes();
        out.extend_from_slice(&size(data.len() + HEADER_SIZE));
        out.extend_from_slice(&size(piece.len()));
        out.extend_from_slice(&data);
        let checksum = checksum_of(&out[start + CHECKSUM_SIZE..]);
        out[start..start + CHECKSUM_SIZE].copy_from_slice(&checksum);
    }
    out
}

fn checksum_of(frame: &[u8]) -> [u8; CHECKSUM_SIZE] {
    cityhash_rs::cityhash_102_128(frame).rotate_left(64).to_le_bytes()
}

fn size_at(header: &[u8], at: usize) -> usize {
    let bytes = header[at..at + 4].try_into().expect("four bytes of a nine byte header");
    u32::from_le_bytes(bytes) as usize
}

fn bad(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(stream: &[u8], want: Result<&[u8], io::ErrorKind>) {
        let mut got = Vec::new();
        let result = FrameReader::new(stream).read_to_end(&mut got);
        let shown = &stream[..stream.len().min(40)];
        match want {
            Ok(want) => {
                result.unwrap();
                assert_eq!(got, want, "{shown:?}");
            }
            Err(kind) => assert_eq!(result.unwrap_err().kind(), kind, "{shown:?}"),
        }
    }

    #[test]
    fn frames_round_trip_and_damage_is_found() {
        let plain: Vec<u8> = (0..3_000_000_u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
        let good = compress(&plain);
        check(&good, Ok(&plain));
        check(&[], Ok(&[]));
        check(&good[..good.len() - 1], Err(io::ErrorKind::UnexpectedEof));
        check(&good[..10], Err(io::ErrorKind::UnexpectedEof));
        for (at, kind) in [
            (0, io::ErrorKind::InvalidData),   // checksum
            (16, io::ErrorKind::InvalidData),  // method
            (20, io::ErrorKind::InvalidData),  // size, top byte
            (24, io::ErrorKind::InvalidData),  // plain size, top byte
            (400, io::ErrorKind::InvalidData), // data
        ] {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            check(&bad, Err(kind));
        }
    }

    /// A frame made by the official crate (checked against it in `tests/clickhouse_engine.rs`
    /// on every insert with compression) has its checksum halves in this order.
    #[test]
    fn the_checksum_stands_high_half_first() {
        let frame = compress(b"x");
        let hash = cityhash_rs::cityhash_102_128(&frame[16..]);
        let halves = hash.to_be_bytes();
        let mut high: [u8; 8] = halves[..8].try_into().unwrap();
        high.reverse();
        assert_eq!(frame[..8], high);
    }
}
