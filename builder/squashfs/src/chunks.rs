//! A content, piece by piece.

use std::io;

use imgbuild_tree::FileContent;

/// How much is read at once, in bytes.
const CHUNK: u64 = 1 << 18;

/// Reads the first `limit` bytes of a content, or all of it; `buffer` is for reuse.
pub(crate) fn read<C: FileContent>(
    content: &C,
    limit: u64,
    buffer: &mut Vec<u8>,
    mut each: impl FnMut(&[u8]),
) -> io::Result<()> {
    let len = content.len().min(limit);
    if (buffer.len() as u64) < len.min(CHUNK) {
        *buffer = vec![0; len.min(CHUNK) as usize];
    }
    let mut offset = 0;
    while offset < len {
        let take = (len - offset).min(CHUNK);
        let chunk = &mut buffer[..take as usize];
        content.read_exact_at(chunk, offset)?;
        each(chunk);
        offset += take;
    }
    Ok(())
}
