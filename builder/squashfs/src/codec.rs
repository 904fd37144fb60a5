//! One block in, one block out: the only place that knows a compressor.

use std::io;

use flate2::{Compress, FlushCompress, Status};
use zstd::bulk::Compressor;

use crate::{Compression, Error};

/// A compressor's context; every thread has its own. What it makes of a block depends on the block and the options
/// alone, never on the blocks before.
pub(crate) struct Codec {
    backend: Backend,
    packed: Vec<u8>,
}

enum Backend {
    Stored,
    Zstd(Compressor<'static>),
    Gzip(Compress),
}

impl Codec {
    pub(crate) fn new(compression: Compression) -> Result<Self, Error> {
        let backend = match compression {
            Compression::None => Backend::Stored,
            Compression::Zstd { level } => {
                // Levels were checked to be at most 22.
                Backend::Zstd(Compressor::new(level as i32).map_err(Error::Compress)?)
            }
            Compression::Gzip { level } => Backend::Gzip(Compress::new(flate2::Compression::new(level), true)),
        };
        Ok(Self { backend, packed: Vec::new() })
    }

    /// The block compressed, or `None` where that would not make it smaller.
    pub(crate) fn pack(&mut self, raw: &[u8]) -> Result<Option<&[u8]>, Error> {
        match &mut self.backend {
            Backend::Stored => return Ok(None),
            Backend::Zstd(context) => {
                self.packed.clear();
                self.packed.reserve(zstd::zstd_safe::compress_bound(raw.len()));
                context.compress_to_buffer(raw, &mut self.packed).map_err(Error::Compress)?;
            }
            Backend::Gzip(context) => {
                context.reset();
                // No room for more than is worth keeping.
                self.packed.clear();
                self.packed.reserve_exact(raw.len());
                let status = context
                    .compress_vec(raw, &mut self.packed, FlushCompress::Finish)
                    .map_err(|e| Error::Compress(io::Error::other(e)))?;
                if status != Status::StreamEnd {
                    return Ok(None);
                }
            }
        }
        Ok((self.packed.len() < raw.len()).then_some(&self.packed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pseudo_random(len: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    /// One that has done work before gives what a new one gives: else the image would depend on which thread got which
    /// block.
    #[test]
    fn a_used_codec_gives_what_a_new_one_gives() {
        let text: Vec<u8> = pseudo_random(20_000).iter().flat_map(|b| [b'a' + b % 7, b'x', b'0' + b % 3]).collect();
        let blocks = [&text[..], &text[1000..40_000], &pseudo_random(5000), &text[7..20_000], &[0; 10_000]];
        let levels = [1, 3, 5, 7, 9, 12, 15, 19].into_iter().map(|level| Compression::Zstd { level });
        for compression in levels.chain([1, 6, 9].map(|level| Compression::Gzip { level })) {
            let mut used = Codec::new(compression).unwrap();
            for block in blocks.iter().chain(blocks.iter().rev()) {
                let fresh = Codec::new(compression).unwrap().pack(block).unwrap().map(<[u8]>::to_vec);
                assert!(used.pack(block).unwrap().map(<[u8]>::to_vec) == fresh, "{compression:?}");
            }
        }
    }

    #[test]
    fn packed_blocks_unpack_to_what_they_were() {
        let text = b"all work and no play ".repeat(1000);
        let packed = Codec::new(Compression::Zstd { level: 9 }).unwrap().pack(&text).unwrap().unwrap().to_vec();
        assert_eq!(zstd::bulk::decompress(&packed, text.len()).unwrap(), text);
        let packed = Codec::new(Compression::Gzip { level: 9 }).unwrap().pack(&text).unwrap().unwrap().to_vec();
        let mut unpacked = Vec::new();
        io::Read::read_to_end(&mut flate2::read::ZlibDecoder::new(&packed[..]), &mut unpacked).unwrap();
        assert_eq!(unpacked, text);
    }

    #[test]
    fn a_block_that_would_not_shrink_is_none() {
        for compression in [Compression::Zstd { level: 9 }, Compression::Gzip { level: 9 }, Compression::None] {
            let mut codec = Codec::new(compression).unwrap();
            for len in [0, 1, 2, 10, 4096] {
                assert!(codec.pack(&pseudo_random(len)).unwrap().is_none(), "{compression:?}, {len} bytes");
            }
        }
    }
}
