//! One block in, one block out: the only place that compresses.

use std::io;

use flate2::{Compress, FlushCompress, Status};
use liblzma::stream::{Action, Check, Filters, LzmaOptions, Status as XzStatus, Stream};
use lz4::block::CompressionMode;
use zstd::bulk::Compressor;
use zstd::zstd_safe::CParameter;

use crate::{Compression, Error};

/// The strongest of LZ4's high modes, which mksquashfs takes too.
const LZ4_HIGHEST: i32 = 12;
/// The smallest dictionary that xz knows.
const XZ_DICTIONARY_MIN: u32 = 4096;

/// From this length on, in bytes, a level of zstd means the tables that are made for input without end.
const ZSTD_LONG: usize = (256 << 10) + 1;
/// The levels of zstd that look matches up in tables which a block of 1 MiB does not fill, and what is better for such blocks, as
/// base-2 logarithms: entries of the tables, four bytes each, of which a processor's cache close to its core holds the first ones
/// only when they are small; and how many are tried. Tried on a worker's root, zstd's own against this: up to level 9 a third
/// less time for 0.7 % more bytes, above a tenth to a quarter for 0.1 to 0.2 %. From 13 on zstd looks into trees; of those, 14
/// and 15 only try twice and four times as much, which took a quarter more time for 0.1 % fewer bytes, or for more.
const ZSTD_QUICK: std::ops::RangeInclusive<u32> = 5..=9;
const ZSTD_QUICK_TABLES: Tables = Tables { hash: 18, chain: 19, search: 3 };
const ZSTD_TABLED: std::ops::RangeInclusive<u32> = 10..=12;
/// 0 is what the level says.
const ZSTD_TABLES: Tables = Tables { hash: 19, chain: 20, search: 0 };
const ZSTD_TREES: std::ops::RangeInclusive<u32> = 13..=15;
const ZSTD_TREES_TABLES: Tables = Tables { hash: 19, chain: 20, search: 4 };
const ZSTD_OWN: Tables = Tables { hash: 0, chain: 0, search: 0 };

#[derive(Debug, Clone, Copy)]
struct Tables {
    hash: u32,
    chain: u32,
    search: u32,
}

/// The levels of zstd that take longer over a table than it is worth, but for those where nobody minds the time.
const ZSTD_THOROUGH: std::ops::RangeInclusive<u32> = 7..=15;

/// A compressor's context; every thread has its own. What it makes of a block depends on the block and the options
/// alone, never on the blocks before.
pub(crate) struct Codec {
    backend: Backend,
    /// Room for the block; only its beginning is what was packed last.
    packed: Vec<u8>,
}

enum Backend {
    Stored,
    Zstd { context: Compressor<'static>, tables: Tables },
    Gzip(Compress),
    Xz { level: u32 },
    Lz4(CompressionMode),
    Lzo(Box<lzokay::compress::Dict>),
}

impl Codec {
    pub(crate) fn new(compression: Compression) -> Result<Self, Error> {
        let backend = match compression {
            Compression::None => Backend::Stored,
            Compression::Zstd { level } => {
                // Levels were checked to be at most 22.
                let context = Compressor::new(level as i32).map_err(Error::Compress)?;
                let tables = match level {
                    level if ZSTD_QUICK.contains(&level) => ZSTD_QUICK_TABLES,
                    level if ZSTD_TABLED.contains(&level) => ZSTD_TABLES,
                    level if ZSTD_TREES.contains(&level) => ZSTD_TREES_TABLES,
                    _ => ZSTD_OWN,
                };
                Backend::Zstd { context, tables }
            }
            Compression::Gzip { level } => Backend::Gzip(Compress::new(flate2::Compression::new(level), true)),
            Compression::Xz { level } => Backend::Xz { level },
            Compression::Lz4 { high: true } => Backend::Lz4(CompressionMode::HIGHCOMPRESSION(LZ4_HIGHEST)),
            Compression::Lz4 { high: false } => Backend::Lz4(CompressionMode::DEFAULT),
            Compression::Lzo => Backend::Lzo(lzokay::compress::Dict::new()),
        };
        Ok(Self { backend, packed: Vec::new() })
    }

    /// For tables, which have blocks of 8 KiB, of which each waits for the one before it, and all data for all of them where an
    /// image is written in one go. Level 6 of zstd would make them 4 KB smaller in an image of 108 MB, level 15 takes sixteen
    /// times as long as 6 does, for 3.6 % of a thousandth of the image.
    pub(crate) fn for_tables(compression: Compression) -> Result<Self, Error> {
        Self::new(match compression {
            Compression::Zstd { level } if ZSTD_THOROUGH.contains(&level) => Compression::Zstd { level: 3 },
            other => other,
        })
    }

