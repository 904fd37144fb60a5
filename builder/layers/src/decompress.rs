//! Streaming decompression, told apart by the first bytes rather than by names or media types, which lie.

use std::io::{self, BufRead, Chain, Cursor, Read};

use flate2::bufread::MultiGzDecoder;
use liblzma::bufread::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};

/// What a decoder of xz may use, in bytes: files made with `xz -9` need 65 MiB, the format's limit is 4 GiB.
const XZ_MEMORY: u64 = 1 << 30;

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all, or in a way that is not known here.
    None,
    /// RFC 1952, one or several members.
    Gzip,
    /// RFC 8878, one or several frames.
    Zstd,
    /// The .xz format, one or several streams.
    Xz,
}

impl Compression {
    /// How many bytes [`Compression::detect`] wants to see.
    pub const MAGIC: usize = 6;

    /// Tells from the first bytes.
    ///
    /// # Errors
    /// `Unsupported` for bzip2 and lz4, which no source of layers uses.
    pub fn detect(first: &[u8]) -> io::Result<Self> {
        let unsupported = |name: &str| {
            Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("compressed with {name}; repack it with gzip, zstd or xz"),
            ))
        };
        match first {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            // A frame, or a frame to be skipped, which stands first in seekable and in parallel-made files.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Self::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Ok(Self::Xz),
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31 | 0x17, ..] => unsupported("bzip2"),
            [0x04, 0x22, 0x4d, 0x18, ..] => unsupported("lz4"),
            _ => Ok(Self::None),
        }
    }

    /// The name people know it by.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "plain",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Xz => "xz",
        }
    }
}

type Whole<R> = Chain<Cursor<Vec<u8>>, R>;

enum Decoder<R: BufRead> {
    Plain(Whole<R>),
    Gzip(MultiGzDecoder<Whole<R>>),
    Zstd(zstd::Decoder<'static, Whole<R>>),
    Xz(XzDecoder<Whole<R>>),
}

/// A reader of what another reader holds compressed. A stream that ends in its middle is `UnexpectedEof`, one that is
/// broken `InvalidData`; both say so in words. End of file means that the last checksum was right.
pub struct Decompressor<R: BufRead> {
    compression: Compression,
    decoder: Decoder<R>,
}

impl<R: BufRead> Decompressor<R> {
    /// Looks at the first bytes and chooses a decoder.
    ///
    /// # Errors
    /// When they cannot be read, or name a compression that is not supported.
    pub fn new(mut reader: R) -> io::Result<Self> {
        let mut first = Vec::with_capacity(Compression::MAGIC);
        reader.by_ref().take(Compression::MAGIC as u64).read_to_end(&mut first)?;
        let compression = Compression::detect(&first)?;
        let whole = Cursor::new(first).chain(reader);
        let decoder = match compression {
            Compression::None => Decoder::Plain(whole),
            Compression::Gzip => Decoder::Gzip(MultiGzDecoder::new(whole)),
            Compression::Zstd => Decoder::Zstd(zstd::Decoder::with_buffer(whole)?),
            Compression::Xz => {
                let stream = Stream::new_stream_decoder(XZ_MEMORY, CONCATENATED)?;
                Decoder::Xz(XzDecoder::new_stream(whole, stream))
            }
        };
        Ok(Self { compression, decoder })
    }

    /// What was found.
    pub fn compression(&self) -> Compression {
        self.compression
    }
}

impl<R: BufRead> std::fmt::Debug for Decompressor<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decompressor").field("compression", &self.compression).finish_non_exhaustive()
    }
}

impl<R: BufRead> Read for Decompressor<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = match &mut self.decoder {
            Decoder::Plain(reader) => return reader.read(buf),
            Decoder::Gzip(reader) => reader.read(buf),
            Decoder::Zstd(reader) => reader.read(buf),
            Decoder::Xz(reader) => reader.read(buf),
        };
        read.map_err(|e| explained(self.compression, e))
    }
}

