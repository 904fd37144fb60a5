//! How many bytes of a squashfs image each file takes.
//!
//! An image does not say it for small files: they share a compressed block. So samples of each file are compressed,
//! which tells text from programs from what is compressed already, and all are scaled to the image's size.

use imgbuild_tree::{FileContent, Kind, NodeId};
use rayon::prelude::*;

use crate::diff::{DiffError, Root};

/// Bytes of one sample.
const SAMPLE: u64 = 64 << 10;
/// Samples of a large file, spread evenly.
const SAMPLES: u64 = 3;
/// The fastest zstd level that still tells them apart.
const LEVEL: i32 = 1;

/// The bytes that each of these files takes in an image of `image` bytes, in their order.
///
/// # Errors
/// When a file cannot be read.
pub(super) fn stored<C: FileContent>(
    root: &Root<C>,
    files: &[(Vec<u8>, NodeId, u64)],
    image: u64,
) -> Result<Vec<u64>, DiffError> {
    let packed: Result<Vec<f64>, DiffError> = files
        .par_iter()
        .map(|(path, id, len)| match &root.tree.node(*id).kind {
            Kind::Regular(content) => packed(content, *len).map_err(|source| DiffError::Content {
                root: root.path.clone(),
                path: String::from_utf8_lossy(path).into_owned(),
                source,
            }),
            _ => Ok(0.0),
        })
        .collect();
    let packed = packed?;
    let total: f64 = packed.iter().sum();
    let scale = if total > 0.0 { image as f64 / total } else { 0.0 };
    Ok(packed.into_iter().map(|bytes| (bytes * scale) as u64).collect())
}

/// A file's length times how well samples of it compress.
fn packed(content: &impl FileContent, len: u64) -> std::io::Result<f64> {
    if len == 0 {
        return Ok(0.0);
    }
    let whole = len <= SAMPLE * SAMPLES;
    let (count, sample) = if whole { (1, len) } else { (SAMPLES, SAMPLE) };
    let mut buffer = vec![0; sample as usize];
    let (mut read, mut packed) = (0, 0);
    for index in 0..count {
        // The first begins with the file, the last ends with it.
        let offset = if count == 1 { 0 } else { (len - sample) / (count - 1) * index };
        content.read_exact_at(&mut buffer, offset)?;
        packed += zstd::bulk::compress(&buffer, LEVEL)?.len() as u64;
        read += sample;
    }
    Ok(len as f64 * (packed as f64 / read as f64).min(1.0))
}

#[cfg(test)]
mod tests {
    use imgbuild_tree::RootTree;

    use super::*;
    use crate::testing::put;

    #[test]
    fn text_takes_less_than_noise_and_all_take_the_image() {
        let mut tree = RootTree::new();
        let noise: Vec<u8> =
            (0_u64..100_000).flat_map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 7).to_le_bytes()).collect();
        put(&mut tree, "/noise", &noise);
        put(&mut tree, "/text", &b"the same again ".repeat(53_333));
        put(&mut tree, "/void", b"");
        let root = Root::new(std::path::Path::new("x"), tree, None).unwrap();
        let found = stored(&root, &root.files(), 400_000).unwrap();
        let [noise, text, void] = found[..] else { panic!("{found:?}") };
        assert!(text * 50 < noise, "{found:?}");
        assert_eq!(void, 0);
        assert!((399_990..=400_000).contains(&(noise + text)), "{found:?}");
    }
}
