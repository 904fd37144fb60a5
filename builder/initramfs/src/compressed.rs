//! Files that distributions ship compressed: modules (`.ko.xz`, `.ko.zst`, `.ko.gz`) and firmware (`.xz`, `.zst`).
//!
//! They go into the initrd as they were before: the initrd is compressed as a whole, better than file by file, and
//! nothing on the node must be able to decompress them.

use std::io::{self, Read};

use imgbuild_tree::{Content, FileContent};

use crate::error::{Error, Result};

/// No module and no firmware file is near this; what is, is an attack or a mistake.
pub(crate) const LIMIT: u64 = 1 << 30;

/// How a file is compressed, by its suffix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    None,
    Gzip,
    Xz,
    Zstd,
}

impl Format {
    pub(crate) const ALL: [Self; 4] = [Self::None, Self::Xz, Self::Zstd, Self::Gzip];

    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip => ".gz",
            Self::Xz => ".xz",
            Self::Zstd => ".zst",
        }
    }

    /// The name without the suffix, and what the suffix says.
    pub(crate) fn of(name: &str) -> (&str, Self) {
        [Self::Gzip, Self::Xz, Self::Zstd]
            .into_iter()
            .find_map(|format| Some((name.strip_suffix(format.suffix())?, format)))
            .unwrap_or((name, Self::None))
    }

    /// The decompressed content. What is not compressed stays where it is.
    pub(crate) fn decode(self, path: &str, content: &Content) -> Result<Content> {
        let read = || -> io::Result<Vec<u8>> {
            let source = io::BufReader::new(Source { content, offset: 0 });
            let mut decoder: Box<dyn Read> = match self {
                Self::None => Box::new(source),
                Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
                Self::Xz => Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(source)),
                Self::Zstd => Box::new(zstd::Decoder::with_buffer(source)?),
            };
            let mut bytes = Vec::new();
            decoder.by_ref().take(LIMIT + 1).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        if self == Self::None {
            return Ok(content.clone());
        }
        let bytes = read().map_err(|source| Error::Read { path: path.to_owned(), source })?;
        if bytes.len() as u64 > LIMIT {
            let reason = format!("it decompresses to over {LIMIT} bytes");
            return Err(Error::Malformed { path: path.to_owned(), reason });
        }
        Ok(bytes.into())
    }
}

struct Source<'a> {
    content: &'a Content,
    offset: u64,
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let take = (self.content.len() - self.offset).min(buffer.len() as u64) as usize;
        self.content.read_exact_at(&mut buffer[..take], self.offset)?;
        self.offset += take as u64;
        Ok(take)
    }
}