/// Says what a decoder's error means for the file. Errors of the reader below pass through.
fn explained(compression: Compression, error: io::Error) -> io::Error {
    let name = compression.name();
    match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            io::Error::new(error.kind(), format!("the {name} data is cut short; fetch it again"))
        }
        // zstd's errors are `Other`, with the library's words and no OS code.
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::Other
            if error.raw_os_error().is_none() =>
        {
            io::Error::new(io::ErrorKind::InvalidData, format!("broken {name} data: {error}"))
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn text() -> Vec<u8> {
        (0..200_000_u32).flat_map(|i| (i.wrapping_mul(2_654_435_761) >> 20).to_le_bytes()).collect()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }
    fn zst(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.include_checksum(true).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }
    fn xz(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 0);
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    type Packer = fn(&[u8]) -> Vec<u8>;
    const PACKERS: [(Compression, Packer); 3] =
        [(Compression::Gzip, gzip), (Compression::Zstd, zst), (Compression::Xz, xz)];

    fn unpack(bytes: &[u8]) -> io::Result<(Compression, Vec<u8>)> {
        // One byte at a time below, as a slow network gives them.
        let mut reader = Decompressor::new(io::BufReader::with_capacity(1, bytes))?;
        let mut unpacked = Vec::new();
        reader.read_to_end(&mut unpacked)?;
        Ok((reader.compression(), unpacked))
    }

    #[test]
    fn one_and_several_pieces() {
        let text = text();
        let (one, two) = text.split_at(123_456);
        for (compression, pack) in PACKERS {
            assert!(unpack(&pack(&text)).unwrap() == (compression, text.clone()), "{compression:?}");
            assert!(
                unpack(&[pack(one), pack(two)].concat()).unwrap() == (compression, text.clone()),
                "{compression:?}"
            );
            assert!(unpack(&pack(b"")).unwrap() == (compression, vec![]), "{compression:?}");
        }
        for plain in [&b""[..], b"x", b"BZhello", &text] {
            assert!(unpack(plain).unwrap() == (Compression::None, plain.to_vec()));
        }
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &zst(b"after")].concat();
        assert_eq!(unpack(&skippable).unwrap(), (Compression::Zstd, b"after".to_vec()));
    }

    #[test]
    fn cut_short_anywhere_is_an_error() {
        for (compression, pack) in PACKERS {
            let packed = pack(&text());
            for cut in [Compression::MAGIC, 20, packed.len() / 2, packed.len() - 5, packed.len() - 1] {
                let error = unpack(&packed[..cut]).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{compression:?} cut at {cut}: {error}");
                assert_eq!(error.to_string(), format!("the {} data is cut short; fetch it again", compression.name()));
            }
        }
    }

    #[test]
    fn changed_bytes_are_an_error() {
        for (compression, pack) in PACKERS {
            let mut packed = pack(&text());
            let at = packed.len() - 6;
            packed[at] ^= 0x55;
            let error = unpack(&packed).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
            assert!(error.to_string().starts_with(&format!("broken {} data: ", compression.name())), "{error}");
        }
    }

    #[test]
    fn other_compressions_are_named() {
        for (magic, name) in [(&b"BZh91AY&SY"[..], "bzip2"), (&[0x04, 0x22, 0x4d, 0x18, 0x64, 0x40, 0], "lz4")] {
            let error = unpack(magic).unwrap_err();
            assert_eq!(error.to_string(), format!("compressed with {name}; repack it with gzip, zstd or xz"));
        }
    }

    /// The errors of the reader below are not blamed on the data.
    #[test]
    fn errors_from_below_pass_through() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::from_raw_os_error(5))
            }
        }
        let packed = gzip(&text());
        let below = io::BufReader::new(packed[..100].chain(Broken));
        let error = io::copy(&mut Decompressor::new(below).unwrap(), &mut io::sink()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(5));
    }
}
