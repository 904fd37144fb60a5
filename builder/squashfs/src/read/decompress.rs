//! One block in, one block out: the only place that decompresses.

use std::io;

use flate2::{Decompress, FlushDecompress, Status};
use liblzma::stream::{Action, Status as XzStatus, Stream};

use super::Compressor;

/// What xz may take for one block, in bytes. Its dictionary has at most the block size, 1 MiB.
const XZ_MEMORY: u64 = 16 << 20;

/// A decompressor's context. What it makes of a block does not depend on the blocks before.
pub(super) struct Decompressor {
    backend: Backend,
    /// Room for a compressed block, to be filled by whoever calls.
    pub(super) packed: Vec<u8>,
}

enum Backend {
    Gzip(Box<Decompress>),
    Lzma,
    Lzo,
    Xz,
    Lz4,
    Zstd(zstd::bulk::Decompressor<'static>),
}

impl Decompressor {
    pub(super) fn new(compressor: Compressor) -> io::Result<Self> {
        let backend = match compressor {
            Compressor::Gzip => Backend::Gzip(Box::new(Decompress::new(true))),
            Compressor::Lzma => Backend::Lzma,
            Compressor::Lzo => Backend::Lzo,
            Compressor::Xz => Backend::Xz,
            Compressor::Lz4 => Backend::Lz4,
            Compressor::Zstd => Backend::Zstd(zstd::bulk::Decompressor::new()?),
        };
        Ok(Self { backend, packed: Vec::new() })
    }

    /// Decompresses the block in `packed` into `out` and returns how many bytes it has.
    ///
    /// # Errors
    /// When it is no block of this compressor, or longer than `out`.
    pub(super) fn unpack(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let packed = &self.packed;
        match &mut self.backend {
            Backend::Gzip(context) => {
                context.reset(true);
                let status = context.decompress(packed, out, FlushDecompress::Finish)?;
                // No more than `out` has.
                ended(status == Status::StreamEnd, context.total_out() as usize, out.len())
            }
            Backend::Lzma => lzma(Stream::new_lzma_decoder(XZ_MEMORY)?, packed, out),
            Backend::Xz => lzma(Stream::new_stream_decoder(XZ_MEMORY, 0)?, packed, out),
            Backend::Lzo => lzokay::decompress::decompress(packed, out).map_err(io::Error::other),
            Backend::Lz4 => {
                // Blocks have at most 2^20 bytes.
                lz4::block::decompress_to_buffer(packed, Some(out.len() as i32), out)
            }
            Backend::Zstd(context) => context.decompress_to_buffer(packed, out),
        }
    }
}

fn lzma(mut stream: Stream, packed: &[u8], out: &mut [u8]) -> io::Result<usize> {
    let status = stream.process(packed, out, Action::Finish)?;
    // No more than `out` has.
    let len = stream.total_out() as usize;
    if status == XzStatus::StreamEnd {
        return Ok(len);
    }
    // What is left may be an end mark without a byte in it: a block that has more would not fit.
    let read = stream.total_in() as usize;
    let rest = packed.get(read..).unwrap_or_default();
    let ended = len == out.len() && stream.process(rest, &mut [], Action::Finish)? == XzStatus::StreamEnd;
    self::ended(ended, len, out.len())
}

fn ended(ended: bool, len: usize, room: usize) -> io::Result<usize> {
    if ended {
        return Ok(len);
    }
    let reason = if len < room {
        format!("it is cut short after {len} bytes")
    } else {
        format!("it has more than {room} bytes")
    };
    Err(io::Error::new(io::ErrorKind::InvalidData, reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Compression;
    use crate::codec::Codec;

    const ALL: [(Compression, Compressor); 6] = [
        (Compression::Gzip { level: 9 }, Compressor::Gzip),
        (Compression::Lzo, Compressor::Lzo),
        (Compression::Xz { level: 6 }, Compressor::Xz),
        (Compression::Lz4 { high: false }, Compressor::Lz4),
        (Compression::Lz4 { high: true }, Compressor::Lz4),
        (Compression::Zstd { level: 9 }, Compressor::Zstd),
    ];

    fn pack(compression: Compression, raw: &[u8]) -> Vec<u8> {
        Codec::new(compression).unwrap().pack(raw).unwrap().unwrap().to_vec()
    }

    #[test]
    fn blocks_come_back_into_just_enough_room_and_into_more() {
        for (compression, compressor) in ALL {
            let mut decompressor = Decompressor::new(compressor).unwrap();
            for len in [100, 4096, 8192, 1 << 20] {
                let raw: Vec<u8> = (0..len).map(|n: usize| (n / 7 % 251) as u8).collect();
                decompressor.packed = pack(compression, &raw);
                for room in [len, len + 1, 2 * len] {
                    let mut out = vec![0; room];
                    assert_eq!(decompressor.unpack(&mut out).unwrap(), len, "{compression:?}");
                    assert!(out[..len] == raw);
                }
            }
        }
    }

    #[test]
    fn a_block_that_is_longer_than_the_room_or_cut_short_is_an_error() {
        let bomb = vec![0; 1 << 20];
        for (compression, compressor) in ALL {
            let mut decompressor = Decompressor::new(compressor).unwrap();
            let packed = pack(compression, &bomb);
            for room in [0, 1, 8192, bomb.len() - 1] {
                decompressor.packed.clone_from(&packed);
                assert!(decompressor.unpack(&mut vec![0; room]).is_err(), "{compression:?} {room}");
            }
            for len in [0, 1, packed.len() / 2, packed.len() - 1] {
                decompressor.packed = packed[..len].to_vec();
                let mut out = bomb.clone();
                let found = decompressor.unpack(&mut out);
                // LZ4 has no end mark: cut between two sequences it is a shorter block, which is for the caller to see.
                assert!(!matches!(found, Ok(found) if found == bomb.len()), "{compression:?} {len}");
            }
        }
    }
}
