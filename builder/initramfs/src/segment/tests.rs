use imgbuild_tree::RootTree;

use super::*;
use crate::Layout;

fn sample() -> RootTree {
    let mut layout = Layout::new(1_600_000_000);
    let text: String = (0..40_000).map(|n| format!("line {n}\n")).collect();
    layout.file("/a/b/text", 0o644, text.into_bytes().into()).unwrap();
    layout.into_tree()
}

#[test]
fn segments_are_padded_and_the_same_each_time() {
    for compression in [Compression::None, Compression::Zstd(1), Compression::Zstd(19)] {
        let mut bytes = Vec::new();
        let written = write(&sample(), compression, &mut bytes).unwrap();
        assert_eq!((bytes.len() % 512, bytes.len() as u64), (0, written.stored), "{compression:?}");
        assert_eq!(to_bytes(&sample(), compression).unwrap(), bytes, "{compression:?}");
    }
}

#[test]
fn a_compressed_segment_holds_the_archive() {
    let mut archive = Vec::new();
    let length = cpio::write_tree(&sample(), &mut archive).unwrap();
    let bytes = to_bytes(&sample(), Compression::Zstd(9)).unwrap();
    let frame = zstd::zstd_safe::find_frame_compressed_size(&bytes).unwrap();
    assert_eq!(zstd::decode_all(&bytes[..frame]).unwrap(), archive);
    assert!(bytes[frame..].iter().all(|byte| *byte == 0) && bytes.len() - frame < 512);
    assert_eq!(length, archive.len() as u64);
}

/// RFC 8878, 3.1.1.1: the descriptor's bit 2 announces a checksum, and without bit 5 the window's size follows.
#[test]
fn the_kernel_accepts_the_frames() {
    for level in [MIN_LEVEL, DEFAULT_LEVEL, MAX_LEVEL] {
        let bytes = to_bytes(&sample(), Compression::Zstd(level)).unwrap();
        let (descriptor, window) = (bytes[4], bytes[5]);
        assert_eq!(bytes[..4], [0x28, 0xb5, 0x2f, 0xfd], "level {level}");
        assert_eq!(descriptor & 0b111, 0b100, "level {level}: a checksum and no dictionary");
        assert_eq!(descriptor >> 5 & 1, 0, "level {level}");
        let log = 10 + u32::from(window >> 3);
        let size = (1u64 << log) + (1u64 << log) / 8 * u64::from(window & 7);
        assert!(size <= 8 << 20, "level {level}: a window of {size} bytes");
    }
}

#[test]
fn levels_beyond_the_kernels_means_are_refused() {
    for level in [0, -3, 20, 22] {
        let error = to_bytes(&sample(), Compression::Zstd(level)).expect_err("out of range");
        assert!(error.to_string().starts_with(&format!("zstd level {level} for an initrd: use 1 to 19")), "{error}");
    }
}

#[test]
fn a_full_disk_is_an_error() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    for compression in [Compression::None, Compression::Zstd(1)] {
        assert!(matches!(write(&sample(), compression, Full), Err(Error::Write(_))));
    }
}

/// Long enough for several jobs of zstd's.
#[test]
fn the_number_of_workers_does_not_show() {
    let mut layout = Layout::new(0);
    let mut state = 1_u64;
    let words: Vec<u8> = (0..12_000_000)
        .map(|at: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(at);
            b'a' + ((state >> 60) as u8)
        })
        .collect();
    layout.file("/words", 0o644, words.into()).unwrap();
    let tree = layout.into_tree();
    let one = |workers: u32| {
        let mut bytes = Vec::new();
        let mut encoder = zstd::Encoder::new(&mut bytes, 3).unwrap();
        encoder.include_checksum(true).unwrap();
        encoder.multithread(workers).unwrap();
        cpio::write_tree(&tree, &mut encoder).unwrap();
        encoder.finish().unwrap();
        bytes
    };
    let (first, written) = (one(1), to_bytes(&tree, Compression::Zstd(3)).unwrap());
    assert!(one(2) == first && one(7) == first);
    assert!(written[..first.len()] == first);
}