    /// The block compressed, or `None` where that would not make it smaller.
    pub(crate) fn pack(&mut self, raw: &[u8]) -> Result<Option<&[u8]>, Error> {
        if raw.is_empty() {
            return Ok(None);
        }
        let packed = &mut self.packed;
        match &mut self.backend {
            Backend::Stored => return Ok(None),
            Backend::Zstd { context, tables } => {
                let Tables { hash, chain, search } = if raw.len() >= ZSTD_LONG { *tables } else { ZSTD_OWN };
                for table in [CParameter::HashLog(hash), CParameter::ChainLog(chain), CParameter::SearchLog(search)] {
                    context.set_parameter(table).map_err(Error::Compress)?;
                }
                packed.clear();
                packed.reserve(zstd::zstd_safe::compress_bound(raw.len()));
                context.compress_to_buffer(raw, packed).map_err(Error::Compress)?;
            }
            Backend::Gzip(context) => {
                context.reset();
                // No room for more than is worth keeping.
                packed.clear();
                packed.reserve_exact(raw.len());
                let status = context.compress_vec(raw, packed, FlushCompress::Finish).map_err(failed)?;
                if status != Status::StreamEnd {
                    return Ok(None);
                }
            }
            Backend::Xz { level } => {
                packed.clear();
                packed.reserve_exact(raw.len());
                let status = xz(*level, raw.len())?.process_vec(raw, packed, Action::Finish).map_err(failed)?;
                if status != XzStatus::StreamEnd {
                    return Ok(None);
                }
            }
            Backend::Lz4(mode) => {
                packed.resize(lz4::block::compress_bound(raw.len()).map_err(Error::Compress)?, 0);
                let len = lz4::block::compress_to_buffer(raw, Some(*mode), false, packed).map_err(Error::Compress)?;
                packed.truncate(len);
            }
            Backend::Lzo(dictionary) => {
                packed.resize(lzokay::compress::compress_worst_size(raw.len()), 0);
                let len = lzokay::compress::compress_no_alloc(raw, packed, dictionary).map_err(failed)?;
                packed.truncate(len);
            }
        }
        Ok((self.packed.len() < raw.len()).then_some(&self.packed))
    }
}

fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Compress(io::Error::other(error))
}

/// What makes an xz container of a block of `len` bytes as Linux wants it: checked by CRC-32, which is all it knows, and
/// with a dictionary of at most the block size, which is all it has memory for.
fn xz(level: u32, len: usize) -> Result<Stream, Error> {
    let mut options = LzmaOptions::new_preset(level).map_err(failed)?;
    // Blocks have at most 2^20 bytes.
    options.dict_size((len as u32).next_power_of_two().max(XZ_DICTIONARY_MIN));
    Stream::new_stream_encoder(Filters::new().lzma2(&options), Check::Crc32).map_err(failed)
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
        let levels = levels.chain([1, 6, 9].map(|level| Compression::Gzip { level }));
        let levels = levels.chain([1, 6, 9].map(|level| Compression::Xz { level }));
        let others = [Compression::Lz4 { high: false }, Compression::Lz4 { high: true }, Compression::Lzo];
        for compression in levels.chain(others) {
            let mut used = Codec::new(compression).unwrap();
            for block in blocks.iter().chain(blocks.iter().rev()) {
                let fresh = Codec::new(compression).unwrap().pack(block).unwrap().map(<[u8]>::to_vec);
                assert!(used.pack(block).unwrap().map(<[u8]>::to_vec) == fresh, "{compression:?}");
            }
        }
    }

    /// Another release of a compressor may give other bytes, and then images differ from those of before: that is to be
    /// a decision and not an accident.
    #[test]
    fn the_bytes_are_those_of_last_time() {
        use sha2::{Digest, Sha256};

        let text: Vec<u8> = pseudo_random(20_000).iter().flat_map(|b| [b'a' + b % 7, b'x', b'0' + b % 3]).collect();
        let found = [
            Compression::Xz { level: 6 },
            Compression::Lz4 { high: false },
            Compression::Lz4 { high: true },
            Compression::Lzo,
        ]
        .map(|compression| {
            let packed = Codec::new(compression).unwrap().pack(&text).unwrap().unwrap().to_vec();
            let hash: String = Sha256::digest(&packed).iter().take(8).map(|b| format!("{b:02x}")).collect();
            (packed.len(), hash)
        });
        let expected = [
            (14_428, "9ceac0b0dcdc1462"),
            (36_293, "b4e25937d08a3126"),
            (20_306, "8f3fe0f243a9c2eb"),
            (19_950, "220bdb278be2217a"),
        ];
        assert_eq!(found, expected.map(|(len, hash)| (len, hash.to_owned())));
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
        for compression in [
            Compression::Zstd { level: 9 },
            Compression::Gzip { level: 9 },
            Compression::Xz { level: 9 },
            Compression::Lz4 { high: false },
            Compression::Lz4 { high: true },
            Compression::Lzo,
            Compression::None,
        ] {
            let mut codec = Codec::new(compression).unwrap();
            for len in [0, 1, 2, 10, 4096] {
                assert!(codec.pack(&pseudo_random(len)).unwrap().is_none(), "{compression:?}, {len} bytes");
            }
        }
    }
}
