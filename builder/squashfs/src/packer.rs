//! One block: found in the store, or read and compressed.

use imgbuild_tree::FileContent;

use crate::codec::Codec;
use crate::plan::{Job, Piece};
use crate::reuse::{BlockKey, BlockStore, Digest, Form, KeyPiece, Namer, Outline, Packed, fingerprint};
use crate::runs::BlockOf;
use crate::{Error, Options};

/// What became of a block.
pub(crate) struct Done {
    /// The file it belongs to; `None` for a fragment block.
    pub(crate) file: Option<usize>,
    /// A file of which it holds something.
    pub(crate) any: usize,
    /// Its length before it was compressed.
    pub(crate) len: u64,
    pub(crate) form: Form,
    pub(crate) bytes: Vec<u8>,
    pub(crate) fingerprint: u32,
    /// Its name, if it is to be kept.
    pub(crate) save: Option<BlockKey>,
    pub(crate) reused: bool,
}

impl Done {
    pub(crate) fn packed(&self) -> Packed<'_> {
        match self.form {
            Form::Hole => Packed::Hole,
            Form::Compressed => Packed::Compressed(&self.bytes),
            Form::Raw => Packed::Raw(&self.bytes),
        }
    }

    pub(crate) fn outline(&self) -> Outline {
        // Blocks have at most 2^20 bytes.
        Outline { form: self.form, len: self.bytes.len() as u32, fingerprint: self.fingerprint }
    }
}

/// What blocks are made of.
pub(crate) struct Sources<'a, C> {
    pub(crate) contents: &'a [&'a C],
    pub(crate) digests: &'a [Option<Digest>],
    pub(crate) path: &'a (dyn Fn(usize) -> String + Sync),
}

impl<C> Sources<'_, C> {
    /// The name of a block, if the digest of all that goes into it is known.
    pub(crate) fn name(&self, namer: &Namer, job: &Job) -> Option<BlockKey> {
        let digest = |piece: &Piece| self.digests.get(piece.file).copied().flatten();
        if job.pieces().iter().any(|piece| digest(piece).is_none()) {
            return None;
        }
        let key = |piece: &Piece| Some(KeyPiece { digest: digest(piece)?, offset: piece.offset, len: piece.len });
        Some(namer.name(job.file().is_none(), job.pieces().iter().filter_map(key)))
    }
}

/// A worker: finds a block in the store, or reads what it is made of and compresses it.
pub(crate) struct Packer<'a, C> {
    sources: &'a Sources<'a, C>,
    store: Option<&'a dyn BlockStore>,
    namer: Namer,
    codec: Codec,
    /// As long as the longest block so far, so that no byte is cleared before it is read into.
    buffer: Vec<u8>,
}

impl<'a, C: FileContent> Packer<'a, C> {
    pub(crate) fn new(
        sources: &'a Sources<'a, C>,
        options: &Options,
        store: Option<&'a dyn BlockStore>,
    ) -> Result<Self, Error> {
        let (namer, codec) = (Namer::new(options.compression), Codec::new(options.compression)?);
        Ok(Self { sources, store, namer, codec, buffer: Vec::new() })
    }

    pub(crate) fn run(&mut self, job: Job) -> Result<Done, Error> {
        let (file, pieces) = (job.file(), job.pieces());
        // A block has at most 2^20 bytes.
        let len = job.len() as usize;
        let any = pieces.first().map_or(0, |piece| piece.file);
        let mut done = Done {
            file,
            any,
            len: len as u64,
            form: Form::Hole,
            bytes: Vec::new(),
            fingerprint: 0,
            save: None,
            reused: false,
        };
        if let Some(store) = self.store
            && let Some(key) = self.sources.name(&self.namer, &job)
        {
            if let Some(form) = store.load(&key, &mut done.bytes) {
                (done.form, done.fingerprint, done.reused) = (form, fingerprint(&done.bytes), true);
                return Ok(done);
            }
            done.save = Some(key);
        }
        if self.buffer.len() < len {
            self.buffer = vec![0; len];
        }
        let raw = &mut self.buffer[..len];
        let mut rest = &mut *raw;
        for piece in pieces {
            let (now, later) = rest.split_at_mut(piece.len as usize);
            let read = self.sources.contents[piece.file].read_exact_at(now, piece.offset);
            read.map_err(|source| Error::Read { path: (self.sources.path)(piece.file), source })?;
            rest = later;
        }
        if file.is_some() && is_zero(raw) {
            done.bytes.clear();
        } else {
            let packed = self.codec.pack(raw)?;
            (done.form, done.bytes) = match packed {
                Some(packed) => (Form::Compressed, packed.to_vec()),
                None => (Form::Raw, raw.to_vec()),
            };
        }
        done.fingerprint = fingerprint(&done.bytes);
        Ok(done)
    }
}

/// Compares blocks that look the same once packed.
pub(crate) struct Compare<'a, C> {
    sources: &'a Sources<'a, C>,
    block_size: u64,
    buffers: [Vec<u8>; 2],
}

impl<'a, C: FileContent> Compare<'a, C> {
    pub(crate) fn new(sources: &'a Sources<'a, C>, block_size: u64) -> Self {
        Self { sources, block_size, buffers: [Vec::new(), Vec::new()] }
    }

    pub(crate) fn same(&mut self, a: BlockOf, b: BlockOf) -> Result<bool, Error> {
        for (of, buffer) in [a, b].into_iter().zip(&mut self.buffers) {
            let file = of.file as usize;
            let content = self.sources.contents[file];
            let offset = u64::from(of.block) * self.block_size;
            // At most a block.
            buffer.resize(content.len().saturating_sub(offset).min(self.block_size) as usize, 0);
            let read = content.read_exact_at(buffer, offset);
            read.map_err(|source| Error::Read { path: (self.sources.path)(file), source })?;
        }
        Ok(self.buffers[0] == self.buffers[1])
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|chunk| *chunk == ZEROS[..chunk.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_of_any_length_are_a_hole_and_one_bit_is_not() {
        for len in [1, 4095, 4096, 4097, 10_000] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes));
            bytes[len - 1] = 1;
            assert!(!is_zero(&bytes));
        }
    }
}
